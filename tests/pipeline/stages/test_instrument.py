"""The instrument of a run: the survey store's own, which a file may not contradict."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import toy
import yaml

from psfscale.errors import ConfigError, InputError
from psfscale.pipeline import plan_run, run
from psfscale.pipeline.runs.context import build_context
from psfscale.store.stores import consolidate, open_root, set_attributes
from psfscale.survey import load_survey
from psfscale.survey.quantity import WITH_SOURCES


@pytest.fixture
def kept(survey):
    """The toy survey, its store with the instrument it was made with."""
    instrument = load_survey(survey / "toy.yaml").instrument
    content = instrument.model_dump(mode="json", context=WITH_SOURCES)
    set_attributes(open_root(survey / "survey.zarr", mode="r+"), {"instrument": content})
    consolidate(survey / "survey.zarr")
    return survey


def named(folder, *path, value) -> None:
    """Write the toy instrument's file with one entry changed."""
    content = copy.deepcopy(toy.INSTRUMENT)
    part = content["instrument"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (folder / "toy.yaml").write_text(yaml.safe_dump(content))


def test_run__uses_the_instrument_of_the_survey_store(kept) -> None:
    config = toy.make_config(kept, instrument=None)
    assert build_context(config).instrument == load_survey(kept / "toy.yaml").instrument
    assert run(config, serial=True, observers=[]).exit_code == 0
    assert plan_run(toy.make_config(kept)).n_todo == 0, "the same instrument, named by a file"


def test_run__refuses_another_instrument_and_says_what_differs(kept) -> None:
    named(kept, "detector", "pixel_scale", value=toy.quantity(2.8, "arcsec"))
    with pytest.raises(
        ConfigError, match=r"toy\.yaml .*detector\.pixel_scale is 2\.8, in the store 0\.1"
    ):
        plan_run(toy.make_config(kept))


def test_run__takes_limits_of_the_psf_from_a_file(kept) -> None:
    named(kept, "psf", "fwhm_maximum", value=toy.quantity(2.0, "arcsec"))
    assert build_context(toy.make_config(kept)).instrument.psf.fwhm_maximum == 2.0


def test_run__needs_a_file_where_an_earlier_store_keeps_no_instrument(survey) -> None:
    with pytest.raises(ConfigError, match=r"does not say which instrument .* `instrument`"):
        plan_run(toy.make_config(survey, instrument=None))


def filters(folder, *names: str) -> None:
    root = open_root(folder / "survey.zarr", mode="r+")
    root["exposures/filter"][...] = np.asarray(names, dtype=object)


def test_run__refuses_a_filter_that_the_instrument_does_not_describe(survey) -> None:
    named(survey, "passband", "filters", value=["r"])
    filters(survey, "r", "z")
    with pytest.raises(InputError, match="exposure exp-1: filter 'z' is not described"):
        plan_run(toy.make_config(survey))


def test_run__computes_no_optics_of_two_filters_with_one_passband(coloured) -> None:
    filters(coloured, "r", "z")
    assert plan_run(toy.make_config(coloured)).n_todo == 6
    with pytest.raises(InputError, match=r"several filters, 'r' .*'z' .* and wavediff"):
        plan_run(toy.make_config(coloured, model={"name": "wavediff"}))
