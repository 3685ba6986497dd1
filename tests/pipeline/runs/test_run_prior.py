"""Runs that restore galaxies by a prior learnt elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import toy
import yaml

import psfscale
from psfscale.config import load_config
from psfscale.errors import ConfigError, StoreError
from psfscale.pipeline import plan_run, run, run_blocks, write_index
from psfscale.pipeline.runs import prior as run_prior
from psfscale.pipeline.runs.context import build_context

FAST = {"learnt": {"n_rounds": 1, "fast": True}}


def restoring(folder, name, *, settings=FAST, **restore):
    return toy.make_config(
        folder,
        output=folder / f"{name}.zarr",
        restore={"at_galaxies": True, "settings": settings, **restore},
    )


@pytest.fixture
def learnt(survey):
    """A run that has learnt its prior."""
    config = restoring(survey, "learnt")
    assert run(config, serial=True, observers=[]).exit_code == 0
    return config


def arrays_of_galaxies(path):
    return {name: a for name, a in toy.run_arrays(path).items() if name.startswith("galaxies/")}


@pytest.mark.parametrize("kept", ["run", "file"])
def test_run__restores_by_the_prior_of_another_run_as_that_did(learnt, survey, kept) -> None:
    source = learnt.output
    if kept == "file":
        source = survey / "prior.npz"
        np.savez(source, **psfscale.open_run(learnt.output).prior().arrays())
    config = restoring(survey, "given", prior=source)
    assert not {"sample", "learn"} & set(plan_run(config).counts())
    assert run(config, serial=True, observers=[]).exit_code == 0
    found, other = arrays_of_galaxies(config.output), arrays_of_galaxies(learnt.output)
    assert found.keys() == other.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], other[name], err_msg=name)


def test_run__keeps_the_prior_that_it_was_given(learnt, survey) -> None:
    prior = psfscale.open_run(learnt.output).prior()
    np.savez(survey / "prior.npz", **prior.arrays())
    config = restoring(survey, "given", prior=survey / "prior.npz")
    run(config, serial=True, observers=[])
    (survey / "prior.npz").unlink()
    kept = psfscale.open_run(config.output).prior()
    np.testing.assert_array_equal(kept.covariance, prior.covariance)
    with pytest.raises(ConfigError, match=r"prior\.npz holds no prior"):
        plan_run(config)


def test_plan_run__restores_again_when_the_given_prior_changes_and_not_else(learnt, survey) -> None:
    arrays = psfscale.open_run(learnt.output).prior().arrays()
    np.savez(survey / "prior.npz", **arrays)
    config = restoring(survey, "given", prior=survey / "prior.npz")
    run(config, serial=True, observers=[])
    toy.append_exposure(survey / "survey.zarr")
    assert {todo.unit.exposure for todo in plan_run(config).todo} == {2}
    np.savez(survey / "prior.npz", **{**arrays, "centre": 2 * arrays["centre"]})
    again = {todo.unit.key for todo in plan_run(config).todo if todo.why == "changed"}
    assert again == {("restore", 0), ("restore", 1)}


def test_blocks__that_share_a_prior_are_restored_as_one_survey(learnt, survey) -> None:
    for k in range(2):
        root = toy.open_root(toy.make_survey(survey / f"part-{k}.zarr", 2), mode="r+")
        root["exposures/complete"][1 - k] = 0
        root["exposure"][1 - k] = root["exposures/id"][1 - k] = f"gone-{k}"
    write_index(survey / "index.yaml", [survey / "part-0.zarr", survey / "part-1.zarr"])
    one = restoring(survey, "parts", prior=learnt.output)
    config = one.model_copy(update={"survey": survey / "index.yaml", "output": survey / "parts"})
    assert run_blocks(config, serial=True, observers=[]).exit_code == 0
    whole, parts = psfscale.open_run(learnt.output), psfscale.open_run(config.output)
    for place in ({"exposure": f"exp-{e}", "ccd": ccd} for e in (0, 1) for ccd in (1, 2)):
        found, other = parts.galaxies(**place), whole.galaxies(**place)
        np.testing.assert_array_equal(found["restored"], other["restored"])
        np.testing.assert_array_equal(found["restored_error"], other["restored_error"])
    with pytest.raises(StoreError, match=r"every block of .* has a prior of its own"):
        parts.prior()


def test_context__refuses_a_prior_that_is_of_no_use(survey) -> None:
    survey_alone = toy.make_config(survey)
    run(survey_alone, serial=True, observers=[])
    np.savez(survey / "other.npz", mean=np.zeros(3))
    for restore, error, message in (
        ({"prior": survey_alone.output}, StoreError, "has not learnt a prior of galaxies yet"),
        ({"prior": survey / "other.npz"}, ConfigError, r"other\.npz holds no prior"),
        ({"prior": survey / "x.zarr"}, StoreError, r"no psfscale store at .*x\.zarr"),
        ({"prior": survey / "mine.zarr"}, ConfigError, "names this run's own output"),
        ({"prior": survey_alone.output, "settings": {"mode": "sparse"}}, ConfigError, "not sparse"),
    ):
        with pytest.raises(error, match=message):
            build_context(restoring(survey, "mine", **restore))


def test_read_prior__refuses_sums_of_another_layout(learnt, monkeypatch) -> None:
    monkeypatch.setattr(run_prior, "N_SUMS", 3)
    with pytest.raises(StoreError, match=r"the prior in .* is of another psfscale"):
        run_prior.read_prior(learnt.output)


def test_load_config__finds_the_prior_beside_the_run_file(tmp_path) -> None:
    content = {"survey": "s", "instrument": "i", "output": "o", "restore": {"prior": "p.npz"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    assert load_config(tmp_path / "run.yaml").restore.prior == tmp_path / "p.npz"
    other = load_config(tmp_path / "run.yaml", [f"restore.prior={tmp_path}/a/q.npz"])
    assert other.restore.prior == tmp_path / "a/q.npz"
    assert load_config(tmp_path / "run.yaml", ["restore.prior=null"]).restore.prior is None
