"""From files to results: what a changed file makes a run do again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import toy
from astropy.io import fits

from psfscale.ingest import ingest
from psfscale.pipeline import open_run, plan_run, run
from psfscale.simulate import simulate
from psfscale.survey import load_survey

TOY = Path(__file__).parents[3] / "catalogs/toy.yaml"


def taken_in(sky: Path, store: Path) -> None:
    shutil.rmtree(store, ignore_errors=True)
    files = sorted((sky / "images").iterdir())
    assert ingest(load_survey(sky / "survey.yaml"), files, store).ok


@pytest.mark.slow
def test_one_changed_catalogue_file__reruns_its_exposure_alone(tmp_path, mean_model) -> None:
    sky, store = tmp_path / "sky", tmp_path / "survey.zarr"
    simulate(load_survey(TOY), sky, exposures=3, ccds=1, stars=12, galaxies=2, workers=1)
    taken_in(sky, store)
    config = toy.make_config(tmp_path, instrument=sky / "survey.yaml")
    assert run(config, serial=True, observers=[]).exit_code == 0
    before = open_run(config.output)["stars/fit_flux"].load()
    taken_in(sky, store)
    assert not plan_run(config).n_todo, "the same files, taken in again"
    changed = sorted((sky / "catalogues").glob("*stars*"))[1]
    with fits.open(changed, mode="update") as hdus:
        (table,) = [hdu.data for hdu in hdus if hdu.data is not None and hdu.data.dtype.names]
        name = next(n for n in table.dtype.names if n.lower().startswith("x"))
        table[name][0] += 3.0
    taken_in(sky, store)
    assert {item.unit.exposure for item in plan_run(config).todo} == {1}
    run(config, serial=True, observers=[])
    after = open_run(config.output)["stars/fit_flux"].load()
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert not before[1].equals(after[1])
