"""Events as JSON lines, appended to ``<run.zarr>/.psfscale/events.jsonl``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Self

from psfscale.store.layout import STATE_DIRECTORY

if TYPE_CHECKING:
    from pathlib import Path

    from psfscale.pipeline.events import Event


class EventLog:
    """Append every event to the run's log; a context manager and an `Observer`."""

    def __init__(self, run: Path) -> None:
        self.path = run / STATE_DIRECTORY / "events.jsonl"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def __call__(self, event: Event) -> None:
        """Append the event as one line."""
        if self._file is not None:
            line = {"event": type(event).__name__, **asdict(event)}
            self._file.write(json.dumps(line) + "\n")
