"""A finished or running run, to be read: its arrays, its PSFs anywhere, its metrics."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from psfscale.arrays import FieldPoints, PixelGrid, Role, UnitState
from psfscale.errors import InputError, StoreError
from psfscale.pipeline.context import RunContext, read_context
from psfscale.store.layout import open_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike

    from psfscale.models.base import PsfModel

Level = Literal["star", "ccd", "exposure", "survey"]
_GROUPS: dict[Level, str] = {
    "star": "stars",
    "ccd": "ccds",
    "exposure": "exposures",
    "survey": "summary",
}


class Run:
    """A run store, read lazily; nothing of it is changed.

    Parameters
    ----------
    path : of the run store

    Raises
    ------
    StoreError
        There is no run store at `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = open_tree(path)
        """All arrays by name, as a lazy `xarray.DataTree`."""

    def __getitem__(self, name: str) -> Any:
        return self.tree[name]

    def __repr__(self) -> str:
        sizes = dict(self.tree.sizes)
        return f"Run({str(self.path)!r}: {sizes['exposure']} exposures of {sizes['ccd']} CCDs)"

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Configuration, instrument, model settings and versions."""
        return self.tree.attrs  # type: ignore[return-value]

    @cached_property
    def survey(self) -> xr.DataTree:
        """The survey store that the run reads."""
        return open_tree(self._context.config.survey)

    def model(self, *, exposure: str, ccd: int) -> PsfModel:
        """The PSF field of a CCD.

        Parameters
        ----------
        exposure, ccd : ids

        Raises
        ------
        InputError
            The run has no such exposure or CCD.
        StoreError
            The CCD has no PSF field.
        """
        at = self._place(exposure, ccd)
        state = UnitState(int(self.tree["ccds/state"].sel(stage="fit").isel(at)))
        if state is not UnitState.DONE:
            msg = f"CCD {ccd} of exposure {exposure} has no PSF: its fit is {state.name.lower()}"
            raise StoreError(msg)
        stored = _group(self.tree, f"models/{self._context.config.model.name}")
        arrays = {
            str(name): array.isel(at).values
            for name, array in stored.variables.items()
            if array.dims[:2] == ("exposure", "ccd")
        }
        return self._context.model_class.from_state(arrays, self._context.model_settings)

    def psf(
        self,
        *,
        exposure: str,
        ccd: int,
        x: ArrayLike,
        y: ArrayLike,
        oversampling: int = 1,
        size: int | None = None,
        sed: ArrayLike | None = None,
        wavelength: ArrayLike | None = None,
    ) -> xr.DataArray:
        """PSFs at positions of a CCD, (object, y, x), each of unit sum, centred on ``n // 2``.

        Parameters
        ----------
        exposure, ccd : ids
        x, y : (object,) [pixel], 0-based
        oversampling : PSF pixels per CCD pixel
        size : side of the stamp [PSF pixel]; as the stars' if not given
        sed : (object, wavelength), photons per bin, rows sum to 1; for a chromatic field
        wavelength : (wavelength,) [µm]

        Raises
        ------
        InputError
            The run has no such exposure or CCD.
        StoreError
            The CCD has no PSF field.
        """
        model = self.model(exposure=exposure, ccd=ccd)
        points = FieldPoints(
            x=np.atleast_1d(np.asarray(x, np.float64)),
            y=np.atleast_1d(np.asarray(y, np.float64)),
            sed=None if sed is None else np.asarray(sed, np.float64),
            wavelength=None if wavelength is None else np.asarray(wavelength, np.float64),
        )
        side = size or self._context.stamp_shape[0] * oversampling
        drawn = model.predict(points, PixelGrid(shape=(side, side), oversampling=oversampling))
        return xr.DataArray(
            np.asarray(drawn),
            dims=("object", "y", "x"),
            coords={"object_x": ("object", points.x), "object_y": ("object", points.y)},
            attrs={"units": "1", "long_name": "PSF, unit sum"},
        )

    def galaxies(self, *, exposure: str, ccd: int) -> xr.Dataset:
        """The galaxies of a CCD: what the survey says of them and what the run found.

        Arrays of both that share a name bear the run's under ``run_<name>``.

        Raises
        ------
        InputError
            The run has no such exposure or CCD, or holds no galaxies.
        """
        if "galaxies" not in self.tree.children or "galaxies" not in self.survey.children:
            msg = f"{self.path} holds no galaxies: the survey has none, or the run asked for none"
            raise InputError(msg)
        at = self._place(exposure, ccd)
        given = _group(self.survey, "galaxies").isel(at)
        found = _group(self.tree, "galaxies").isel(at)
        own = {d: f"psf_{d}" for d in ("y", "x") if d in found.dims}
        found = found.rename_dims(own).rename({n: f"run_{n}" for n in found if n in given})
        present = np.flatnonzero(given["role"].values != Role.EMPTY)
        return xr.merge([given, found], compat="override").isel(galaxy=present)

    def metrics(self, level: Level = "survey") -> xr.Dataset:
        """Metrics of every star, CCD or exposure, or of the survey.

        Raises
        ------
        InputError
            There is no such level.
        """
        if level not in _GROUPS:
            msg = f"there is no level {level!r}; choose one of {list(_GROUPS)}"
            raise InputError(msg)
        return self.tree[_GROUPS[level]].to_dataset()

    @cached_property
    def _context(self) -> RunContext:
        return read_context(self.path)

    def _place(self, exposure: str, ccd: int) -> dict[str, int]:
        found = {}
        for axis, identity in (("exposure", exposure), ("ccd", ccd)):
            ids = np.asarray(self.tree[axis].values).tolist()
            if identity not in ids:
                msg = f"{self.path} has no {axis} {identity!r}; its first are {ids[:3]}"
                raise InputError(msg)
            found[axis] = ids.index(identity)
        return found


def _group(tree: xr.DataTree, path: str) -> xr.Dataset:
    """Arrays of one group, without the coordinates of the groups above."""
    for name in path.split("/"):
        tree = tree.children[name]
    return tree.to_dataset(inherit=False)


def open_run(path: Path | str) -> Run:
    """A run store, to be read.

    Raises
    ------
    StoreError
        There is no run store at `path`.
    """
    return Run(Path(path))
