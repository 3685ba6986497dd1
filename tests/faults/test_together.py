"""Several drivers on the blocks of one survey."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import toy

from psfscale.errors import ConfigError, RunError
from psfscale.pipeline import run, run_survey, run_together, status, write_index
from psfscale.pipeline.ledger.journal import begun_units
from psfscale.pipeline.workers.profiles import AddressProfile, LocalProfile

pytestmark = pytest.mark.slow
NAMES = ("a", "b")


@pytest.fixture
def blocks(survey):
    """Two blocks of one exposure each, and their index."""
    for number, name in enumerate(NAMES):
        path = toy.make_survey(survey / f"{name}.zarr", 1)
        root = toy.open_root(path, mode="r+")
        root["exposure"][0] = root["exposures/id"][0] = f"exp-{number}"
    write_index(survey / "survey.yaml", [survey / f"{name}.zarr" for name in NAMES])
    return make_config(survey)


def make_config(survey, **settings):
    places = {"survey": survey / "survey.yaml", "output": survey / "runs"}
    return toy.make_config(survey, **places, model={"settings": settings})


def times(folder, name: str) -> tuple[float, float]:
    lines = (folder / f"runs/{name}.zarr/.psfscale/events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    ends = [e["time"] for e in events if e["event"] == "UnitFinished" and e["stage"] == "fit"]
    return min(e["time"] for e in events if e["event"] == "UnitSubmitted"), max(ends)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("serial", [True, False])
def test_two_drivers__run_two_blocks_at_the_same_time(survey, serial) -> None:
    cluster = None if serial else LocalProfile(workers=2)
    config = make_config(survey, meet=str(survey / "meet"))
    summary = run_survey(config, drivers=2, cluster=cluster, serial=serial)
    assert (summary.exit_code, set(summary.ended), summary.held) == (0, set(NAMES), {})
    (start_a, end_a), (start_b, end_b) = times(survey, "a"), times(survey, "b")
    assert max(start_a, start_b) < min(end_a, end_b)
    for name in NAMES:
        places = {"survey": survey / f"{name}.zarr", "output": survey / f"alone-{name}.zarr"}
        alone = config.model_copy(update=places)
        run(alone, serial=True, observers=[])
        toy.require_same_arrays(survey / f"runs/{name}.zarr", alone.output)


def test_signal__is_passed_on_to_all_drivers_and_the_same_command_resumes(survey, blocks) -> None:
    config = survey / "run.yaml"
    settings = "model: {settings: {sleep: 1.0}}\n"
    config.write_text(f"survey: survey.yaml\ninstrument: toy.yaml\noutput: runs\n{settings}")
    command = ["-m", "psfscale.cli", "run", str(config), "--serial", "--drivers", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    driver = subprocess.Popen([sys.executable, *command], **pipes)
    end = time.monotonic() + 100
    while time.monotonic() < end and not any(
        begun_units(survey / f"runs/{name}.zarr") for name in NAMES
    ):
        time.sleep(0.02)
    driver.send_signal(signal.SIGTERM)
    said, progress = driver.communicate(timeout=60)
    assert driver.returncode == 143, (said, progress)
    assert re.search(r"run \d/\d+ CCD steps.*of 2 blocks over", progress), progress
    assert "interrupted by SIGTERM" in said
    begun = [p for p in (survey / f"runs/{name}.zarr" for name in NAMES) if p.exists()]
    stands = [status(path) for path in begun]
    assert {s.driver for s in stands} == {"none"}
    assert not any(s.finished for s in stands)
    summary = run_together(blocks, drivers=2, serial=True)
    assert (summary.exit_code, len(summary.ended)) == (0, 2)


def test_driver_that_cannot_go_on__is_told_with_its_reason(survey, blocks) -> None:
    (survey / "runs/b.zarr").mkdir(parents=True)
    (survey / "runs/b.zarr/thesis.tex").touch()
    with pytest.raises(RunError, match=r"of 2 drivers.*StoreError: .*not a psfscale store"):
        run_together(blocks, drivers=2, serial=True)


def test_several_drivers__need_blocks_and_clusters_of_their_own(survey, blocks) -> None:
    there = AddressProfile(kind="address", address="tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="'address' runs already and cannot be shared out"):
        run_survey(blocks, drivers=2, cluster=there)
    with pytest.raises(ConfigError, match=r"survey\.zarr is one store, for one driver"):
        run_survey(toy.make_config(survey), drivers=2, serial=True)
