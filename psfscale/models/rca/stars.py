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
from torch.nn.utils.rnn import pad_sequence

from psfscale.kernels.centroid import matched_width, windowed_centroid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Complex, Float
    from torch import Tensor

    from psfscale.arrays import StarBatch
    from psfscale.kernels.spectral import FrequencyGrid

__all__ = [
    "StarPixels",
    "StarResiduals",
    "StarValues",
    "median_of",
    "model_error",
    "refit",
    "residuals",
    "standard_errors",
    "start_values",
]

SMALLEST_WIDTH = 0.7
"""σ [CCD pixel] below which a centroid window sees one pixel only."""

FAINT_NEIGHBOURS = 0.3
"""Spread of a stamp's √χ² that a CCD full of other sources has without harm to the fit."""


@dataclass(frozen=True, kw_only=True)
class StarPixels:
    """The pixels of the stars of some CCDs; where a CCD has fewer stars, all weights are 0.

    Attributes
    ----------
    image : (ccd, star, y, x) [electron], 0 where masked
    weight : (ccd, star, y, x) [1/electron²]
    full_weight : (ccd, star) weight of the best pixel of each star
    """

    image: Float[Tensor, "ccd star y x"]
    weight: Float[Tensor, "ccd star y x"]
    full_weight: Float[Tensor, "ccd star"]

    @classmethod
    def of(
        cls,
        ccds: Sequence[StarBatch],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> StarPixels:
        """The pixels of batches as tensors; what is masked is set to 0."""
        images, weights = (
            pad_sequence([torch.as_tensor(a).to(device, dtype) for a in arrays], batch_first=True)
            for arrays in ([c.image for c in ccds], [c.weight for c in ccds])
        )
        image = torch.where(weights > 0, images, torch.zeros_like(images))
        return cls(image=image, weight=weights, full_weight=weights.flatten(-2).amax(-1))

    def share(self) -> Float[Tensor, "ccd star y x"]:
        """Weight of each pixel over that of its star's best."""
        tiny = torch.finfo(self.weight.dtype).tiny
        return self.weight / self.full_weight.clamp(min=tiny)[..., None, None]


@dataclass(frozen=True, kw_only=True)
class StarValues:
    """Flux and centre of each star."""

    flux: Float[Tensor, "ccd star"]
    dy: Float[Tensor, "ccd star"]
    dx: Float[Tensor, "ccd star"]


def start_values(
    pixels: StarPixels,
) -> tuple[StarValues, Float[Tensor, "ccd star"], Float[Tensor, " ccd"]]:
    """Start values from windowed centroids, the stars' signal-to-noise, the windows' widths.

    A window's width is matched to the CCD's median star; the flux is the amplitude of that
    Gaussian, so that only ratios of fluxes mean something.
    """
    scale = pixels.image.flatten(-2).amax(-1).clamp(min=torch.finfo(pixels.image.dtype).tiny)
    present = (pixels.full_weight > 0)[..., None, None]
    stack = torch.where(present, pixels.image / scale[..., None, None], torch.nan)
    median = stack.nanmedian(-3).values.nan_to_num()
    width = matched_width(median, start=2.0, smallest=SMALLEST_WIDTH)
    dy, dx = windowed_centroid(pixels.image, width=width[..., None])
    ny, nx = pixels.image.shape[-2:]
    y = torch.arange(ny, dtype=dy.dtype, device=dy.device)[:, None] - dy[..., None, None]
    x = torch.arange(nx, dtype=dx.dtype, device=dx.device)[None, :] - dx[..., None, None]
    variance = (width**2)[..., None, None, None]
    gauss = torch.exp(-(y**2 + x**2) / (2 * variance)) / (2 * math.pi * variance)
    information = (pixels.weight * gauss**2).sum((-2, -1))
    positive = information > 0
    flux = (pixels.weight * gauss * pixels.image).sum((-2, -1)) / torch.where(
        positive, information, torch.ones_like(information)
    )
    snr = torch.where(positive, flux * information.sqrt(), torch.zeros_like(flux))
    return StarValues(flux=flux, dy=dy, dx=dx), snr, width


def _gradients(
    grid: FrequencyGrid, spectra: Complex[Tensor, "*ccd star frequency"]
) -> Float[Tensor, "*ccd star pixel 3"]:
    """Stamps of shifted PSFs and their derivatives with dy and dx."""
    cycles = grid.cycles.to(spectra.device, spectra.real.dtype)
    slope = -2j * math.pi * cycles
    stack = torch.stack([spectra, spectra * slope[0], spectra * slope[1]], -2)
    return grid.sample(stack).flatten(-2).mT


def refit(
    pixels: StarPixels,
    values: StarValues,
    *,
    grid: FrequencyGrid,
    spectra: Complex[Tensor, "*ccd star frequency"],
) -> tuple[StarValues, Float[Tensor, "*ccd star y x"]]:
    """One Gauss-Newton step of flux and centre, and the stamps of unit flux before it.

    Each star is a weighted linear problem of three unknowns, solved in closed form; a centre
    moves by at most half a pixel.

    Parameters
    ----------
    spectra : coefficients of each star's PSF, shifted to the star's centre
    """
    design = _gradients(grid, spectra)
    weight = pixels.weight.flatten(-2)[..., None]
    residual = pixels.image.flatten(-2) - values.flux[..., None] * design[..., 0]
    normal = design.mT @ (weight * design)
    right = design.mT @ (weight[..., 0] * residual)[..., None]
    diagonal = torch.diagonal(normal, dim1=-2, dim2=-1)
    ridge = torch.where(diagonal > 0, 1e-6 * diagonal, 1.0)
    normal = normal + torch.diag_embed(ridge)
    step = torch.linalg.solve(normal, right)[..., 0]
    flux = values.flux + step[..., 0]
    safe = torch.where(flux > 0, flux, torch.full_like(flux, math.inf))
    moved = StarValues(
        flux=flux,
        dy=values.dy + (step[..., 1] / safe).clamp(-0.5, 0.5),
        dx=values.dx + (step[..., 2] / safe).clamp(-0.5, 0.5),
    )
    return moved, design[..., 0].reshape(pixels.image.shape)


def standard_errors(
    pixels: StarPixels,
    values: StarValues,
    *,
    grid: FrequencyGrid,
    spectra: Complex[Tensor, "*ccd star frequency"],
    factor: Float[Tensor, "*ccd star"],
) -> StarValues:
    """Standard errors of flux and centre for a known PSF; NaN where pixels do not fix them.

    The inverse of the Fisher matrix of the three parameters, the variance of a star being
    `factor` times that of its weights.

    Parameters
    ----------
    spectra : coefficients of each star's PSF, shifted to the star's centre
    """
    design = _gradients(grid, spectra).double()
    flux = values.flux.double()[..., None, None]
    design = torch.cat([design[..., :1], flux * design[..., 1:]], -1)
    normal = design.mT @ (pixels.weight.flatten(-2)[..., None].double() * design)
    inverse, info = torch.linalg.inv_ex(normal)
    variance = torch.diagonal(inverse, dim1=-2, dim2=-1) * factor[..., None]
    known = (info == 0)[..., None] & (variance > 0) & torch.isfinite(variance)
    error = torch.where(known, variance, torch.nan).sqrt().to(values.flux.dtype)
    return StarValues(flux=error[..., 0], dy=error[..., 1], dx=error[..., 2])


@dataclass(frozen=True, kw_only=True)
class StarResiduals:
    """How far each star is from its model.

    Attributes
    ----------
    chi2 : (ccd, star) reduced χ² of the stamp
    core : (ccd, star) mean χ² of a pixel, weighted by the PSF squared
    scatter : (ccd, star) expected standard deviation of √core, from the number of core pixels
    n_pixels : (ccd, star) unmasked pixels
    snr2 : (ccd, star) squared signal-to-noise
    """

    chi2: Float[Tensor, "ccd star"]
    core: Float[Tensor, "ccd star"]
    scatter: Float[Tensor, "ccd star"]
    n_pixels: Float[Tensor, "ccd star"]
    snr2: Float[Tensor, "ccd star"]

    def stamp(self, factor: Float[Tensor, "ccd star"]) -> tuple[Tensor, Tensor]:
        """√χ² of the stamp over what `factor` explains, and its expected scatter.

        A factor on the variance of the core's pixels, 1/(2·scatter²) of them, adds their share
        to the χ² of the stamp. It sees what the core does not: a neighbour, a track. The wings
        of distant neighbours do little harm: the scatter is at least `FAINT_NEIGHBOURS`.
        """
        share = (1 / (2 * self.scatter**2) / self.n_pixels).clamp(max=1)
        scatter = torch.sqrt(0.5 / self.n_pixels).clamp(min=FAINT_NEIGHBOURS)
        return torch.sqrt(self.chi2 / (1 + (factor - 1) * share)), scatter


def residuals(
    pixels: StarPixels, values: StarValues, psf: Float[Tensor, "*ccd star y x"]
) -> StarResiduals:
    """Residuals of the stars, `psf` being their stamps of unit flux."""
    square = pixels.weight * (pixels.image - values.flux[..., None, None] * psf) ** 2
    n_pixels = (pixels.weight > 0).sum((-2, -1)).clamp(min=4)
    core = psf**2 * (pixels.weight > 0)
    total = core.sum((-2, -1)).clamp(min=torch.finfo(psf.dtype).tiny)
    return StarResiduals(
        chi2=square.sum((-2, -1)) / (n_pixels - 3),
        core=(core * square).sum((-2, -1)) / total,
        scatter=torch.sqrt((core**2).sum((-2, -1)) / 2) / total,
        n_pixels=n_pixels.to(psf.dtype),
        snr2=values.flux**2 * (pixels.weight * psf**2).sum((-2, -1)),
    )


def median_of(
    values: Float[Tensor, "*ccd star"], chosen: Bool[Tensor, "*ccd star"]
) -> Float[Tensor, "*ccd 1"]:
    """Median over the chosen stars of each CCD."""
    return torch.where(chosen, values, torch.nan).nanmedian(-1, keepdim=True).values


def model_error(
    chi2: Float[Tensor, "*ccd star"],
    snr2: Float[Tensor, "*ccd star"],
    usable: Bool[Tensor, "*ccd star"],
) -> Float[Tensor, "*ccd 1"]:
    """Model error κ², such that a star's variance is 1 + κ²·(S/N)² times its noise.

    Bright stars miss the model by a fraction of their flux (their own colour, a non-linear
    detector, noise of the source itself left out of the weights), so χ² grows with the square
    of their signal-to-noise. κ² is the value of highest Gaussian likelihood given the χ² in
    the core of each usable star, on a logarithmic grid with 0; a star counts at most as ten
    times the trend.
    """
    steps = torch.logspace(-6, 2, 161, dtype=chi2.dtype, device=chi2.device)
    unit = median_of(snr2, usable).clamp(min=torch.finfo(snr2.dtype).tiny)
    trial = torch.cat([steps.new_zeros(1), steps]) / unit
    variance = 1 + trial[..., :, None] * snr2[..., None, :]
    cost = torch.log(variance) + torch.clamp(chi2[..., None, :] / variance, max=10.0)
    total = torch.where(usable[..., None, :], cost, 0.0).sum(-1)
    return trial.gather(-1, total.argmin(-1, keepdim=True))
