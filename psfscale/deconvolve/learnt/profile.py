r"""Elliptical galaxies as sums of Gaussians of one shape, drawn with their derivatives.

======  ==================================================  ==================
symbol  name                                                unit
======  ==================================================  ==================
z       ln flux, b, c1, c2, y, x, l, e1, e2                 mixed, see `Layout`
a       flux fractions of the Gaussians, a = mean + U b     1
ρ_k     width of Gaussian k over the galaxy's size          1
l       ln size                                             ln pixel
e       logarithmic ellipticity; axis ratio exp(−2|e|)      1
c       growth of e outwards, from one Gaussian to the next  1 / STEPS_OUT
Σ       exp(2L), L = [[l + e1, e2], [e2, l − e1]] in (x, y)  pixel²
======  ==================================================  ==================

The sky is ``flux · Σ_k (a_k + mean_k u_k c·∂/∂e) N(centre, ρ_k² Σ)`` with u_k from −1 inside to 1
outside, seen through a Gaussian beam that a pixel grid can hold. To first order, which keeps it
linear in c, Gaussian k has the ellipticity e + u_k c. The transfer function is real but for the
centre's phase, and so are its derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.deconvolve.learnt.settings import N_GAUSSIANS

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.deconvolve.learnt.fourier import FourierPlane

__all__ = ["WIDTHS", "Layout", "ProfileBasis", "shape_matrix"]

WIDTHS = tuple(0.14 * 3 ** (k / 2) for k in range(N_GAUSSIANS))
"""ρ_k. From a seventh to 3.8 times the size: a de Vaucouleurs profile's cusp and wings; the steps
are fine enough for an exponential's slope."""

STEPS_OUT = 3
"""Gaussians from the middle one to the outermost: u_k counts them from −1 to 1."""

SMALL_ELLIPTICITY = 1e-4


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parameters stand in z, with `n_modes` of the flux fractions.

    Without `twist` there is no c: galaxies keep their ellipticity outwards.
    """

    n_modes: int
    twist: bool = True

    @property
    def _fixed(self) -> int:
        return self.n_modes + (5 if self.twist else 3)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.log_size + 3

    @property
    def modes(self) -> slice:
        """b, the amplitudes of the profile's modes."""
        return slice(1, 1 + self.n_modes)

    @property
    def gradient(self) -> slice:
        """c1, c2, or nothing."""
        return slice(self.n_modes + 1, self._fixed - 2)

    @property
    def linear(self) -> slice:
        """Flux, and what goes with it in proportion: modes and gradient."""
        return slice(0, self._fixed - 2)

    @property
    def centre(self) -> slice:
        """Position (y, x) from the stamp's centre [pixel]."""
        return slice(self._fixed - 2, self._fixed)

    @property
    def log_size(self) -> int:
        """Index of l."""
        return self._fixed

    @property
    def ellipticity(self) -> slice:
        """e1, e2."""
        return slice(self._fixed + 1, self._fixed + 3)


def shape_matrix(
    log_size: Float[Tensor, " object"], e: Float[Tensor, "object 2"]
) -> Float[Tensor, "object derivative 3"]:
    """Σ as (xx, xy, yy), then its derivatives by e1 and by e2."""
    unit, tilt, _ = _forms(e)
    f, g, _, _ = (value[:, None] for value in _scales(e))
    sigma = f * unit + g * tilt
    area = torch.exp(2 * log_size)[:, None, None]
    return torch.cat([area * sigma[:, None], shape_slopes(log_size, e)[0]], 1)


def shape_slopes(
    log_size: Float[Tensor, " object"], e: Float[Tensor, "object 2"]
) -> tuple[Float[Tensor, "object 2 3"], Float[Tensor, "object 2 2 3"]]:
    """First and second derivatives of Σ by e.

    Σ = exp(2l) (f I + g T(e)) with f = cosh 2|e| and g = sinh 2|e| / |e|, functions of |e|² with
    f' = g there.
    """
    unit, tilt, along = _forms(e)
    _, g, g1, g2 = (value[:, None, None] for value in _scales(e))
    one = e[:, :, None]
    slopes = 2 * one * (g * unit + g1 * tilt[:, None]) + g * along
    both = 4 * one[:, :, None] * e[:, None, :, None]
    same = 2 * torch.eye(2).to(e)[..., None]
    g, g1, g2 = g[..., None], g1[..., None], g2[..., None]
    tilted = tilt[:, None, None]
    mixed = one[:, :, None] * along + e[:, None, :, None] * along[:, None]
    bends = (same * g + both * g1) * unit + (same * g1 + both * g2) * tilted + 2 * g1 * mixed
    area = torch.exp(2 * log_size)[:, None, None]
    return area * slopes, area[..., None] * bends


def _forms(e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """I, T(e), and T by e1 and e2, as (xx, xy, yy)."""
    along = e.new_tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    return e.new_tensor([1.0, 0.0, 1.0]), e @ along, along


def _scales(e: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f, g, g' and g''; 4 s g'' + 6 g' = 4 g with s = |e|²."""
    square = (e**2).sum(1).clamp(min=SMALL_ELLIPTICITY**2)
    modulus = square.sqrt()
    f = torch.cosh(2 * modulus)
    g = torch.sinh(2 * modulus) / modulus
    g1 = (2 * f - g) / (2 * square)
    return f, g, g1, (4 * g - 6 * g1) / (4 * square)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileBasis:
    """Profiles whose flux fractions are ``mean + modes @ b``, on a canvas.

    Attributes
    ----------
    canvas : frequencies
    mean : (gaussian,) fractions, sum 1
    modes : (gaussian, mode) columns of sum 0
    twist : whether ellipticities may grow outwards
    """

    canvas: FourierPlane
    mean: Float[Tensor, " gaussian"]
    modes: Float[Tensor, "gaussian mode"]
    twist: bool = True

    @property
    def layout(self) -> Layout:
        """Where the parameters stand."""
        return Layout(n_modes=self.modes.shape[1], twist=self.twist)

    def fractions(self, z: Float[Tensor, "object parameter"]) -> Float[Tensor, "object gaussian"]:
        """Flux fractions of the Gaussians."""
        return self.mean + z[:, self.layout.modes].to(self.mean.dtype) @ self.modes.T

    def spectra(
        self, z: Float[Tensor, "object parameter"], beam: Tensor
    ) -> Complex[Tensor, "object fy fx"]:
        """The galaxies through `beam`, any transfer function."""
        q, _ = self._exponents(z)
        flux = z[:, :1].exp().to(self.canvas.dtype)
        weights = (flux * self.fractions(z))[:, None]
        gaussians = self._gaussians(q)
        real = (weights @ gaussians)[:, 0]
        if self.twist:
            turn = self._twist(z)[0]
            real = real + ((flux * self._lever)[:, None] @ gaussians * turn)[:, 0]
        return real.reshape(len(z), *self._plane) * (beam * self._phase(z))

    def columns(
        self, z: Float[Tensor, "object parameter"], beam: Tensor
    ) -> Complex[Tensor, "object parameter fy fx"]:
        """Derivatives of `spectra` by each parameter; the first is the galaxy itself."""
        canvas, n = self.canvas, len(z)
        q, slopes = self._exponents(z)
        flux = z[:, :1].exp().to(canvas.dtype)
        weights = flux * self.fractions(z)
        rows = [weights, weights * self._squared_widths]
        if self.twist:
            rows += [flux * self._lever, flux * self._lever * self._squared_widths]
        even = len(rows)
        mix = torch.cat([torch.stack(rows, 1), flux[:, None] * self.modes.T.expand(n, -1, -1)], 1)
        parts = mix @ self._gaussians(q)
        galaxy, steep = parts[:, :1], parts[:, 1:2]
        by_size, by_shape = steep * (2 * q), steep * slopes
        if self.twist:
            turn, bends = self._twist(z)
            uneven, steep = parts[:, 2:3], parts[:, 3:4] * turn
            galaxy = galaxy + uneven * turn
            by_size = by_size + 2 * (steep * q + uneven * turn)
            by_shape = by_shape + steep * slopes + uneven * bends
        seen = (beam * self._phase(z))[:, None]
        where, plane = self.layout, self._plane
        out = seen.new_empty((n, where.size, *plane))

        def fill(first: int, real: Tensor) -> None:
            own = out[:, first : first + real.shape[1]]
            torch.mul(real.reshape(n, -1, *plane), seen, out=own)

        fill(0, galaxy)
        fill(1, parts[:, even:])
        if self.twist:
            fill(where.gradient.start, uneven * slopes)
        fill(where.log_size, by_size)
        fill(where.log_size + 1, by_shape)
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

    @property
    def _lever(self) -> Float[Tensor, " gaussian"]:
        """mean_k u_k ρ_k²."""
        out = torch.arange(len(WIDTHS)).to(self.mean) / STEPS_OUT - 1
        return self.mean * out * self._squared_widths

    def _exponents(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """−2π² fᵀΣf (object, 1, frequency), and its derivatives by e1 and e2."""
        where = self.layout
        all_ = self._quadratic(shape_matrix(z[:, where.log_size], z[:, where.ellipticity]))
        return all_[:, :1], all_[:, 1:]

    def _twist(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The exponent's derivative along c (object, 1, frequency), and that one's by e."""
        where = self.layout
        slopes, bends = shape_slopes(z[:, where.log_size], z[:, where.ellipticity])
        c = z[:, where.gradient, None]
        along = torch.cat([(slopes * c).sum(1, keepdim=True), (bends * c[:, None]).sum(2)], 1)
        all_ = self._quadratic(along)
        return all_[:, :1], all_[:, 1:]

    def _quadratic(self, forms: Float[Tensor, "object form 3"]) -> Tensor:
        return (-2 * torch.pi**2 * forms).to(self.canvas.dtype) @ self.canvas.quadratic

    def _gaussians(self, q: Tensor) -> Float[Tensor, "object gaussian frequency"]:
        return torch.exp(q * self._squared_widths[:, None])
