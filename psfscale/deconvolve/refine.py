r"""PSFs refined while the galaxies are restored (``grad_type psf_unknown``).

After each step of x the PSF h of each galaxy takes one step down

``½ ‖Hx − y‖² + ½ λ ‖h − h₀‖²``   [image²]

and goes back to the PSFs: not negative, sum 1. The step is `beta_psf`, or 1/(max|X̂|² + λ) where
that is shorter. One PSF for all galaxies takes the sum over galaxies, each by its noise. In
parity the step is taken as it stands, and the sum is left free, as the published program does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psfscale.deconvolve.problem import DataTerm
from psfscale.kernels.convolution import Convolution
from psfscale.kernels.optimize.prox import project_positive, project_simplex

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["RefinedPsf"]


class RefinedPsf(DataTerm):
    """f of galaxies whose PSFs are estimated with them; `gradient` refines the PSFs first.

    Parameters
    ----------
    scale : (object,) image units of one noise σ
    lambda_psf : λ [image²]
    beta_psf : step
    literal : take the step as it is, and leave the sum of the PSF free
    """

    def __init__(
        self,
        image: Float[Tensor, "object y x"],
        *,
        weight: Float[Tensor, "object y x"] | None,
        blur: Convolution,
        scale: Float[Tensor, " object"],
        lambda_psf: float,
        beta_psf: float,
        literal: bool,
    ) -> None:
        super().__init__(image, weight=weight, blur=blur)
        self.given = blur.psf
        self.lambda_psf, self.beta_psf, self.literal = lambda_psf, beta_psf, literal
        shared = len(blur.psf) == 1
        variance = scale.square().mean(0, keepdim=True) if shared else scale.square()
        self._variance = variance[:, None, None]

    def gradient(self, x: Float[Tensor, "object y x"]) -> Float[Tensor, "object y x"]:
        """∇f in x at the refined PSFs."""
        self._refine(x)
        misfit = self.blur.forward(x) - self.image
        return self.blur.adjoint(misfit if self.weight is None else self.weight * misfit)

    def cost(self, x: Float[Tensor, "object y x"]) -> float:
        """F and the PSFs' own term (in parity without its λ/2)."""
        square = (self.blur.psf - self.given).double().square()
        factor = 1.0 if self.literal else 0.5 * self.lambda_psf / self._variance.double()
        misfit = 0.5 * float(self.residual(x).double().square().sum())
        return misfit + float((factor * square).sum())

    def _refine(self, x: Tensor) -> None:
        psf = self.blur.psf
        misfit = self.blur.forward(x) - self.image
        if self.weight is not None:
            misfit = self.weight * misfit
        pull = self._variance * self.blur.kernel_adjoint(x, misfit)
        pull = pull + self.lambda_psf * (psf - self.given)
        if self.literal:
            refined = project_positive(psf - self.beta_psf * pull)
        else:
            longest = 1 / (self._variance * self.blur.kernel_gain(x) + self.lambda_psf)
            refined = project_simplex(psf - longest.clamp(max=self.beta_psf) * pull)
        self.blur = Convolution(psf=refined, shape=self.blur.shape, boundary=self.blur.boundary)
