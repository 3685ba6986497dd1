"""Files of a restored stack: one with all arrays, or one an array under a common prefix."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from psfscale.arrayfile import dump_array
from psfscale.errors import ConfigError, InputError, StoreError
from psfscale.files import require_apart, require_place, write_whole
from psfscale.store.groups import GROUP_FORMATS, require_group_place, write_group

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import xarray as xr

    from psfscale.deconvolve.stack import Restoration

__all__ = ["Format", "RestoredFiles", "restored_arrays"]

Format = Literal["npy", "fits"]

NAMES = ("primal", "error", "flux", "chi2", "flags", "dual", "dual0", "dual1", "psf")
"""Arrays of a restored stack, by the names that files and arrays in files have."""

SUFFIXES = (".npy", ".fits")
"""Endings of files of one array."""

KIND = "restored stack"


@dataclass(frozen=True, kw_only=True)
class RestoredFiles:
    """The file or files of a restored stack.

    Attributes
    ----------
    path : of the one file, or what the names of all files begin with
    suffix : of files of one array each; empty where one file holds all
    """

    path: Path
    suffix: str

    @classmethod
    def of(
        cls, output: Path | None, *, images: Path, mode: str, output_format: Format | None
    ) -> RestoredFiles:
        """Read a name: .npz, .fits and .zarr are one file, all else is what names begin with.

        Parameters
        ----------
        output : name given, or None for that of the published program, ``<images>_<mode>``
        images : file of the images
        mode : of the restoration
        output_format : of files of one array each; npy where None

        Raises
        ------
        ConfigError
            The name's ending and the format contradict each other, or the name is empty.
        """
        if output is None:
            output = images.with_name(f"{images.stem}_{mode}")
        if not output.name:
            msg = f"the output {str(output)!r} is no name of a file: name one with -o"
            raise ConfigError(msg)
        formats = (*GROUP_FORMATS, ".npy")
        if output_format and output.suffix in formats and output.suffix != f".{output_format}":
            msg = f"{output} and --output_format {output_format} contradict each other: drop one"
            raise ConfigError(msg)
        if output.suffix in GROUP_FORMATS:
            return cls(path=output, suffix="")
        path = output.with_suffix("") if output.suffix == ".npy" else output
        return cls(path=path, suffix=f".{output_format or 'npy'}")

    def require(self, *, apart: Iterable[Path], overwrite: bool) -> None:
        """Refuse, before the work, names that cannot be written to after it.

        Parameters
        ----------
        apart : files that must not be replaced
        overwrite : whether an earlier result may be replaced

        Raises
        ------
        InputError
            A name is that of an input, or cannot be written.
        StoreError
            An earlier result is there and `overwrite` is False.
        """
        if not self.suffix:
            require_apart(self.path, apart)
            require_group_place(self.path, kind=KIND, overwrite=overwrite)
            return
        for name in NAMES:
            path = self._path(name, self.suffix)
            require_apart(path, apart)
            require_place(path)
        there = [str(path) for path in self._all() if path.exists() or path.is_symlink()]
        if there and not overwrite:
            msg = (
                f"{', '.join(there)} exists already: replace it with --overwrite, or choose "
                "another path"
            )
            raise StoreError(msg)
        kept = {path.resolve() for path in apart}
        for path in self._all():
            if path.resolve() in kept:
                msg = f"{path} is an input, and of the earlier result that --overwrite replaces"
                raise InputError(msg)

    def write(self, group: xr.Dataset) -> tuple[Path, ...]:
        """Write a restored stack; of an earlier one nothing is left beside it."""
        if not self.suffix:
            write_group(self.path, group, image="primal", kind=KIND)
            return (self.path,)
        names = [str(name) for name in group.data_vars]
        written = {name: self._path(name, self.suffix) for name in names}
        with ExitStack() as stack:
            for name, path in written.items():
                partial = stack.enter_context(write_whole(path))
                dump_array(partial, group[name].values, self.suffix)
            for path in self._all():
                if path not in written.values():
                    path.unlink(missing_ok=True)
        return tuple(written.values())

    def _path(self, name: str, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}_{name}{suffix}")

    def _all(self) -> list[Path]:
        """Files that a result under this prefix may have, of either format."""
        return [self._path(name, suffix) for name in NAMES for suffix in SUFFIXES]


def restored_arrays(found: Restoration[np.ndarray]) -> xr.Dataset:
    """Return a restored stack by the names of its files; the duals of two priors are numbered."""
    import xarray as xr

    stamp = ("object", "y", "x")
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {"primal": (stamp, found.image)}
    if found.error is not None:
        arrays["error"] = (stamp, found.error)
    arrays["flux"] = (("object",), found.flux)
    arrays["chi2"] = (("object",), found.chi2)
    arrays["flags"] = (("object",), found.flags.astype(np.int32))
    duals = {f"dual{i}" if len(found.dual) > 1 else "dual": d for i, d in enumerate(found.dual)}
    for name, dual in duals.items():
        arrays[name] = (("object", *(f"{name}_{k}" for k in range(1, dual.ndim))), dual)
    if found.psf is not None:
        shared = len(found.psf) != len(found)
        arrays["psf"] = (("psf" if shared else "object", "psf_y", "psf_x"), found.psf)
    return xr.Dataset(arrays)
