r"""The primal step in the metric of the data: blurred detail moves as fast as what is sharp.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
H       convolution with the galaxy's PSF, circular         1
s       Σ σ_i ‖L_i‖² of the dual terms                      1
======  ==================================================  ==================

A step of the same length everywhere waits for what H damps: |K|² falls to nothing at the PSF's
band limit. With all pixels of one weight the proximal operator of f in s‖·‖²/2 is a filter,
``(HᵀH + s)⁻¹(s x − Lᵀu + Hᵀy)``, which goes all the way (Chambolle & Pock 2011, J. Math. Imaging
Vis. 40, 120, at στ‖L‖² = 1). With weights up to 1, or moments held, ``x − T(∇f(x) + Lᵀu)`` with
``T⁻¹ = κ HᵀH + s``, κ the largest weight: Condat's condition in that metric (Pock & Chambolle
2011, ICCV) leaves relaxations below 3/2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

    from psfscale.deconvolve.problem import DataTerm
    from psfscale.kernels.optimize.splitting import PrimalStep

__all__ = ["primal_step"]


def primal_step(data: DataTerm, damping: Float[Tensor, " object"]) -> PrimalStep:
    """The step of x beside dual terms with Σ σ_i ‖L_i‖² = s of each object, or one for all."""
    if data.weight is None and not data.lambda_shape:
        return ProximalStep(data, damping)
    return MetricStep(data, damping, stiffness=1 + data.lambda_shape)


class ProximalStep:
    """The minimum of f + ⟨Lᵀu, ·⟩ + s‖· − x‖²/2, where no pixel is weighted.

    Parameters
    ----------
    damping : (object,) or one s for all
    """

    def __init__(self, data: DataTerm, damping: Float[Tensor, " object"]) -> None:
        self._damping = damping[:, None, None]
        self._filter = replace(data.blur).resolvent(damping)
        self._still = self._filter(data.pulled())

    def at(self, x: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """From x on."""

        def ahead(pull: Tensor, objects: slice) -> Tensor:
            damping = self._damping[objects] if len(self._damping) > 1 else self._damping
            towards = x[objects].mul(damping).sub_(pull)
            return self._filter.select(objects)(towards).add_(self._still[objects])

        return ahead


class MetricStep:
    """x − T(∇f(x) + Lᵀu), for any weights.

    Parameters
    ----------
    damping : (object,) or one s for all
    stiffness : κ
    """

    def __init__(self, data: DataTerm, damping: Float[Tensor, " object"], stiffness: float) -> None:
        self._data, self._stiffness = data, stiffness
        self._filter = replace(data.blur).resolvent(damping / stiffness)

    def at(self, x: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """From x on."""
        slope = self._data.gradient(x)

        def ahead(pull: Tensor, objects: slice) -> Tensor:
            step = self._filter.select(objects)(slope[objects] + pull)
            return x[objects].sub(step, alpha=1 / self._stiffness)

        return ahead
