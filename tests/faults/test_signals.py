"""Ctrl-C, a closing terminal and signals to a whole group: nothing is booked, nothing is left."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
import toy
import yaml
from terminal import Terminal, wait_for

from psfscale.pipeline import run, status, write_index
from psfscale.pipeline.ledger.journal import begun_units
from psfscale.processes import SAME_SIGNAL

pytestmark = pytest.mark.slow
RUN = ("-m", "psfscale.cli", "run")
WAYS = {
    "ctrl-c": (lambda terminal: terminal.press_ctrl_c(), 130),
    "close": (lambda terminal: terminal.close(), 129),
    "term": (lambda terminal: os.killpg(terminal.process.pid, signal.SIGTERM), 143),
    "hup": (lambda terminal: os.killpg(terminal.process.pid, signal.SIGHUP), 129),
}


@pytest.fixture
def slow(survey):
    """A run file whose fits take their time."""
    content = {"survey": "survey.zarr", "instrument": "toy.yaml", "output": "run.zarr"}
    content["model"] = {"name": "rca", "settings": {"sleep": 0.5}}
    (survey / "run.yaml").write_text(yaml.safe_dump(content))
    return survey


def interrupt(terminal: Terminal, way: str) -> str:
    """End a command in one of the ways, with all that it has started; return what it said."""
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    act, code = WAYS[way]
    act(terminal)
    assert terminal.end() == code, terminal.said
    assert "Traceback" not in terminal.said
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    return terminal.said


def require_unblamed(folder) -> None:
    """No unit is held to have killed anything, or to have been running."""
    stands = status(folder / "run.zarr")
    assert (stands.driver, stands.deaths, stands.failures) == ("none", {}, ())
    assert begun_units(folder / "run.zarr") == {}
    assert '"UnitDied"' not in (folder / "run.zarr/.psfscale/events.jsonl").read_text()


def require_resumed(folder) -> None:
    """The same run, resumed, gives what one gives that nothing disturbed."""
    config = toy.make_config(folder, model={"settings": {"sleep": 0.5}})
    assert run(config, serial=True, observers=[]).exit_code == 0
    quiet = config.model_copy(update={"output": folder / "quiet.zarr"})
    assert run(quiet, serial=True, observers=[]).exit_code == 0
    toy.require_same_arrays(config.output, quiet.output)


def test_local_run__interrupted_in_every_way_blames_no_unit(slow) -> None:
    for way in WAYS:
        terminal = Terminal(*RUN, str(slow / "run.yaml"), "--workers", "1")
        wait_for(lambda: begun_units(slow / "run.zarr"))
        said = interrupt(terminal, way)
        assert way == "close" or "the same command resumes" in said
        require_unblamed(slow)
    require_resumed(slow)


def test_second_ctrl_c__ends_at_once(slow) -> None:
    """A serial run waits for its CCD after the first one, which takes long here."""
    terminal = Terminal(*RUN, str(slow / "run.yaml"), "--serial", "model.settings.sleep=600")
    wait_for(lambda: begun_units(slow / "run.zarr"))
    terminal.press_ctrl_c()
    time.sleep(2 * SAME_SIGNAL)
    assert terminal.process.poll() is None
    terminal.press_ctrl_c()
    assert terminal.end() == 130, terminal.said
    assert "Traceback" not in terminal.said


def test_several_drivers__are_interrupted_without_blame(slow) -> None:
    names = ("a", "b")
    for name in names:
        root = toy.open_root(toy.make_survey(slow / f"{name}.zarr", 3), mode="r+")
        root["exposure"][:] = root["exposures/id"][:] = [f"{name}-{k}" for k in range(3)]
    write_index(slow / "survey.yaml", [slow / f"{name}.zarr" for name in names])
    stores = [slow / "runs" / f"{name}.zarr" for name in names]
    places = ("survey=survey.yaml", "output=runs")
    for way in ("ctrl-c", "term"):
        command = (*RUN, "run.yaml", *places, "--drivers", "2", "--workers", "2")
        terminal = Terminal(*command, cwd=slow)
        wait_for(lambda: all(begun_units(store) for store in stores))
        said = interrupt(terminal, way)
        assert "the same command resumes" in said
        for store in stores:
            stands = status(store)
            assert (stands.driver, stands.deaths, stands.failures) == ("none", {}, ())
            assert begun_units(store) == {}


@pytest.mark.parametrize("way", ["ctrl-c", "term"])
def test_metrics_on_a_cluster__are_interrupted(slow, way) -> None:
    names = ("a", "b")
    for name in names:
        toy.make_survey(slow / f"{name}.zarr", 1)
        ids = toy.open_root(slow / f"{name}.zarr", mode="r+")
        ids["exposure"][0] = ids["exposures/id"][0] = name
        config = toy.make_config(
            slow, survey=slow / f"{name}.zarr", output=slow / f"runs/{name}.zarr"
        )
        assert run(config, serial=True, observers=[]).exit_code == 0
        for kept in (config.output / ".psfscale/tallies").glob("*"):
            kept.unlink()
    command = ("-m", "psfscale.cli", "metrics", str(slow / "runs"), "--workers", "2")
    terminal = Terminal(*command)
    leader = psutil.Process(terminal.process.pid)
    wait_for(lambda: len(leader.children(recursive=True)) >= 2)
    interrupt(terminal, way)


@pytest.mark.parametrize("way", ["ctrl-c", "term"])
def test_simulation_by_workers__is_interrupted(tmp_path, way) -> None:
    survey = toy.__file__.replace("tests/pipeline/toy.py", "catalogs/toy.yaml")
    command = ("-m", "psfscale.cli", "simulate", survey, str(tmp_path / "sky"))
    terminal = Terminal(*command, "--exposures", "50", "--workers", "2")
    wait_for(lambda: list(tmp_path.glob("sky/images/*.fits")))
    said = interrupt(terminal, way)
    assert "out of memory" not in said
    assert not list(tmp_path.rglob("*.partial"))


def test_children_of_a_killed_command__end_by_themselves(tmp_path) -> None:
    survey = toy.__file__.replace("tests/pipeline/toy.py", "catalogs/toy.yaml")
    command = ("-m", "psfscale.cli", "simulate", survey, str(tmp_path / "sky"))
    terminal = Terminal(*command, "--exposures", "50", "--workers", "2")
    wait_for(lambda: list(tmp_path.glob("sky/images/*.fits")))
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    assert len(children) >= 2
    terminal.process.kill()
    terminal.end()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
