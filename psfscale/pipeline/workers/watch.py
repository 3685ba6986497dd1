"""When a run should not go on as it is: units that never end, and too many CCDs that fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from psfscale.errors import RunError
from psfscale.pipeline.ledger.journal import History, note_death, read_history
from psfscale.pipeline.units.task import Task, overdue

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from psfscale.config import Limits
    from psfscale.pipeline.ledger.marker import Key


def blame_overdue(
    run: Path, flying: Iterable[tuple[Task, float]], limit: float
) -> dict[Key, History]:
    """Blame units that run longer than a live worker would let them.

    A worker ends itself when its unit takes too long; one that cannot is stuck.

    Parameters
    ----------
    run : path of the run store
    flying : units handed out, and when [Unix time]
    limit : longest that one may run [s]
    """
    now, blamed = time.time(), {}
    for task, since in flying:
        if now - since < limit:
            continue
        history = read_history(run, task.key)
        if history.began(task.attempt, task.lease) and now - history.attempts[-1]["time"] > limit:
            blamed[task.key] = note_death(run, task.key, overdue(task))
    return blamed


def require_success(n_good: int, n_failed: int, limits: Limits, run: Path) -> None:
    """That not too many of the CCDs finished so far have failed.

    Raises
    ------
    RunError
        They have.
    """
    total = n_good + n_failed
    if n_failed >= limits.failed_minimum and n_failed > limits.failed_fraction * total:
        msg = (
            f"{n_failed} of {total} CCDs failed, more than limits.failed_fraction "
            f"{limits.failed_fraction:g}; see `psfscale status {run}`, and raise the "
            "limit or mend the cause"
        )
        raise RunError(msg)
