from __future__ import annotations

import dataclasses
import io
import json
import re
import time

import pytest
from rich.console import Console

from psfscale.pipeline.events import (
    CcdFailed,
    ClusterLost,
    Notice,
    RunFinished,
    RunStarted,
    UnitAdvanced,
    UnitDied,
    UnitFinished,
    UnitSubmitted,
    gauge,
)
from psfscale.pipeline.events.bar import ProgressBar
from psfscale.pipeline.events.log import EventLog

COUNTS = {"n_done": 1, "n_empty": 0, "n_failed": 1, "n_blocked": 0}
SUBMITTED = UnitSubmitted(time=0.0, stage="fit", exposure=0, attempt=1, alone=False)
FINISHED = UnitFinished(
    time=2.0,
    stage="fit",
    exposure=0,
    exposure_id="exp-0",
    cpu_seconds=1.0,
    seconds=2.0,
    peak_memory=1,
    host="here",
    **COUNTS,
)
STORY = [
    RunStarted(time=0.0, run="run.zarr", n_units=4, n_done=0, steps={"fit": 8}),
    SUBMITTED,
    UnitSubmitted(time=0.0, stage="fit", exposure=1, attempt=1, alone=False),
    CcdFailed(time=1.0, stage="fit", exposure_id="exp-0", ccd_id=3, reason="FitError: [few]"),
    FINISHED,
    UnitDied(time=3.0, stage="fit", exposure=1, n_deaths=1, reason="its worker died"),
    ClusterLost(time=4.0, reason="no workers", n_restarts=1),
    RunFinished(time=5.0, n_units=1, n_left=3, reason="x", seconds=5.0, peak_memory=1),
]


def bar_of(out: io.StringIO, *, terminal: bool = False, **options) -> ProgressBar:
    return ProgressBar(
        Console(file=out, force_terminal=terminal, width=200, color_system=None), **options
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_bar__shows_progress_and_every_failure(terminal) -> None:
    out = io.StringIO()
    with bar_of(out, terminal=terminal) as bar:
        for event in STORY:
            bar(event)
    said = out.getvalue()
    assert "quarantined: fit exp-0 CCD 3: FitError: [few]" in said
    assert "fit of exposure 1 killed its process (death 1): its worker died" in said
    assert "cluster lost, building a new one: no workers" in said
    assert "run 2/8 CCD steps" in said
    assert "1 failed" in said
    assert "elapsed" in said


def test_bar__counts_the_ccds_of_units_that_run() -> None:
    bar = bar_of(io.StringIO())
    bar(RunStarted(run="run.zarr", n_units=1, n_done=0, steps={"fit": 36}))
    bar(SUBMITTED)
    bar(UnitAdvanced(stage="fit", exposure=0, n_ccds=12))
    assert (bar.gauge.done, bar.gauge.total) == (12, 36)
    bar(UnitDied(stage="fit", exposure=0, n_deaths=1, reason="x"))
    assert bar.gauge.done == 0
    bar.gauge.close()


def test_bar__expects_of_each_stage_what_it_has_taken_so_far() -> None:
    """Two of four units of either stage are done: 3 of 4 parts of the time with the slow ones."""
    bar = bar_of(io.StringIO())
    bar(RunStarted(run="run.zarr", n_units=4, n_done=0, steps={"fit": 4, "psf": 4}))
    finished = dataclasses.replace(FINISHED, seconds=30.0)
    bar(finished)
    bar(dataclasses.replace(finished, exposure=1))
    bar(dataclasses.replace(finished, stage="psf", seconds=10.0))
    assert bar._share(bar._done) == pytest.approx((4 * 15 + 2 * 5) / (4 * 15 + 4 * 5))
    bar.gauge.close()


def test_bar__adds_the_runs_of_several_drivers_up() -> None:
    bar = bar_of(io.StringIO(), n_runs=3)
    for driver in (0, 1):
        told = bar.of(driver)
        told(RunStarted(run=f"{driver}.zarr", n_units=1, n_done=0, steps={"fit": 4}))
        told(SUBMITTED)
        told(UnitAdvanced(stage="fit", exposure=0, n_ccds=1 + driver))
    assert (bar.gauge.done, bar.gauge.total) == (3, 8)
    bar.of(0)(FINISHED)
    bar.of(0)(STORY[-1])
    assert bar.gauge.done == 2 + 2
    assert "1 units in flight, 1 of 3 blocks over" in bar.gauge.note
    bar.of(1)(ClusterLost(reason="x", n_restarts=1))
    assert bar.gauge.done == 2
    bar.gauge.close()


def test_bar__says_nothing_of_a_run_without_units() -> None:
    out = io.StringIO()
    with bar_of(out) as bar:
        bar(RunStarted(run="run.zarr", n_units=0, n_done=6))
        bar(RunFinished(n_units=0, n_left=0, reason="x", seconds=0.0, peak_memory=1))
    assert out.getvalue() == ""


def test_gauge__writes_a_line_every_so_often_where_there_is_no_terminal(monkeypatch) -> None:
    monkeypatch.setattr(gauge, "LINE_EVERY", 0.01)
    out = io.StringIO()
    with gauge.Gauge("draw", "CCDs", Console(file=out, force_terminal=False, width=200)) as shown:
        shown.show(0, 40, "a")
        end = time.monotonic() + 60
        while out.getvalue().count("\n") < 3 and time.monotonic() < end:
            time.sleep(0.01)
        shown.show(10, 40, "b")
    lines = out.getvalue().splitlines()
    assert lines[0] == "draw 0/40 CCDs, 0:00:00 elapsed; a"
    assert len(lines) >= 4
    assert re.fullmatch(r"draw 10/40 CCDs, \S+/s, 0:0\S+ elapsed, about 0:0\S+ left; b", lines[-1])


def test_gauge__takes_the_time_left_from_the_share_of_the_work(monkeypatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(gauge.time, "monotonic", lambda: now[0])
    shown = gauge.Gauge("run", "CCD steps", Console(file=io.StringIO(), force_terminal=False))
    shown.show(0, 40)
    now[0] += 60.0
    shown.show(30, 40, share=0.25)
    assert shown.line() == "run 30/40 CCD steps, 0.5/s, 0:01:00 elapsed, about 0:03:00 left"
    shown.show(40, 40)
    assert shown.line() == "run 40/40 CCD steps, 0.67/s, 0:01:00 elapsed"
    shown.close()


def test_log__appends_one_line_an_event(tmp_path) -> None:
    for _ in range(2):
        with EventLog(tmp_path) as log:
            for event in (*STORY, UnitAdvanced(stage="fit", exposure=1, n_ccds=1)):
                log(event)
    lines = (tmp_path / ".psfscale/events.jsonl").read_text().splitlines()
    assert len(lines) == 2 * len(STORY)
    assert json.loads(lines[5]) == {
        "event": "UnitDied",
        "time": 3.0,
        "stage": "fit",
        "exposure": 1,
        "n_deaths": 1,
        "reason": "its worker died",
    }


def test_event_log__that_cannot_be_written_ends_nothing(tmp_path, monkeypatch, caplog) -> None:
    with EventLog(tmp_path) as log:
        log._file.close()
        log._file = open("/dev/full", "w", buffering=1)  # noqa: PTH123, SIM115
        log(Notice(text="one"))
        log(Notice(text="two"))
    assert [r.getMessage() for r in caplog.records] == [
        f"{log.path}: No space left on device; the run goes on without its log of events"
    ]
    (tmp_path / "file").touch()
    with EventLog(tmp_path / "file") as log:
        log(Notice(text="one"))
    assert "Not a directory" in caplog.records[-1].getMessage()
