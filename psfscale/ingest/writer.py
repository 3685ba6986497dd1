"""One exposure into the store: stamps CCD by CCD, small columns at the end, ``complete`` last."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from psfscale.ingest.events import CcdCount
from psfscale.ingest.formats.wcs import CelestialWcs
from psfscale.ingest.objects import GROUPS, Kind, Placed
from psfscale.store.refusal import Refusal
from psfscale.store.shards import StoredArray, digest_of
from psfscale.store.stores import write_region

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psfscale.ingest.formats.wcs import NoWcsError
    from psfscale.ingest.scan import ExposurePlan
    from psfscale.ingest.store import Target
    from psfscale.survey import Survey


class SurveyWriter:
    """Writes one exposure: stamps CCD by CCD, small columns at the end, ``complete`` last."""

    def __init__(self, target: Target, survey: Survey, exposure: ExposurePlan) -> None:
        self._target, self._survey, self._exposure = target, survey, exposure
        self._row = target.rows[exposure.facts.id]
        self._digest = hashlib.blake2b(target.spectra, digest_size=16)
        self._counts: dict[int, CcdCount] = {}
        self._wcs = np.full(survey.instrument.focal_plane.n_ccds, "", object)
        self._written: set[tuple[Kind, int]] = set()
        self._columns = {
            spec.path: np.full(target.array(spec.path).shape[1:], spec.fill, spec.dtype)
            for spec in target.specs
            if spec.owner == "exposure"
        }

    def write_ccd(
        self, ccd: int, found_by_kind: Mapping[Kind, Placed], wcs: CelestialWcs | NoWcsError
    ) -> CcdCount:
        """Write the stamps of a CCD and keep its columns for the end."""
        index = self._survey.instrument.focal_plane.ccd_ids.index(ccd)
        refused: Counter[Refusal] = Counter()
        missing: Counter[str] = Counter()
        for kind, found in found_by_kind.items():
            columns = self._columns_of(kind, found)
            self._write_stamps(kind, index, columns)
            for name, values in columns.items():
                path = f"{GROUPS[kind]}/{name}"
                if path in self._columns:
                    self._columns[path][index, : len(values)] = values
            refused.update(reason for _, reason in found.refused)
            refused[Refusal.NOT_SELECTED] += found.objects.n_not_selected
            missing.update(found.objects.missing)
        if isinstance(wcs, CelestialWcs):
            self._wcs[index] = wcs.text()
            self._digest.update(self._wcs[index].encode())
        count = CcdCount(
            exposure=self._exposure.facts.id,
            ccd=ccd,
            n_stars=len(found_by_kind["star"].objects),
            n_galaxies=len(found_by_kind["galaxy"].objects) if "galaxy" in found_by_kind else 0,
            n_masked=sum(found.n_masked for found in found_by_kind.values()),
            n_no_sky=sum(found.n_no_sky for found in found_by_kind.values()),
            no_wcs="" if isinstance(wcs, CelestialWcs) else str(wcs),
            scale_ratio=self._scale_ratio(found_by_kind),
            refused={reason: n for reason, n in refused.items() if n},
            missing=dict(missing),
        )
        self._counts[index] = count
        return count

    def close(self, *, whole: bool, n_off_ccds: int = 0) -> None:
        """Write columns and facts; mark the exposure complete if it is `whole`.

        `n_off_ccds` selected rows of its catalogues lie on no CCD.
        """
        self._clear_leftovers()
        for path, values in self._columns.items():
            write_region(self._target.array(path), (self._row,), values)
        facts = self._exposure.facts
        content = self._digest.hexdigest() if whole else ""
        for name, value in (
            ("time", facts.time),
            ("filter", facts.filter),
            ("ra", facts.ra),
            ("dec", facts.dec),
            ("content", content),
            ("digest", self._file_digest()),
            ("source", self._exposure.source),
            ("n_off_ccds", n_off_ccds),
            ("wcs", self._wcs),
        ):
            self._target.array(f"exposures/{name}")[self._row] = value
        self._write_counts()
        if whole:
            self._target.array("exposures/complete")[self._row] = 1

    def _scale_ratio(self, found_by_kind: Mapping[Kind, Placed]) -> float:
        """Side of the WCS's pixels over that of the instrument's; NaN where there is none."""
        matrices = np.concatenate([found.jacobian for found in found_by_kind.values()])
        known = matrices[np.isfinite(matrices).all(axis=(1, 2))]
        if not len(known):
            return float("nan")
        side = np.sqrt(np.median(np.abs(np.linalg.det(known))))
        return float(side / self._survey.instrument.detector.pixel_scale)

    def _columns_of(self, kind: Kind, found: Placed) -> dict[str, np.ndarray]:
        """Every array of the CCD's objects, by name, in the schema's order and types."""
        values = dict(found.objects.arrays()) | {
            "field_x": found.field_x,
            "field_y": found.field_y,
            "jacobian": found.jacobian,
            "role": found.role,
        }
        return {
            spec.name: np.ascontiguousarray(values[spec.name], spec.dtype)
            for spec in self._target.specs
            if spec.group == GROUPS[kind]
        }

    def _large(self, kind: Kind) -> list[str]:
        """Arrays that are stored CCD by CCD."""
        specs = self._target.specs
        return [s.name for s in specs if s.owner == "ccd" and s.group == GROUPS[kind]]

    def _write_stamps(self, kind: Kind, index: int, columns: Mapping[str, np.ndarray]) -> None:
        for name, values in columns.items():
            label = f"{index}/{kind}/{name}/{values.dtype.str}/{values.shape}"
            self._digest.update(label.encode())
            self._digest.update(values.tobytes())
        for name in self._large(kind):
            values = columns[name]
            array = self._target.array(f"{GROUPS[kind]}/{name}")
            padded = np.full(array.shape[2:], np.nan, np.float32)
            padded[: len(values)] = values
            write_region(array, (self._row, index), padded)
        self._written.add((kind, index))

    def _file_digest(self) -> int:
        """Digest of the files of the exposure, as they lie on the disk; not of its row."""
        checksums = {}
        for spec in self._target.specs:
            stored = StoredArray(self._target.array(spec.path))
            by_ccd = stored.shard[1] == 1 and stored.shape[1] > 1
            for rest in [(ccd,) for ccd in range(stored.shape[1])] if by_ccd else [()]:
                if stored.path((self._row, *rest)).exists():
                    checksums[stored.key((0, *rest))] = stored.checksum((self._row, *rest))
        return int(digest_of(checksums), 16)

    def _clear_leftovers(self) -> None:
        """Remove stamps that an earlier attempt wrote and this one did not."""
        if self._exposure.facts.id not in self._target.rewritten:
            return
        for kind in self._target.kinds:
            for name in self._large(kind):
                array = self._target.array(f"{GROUPS[kind]}/{name}")
                for index in range(array.shape[1]):
                    if (kind, index) not in self._written:
                        empty = np.full(array.shape[2:], np.nan, np.float32)
                        write_region(array, (self._row, index), empty)

    def _write_counts(self) -> None:
        n_ccds = self._survey.instrument.focal_plane.n_ccds
        table = {name: np.zeros(n_ccds, np.int32) for name in ("n_stars", "n_galaxies", "n_masked")}
        refused = np.zeros((n_ccds, len(Refusal)), np.int32)
        for index, count in self._counts.items():
            for name, values in table.items():
                values[index] = getattr(count, name)
            for reason, n in count.refused.items():
                refused[index, reason] = n
        for name, values in table.items():
            self._target.array(f"exposures/{name}")[self._row] = values
        self._target.array("exposures/n_refused")[self._row] = refused
