"""The instrument in a survey store, and exposures in filters that it does not describe."""

import numpy as np
import pytest
from ingest_samples import exposures, ldac_recipe, make_survey, write_ldac

from psfscale.errors import ConfigError, InputError
from psfscale.ingest import ingest
from psfscale.store.stores import open_root
from psfscale.store.survey_instrument import stored_instrument
from psfscale.survey import Survey


def of_filters(*names: str, **detector) -> Survey:
    survey = make_survey(ldac_recipe())
    content = survey.instrument.model_copy(
        update={
            "passband": survey.instrument.passband.model_copy(update={"filters": names}),
            "detector": survey.instrument.detector.model_copy(update=detector),
        }
    )
    return survey.model_copy(update={"instrument": content})


def test_ingest__keeps_the_instrument_with_its_sources(tmp_path):
    survey = make_survey(ldac_recipe())
    ingest(survey, [write_ldac(tmp_path / "a.fits", 7, [1])], tmp_path / "s.zarr")
    kept = stored_instrument(open_root(tmp_path / "s.zarr"))
    assert kept == survey.instrument
    assert kept.detector.pixel_scale.source == "test"


def test_ingest__appends_nothing_of_another_instrument(tmp_path):
    first = write_ldac(tmp_path / "a.fits", 7, [1])
    ingest(make_survey(ldac_recipe()), [first], tmp_path / "s.zarr")
    second = write_ldac(tmp_path / "b.fits", 8, [1])
    other = of_filters(gain=np.float64(9.0).item())
    with pytest.raises(ConfigError, match=r"survey 'sample' .*detector\.gain is 9\.0, in the st"):
        ingest(other, [second], tmp_path / "s.zarr", append=True)
    assert exposures(tmp_path / "s.zarr").sizes["exposure"] == 1


def test_ingest__refuses_exposures_in_a_filter_that_is_not_described(tmp_path):
    files = [
        write_ldac(tmp_path / "a.fits", 7, [1], FILTER="r DECam"),
        write_ldac(tmp_path / "b.fits", 8, [1], FILTER="z DECam"),
    ]
    summary = ingest(of_filters("r"), files, tmp_path / "s.zarr")
    assert not summary.ok
    assert summary.exposures == ("7",)
    (refused,) = summary.files_refused
    assert refused.reason.startswith("exposure 8: filter 'z' is not described by the instrument")
    with pytest.raises(InputError, match="none of the 1 files can be ingested: exposure 8: filter"):
        ingest(of_filters("r"), files[1:], tmp_path / "t.zarr")


def test_ingest__takes_any_filter_where_the_passband_names_none(tmp_path):
    files = [
        write_ldac(tmp_path / "a.fits", 7, [1], FILTER="r"),
        write_ldac(tmp_path / "b.fits", 8, [1], FILTER="z"),
    ]
    assert ingest(of_filters(), files, tmp_path / "s.zarr").ok
