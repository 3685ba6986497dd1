"""What a linear operator offers to the solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LinearOperator"]


class LinearOperator(Protocol):
    """A linear map with its adjoint and a bound of its norm."""

    def forward(self, x: Tensor) -> Tensor:
        """The map applied to `x`."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint map applied to `y`: ⟨forward(x), y⟩ = ⟨x, adjoint(y)⟩."""
        ...

    def norm(self) -> Tensor | float:
        """An upper bound of the largest singular value, of each system of a batch."""
        ...
