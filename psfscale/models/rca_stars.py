r"""The stars' side of RCA: start values, Gauss-Newton refit, model error, outliers.

======  ==================================================  =========================
symbol  name                                                unit
======  ==================================================  =========================
y_i     stamp of star i, 0 where masked                     electron
w_i     inverse variances of its pixels, 0 where masked     1/electron²
f_i     flux in units of the field's own normalisation      electron
d_i     (dy, dx), the star from pixel (0, 0)                CCD pixel
κ       model error of a star as a fraction of its PSF      1
======  ==================================================  =========================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.centroid import matched_width, windowed_centroid

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.arrays import StarBatch
    from psfscale.kernels.spectral import FrequencyGrid

__all__ = [
    "StarPixels",
    "StarResiduals",
    "StarValues",
    "model_error",
    "refit",
    "residuals",
    "start_values",
]

SMALLEST_WIDTH = 0.7
"""σ [CCD pixel] below which a centroid window sees one pixel only."""

FAINT_NEIGHBOURS = 0.3
"""Spread of a stamp's √χ² that a CCD full of other sources has without harm to the fit."""


@dataclass(frozen=True, kw_only=True)
class StarPixels:
    """The pixels of the stars of a fit.

    Attributes
    ----------
    image : (star, y, x) [electron], 0 where masked
    weight : (star, y, x) [1/electron²]
    full_weight : (star,) weight of the best pixel of each star
    """

    image: Float[Tensor, "star y x"]
    weight: Float[Tensor, "star y x"]
    full_weight: Float[Tensor, " star"]

    @classmethod
    def of(cls, stars: StarBatch, *, dtype: torch.dtype = torch.float32) -> StarPixels:
        """The pixels of a batch as tensors; what is masked is set to 0."""
        weight = torch.as_tensor(stars.weight).to(dtype)
        image = torch.as_tensor(stars.image).to(dtype)
        image = torch.where(weight > 0, image, torch.zeros_like(image))
        return cls(image=image, weight=weight, full_weight=weight.flatten(1).amax(1))


@dataclass(frozen=True, kw_only=True)
class StarValues:
    """Flux and centre of each star."""

    flux: Float[Tensor, " star"]
    dy: Float[Tensor, " star"]
    dx: Float[Tensor, " star"]


def start_values(pixels: StarPixels) -> tuple[StarValues, Float[Tensor, " star"], float]:
    """Start values from windowed centroids, the stars' signal-to-noise, the window's width.

    The window's width is matched to the median star; the flux is the amplitude of that
    Gaussian, so that only ratios of fluxes mean something.
    """
    scale = pixels.image.flatten(1).amax(1).clamp(min=torch.finfo(pixels.image.dtype).tiny)
    stack = (pixels.image / scale[:, None, None]).median(0).values
    width = matched_width(stack, start=2.0, smallest=SMALLEST_WIDTH)
    dy, dx = windowed_centroid(pixels.image, width=width)
    _, ny, nx = pixels.image.shape
    y = torch.arange(ny, dtype=dy.dtype)[:, None] - dy[:, None, None]
    x = torch.arange(nx, dtype=dx.dtype)[None, :] - dx[:, None, None]
    gauss = torch.exp(-(y**2 + x**2) / (2 * width**2)) / (2 * math.pi * width**2)
    information = (pixels.weight * gauss**2).sum((1, 2))
    positive = information > 0
    flux = (pixels.weight * gauss * pixels.image).sum((1, 2)) / torch.where(
        positive, information, torch.ones_like(information)
    )
    snr = torch.where(positive, flux * information.sqrt(), torch.zeros_like(flux))
    return StarValues(flux=flux, dy=dy, dx=dx), snr, width


def _gradients(
    grid: FrequencyGrid, spectra: Complex[Tensor, "star frequency"]
) -> Float[Tensor, "star pixel 3"]:
    """Stamps of shifted PSFs and their derivatives with dy and dx."""
    cycles = grid.cycles.to(spectra.real.dtype)
    slope = -2j * math.pi * cycles
    stack = torch.stack([spectra, spectra * slope[0], spectra * slope[1]])
    return grid.sample(stack).flatten(2).permute(1, 2, 0)


def refit(
    pixels: StarPixels,
    values: StarValues,
    *,
    grid: FrequencyGrid,
    spectra: Complex[Tensor, "star frequency"],
) -> tuple[StarValues, Float[Tensor, "star y x"]]:
    """One Gauss-Newton step of flux and centre, and the stamps of unit flux before it.

    Each star is a weighted linear problem of three unknowns, solved in closed form; a centre
    moves by at most half a pixel.

    Parameters
    ----------
    spectra : coefficients of each star's PSF, shifted to the star's centre
    """
    design = _gradients(grid, spectra)
    weight = pixels.weight.flatten(1)[..., None]
    residual = pixels.image.flatten(1) - values.flux[:, None] * design[..., 0]
    normal = design.mT @ (weight * design)
    right = design.mT @ (weight[..., 0] * residual)[..., None]
    ridge = 1e-6 * torch.diagonal(normal, dim1=1, dim2=2)
    tiny = torch.finfo(normal.dtype).tiny
    normal = normal + torch.diag_embed(ridge + tiny)
    step = torch.linalg.solve(normal, right)[..., 0]
    flux = values.flux + step[:, 0]
    safe = torch.where(flux > 0, flux, torch.full_like(flux, math.inf))
    moved = StarValues(
        flux=flux,
        dy=values.dy + (step[:, 1] / safe).clamp(-0.5, 0.5),
        dx=values.dx + (step[:, 2] / safe).clamp(-0.5, 0.5),
    )
    return moved, design[..., 0].reshape(pixels.image.shape)


@dataclass(frozen=True, kw_only=True)
class StarResiduals:
    """How far each star is from its model.

    Attributes
    ----------
    chi2 : (star,) reduced χ² of the stamp
    core : (star,) mean χ² of a pixel, weighted by the PSF squared
    scatter : (star,) expected standard deviation of √core, from the number of core pixels
    n_pixels : (star,) unmasked pixels
    snr2 : (star,) squared signal-to-noise
    """

    chi2: Float[Tensor, " star"]
    core: Float[Tensor, " star"]
    scatter: Float[Tensor, " star"]
    n_pixels: Float[Tensor, " star"]
    snr2: Float[Tensor, " star"]

    def stamp(self, factor: Float[Tensor, " star"]) -> tuple[Tensor, Tensor]:
        """√χ² of the stamp over what `factor` explains, and its expected scatter.

        A factor on the variance of the core's pixels, 1/(2·scatter²) of them, adds their share
        to the χ² of the stamp. It sees what the core does not: a neighbour, a track. The wings
        of distant neighbours do little harm: the scatter is at least `FAINT_NEIGHBOURS`.
        """
        share = (1 / (2 * self.scatter**2) / self.n_pixels).clamp(max=1)
        scatter = torch.sqrt(0.5 / self.n_pixels).clamp(min=FAINT_NEIGHBOURS)
        return torch.sqrt(self.chi2 / (1 + (factor - 1) * share)), scatter


def residuals(
    pixels: StarPixels, values: StarValues, psf: Float[Tensor, "star y x"]
) -> StarResiduals:
    """Residuals of the stars, `psf` being their stamps of unit flux."""
    square = pixels.weight * (pixels.image - values.flux[:, None, None] * psf) ** 2
    n_pixels = (pixels.weight > 0).sum((1, 2)).clamp(min=4)
    core = psf**2 * (pixels.weight > 0)
    total = core.sum((1, 2)).clamp(min=torch.finfo(psf.dtype).tiny)
    return StarResiduals(
        chi2=square.sum((1, 2)) / (n_pixels - 3),
        core=(core * square).sum((1, 2)) / total,
        scatter=torch.sqrt((core**2).sum((1, 2)) / 2) / total,
        n_pixels=n_pixels.to(psf.dtype),
        snr2=values.flux**2 * (pixels.weight * psf**2).sum((1, 2)),
    )


def model_error(chi2: Float[Tensor, " star"], snr2: Float[Tensor, " star"]) -> float:
    """Model error κ², such that a star's variance is 1 + κ²·(S/N)² times its noise.

    Bright stars miss the model by a fraction of their flux (their own colour, a non-linear
    detector, noise of the source itself left out of the weights), so χ² grows with the square
    of their signal-to-noise. κ² is the value of highest Gaussian likelihood given each star's
    χ² in the core, on a logarithmic grid with 0; a star counts at most as ten times the trend.
    """
    trial = torch.cat([chi2.new_zeros(1), torch.logspace(-6, 2, 161, dtype=chi2.dtype)])
    trial = trial / snr2.median().clamp(min=torch.finfo(snr2.dtype).tiny)
    variance = 1 + trial[:, None] * snr2[None, :]
    cost = torch.log(variance) + torch.clamp(chi2 / variance, max=10.0)
    return float(trial[cost.mean(1).argmin()])
