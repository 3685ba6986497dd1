from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toy

from psfscale.pipeline import run, status
from psfscale.pipeline.ledger.journal import begun_units
from psfscale.pipeline.ledger.table import read_known

DRIVE = Path(__file__).parent / "drive.py"
SLOW_FIT = {"model": {"settings": {"sleep": 0.2}}}
pytestmark = pytest.mark.slow


def start(folder: Path, *, workers: int | str, **changes) -> subprocess.Popen:
    command = [sys.executable, str(DRIVE), str(folder), str(workers), json.dumps(changes)]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)


def wait_for(what, *, seconds: float = 40.0):
    """The first true answer of `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = what()
        if answer:
            return answer
        time.sleep(0.02)
    pytest.fail(f"nothing came within {seconds} s")


def running_pid(folder: Path, driver: int):
    """Process that runs a fit right now, where that is not the driver."""
    for (stage, _), history in begun_units(folder / "run.zarr").items():
        if stage == "fit" and history.attempts and history.attempts[-1]["pid"] != driver:
            return history.attempts[-1]["pid"]
    return None


def n_done(folder: Path) -> int:
    """Units done, in the books or with a marker."""
    if not (folder / "run.zarr/zarr.json").exists():
        return 0
    known = read_known(folder / "run.zarr", ["fit", "psf", "metrics"])
    return int((known.fingerprints > 0).sum())


def events(folder: Path) -> list[dict]:
    lines = (folder / "run.zarr/.psfscale/events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def end(driver: subprocess.Popen, folder: Path, *, seconds: float = 60.0) -> str:
    """What the driver said when it ended, by itself."""
    try:
        driver.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        raise
    return (folder / "said").read_text()


def require_undisturbed(folder: Path) -> None:
    """The run's arrays are those of a serial run that nothing disturbed."""
    config = toy.make_config(folder, output=folder / "undisturbed.zarr", **SLOW_FIT)
    quiet = config.model_copy(update={"output": folder / "undisturbed.zarr"})
    assert run(quiet, serial=True, observers=[]).exit_code == 0
    toy.require_same_arrays(folder / "run.zarr", folder / "undisturbed.zarr")


def test_killed_worker__costs_its_unit_an_attempt_and_nothing_else(survey) -> None:
    driver = start(survey, workers=2, **SLOW_FIT)
    os.kill(wait_for(lambda: running_pid(survey, driver.pid)), signal.SIGKILL)
    said = end(driver, survey)
    assert driver.returncode == 0, said
    died = [e for e in events(survey) if e["event"] == "UnitDied"]
    assert [e["n_deaths"] for e in died] == [1]
    require_undisturbed(survey)


def test_killed_driver__leaves_a_run_that_the_same_command_finishes(survey) -> None:
    driver = start(survey, workers=1, **SLOW_FIT)
    wait_for(lambda: n_done(survey) >= 3)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    stands = status(survey / "run.zarr")
    assert stands.driver == "stale"
    assert "its driver died" in str(stands)
    assert not stands.finished
    done = n_done(survey)
    summary = run(toy.make_config(survey, **SLOW_FIT), serial=True, observers=[])
    assert summary.exit_code == 0
    assert summary.n_skipped >= min(done, 3)
    require_undisturbed(survey)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal__stops_cleanly_and_the_same_command_resumes(survey, number, code) -> None:
    driver = start(survey, workers=1, **SLOW_FIT)
    wait_for(lambda: n_done(survey) >= 2)
    os.killpg(driver.pid, number) if number == signal.SIGINT else driver.send_signal(number)
    said = end(driver, survey)
    assert driver.returncode == code, said
    assert "the same command resumes" in said
    assert "Traceback" not in said
    stands = status(survey / "run.zarr")
    assert stands.driver == "none"
    assert not stands.finished
    assert run(toy.make_config(survey, **SLOW_FIT), serial=True, observers=[]).exit_code == 0
    require_undisturbed(survey)


def test_signal__stops_a_serial_run_within_a_unit(survey) -> None:
    driver = start(survey, workers=0, model={"settings": {"sleep": 1.0}})
    wait_for(lambda: begun_units(survey / "run.zarr"))
    driver.send_signal(signal.SIGINT)
    said = end(driver, survey)
    assert driver.returncode == 130, said
    assert n_done(survey) == 0


def test_poisonous_unit__is_quarantined_by_name_on_its_third_death(survey) -> None:
    deaths = survey / "deaths"
    poison = {"kill_below_flux": 9950.0, "poison_file": str(deaths)}
    root = toy.open_root(survey / "survey.zarr", mode="r+")
    root["stars/image"][2, 0] *= 0.9
    driver = start(survey, workers=1, model={"settings": poison})
    said = end(driver, survey, seconds=200)
    assert driver.returncode == 1, said
    # one more where a death took its cluster along, which is not blamed on the unit
    assert deaths.read_text().count("killed") in (3, 4)
    stands = status(survey / "run.zarr")
    assert stands.units["fit"] | {"done": 3, "failed": 1} == stands.units["fit"]
    assert {f.exposure_id for f in stands.failures} == {"exp-2"}
    assert "killed its process 3 times, last: killed by SIGKILL" in stands.failures[0].message
    assert stands.finished


def test_unit_that_takes_too_long__is_ended_and_quarantined_by_name(survey) -> None:
    root = toy.open_root(survey / "survey.zarr", mode="r+")
    root["stars/image"][0, 1] *= 0.9
    settings = {"hang_below_flux": 9950.0}
    limits = {"unit_timeout": 4.0}
    driver = start(survey, workers=1, model={"settings": settings}, limits=limits)
    said = end(driver, survey, seconds=200)
    assert driver.returncode == 1, said
    stands = status(survey / "run.zarr")
    assert {f.exposure_id for f in stands.failures} == {"exp-0"}
    assert "3 times, last: took more than 4 s" in stands.failures[0].message
    assert stands.units["fit"] | {"done": 3, "failed": 1} == stands.units["fit"]


def test_greedy_unit__is_quarantined_by_name_and_leaves_the_machine_its_memory(survey) -> None:
    root = toy.open_root(survey / "survey.zarr", mode="r+")
    root["stars/image"][1, 1] *= 0.9
    (survey / "profile.yaml").write_text("kind: local\nworkers: 1\nmemory_per_worker: 1GB\n")
    driver = start(survey, workers="profile", model={"settings": {"hog_below_flux": 9950.0}})
    said = end(driver, survey, seconds=200)
    assert driver.returncode == 1, said
    stands = status(survey / "run.zarr")
    assert {f.exposure_id for f in stands.failures} == {"exp-1"}
    assert stands.units["fit"] | {"done": 3, "failed": 1} == stands.units["fit"]
