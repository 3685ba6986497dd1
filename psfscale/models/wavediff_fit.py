"""The parametric fit: a descent on softened χ², both signs of the even modes, then Gauss-Newton."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import minimize

from psfscale.kernels.zernike import noll_index
from psfscale.models.wavediff_scene import TIP_TILT, Nuisances, Wavefronts

if TYPE_CHECKING:
    from torch import Tensor

    from psfscale.models.wavediff_scene import Normal, Scene

__all__ = ["Refined", "descend", "flipped", "refine", "search"]

UNIT = 0.01
"""Unit of the parameters of the descent [µm]: about the size of one coefficient."""
SOFTENING = 0.1
"""Misfit, as a share of a pixel's light, that the first descent forgives."""
DEFOCUS = 0.05
"""Start of the defocus [mean wavelength]: at none, its sign has no slope."""
FIRST_MODES = 15
FIRST_STEPS, SEARCH_STEPS, LAST_STEPS = 40, 70, 60
DAMPING = 1e-3
MOST_DAMPING = 1e6


def flipped(wavefronts: Wavefronts) -> Wavefronts:
    """The wavefronts with even radial orders negated.

    Through a pupil that is even under ``(x, y) → (−x, −y)`` both have the same PSF; through a
    real one nearly so, which leaves a second, false, minimum.
    """
    n = len(wavefronts.zernike)
    sign = [1.0 - 2 * (noll_index(j)[0] % 2 == 0) for j in range(1, n + 1)]
    return replace(
        wavefronts, zernike=wavefronts.zernike * wavefronts.zernike.new_tensor(sign)[:, None]
    )


def _free_rows(n: int, nuisances: Nuisances) -> list[int]:
    """Zernikes that the field has: all but the piston, and the tilts where stars have their own."""
    return [j for j in range(1, n) if not (nuisances.centroids and j in TIP_TILT)]


def descend(
    scene: Scene, start: Wavefronts, *, nuisances: Nuisances, n_steps: int
) -> tuple[Wavefronts, float]:
    """L-BFGS on χ², flux and background eliminated at every step; the wavefronts and their χ²."""
    rows = _free_rows(len(start.zernike), nuisances)
    shape = (len(rows), start.zernike.shape[1])

    def unpack(vector: np.ndarray) -> Wavefronts:
        values = torch.from_numpy(UNIT * vector).to(start.zernike)
        zernike = start.zernike.clone()
        zernike[rows] = values[: len(rows) * shape[1]].reshape(shape)
        tilt = values[len(rows) * shape[1] :].reshape(-1, 2)
        return Wavefronts(zernike=zernike, tilt=tilt if nuisances.centroids else start.tilt)

    def cost(vector: np.ndarray) -> tuple[float, np.ndarray]:
        wavefronts = unpack(vector)
        value, slope = _cost(scene, wavefronts.at(scene.functions), nuisances)
        down = (slope.T @ scene.functions)[rows].flatten()
        if nuisances.centroids:
            down = torch.cat([down, slope[:, list(TIP_TILT)].flatten()])
        return value, UNIT * down.double().cpu().numpy()

    first = start.zernike[rows].flatten()
    if nuisances.centroids:
        first = torch.cat([first, start.tilt.flatten()])
    found = minimize(
        cost,
        first.double().cpu().numpy() / UNIT,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": n_steps, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-3},
    )
    return unpack(found.x), float(found.fun)


def _cost(scene: Scene, z: Tensor, nuisances: Nuisances) -> tuple[float, Tensor]:
    stamp = scene.stamps(z)
    pixels = scene.pixels
    light = pixels.light(stamp, fluxes=nuisances.fluxes, background=nuisances.background)
    residual = light.of(stamp) - pixels.image
    weighted = pixels.weight * residual
    slope = scene.pullback(z, 2 * light.flux[:, None, None] * weighted)
    return float((weighted * residual).sum(dtype=torch.float64)), slope


def search(scene: Scene, start: Wavefronts, *, nuisances: Nuisances) -> Wavefronts:
    """The better of the two minima that the sign of the even modes leaves."""
    soft = replace(scene, pixels=scene.pixels.softened(SOFTENING))
    first = min(FIRST_MODES, len(start.zernike))
    wavelength = float(np.mean(scene.camera.wavelengths))
    zernike = start.zernike[:first].clone()
    zernike[3, 0] += DEFOCUS * wavelength
    few, _ = descend(
        soft, replace(start, zernike=zernike), nuisances=nuisances, n_steps=FIRST_STEPS
    )
    grown = start.zernike.clone()
    grown[:first] = few.zernike
    one = descend(soft, replace(few, zernike=grown), nuisances=nuisances, n_steps=SEARCH_STEPS)
    other = descend(soft, flipped(one[0]), nuisances=nuisances, n_steps=SEARCH_STEPS)
    best = min(one, other, key=lambda found: found[1])
    return descend(soft, best[0], nuisances=nuisances, n_steps=LAST_STEPS)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """What Gauss-Newton ends with.

    Attributes
    ----------
    wavefronts : the parameters
    chi2 : of all stars
    normal : the stars' matrices at the last step but one
    n_steps : done
    converged : whether χ² stood still, within `SMALLEST_GAIN`
    """

    wavefronts: Wavefronts
    chi2: float
    normal: Normal
    n_steps: int
    converged: bool


SMALLEST_GAIN = 0.5
"""Gain of a step in χ² below which the fit stands still: parameters move by less than their σ."""


def refine(scene: Scene, start: Wavefronts, *, nuisances: Nuisances, max_steps: int) -> Refined:
    """Levenberg-Marquardt from a start near the minimum."""
    here, chi2 = start, _chi2(scene, start, nuisances)
    damping, step, gain = DAMPING, 0, float("inf")
    while step < max_steps and gain > SMALLEST_GAIN:
        normal = scene.normal(here.at(scene.functions), nuisances)
        gain = 0.0
        while damping < MOST_DAMPING:
            trial = _step(scene, here, normal, nuisances, damping)
            reached = _chi2(scene, trial, nuisances)
            if reached < chi2:
                gain, here, chi2 = chi2 - reached, trial, reached
                damping /= 5
                break
            damping *= 10
        step += 1
    return Refined(
        wavefronts=here, chi2=chi2, normal=normal, n_steps=step, converged=gain <= SMALLEST_GAIN
    )


def _chi2(scene: Scene, wavefronts: Wavefronts, nuisances: Nuisances) -> float:
    stamp = scene.stamps(wavefronts.at(scene.functions))
    light = scene.pixels.light(stamp, fluxes=nuisances.fluxes, background=nuisances.background)
    return float(scene.pixels.chi2(light.of(stamp)).sum(dtype=torch.float64))


def _step(
    scene: Scene, here: Wavefronts, normal: Normal, nuisances: Nuisances, damping: float
) -> Wavefronts:
    """One damped step; the stars' own tilts are eliminated and then follow."""
    rows = _free_rows(len(here.zernike), nuisances)
    matrix, vector = normal.matrix, normal.vector
    own = list(TIP_TILT)
    if nuisances.centroids:
        block = matrix[:, own][:, :, own]
        block = block * (1 + damping * torch.eye(2, dtype=block.dtype, device=block.device))
        carry = torch.linalg.solve(block, matrix[:, own])  # (star, 2, zernike)
        still = torch.linalg.solve(block, vector[:, own, None])[..., 0]
        vector = vector - torch.einsum("saj,sa->sj", matrix[:, own], still)
        matrix = matrix - torch.einsum("saj,sak->sjk", matrix[:, own], carry)
    p = scene.functions.double()
    m = matrix[:, rows][:, :, rows]
    n = len(rows) * p.shape[1]
    whole = torch.einsum("sjk,sa,sb->jakb", m, p, p).reshape(n, n)
    whole = whole + torch.diag(damping * whole.diagonal())
    down = torch.einsum("sj,sa->ja", vector[:, rows], p).reshape(n)
    change = torch.linalg.solve(whole, down).reshape(len(rows), -1)
    zernike = here.zernike.clone()
    zernike[rows] += change.to(zernike.dtype)
    tilt = here.tilt
    if nuisances.centroids:
        moved = still - torch.einsum("saj,sj->sa", carry[:, :, rows], p @ change.T)
        tilt = tilt + moved.to(tilt.dtype)
    return Wavefronts(zernike=zernike, tilt=tilt)
