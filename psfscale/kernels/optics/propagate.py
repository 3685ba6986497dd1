r"""From the pupil to the focal plane by matrix DFT, at exactly the samples wanted.

``E(v, u) = Σ_yx g(y, x) exp(−2πi s (y v + x u) / λ)``: two small matrix products, each along one
axis. Pupil samples and image samples lie symmetrically about their middles (at ±½, ±3/2, …), so
even and odd parts go through a real cosine and a real sine matrix of half the size: a quarter of
the products of a complex DFT. An image that is not centred on the axis is a tilt of the pupil.

======  ===================================================================  ====
symbol  name                                                                 unit
======  ===================================================================  ====
g       field in the pupil, ``A exp(2πi W / λ)``                             1
A, W    amplitude and optical path difference (OPD)                          1, µm
y, x    pupil sample from the middle                                         1
v, u    image sample from the middle                                         1
s       path difference between two neighbouring pupil samples, at the       µm
        distance of one image sample: (pupil step) · (image step as an angle)
======  ===================================================================  ====
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["MatrixDFT", "pupil_field"]


def _middle(n: int, like: Tensor) -> Tensor:
    """Distances of the right half of `n` samples from their middle: ½, 3/2 and so on."""
    return torch.arange(n // 2, dtype=torch.float64, device=like.device) + 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixDFT:
    """The transform along one axis, applied to both; fields are (real, imaginary) stacks.

    Attributes
    ----------
    cosine, sine : (pupil half, image half)
    """

    cosine: Float[Tensor, "pupil image"]
    sine: Float[Tensor, "pupil image"]

    @classmethod
    def of(
        cls, n_pupil: int, n_image: int, *, path_step: float, wavelength: float, like: Tensor
    ) -> MatrixDFT:
        """From `n_pupil` to `n_image` samples a side, dtype and device as `like`.

        Parameters
        ----------
        path_step : s [µm], see the module
        wavelength : [µm]

        Raises
        ------
        InputError
            A number of samples is odd.
        """
        if n_pupil % 2 or n_image % 2:
            msg = f"a matrix DFT needs even sides, got {n_pupil} and {n_image}; pad one sample"
            raise InputError(msg)
        across = torch.outer(_middle(n_pupil, like), _middle(n_image, like))
        angle = 2 * math.pi * path_step / wavelength * across
        return cls(cosine=torch.cos(angle).to(like.dtype), sine=torch.sin(angle).to(like.dtype))

    def forward(self, field: Float[Tensor, "2 *batch y x"]) -> Float[Tensor, "2 *batch v u"]:
        """Field in the focal plane."""
        along_x = _transform(field, self.cosine, self.sine)
        return _transform(along_x.mT, self.cosine, self.sine).mT

    def adjoint(self, field: Float[Tensor, "2 *batch v u"]) -> Float[Tensor, "2 *batch y x"]:
        """The adjoint, back to the pupil."""
        cosine, sine = self.cosine.T, -self.sine.T
        along_u = _transform(field, cosine, sine)
        return _transform(along_u.mT, cosine, sine).mT

    def forward_last(self, field: Float[Tensor, "2 *batch x"]) -> Float[Tensor, "2 *batch u"]:
        """The transform along the last axis alone."""
        return _transform(field, self.cosine, self.sine)


def _transform(z: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``Σ_x z(x) exp(−i angle)`` along the last axis, by parity."""
    half = z.shape[-1] // 2
    right, left = z[..., half:], z[..., :half].flip(-1)
    even, odd = (right + left) @ cosine, (right - left) @ sine
    m = cosine.shape[1]
    out = torch.empty((*even.shape[:-1], 2 * m), dtype=even.dtype, device=even.device)
    torch.add(even[0], odd[1], out=out[0, ..., m:])
    torch.sub(even[1], odd[0], out=out[1, ..., m:])
    out[0, ..., :m] = (even[0] - odd[1]).flip(-1)
    out[1, ..., :m] = (even[1] + odd[0]).flip(-1)
    return out


def pupil_field(
    amplitude: Float[Tensor, "y x"], opd: Float[Tensor, "*batch y x"], *, wavelength: float
) -> Float[Tensor, "2 *batch y x"]:
    """Real and imaginary part of the field in the pupil."""
    phase = opd * (2 * math.pi / wavelength)
    return torch.stack([torch.cos(phase), torch.sin(phase)]).mul_(amplitude)
