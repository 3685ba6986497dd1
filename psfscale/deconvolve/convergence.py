"""When to stop: galaxy by galaxy on the distance still to go, or as the published program did."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["CostWindow", "RemainingDistance"]

LAG = 5
"""Iterations over which the rate of convergence is read."""

MOST_TO_GO = 100.0
"""Steps that are still to go at most, however slowly they shrink: rounding keeps the last alive."""


class RemainingDistance:
    """Stops where every galaxy's squared distance to its limit is small against its square.

    Steps that shrink by a factor q an iteration leave ``step · q / (1 − q)`` to go; q comes from
    the steps `LAG` iterations apart. Slow convergence, q near 1, is thus not taken for its end.

    Attributes
    ----------
    residual : largest relative squared distance of a galaxy
    """

    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.residual = math.inf
        self._steps: list[Tensor] = []
        self._largest: Tensor | None = None
        self._distance: Tensor | None = None

    def __call__(self, x: Tensor, moved: Float[Tensor, " object"]) -> bool:
        """Whether all galaxies are done."""
        size = torch.linalg.vector_norm(x.flatten(1), dim=1)
        self._largest = size if self._largest is None else torch.maximum(self._largest, size)
        self._steps = [*self._steps[-LAG:], moved.clone()]
        if len(self._steps) <= LAG:
            return False
        first, last = self._steps[0], self._steps[-1]
        rate = (last / first).pow(1 / LAG)
        steps_to_go = torch.where(rate < 1, rate / (1 - rate), MOST_TO_GO).clamp(max=MOST_TO_GO)
        to_go = torch.where(last == 0, 0.0, last * steps_to_go)
        self._distance = (to_go / self._largest).nan_to_num(nan=0.0, posinf=math.inf) ** 2
        self.residual = float(self._distance.max())
        return self.residual <= self.tolerance

    def converged(self, n: int) -> Bool[Tensor, " object"]:
        """Which of the n galaxies were done at the last iteration."""
        if self._distance is None:
            return torch.zeros(n, dtype=torch.bool)
        return self._distance <= self.tolerance


class CostWindow:
    """The published program's test: of four costs, the means of the last and first two agree.

    It fires long before the solution settles; for parity alone.

    Attributes
    ----------
    costs : all costs so far
    residual : last relative change of the means
    """

    WINDOW = 4

    def __init__(self, cost: Callable[[Tensor], float], *, tolerance: float, interval: int) -> None:
        self.cost, self.tolerance, self.interval = cost, tolerance, interval
        self.costs: list[float] = []
        self.residual = math.inf
        self._calls = 0
        self._list: list[float] = []

    def __call__(self, x: Tensor, moved: Float[Tensor, " object"]) -> bool:  # noqa: ARG002
        """Whether the mean cost has stopped changing."""
        self._calls += 1
        if self.interval == 0 or self._calls % self.interval:
            return False
        value = self.cost(x)
        self.costs.append(value)
        self._list.append(value)
        if len(self._list) < self.WINDOW:
            return False
        half = self.WINDOW // 2
        first, last = sum(self._list[:half]) / half, sum(self._list[half:]) / half
        self._list = []
        self.residual = 0.0 if round(last, 16) == 0 else abs((last - first) / last)
        return self.residual <= self.tolerance

    def converged(self, n: int) -> Bool[Tensor, " object"]:
        """All galaxies or none."""
        return torch.full((n,), self.residual <= self.tolerance)
