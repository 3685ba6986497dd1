from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import toy
import xarray as xr

import psfscale
from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError, StoreError
from psfscale.pipeline import aggregate_run, run, run_blocks, write_index

PAGE = Path(__file__).parents[3] / "docs/recipes.md"
RECIPES = re.findall(r"## (.*?)\n.*?```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture
def finished(survey):
    """A run of two exposures of which one CCD has no PSF."""
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    run(toy.make_config(survey), serial=True, observers=[])
    return survey / "run.zarr"


def test_recipes__are_five() -> None:
    assert len(RECIPES) == 5


@pytest.mark.parametrize(("title", "code"), RECIPES, ids=[title for title, _ in RECIPES])
def test_recipe__runs_as_printed(survey, monkeypatch, title, code) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    settings = {"learnt": {"n_rounds": 1, "fast": True}}
    restore = {"at_galaxies": "restored" in code, "settings": settings}
    run(toy.make_config(survey, restore=restore), serial=True, observers=[])
    monkeypatch.chdir(survey)
    exec(code, {})  # the page's own lines


def test_galaxies__are_read_when_they_are_used(survey) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    config = toy.make_config(survey, restore={"at_galaxies": True})
    run(config, serial=True, observers=[])
    opened = psfscale.open_run(config.output)
    galaxies = opened.galaxies(exposure="exp-0", ccd=1)
    for name in ("image", "weight", "psf", "restored", "restored_error", "restored_flux"):
        assert not galaxies[name].variable._in_memory, name
    assert galaxies["restored"].shape == (5, toy.SIDE, toy.SIDE)
    assert (galaxies["restored_error"] > 0).all()
    lost = opened.galaxies(exposure="exp-1", ccd=1)
    assert np.isnan(lost["restored"]).all()
    assert (lost["restored_flags"] == ObjectFlag.PSF_MISSING).all()


def test_run__draws_the_psf_that_its_stage_drew(finished) -> None:
    opened = psfscale.open_run(finished)
    galaxies = opened.galaxies(exposure="exp-0", ccd=2)
    assert galaxies.sizes["galaxy"] == 5
    drawn = opened.psf(exposure="exp-0", ccd=2, x=galaxies.x, y=galaxies.y)
    np.testing.assert_array_equal(drawn, galaxies.psf)
    np.testing.assert_allclose(drawn.sum(["psf_y", "psf_x"]), 1, rtol=1e-6)
    assert opened.psf(exposure="exp-0", ccd=2, x=3, y=4, size=7, oversampling=2).shape == (1, 7, 7)


def test_run__takes_an_exposure_that_is_numbered_by_its_number(finished) -> None:
    opened = psfscale.open_run(finished)
    opened.exposures = ["241237", "241238"]
    by_name = opened.psf(exposure="241237", ccd=2, x=3, y=4)
    np.testing.assert_array_equal(opened.psf(exposure=241237, ccd=2, x=3, y=4), by_name)
    np.testing.assert_array_equal(opened.psf(exposure=np.int64(241237), ccd=2, x=3, y=4), by_name)
    assert opened.galaxies(exposure=241237, ccd=2).sizes["galaxy"] == 5
    with pytest.raises(InputError, match="has no exposure '7'; its first are"):
        opened.psf(exposure=7, ccd=2, x=3, y=4)


def test_run__gives_metrics_of_every_level(finished) -> None:
    opened = psfscale.open_run(str(finished))
    assert opened.metrics("star").chi2.dims == ("star",)
    assert opened.metrics("ccd").n_fit.dims == ("exposure", "ccd")
    assert opened.metrics("exposure").n_ccds.values.tolist() == [2, 1]
    assert int(opened.metrics().n_exposures) == 2
    assert "2 exposures of 2 CCDs" in repr(opened)
    with pytest.raises(InputError, match="there is no level 'night'"):
        opened.metrics("night")


@pytest.fixture
def blocks(survey):
    """The same two exposures as one run, and as a run in two blocks with unlike room for stars."""
    for k in range(2):
        store = toy.make_survey(survey / f"part-{k}.zarr", 2)
        root = toy.open_root(store, mode="r+")
        gone = 1 - k
        root["exposures/complete"][gone] = root["stars/role"][gone] = 0
        root["exposure"][gone] = root["exposures/id"][gone] = f"gone-{k}"
    write_index(survey / "index.yaml", [survey / "part-0.zarr", survey / "part-1.zarr"])
    whole = toy.make_config(survey)
    config = toy.make_config(survey, survey=survey / "index.yaml", output=survey / "runs")
    run(whole, serial=True, observers=[])
    run_blocks(config, serial=True, observers=[])
    return psfscale.open_run(whole.output), psfscale.open_run(config.output)


def chi2_of(stars, where):
    return stars.chi2.values[(stars.exposure == where["exposure"]) & (stars.ccd == where["ccd"])]


def test_blocks__are_read_as_one_run(blocks) -> None:
    whole, parts = blocks
    assert "4 exposures of 2 CCDs" in repr(parts)
    assert parts.exposures == parts.tree["exposure"].values.tolist()
    assert (whole.exposures, whole.ccds) == (["exp-0", "exp-1"], [1, 2])
    for exposure in ("exp-0", "exp-1"):
        where = {"exposure": exposure, "ccd": 2}
        at = {**where, "x": [30.0, 200.5], "y": [100.0, 7.0]}
        np.testing.assert_array_equal(parts.psf(**at), whole.psf(**at))
        xr.testing.assert_equal(
            parts.galaxies(**where).load(),
            whole.galaxies(**where).load(),
        )
        ours, alone = (chi2_of(run.metrics("star"), where) for run in blocks)
        np.testing.assert_array_equal(ours, alone)
        assert ours.size == toy.N_FILLED
    ours, alone = parts.metrics(), whole.metrics()
    assert set(ours) == set(alone)
    assert int(ours.n_exposures) == 2
    np.testing.assert_allclose(ours.e1_rmse, alone.e1_rmse, rtol=1e-12)
    assert ours.e1_rmse.attrs == alone.e1_rmse.attrs
    with pytest.raises(InputError, match="has no exposure 'exp-7'"):
        parts.psf(exposure="exp-7", ccd=1, x=[1.0], y=[1.0])


def test_table__is_what_metrics_made(finished) -> None:
    opened = psfscale.open_run(finished)
    with pytest.raises(InputError, match=r"no table 'rho'; there are: none; `psfscale metrics"):
        opened.table("rho")
    aggregate_run(finished)
    assert int(opened.table("stars/overall").n_objects) == 3 * toy.N_FILLED
    with pytest.raises(InputError, match=r"no table 'rho'; there are: stars/"):
        opened.table("rho")


def test_run__says_why_there_is_no_psf(finished) -> None:
    opened = psfscale.open_run(finished)
    with pytest.raises(StoreError, match="CCD 1 of exposure exp-1 has no PSF: its fit is quaran"):
        opened.psf(exposure="exp-1", ccd=1, x=[1.0], y=[1.0])
    with pytest.raises(InputError, match="has no exposure 'exp-7'; its first are"):
        opened.model(exposure="exp-7", ccd=1)


def test_run__refuses_to_show_galaxies_it_does_not_have(tmp_path, mean_model) -> None:
    toy.write_instrument(tmp_path)
    toy.make_survey(tmp_path / "survey.zarr", 1, galaxies=False)
    config = toy.make_config(tmp_path)
    run(config, serial=True, observers=[])
    with pytest.raises(InputError, match="holds no galaxies"):
        psfscale.open_run(config.output).galaxies(exposure="exp-0", ccd=1)
