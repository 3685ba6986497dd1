"""Events as JSON lines, appended to ``<run.zarr>/.psfscale/events.jsonl``."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Self

from psfscale.pipeline.events import UnitAdvanced
from psfscale.store.stores import STATE_DIRECTORY

if TYPE_CHECKING:
    from pathlib import Path

    from psfscale.pipeline.events import Event


class EventLog:
    """Append every event to the run's log; a context manager and an `Observer`.

    A log that cannot be written is given up with a warning: it must not end the run.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / STATE_DIRECTORY / "events.jsonl"
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", buffering=1)
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self, event: Event) -> None:
        """Append the event as one line; steps within a unit are none of those."""
        if self._file is not None and not isinstance(event, UnitAdvanced):
            line = {"event": type(event).__name__, **asdict(event)}
            try:
                self._file.write(json.dumps(line) + "\n")
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logging.getLogger(__name__).warning(
            "%s: %s; the run goes on without its log of events", self.path, error.strerror
        )
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what is buffered may not be written either
                file.close()
