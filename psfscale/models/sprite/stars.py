r"""SPRITE's stars: noise of stamps, start values, and Gauss-Newton refit of flux and centre.

======  ==================================================  =============================
symbol  name                                                unit
======  ==================================================  =============================
a_k     amplitude: flux · fine pixels per CCD pixel         electron
d_k     (dy, dx), the star from pixel (0, 0)                CCD pixel
======  ==================================================  =============================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.centroid import windowed_centroid

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.sprite.data import Stamps

__all__ = ["Fixed", "StampValues", "matched_snr", "refitted", "stamp_noise", "start_values"]

SMALLEST_WIDTH = 0.7
"""σ [CCD pixel] below which a centroid window sees one pixel only."""


@dataclass(frozen=True, kw_only=True)
class StampValues:
    """Amplitude and centre of each stamp's star, and their standard errors for a known PSF."""

    amplitude: Float[Tensor, "psf exposure"]
    dy: Float[Tensor, "psf exposure"]
    dx: Float[Tensor, "psf exposure"]
    error: Float[Tensor, "psf exposure 3"] | None = None

    @property
    def known_error(self) -> Float[Tensor, "psf exposure 3"]:
        """The standard errors, NaN where the stars were not refitted."""
        if self.error is not None:
            return self.error
        return torch.full((*self.dy.shape, 3), torch.nan).to(self.dy)

    def where(self, chosen: Bool[Tensor, " psf"], other: StampValues) -> StampValues:
        """These values for the chosen PSFs, others elsewhere."""
        pick = chosen[:, None]
        return StampValues(
            amplitude=torch.where(pick, self.amplitude, other.amplitude),
            dy=torch.where(pick, self.dy, other.dy),
            dx=torch.where(pick, self.dx, other.dx),
            error=other.error
            if self.error is None or other.error is None
            else torch.where(pick[..., None], self.error, other.error),
        )


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """What the user knows of the stars; None is estimated."""

    amplitude: Float[Tensor, "psf exposure"] | None = None
    dy: Float[Tensor, "psf exposure"] | None = None
    dx: Float[Tensor, "psf exposure"] | None = None

    def laid_over(self, values: StampValues) -> StampValues:
        """The values with what is known in place of what was estimated."""
        known = {
            name: value
            for name in ("amplitude", "dy", "dx")
            if (value := getattr(self, name)) is not None
        }
        return replace(values, **known)

    def select(self, chosen: slice) -> Fixed:
        """What is known of some of the PSFs."""
        return Fixed(
            **{
                name: None if (value := getattr(self, name)) is None else value[chosen]
                for name in ("amplitude", "dy", "dx")
            }
        )


def stamp_noise(
    image: Float[Tensor, "psf exposure y x"], *, good: Bool[Tensor, "psf exposure y x"]
) -> Float[Tensor, "psf exposure"]:
    """Standard deviation of the noise of each stamp.

    Median absolute deviation of the finest starlet band over pixels at least a quarter of the
    stamp away from its centre, two from its edge and untouched by masked ones (over all good
    pixels where too few are left).
    """
    ny, nx = image.shape[-2:]
    kernel = image.new_tensor([1.0, 4, 6, 4, 1]) / 16
    kernel = (kernel[:, None] * kernel)[None, None]
    band = image - torch.nn.functional.conv2d(
        image.reshape(-1, 1, ny, nx), kernel, padding=2
    ).reshape(image.shape)
    bad = torch.nn.functional.max_pool2d((~good).to(image.dtype), 5, stride=1, padding=2) > 0
    y = torch.arange(ny, device=image.device) - ny // 2
    x = torch.arange(nx, device=image.device) - nx // 2
    outer = y[:, None] ** 2 + x[None, :] ** 2 > (min(ny, nx) / 4) ** 2
    outer[:2], outer[-2:], outer[:, :2], outer[:, -2:] = False, False, False, False
    clean = outer & ~bad
    few = clean.flatten(2).sum(2) < 32
    clean = torch.where(few[..., None, None], good, clean)
    values = torch.where(clean, band, torch.nan).flatten(2)
    centred = values - values.nanmedian(2, keepdim=True).values
    deviation = centred.abs().nanmedian(2).values
    norm = torch.sqrt(1 - 2 * kernel.max() + (kernel**2).sum())
    return 1.4826 * deviation / norm


def _windowed(
    stamps: Stamps, width: Float[Tensor, " psf"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres, the Gaussian window there, and squared distances."""
    ny, nx = stamps.image.shape[-2:]
    each = width[:, None].expand(stamps.image.shape[:2])
    cy, cx = windowed_centroid(stamps.image, width=each, n_iterations=6)
    y = torch.arange(ny, dtype=cy.dtype, device=cy.device)[:, None] - cy[..., None, None]
    x = torch.arange(nx, dtype=cx.dtype, device=cx.device)[None, :] - cx[..., None, None]
    square = y**2 + x**2
    return cy, cx, torch.exp(-square / (2 * each[..., None, None] ** 2)), square


def start_values(
    stamps: Stamps, *, pixel_ratio: float
) -> tuple[StampValues, Float[Tensor, " psf"]]:
    """Centres under a Gaussian window matched to each PSF's stamps, amplitudes, and its σ.

    A Gaussian under a window of its own width has half its variance; the fixed point of
    width² = 2·(windowed variance over all stamps) is that width.
    """
    n, _, ny, nx = stamps.image.shape
    largest = min(ny, nx) / 5
    width = torch.full((n,), 1.5, dtype=stamps.image.dtype, device=stamps.image.device)
    for _ in range(6):
        *_, window, square = _windowed(stamps, width)
        light = stamps.image * window
        flux = light.sum((1, 2, 3))
        second = (light * square).sum((1, 2, 3)) / 2
        variance = 2 * second / torch.where(flux > 0, flux, 1.0)
        width = variance.clamp(min=SMALLEST_WIDTH**2, max=largest**2).sqrt()
    cy, cx, window, _ = _windowed(stamps, width)
    model = window / (2 * math.pi * width[:, None, None, None] ** 2)
    information = (stamps.weight * model**2).sum((2, 3))
    flux = (stamps.weight * model * stamps.image).sum((2, 3))
    flux = flux / torch.where(information > 0, information, 1.0)
    values = StampValues(amplitude=flux * pixel_ratio, dy=cy, dx=cx)
    return values, width


def matched_snr(
    stamps: Stamps, values: StampValues, *, width: Float[Tensor, " psf"], pixel_ratio: float
) -> Float[Tensor, "psf exposure"]:
    """Signal-to-noise of each stamp under the Gaussian of `start_values`."""
    ny, nx = stamps.image.shape[-2:]
    y = torch.arange(ny, device=width.device)[:, None] - values.dy[..., None, None]
    x = torch.arange(nx, device=width.device)[None, :] - values.dx[..., None, None]
    variance = width[:, None, None, None] ** 2
    model = torch.exp(-(y**2 + x**2) / (2 * variance)) / (2 * math.pi * variance)
    return values.amplitude / pixel_ratio * (stamps.weight * model**2).sum((2, 3)).sqrt()


def refitted(
    stamps: Stamps,
    values: StampValues,
    *,
    grid: FrequencyGrid,
    psf: Tensor,
    relaxation: float,
    max_shift: float,
) -> StampValues:
    """One Gauss-Newton step of amplitude and centre, `relaxation` times as long.

    Each stamp is a weighted linear problem of three unknowns, solved in closed form; a centre
    moves by at most half a pixel and stays within `max_shift` of the stamp's centre. Stamps
    without weight stay as they are.

    Parameters
    ----------
    psf : (psf, frequency)
    """
    slope = -2j * math.pi * grid.cycles.to(psf.device, psf.real.dtype)
    spectra = psf[:, None] * grid.phases(values.dy, values.dx)
    stack = grid.sample(torch.stack([spectra, spectra * slope[0], spectra * slope[1]]))
    design = stack.flatten(3).permute(1, 2, 3, 0)
    weight = stamps.weight.flatten(2)[..., None]
    residual = stamps.image.flatten(2) - values.amplitude[..., None] * design[..., 0]
    normal = design.mT @ (weight * design)
    right = design.mT @ (weight[..., 0] * residual)[..., None]
    diagonal = torch.diagonal(normal, dim1=-2, dim2=-1)
    empty = (diagonal <= 0).to(normal.dtype)
    normal = normal + torch.diag_embed(1e-6 * diagonal + empty)
    inverse = torch.linalg.inv(normal)
    step = relaxation * (inverse @ right)[..., 0]
    amplitude = values.amplitude + step[..., 0]
    # A step that would make a star vanish is cut short: its centre would lose its meaning.
    amplitude = torch.maximum(amplitude, 0.2 * values.amplitude.abs())
    scale = torch.where(amplitude > 0, amplitude, math.inf)
    ny, nx = grid.shape
    moved = [
        (old + (step[..., i] / scale).clamp(-0.5, 0.5)).clamp(
            n // 2 - max_shift, n // 2 + max_shift
        )
        for i, old, n in ((1, values.dy, ny), (2, values.dx, nx))
    ]
    error = torch.diagonal(inverse, dim1=-2, dim2=-1).clamp(min=0).sqrt()
    error = error / torch.stack([torch.ones_like(scale), scale, scale], -1)
    return StampValues(amplitude=amplitude, dy=moved[0], dx=moved[1], error=error)
