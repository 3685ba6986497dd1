"""Several models in one run, and the one that stands for each CCD."""

from __future__ import annotations

import numpy as np
import pytest
import toy
from mean_star import MeanStar
from plane_star import PlaneStar

from psfscale.arrays import Role, UnitState
from psfscale.errors import ConfigError
from psfscale.pipeline import open_run, plan_run, run, verify
from psfscale.store.stores import open_root
from psfscale.yamlfile import validate

RCA, WAVEDIFF = {"name": "rca"}, {"name": "wavediff"}
CODES = {"rca": 1, "wavediff": 3}
STAGES = ["fit_rca", "fit_wavediff", "choose", "psf", "metrics"]


LIMITS = ("mean_star_excess", "clipped_fraction", "chi2_maximum", "chi2_minimum", "position_offset")
UNCHECKED = dict.fromkeys((*LIMITS, "starless_fraction", "sky", "weight_factor"))
"""The plane is a wrong model of these stars, on purpose."""


def config_of(folder, **changes):
    usual = {"models": [RCA, WAVEDIFF], "choice": "reserved", "quality": UNCHECKED}
    return toy.make_config(folder, **{**usual, **changes})


def go(folder, **changes):
    config = config_of(folder, **changes)
    return config, run(config, serial=True, observers=[])


def todo(config):
    return {stage: n["wanted"] - n["done"] for stage, n in plan_run(config).counts().items()}


def test_choice__is_the_model_that_agrees_with_the_reserved_stars(coloured) -> None:
    config, summary = go(coloured, models=[WAVEDIFF, RCA])
    assert (summary.exit_code, summary.n_units) == (0, 10)
    found = open_run(config.output)
    # the mean star is the truth here, but for the noise of nine of them; the plane's width is not
    assert (found["ccds/model"].values == CODES["rca"]).all()
    np.testing.assert_allclose(found["ccds/score_rca"], 1.0, atol=0.4)
    assert (found["ccds/score_wavediff"].values > 5).all()
    assert np.isnan(found["ccds/score_sprite"].values).all()
    role = open_root(config.survey)["stars/role"][...]
    np.testing.assert_array_equal(np.isfinite(found["stars/fit_flux"].values), role == Role.FIT)
    assert isinstance(found.model(exposure="exp-0", ccd=1), MeanStar)
    states = found["ccds/state"].sel(stage=STAGES).values
    assert (states == UnitState.DONE).all()


def test_choice__of_the_first_takes_the_first(coloured) -> None:
    config, _ = go(coloured, models=[WAVEDIFF, RCA], choice="first")
    found = open_run(config.output)
    assert (found["ccds/model"].values == CODES["wavediff"]).all()
    assert np.isfinite(found["ccds/score_rca"].values).all()
    assert isinstance(found.model(exposure="exp-1", ccd=2).model, PlaneStar)
    flux = found["models/wavediff/fit_flux"].values
    np.testing.assert_array_equal(found["stars/fit_flux"].values, flux)


def test_ccd__that_one_model_cannot_fit_gets_the_other(coloured) -> None:
    toy.spoil_ccd(coloured / "survey.zarr", 0, 1, how="few")
    config, summary = go(coloured)
    assert [(f.stage, f.exposure, f.ccd) for f in summary.failures] == [("fit_rca", 0, 1)]
    found = open_run(config.output)
    assert found["ccds/model"].values.tolist() == [[1, 3], [1, 1]]
    assert np.isnan(found["ccds/score_rca"].values[0, 1])
    states = found["ccds/state"].sel(stage=STAGES).values
    assert states[0, 1].tolist() == [3, 1, 1, 1, 1]
    psf = found.psf(exposure="exp-0", ccd=2, x=[30.0], y=[40.0])
    np.testing.assert_allclose(psf.sum(), 1, rtol=1e-5)
    assert verify(config.output).ok


def test_ccd__that_no_model_can_fit_is_blocked(coloured) -> None:
    toy.spoil_ccd(coloured / "survey.zarr", 0, 0, how="nan")
    config, summary = go(coloured)
    assert summary.exit_code == 1
    states = open_run(config.output)["ccds/state"].sel(stage=STAGES).values[0]
    # the exposure's field fails on all its CCDs, the other CCD has its own
    assert states.tolist() == [[3, 3, 4, 4, 4], [1, 3, 1, 1, 1]]


def test_plan__refits_the_model_that_changed_and_what_depends_on_it(coloured) -> None:
    config, _ = go(coloured)
    assert sum(todo(config).values()) == 0
    changed = config_of(coloured, models=[RCA, {**WAVEDIFF, "settings": {"min_stars": 2}}])
    after = {"fit_rca": 0, "fit_wavediff": 2, "choose": 2, "psf": 2, "metrics": 2}
    assert todo(changed) == after
    assert todo(config_of(coloured, choice="first")) == after | {"fit_wavediff": 0}
    run(changed, serial=True, observers=[])
    assert sum(todo(changed).values()) == 0


def test_run__of_one_model_may_become_one_of_several(coloured) -> None:
    alone = toy.make_config(coloured, model=RCA)
    run(alone, serial=True, observers=[])
    before = open_run(alone.output)["galaxies/psf"].values
    config, summary = go(coloured)
    assert summary.exit_code == 0
    np.testing.assert_array_equal(open_run(config.output)["galaxies/psf"].values, before)
    assert set(todo(config)) == set(STAGES)


def test_several_models__give_the_same_from_workers(coloured, tmp_path, monkeypatch) -> None:
    from pathlib import Path

    from psfscale.pipeline.workers.profiles import LocalProfile

    monkeypatch.setenv("PYTHONPATH", str(Path(toy.__file__).parent), prepend=":")
    one, _ = go(coloured)
    two = config_of(coloured, output=tmp_path / "other.zarr")
    assert run(two, cluster=LocalProfile(workers=2), observers=[]).exit_code == 0
    toy.require_same_arrays(one.output, two.output)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": RCA, "models": [WAVEDIFF]}, "give model or models, not both"),
        ({"models": [RCA, RCA]}, "a model comes once in a run"),
    ],
)
def test_config__refuses_what_is_not_clear(content, says) -> None:
    from psfscale.config import RunConfig

    paths = {"survey": "s", "instrument": "i", "output": "o"}
    with pytest.raises(ConfigError, match=says):
        validate({**paths, **content}, RunConfig, name="run.yaml")


def test_config__of_one_model_is_rca_if_nothing_is_said(coloured) -> None:
    assert [m.name for m in toy.make_config(coloured).fitted] == ["rca"]
    assert [m.name for m in toy.make_config(coloured, model=WAVEDIFF).fitted] == ["wavediff"]
