"""The arrays of one exposure: read for a stage CCD by CCD, written whole by its unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.arrays import ObjectFlag, Role
from psfscale.errors import StoreError
from psfscale.pipeline.ledger.marker import carry
from psfscale.pipeline.stages.ccd import EXPOSURE
from psfscale.store.packs import LEADING, leading_dims
from psfscale.store.shards import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psfscale.pipeline.stages.stage import Input, Stage
    from psfscale.pipeline.units.session import Session
    from psfscale.store.packs import Place
    from psfscale.store.schema import ArraySpec
    from psfscale.store.shards import StoredArray

_COUNTS = "exposures"
"""Group of the survey's counts of objects, (exposure, ccd, ...), which the driver's chunks hold."""
_CCD_ID, _SPECTRA, _BINS = "ccds/id", "sed", "wavelength"
"""Inputs that no array of a CCD is: its id, its objects' spectra, and their wavelengths."""


class ExposureReader:
    """Inputs of a stage on one exposure.

    Arrays that are stored by CCD (stamps) are read CCD by CCD; arrays that are stored by
    exposure are read once, when first needed.

    Parameters
    ----------
    sample : exposures that gathered inputs are read of
    """

    def __init__(
        self, stage: Stage, session: Session, exposure: int, *, sample: tuple[int, ...] = ()
    ) -> None:
        self.stage, self.session, self.exposure = stage, session, exposure
        self.sample = sample

    @property
    def exposure_id(self) -> str:
        """Id of the exposure."""
        return self.session.ids[0][self.exposure]

    def ccd_id(self, ccd: int) -> int:
        """Id of a CCD."""
        return self.session.ids[1][ccd]

    def roles(self, ccd: int) -> np.ndarray:
        """Roles of the objects that the stage works on."""
        return self._of_survey(self.stage.objects, ccd)

    def ccd(self, ccd: int) -> xr.Dataset:
        """All inputs on one CCD, under their paths; dims other than objects by ``group.dim``.

        Spectra are found for the objects that bear their numbers, and arrays of the whole exposure
        bear the prefix ``exposure/`` and an axis ``ccd``.
        """
        return xr.Dataset({s.path: self._variable(s, ccd) for s in self.stage.inputs})

    def whole(self) -> xr.Dataset:
        """All inputs of all CCDs, with an axis ``ccd`` before those of `ccd`."""
        n_ccds = self.session.context.sizes["ccd"]
        variables = {}
        for source in self.stage.inputs:
            if source.path.endswith(f"/{_BINS}"):
                variables[source.path] = self._variable(source, 0)
                continue
            parts = [self._variable(source, ccd) for ccd in range(n_ccds)]
            values = np.stack([part.values for part in parts])
            variables[source.path] = xr.Variable(("ccd", *parts[0].dims), values, fastpath=True)
        return xr.Dataset(variables)

    def _variable(self, source: Input, ccd: int) -> xr.Variable:
        group, _, name = source.path.rpartition("/")
        if source.gathered:
            return self._gathered(source.path)
        if source.path == _CCD_ID:
            return xr.Variable((), np.int64(self.ccd_id(ccd)))
        if name in (_SPECTRA, _BINS):
            return self._spectra(group, ccd, wavelengths=name == _BINS)
        if group == _COUNTS:
            counts = np.asarray(self.session.of_survey(source.path).array[self.exposure, ccd])
            return xr.Variable(("reason",)[: counts.ndim], counts)
        if group.startswith(EXPOSURE):
            return self._of_exposure(source)
        survey = source.store == "survey"
        values = self._values(source.path, ccd, survey=survey)
        dims = self.session.dims(source.path, survey=survey)
        return xr.Variable(dims, values, fastpath=True)

    def _values(self, path: str, ccd: int | None, *, survey: bool) -> np.ndarray:
        if survey:
            return self._of_survey(path, ccd)
        stored, place = self.session.of_run(path)
        if leading_dims(self.session.specs[path].dims) != LEADING:
            values = self.session.read(stored, (self.exposure,), required=True)
            return values if place is None else place.take(values, axis=0)
        return self._read(stored, place, ccd, required=True)

    def _of_survey(self, path: str, ccd: int | None) -> np.ndarray:
        required = self.session.is_required(path, self.exposure, ccd)
        return self._read(self.session.of_survey(path), None, ccd, required=required)

    def _spectra(self, group: str, ccd: int, *, wavelengths: bool) -> xr.Variable:
        """Photons per bin of the objects of a group, or the wavelengths of the bins [µm]."""
        templates, centres = self.session.spectra
        dim = f"{group}.bin"
        if wavelengths:
            return xr.Variable((dim,), centres)
        path = f"{group}/{_SPECTRA if templates is None else 'sed_id'}"
        values = self._of_survey(path, ccd)
        dims = (self.session.dims(path, survey=True)[0], dim)
        return xr.Variable(dims, values if templates is None else templates[values])

    def _of_exposure(self, source: Input) -> xr.Variable:
        """A small array of all CCDs."""
        path, survey = source.path.removeprefix(EXPOSURE), source.store == "survey"
        dims = ("ccd", *self.session.dims(path, survey=survey))
        return xr.Variable(dims, self._values(path, None, survey=survey), fastpath=True)

    def _gathered(self, path: str) -> xr.Variable:
        """An array of all sampled exposures, with axes exposure and ccd."""
        stored, _ = self.session.of_run(path)
        rows = [self.session.read(stored, (e,), required=True) for e in self.sample]
        values = np.stack(rows) if rows else np.zeros((0, *stored.shape[1:]))
        dims = ("sampled_exposure", "sampled_ccd", *self.session.dims(path, survey=False))
        return xr.Variable(dims, values, fastpath=True)

    def _read(
        self, stored: StoredArray, place: Place | None, ccd: int | None, *, required: bool
    ) -> np.ndarray:
        """An array on a CCD, or on all of them where that is stored by exposure."""
        if ccd is not None and stored.shard[1] == 1 and stored.shape[1] > 1:
            return self.session.read(stored, (self.exposure, ccd), required=required)
        values = self.session.read(stored, (self.exposure,), required=required)
        if ccd is not None:
            values = values[ccd]
        return values if place is None else place.take(values, axis=int(ccd is None))


class ExposureWriter:
    """Outputs of a stage on one exposure, each stored object written once and whole.

    Parameters
    ----------
    keep : start from what is stored and replace only what is taken or left empty
    guard : called before every change on the disk; raises where the unit may not write any more
    """

    def __init__(
        self,
        stage: Stage,
        session: Session,
        exposure: int,
        *,
        keep: bool,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self.stage, self.session, self.exposure, self._keep = stage, session, exposure, keep
        self._guard = guard
        self._whole: dict[str, np.ndarray] = {}
        self._carried: dict[str, np.ndarray] = {}
        self._checksums: dict[str, int | None] = {}

    def take(self, ccd: int, results: xr.Dataset, *, but: Sequence[ArraySpec] = ()) -> None:
        """Take the results of one CCD.

        Parameters
        ----------
        but : outputs that are not among them

        Raises
        ------
        StoreError
            They are not the arrays that the stage declares, or of other shapes.
        """
        outputs = [spec for spec in self.stage.outputs if spec not in but]
        declared = {spec.path for spec in outputs}
        returned = {str(name) for name in results.variables}
        if returned != declared:
            missing, more = declared - returned, returned - declared
            msg = (
                f"stage {self.stage.name} left out {sorted(missing)}, returned also {sorted(more)}"
            )
            raise StoreError(msg)
        found = results.variables
        values = [self._checked(spec, found[spec.path].values) for spec in outputs]
        for spec, array in zip(outputs, values, strict=True):
            self._put(spec, ccd, array)

    def take_whole(self, results: xr.Dataset) -> None:
        """Take the results of all CCDs, those with an axis ``ccd`` and those of the exposure.

        Raises
        ------
        StoreError
            They are not the arrays that the stage declares, or of other shapes.
        """
        own = [s for s in self.stage.outputs if leading_dims(s.dims) != LEADING]
        for spec in own:
            self._put(spec, None, self._checked(spec, results[spec.path].values))
        rest = results.drop_vars([spec.path for spec in own])
        for ccd in range(self.session.context.sizes["ccd"]):
            self.take(ccd, rest.isel(ccd=ccd), but=own)

    def leave_empty(self, ccd: int, roles: np.ndarray) -> None:
        """Fill a CCD without results, and flag its objects (`roles`, if known) as without PSF."""
        for spec in self.stage.outputs:
            if leading_dims(spec.dims) != LEADING:
                self._packed(spec)  # stored even if empty, to be told from a lost one
                continue
            values = np.full(self._shape(spec), spec.fill, spec.dtype)
            if spec.path == self.stage.missing and roles.size:
                values = np.where(roles != Role.EMPTY, int(ObjectFlag.PSF_MISSING), 0)
            self._put(spec, ccd, values.astype(spec.dtype))

    def close(self) -> dict[str, str]:
        """Write what is stored by exposure; all is on the disk then.

        Returns
        -------
        dict
            what the unit's marker is to carry, by path
        """
        for path, values in self._whole.items():
            stored, _ = self.session.of_run(path)
            self._write(stored, (self.exposure,), values)
        return {path: carry(values) for path, values in self._carried.items()}

    def digest(self) -> str:
        """Of all that the unit has stored, to tell it from what another has; after `close`."""
        checksums = {}
        for stored, index in self.session.products(self.stage.name):
            place = (self.exposure, *index)
            known = self._checksums.get(stored.key(place))
            checksums[stored.key(place)] = stored.checksum(place) if known is None else known
        return digest_of(checksums)

    def _write(self, stored: StoredArray, index: tuple[int, ...], values: np.ndarray) -> None:
        self._guard()
        self._checksums[stored.key(index)] = self.session.write(stored, index, values)

    def _shape(self, spec: ArraySpec) -> tuple[int, ...]:
        """Of the array on one CCD, or of the exposure's own."""
        return spec.shape(self.session.packing.sizes)[len(leading_dims(spec.dims)) :]

    def _checked(self, spec: ArraySpec, values: np.ndarray) -> np.ndarray:
        shape = self._shape(spec)
        if values.shape != shape:
            msg = (
                f"stage {self.stage.name} returned {spec.path} of shape {values.shape}, "
                f"declared {shape}"
            )
            raise StoreError(msg)
        return values.astype(spec.dtype, copy=False)

    def _put(self, spec: ArraySpec, ccd: int | None, values: np.ndarray) -> None:
        """Take an array of a CCD, or of the exposure where `ccd` is None."""
        if spec.owner == "ledger" and ccd is not None:
            self._carry(spec, ccd, values)
            return
        stored, place = self.session.of_run(spec.path)
        if spec.owner == "ccd" and ccd is not None:
            self._write(stored, (self.exposure, ccd), values)
            return
        packed = self._packed(spec)
        packed = packed if ccd is None else packed[ccd]
        if place is None:
            packed[...] = values
        else:
            place.put(packed, values)

    def _carry(self, spec: ArraySpec, ccd: int, values: np.ndarray) -> None:
        if spec.path not in self._carried:
            stored, _ = self.session.of_run(spec.path)
            start = stored.array[self.exposure] if self._keep else None
            shape = (self.session.context.sizes["ccd"], *self._shape(spec))
            empty = np.full(shape, spec.fill, spec.dtype)
            self._carried[spec.path] = empty if start is None else np.array(start)
        self._carried[spec.path][ccd] = values

    def _packed(self, spec: ArraySpec) -> np.ndarray:
        stored, place = self.session.of_run(spec.path)
        return self._buffer(spec.path if place is None else place.path, stored)

    def _buffer(self, path: str, stored: StoredArray) -> np.ndarray:
        if path not in self._whole:
            if self._keep:
                self._whole[path] = np.array(
                    self.session.read(stored, (self.exposure,), required=True)
                )
            else:
                fill = stored.array.metadata.fill_value
                self._whole[path] = np.full(stored.shape[1:], fill, stored.array.dtype)
        return self._whole[path]
