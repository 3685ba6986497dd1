r"""Elliptical galaxies as sums of Gaussians of one shape, drawn with their derivatives.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
z       ln flux, b, y, x, l, e1, e2                         mixed, see `Layout`
a       flux fractions of the Gaussians, a = mean + U b     1
ρ_k     width of Gaussian k over the galaxy's size          1
l       ln size                                             ln pixel
e       logarithmic ellipticity; axis ratio exp(−2|e|)      1
Σ       exp(2L), L = [[l + e1, e2], [e2, l − e1]] in (x, y)  pixel²
======  ==================================================  ==================

The sky is ``flux · Σ_k a_k N(centre, ρ_k² Σ)``, seen through a Gaussian beam that a pixel grid can
hold; its transfer function is real but for the centre's phase, and so are its derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.deconvolve.learnt.settings import N_GAUSSIANS

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.deconvolve.learnt.canvas import FourierPlane

__all__ = ["WIDTHS", "Layout", "ProfileBasis", "shape_matrix"]

WIDTHS = tuple(0.14 * 3 ** (k / 2) for k in range(N_GAUSSIANS))
"""ρ_k. From a seventh to 3.8 times the size: a de Vaucouleurs profile's cusp and wings; the steps
are fine enough for an exponential's slope."""

SMALL_ELLIPTICITY = 1e-4


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parameters stand in z, with `n_modes` of the flux fractions."""

    n_modes: int

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.n_modes + 6

    @property
    def modes(self) -> slice:
        """b, the amplitudes of the profile's modes."""
        return slice(1, 1 + self.n_modes)

    @property
    def centre(self) -> slice:
        """Position (y, x) from the stamp's centre [pixel]."""
        return slice(self.n_modes + 1, self.n_modes + 3)

    @property
    def log_size(self) -> int:
        """Index of l."""
        return self.n_modes + 3

    @property
    def ellipticity(self) -> slice:
        """e1, e2."""
        return slice(self.n_modes + 4, self.n_modes + 6)


def shape_matrix(
    log_size: Float[Tensor, " object"], e: Float[Tensor, "object 2"]
) -> Float[Tensor, "object derivative 3"]:
    """Σ as (xx, xy, yy), then its derivatives by e1 and by e2."""
    modulus = e.norm(dim=1).clamp(min=SMALL_ELLIPTICITY)
    area = torch.exp(2 * log_size)
    cosh, sinh = torch.cosh(2 * modulus), torch.sinh(2 * modulus)
    ratio = sinh / modulus
    slope = (2 * cosh - ratio) / modulus**2
    zero = torch.zeros_like(modulus)
    round_ = torch.stack([cosh + zero, zero, cosh + zero], 1)
    tilt = torch.stack([e[:, 0], e[:, 1], -e[:, 0]], 1)
    rows = [round_ + ratio[:, None] * tilt]
    for i, along in enumerate(((1.0, 0.0, -1.0), (0.0, 1.0, 0.0))):
        turn = 2 * ratio * e[:, i]
        grown = torch.stack([turn, zero, turn], 1) + (slope * e[:, i])[:, None] * tilt
        rows.append(grown + ratio[:, None] * tilt.new_tensor(along))
    return area[:, None, None] * torch.stack(rows, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileBasis:
    """Profiles whose flux fractions are ``mean + modes @ b``, on a canvas.

    Attributes
    ----------
    canvas : frequencies
    mean : (gaussian,) fractions, sum 1
    modes : (gaussian, mode) columns of sum 0
    """

    canvas: FourierPlane
    mean: Float[Tensor, " gaussian"]
    modes: Float[Tensor, "gaussian mode"]

    @property
    def layout(self) -> Layout:
        """Where the parameters stand."""
        return Layout(n_modes=self.modes.shape[1])

    def fractions(self, z: Float[Tensor, "object parameter"]) -> Float[Tensor, "object gaussian"]:
        """Flux fractions of the Gaussians."""
        return self.mean + z[:, self.layout.modes].to(self.mean.dtype) @ self.modes.T

    def spectra(
        self, z: Float[Tensor, "object parameter"], beam: Tensor
    ) -> Complex[Tensor, "object fy fx"]:
        """The galaxies through `beam`, any transfer function."""
        q, _ = self._exponents(z)
        weights = z[:, :1].exp().to(self.canvas.dtype) * self.fractions(z)
        real = weights[:, None] @ self._gaussians(q)
        return real.reshape(len(z), *self._plane) * (beam * self._phase(z))

    def columns(
        self, z: Float[Tensor, "object parameter"], beam: Tensor
    ) -> Complex[Tensor, "object parameter fy fx"]:
        """Derivatives of `spectra` by each parameter; the first is the galaxy itself."""
        canvas, n = self.canvas, len(z)
        q, slopes = self._exponents(z)
        flux = z[:, :1].exp().to(canvas.dtype)
        weights = flux * self.fractions(z)
        mix = torch.cat(
            [
                weights[:, None],
                (weights * self._squared_widths)[:, None],
                flux[:, None] * self.modes.T.expand(n, -1, -1),
            ],
            1,
        )
        parts = mix @ self._gaussians(q)
        steep = parts[:, 1:2]
        seen = (beam * self._phase(z))[:, None]
        where, plane = self.layout, self._plane
        out = seen.new_empty((n, where.size, *plane))

        def fill(first: int, real: Tensor) -> None:
            own = out[:, first : first + real.shape[1]]
            torch.mul(real.reshape(n, -1, *plane), seen, out=own)

        fill(0, parts[:, :1])
        fill(1, parts[:, 2:])
        fill(where.log_size, steep * (2 * q))
        fill(where.log_size + 1, steep * slopes)
        turned = out[:, 0] * (-2j * torch.pi)
        torch.mul(turned, canvas.fy, out=out[:, where.centre.start])
        torch.mul(turned, canvas.fx, out=out[:, where.centre.start + 1])
        return out

    @property
    def _plane(self) -> tuple[int, int]:
        return len(self.canvas.fy), self.canvas.fx.shape[1]

    @property
    def _squared_widths(self) -> Float[Tensor, " gaussian"]:
        return torch.tensor(WIDTHS, dtype=self.mean.dtype, device=self.mean.device) ** 2

    def _phase(self, z: Tensor) -> Complex[Tensor, "object fy fx"]:
        y, x = z[:, self.layout.centre].to(self.canvas.dtype).unbind(1)
        return self.canvas.phase(y, x)

    def _exponents(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """−2π² fᵀΣf (object, 1, frequency), and its derivatives by e1 and e2."""
        shapes = shape_matrix(z[:, self.layout.log_size], z[:, self.layout.ellipticity])
        forms = (-2 * torch.pi**2 * shapes).to(self.canvas.dtype)
        all_ = forms @ self.canvas.quadratic
        return all_[:, :1], all_[:, 1:]

    def _gaussians(self, q: Tensor) -> Float[Tensor, "object gaussian frequency"]:
        return torch.exp(q * self._squared_widths[:, None])
