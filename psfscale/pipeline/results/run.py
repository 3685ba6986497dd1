"""A finished or running run, to be read: its arrays, its PSFs anywhere, its metrics."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.arrays import FieldPoints, PixelGrid, Role, UnitState
from psfscale.attributes import from_stored
from psfscale.errors import InputError, StoreError
from psfscale.pipeline.results.levels import Level, rows_of
from psfscale.pipeline.results.tables import read_aggregates
from psfscale.pipeline.runs.context import read_context
from psfscale.pipeline.runs.prior import read_prior
from psfscale.pipeline.stages.ccd import stored_model
from psfscale.pipeline.stages.context import RunContext
from psfscale.pipeline.stages.drawing import PREDICT_BLOCK
from psfscale.store.concat import stacked
from psfscale.store.index import run_stores
from psfscale.store.stores import open_root, open_tree, values_of
from psfscale.survey.instrument import GridLayout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

    from psfscale.deconvolve.learnt.prior import Prior
    from psfscale.models.base import PsfModel
    from psfscale.pipeline.stages.focal_plane import OnCcd

_FIELDS_KEPT = 8
"""PSF fields that a run keeps, since callers come back to a CCD."""


class Run:
    """A run, read lazily; nothing of it is changed.

    Parameters
    ----------
    path : of the run store, or of the folder of a run in blocks

    Raises
    ------
    StoreError
        There is no run at `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stores = run_stores(path)
        """The run stores, one a block."""
        self._field = lru_cache(maxsize=_FIELDS_KEPT)(self._found_field)

    @cached_property
    def tree(self) -> xr.DataTree:
        """All arrays by name, as a lazy `xarray.DataTree`; blocks follow one another."""
        trees = [open_tree(store) for store in self.stores]
        return trees[0] if len(trees) == 1 else stacked(trees)

    def __getitem__(self, name: str) -> Any:
        return self.tree[name]

    def __repr__(self) -> str:
        sizes = f"{len(self.exposures)} exposures of {len(self.ccds)} CCDs"
        return f"Run({str(self.path)!r}: {sizes})"

    @cached_property
    def exposures(self) -> list[str]:
        """Ids of the exposures, in their order; read without opening all arrays."""
        roots = map(open_root, self.stores)
        return [str(identity) for root in roots for identity in values_of(root, "exposure")]

    @cached_property
    def ccds(self) -> list[int]:
        """Ids of the CCDs, in their order."""
        return [int(identity) for identity in values_of(open_root(self.stores[0]), "ccd")]

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Configuration, instrument, model settings and versions."""
        return from_stored(self.tree.attrs)

    @cached_property
    def survey(self) -> xr.DataTree:
        """The survey that the run reads; its blocks follow one another."""
        trees = [open_tree(read_context(store).config.survey) for store in self.stores]
        return trees[0] if len(trees) == 1 else stacked(trees)

    def model(self, *, exposure: str | int, ccd: int) -> PsfModel | OnCcd:
        """The PSF field of a CCD; of several models the one chosen for it.

        A field that covers an exposure is given as it is seen on the CCD.

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
        return self._field(str(exposure), ccd)

    def _found_field(self, exposure: str, ccd: int) -> PsfModel | OnCcd:
        if len(self.stores) > 1:
            return self._block_of(exposure, ccd).model(exposure=exposure, ccd=ccd)
        at, context = self._place(exposure, ccd), self._context
        stage = "fit" if len(context.models) == 1 else "choose"
        state = UnitState(int(self.tree["ccds/state"].sel(stage=stage).isel(at)))
        if not state.usable:
            msg = (
                f"CCD {ccd} of exposure {exposure} has no PSF: its {stage} is {state.name.lower()}"
            )
            raise StoreError(msg)
        return stored_model(self._arrays_of(ccd, at), context)

    def _arrays_of(self, ccd: int, at: dict[str, int]) -> xr.Dataset:
        """What tells the PSF field of a CCD, as a stage would be given it."""
        context = self._context
        found: dict[str, Any] = {"ccds/id": ((), ccd)}
        if len(context.models) > 1:
            found["ccds/model"] = self.tree["ccds/model"].isel(at).variable
        for model in context.models:
            group = _group(self.tree, f"models/{model.name}")
            for array in model.state_arrays(context.stamp_shape):
                here = {
                    dim: at[dim] for dim in ("exposure", "ccd") if dim in group[array.name].dims
                }
                values = group[array.name].isel(here).values
                dims = [f"{model.name}.{dim}" for dim in array.dims]
                found[f"models/{model.name}/{array.name}"] = (dims, values)
        return xr.Dataset({**found, **self._objects_of(at)})

    def _objects_of(self, at: dict[str, int]) -> dict[str, Any]:
        """Where objects lie in the focal plane, needed where the layout does not place CCDs."""
        layout = self._context.instrument.focal_plane.layout
        if isinstance(layout, GridLayout):
            return {}
        names = ("x", "y", "field_x", "field_y", "role")
        stars = _group(self.survey, "stars")[list(names)].isel(at)
        return {f"stars/{name}": ("star", stars[name].values) for name in names}

    def psf(
        self,
        *,
        exposure: str | int,
        ccd: int,
        x: ArrayLike,
        y: ArrayLike,
        oversampling: int = 1,
        size: int | None = None,
        sed: ArrayLike | None = None,
        wavelength: ArrayLike | None = None,
    ) -> xr.DataArray:
        """Return unit-sum PSFs at points of a CCD, (object, psf_y, psf_x), centred on ``n // 2``.

        Parameters
        ----------
        exposure, ccd : ids
        x, y : (object,) [pixel], 0-based
        oversampling : PSF pixels per CCD pixel
        size : side of the stamp [PSF pixel]; as the stars' if not given
        sed : (object, wavelength), photons per bin, rows sum to 1; a chromatic field takes flat
            spectra if not given
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
        grid = PixelGrid(shape=(side, side), oversampling=oversampling)
        drawn = np.empty((len(points), side, side), np.float32)
        for start in range(0, len(points), PREDICT_BLOCK):
            part = slice(start, start + PREDICT_BLOCK)
            drawn[part] = model.predict(points.select(part), grid)
        return xr.DataArray(
            drawn,
            dims=("object", "psf_y", "psf_x"),
            coords={"x": ("object", points.x), "y": ("object", points.y)},
            attrs={"units": "1", "long_name": "PSF, unit sum"},
        )

    def galaxies(self, *, exposure: str | int, ccd: int) -> xr.Dataset:
        """The galaxies of a CCD: what the survey says of them and what the run found.

        Arrays of both that share a name bear the run's under ``run_<name>``.

        Raises
        ------
        InputError
            The run has no such exposure or CCD, or holds no galaxies.
        """
        if len(self.stores) > 1:
            return self._block_of(exposure, ccd).galaxies(exposure=exposure, ccd=ccd)
        if "galaxies" not in self.tree.children or "galaxies" not in self.survey.children:
            msg = f"{self.path} holds no galaxies: the survey has none, or the run asked for none"
            raise InputError(msg)
        at = self._place(exposure, ccd)
        given = _group(self.survey, "galaxies").isel(at)
        found = _group(self.tree, "galaxies").isel(at)
        found = found.rename({n: f"run_{n}" for n in found if n in given})
        present = np.flatnonzero(given["role"].values != Role.EMPTY)
        return xr.merge([given, found], compat="override").isel(galaxy=present)

    def prior(self) -> Prior:
        """What galaxies look like, as the run has learnt it or was given it.

        Raises
        ------
        StoreError
            The run has not learnt it yet, or is one in blocks, each of which has its own.
        """
        if len(self.stores) > 1:
            msg = f"every block of {self.path} has a prior of its own: open one, {self.stores[0]}"
            raise StoreError(msg)
        from psfscale.deconvolve.learnt.prior import prior_of_numbers

        given = self._context.given_prior
        return prior_of_numbers(given) if given else read_prior(self.stores[0])

    def metrics(self, level: Level = "survey") -> xr.Dataset:
        """Return the numbers of every star, galaxy, CCD or exposure, or of the survey.

        One row an object, a CCD or an exposure, also as ``to_dataframe()``: stars and galaxies
        along one dim, padding left out, with their ``exposure``, ``ccd``, and of the survey
        ``id, role, x, y, field_x, field_y, ra, dec, snr``. CCDs have a column ``state_<stage>``
        for every stage. Arrays are read when they are used; stamps are in `galaxies` and `tree`.

        Raises
        ------
        InputError
            There is no such level, or the run holds no galaxies.
        """
        if level == "survey" and len(self.stores) > 1:
            return self._summary()
        return rows_of(level, self.tree, lambda: self.survey)

    def table(self, name: str) -> xr.Dataset:
        """A table or map that `psfscale metrics` made, such as ``stars/by_magnitude`` or ``rho``.

        Raises
        ------
        InputError
            There is no such table.
        """
        tables = read_aggregates(self.path)
        if name not in tables:
            have = ", ".join(tables) or f"none; `psfscale metrics {self.path}` makes them"
            msg = f"there is no table {name!r}; there are: {have}"
            raise InputError(msg)
        return tables[name]

    def _summary(self) -> xr.Dataset:
        """Metrics of the survey from those of the exposures of all blocks."""
        from psfscale.metrics.aggregate import summarise

        told = open_tree(self.stores[0])["summary"].to_dataset()
        exposures = self.tree["exposures"].to_dataset().reset_coords(drop=True).load()
        found = summarise(exposures)
        return found.assign({n: found[n].assign_attrs(told[n].attrs) for n in found})

    @cached_property
    def _context(self) -> RunContext:
        return read_context(self.stores[0])

    @cached_property
    def _blocks(self) -> list[Run]:
        return [Run(store) for store in self.stores]

    def _block_of(self, exposure: str | int, ccd: int) -> Run:
        """The block that holds an exposure: blocks may differ in the sizes of their arrays."""
        self._place(exposure, ccd)
        return next(block for block in self._blocks if str(exposure) in block.exposures)

    def _place(self, exposure: str | int, ccd: int) -> dict[str, int]:
        return {
            "exposure": self._rank("exposure", str(exposure), self.exposures),
            "ccd": self._rank("ccd", ccd, self.ccds),
        }

    def _rank(self, axis: str, identity: object, ids: Sequence[object]) -> int:
        if identity not in ids:
            msg = f"{self.path} has no {axis} {identity!r}; its first are {ids[:3]}"
            raise InputError(msg)
        return ids.index(identity)


def _group(tree: xr.DataTree, path: str) -> xr.Dataset:
    """Arrays of one group, without the coordinates of the groups above."""
    for name in path.split("/"):
        tree = tree.children[name]
    return tree.to_dataset(inherit=False)


def open_run(path: Path | str) -> Run:
    """A run, to be read: a run store, or the folder of a run in blocks, which are read as one.

    Raises
    ------
    StoreError
        There is no run at `path`.
    """
    return Run(Path(path))
