"""The fit of RCA: rounds of field and star parameters until both stand still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from psfscale.errors import FitError
from psfscale.kernels.spectral import frequency_grid
from psfscale.models.position import PositionPolynomials, n_polynomials
from psfscale.models.rca.field import Field
from psfscale.models.rca.rounds import CcdState, Rounds, empty_field, near, selected
from psfscale.models.rca.stars import StarPixels, StarValues, start_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from psfscale.arrays import StarBatch
    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.graph import FieldFunctions
    from psfscale.models.rca.settings import RCASettings

__all__ = ["FittedField", "fit_fields"]

FREE_ROUNDS = 2
"""First rounds of a varying field, before the stars' model error can be judged."""

SETTLING_ROUNDS = 3
"""Last rounds, without momentum."""

LARGEST_STEP = 0.02
"""Move of a star's centre in the last round below which a fit has converged [pixel]."""


@dataclass(frozen=True, kw_only=True)
class FittedField:
    """What a fit leaves of a CCD: the field, the stars, and how it went.

    Attributes
    ----------
    field, grid, positions : the PSF field, its frequencies and its functions of position
    values, errors : flux and centre of each star, and their standard errors
    used : (star,) False for stars clipped or too faint
    chi2 : (star,) reduced χ² of the stamp
    variance_factor : (star,) variance of the star against its weights
    width : σ of the centroid window [CCD pixel]
    n_rounds : rounds done
    converged : whether star centres stand still and the sparse step reached its tolerance
    """

    field: Field
    grid: FrequencyGrid
    positions: PositionPolynomials | FieldFunctions
    values: StarValues
    errors: StarValues
    used: Bool[Tensor, " star"]
    chi2: Float[Tensor, " star"]
    variance_factor: Float[Tensor, " star"]
    width: float
    n_rounds: int
    converged: bool


def fit_fields(
    ccds: Sequence[StarBatch],
    settings: RCASettings,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[FittedField | FitError]:
    """Fit a PSF field to the stars of each CCD, all in one batch.

    A CCD comes out as it would alone, to rounding: with its field, or with the reason why it has
    none.

    Parameters
    ----------
    ccds : stars of each CCD, stamps of one size
    device, dtype : where and how precisely to work; the fields come back to the processor
    """
    found: dict[int, FittedField | FitError] = {}
    failures: dict[int, FitError] = {}
    pixels = StarPixels.of(ccds, dtype=dtype, device=device)
    for rounds in _starts(ccds, pixels, settings, failures):
        for part in _first_rounds(rounds):
            _last_rounds(part)
            for place, ccd in enumerate(part.state.ccd.tolist()):
                found[ccd] = _result(part, place, len(ccds[ccd]))
    found |= failures
    return [found[i] for i in range(len(ccds))]


def _first_rounds(rounds: Rounds) -> list[Rounds]:
    """The constant field, then the varying one, by the frequencies that it needs."""
    rounds.update_field(sparse=False)
    if len(rounds):
        rounds.update_stars(weigh=False, settling=False)
    found = []
    for part in rounds.with_atoms() if len(rounds) else []:
        part.grow()
        part.update_field(sparse=False)
        found += part.narrowed() if len(part) else []
    return found


def _last_rounds(rounds: Rounds) -> None:
    """Alternations of star and field parameters, the last field sparse."""
    settings = rounds.settings
    n = settings.n_rounds
    for left in range(n - 2, -1, -1):
        last = left == 0
        if left < n - 2 and len(rounds):
            sparse = last and (settings.threshold > 0 or settings.positivity)
            rounds.update_field(sparse=sparse)
        if len(rounds):
            rounds.rotate(last=last)
            rounds.update_stars(weigh=left < n - 1 - FREE_ROUNDS, settling=left < SETTLING_ROUNDS)


def _starts(
    ccds: Sequence[StarBatch],
    pixels: StarPixels,
    settings: RCASettings,
    failures: dict[int, FitError],
) -> list[Rounds]:
    """The CCDs with enough stars, by the degree that their stars carry."""
    grid = frequency_grid(
        ccds[0].stamp_shape, upsampling=settings.fine_upsampling, band_limit=settings.band_limit
    )
    values, snr, width = start_values(pixels)
    bright = (snr > settings.min_snr) & near(values, grid, settings.max_shift)
    groups: dict[int, list[int]] = {}
    for i, n in enumerate(bright.sum(-1).tolist()):
        if n < settings.min_stars:
            failures[i] = _too_few(n, len(ccds[i]), settings)
        else:
            groups.setdefault(_degree(n, settings), []).append(i)
    states = []
    for degree, chosen in groups.items():
        index = torch.tensor(chosen, device=snr.device)
        state = _start(
            [ccds[i] for i in chosen],
            index,
            degree=degree,
            pixels=selected(pixels, index),
            values=selected(values, index),
            bright=bright[index],
            snr=snr[index],
            width=width[index],
            grid=grid,
            settings=settings,
        )
        states.append(Rounds(state, grid=grid, settings=settings, failures=failures))
    return states


def _too_few(n: int, n_stars: int, settings: RCASettings) -> FitError:
    return FitError(
        f"{n} of {n_stars} stars have S/N above {settings.min_snr} and lie within "
        f"{settings.max_shift} pixels of their stamp's centre; RCA needs {settings.min_stars}"
    )


def _degree(n_stars: int, settings: RCASettings) -> int:
    """The highest degree that leaves three stars to a function."""
    degree = settings.degree
    while n_polynomials(degree) > max(1, n_stars // 3):
        degree -= 1
    return degree


def _start(
    ccds: Sequence[StarBatch],
    index: Tensor,
    *,
    degree: int,
    pixels: StarPixels,
    values: StarValues,
    bright: Bool[Tensor, "ccd star"],
    snr: Float[Tensor, "ccd star"],
    width: Float[Tensor, " ccd"],
    grid: FrequencyGrid,
    settings: RCASettings,
) -> CcdState:
    positions = []
    for ccd, mask in zip(ccds, bright.cpu().numpy(), strict=True):
        near_by = mask[: len(ccd)]
        positions.append(PositionPolynomials.around(ccd.x[near_by], ccd.y[near_by], degree=degree))
    rows = [torch.from_numpy(p(c.x, c.y)) for p, c in zip(positions, ccds, strict=True)]
    at = [torch.from_numpy(np.stack([ccd.x, ccd.y], 1)) for ccd in ccds]
    functions, places = (_padded(r, pixels.image.shape[1]).to(snr.device) for r in (rows, at))
    n_stars = bright.sum(-1, keepdim=True)
    least_error = (functions.shape[-1] / (settings.snr_limit * n_stars)) ** 2
    field = empty_field(functions, grid, snr.dtype)
    return CcdState(
        ccd=index,
        x=places[..., 0],
        y=places[..., 1],
        positions=positions,
        functions=functions,
        pixels=pixels,
        values=values,
        refitted=values,
        bright=bright,
        used=bright,
        factor=1 + least_error * snr**2,
        least_error=least_error,
        width=width,
        field=field,
        seen=field.coefficients,
        chi2=torch.zeros_like(snr),
        step=torch.zeros_like(width),
        rank=torch.ones_like(index),
        solved=torch.ones_like(index, dtype=torch.bool),
    )


def _padded(rows: list[Tensor], n_stars: int) -> Float[Tensor, "ccd star column"]:
    """The rows of each CCD's stars, 0 up to a number of stars."""
    missing = n_stars - max(len(r) for r in rows)
    return torch.nn.functional.pad(pad_sequence(rows, batch_first=True), (0, 0, 0, missing))


def _result(rounds: Rounds, place: int, n_stars: int) -> FittedField:
    """What the fit leaves of one CCD, on the processor."""
    state, rank = rounds.state, int(rounds.state.rank[place])

    def stars(values: Tensor) -> Tensor:
        return values[place, :n_stars].cpu()

    def each(of: StarValues) -> StarValues:
        return StarValues(flux=stars(of.flux), dy=stars(of.dy), dx=stars(of.dx))

    return FittedField(
        field=Field(
            coefficients=state.field.coefficients[place, :rank].cpu(),
            mixing=state.field.mixing[place, :, :rank].cpu(),
            basis=stars(state.field.basis)[:, :rank],
        ),
        grid=rounds.grid,
        positions=state.positions[place],
        values=each(state.values),
        errors=each(rounds.standard_errors()),
        used=stars(state.used),
        chi2=stars(state.chi2),
        variance_factor=stars(state.factor),
        width=float(state.width[place]),
        n_rounds=rounds.settings.n_rounds,
        converged=bool((state.step[place] < LARGEST_STEP) & state.solved[place]),
    )
