"""One field over all CCDs of an exposure, told the spectra of stars and galaxies."""

from __future__ import annotations

import numpy as np
import pytest
import toy

from psfscale.arrays import FieldPoints, PixelGrid, Role, UnitState
from psfscale.config import fingerprint
from psfscale.errors import StoreError
from psfscale.pipeline import open_run, run
from psfscale.pipeline.drive.plan import plan_run
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.stages.registry import stages_of
from psfscale.pipeline.units.exposure_io import ExposureReader
from psfscale.pipeline.units.session import Session
from psfscale.store.stores import open_root, open_tree
from psfscale.survey import load_survey
from psfscale.survey.geometry import field_position

WAVEDIFF = {"model": {"name": "wavediff"}}


def go(folder, **changes):
    config = toy.make_config(folder, **{**WAVEDIFF, **changes})
    return config, run(config, serial=True, observers=[])


def in_field(folder, ccd, x, y):
    """Focal-plane positions in pixels."""
    instrument = load_survey(folder / "toy.yaml").instrument
    return [value / 0.012 for value in field_position(instrument, ccd, x, y)]


def test_reader__gives_each_object_its_spectrum(coloured) -> None:
    context = build_context(toy.make_config(coloured, **WAVEDIFF))
    reader = ExposureReader(stages_of(context)["fit"], Session(context), 0)
    ccd, whole = reader.ccd(1), reader.whole()
    ids = open_root(coloured / "survey.zarr")["stars/sed_id"][0, 1]
    np.testing.assert_array_equal(ccd["stars/sed"], toy.SPECTRA[ids])
    assert ccd["stars/sed"].dims == ("star", "stars.bin")
    np.testing.assert_array_equal(ccd["stars/wavelength"], toy.WAVELENGTHS)
    assert whole["stars/image"].dims == ("ccd", "star", "stars.stamp_y", "stars.stamp_x")
    assert whole["stars/wavelength"].dims == ("stars.bin",)
    np.testing.assert_array_equal(whole["stars/sed"][1], ccd["stars/sed"])
    assert whole["ccds/id"].values.tolist() == [1, 2]


def test_field__is_fitted_once_an_exposure_to_stars_of_all_ccds(coloured) -> None:
    config, summary = go(coloured)
    assert summary.exit_code == 0
    tree, survey = open_run(config.output).tree, open_tree(config.survey)["stars"]
    assert tree["models/wavediff/told"].dims == ("exposure", "what")
    for exposure in range(2):
        stars = survey.to_dataset().isel(exposure=exposure)
        fit = stars["role"].values == Role.FIT
        lowest, highest, red, _ = tree["models/wavediff/told"].values[exposure]
        assert lowest == pytest.approx(stars["field_x"].values[fit].min() / 0.012)
        assert highest == pytest.approx(stars["field_x"].values[fit].max() / 0.012)
        expected = toy.SPECTRA[stars["sed_id"].values[fit]] @ toy.WAVELENGTHS
        assert red == pytest.approx(expected.mean())
        fitted = np.isfinite(tree["stars/fit_flux"].values[exposure])
        np.testing.assert_array_equal(fitted, fit)


def test_galaxies__get_the_psf_of_their_place_and_colour(coloured) -> None:
    config, _ = go(coloured)
    found = open_run(config.output)
    galaxies = open_tree(config.survey)["galaxies"].to_dataset()
    model = found.model(exposure="exp-1", ccd=2).model
    at = galaxies.isel(exposure=1, ccd=1, galaxy=slice(0, 5))
    x, y = in_field(coloured, 2, at["x"].values, at["y"].values)
    sed = toy.SPECTRA[at["sed_id"].values]
    own = FieldPoints(x=x, y=y, sed=sed, wavelength=toy.WAVELENGTHS)
    expected = model.predict(own, PixelGrid(shape=(toy.SIDE, toy.SIDE)))
    stored = found["galaxies/psf"].values[1, 1, :5]
    np.testing.assert_allclose(stored, expected, rtol=1e-5)
    drawn = found.psf(
        exposure="exp-1", ccd=2, x=at["x"], y=at["y"], sed=sed, wavelength=toy.WAVELENGTHS
    )
    np.testing.assert_array_equal(drawn, stored)
    # two galaxies at one place differ by their colour alone
    two = found.psf(
        exposure="exp-1", ccd=2, x=[5, 5], y=[5, 5], sed=toy.SPECTRA[1:],
        wavelength=toy.WAVELENGTHS,
    )  # fmt: skip
    assert float(two[0].max()) > 1.1 * float(two[1].max())


def test_psf__of_thousands_is_that_of_each(coloured) -> None:
    config, _ = go(coloured)
    found = open_run(config.output)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 300, (2, 3000))
    sed = toy.SPECTRA[rng.integers(0, 3, 3000)]
    many = found.psf(exposure="exp-0", ccd=1, x=x, y=y, sed=sed, wavelength=toy.WAVELENGTHS)
    assert many.shape == (3000, toy.SIDE, toy.SIDE)
    picked = [0, 511, 512, 2999]
    few = found.psf(
        exposure="exp-0", ccd=1, x=x[picked], y=y[picked], sed=sed[picked],
        wavelength=toy.WAVELENGTHS,
    )  # fmt: skip
    np.testing.assert_array_equal(many.values[picked], few)


def test_flat_spectra__stand_in_where_the_survey_has_none(survey, monkeypatch) -> None:
    import plane_star

    from psfscale import models

    monkeypatch.setitem(models.MODELS, "wavediff", "plane_star:PlaneStar")
    monkeypatch.setitem(models.SETTINGS, "wavediff", plane_star.PlaneStarSettings)
    config, summary = go(survey, model={"name": "wavediff", "per": "ccd"})
    assert summary.exit_code == 0
    told = open_run(config.output)["models/wavediff/told"]
    assert told.dims == ("exposure", "ccd", "what")
    assert (told.values[..., 2] == 0).all()


def test_ccd_without_stars__shares_the_field_of_its_exposure(coloured) -> None:
    root = open_root(coloured / "survey.zarr", mode="r+")
    root["stars/role"][0, 1] = Role.EMPTY
    toy.seal(coloured / "survey.zarr", 0, fingerprint("starless"))
    config, summary = go(coloured)
    assert summary.exit_code == 0
    found = open_run(config.output)
    states = found["ccds/state"].sel(stage=["fit", "psf", "metrics"]).values[0, 1]
    assert states.tolist() == [UnitState.DONE, UnitState.DONE, UnitState.EMPTY]
    assert np.isfinite(found["galaxies/psf"].values[0, 1, :5]).all()
    # its galaxies lie beyond the stars of the other CCD
    assert (found["galaxies/flags"].values[0, 1, :5] == 256).all()


def test_exposure__that_cannot_be_fitted_fails_as_a_whole(coloured) -> None:
    toy.spoil_ccd(coloured / "survey.zarr", 0, 1, how="nan")
    config, summary = go(coloured)
    assert summary.exit_code == 1
    assert [(f.exposure, f.ccd, f.type) for f in summary.failures] == [
        (0, 0, "InputError"),
        (0, 1, "InputError"),
    ]
    found = open_run(config.output)
    blocked = found["ccds/state"].sel(stage="psf").values[0]
    assert blocked.tolist() == [UnitState.BLOCKED] * 2
    assert np.isnan(found["models/wavediff/told"].values[0]).all()
    assert (found["stars/fit_flags"].values[0, :, : toy.N_FILLED] == 128).all()
    with pytest.raises(StoreError, match="its fit is quarantined"):
        found.model(exposure="exp-0", ccd=1)
    toy.mend_ccd(config.survey, 0, 1)
    again = run(config, serial=True, retry_failed=True, observers=[])
    assert again.exit_code == 0
    assert again.n_units == 3


def test_ccd_that_the_field_does_not_suit__fails_alone(coloured, monkeypatch) -> None:
    from psfscale import metrics
    from psfscale.errors import PsfCheckError

    def check(model, **_):
        if model.place.x > 0:
            msg = "not on this CCD"
            raise PsfCheckError(msg)

    monkeypatch.setattr(metrics, "check_psf", check)
    config, summary = go(coloured)
    assert [(f.exposure, f.ccd, f.message) for f in summary.failures] == [
        (0, 1, "not on this CCD"),
        (1, 1, "not on this CCD"),
    ]
    states = open_run(config.output)["ccds/state"].sel(stage="fit").values
    assert states.tolist() == [[1, 3], [1, 3]]


def test_turned_ccd__is_fitted_and_drawn_as_the_focal_plane_has_it(coloured) -> None:
    import yaml

    file = coloured / "toy.yaml"
    content = yaml.safe_load(file.read_text())
    content["instrument"]["focal_plane"]["layout"]["turned"] = [2]
    file.write_text(yaml.safe_dump(content))
    open_root(coloured / "survey.zarr", mode="r+")
    instrument = load_survey(file).instrument
    root = open_root(coloured / "survey.zarr", mode="r+")
    for group in ("stars", "galaxies"):
        x, y = root[f"{group}/x"][:, 1], root[f"{group}/y"][:, 1]
        place = field_position(instrument, 2, x, y)
        root[f"{group}/field_x"][:, 1], root[f"{group}/field_y"][:, 1] = place
    image = root["stars/image"][...]
    config, summary = go(coloured)
    assert summary.exit_code == 0
    found = open_run(config.output)
    assert found.model(exposure="exp-0", ccd=2).place.turned
    fit = root["stars/role"][0] == Role.FIT
    flux = image[0].sum((-2, -1))[..., None, None]
    stamps = image[0] / flux
    stamps[1] = stamps[1, :, ::-1, ::-1]
    mean = stamps[fit].mean(0)
    np.testing.assert_allclose(
        found["models/wavediff/mean"].values[0, 0], mean / mean.sum(), atol=1e-6
    )


def test_new_spectra__are_new_content_for_the_plan(coloured) -> None:
    config, _ = go(coloured)
    assert plan_run(config).n_todo == 0
    other = toy.make_config(coloured, model={"name": "wavediff", "per": "ccd"})
    assert plan_run(other).n_todo == 6


@pytest.mark.slow
def test_killed_fit__goes_on_from_its_last_phase(coloured, monkeypatch) -> None:
    import os
    from pathlib import Path

    from psfscale.pipeline.workers.profiles import LocalProfile

    path = [str(Path(toy.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    model = {"name": "wavediff", "settings": {"kill_once": "yes"}}
    config = toy.make_config(coloured, model=model)
    assert run(config, cluster=LocalProfile(workers=1), observers=[]).exit_code == 0
    found = open_run(config.output)
    # every fit was killed after its first phase, and found that phase when it began again
    assert found["models/wavediff/told"].values[:, 3].tolist() == [1, 1]
    assert (found["units/attempt"].sel(stage="fit").values >= 2).all()
    assert not list((config.output / ".psfscale" / "checkpoints").iterdir())


def test_run__says_once_that_spectra_are_flat(coloured) -> None:
    from psfscale.pipeline.events import Notice
    from psfscale.store.stores import consolidate

    told = []
    run(toy.make_config(coloured, **WAVEDIFF), serial=True, observers=[told.append])
    assert not [event for event in told if isinstance(event, Notice)]
    root = open_root(coloured / "survey.zarr", mode="r+")
    for path in ("seds", "stars/sed_id", "galaxies/sed_id"):
        del root[path]
    consolidate(coloured / "survey.zarr")
    config = toy.make_config(coloured, **WAVEDIFF, output=coloured / "flat.zarr")
    assert not build_context(config).has_spectra
    summary = run(config, serial=True, observers=[told.append])
    assert summary.exit_code == 0
    (notice,) = [event for event in told if isinstance(event, Notice)]
    assert "holds no spectra: wavediff takes all stars and galaxies to be flat" in notice.text


def test_stars__that_bring_their_own_spectra_are_read_with_them(coloured) -> None:
    from psfscale.store.schema import INLINE_SPECTRA_SCHEMA
    from psfscale.store.stores import add_arrays, consolidate

    path = coloured / "survey.zarr"
    root = open_root(path, mode="r+")
    own = toy.SPECTRA[root["stars/sed_id"][...]]
    for name in ("seds", "stars/sed_id", "galaxies/sed_id"):
        del root[name]
    sizes = {"exposure": 2, "ccd": toy.N_CCDS, "star": toy.N_STARS, "wavelength": 4}
    add_arrays(root, INLINE_SPECTRA_SCHEMA, sizes=sizes)
    root["stars/sed"][...], root["seds/wavelength"][...] = own, toy.WAVELENGTHS
    consolidate(path)
    config = toy.make_config(coloured, **WAVEDIFF, psf={"at_galaxies": False})
    assert run(config, serial=True, observers=[]).exit_code == 0
    told = open_run(config.output)["models/wavediff/told"].values
    fit = root["stars/role"][0] == Role.FIT
    assert told[0, 2] == pytest.approx((own[0][fit] @ toy.WAVELENGTHS).mean(), rel=1e-6)
