"""The parametric fit: a descent on softened χ², both signs of the even modes, then Gauss-Newton."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize

from psfscale.kernels.optics.zernike import noll_index
from psfscale.models.wavediff.forward import Normal, Nuisances, Scene, Wavefronts
from psfscale.models.wavediff.normal_equations import (
    Block,
    WavefrontVector,
    assembled,
    field_blocks,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

__all__ = [
    "Own",
    "Refined",
    "blur_error",
    "descend",
    "field_covariance",
    "flipped",
    "moved",
    "refine",
    "search",
    "silent",
    "without_tilts",
]

Tell = Callable[[float], None]
"""What is told χ² after every step."""


def silent(_chi2: float) -> None:
    """Nobody is told."""


UNIT = 0.01
"""Unit of the descent's coordinates [µm]: about the size of one coefficient."""

SOFTENING = 0.1
"""Misfit, as a share of a pixel's light, that the first descent forgives."""
START = 0.05
"""Aberration that a search starts from [mean wavelength]: without any, signs have no slope."""
STARTS = ((3, 1), (3, -1), (4, 1), (5, 1))
"""Index of the Zernike that a search starts from, and its sign; defocus, then astigmatism."""
AS_KNOWN = (3, 0)
"""The start of a search that knows a wavefront: no aberration beside it."""
SAME = 1e-4
"""Relative difference of χ² below which two minima are one."""
GOOD = 1.03
"""χ² of a pixel below which a minimum is the true one; false ones have 1.06 to 1.2.

Surfaces of 10 nm raise it by 0.01, the noise of a hundred stars by 0.005, steps left by as much.
"""
TRIAL_STEPS = 5
TINY = 1e-30
SEARCH_STEPS, LAST_STEPS = 90, 60
DAMPING = 1e-3
MOST_DAMPING = 1e6


def flipped(wavefronts: Wavefronts, scene: Scene) -> Wavefronts:
    """The wavefronts with even radial orders negated, what is known of them included.

    Through a pupil that is even under ``(x, y) → (−x, −y)`` both have the same PSF; through a
    real one nearly so, which leaves a second, false, minimum.
    """
    n = len(wavefronts.zernike)
    signs = [1.0 - 2 * (noll_index(j)[0] % 2 == 0) for j in range(1, n + 1)]
    sign = wavefronts.zernike.new_tensor(signs)[:, None]
    zernike = wavefronts.zernike * sign
    if scene.known is not None:
        known = torch.linalg.lstsq(scene.functions, scene.known[:, :n]).solution.T
        zernike[: len(known)] += (sign[: len(known)] - 1) * known
    return replace(wavefronts, zernike=zernike)


def descend(
    scene: Scene,
    start: Wavefronts,
    *,
    nuisances: Nuisances,
    n_steps: int,
    tell: Tell = silent,
) -> tuple[Wavefronts, float]:
    """L-BFGS on χ², flux and background eliminated at every step; the wavefronts, and χ²."""
    packing = WavefrontVector(like=start, nuisances=nuisances)

    def cost(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = _cost(scene, packing.unpack(UNIT * vector), nuisances)
        down = packing.pack(slope.T @ scene.functions, slope[:, 1:])
        return value, UNIT * down

    found = minimize(
        cost,
        packing.pack(start.zernike, start.tilt) / UNIT,
        jac=True,
        method="L-BFGS-B",
        callback=lambda intermediate_result: tell(float(intermediate_result.fun)),
        options={"maxiter": n_steps, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-3},
    )
    return packing.unpack(UNIT * found.x), float(found.fun)


def _cost(scene: Scene, here: Wavefronts, nuisances: Nuisances) -> tuple[float, Tensor]:
    stamp = scene.stamps(here)
    pixels = scene.pixels
    light = pixels.light(stamp, fluxes=nuisances.fluxes, background=nuisances.background)
    residual = light.of(stamp) - pixels.image
    weighted = pixels.weight * residual
    slope = scene.pullback(here, 2 * light.flux[:, None, None] * weighted)
    return float((weighted * residual).sum(dtype=torch.float64)), slope


def search(
    scene: Scene, start: Wavefronts, *, nuisances: Nuisances, tell: Tell = silent
) -> Wavefronts:
    """The best of the minima found from several aberrations and their mirrors.

    They are tried in turn until softened χ² is what noise alone would leave. Where stars have more
    than the Zernikes it never is; a few steps of Gauss-Newton then show what a minimum is worth,
    and the search ends where χ² is near its expectation, or the lowest minimum is met twice.
    """
    soft = replace(scene, pixels=scene.pixels.softened(SOFTENING))
    enough = float((soft.pixels.weight / scene.pixels.weight.clamp(min=TINY)).sum())
    n_pixels = float((scene.pixels.weight > 0).sum())
    size = START * float(np.mean(scene.camera.wavelengths))
    best, lowest = start, float("inf")
    for mode, sign in STARTS if scene.known is None else (AS_KNOWN, *STARTS):
        zernike = start.zernike.clone()
        zernike[min(mode, len(zernike) - 1), 0] += sign * size
        here = replace(start, zernike=zernike)
        for _ in range(2):
            here, cost = descend(soft, here, nuisances=nuisances, n_steps=SEARCH_STEPS, tell=tell)
            if cost < enough:
                return descend(soft, here, nuisances=nuisances, n_steps=LAST_STEPS, tell=tell)[0]
            found = refine(scene, here, nuisances=nuisances, max_steps=TRIAL_STEPS, tell=tell)
            again = abs(found.chi2 - lowest) < SAME * lowest
            if found.chi2 < lowest:
                best, lowest = found.wavefronts, found.chi2
            if again or lowest < GOOD * n_pixels:
                return best
            here = flipped(here, scene)
    return best


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """What Gauss-Newton ends with.

    Attributes
    ----------
    wavefronts : the parameters
    chi2 : of all stars
    normal : the stars' matrices near the end
    nuisances : what was fitted of each star
    n_steps : done
    converged : whether χ² stood still, within `SMALLEST_GAIN`
    """

    wavefronts: Wavefronts
    chi2: float
    normal: Normal
    nuisances: Nuisances
    n_steps: int
    converged: bool


SMALLEST_GAIN = 0.1
"""Gain of a step in χ² below which the fit stands still: parameters move by a third of a σ."""
LARGE_GAIN = 0.01
"""Gain, as a share of χ², of a step after which the derivatives of all pixels are taken anew."""


def refine(
    scene: Scene,
    start: Wavefronts,
    *,
    nuisances: Nuisances,
    max_steps: int,
    kept: Normal | None = None,
    tell: Tell = silent,
) -> Refined:
    """Levenberg-Marquardt from a start near the minimum.

    Matrices of where steps are small serve for the next steps too, which then cost little more
    than a look at the stars: the descent itself is always that of where the fit stands.

    Parameters
    ----------
    kept : matrices of the same stars and nuisances, of near the start
    """
    here, chi2 = start, _chi2(scene, start, nuisances)
    damping, step, gain = DAMPING, 0, math.inf
    while step < max_steps and gain > SMALLEST_GAIN:
        old = kept
        normal = scene.normal(here, nuisances) if old is None else scene.aged(old, here, nuisances)
        gain, kept = 0.0, normal
        while damping < MOST_DAMPING:
            trial = _step(here, scene.functions, normal, nuisances, damping)
            reached = _chi2(scene, trial, nuisances)
            if reached < chi2:
                gain, here, chi2 = chi2 - reached, trial, reached
                damping /= 5
                break
            if old is not None:
                break
            damping *= 10
        if gain > LARGE_GAIN * chi2 or (old is not None and reached > chi2 + SMALLEST_GAIN):
            kept, gain = None, math.inf
        step += 1
        tell(chi2)
    return Refined(
        wavefronts=here,
        chi2=chi2,
        normal=normal,
        nuisances=nuisances,
        n_steps=step,
        converged=gain <= SMALLEST_GAIN,
    )


def _chi2(scene: Scene, wavefronts: Wavefronts, nuisances: Nuisances) -> float:
    stamp = scene.stamps(wavefronts)
    light = scene.pixels.light(stamp, fluxes=nuisances.fluxes, background=nuisances.background)
    return float(scene.pixels.chi2(light.of(stamp)).sum(dtype=torch.float64))


def _step(
    here: Wavefronts, functions: Tensor, normal: Normal, nuisances: Nuisances, damping: float
) -> Wavefronts:
    """One damped step; the stars' own tilts are eliminated and then follow."""
    reduced, own = without_tilts(normal, nuisances, damping)
    blocks = field_blocks(len(here.zernike), nuisances, functions.double())
    whole, down = assembled(reduced, blocks)
    whole = whole + torch.diag(damping * whole.diagonal())
    return moved(here, torch.linalg.solve(whole, down), blocks, own)


def moved(here: Wavefronts, change: Tensor, blocks: Sequence[Block], own: Own | None) -> Wavefronts:
    """Wavefronts after a change of what the blocks hold; the stars' own tilts follow.

    Blocks of what is beyond the Zernikes move the tilts alone.
    """
    zernike, blur = here.zernike.clone(), here.blur
    tilt = here.tilt.clone()
    if own is not None:
        tilt[:, own.columns] += own.still.to(tilt.dtype)
    sizes = [len(rows) * f.shape[1] for rows, f in blocks]
    for (rows, functions), part in zip(blocks, torch.split(change, sizes), strict=True):
        step = part.reshape(len(rows), -1)
        if rows[-1] < 0:
            blur = here.blur.moved(part.tolist())
            step = step.new_tensor(blur.since(here.blur)[-len(rows) :])[:, None]
        elif rows[0] < len(zernike):
            zernike[rows] += step.to(zernike.dtype)
        if own is not None:
            follows = torch.einsum("saj,sj->sa", own.carry[:, :, rows], functions @ step.T)
            tilt[:, own.columns] -= follows.to(tilt.dtype)
    return replace(here, zernike=zernike, tilt=tilt, blur=blur)


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """How the stars' own tilts follow the rest: ``still − carry · change``.

    Attributes
    ----------
    columns : of the tilts, which of them do
    still : (star, own) their change when nothing else changes [µm]
    carry : (star, own, parameter)
    """

    columns: list[int]
    still: Float[Tensor, "star own"]
    carry: Float[Tensor, "star own parameter"]


def without_tilts(
    normal: Normal, nuisances: Nuisances, damping: float = 0.0
) -> tuple[Normal, Own | None]:
    """The problem with each star's own tilts, where it has any, solved for."""
    if not nuisances.own:
        return normal, None
    matrix, vector, own = normal.matrix, normal.vector, nuisances.own
    block = matrix[:, own][:, :, own]
    block = block + damping * torch.diag_embed(block.diagonal(dim1=1, dim2=2))
    carry = torch.linalg.solve(block, matrix[:, own])
    still = torch.linalg.solve(block, vector[:, own, None])[..., 0]
    reduced = Normal(
        matrix=matrix - torch.einsum("saj,sak->sjk", matrix[:, own], carry),
        vector=vector - torch.einsum("saj,sa->sj", matrix[:, own], still),
    )
    return reduced, Own(columns=[j - 1 for j in own], still=still, carry=carry)


def field_covariance(normal: Normal, functions: Tensor, nuisances: Nuisances) -> Tensor:
    """Covariance [µm²] of the field's coefficients, Zernike by function of position."""
    n = normal.matrix.shape[1]
    fixed = replace(nuisances, jitter=False)
    whole, _ = assembled(normal, field_blocks(n, fixed, functions.double()))
    covariance: Tensor = torch.linalg.inv(whole)
    return covariance


def blur_error(normal: Normal, functions: Tensor, nuisances: Nuisances) -> float:
    """Standard deviation of the blur σ² [pixel²], all else fitted with it."""
    n = normal.matrix.shape[1] - (3 if nuisances.stretch else 1)
    reduced, _ = without_tilts(normal, nuisances)
    whole, _ = assembled(reduced, field_blocks(n, nuisances, functions.double()))
    unit = torch.zeros_like(whole[:, 0])
    unit[-1] = 1
    return math.sqrt(max(float(torch.linalg.solve(whole, unit)[-1]), 0.0))
