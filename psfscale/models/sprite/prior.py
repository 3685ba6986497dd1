r"""What SPRITE believes of a PSF before it sees one, with variances learned from the stamps.

A PSF is a round profile plus bands of detail. The round profile is a sum of few rings in
frequency, each of its own variance. Band b holds frequencies of about one size; its variance
falls with the distance from the centre. Both follow each PSF's own stamps; no telescope, size
or shape is assumed.

======  ==================================================  =============================
symbol  name                                                unit
======  ==================================================  =============================
C       prior covariance ``Σ_b H_b V_b H_b + U diag(τ) Uᵀ``  1 (PSF of unit sum), squared
H_b     pass-band b, a function of frequency's length       1
V_b     variance of band b, a function of radius            as C
u_j     ring j in frequency, of unit norm                   1
τ_j     variance of the round profile in ring j             as C
γ       share of a variance that the data determine         1
======  ==================================================  =============================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from psfscale.models.sprite.planes import FilterPlanes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid

__all__ = ["BandParts", "PriorBasis", "PriorVariance", "prior_basis"]

BAND_CENTRES = (0.15, 0.4, 0.8)
"""Frequencies at which each pass-band has gain 1 [cycle/CCD pixel]; the last has no upper edge."""

PIXEL_CUTOFF = 0.75
"""Frequency [cycle/CCD pixel] at which the pixels' own response, exp(−(ν/0.75)²), is 1/e.

A Gaussian like sinc(ν) below its zero: every PSF seen by square pixels falls as fast."""

N_RADII = 6
"""Radii at which the variance of a band is learned."""

CORE_RADIUS = 1.5
"""Radius [CCD pixel] out to which the radii are evenly spaced; beyond, their logarithms are."""

FINEST_RING = 0.035
"""Spacing of the rings at frequency 0 [cycle/CCD pixel]."""

RING_GROWTH = 0.2
"""Growth of the rings' spacing with frequency."""

LARGEST_LOG_STEP = 2.5
"""Largest change of a variance's logarithm in one update."""

SMALLEST_SHARE = 0.03
"""γ below which a variance counts as undetermined."""

SMALLEST_RING_SHARE = 0.02

SMALLEST_LOG_VARIANCE = -30.0


def _pass_bands(radius: Tensor, centres: Sequence[float]) -> Float[Tensor, "band frequency"]:
    """Raised cosines in frequency whose squares sum to 1."""
    bands = []
    for i, centre in enumerate(centres):
        band = torch.ones_like(radius)
        if i > 0:
            low = centres[i - 1]
            band = torch.sin(math.pi / 2 * ((radius - low) / (centre - low)).clamp(0, 1))
        if i + 1 < len(centres):
            high = centres[i + 1]
            band = band * torch.cos(math.pi / 2 * ((radius - centre) / (high - centre)).clamp(0, 1))
        bands.append(band)
    return torch.stack(bands)


def _rings(grid: FrequencyGrid, radius: Tensor) -> Float[Tensor, "ring frequency"]:
    """Hats in frequency of unit norm, closest where a PSF's transform is steepest."""
    place = torch.log1p(radius * RING_GROWTH / FINEST_RING) / RING_GROWTH
    n = math.ceil(float(place.max()))
    place = place * (n / float(place.max()))
    hats = (1 - (place[None, :] - torch.arange(n + 1)[:, None]).abs()).clamp(min=0)
    norm = torch.sqrt((grid.multiplicity * hats**2).sum(1, keepdim=True))
    kept = norm[:, 0] > 0
    return hats[kept] / norm[kept]


@dataclass(frozen=True, kw_only=True)
class PriorVariance:
    """The learned variances of a batch of PSFs.

    Attributes
    ----------
    log_band : (psf, band, radius), natural logarithm of V at the radii
    ring : (psf, ring), τ
    """

    log_band: Float[Tensor, "psf band radius"]
    ring: Float[Tensor, "psf ring"]

    def where(self, chosen: Bool[Tensor, " psf"], other: PriorVariance) -> PriorVariance:
        """These variances for the chosen PSFs, others elsewhere."""
        return PriorVariance(
            log_band=torch.where(chosen[:, None, None], self.log_band, other.log_band),
            ring=torch.where(chosen[:, None], self.ring, other.ring),
        )


@dataclass(frozen=True, kw_only=True)
class BandParts:
    """An image split as the prior splits it: bands, and ring by ring its round profile."""

    band: Float[Tensor, "*batch band y x"]
    ring: Float[Tensor, "*batch ring"]


class PriorBasis:
    """Bands, radii and rings on a grid of frequencies.

    Parameters
    ----------
    grid : frequencies of the images
    dtype : of the images
    device : of the images
    """

    def __init__(self, grid: FrequencyGrid, *, dtype: torch.dtype, device: torch.device) -> None:
        self.grid = grid
        radius = torch.sqrt((grid.cycles**2).sum(0))
        fall = torch.exp(-((radius / PIXEL_CUTOFF) ** 2))
        self.bands = (_pass_bands(radius, BAND_CENTRES) * fall).to(device, dtype)
        self.rings = _rings(grid, radius).to(device, dtype)
        self._ring_weights = self.rings * grid.multiplicity.to(device, dtype)
        self._filters = FilterPlanes(grid, self.bands)
        self._hats = self._radial_hats(grid.fine_shape).to(device, dtype)
        self._area = self._hats.sum(0)

    def _radius(self, shape: tuple[int, int]) -> Float[Tensor, " pixel"]:
        """Distances from pixel (0, 0) [CCD pixel], the stamp being one period."""
        y, x = (
            torch.fft.fftfreq(n, 1 / period, dtype=torch.float64)
            for n, period in zip(shape, self.grid.shape, strict=True)
        )
        return torch.sqrt(y[:, None] ** 2 + x[None, :] ** 2).flatten()

    def _radial_hats(self, shape: tuple[int, int]) -> Float[Tensor, "pixel radius"]:
        last = math.asinh(math.hypot(*self.grid.shape) / 2 / CORE_RADIUS)
        place = torch.asinh(self._radius(shape) / CORE_RADIUS) / last * (N_RADII - 1)
        return (1 - (place[:, None] - torch.arange(N_RADII)).abs()).clamp(min=0)

    def start(self, n_psfs: int, *, width: Float[Tensor, " psf"]) -> PriorVariance:
        """Wide variances for PSFs of unit sum and about the given σ [CCD pixel]."""
        peak = 1 / (2 * math.pi * width**2 * self.grid.pixel_ratio)
        radius = self._radius(self.grid.fine_shape).to(width)
        fall = -2 * torch.log1p((radius / CORE_RADIUS) ** 2)
        log_band = (fall @ self._hats / self._area) - 2.0
        log_band = log_band[None, None] + 2 * torch.log(peak)[:, None, None]
        reach = (self.rings * self.grid.multiplicity.to(self.rings)).sum(1)
        ring = (reach / math.sqrt(math.prod(self.grid.fine_shape))) ** 2
        return PriorVariance(
            log_band=log_band.expand(n_psfs, len(self.bands), -1).clone(),
            ring=ring.expand(n_psfs, -1).clone(),
        )

    def spread(
        self, radial: Float[Tensor, "*batch radius"], shape: tuple[int, int] | None = None
    ) -> Float[Tensor, "*batch y x"]:
        """A profile at the radii, spread over the fine image, centred on pixel (0, 0).

        On another shape, centred on index ``n // 2``.
        """
        hats = self._hats if shape is None else self._radial_hats(shape).to(radial)
        image = (radial @ hats.T).reshape(*radial.shape[:-1], *(shape or self.grid.fine_shape))
        return image if shape is None else torch.fft.fftshift(image, dim=(-2, -1))

    def mean(self, image: Float[Tensor, "*batch y x"]) -> Float[Tensor, "*batch radius"]:
        """Radial means of an image about pixel (0, 0)."""
        return image.flatten(-2) @ self._hats / self._area

    def variance(self, prior: PriorVariance) -> Float[Tensor, "psf band y x"]:
        """V of each band, pixel by pixel."""
        return torch.exp(self.spread(prior.log_band))

    def split(
        self,
        c: Complex[Tensor, "*more psf frequency"],
        *,
        variance: Float[Tensor, "psf band y x"],
        ring: Float[Tensor, "psf ring"],
    ) -> BandParts:
        """The share of ``C c`` in each band and ring."""
        profile = c.real @ self._ring_weights.T
        return BandParts(band=variance * self._filters.forward(c), ring=ring * profile)

    def join(self, parts: BandParts) -> Complex[Tensor, "*more psf frequency"]:
        """The image made of bands and rings."""
        return self._filters.adjoint(parts.band) + parts.ring @ self.rings

    def learned(
        self, previous: PriorVariance, *, mean: BandParts, draw: BandParts, before: BandParts
    ) -> PriorVariance:
        """Variances of highest marginal likelihood, one step from the previous ones.

        ``V ← ⟨mean²⟩ / γ`` (MacKay 1992) in radial means. γ compares a draw of the posterior
        with the draw of the prior it came from: where the data say nothing they are one, and γ
        is 0 without any noise of its own.

        Parameters
        ----------
        mean : parts of the posterior mean
        draw : parts of one draw of the posterior about its mean
        before : parts of the draw of the prior it came from
        """
        share = (1 - self.mean(draw.band**2) / self.mean(before.band**2)).clamp(SMALLEST_SHARE, 1)
        new = torch.log(self.mean(mean.band**2) / share + math.exp(SMALLEST_LOG_VARIANCE))
        step = (new - previous.log_band).clamp(-LARGEST_LOG_STEP, LARGEST_LOG_STEP)
        ring_share = 1 - _smoothed(draw.ring**2) / _smoothed(before.ring**2)
        ring = _smoothed(mean.ring**2) / ring_share.clamp(SMALLEST_RING_SHARE, 1)
        return PriorVariance(log_band=previous.log_band + step, ring=ring.clamp(min=1e-10))


def _smoothed(values: Float[Tensor, "psf ring"]) -> Float[Tensor, "psf ring"]:
    """Means over each ring and its neighbours."""
    kernel = values.new_ones(1, 1, 3)
    total = torch.nn.functional.conv1d(values[:, None], kernel, padding=1)[:, 0]
    count = torch.nn.functional.conv1d(torch.ones_like(values[:1, None]), kernel, padding=1)[:, 0]
    return total / count


@lru_cache(maxsize=8)
def prior_basis(grid: FrequencyGrid, *, dtype: torch.dtype, device: torch.device) -> PriorBasis:
    """The basis on a grid, made once."""
    return PriorBasis(grid, dtype=dtype, device=device)
