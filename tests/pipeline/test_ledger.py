from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import toy

from psfscale.arrays import UnitState
from psfscale.errors import HeldError, RunError, StoreError
from psfscale.pipeline import open_run, run, status
from psfscale.pipeline.ledger import identity
from psfscale.pipeline.ledger import lease as lease_module
from psfscale.pipeline.ledger.files import read_json, write_json
from psfscale.pipeline.ledger.journal import (
    History,
    begun_units,
    forget_attempt,
    note_death,
    note_end,
    note_start,
    read_history,
)
from psfscale.pipeline.ledger.lease import Lease, holds, read_holder
from psfscale.pipeline.ledger.marker import Failure, Marker, read_markers, write_marker
from psfscale.pipeline.ledger.table import Books, read_known

MARKER = Marker(
    stage="fit",
    exposure=7,
    exposure_id="exp-7",
    fingerprint="abc",
    states=(1, 3, 4),
    failures=(
        Failure(
            stage="fit", exposure=7, exposure_id="exp-7", ccd=1, ccd_id=2, type="E", message="m"
        ),
    ),
    versions={"numpy": "2"},
)


def test_marker__reads_back_as_written(tmp_path) -> None:
    write_marker(tmp_path, MARKER)
    assert read_markers(tmp_path) == {("fit", 7): MARKER}
    assert not MARKER.good
    assert MARKER.count(UnitState.BLOCKED) == 1


def test_write_json__leaves_the_old_file_where_writing_fails(tmp_path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"whole": True})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"broken": object()})
    assert read_json(path) == {"whole": True}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.torch
def test_books__hold_what_the_markers_held(survey) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    path = survey / "run.zarr"
    run(toy.make_config(survey), serial=True, observers=[])
    tree = open_run(path)
    assert (tree["units/fingerprint"] == tree["units/wanted"]).all()
    units = tree["units"].to_dataset().sel(stage=list(toy.STAGES))
    assert (units["finished"] > 1e9).all()
    assert (units["peak_memory"] > 1e6).all()
    assert (units["attempt"] == 1).all()
    assert set(units["host"].values.ravel()) == {socket.gethostname()}
    assert set(units["device"].values.ravel()) == {"cpu"}
    assert (units["stage_seconds"] <= units["cpu_seconds"]).all()
    assert tree["ccds/state"].values[1, :, 0].tolist() == [3, 1]


@pytest.mark.torch
def test_markers__stay_files_only_where_they_say_more_than_the_books(survey) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    run(toy.make_config(survey), serial=True, observers=[])
    (left,) = read_markers(survey / "run.zarr").values()
    assert left.key == ("fit", 1)
    assert left.failures[0].type == "FitError"


@pytest.mark.torch
def test_books__take_in_markers_again_where_a_driver_died_before_removing_them(survey) -> None:
    path = survey / "run.zarr"
    run(toy.make_config(survey), serial=True, observers=[])
    before = toy.run_arrays(path)
    known = read_known(path, ["fit", "psf", "metrics"])
    marker = dataclasses.replace(
        MARKER,
        exposure=1,
        failures=(),
        versions=None,
        states=(1, 1),
        fingerprint=f"{int(known.fingerprints[1, 0]):016x}",
    )
    write_marker(path, marker)
    Books(path).take_in()
    assert not read_markers(path)
    after = toy.run_arrays(path)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


@pytest.mark.torch
def test_books__forget_what_is_struck_out(survey) -> None:
    path = survey / "run.zarr"
    run(toy.make_config(survey), serial=True, observers=[])
    Books(path).strike_out([("psf", 0), ("metrics", 0)])
    assert (read_known(path, ["fit", "psf", "metrics"]).fingerprints > 0).tolist() == [
        [True, False, False],
        [True, True, True],
    ]
    assert open_run(path)["ccds/state"].sel(stage=list(toy.STAGES)).values[0, 0].tolist() == [
        1,
        0,
        0,
    ]


def test_journal__tells_deaths_from_interruptions(tmp_path) -> None:
    key = ("fit", 3)
    assert not read_history(tmp_path, key).attempts
    for attempt in (1, 2):
        note_start(tmp_path, key, attempt=attempt, lease="one")
        history = note_death(tmp_path, key, f"death {attempt}")
    assert history.alone
    assert not history.condemned
    assert note_death(tmp_path, key, "death 3").condemned
    assert begun_units(tmp_path)[key].deaths == ("death 1", "death 2", "death 3")
    note_end(tmp_path, key)
    assert not begun_units(tmp_path)


def test_journal__has_a_unit_run_alone_after_three_drivers_ended_in_it(tmp_path) -> None:
    for attempt in (1, 2, 3):
        assert not read_history(tmp_path, ("fit", 0)).alone
        note_start(tmp_path, ("fit", 0), attempt=attempt, lease=str(attempt))
    history = read_history(tmp_path, ("fit", 0))
    assert history.alone
    assert not history.condemned
    assert history.began(3, "3")
    assert not history.began(3, "2")


def test_lease__is_given_back(tmp_path) -> None:
    with Lease(tmp_path) as lease:
        assert holds(tmp_path, lease.token)
        assert read_holder(tmp_path).state == "running"
    assert read_holder(tmp_path) is None


def test_lease__refuses_a_second_driver(tmp_path) -> None:
    message = rf"host {socket.gethostname()}, process {os.getpid()}\); wait"
    with Lease(tmp_path), pytest.raises(RunError, match=message), Lease(tmp_path):
        pass
    with Lease(tmp_path):
        pass


def test_lease__of_a_dead_process_is_taken_over(tmp_path) -> None:
    code = (
        "import sys, os; from pathlib import Path; "
        "from psfscale.pipeline.ledger.lease import Lease; "
        "Lease(Path(sys.argv[1])).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert read_holder(tmp_path).state == "stale"
    with Lease(tmp_path) as lease:
        assert holds(tmp_path, lease.token)


@pytest.mark.parametrize(("age", "state"), [(10.0, "running"), (400.0, "stale")])
def test_lease__of_another_host_is_judged_by_its_silence(tmp_path, age, state) -> None:
    holder = {"token": "t", "host": "elsewhere", "pid": 1, "born": 0.0}
    path = tmp_path / ".psfscale/lease.json"
    write_json(path, {**holder, "heartbeat": time.time() - age})
    assert read_holder(tmp_path).state == state


def rewrite_lease(run, **changes) -> None:
    path = run / ".psfscale/lease.json"
    write_json(path, {**json.loads(path.read_text()), **changes})


def test_lease__of_a_reused_process_number_is_stale(tmp_path) -> None:
    with Lease(tmp_path):
        assert read_holder(tmp_path).state == "running"
        rewrite_lease(tmp_path, born=identity.born(os.getpid()) - 1)
        assert read_holder(tmp_path).state == "stale"


def test_lease__of_a_living_process_outlives_its_silence(tmp_path) -> None:
    """Its heartbeat may hang in a file system; a clock that is set changes nothing."""
    with Lease(tmp_path):
        rewrite_lease(tmp_path, heartbeat=0.0)
        with pytest.raises(HeldError), Lease(tmp_path):
            pass


@pytest.mark.parametrize("age", [0.0, 400.0])
def test_lease__in_another_container_of_this_host_is_judged_by_its_silence(tmp_path, age) -> None:
    """The number of its process means nothing here, or another process."""
    with Lease(tmp_path):
        elsewhere = f"{identity.place().split()[0]} pid:[1]"
        rewrite_lease(tmp_path, place=elsewhere, pid=2**22 + 1, heartbeat=time.time() - age)
        assert read_holder(tmp_path).state == ("stale" if age else "running")


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a space of process numbers")
def test_lease__of_a_driver_in_another_container_is_not_taken(tmp_path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from psfscale.pipeline.ledger.lease import Lease; "
        "Lease(Path(sys.argv[1])).__enter__()"
    )
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no spaces of process numbers here")
    with Lease(tmp_path):
        command = [*unshare, sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "HeldError" in done.stderr
        assert "in another container" in done.stderr
        assert "--wait-lease" in done.stderr


@pytest.mark.parametrize("left", ["", "{", "[1]", '{"token": "t"}'])
def test_lease__that_a_power_cut_left_unreadable_is_nobodys(tmp_path, left) -> None:
    (tmp_path / ".psfscale").mkdir()
    (tmp_path / ".psfscale/lease.json").write_text(left)
    assert read_holder(tmp_path) is None
    with Lease(tmp_path) as lease:
        assert holds(tmp_path, lease.token)


@pytest.mark.parametrize("left", ["", "{", "{}", '{"attempts": 1, "deaths": []}'])
def test_journal__that_a_power_cut_left_unreadable_says_nothing(tmp_path, left) -> None:
    path = tmp_path / ".psfscale/started/fit/0.json"
    path.parent.mkdir(parents=True)
    path.write_text(left)
    assert begun_units(tmp_path) == {("fit", 0): History()}
    note_start(tmp_path, ("fit", 0), attempt=1, lease="one")
    assert len(read_history(tmp_path, ("fit", 0)).attempts) == 1


def test_journal__forgets_an_attempt_that_a_signal_to_the_driver_ended(tmp_path) -> None:
    key = ("fit", 0)
    note_start(tmp_path, key, attempt=1, lease="one")
    note_death(tmp_path, key, "killed")
    note_start(tmp_path, key, attempt=2, lease="one")
    forget_attempt(tmp_path, key, attempt=2, lease="one")
    history = read_history(tmp_path, key)
    assert ([a["attempt"] for a in history.attempts], history.deaths) == ([1], ("killed",))


def test_lease__is_waited_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lease_module, "LOOK_EVERY", 0.01)
    first, looks = Lease(tmp_path), []

    def end_after_three_looks() -> None:
        looks.append(None)
        if len(looks) == 3:
            first.__exit__()

    first.__enter__()
    with Lease(tmp_path, wait=600.0, check=end_after_three_looks) as lease:
        assert holds(tmp_path, lease.token)
    assert len(looks) == 3


def test_lease__on_a_file_system_without_locks_excludes_others_too(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with Lease(tmp_path), pytest.raises(HeldError), Lease(tmp_path):
        pass
    left = tmp_path / ".psfscale/lease.lock.held"
    left.mkdir()
    os.utime(left, (0, 0))
    with Lease(tmp_path):
        assert not left.exists(), "a lock that a dead process left stays"


def test_lease__renews_itself_and_notices_its_loss(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT", 0.02)
    with Lease(tmp_path) as lease:
        first = read_holder(tmp_path).heartbeat
        end = time.monotonic() + 5
        while read_holder(tmp_path).heartbeat == first and time.monotonic() < end:
            time.sleep(0.01)
        assert read_holder(tmp_path).heartbeat > first
        content = json.loads((tmp_path / ".psfscale/lease.json").read_text())
        monkeypatch.setattr(lease_module, "HEARTBEAT", 0.02)
        with lease_module._exclusive(tmp_path):
            write_json(tmp_path / ".psfscale/lease.json", {**content, "token": "another"})
        assert lease.lost.wait(5)
    assert read_holder(tmp_path).token == "another"


@pytest.mark.torch
def test_status__is_read_from_the_store_without_a_cluster(survey) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    run(toy.make_config(survey), serial=True, observers=[])
    code = (
        "import sys, json; from pathlib import Path; from psfscale.pipeline import status; "
        "print(json.dumps(status(Path(sys.argv[1])).as_dict())); "
        "assert not {'dask', 'distributed', 'torch', 'galsim'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(survey / "run.zarr")]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    stands = json.loads(out)
    assert stands["finished"]
    assert stands["driver"] == "none"
    assert stands["units"]["fit"] == {
        "done": 1,
        "failed": 1,
        "running": 0,
        "interrupted": 0,
        "changed": 0,
        "pending": 0,
    }
    ccds = {name: n for name, n in stands["ccds"]["psf"].items() if n}
    assert ccds == {"DONE": 3, "BLOCKED": 1}
    assert stands["failures"][0]["type"] == "FitError"


def test_status__of_no_run_is_an_error(tmp_path) -> None:
    with pytest.raises(StoreError, match="no psfscale store at"):
        status(tmp_path / "nothing.zarr")
