"""Two drivers at work on one survey in blocks."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import toy
import yaml

from psfscale.pipeline import status_of, write_index
from psfscale.store.stores import open_root

N_BLOCKS = 3


@pytest.fixture
def in_blocks(survey):
    """A run file for three blocks of two exposures; fits wait until two drivers are at it."""
    stores = [survey / f"block-{k}.zarr" for k in range(N_BLOCKS)]
    for k, store in enumerate(stores):
        toy.make_survey(store, 2, galaxies=False)
        root = open_root(store, mode="r+")
        root["exposure"][:] = root["exposures/id"][:] = [f"exp-{k}-0", f"exp-{k}-1"]
    write_index(survey / "survey.yaml", stores)
    run_file = survey / "run.yaml"
    content = {
        "survey": "survey.yaml",
        "instrument": "toy.yaml",
        "output": "runs",
        "model": {"name": "rca", "settings": {"meet": str(survey / "meet")}},
    }
    run_file.write_text(yaml.safe_dump(content))
    return run_file


def start(run_file) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "psfscale.cli", "run", str(run_file), "--serial"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_drivers__share_the_blocks_of_an_index_and_do_nothing_twice(in_blocks) -> None:
    drivers = [start(in_blocks), start(in_blocks)]
    told = [driver.communicate(timeout=200) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], told
    state = status_of(in_blocks.parent / "runs")
    assert state.finished
    wanted = sum(sum(units.values()) for b in state.blocks.values() for units in b.units.values())
    done = [sum(map(int, re.findall(r": (\d+) units run", out))) for out, _ in told]
    assert sum(done) == wanted == N_BLOCKS * 2 * 2
    assert min(done) > 0, told
    attempts = [cost.n_attempts for b in state.blocks.values() for cost in b.costs.values()]
    assert sum(attempts) == wanted
