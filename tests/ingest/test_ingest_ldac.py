import json

import numpy as np
import pytest
from ingest_samples import (
    GAIN,
    NOISE,
    STAMP,
    exposures,
    ldac_recipe,
    make_survey,
    stamps,
    star_table,
    stored,
    write_ldac,
)

from psfscale.arrays import ObjectFlag, Role
from psfscale.ingest import Refusal, ingest


def test_ldac__positions_fluxes_and_stamps_arrive_in_the_stores_units(tmp_path):
    path = write_ldac(tmp_path / "a.fits", 7, [2])
    summary = ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    stars, table = stored(tmp_path / "s.zarr", ccd=1), star_table(5, seed=2)
    assert summary.ok
    assert summary.n_stars == 5
    np.testing.assert_array_equal(stars["id"], table["NUMBER"])
    np.testing.assert_array_equal(stars["x"], table["XWIN_IMAGE"] - 1)
    np.testing.assert_array_equal(stars["y"], table["YWIN_IMAGE"] - 1)
    np.testing.assert_allclose(stars["flux"], table["FLUX_AUTO"] * GAIN, rtol=1e-6)
    np.testing.assert_allclose(stars["image"], stamps(5, seed=2) * GAIN, rtol=1e-6)
    np.testing.assert_allclose(stars["weight"], 1 / (NOISE * GAIN) ** 2, rtol=1e-6)


def test_ldac__cards_of_the_image_header_describe_the_exposure(tmp_path):
    path = write_ldac(tmp_path / "a.fits", 7, [1])
    ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    found = exposures(tmp_path / "s.zarr")
    assert found["id"].values.tolist() == ["7"]
    assert found["exposure"].values.tolist() == ["7"]
    assert found["ccd"].values.tolist() == [1, 2, 3]
    assert found["filter"].values.tolist() == ["r"]
    assert found["time"].values.tolist() == [56569.25]
    assert found["source"].values.tolist() == ["a.fits"]
    assert found["complete"].values.tolist() == [1]
    assert np.isnan(found["ra"].values).all()


def test_ldac__several_pairs_in_a_file_are_several_ccds(tmp_path):
    path = write_ldac(tmp_path / "a.fits", 7, [3, 1], n=4)
    summary = ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    assert exposures(tmp_path / "s.zarr")["n_stars"].values.tolist() == [[4, 0, 4]]
    np.testing.assert_array_equal(
        stored(tmp_path / "s.zarr", ccd=2)["x"], star_table(4, seed=3)["XWIN_IMAGE"] - 1
    )
    assert [count.ccd for count in summary.ccds] == [1, 3]


def test_ldac__files_of_one_ccd_make_one_exposure_in_any_order(tmp_path):
    files = [write_ldac(tmp_path / f"c{ccd}.fits", 7, [ccd]) for ccd in (1, 2, 3)]
    survey = make_survey(ldac_recipe())
    ingest(survey, files, tmp_path / "a.zarr")
    ingest(survey, files[::-1], tmp_path / "b.zarr")
    one, other = exposures(tmp_path / "a.zarr"), exposures(tmp_path / "b.zarr")
    assert one.sizes["exposure"] == 1
    assert one["content"].values.tolist() == other["content"].values.tolist() != [""]


def test_ldac__masked_pixels_get_no_weight_and_flag_the_star(tmp_path):
    def edit(ccd, table, vignet):
        vignet[1, :2] = -1e30

    path = write_ldac(tmp_path / "a.fits", 7, [1], edit=edit)
    summary = ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    masked = np.zeros((5, STAMP, STAMP), bool)
    masked[1, :2] = True
    np.testing.assert_array_equal(stars["weight"] == 0, masked)
    assert (stars["image"].values[masked] == 0).all()
    assert ((stars["flags"].values & ObjectFlag.MASKED) > 0).tolist() == [False, True] + 3 * [False]
    assert summary.n_masked == 1
    assert exposures(tmp_path / "s.zarr")["n_masked"].values.tolist() == [[1, 0, 0]]


def test_ldac__nan_pixels_are_masked(tmp_path):
    def edit(ccd, table, vignet):
        vignet[0, 4, 4] = np.nan

    path = write_ldac(tmp_path / "a.fits", 7, [1], edit=edit)
    ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    assert stars["weight"].values[0, 4, 4] == 0
    assert np.isfinite(stars["image"]).all()
    assert np.count_nonzero(stars["weight"] == 0) == 1


def test_ldac__unusable_stars_are_refused_and_listed_with_their_reason(tmp_path):
    def edit(ccd, table, vignet):
        vignet[0] = np.nan
        vignet[1] = -1e30
        table["XWIN_IMAGE"][2] = np.nan
        table["YWIN_IMAGE"][3] = 1000.0
        table["NUMBER"][5] = table["NUMBER"][4]

    path = write_ldac(tmp_path / "a.fits", 7, [1], n=7, edit=edit)
    summary = ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    reasons = [
        Refusal.NO_POSITION, Refusal.OUTSIDE_CCD, Refusal.NOT_FINITE, Refusal.ALL_MASKED,
        Refusal.DUPLICATE_ID,
    ]  # fmt: skip
    assert summary.refused == dict.fromkeys(reasons, 1)
    assert summary.ok
    counts = exposures(tmp_path / "s.zarr")["n_refused"]
    assert counts.attrs["reason_meanings"].split() == [reason.name for reason in Refusal]
    assert counts.values[0, 0].tolist() == [int(r in reasons) for r in Refusal]
    lines = [
        json.loads(line)
        for line in (tmp_path / "s.zarr/.psfscale/refused.jsonl").read_text().splitlines()
    ]
    assert [(line["id"], line["reason"]) for line in lines] == [
        (1, "not_finite"), (2, "all_masked"), (3, "no_position"), (4, "outside_ccd"),
        (5, "duplicate_id"),
    ]  # fmt: skip
    assert {(line["file"], line["exposure"], line["ccd"]) for line in lines} == {
        (str(path), "7", 1)
    }
    assert stored(tmp_path / "s.zarr")["id"].values.tolist() == [5, 7]


def test_ldac__stars_are_packed_and_the_rest_is_empty(tmp_path):
    from psfscale.store.stores import open_tree

    path = write_ldac(tmp_path / "a.fits", 7, [1], n=5)
    ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    stars = open_tree(tmp_path / "s.zarr")["stars"].to_dataset().isel(exposure=0).load()
    assert stars.sizes["star"] == 16
    assert (stars["role"].values[0, :5] > 0).all()
    assert (stars["role"].values[0, 5:] == Role.EMPTY).all()
    assert np.isnan(stars["image"].values[0, 5:]).all()
    assert np.isnan(stars["x"].values[1:]).all()


def test_ldac__stamps_over_the_edge_are_flagged(tmp_path):
    def edit(ccd, table, vignet):
        table["XWIN_IMAGE"][0] = 3.0
        table["YWIN_IMAGE"][1] = 57.0
        table["XWIN_IMAGE"][2], table["YWIN_IMAGE"][2] = 5.0, 56.0

    path = write_ldac(tmp_path / "a.fits", 7, [1], edit=edit)
    ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    edge = (stored(tmp_path / "s.zarr")["flags"].values & ObjectFlag.EDGE) > 0
    assert edge.tolist() == [True, True, False, False, False]


def test_ldac__catalogue_flags_and_saturated_pixels_set_their_bits(tmp_path):
    def edit(ccd, table, vignet):
        table["FLAGS"][0] = 4
        vignet[1, 4, 4] = 950.0
        vignet[2, 4, 4] = 890.0

    recipe = ldac_recipe(
        saturation={"card": "SATURATE", "unit": "adu"}, sky={"card": "SEXBKGND", "unit": "adu"}
    )
    path = write_ldac(tmp_path / "a.fits", 7, [1], edit=edit, SATURATE=1000.0, SEXBKGND=100.0)
    ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    assert ((stars["flags"].values & ObjectFlag.CATALOGUE) > 0).tolist() == [True] + 4 * [False]
    assert ((stars["flags"].values & ObjectFlag.SATURATED) > 0).tolist() == [
        False, True, False, False, False,
    ]  # fmt: skip
    assert stars["weight"].values[1, 4, 4] == 0
    assert stars["weight"].values[2, 4, 4] > 0


def test_ldac__reference_pixel_places_the_stars_in_the_focal_plane(tmp_path):
    path = write_ldac(tmp_path / "a.fits", 7, [1], CRPIX1=101.0, CRPIX2=-49.0)
    survey = make_survey(ldac_recipe(), layout={"kind": "reference_pixel"})
    ingest(survey, [path], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    np.testing.assert_allclose(stars["field_x"], (stars["x"] - 100) * 0.012)
    np.testing.assert_allclose(stars["field_y"], (stars["y"] + 50) * 0.012)


def test_ldac__sky_noise_comes_from_a_column_or_is_measured_on_the_borders(tmp_path):
    def edit(ccd, table, vignet):
        table["NOISE"] = np.arange(1, 201, dtype=np.float32)
        vignet -= 50
        vignet[:, 3:6, 3:6] += 5000

    path = write_ldac(tmp_path / "a.fits", 7, [1], n=200, edit=edit)
    column = make_survey(ldac_recipe(sky_noise={"column": "NOISE", "unit": "electron"}))
    ingest(column, [path], tmp_path / "c.zarr")
    np.testing.assert_allclose(
        stored(tmp_path / "c.zarr")["weight"][:, 0, 0], 1 / np.arange(1, 201) ** 2, rtol=1e-6
    )
    ingest(make_survey(ldac_recipe(sky_noise=None)), [path], tmp_path / "m.zarr")
    noise = stored(tmp_path / "m.zarr")["weight"].values ** -0.5
    # 200 x 56 border pixels: the MAD's standard error is 1.17 / sqrt(2 n), 0.8 %; 4 sigma here.
    np.testing.assert_allclose(noise, NOISE * GAIN, rtol=0.032)


def test_ldac__source_noise_is_added_on_request(tmp_path):
    path = write_ldac(tmp_path / "a.fits", 7, [1])
    ingest(make_survey(ldac_recipe(source_noise=True)), [path], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    variance = (NOISE * GAIN) ** 2 + np.maximum(stars["image"], 0)
    np.testing.assert_allclose(1 / stars["weight"], variance, rtol=1e-5)


def test_ldac__missing_snr_is_measured_on_the_stamp(tmp_path):
    recipe = ldac_recipe(stars={"columns": {"x": "XWIN_IMAGE", "y": "YWIN_IMAGE"}})
    path = write_ldac(tmp_path / "a.fits", 7, [1])
    ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    chi2 = (stars["image"] ** 2 * stars["weight"]).sum(["stamp_y", "stamp_x"])
    np.testing.assert_allclose(stars["snr"], np.sqrt(chi2 - STAMP**2), rtol=1e-5)
    assert stars["id"].values.tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(stars["flux"]).all()


def test_ldac__cuts_leave_rows_out_and_count_them(tmp_path):
    def edit(ccd, table, vignet):
        table["SNR_WIN"][:] = [10, 60, 200, np.nan, 90]
        table["FLAGS"][:] = [0, 2, 0, 0, 4]

    recipe = ldac_recipe()
    recipe["stars"] = recipe["stars"] | {
        "select": [
            {"column": "SNR_WIN", "minimum": 50, "maximum": 150},
            {"column": "FLAGS", "bits_clear": 4},
        ]
    }
    path = write_ldac(tmp_path / "a.fits", 7, [1], edit=edit)
    summary = ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    assert stored(tmp_path / "s.zarr")["id"].values.tolist() == [2]
    assert summary.refused == {Refusal.NOT_SELECTED: 4}
    assert not (tmp_path / "s.zarr/.psfscale/refused.jsonl").exists()


def test_ldac__ids_come_from_the_file_name_where_the_recipe_says_so(tmp_path):
    recipe = ldac_recipe(
        filename=r"sexcat-(?P<exposure>\d+)-(?P<ccd>\w+)\.fits",
        exposure={"group": "exposure"},
        ccd={"group": "ccd", "names": {"S2": "2"}},
    )
    path = write_ldac(tmp_path / "sexcat-2079613-S2.fits", 7, [1])
    ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    found = exposures(tmp_path / "s.zarr")
    assert found["id"].values.tolist() == ["2079613"]
    assert found["n_stars"].values.tolist() == [[0, 5, 0]]


def test_ldac__reserved_stars_depend_on_exposure_and_star_alone(tmp_path):
    def shuffled(ccd, table, vignet):
        order = np.random.default_rng(0).permutation(300)
        return {name: values[order] for name, values in table.items()}, vignet[order]

    survey = make_survey(ldac_recipe())
    ingest(survey, [write_ldac(tmp_path / "a.fits", 7, [1], n=300)], tmp_path / "a.zarr")
    other = [
        write_ldac(tmp_path / "b.fits", 7, [3], n=300, edit=shuffled),
        write_ldac(tmp_path / "c.fits", 8, [1], n=300),
        write_ldac(tmp_path / "d.fits", 7, [1], n=400),
    ]
    ingest(survey, other, tmp_path / "b.zarr")

    def reserved(stars):
        return set(stars["id"].values[stars["role"].values == Role.RESERVED].tolist())

    first = reserved(stored(tmp_path / "a.zarr"))
    assert first == reserved(stored(tmp_path / "b.zarr", ccd=2))
    assert first == {i for i in reserved(stored(tmp_path / "b.zarr")) if i <= 300}
    assert first != reserved(stored(tmp_path / "b.zarr", exposure=1))
    # Binomial of n = 300, p = 0.2: mean 60, standard deviation 6.9; four of them here.
    assert 32 < len(first) < 88


@pytest.mark.parametrize("fraction", [0.0, 0.9])
def test_ldac__reserved_fraction_is_the_recipes(tmp_path, fraction):
    path = write_ldac(tmp_path / "a.fits", 7, [1], n=100)
    ingest(make_survey(ldac_recipe(reserved_fraction=fraction)), [path], tmp_path / "s.zarr")
    share = np.mean(stored(tmp_path / "s.zarr")["role"] == Role.RESERVED)
    assert share == pytest.approx(fraction, abs=4 * np.sqrt(fraction * (1 - fraction) / 100))
