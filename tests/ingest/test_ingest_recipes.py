import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from ingest_samples import ldac_recipe, make_survey, star_table, stored, write_ldac
from pydantic import ValidationError

from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError
from psfscale.ingest import ingest
from psfscale.ingest.formats.units import electrons_per, to_number
from psfscale.survey import load_survey
from psfscale.survey.selection import SampleRecipe, SizeMagnitude, StarListRecipe
from psfscale.survey.spectra import SpectraRecipe

ROOT = Path(__file__).parents[2]


def blocks():
    text = (ROOT / "docs/ingest.md").read_text(encoding="utf-8")
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


def test_docs__recipes_that_are_shown_are_valid():
    shared, instrument, sections, columns, sample, spectra, images = blocks()
    assert yaml.safe_load(instrument)["instrument"]["passband"]["filters"] == ["r"]
    both = make_survey(yaml.safe_load(shared + sections + images)["ingest"]).ingest
    assert [section.bias is None for section in both.sections] == [False, True]
    assert make_survey(yaml.safe_load(shared + images)["ingest"]).ingest.format == "images"
    shown = SpectraRecipe.model_validate(yaml.safe_load(spectra)["spectra"])
    assert shown.names == ("M", "blue", "line")
    ldac = (shared + columns).replace("format: images", "format: ldac")
    recipe = make_survey(yaml.safe_load(ldac)["ingest"]).ingest
    assert recipe.stars.columns.flux.element == 5
    assert recipe.stars.select.cuts[1].bits_clear == 4
    chosen = SampleRecipe.model_validate(yaml.safe_load(sample)["select"])
    assert chosen.match == StarListRecipe(path="gaia.parquet")
    assert chosen.size_magnitude == SizeMagnitude()


@pytest.mark.parametrize("path", sorted((ROOT / "catalogs").glob("*.yaml")), ids=lambda p: p.stem)
def test_catalogs__have_recipes(path):
    assert load_survey(path).ingest.reserved_fraction == 0.2


def test_catalogs__des_decam_reads_the_cards_of_its_catalogues(tmp_path):
    def edit(ccd, table, vignet):
        table["ALPHAWIN_J2000"], table["DELTAWIN_J2000"] = np.full(5, 60.7), np.full(5, -51.5)
        del table["FLUX_AUTO"]
        table["FLUX_APER"] = np.arange(60, dtype=np.float32).reshape(5, 12)
        vignet[0, 4, 4] = 38400.0

    path = tmp_path / "DECam_00241238_01_psfcat.fits"
    cards = {"GAINA": 4.039, "SATURATE": 38652.0, "SEXBKGND": 282.0, "RA": "04:05:48.670"}
    write_ldac(path, 241238, [1], edit=edit, DEC="-52:22:30.835", **cards)
    survey = load_survey(ROOT / "catalogs/des_decam.yaml")
    assert ingest(survey, [path], tmp_path / "s.zarr").ok
    stars, table = stored(tmp_path / "s.zarr"), star_table(5, seed=1)
    np.testing.assert_array_equal(stars["x"], table["XWIN_IMAGE"] - 1)
    np.testing.assert_allclose(stars["flux"], np.arange(5, 65, 12) * 4.039, rtol=1e-6)
    np.testing.assert_allclose(stars["field_x"], (stars["x"] - 40) * 0.015)
    np.testing.assert_allclose(stars["ra"], 60.7)
    assert ((stars["flags"].values & ObjectFlag.SATURATED) > 0).tolist() == [True] + 4 * [False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exposure": {"card": "A", "group": "b"}}, "expected exactly one of card, group"),
        ({"exposure": {}}, "expected exactly one of card, group, key, value, got none"),
        ({"filename": "(?P<a"}, "is not a regular expression"),
        ({"stars": {"columns": {"x": "X"}}}, "columns x and y go together"),
        ({"stars": {"columns": {"id": "X"}}}, "columns x and y are needed"),
        ({"format": "tarot"}, "does not match any of the expected tags"),
        ({"typo": 1}, "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_recipe__says_what_is_wrong_with_it(changes, message):
    with pytest.raises(ValidationError, match=message):
        make_survey(ldac_recipe(**changes))


@pytest.mark.parametrize(
    ("value", "unit", "target", "expected"),
    [
        ("04:05:48.670", "hourangle", "deg", 61.452791667),
        ("-52:22:30.835", "deg", "deg", -52.375231944),
        ("2013-10-04T00:00:00", "d", "d", 56569.0),
        (2.0, "min", "s", 120.0),
    ],
)
def test_number__understands_angles_dates_and_units(value, unit, target, expected):
    assert to_number(value, unit, target) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("value", ["north", None, True])
def test_number__that_is_none_is_an_error(value):
    with pytest.raises(InputError, match="is no number in deg"):
        to_number(value, "deg", "deg")


def test_unit__of_counts_is_adu():
    for unit in ("adu", "ADU", "count", "counts", "ct", "DN"):
        assert electrons_per(unit, gain=3.0, exposure_time=None) == 3.0
