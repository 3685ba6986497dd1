from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from psfscale.errors import ConfigError
from psfscale.survey import Survey, load_survey
from psfscale.survey.quantity import WITH_SOURCES, Quantity

CATALOGS = Path(__file__).parents[2] / "catalogs"
TOY = CATALOGS / "toy.yaml"


def changed(tmp_path: Path, key: str, value: Any) -> Path:
    """A copy of the toy survey with one key set, or removed where the value is ``...``."""
    tree = yaml.safe_load(TOY.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    branch = tree
    for part in parents:
        branch = branch[part]
    if value is ...:
        del branch[last]
    else:
        branch[last] = value
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def quantities(value: Any) -> list[Any]:
    if isinstance(value, dict):
        if set(value) == {"value", "unit", "source"}:
            return [value]
        return [found for child in value.values() for found in quantities(child)]
    if isinstance(value, (list, tuple)):
        return [found for child in value for found in quantities(child)]
    return []


@pytest.mark.parametrize("path", sorted(CATALOGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_survey__loads_and_every_number_has_a_source(path: Path) -> None:
    survey = load_survey(path)
    assert survey.name == path.stem
    dumped = quantities(survey.model_dump(mode="json", context=WITH_SOURCES)["instrument"])
    assert len(dumped) >= 8
    assert all(len(entry["source"]) >= 5 for entry in dumped)


def test_packaged_surveys__are_all_there() -> None:
    assert {path.stem for path in CATALOGS.glob("*.yaml")} >= {"euclid_vis", "toy"}


def test_euclid__is_what_its_papers_say() -> None:
    instrument = load_survey(CATALOGS / "euclid_vis.yaml").instrument
    assert instrument.telescope.aperture == 1.2
    assert instrument.passband.minimum == pytest.approx(0.55)
    assert instrument.focal_plane.ccd_ids == range(1, 37)
    assert (instrument.detector.columns, instrument.detector.rows) == (4096, 4132)
    # 1 / 0.1 arcsec is 10 cycles an arcsec; the optics pass D / lambda = 10.58
    assert instrument.band_limit == pytest.approx(1.2 / 0.55e-6 * np.pi / 648000 * 0.1)


def test_quantity__is_converted_to_the_unit_of_the_field(tmp_path: Path) -> None:
    path = changed(
        tmp_path,
        "instrument.telescope.aperture",
        {"value": 120, "unit": "cm", "source": "a tape measure"},
    )
    aperture = load_survey(path).instrument.telescope.aperture
    assert aperture == pytest.approx(1.2)
    assert isinstance(aperture, Quantity)
    assert (aperture.unit, aperture.source) == ("m", "a tape measure")
    assert type(aperture * 2) is float


@pytest.mark.parametrize("source", [{}, {"source": None}, {"source": ""}])
def test_quantity__may_leave_its_source_out(tmp_path: Path, source: dict[str, Any]) -> None:
    value = {"value": 3.4, "unit": "electron / adu"} | source
    gain = load_survey(changed(tmp_path, GAIN, value)).instrument.detector.gain
    assert (gain, gain.source) == (3.4, "")


def test_quantity__keeps_its_source_through_a_pickle() -> None:
    survey = load_survey(TOY)
    copy = pickle.loads(pickle.dumps(survey))
    assert copy == survey
    assert copy.instrument.detector.gain.source == survey.instrument.detector.gain.source


def test_survey__is_dumped_with_plain_numbers_or_with_their_sources() -> None:
    survey = load_survey(TOY)
    plain = survey.model_dump(mode="json")
    assert plain["instrument"]["detector"]["gain"] == 3.48
    full = survey.model_dump(mode="json", context=WITH_SOURCES)
    assert full["instrument"]["detector"]["gain"]["unit"] == "electron / adu"
    assert Survey.model_validate(full) == survey


GAIN = "instrument.detector.gain"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (GAIN, 3.4, "detector.gain: expected {value: NUMBER, unit: electron / adu}"),
        (
            GAIN,
            {"value": 3.4, "source": "a paper"},
            "expected {value: NUMBER, unit: electron / adu}",
        ),
        (GAIN, {"value": 3.4, "unit": "adu", "form": 1}, "and, if wanted, a source, got"),
        (GAIN, {"value": 3.4, "unit": "furlong", "source": "x"}, "unit 'furlong' is unknown or"),
        (GAIN, {"value": 3.4, "unit": "mm", "source": "x"}, "does not convert to 'electron / adu'"),
        (
            GAIN,
            {"value": "much", "unit": "electron / adu", "source": "x"},
            "'much' is not a number",
        ),
        (GAIN, {"value": True, "unit": "electron / adu", "source": "x"}, "True is not a number"),
        (GAIN, {"value": -1, "unit": "electron / adu", "source": "x"}, "greater than 0"),
        (GAIN, ..., "instrument.detector.gain: Field required"),
        ("instrument.detector.colour", "red", "detector.colour: there is no such key"),
        ("instrument.focal_plane.n_ccds", 5, "5 CCDs do not fit a grid of 2 x 2"),
        ("simulate.size.exposures", 0, "exposures: Input should be greater than or equal to 1"),
        (
            "simulate.stars.flux_minimum",
            {"value": 1e9, "unit": "electron", "source": "x"},
            "stars.flux_maximum .* must be larger than stars.flux_minimum",
        ),
        (
            "simulate.galaxies.sersic",
            [
                {
                    "index": {"value": 1, "unit": "", "source": "x"},
                    "fraction": {"value": 0.7, "unit": "", "source": "x"},
                }
            ],
            "fractions of galaxies.sersic must add up to 1, not to 0.7",
        ),
    ],
)
def test_survey_file__with_a_wrong_value_is_a_clear_error(
    tmp_path: Path, key: str, value: Any, reason: str
) -> None:
    path = changed(tmp_path, key, value)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_survey(path)
    assert str(caught.value).startswith(f"{path} is not valid:")


def test_survey_file__that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*absent\.yaml"):
        load_survey(tmp_path / "absent.yaml")


def test_survey_file__that_is_not_yaml_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("name: [toy")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not readable YAML"):
        load_survey(tmp_path / "broken.yaml")


def test_override__reaches_one_value_of_a_quantity() -> None:
    gain = load_survey(TOY, [f"{GAIN}.value=2"]).instrument.detector.gain
    assert (gain, gain.unit) == (2, "electron / adu")


def test_ccd_centres__fill_the_grid_along_x_first_round_the_axis() -> None:
    instrument = load_survey(CATALOGS / "euclid_vis.yaml").instrument
    centres = np.array([instrument.ccd_centre(ccd) for ccd in instrument.focal_plane.ccd_ids])
    np.testing.assert_allclose(centres.mean(axis=0), 0, atol=1e-9)
    grid = centres.reshape(6, 6, 2)
    np.testing.assert_allclose(np.diff(grid[..., 0], axis=1), 4096 * 0.012 + 1.496)
    np.testing.assert_allclose(np.diff(grid[..., 1], axis=0), 4132 * 0.012 + 7.775)


@pytest.mark.parametrize("ccd", [0, 5])
def test_ccd_centre__of_no_ccd_is_a_clear_error(ccd: int) -> None:
    with pytest.raises(ConfigError, match=f"no CCD {ccd}; the CCDs are 1 to 4"):
        load_survey(TOY).instrument.ccd_centre(ccd)


def test_ccd_centre__without_a_grid_is_a_clear_error(tmp_path: Path) -> None:
    path = changed(tmp_path, "instrument.focal_plane.layout", {"kind": "reference_pixel"})
    with pytest.raises(ConfigError, match="'reference_pixel' does not say where CCD 1 lies"):
        load_survey(path).instrument.ccd_centre(1)
