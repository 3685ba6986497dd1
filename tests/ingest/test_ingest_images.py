import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from ingest_samples import (
    COLUMNS,
    GAIN,
    NOISE,
    ROWS,
    SATURATION,
    SKY,
    STAMP,
    catalogue,
    exposure_hdus,
    exposures,
    images_recipe,
    make_survey,
    sky_image,
    stored,
    tan_wcs,
    write_exposure,
)

from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError
from psfscale.ingest import Refusal, ingest


def at(x, y, **columns):
    """A catalogue of CCD 1 at 1-based positions."""
    table = catalogue([1], n=len(x))
    table["X"], table["Y"] = np.asarray(x, float), np.asarray(y, float)
    for name, values in columns.items():
        table[name] = values
    return table


def run(tmp_path, table, *, recipe=None, name="e", **options):
    path = write_exposure(tmp_path, name, [1], table=table, **options)
    return ingest(make_survey(recipe or images_recipe()), [path], tmp_path / f"{name}.zarr")


def with_stars(**changes):
    recipe = images_recipe()
    return recipe | {"stars": recipe["stars"] | changes}


@pytest.mark.parametrize("shape", [(9, 9), (8, 8), (7, 10)])
def test_images__stamps_are_the_pixels_around_the_nearest_pixel(tmp_path, shape):
    x, y = np.array([20.0, 30.4, 40.6]), np.array([25.0, 31.6, 33.3])
    run(tmp_path, at(x + 1, y + 1), recipe=with_stars(stamp_size=shape))
    stars = stored(tmp_path / "e.zarr")
    np.testing.assert_allclose(stars["x"], x)
    np.testing.assert_allclose(stars["y"], y)
    image = (sky_image(1) - SKY) * GAIN
    for star, (row, column) in enumerate([(25, 20), (32, 30), (33, 41)]):
        top, left = row - shape[0] // 2, column - shape[1] // 2
        expected = image[top : top + shape[0], left : left + shape[1]]
        np.testing.assert_allclose(stars["image"][star], expected, rtol=1e-4, atol=1e-3)


def test_images__every_ccd_of_a_file_is_read_with_its_own_objects(tmp_path):
    path = write_exposure(tmp_path, "e", [1, 2, 3])
    summary = ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")
    table = catalogue([1, 2, 3])
    assert summary.ok
    assert summary.n_stars == 12
    for ccd in (1, 2, 3):
        rows, stars = table[table["CCD"] == ccd], stored(tmp_path / "s.zarr", ccd=ccd - 1)
        np.testing.assert_array_equal(stars["id"], rows["ID"])
        np.testing.assert_allclose(stars["flux"], rows["FLUX"] * GAIN, rtol=1e-6)
        row, column = np.rint(rows["Y"][0] - 1).astype(int), np.rint(rows["X"][0] - 1).astype(int)
        centre = (sky_image(ccd)[row, column] - SKY) * GAIN
        assert stars["image"].values[0, STAMP // 2, STAMP // 2] == pytest.approx(centre, abs=1e-2)


def test_images__grid_of_ccds_places_objects_in_the_focal_plane(tmp_path):
    path = write_exposure(tmp_path, "e", [1, 2, 3])
    ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")
    pitch = COLUMNS * 0.012 + 1
    for ccd in (1, 2, 3):
        stars = stored(tmp_path / "s.zarr", ccd=ccd - 1)
        expected = (ccd - 2) * pitch + (stars["x"] - (COLUMNS - 1) / 2) * 0.012
        np.testing.assert_allclose(stars["field_x"], expected)
        np.testing.assert_allclose(stars["field_y"], (stars["y"] - (ROWS - 1) / 2) * 0.012)


@pytest.mark.parametrize("compressed", [False, True])
def test_images__one_file_a_ccd_and_compressed_files_give_the_same(tmp_path, compressed):
    write_exposure(tmp_path, "e", [1, 2])
    files = []
    for ccd in (1, 2):
        files.append(tmp_path / f"images/e_c{ccd}.fits.fz")
        exposure_hdus("e", [ccd], compressed=compressed).writeto(files[-1])
    ingest(make_survey(images_recipe()), [tmp_path / "images/e.fits"], tmp_path / "a.zarr")
    ingest(make_survey(images_recipe()), files, tmp_path / "b.zarr")
    one, other = exposures(tmp_path / "a.zarr"), exposures(tmp_path / "b.zarr")
    assert one["content"].values.tolist() == other["content"].values.tolist() != [""]


def test_images__stamps_over_the_edge_are_kept_with_no_weight_outside(tmp_path):
    run(tmp_path, at([2.0, COLUMNS - 0.8], [30.0, ROWS]))
    stars = stored(tmp_path / "e.zarr")
    weight = stars["weight"].values
    assert (weight[0, :, :3] == 0).all()
    assert (weight[0, :, 3:] > 0).all()
    assert (weight[1, 5:] == 0).all()
    assert (weight[1, :, 6:] == 0).all()
    assert (weight[1, :5, :6] > 0).all()
    both = ObjectFlag.EDGE | ObjectFlag.MASKED
    assert ((stars["flags"].values & both) == both).all()
    assert np.isfinite(stars["image"]).all()


def test_images__objects_centred_outside_the_ccd_are_refused(tmp_path):
    summary = run(tmp_path, at([0.4, 0.6, COLUMNS + 0.6, 40, np.nan], [30, 30, 30, -50, 30]))
    assert summary.refused == {Refusal.OUTSIDE_CCD: 3, Refusal.NO_POSITION: 1}
    assert stored(tmp_path / "e.zarr")["id"].values.tolist() == [101]


def test_images__masked_pixels_get_no_weight(tmp_path):
    mask = np.zeros((ROWS, COLUMNS), np.int32)
    mask[30, 40], mask[31, 40] = 2, 1
    run(tmp_path, at([41], [31]), mask=mask)
    weight = stored(tmp_path / "e.zarr")["weight"].values[0]
    assert np.argwhere(weight == 0).tolist() == [[4, 4], [5, 4]]
    benign = images_recipe(mask={"extname": "MSK", "bits": 1})
    run(tmp_path, at([41], [31]), recipe=benign, name="f", mask=mask)
    weight = stored(tmp_path / "f.zarr")["weight"].values[0]
    assert np.argwhere(weight == 0).tolist() == [[5, 4]]


def test_images__saturated_pixels_are_masked_and_flagged(tmp_path):
    def image(ccd):
        pixels = sky_image(ccd)
        pixels[30, 40] = SATURATION
        pixels[40, 20] = SATURATION - 1
        return pixels

    run(tmp_path, at([41, 21], [31, 41]), image=image)
    stars = stored(tmp_path / "e.zarr")
    assert ((stars["flags"].values & ObjectFlag.SATURATED) > 0).tolist() == [True, False]
    assert np.argwhere(stars["weight"].values == 0).tolist() == [[0, 4, 4]]


def test_images__nan_pixels_are_masked_and_an_all_nan_stamp_is_refused(tmp_path):
    def image(ccd):
        pixels = sky_image(ccd)
        pixels[30, 40] = np.nan
        pixels[10:30, 10:30] = np.nan
        return pixels

    summary = run(tmp_path, at([41, 21], [31, 21]), image=image)
    assert summary.refused == {Refusal.NOT_FINITE: 1}
    stars = stored(tmp_path / "e.zarr")
    assert np.argwhere(stars["weight"].values == 0).tolist() == [[0, 4, 4]]


@pytest.mark.parametrize(
    ("kind", "plane"),
    [("inverse_variance", NOISE**-2), ("variance", NOISE**2), ("rms", NOISE)],
)
def test_images__weight_planes_of_every_kind_become_inverse_variance(tmp_path, kind, plane):
    recipe = images_recipe(weight={"extname": "WHT", "kind": kind})
    weight = np.full((ROWS, COLUMNS), plane, np.float32)
    weight[30, 40], weight[30, 41], weight[30, 42] = 0, np.nan, -1
    run(tmp_path, at([41], [31]), recipe=recipe, weight=weight)
    found = stored(tmp_path / "e.zarr")["weight"].values[0]
    assert np.argwhere(found == 0).tolist() == [[4, 4], [4, 5], [4, 6]]
    np.testing.assert_allclose(found[found > 0], 1 / (NOISE * GAIN) ** 2, rtol=1e-6)


def test_images__without_weight_plane_noise_is_sky_and_read_out(tmp_path):
    run(tmp_path, at([41], [31]), recipe=images_recipe(weight=None))
    expected = 1 / (SKY * GAIN + 4.0**2)
    np.testing.assert_allclose(stored(tmp_path / "e.zarr")["weight"], expected, rtol=1e-6)


def test_images__source_noise_is_added_on_request(tmp_path):
    run(tmp_path, at([41], [31]), recipe=images_recipe(source_noise=True))
    stars = stored(tmp_path / "e.zarr")
    variance = (NOISE * GAIN) ** 2 + np.maximum(stars["image"], 0)
    np.testing.assert_allclose(1 / stars["weight"], variance, rtol=1e-5)


def test_images__mesh_background_follows_a_slope(tmp_path):
    slope = np.linspace(0, 60, COLUMNS, dtype=np.float32)

    def image(ccd):
        return sky_image(ccd) + slope

    recipe = images_recipe(background={"kind": "mesh", "box": 16}, weight=None)
    run(tmp_path, at([41, 21], [31, 31]), recipe=recipe, image=image)
    stars = stored(tmp_path / "e.zarr")
    # 81 pixels of rms 10 e: 1.1 e a stamp; the mesh's own cells add about 1 e. Four sigma.
    assert np.abs(stars["image"].mean(["stamp_y", "stamp_x"])).max() < 6
    for star, column in enumerate((40, 20)):
        expected = 1 / ((SKY + slope[column]) * GAIN + 16)
        assert stars["weight"].values[star, 4, 4] == pytest.approx(expected, rel=0.03)


def test_images__background_plane_is_subtracted_and_gives_the_noise(tmp_path):
    plane = np.full((ROWS, COLUMNS), 40.0, np.float32)
    recipe = images_recipe(background={"kind": "plane", "extname": "WHT"}, weight=None)
    run(tmp_path, at([41], [31]), recipe=recipe, weight=plane)
    stars = stored(tmp_path / "e.zarr")
    expected = (sky_image(1)[26:35, 36:45] - 40) * GAIN
    np.testing.assert_allclose(stars["image"][0], expected, rtol=1e-4)
    np.testing.assert_allclose(stars["weight"], 1 / (40 * GAIN + 16), rtol=1e-6)


def test_images__subtracted_background_counts_for_saturation_and_noise(tmp_path):
    def image(ccd):
        pixels = sky_image(ccd) - SKY
        pixels[30, 40] = SATURATION - SKY
        return pixels

    sky = {"kind": "subtracted", "sky": {"card": "SKY", "unit": "adu"}}
    recipe = images_recipe(background=sky, weight=None)
    run(tmp_path, at([41, 61], [31, 31]), recipe=recipe, image=image)
    stars = stored(tmp_path / "e.zarr")
    assert ((stars["flags"].values & ObjectFlag.SATURATED) > 0).tolist() == [True, False]
    np.testing.assert_allclose(stars["weight"][1], 1 / (SKY * GAIN + 16), rtol=1e-6)


def test_images__noise_is_measured_where_nothing_else_tells_it(tmp_path):
    def image(ccd):
        return sky_image(ccd) - SKY

    recipe = images_recipe(background={"kind": "subtracted"}, weight=None)
    run(tmp_path, at([41], [31]), recipe=recipe, image=image)
    noise = stored(tmp_path / "e.zarr")["weight"].values ** -0.5
    # The image has one 64-pixel mesh cell of 4800 pixels: 1 % standard error; four of them.
    np.testing.assert_allclose(noise, NOISE * GAIN, rtol=0.05)


def test_images__sibling_files_give_the_planes(tmp_path):
    path = write_exposure(tmp_path, "e", [1], table=at([41], [31]))
    weight = np.full((ROWS, COLUMNS), 0.01, np.float32)
    fits.PrimaryHDU(weight).writeto(tmp_path / "images/e.weight.fits")
    recipe = images_recipe(
        weight={"path": "{directory}/{stem}.weight.fits", "kind": "inverse_variance"}
    )
    ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    np.testing.assert_allclose(stored(tmp_path / "s.zarr")["weight"], 0.01 / GAIN**2, rtol=1e-6)


def test_images__names_of_hdus_may_carry_the_ccd(tmp_path):
    hdus = exposure_hdus("e", [1, 2])
    for hdu in hdus[1:]:
        hdu.name = f"CCD{hdu.header['CCDNUM']}.{hdu.name}"
        del hdu.header["CCDNUM"], hdu.header["EXTVER"]
    (tmp_path / "images").mkdir()
    (tmp_path / "catalogues").mkdir()
    hdus.writeto(tmp_path / "images/e.fits")
    catalogue([1, 2]).write(tmp_path / "catalogues/e_stars.fits")
    recipe = images_recipe(
        science={"extname": r"CCD(?P<number>\d)\.SCI"},
        ccd={"card": "EXTNAME", "pattern": r"CCD(\d)"},
        weight={"extname": "CCD{number}.WHT", "kind": "inverse_variance"},
        mask={"extname": "CCD{ccd}.MSK"},
    )
    summary = ingest(make_survey(recipe), [tmp_path / "images/e.fits"], tmp_path / "s.zarr")
    assert summary.ok
    assert exposures(tmp_path / "s.zarr")["n_stars"].values.tolist() == [[4, 4, 0]]


@pytest.mark.parametrize("suffix", [".ecsv", ".csv", ".parquet"])
def test_images__catalogues_of_every_format_give_the_same(tmp_path, suffix):
    table = at([41, 31.25], [31, 30.5])
    run(tmp_path, table, name="fits")
    path = write_exposure(tmp_path, "e", [1])
    file = tmp_path / f"catalogues/other{suffix}"
    if suffix == ".parquet":
        table.to_pandas().to_parquet(file)
    else:
        table.write(file, format=f"ascii{suffix}")
    recipe = with_stars(path="{root}/catalogues/other" + suffix)
    ingest(make_survey(recipe), [path], tmp_path / "e.zarr")
    one, other = stored(tmp_path / "fits.zarr"), stored(tmp_path / "e.zarr")
    for name in ("id", "x", "y", "ra", "flux", "snr", "image"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_images__units_of_a_catalogues_columns_are_used(tmp_path):
    table = at([41], [31])
    table["RA"].unit, table["DEC"].unit, table["FLUX"].unit = "hourangle", "rad", "electron"
    table["RA"], table["DEC"] = table["RA"] / 15, table["DEC"] * np.pi / 180
    columns = images_recipe()["stars"]["columns"] | {"flux": "FLUX"}
    table.write(tmp_path / "t.ecsv")
    recipe = with_stars(columns=columns, path="{root}/t.ecsv")
    run(tmp_path, at([41], [31]), recipe=recipe)
    stars = stored(tmp_path / "e.zarr")
    assert stars["ra"].item() == pytest.approx(10)
    assert stars["dec"].item() == pytest.approx(-5)
    assert stars["flux"].item() == pytest.approx(table["FLUX"][0], rel=1e-6)


def test_images__sky_positions_find_their_ccd_and_pixel_through_the_wcs(tmp_path):
    x, y = np.array([40.25, 12.5, 66.0]), np.array([31.0, 20.75, 44.5])
    ra, dec = WCS(tan_wcs(2)).all_pix2world(x, y, 0)
    far = [190.0, 10.2]
    table = Table({"ID": [1, 2, 3, 4, 5], "RA": [*ra, *far], "DEC": [*dec, 5.0, 60.0]})
    recipe = with_stars(positions="sky", columns={"id": "ID", "ra": "RA", "dec": "DEC"})
    path = write_exposure(tmp_path, "e", [1, 2, 3], table=table)
    summary = ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    assert exposures(tmp_path / "s.zarr")["n_stars"].values.tolist() == [[0, 3, 0]]
    stars = stored(tmp_path / "s.zarr", ccd=1)
    np.testing.assert_allclose(stars["x"], x, atol=1e-6)
    np.testing.assert_allclose(stars["y"], y, atol=1e-6)
    np.testing.assert_allclose(stars["ra"], ra)
    assert summary.refused == {}


def test_images__sky_coordinates_come_from_the_wcs_where_the_catalogue_has_none(tmp_path):
    columns = {"id": "ID", "ccd": "CCD", "x": "X", "y": "Y"}
    run(tmp_path, at([41.5, 20], [31.5, 20]), recipe=with_stars(columns=columns))
    stars = stored(tmp_path / "e.zarr")
    ra, dec = WCS(tan_wcs(1)).all_pix2world(stars["x"], stars["y"], 0)
    np.testing.assert_allclose(stars["ra"], ra)
    np.testing.assert_allclose(stars["dec"], dec)


def test_images__galaxies_are_taken_whole_with_stamps_of_their_own_size(tmp_path):
    recipe = images_recipe()
    recipe["galaxies"] = recipe["stars"] | {
        "path": "{root}/catalogues/{exposure}_galaxies.fits", "stamp_size": 12,
    }  # fmt: skip
    path = write_exposure(tmp_path, "e", [1])
    catalogue([1], n=20, seed=8).write(tmp_path / "catalogues/e_galaxies.fits")
    summary = ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    galaxies = stored(tmp_path / "s.zarr", "galaxies")
    assert (summary.n_stars, summary.n_galaxies) == (4, 20)
    assert galaxies["image"].shape == (20, 12, 12)
    assert (galaxies["role"] == 1).all()
    assert exposures(tmp_path / "s.zarr")["n_galaxies"].values.tolist() == [[20, 0, 0]]


def test_images__a_survey_without_galaxies_has_no_galaxy_group(tmp_path):
    from psfscale.store.stores import open_tree

    run(tmp_path, at([41], [31]))
    assert set(open_tree(tmp_path / "e.zarr").children) == {"exposures", "stars"}


def test_images__scaled_integers_become_their_values_and_blank_is_masked(tmp_path):
    path = write_exposure(tmp_path, "e", [1], table=at([41], [31]))
    hdus = exposure_hdus("e", [1])
    counts = np.arange(ROWS * COLUMNS, dtype=np.int16).reshape(ROWS, COLUMNS)
    counts[30, 41] = -32768
    science = fits.ImageHDU(counts, header=hdus[1].header, name="SCI", ver=1)
    science.header["BLANK"] = -32768
    fits.HDUList([hdus[0], science, *hdus[2:]]).writeto(path, overwrite=True)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as raw:
        raw[1].header["BZERO"], raw[1].header["BSCALE"] = 32768.0, 0.5
    ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    with fits.open(path) as read:
        expected = (read[1].data[26:35, 36:45].astype(np.float64) - SKY) * GAIN
    assert np.argwhere(stars["weight"].values == 0).tolist() == [[0, 4, 5]]
    assert np.isnan(expected[4, 5])
    expected[4, 5] = 0
    np.testing.assert_allclose(stars["image"][0], expected, rtol=1e-6)
    assert expected[4, 4] == pytest.approx((32768 + counts[30, 40] / 2 - SKY) * GAIN)


def test_images__an_image_of_another_shape_than_the_ccd_is_refused(tmp_path):
    path = write_exposure(tmp_path, "e", [1, 2])
    with fits.open(path, mode="update") as hdus:
        hdus[1].data = hdus[1].data[:, :-1].copy()
    summary = ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")
    assert not summary.ok
    (refused,) = summary.files_refused
    assert (refused.exposure, refused.ccd) == ("e", 1)
    assert "shape (60, 79) (y, x), the survey's CCDs have (60, 80)" in refused.reason
    assert exposures(tmp_path / "s.zarr")["complete"].values.tolist() == [0]


def test_images__a_header_cannot_lead_the_catalogue_path_astray(tmp_path):
    path = write_exposure(tmp_path, "e", [1])
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["EXPOSURE"] = "../e"
    with pytest.raises(InputError, match=r"exposure '../e' must not hold a path"):
        ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")
