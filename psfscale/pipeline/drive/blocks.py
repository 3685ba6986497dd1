"""Surveys in blocks: one survey store and one run store a block, and an index over them.

Blocks need nothing of one another, so several drivers, each with a cluster of its own, may work
on one index: a block that another driver holds is passed by.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from signal import Signals
from typing import TYPE_CHECKING, Any

from psfscale.errors import ExitCode, HeldError
from psfscale.pipeline.drive.launch import INTERRUPTED, progress_bar, run
from psfscale.pipeline.drive.plan import plan_run
from psfscale.pipeline.ledger.lease import LOOK_EVERY, read_holder
from psfscale.processes import Interrupt, Interrupted
from psfscale.store.index import (
    INDEX,
    is_index,
    list_stores,
    read_index,
    run_stores,
    write_index,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from psfscale.config import RunConfig
    from psfscale.pipeline.drive.launch import RunSummary
    from psfscale.pipeline.drive.plan import Plan
    from psfscale.pipeline.events import Observer

__all__ = [
    "BlocksSummary",
    "configs",
    "is_index",
    "plan_blocks",
    "run_blocks",
    "run_stores",
    "write_index",
]


@dataclass(frozen=True, kw_only=True)
class BlocksSummary:
    """What became of every block.

    Attributes
    ----------
    ended : how its run ended, by name, of the blocks that this driver ran
    held : why not, by name, of the blocks that another driver runs
    signal : that ended a driver between two blocks, or None
    """

    ended: dict[str, RunSummary]
    held: dict[str, str]
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """The gravest of the blocks'; 128 and a signal's number where one interrupted.

        Failures (1) are graver than doubts (3).
        """
        own = 0 if self.signal is None else 128 + self.signal
        codes = [own, *(summary.exit_code for summary in self.ended.values())]
        gravest = max(codes)
        return 1 if gravest == ExitCode.UNMET and ExitCode.LISTED in codes else gravest

    def __str__(self) -> str:
        lines = [f"{name}: {summary}" for name, summary in self.ended.items()]
        lines += [f"{name}: {why}" for name, why in self.held.items()]
        lines += [INTERRUPTED.format(Signals(self.signal).name)] if self.signal is not None else []
        return "\n".join(lines)


def configs(config: RunConfig) -> dict[str, RunConfig]:
    """The run of every block, by name; its output lies in the folder `config.output`.

    Raises
    ------
    ConfigError
        The index is missing or wrong.
    """
    return {
        block.stem: config.model_copy(
            update={"survey": block, "output": config.output / f"{block.stem}.zarr"}
        )
        for block in read_index(config.survey)
    }


def plan_blocks(config: RunConfig, **again: bool) -> Iterator[tuple[str, Plan]]:
    """What a run of every block would do now; `again` as of `plan_run`."""
    for name, block in configs(config).items():
        yield name, plan_run(block, **again)


def run_blocks(
    config: RunConfig,
    *,
    interrupt: Interrupt | None = None,
    wait_lease: float = 0.0,
    observers: Iterable[Observer] | None = None,
    **options: Any,
) -> BlocksSummary:
    """Run block after block, but for those that another driver holds.

    Parameters
    ----------
    config : whose `survey` is an index and whose `output` is a folder
    interrupt : by which the run is asked to stop; signals to this process if not given
    wait_lease : how long to wait for drivers of blocks that are left, after all others [s]
    observers : are told every event of all blocks; a progress bar if not given
    **options : of `psfscale.pipeline.run`

    Raises
    ------
    ConfigError
        The index is missing or wrong.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    left = configs(config)
    list_stores(config.output / INDEX, [block.output for block in left.values()])
    with interrupt or Interrupt() as asked, ExitStack() as stack:
        if observers is None:
            observers = (stack.enter_context(progress_bar(len(left))),)
        options["observers"] = tuple(observers)
        summary = BlocksSummary(ended={}, held={})
        _run_all(left, asked, options, summary)
        end = time.monotonic() + wait_lease
        while _in_state("running", left, summary) and time.monotonic() < end:
            if asked.caught():
                break
            time.sleep(LOOK_EVERY)
            _run_all(_in_state("stale", left, summary), asked, options, summary)
        return replace(summary, signal=asked.signal)


def _run_all(
    left: dict[str, RunConfig],
    interrupt: Interrupt,
    options: dict[str, Any],
    summary: BlocksSummary,
) -> None:
    """Run blocks one after the other, also those whose driver dies meanwhile."""
    while left and not interrupt.caught():
        for name, block in left.items():
            if interrupt.caught():
                return
            summary.held.pop(name, None)
            try:
                summary.ended[name] = run(block, interrupt=interrupt, **options)
            except HeldError as error:
                summary.held[name] = str(error)
            except Interrupted:  # while it looked at another driver's lease
                return
        left = _in_state("stale", left, summary)


def _in_state(
    state: str, blocks: dict[str, RunConfig], summary: BlocksSummary
) -> dict[str, RunConfig]:
    """Return the blocks that were held and whose driver is, now, in this state."""
    holders = {n: read_holder(block.output) for n, block in blocks.items() if n in summary.held}
    return {n: blocks[n] for n, holder in holders.items() if holder and holder.state == state}
