from pathlib import Path

import numpy as np
import pytest

from psfscale.errors import ConfigError
from psfscale.survey import load_survey
from psfscale.survey.instrument import Passband
from psfscale.survey.spectra import SpectraRecipe

TOY = Path(__file__).parents[2] / "catalogs" / "toy.yaml"


def quantity(value, unit):
    return {"value": value, "unit": unit, "source": "test"}


BAND = Passband.model_validate(
    {"minimum": quantity(0.55, "um"), "maximum": quantity(0.9, "um")}
)  # fmt: skip


def recipe(*templates, bins=7):
    return SpectraRecipe.model_validate({"bins": bins, "templates": templates})


def blackbody(name, temperature):
    return {"name": name, "kind": "blackbody", "temperature": quantity(temperature, "K")}


def mean_wavelength(sed, wavelength):
    return sed @ wavelength


def test_table__holds_photons_that_sum_to_one_after_a_flat_row():
    sed, wavelength = recipe(blackbody("cool", 3000), blackbody("hot", 20000)).table(BAND)
    np.testing.assert_allclose(sed.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(sed[0], 1 / 7, rtol=1e-14)
    np.testing.assert_allclose(np.diff(wavelength), 0.05, rtol=1e-9)
    flat, cool, hot = mean_wavelength(sed, wavelength)
    assert cool > flat > hot


def test_table__of_a_power_law_is_its_integral_over_each_bin():
    law = {"name": "red", "kind": "power_law", "slope": quantity(3, "")}
    sed, wavelength = recipe(law).table(BAND)
    edges = np.append(wavelength - 0.025, 0.9) ** 4
    np.testing.assert_allclose(sed[1], np.diff(edges) / (edges[-1] - edges[0]), rtol=1e-4)


def test_table__may_be_binned_otherwise_without_another_colour():
    cool = recipe(blackbody("cool", 3000), bins=200)
    few, many = cool.table(BAND, 5), cool.table(BAND)
    assert few[0].shape == (2, 5)
    assert mean_wavelength(*few)[1] == pytest.approx(mean_wavelength(*many)[1], abs=2e-3)


def test_table__of_numbers_is_straight_between_them_and_dark_beyond():
    line = {
        "name": "line",
        "kind": "table",
        "wavelength": [0.6, 0.65, 0.7],
        "photons": [0, 1, 0],
        "source": "test",
    }
    sed, wavelength = recipe(line, bins=35).table(BAND)
    assert (sed[1][(wavelength < 0.6) | (wavelength > 0.7)] == 0).all()
    assert mean_wavelength(sed, wavelength)[1] == pytest.approx(0.65, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wavelength": [0.6, 0.6], "photons": [1, 1]}, "wavelengths must rise"),
        ({"wavelength": [0.6, 0.7], "photons": [1, 1, 1]}, "2 wavelengths for 3 photon numbers"),
    ],
)
def test_recipe__refuses_tables_that_are_none(change, says):
    with pytest.raises(ValueError, match=says):
        recipe({"name": "line", "kind": "table", "source": "test"} | change)


def test_recipe__refuses_one_name_for_two_spectra():
    with pytest.raises(ValueError, match="same name"):
        recipe(blackbody("cool", 3000), blackbody("cool", 4000))


def test_survey__refuses_spectra_without_light_and_mixes_of_unknown_ones():
    dark = {
        "name": "x", "kind": "table", "wavelength": [2, 3], "photons": [1, 1], "source": "test",
    }  # fmt: skip
    with pytest.raises(ValueError, match="'x' has no photons in the passband"):
        recipe(dark).table(BAND)
    with pytest.raises(ConfigError, match=r"simulate draws spectra \['Z'\]"):
        load_survey(TOY, ["simulate.stars.spectra={Z: 1}"])
    none = [f"simulate.stars.spectra.{name}=0" for name in "MKGFA"]
    with pytest.raises(ConfigError, match=r"all shares of stars.spectra are 0"):
        load_survey(TOY, none)
