"""Two descriptions of an instrument compared, and filters against a passband."""

from pathlib import Path

import pytest

from psfscale.errors import ConfigError, InputError
from psfscale.survey import load_survey
from psfscale.survey.agreement import differences, require_filters, require_same, undescribed
from psfscale.survey.instrument import Instrument
from psfscale.survey.quantity import WITH_SOURCES

CATALOGS = Path(__file__).parents[2] / "catalogs"
TOY = CATALOGS / "toy.yaml"


def toy(*changes: str) -> Instrument:
    return load_survey(TOY, changes).instrument


def test_differences__are_none_after_storing_and_in_other_units_and_sources() -> None:
    stored = Instrument.model_validate(toy().model_dump(mode="json", context=WITH_SOURCES))
    assert differences(toy(), stored) == []
    scale = "instrument.detector.pixel_scale"
    same = toy(f"{scale}.value=100", f"{scale}.unit=mas", f"{scale}.source=elsewhere")
    assert differences(toy(), same) == []


def test_differences__name_every_key_that_describes_the_data() -> None:
    other = toy("instrument.detector.pixel_scale.value=0.05", "instrument.focal_plane.n_ccds=3")
    assert differences(other, toy()) == [
        ("detector.pixel_scale", 0.05, 0.1),
        ("focal_plane.n_ccds", 3, 4),
    ]


def test_differences__leave_out_limits_and_settings_of_models() -> None:
    other = toy(
        "instrument.psf.fwhm_maximum.value=1",
        "instrument.psf.upsampling=2",
        "instrument.rendering.pupil_samples=64",
        "instrument.passband.filters=[r]",
    )
    assert differences(other, toy()) == []


def test_require_same__names_both_values_and_the_way_out() -> None:
    hst = load_survey(CATALOGS / "hst_acs.yaml").instrument
    with pytest.raises(
        ConfigError,
        match=r"instrument of hst\.yaml .* survey\.zarr was ingested with: telescope\.aperture is "
        r"2\.4, in the store 1\.2.* and \d+ more; leave `instrument` out",
    ):
        require_same(hst, toy(), name="hst.yaml", store=Path("survey.zarr"))


def test_undescribed__is_a_filter_that_the_passband_does_not_name() -> None:
    assert undescribed(toy(), "VIS") is None
    assert undescribed(toy(), "") is None
    assert undescribed(toy("instrument.passband.filters=[]"), "z") is None
    assert "filter 'z' is not described" in str(undescribed(toy(), "z"))


def test_require_filters__names_the_exposure_in_another_filter() -> None:
    require_filters(toy(), ["VIS", ""], ["a", "b"], one="wavediff")
    with pytest.raises(InputError, match="exposure b: filter 'z' is not described"):
        require_filters(toy(), ["VIS", "z"], ["a", "b"])


def test_require_filters__of_no_name_are_one_where_optics_are_computed() -> None:
    unnamed = toy("instrument.passband.filters=[]")
    require_filters(unnamed, ["r", "z"], ["a", "b"])
    require_filters(unnamed, ["r", "r", ""], ["a", "b", "c"], one="wavediff")
    with pytest.raises(InputError, match=r"'r' \(exposure a\), 'z' \(exposure b\), and wavediff"):
        require_filters(unnamed, ["r", "z"], ["a", "b"], one="wavediff")


def test_passband__takes_one_filter_as_a_word() -> None:
    assert toy("instrument.passband.filters=VIS").passband.filters == ("VIS",)
