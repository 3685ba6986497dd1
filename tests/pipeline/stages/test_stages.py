from __future__ import annotations

import numpy as np
import pytest
import toy

from psfscale.arrays import Role
from psfscale.errors import FitError
from psfscale.models.fitted import resolve_settings
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.stages.ccd import group_of
from psfscale.pipeline.stages.registry import stages_of
from psfscale.pipeline.units.exposure_io import ExposureReader
from psfscale.pipeline.units.session import Session
from psfscale.survey import load_survey


@pytest.fixture
def context(survey):
    return build_context(toy.make_config(survey))


def test_stage__runs_on_one_ccd_without_a_run_store(context) -> None:
    stage = stages_of(context)["fit"]
    ccd = ExposureReader(stage, Session(context), 0).ccd(1)
    assert ccd["stars/image"].dims == ("star", "stars.stamp_y", "stars.stamp_x")
    before = ccd.copy(deep=True)
    result = stage.run(ccd, context)
    assert ccd.identical(before)
    assert set(result) == {spec.path for spec in stage.outputs}
    fitted = np.isfinite(result["stars/fit_flux"].values)
    np.testing.assert_array_equal(fitted, ccd["stars/role"].values == Role.FIT)
    assert not context.run.exists()


def test_stages__read_only_what_stages_they_need_have_written(context) -> None:
    stages = stages_of(context)
    for stage in stages.values():
        read = {source.path for source in stage.inputs if source.store == "run"}
        written = {spec.path for need in stage.needs for spec in stages[need].outputs}
        assert read <= written


def test_group_of__bears_the_groups_own_names(context) -> None:
    stage = stages_of(context)["psf"]
    ccd = ExposureReader(stages_of(context)["fit"], Session(context), 0).ccd(0)
    stars = group_of(ccd, "stars")
    assert stars["image"].dims == ("star", "stamp_y", "stamp_x")
    assert stage.needs == ("fit",)


def test_fit__refuses_a_ccd_of_reserved_stars_alone(context) -> None:
    stage = stages_of(context)["fit"]
    ccd = ExposureReader(stage, Session(context), 0).ccd(0)
    role = ccd["stars/role"].where(ccd["stars/role"] != Role.FIT, Role.RESERVED)
    with pytest.raises(FitError, match="no star of role fit"):
        stage.run(ccd.assign({"stars/role": role}), context)


def test_psf__flags_galaxies_outside_the_stars_range(context, survey) -> None:
    from psfscale.arrays import ObjectFlag
    from psfscale.pipeline.stages.ccd import outside

    stage = stages_of(context)["fit"]
    ccd = ExposureReader(stage, Session(context), 0).ccd(0)
    stars = group_of(ccd.merge(stage.run(ccd, context)), "stars")
    used = stars["role"].values == Role.FIT
    middle = stars["x"].values[used].mean(), stars["y"].values[used].mean()
    found = outside(stars, np.array([middle[0], -50.0]), np.array([middle[1], -50.0]))
    assert found.tolist() == [False, True]
    assert outside(stars.isel(star=[0, 1]), np.zeros(1), np.zeros(1)).tolist() == [True]
    assert ObjectFlag.EXTRAPOLATED == 256


def test_settings__follow_the_instrument_where_left_open(survey, monkeypatch) -> None:
    instrument = load_survey(survey / "toy.yaml").instrument
    left_open = resolve_settings("rca", {}, instrument)
    assert left_open.upsampling == 1
    # 0.1 arcsec · 1 m / 0.5 µm = 0.97 cycles a pixel: beyond the grid's own limit of 0.5
    assert instrument.band_limit == pytest.approx(0.9696, abs=1e-4)
    assert left_open.band_limit is None
    finer = resolve_settings("rca", {"upsampling": 2}, instrument)
    assert finer.band_limit == pytest.approx(0.9696, abs=1e-4)
    # a model that works with finer pixels than it is asked for reaches farther
    monkeypatch.setattr(type(left_open), "fine_upsampling", property(lambda _: 2), raising=False)
    within = resolve_settings("rca", {}, instrument)
    assert within.upsampling == 1
    assert within.band_limit == pytest.approx(0.9696, abs=1e-4)
    assert resolve_settings("rca", {"band_limit": 0.3}, instrument).band_limit == 0.3
