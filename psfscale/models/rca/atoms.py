"""The frequency atoms that RCA's stars ask for, once their mean PSF is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from psfscale.models.graph import FieldFunctions
from psfscale.models.graph_choice import choose_atoms
from psfscale.models.position import PositionPolynomials, n_polynomials

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.graph import Box
    from psfscale.models.rca.field import Field
    from psfscale.models.rca.settings import RCASettings
    from psfscale.models.rca.stars import StarPixels, StarValues

__all__ = ["atoms_of", "principal_amplitudes"]

VOTERS = 6
"""Principal components of the stars that have a say in the atoms."""


def principal_amplitudes(
    field: Field,
    pixels: StarPixels,
    values: StarValues,
    *,
    grid: FrequencyGrid,
    weight: Float[Tensor, "*ccd star"],
) -> Float[Tensor, "*ccd star pattern"]:
    """Amplitudes of the stars in their principal components about a field [noise σ].

    From the Gram matrix of the registered residuals, strongest component first; stars of weight
    0 have none.
    """
    phases = grid.phases(values.dy, values.dx)
    model = grid.sample(field.at_stars() * phases) * values.flux[..., None, None]
    residual = pixels.share() * (pixels.image - model) * weight.sqrt()[..., None, None]
    registered = grid.sample_adjoint(residual) * phases.conj()
    plain = torch.view_as_real(registered * grid.weight(registered).sqrt()).flatten(-2).double()
    square, vectors = torch.linalg.eigh(grid.pixel_ratio * plain @ plain.mT)
    amplitude: Tensor = vectors * square.clamp(min=0).sqrt()[..., None, :]
    return amplitude.flip(-1)[..., :VOTERS]


def atoms_of(
    x: Float[Tensor, " star"],
    y: Float[Tensor, " star"],
    *,
    importance: Float[Tensor, " star"],
    amplitude: Float[Tensor, "star pattern"],
    degree: int,
    box: Box,
    settings: RCASettings,
) -> FieldFunctions:
    """As many functions as polynomials of a degree, atoms in the place of the highest.

    Parameters
    ----------
    x, y : of the stars that weigh [pixel]
    importance : f²·w/D² of each
    amplitude : see `principal_amplitudes`
    degree : of the polynomials that the stars carry
    box : range of positions [pixel]
    """
    lead = PositionPolynomials(degree=settings.lead_degree(degree), box=box)
    at = x.numpy(), y.numpy()
    atoms = choose_atoms(
        *at,
        importance=importance.numpy(),
        amplitude=amplitude.numpy(),
        lead=lead(*at),
        n_functions=n_polynomials(degree),
        most_nodes=settings.graph_nodes,
        box=box,
    )
    return FieldFunctions(lead=lead, atoms=atoms)
