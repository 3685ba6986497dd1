"""Count a survey exposure by exposure, in memory that does not grow with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.metrics.tables.columns import galaxy_columns, star_columns
from psfscale.metrics.tables.rho import Separations, pair_sums
from psfscale.metrics.tables.tables import KINDS
from psfscale.metrics.tables.tally import Counter, Tally, added

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psfscale.metrics.tables.axes import Axis

    Columns = Mapping[str, np.ndarray]

AT_ONCE = 2**15
"""Objects that are gathered before they are counted: bounds memory, and spreads what a batch
costs."""


class Collector:
    """Takes exposures, gives their tally.

    Parameters
    ----------
    axes : ways to sort the objects
    rho : whether pairs of stars are correlated too; needs TreeCorr
    """

    def __init__(self, axes: Sequence[Axis], *, rho: bool) -> None:
        self._axes, self._rho = tuple(axes), rho
        self._counters: dict[str, Counter] = {}
        self._waiting: dict[str, list[dict[str, np.ndarray]]] = {kind: [] for kind in KINDS}
        self._pairs: dict[str, np.ndarray] = {}
        self._exposures: list[str] = []

    def add(
        self,
        exposure: str,
        *,
        stars: tuple[Columns, np.ndarray],
        galaxies: tuple[Columns, np.ndarray] | None = None,
    ) -> None:
        """Take an exposure.

        Parameters
        ----------
        exposure : its id
        stars : arrays (ccd, star) as `star_columns` wants them, and the CCDs in use
        galaxies : the same of galaxies, where they are restored
        """
        self._exposures.append(exposure)
        columns = star_columns(*stars)
        if self._rho:
            self._pairs = added(self._pairs, pair_sums(columns, Separations()))
        self._wait("stars", columns)
        if galaxies is not None:
            self._wait("galaxies", galaxy_columns(*galaxies))

    def tally(self) -> Tally:
        """Of all exposures taken so far."""
        for kind in KINDS:
            self._count(kind)
        arrays = {k: v for counter in self._counters.values() for k, v in counter.arrays.items()}
        return Tally(exposures=tuple(sorted(self._exposures)), arrays=arrays | self._pairs)

    def _wait(self, kind: str, columns: dict[str, np.ndarray]) -> None:
        self._waiting[kind].append(columns)
        if sum(len(part["flags"]) for part in self._waiting[kind]) >= AT_ONCE:
            self._count(kind)

    def _count(self, kind: str) -> None:
        parts = self._waiting[kind]
        if not sum(len(part["flags"]) for part in parts):
            return
        if kind not in self._counters:
            names = [quantity.name for quantity in KINDS[kind]]
            self._counters[kind] = Counter(kind, names, self._axes)
        self._counters[kind].add(
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )
        self._waiting[kind] = []
