from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from psfscale.pipeline.events import (
    CcdFailed,
    ClusterLost,
    Notice,
    RunFinished,
    RunStarted,
    UnitDied,
    UnitFinished,
    UnitSubmitted,
)
from psfscale.pipeline.events.bar import ProgressBar
from psfscale.pipeline.events.log import EventLog

COUNTS = {"n_done": 1, "n_empty": 0, "n_failed": 1, "n_blocked": 0}
STORY = [
    RunStarted(time=0.0, run="run.zarr", n_units=4, n_done=0),
    UnitSubmitted(time=0.0, stage="fit", exposure=0, attempt=1, alone=False),
    UnitSubmitted(time=0.0, stage="fit", exposure=1, attempt=1, alone=False),
    CcdFailed(time=1.0, stage="fit", exposure_id="exp-0", ccd_id=3, reason="FitError: [few]"),
    UnitFinished(
        time=2.0,
        stage="fit",
        exposure=0,
        exposure_id="exp-0",
        cpu_seconds=1.0,
        seconds=2.0,
        peak_memory=1,
        host="here",
        **COUNTS,
    ),
    UnitDied(time=3.0, stage="fit", exposure=1, n_deaths=1, reason="its worker died"),
    ClusterLost(time=4.0, reason="no workers", n_restarts=1),
    RunFinished(time=5.0, n_units=1, n_left=3, reason="x", seconds=5.0, peak_memory=1),
]


@pytest.mark.parametrize("terminal", [True, False])
def test_bar__shows_progress_and_every_failure(terminal) -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=terminal, width=120, color_system=None))
    for event in STORY:
        bar(event)
    said = out.getvalue()
    assert "quarantined: fit exp-0 CCD 3: FitError: [few]" in said
    assert "fit of exposure 1 killed its process (death 1): its worker died" in said
    assert "cluster lost, building a new one: no workers" in said
    assert "1/4" in said
    assert "1 CCDs failed" in said
    assert ("0.5 units/s" in said) is terminal


def test_bar__says_nothing_of_a_run_without_units() -> None:
    out = io.StringIO()
    bar = ProgressBar(Console(file=out, force_terminal=False))
    bar(RunStarted(run="run.zarr", n_units=0, n_done=6))
    bar(RunFinished(n_units=0, n_left=0, reason="x", seconds=0.0, peak_memory=1))
    assert out.getvalue() == ""


def test_log__appends_one_line_an_event(tmp_path) -> None:
    for _ in range(2):
        with EventLog(tmp_path) as log:
            for event in STORY:
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
