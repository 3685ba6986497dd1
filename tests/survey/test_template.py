from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from pydantic import ValidationError

from psfscale.errors import ConfigError, InputError
from psfscale.ingest import ingest
from psfscale.models.fitted import resolve_settings
from psfscale.models.wavediff.settings import OpticsSettings
from psfscale.store.stores import open_tree
from psfscale.survey import Survey, load_survey, write_template
from psfscale.survey.quantity import WITH_SOURCES

SIDE = 120
SIZES = (f"instrument.detector.columns={SIDE}", f"instrument.detector.rows={SIDE}")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    write_template(path)
    return path


def test_template__reads_an_image_and_its_catalogue_as_it_stands(template: Path) -> None:
    folder = template.parent
    x, y = (a.ravel() for a in np.meshgrid([30.0, 60.0, 90.0], [40.0, 80.0]))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    rng = np.random.default_rng(3)
    image = 400 + rng.normal(0, 20, (SIDE, SIDE))
    for a, b in zip(x, y, strict=True):
        image += 5e3 * np.exp(-((columns - a) ** 2 + (rows - b) ** 2) / 8)
    fits.PrimaryHDU(image.astype(np.float32)).writeto(folder / "night1.fits")
    Table({"X": x + 1, "Y": y + 1}).write(folder / "night1_cat.fits")
    survey = load_survey(template, SIZES)
    summary = ingest(survey, [folder / "night1.fits"], folder / "s.zarr")
    assert (summary.ok, summary.n_stars, summary.exposures) == (True, 6, ("night1",))
    stars = open_tree(folder / "s.zarr")["stars"].to_dataset().isel(exposure=0, ccd=0, star=0)
    assert (stars["x"].item(), stars["y"].item()) == (30.0, 40.0)
    assert int(stars["image"].values.argmax()) == 15 * 31 + 15
    assert stars["image"].values.max() == pytest.approx(5e3, rel=0.05)


def test_template__serves_models_without_optics_and_wavediff_names_what_is_missing(
    template: Path,
) -> None:
    instrument = load_survey(template).instrument
    assert instrument.band_limit is None
    assert resolve_settings("rca", {}, instrument).model_dump()["upsampling"] == 1
    resolve_settings("sprite", {}, instrument)
    with pytest.raises(ConfigError, match=r"model wavediff needs instrument\.telescope \(aperture"):
        resolve_settings("wavediff", {}, instrument)
    aperture = "instrument.telescope.aperture={value: 1, unit: m}"
    focal = "instrument.telescope.focal_length={value: 9, unit: m}"
    with pytest.raises(ConfigError, match=r"model wavediff needs instrument\.passband \(minimum"):
        OpticsSettings.of(load_survey(template, [aperture, focal]).instrument)


def test_template__is_not_written_over_a_file(template: Path) -> None:
    with pytest.raises((InputError, OSError), match=r"mine\.yaml exists already"):
        write_template(template)
    template.write_text("old")
    write_template(template, overwrite=True)
    assert load_survey(template).name == "mine"
    with pytest.raises(InputError, match=r"ends in \.yaml or \.yml"):
        write_template(template.with_suffix(".txt"))


@pytest.mark.parametrize("part", ["spectra", "simulate"])
def test_survey__says_which_optics_spectra_and_simulations_need(part: str) -> None:
    toy = load_survey(Path(__file__).parents[2] / "catalogs/toy.yaml")
    left_out = {"simulate" if part == "spectra" else "spectra": None}
    survey = toy.model_dump(mode="json", context=WITH_SOURCES) | left_out
    survey["instrument"]["passband"] = None
    with pytest.raises(ValidationError, match=rf"{part} needs instrument\.passband"):
        Survey.model_validate(survey)
