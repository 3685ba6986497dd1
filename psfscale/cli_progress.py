"""How far a command has come, on a terminal and without one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with rate and time left on a terminal, a line every tenth otherwise."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn(f"{what:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)
        shown = -1

        def advance(done: int, total: int, note: str) -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total, description=note)
            tenth = 10 * done // max(total, 1)
            if not console.is_terminal and tenth != shown:  # it falls where a phase begins
                shown = tenth
                typer.echo(f"{what} {done}/{total} {note}", err=True)

        yield advance
