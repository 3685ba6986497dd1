import numpy as np
import pytest
from ingest_samples import (
    GAIN,
    STAMP,
    exposures,
    make_survey,
    stack_arrays,
    stack_recipe,
    stamps,
    stored,
)

from psfscale.errors import InputError
from psfscale.ingest import Refusal, ingest


def run(tmp_path, arrays, recipe=None):
    np.savez(tmp_path / "e1.npz", **arrays)
    return ingest(make_survey(recipe or stack_recipe()), [tmp_path / "e1.npz"], tmp_path / "s.zarr")


def test_stack__arrays_arrive_as_they_are(tmp_path):
    arrays = stack_arrays()
    summary = run(tmp_path, arrays)
    stars = stored(tmp_path / "s.zarr")
    assert summary.ok
    for name in ("image", "weight", "x", "y"):
        np.testing.assert_allclose(stars[name], arrays[name], rtol=1e-6)
    assert exposures(tmp_path / "s.zarr")["id"].values.tolist() == ["e1"]


@pytest.mark.parametrize(
    ("unit", "electrons"),
    [("electron", 1), ("adu", GAIN), ("count", GAIN), ("electron/s", 30), ("ADU / s", 30 * GAIN),
     ("ELECTRONS/SEC", 30), ("10 adu", 10 * GAIN)],
)  # fmt: skip
def test_stack__every_image_unit_becomes_electrons(tmp_path, unit, electrons):
    time = {"value": 30, "unit": "s", "source": "test"}
    flux = np.arange(1.0, 7)
    columns = {"x": "x", "y": "y", "flux": {"name": "flux", "unit": unit}}
    recipe = stack_recipe(unit=unit, exposure_time=time, stars={"origin": 1, "columns": columns})
    run(tmp_path, stack_arrays(flux=flux), recipe)
    stars = stored(tmp_path / "s.zarr")
    np.testing.assert_allclose(stars["image"], stamps(6) * electrons, rtol=1e-6)
    np.testing.assert_allclose(stars["weight"], 0.25 / electrons**2, rtol=1e-6)
    np.testing.assert_allclose(stars["flux"], flux * electrons, rtol=1e-6)


def test_stack__exposure_time_may_be_an_array_of_the_file(tmp_path):
    recipe = stack_recipe(unit="electron/s", exposure_time={"key": "time", "unit": "min"})
    run(tmp_path, stack_arrays(time=np.array(2.0)), recipe)
    np.testing.assert_allclose(stored(tmp_path / "s.zarr")["image"], stamps(6) * 120, rtol=1e-6)


@pytest.mark.parametrize("sigma", [np.array(3.0), np.array([3.0]), np.arange(1.0, 7)])
def test_stack__sigma_of_all_or_each_gives_the_weight(tmp_path, sigma):
    recipe = stack_recipe(weight=None, sigma="sigma")
    run(tmp_path, stack_arrays(sigma=sigma), recipe)
    expected = np.broadcast_to(1 / sigma**2, 6)[:, None, None]
    np.testing.assert_allclose(
        stored(tmp_path / "s.zarr")["weight"], np.broadcast_to(expected, (6, STAMP, STAMP))
    )


def test_stack__mask_takes_the_weight_away(tmp_path):
    mask = np.zeros((6, STAMP, STAMP), bool)
    mask[2, 3, 4] = True
    mask[5] = True
    summary = run(tmp_path, stack_arrays(mask=mask), stack_recipe(mask="mask"))
    assert summary.refused == {Refusal.ALL_MASKED: 1}
    weight = stored(tmp_path / "s.zarr")["weight"].values
    np.testing.assert_array_equal(weight == 0, mask[:5])


def test_stack__ccds_of_a_file_are_told_apart_by_their_column(tmp_path):
    ccd = np.array([3, 1, 3, 3, 1, 3])
    recipe = stack_recipe(stars={"origin": 0, "columns": {"x": "x", "y": "y", "ccd": "ccd"}})
    arrays = stack_arrays(ccd=ccd)
    run(tmp_path, arrays, recipe)
    assert exposures(tmp_path / "s.zarr")["n_stars"].values.tolist() == [[2, 0, 4]]
    stars = stored(tmp_path / "s.zarr", ccd=2)
    np.testing.assert_allclose(stars["image"], arrays["image"][ccd == 3], rtol=1e-6)
    assert stars["id"].values.tolist() == [0, 2, 3, 5]


def test_stack__npy_of_records_is_read(tmp_path):
    arrays = stack_arrays()
    stamp = ("f4", (STAMP, STAMP))
    records = np.zeros(6, [("image", *stamp), ("weight", *stamp), ("x", "f8"), ("y", "f8")])
    for name in records.dtype.names:
        records[name] = arrays[name]
    np.save(tmp_path / "e2.npy", records)
    ingest(make_survey(stack_recipe()), [tmp_path / "e2.npy"], tmp_path / "s.zarr")
    np.testing.assert_allclose(stored(tmp_path / "s.zarr")["image"], arrays["image"], rtol=1e-6)
    np.testing.assert_array_equal(stored(tmp_path / "s.zarr")["x"], arrays["x"])


def test_stack__plain_npy_takes_its_positions_from_a_catalogue(tmp_path):
    arrays = stack_arrays()
    np.save(tmp_path / "e3.npy", arrays["image"])
    lines = [
        f"{x!r},{y!r}" for x, y in zip(arrays["x"].tolist(), arrays["y"].tolist(), strict=True)
    ]
    (tmp_path / "e3.csv").write_text("\n".join(["X,Y", *lines]))
    recipe = stack_recipe(
        weight=None, catalogue="{directory}/{stem}.csv", stars={"columns": {"x": "X", "y": "Y"}}
    )
    ingest(make_survey(recipe), [tmp_path / "e3.npy"], tmp_path / "s.zarr")
    stars = stored(tmp_path / "s.zarr")
    np.testing.assert_allclose(stars["x"], arrays["x"] - 1)
    border = np.ones((STAMP, STAMP), bool)
    border[2:-2, 2:-2] = False
    values = arrays["image"][:, border]
    mad = np.median(np.abs(values - np.median(values))) * 1.482602218505602
    np.testing.assert_allclose(stars["weight"], mad**-2, rtol=1e-4)


def test_stack__pickled_arrays_are_never_loaded(tmp_path):
    np.savez(tmp_path / "e1.npz", **(stack_arrays() | {"x": np.array([{}], dtype=object)}))
    with pytest.raises(InputError, match=r"array 'x' cannot be read: .*allow_pickle=False"):
        ingest(make_survey(stack_recipe()), [tmp_path / "e1.npz"], tmp_path / "s.zarr")


def test_stack__arrays_of_the_wrong_shape_refuse_the_file(tmp_path):
    for name, shape in (("image", (6, STAMP)), ("weight", (6, STAMP, STAMP - 1))):
        np.savez(tmp_path / f"bad_{name}.npz", **stack_arrays(**{name: np.ones(shape)}))
    np.savez(tmp_path / "good.npz", **stack_arrays())
    files = [tmp_path / f"{name}.npz" for name in ("bad_image", "good", "bad_weight")]
    summary = ingest(make_survey(stack_recipe()), files, tmp_path / "s.zarr")
    assert summary.exposures == ("good",)
    assert summary.incomplete == ("bad_weight",)
    assert not summary.ok
    reasons = [item.reason for item in summary.files_refused]
    assert "image has shape (6, 9) of float64, expected (star, y, x)" in reasons[0]
    assert "weight has shape (6, 9, 8), expected (6, 9, 9)" in reasons[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "furlong"}, "unit 'furlong' is unknown|'furlong' is not one of an image"),
        ({"unit": "mJy"}, "unit 'mJy' is not one of an image: expected adu"),
        ({"unit": None}, "unit of the pixels is not stated; give `unit`"),
        ({"unit": "electron/s"}, "is a rate: the recipe must state exposure_time"),
        ({"image": "cube"}, "no array 'cube'; it has image, weight, x, y"),
        (
            {"stars": {"columns": {"x": "col", "y": "y"}}},
            r"e1.npz has no column 'col'; it has image, weight, x, y",
        ),
    ],
)
def test_stack__a_recipe_that_does_not_fit_stops_before_anything_is_written(
    tmp_path, change, message
):
    with pytest.raises(InputError, match=message):
        run(tmp_path, stack_arrays(), stack_recipe(**change))
    assert not (tmp_path / "s.zarr").exists()
