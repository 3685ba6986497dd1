"""SPRITE's classical first guesses, from stamps already registered (A&A 575, A86, sect. 4.3)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from psfscale.kernels.frames.starlet import starlet
from psfscale.kernels.spectral import complex_dtype

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.sprite.data import StampTerm
    from psfscale.models.sprite.fit import Registered

__all__ = ["first_guess"]

DETECTION = 5.0
"""Starlet coefficients of a guess below so much of their own noise are dropped [noise σ]."""


def first_guess(term: StampTerm, registered: Registered, *, kind: str) -> Complex[Tensor, ...]:
    """x0 of unit sum, centred on pixel (0, 0).

    Parameters
    ----------
    kind : ``"bayes"``, the registered PSF; ``"median"`` or ``"coaddition"`` of the stamps,
        up-sampled and shifted to the centre; ``"gaussian"``, round, of the registered size
    """
    grid = term.grid
    if kind == "bayes":
        return registered.psf
    if kind == "gaussian":
        guess = _gaussian(grid, registered.width)
    else:
        fine = _upsampled(term, registered)
        share = (term.stamps.weight.flatten(2).mean(2) * term.amplitude**2)[..., None, None]
        hidden = torch.where(term.stamps.present[..., None, None], fine, torch.nan)
        image = (
            hidden.nanmedian(1).values if kind == "median" else (share * fine).sum(1) / share.sum(1)
        )
        guess = _denoised(grid, image)
    zero = torch.from_numpy((grid.ky == 0) & (grid.kx == 0)).to(guess.device)
    total = guess[:, zero].real * math.sqrt(math.prod(grid.fine_shape))
    return guess / total


def _gaussian(grid: FrequencyGrid, width: Float[Tensor, " psf"]) -> Complex[Tensor, ...]:
    square = (grid.cycles.to(width) ** 2).sum(0)
    values = torch.exp(-2 * math.pi**2 * width[:, None] ** 2 * square)
    return (values / math.sqrt(math.prod(grid.fine_shape))).to(complex_dtype(width.dtype))


def _upsampled(term: StampTerm, registered: Registered) -> Float[Tensor, "psf exposure y x"]:
    """Stamps of unit flux on the fine grid, centred; masked pixels take the registered PSF."""
    grid = term.grid
    filled = torch.where(term.stamps.weight > 0, term.stamps.image, term.forward(registered.psf))
    spectra = grid.sample_adjoint(filled / term.amplitude[..., None, None])
    seen = (grid.cycles.abs() <= 0.5).all(0).to(filled.device)
    spectra = spectra * grid.phases(term.dy, term.dx).conj() * seen
    return grid.image(spectra * grid.pixel_ratio)


def _denoised(grid: FrequencyGrid, image: Float[Tensor, "psf y x"]) -> Complex[Tensor, ...]:
    """What stands out of the noise in starlet bands, and the coarse band; not negative."""
    bands = starlet(grid, n_scales=3).forward(grid.coefficients(image))
    flat = bands.flatten(2)
    spread = 1.4826 * (flat - flat.median(2, keepdim=True).values).abs().median(2).values
    keep = bands > DETECTION * spread[..., None, None]
    keep[:, -1] = True
    return grid.coefficients(torch.where(keep, bands, 0.0).sum(1).clamp(min=0))
