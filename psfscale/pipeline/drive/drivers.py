"""Several drivers at once on a survey in blocks: each a process with a cluster of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from psfscale.errors import ConfigError, RunError
from psfscale.mainguard import UNGUARDED, end_if_imported_again, missing_guard
from psfscale.pipeline.drive.blocks import BlocksSummary, configs, is_index, run_blocks
from psfscale.pipeline.drive.launch import RunSummary, progress_bar, run
from psfscale.pipeline.events import Event
from psfscale.pipeline.workers.profiles import LocalProfile, SlurmProfile
from psfscale.processes import STOPPING, Interrupt, deaf_children, on_parent_death

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ctypes import c_int
    from multiprocessing.process import BaseProcess

    from psfscale.config import RunConfig
    from psfscale.pipeline.events.bar import ProgressBar
    from psfscale.pipeline.workers.profiles import ClusterProfile

Told = BlocksSummary | str | tuple[int, Event]
"""What a driver sends its parent: events with its number, at last how it ended."""
WAIT = 0.2
"""Longest single wait for a driver's end [s]: how soon an interruption is passed on."""


def run_survey(
    config: RunConfig, *, drivers: int = 1, **options: Any
) -> RunSummary | BlocksSummary:
    """Run a survey store, or the blocks of an index by one driver or several.

    Parameters
    ----------
    config : of the run
    drivers : at the same time; more than one only of an index
    **options : of `psfscale.pipeline.run`

    Raises
    ------
    ConfigError
        Several drivers are asked for on a store that is not cut into blocks.
    """
    if is_index(config.survey):
        several = drivers > 1
        return (
            run_together(config, drivers=drivers, **options)
            if several
            else run_blocks(config, **options)
        )
    if drivers > 1:
        msg = f"{config.survey} is one store, for one driver; `psfscale index` names several"
        raise ConfigError(msg)
    return run(config, **options)


def run_together(
    config: RunConfig,
    *,
    drivers: int,
    cluster: ClusterProfile | None = None,
    serial: bool = False,
    wait_lease: float = 0.0,
    **again: bool,
) -> BlocksSummary:
    """Run the blocks of a survey by several drivers, which share the workers out.

    Parameters
    ----------
    config : whose `survey` is an index and whose `output` is a folder
    drivers : processes, each with a cluster of its own; no more than there are blocks
    cluster : where workers come from, those of all drivers together
    serial : each driver runs its units itself
    wait_lease : how long to wait for other drivers of blocks that are left, after all others [s]
    **again : `retry_failed`, `learn_again` and `overwrite` of `psfscale.pipeline.run`

    Raises
    ------
    ConfigError
        The index is missing or wrong, or `cluster` runs already and cannot be shared out.
    RunError
        A driver could not go on; the others have ended.
    """
    end_if_imported_again()
    n = max(min(drivers, len(configs(config))), 1)
    share = None if serial else _share(cluster or LocalProfile(), n)
    options: dict[str, Any] = {"cluster": share, "serial": serial, "wait_lease": wait_lease}
    options |= again
    context = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[Told] = context.Queue()
    stop = context.RawValue("i", 0)
    started: list[BaseProcess] = [
        context.Process(target=_drive, args=(config, options, number, told, stop, os.getpid()))
        for number in range(n)
    ]
    with Interrupt() as interrupt, progress_bar(len(configs(config))) as bar:
        try:
            with deaf_children():
                for process in started:
                    process.start()
            endings = _endings(started, told, interrupt, stop, bar)
            for process in started:
                process.join()
        except BaseException:
            for process in started:
                if process.pid is not None:
                    process.kill()
            raise
    return _together(endings, n)


def _share(profile: ClusterProfile, n: int) -> ClusterProfile:
    """The profile of one driver of `n`."""
    if not isinstance(profile, (LocalProfile, SlurmProfile)):
        msg = f"a cluster of kind {profile.kind!r} runs already and cannot be shared out"
        raise ConfigError(msg)
    workers = profile.workers or os.cpu_count() or 1
    return profile.model_copy(update={"workers": max(workers // n, 1)})


def _drive(
    config: RunConfig,
    options: dict[str, Any],
    number: int,
    told: multiprocessing.Queue[Told],
    stop: c_int,
    parent: int,
) -> None:
    """Run blocks in a process of its own, which stops as its parent says, or ends."""

    def orphaned() -> None:
        stop.value = signal.SIGHUP

    on_parent_death(parent, orphaned)
    interrupt = Interrupt(lambda: stop.value)
    try:
        observer = partial(_pass_on, told, number)
        told.put(run_blocks(config, **options, observers=(observer,), interrupt=interrupt))
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        told.put(f"{type(error).__name__}: {error}")


def _pass_on(told: multiprocessing.Queue[Told], number: int, event: Event) -> None:
    """Tell the parent an event of this driver."""
    told.put((number, event))


def _endings(
    started: Sequence[BaseProcess],
    told: multiprocessing.Queue[Told],
    interrupt: Interrupt,
    stop: c_int,
    bar: ProgressBar,
) -> list[BlocksSummary | str]:
    """What the drivers said as they ended; events are shown, a signal is passed on to them."""
    endings: list[BlocksSummary | str] = []
    while len(endings) < len(started):
        lost = [p for p in started if p.exitcode not in (None, 0)]
        try:
            said = told.get(timeout=WAIT)
            if isinstance(said, tuple):
                bar.take(said[1], said[0])
            else:
                endings.append(said)
        except queue.Empty:
            if len(endings) + len(lost) == len(started):
                return [*endings, *(_of_lost(p.exitcode, interrupt.signal) for p in lost)]
        stop.value = interrupt.signal or 0
    return endings


def _of_lost(code: int | None, number: int | None) -> BlocksSummary | str:
    """What a driver would have said: one that held no block yet dies of the signal passed on."""
    if number is not None and code is not None and -code in STOPPING:
        return BlocksSummary(ended={}, held={}, signal=number)
    return f"a driver ended with exit code {code}{missing_guard() if code == UNGUARDED else ''}"


def _together(endings: Sequence[BlocksSummary | str], n: int) -> BlocksSummary:
    failed = [ending for ending in endings if isinstance(ending, str)]
    if failed:
        msg = f"{len(failed)} of {n} drivers could not go on: {'; '.join(failed)}"
        raise RunError(msg)
    summaries = [ending for ending in endings if not isinstance(ending, str)]
    ended = {name: summary for each in summaries for name, summary in each.ended.items()}
    held = {name: why for each in summaries for name, why in each.held.items() if name not in ended}
    signals = [each.signal for each in summaries if each.signal is not None]
    return BlocksSummary(ended=ended, held=held, signal=signals[0] if signals else None)
