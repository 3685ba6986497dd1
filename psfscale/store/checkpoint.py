"""A long fit between two of its phases, as one file that is whole or absent."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import numpy as np

from psfscale.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["CheckpointFile"]


class CheckpointFile:
    """A `psfscale.models.base.Checkpoint` in an ``.npz`` file.

    Parameters
    ----------
    path : of the file; its folder must exist
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays saved last; None where there are none, or the file is damaged."""
        try:
            with self.path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the file in one step; a reader meets the old arrays or the new."""
        with write_whole(self.path, sync=True) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def remove(self) -> None:
        """Take the file away, if there is one; the fit has ended."""
        self.path.unlink(missing_ok=True)
