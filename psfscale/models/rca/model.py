"""RCA: a PSF field of resolved components, super-resolved from the stars of one CCD.

Paper: Ngolè, Starck, Ronayette, Okumura & Amiaux 2016, Inverse Problems 32, 124001
(arXiv:1608.08104). What is solved, and what departs from the paper, stands in
``docs/methods/rca.md``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel

from psfscale.errors import FitError
from psfscale.kernels.spectral import frequency_grid
from psfscale.models.base import FitReport, StateArray
from psfscale.models.field_drawing import FieldDrawing
from psfscale.models.flux_unit import in_flux_unit, report_times
from psfscale.models.graph import FieldFunctions, FrequencyAtoms
from psfscale.models.judged import held_to_phases, judged
from psfscale.models.position import PositionPolynomials, n_polynomials
from psfscale.models.rca.fit import FittedField, fit_fields
from psfscale.models.rca.settings import RCASettings
from psfscale.models.state import CENTROID_WINDOW, StoredField, position_box

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float

    from psfscale.arrays import FieldPoints, PixelGrid, StarBatch

__all__ = ["RCA"]

CHUNK_BYTES = 64e6
"""Memory that one chunk of a prediction may take."""


class RCA(StoredField[RCASettings]):
    """Resolved component analysis: ``PSF(x, y) = Σ_k (Σ_l α_kl B_l(x, y)) S_k``.

    Parameters
    ----------
    settings : all settings, or None for the defaults
    **options : single settings, over `settings`

    Examples
    --------
    >>> RCA(upsampling=3).settings.upsampling
    3
    """

    name: ClassVar[str] = "rca"
    settings_class: ClassVar[type[BaseModel]] = RCASettings
    images: ClassVar[str] = "eigen_psf"

    @classmethod
    def state_arrays(cls, settings: Any, stamp_shape: tuple[int, int]) -> tuple[StateArray, ...]:
        """The arrays that `state` returns for these settings and star stamps (y, x)."""
        rank, functions = settings.largest_rank, settings.n_functions
        fine = tuple(n * settings.fine_upsampling for n in stamp_shape)
        return (
            StateArray(
                name="eigen_psf",
                dims=("component", "fine_y", "fine_x"),
                shape=(rank, *fine),
                dtype="float32",
                units="1",
                long_name="eigen-PSFs S, pixel response included, centred on index n // 2",
            ),
            StateArray(
                name="alpha",
                dims=("component", "function"),
                shape=(rank, functions),
                dtype="float64",
                units="1",
                long_name="weight of each position function in each component",
            ),
            position_box("range of x and y that the position functions map to [-1, 1]"),
            CENTROID_WINDOW,
            StateArray(
                name="band_limit",
                dims=(),
                shape=(),
                dtype="float64",
                units="1 / pixel",
                long_name="highest frequency of the components [cycle/CCD pixel]",
            ),
            *_atom_arrays(settings),
        )

    @in_flux_unit
    def fit(self, stars: StarBatch) -> FitReport:
        """Fit the field to the stars, replacing what was fitted before.

        Raises
        ------
        FitError
            Too few stars with signal, or their positions do not determine the field.
        """
        fitted = fit_fields([stars], held_to_phases(self._settings, stars))[0]
        if isinstance(fitted, FitError):
            raise fitted
        return self._take(fitted, stars)

    @classmethod
    def fit_batch(
        cls,
        ccds: Sequence[StarBatch],
        settings: RCASettings | None = None,
        *,
        device: torch.device | None = None,
    ) -> list[tuple[RCA, FitReport] | FitError]:
        """Fit the field of each CCD, all in one batch: as each alone, to rounding.

        A CCD that cannot be fitted gives its error and does not touch the others.

        Parameters
        ----------
        ccds : stars of each CCD, stamps of one size
        device : where to work, the processor if None
        """
        found: list[tuple[RCA, FitReport] | FitError] = []
        chosen = settings or RCASettings()
        units = [stars.flux_unit for stars in ccds]
        ccds = [stars.over(unit) for stars, unit in zip(ccds, units, strict=True)]
        fields = _fit_each(ccds, chosen, device)
        for fitted, stars, unit in zip(fields, ccds, units, strict=True):
            if isinstance(fitted, FitError):
                found.append(fitted)
            else:
                model = cls(chosen)
                found.append((model, report_times(model._take(fitted, stars), unit)))
        return found

    @property
    def _fine_upsampling(self) -> int:
        return self._settings.fine_upsampling

    def _take(self, fitted: FittedField, stars: StarBatch) -> FitReport:
        self._state = _state_of(fitted, self._settings)
        return judged(_report(fitted, stars), stars, upsampling=self._settings.n_aliases)

    def predict(self, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
        """PSFs at positions, each of unit sum, centred on index ``n // 2`` of the grid.

        The effective PSF: pixel response included, sampled at the grid's pixel centres. Any
        oversampling and size will do; beyond the stars' stamp the PSF is 0.

        Raises
        ------
        FitError
            The model was not fitted yet.
        InputError
            The grid asks for the optical PSF, which this model cannot know.
        """
        grid.require_effective(self.name)
        drawing = _drawing(self._fitted(), self._settings)
        return drawing.draw(at.x, at.y, grid=grid, chunk_bytes=CHUNK_BYTES).numpy()


def _fit_each(
    ccds: Sequence[StarBatch], settings: RCASettings, device: torch.device | None
) -> list[FittedField | FitError]:
    """Fit CCDs in a batch for each band limit that their stars' phases carry."""
    held = [held_to_phases(settings, stars) for stars in ccds]
    fits: dict[int, FittedField | FitError] = {}
    for limit in {each.band_limit for each in held}:
        places = [k for k, each in enumerate(held) if each.band_limit == limit]
        fitted = fit_fields([ccds[k] for k in places], held[places[0]], device=device)
        fits |= dict(zip(places, fitted, strict=True))
    return [fits[k] for k in range(len(ccds))]


def _atom_arrays(settings: RCASettings) -> tuple[StateArray, ...]:
    """The arrays of a field with frequency atoms; none without."""
    if settings.n_atoms == 0:
        return ()
    return (
        StateArray(
            name="knots",
            dims=("knot", "axis"),
            shape=(settings.graph_nodes, 2),
            dtype="float64",
            units="1",
            long_name="x and y of the stars that the frequency atoms pass through, box = [-1, 1]",
        ),
        StateArray(
            name="atoms",
            dims=("kernel", "atom"),
            shape=(settings.graph_nodes + 3, settings.n_atoms),
            dtype="float64",
            units="1",
            long_name="weight of the thin plate about each knot, of 1, x and y in each atom",
        ),
    )


def _padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, np.nan, dtype=array.dtype)
    out[tuple(slice(n) for n in array.shape)] = array
    return out


def _centred(fitted: FittedField, upsampling: int) -> torch.Tensor:
    """Component images with their centre on index n // 2 of the upsampled stamp."""
    grid = fitted.grid
    ny, nx = (n * upsampling for n in grid.shape)
    dy, dx = (torch.tensor([n // 2 / upsampling]) for n in (ny, nx))
    return grid.image(fitted.field.coefficients * grid.phases(dy, dx), (ny, nx))


def _state_of(fitted: FittedField, settings: RCASettings) -> dict[str, np.ndarray]:
    (x0, x1), (y0, y1) = fitted.positions.box
    images = _centred(fitted, settings.fine_upsampling).numpy().astype(np.float32)
    alpha = fitted.field.mixing.T.numpy()
    rank, functions = settings.largest_rank, settings.n_functions
    return {
        "eigen_psf": _padded(images, (rank, *images.shape[1:])),
        "alpha": _padded(alpha, (rank, functions)),
        "box": np.array([[x0, x1], [y0, y1]]),
        "width": np.array(fitted.width),
        "band_limit": np.array(fitted.grid.band_limit or np.inf),
        **_atom_state(fitted.positions, settings),
    }


def _atom_state(
    positions: PositionPolynomials | FieldFunctions, settings: RCASettings
) -> dict[str, np.ndarray]:
    """What `_atom_arrays` declares; not a number where stars are too few for atoms."""
    found = {"knots": np.empty((0, 2)), "atoms": np.empty((0, 0))}
    if isinstance(positions, FieldFunctions):
        found = {"knots": positions.atoms.knots, "atoms": positions.atoms.weights}
    return {a.name: _padded(found[a.name], a.shape) for a in _atom_arrays(settings)}


def _position_functions(
    state: Mapping[str, np.ndarray], n_functions: int
) -> PositionPolynomials | FieldFunctions:
    (x0, x1), (y0, y1) = state["box"].tolist()
    box = ((x0, x1), (y0, y1))
    atoms = state.get("atoms", np.empty((1, 0)))
    n_atoms = int(np.isfinite(atoms[0]).sum())
    n_lead = n_functions - n_atoms
    degree = next(d for d in range(n_lead) if n_polynomials(d) == n_lead)
    lead = PositionPolynomials(degree=degree, box=box)
    if n_atoms == 0:
        return lead
    knots = state["knots"][np.isfinite(state["knots"][:, 0])]
    weights = atoms[: len(knots) + 3, :n_atoms]
    return FieldFunctions(lead=lead, atoms=FrequencyAtoms(knots=knots, weights=weights, box=box))


def _drawing(state: Mapping[str, np.ndarray], settings: RCASettings) -> FieldDrawing:
    n_functions = int(np.isfinite(state["alpha"][0]).sum())
    rank = int(np.isfinite(state["alpha"][:, 0]).sum())
    images = torch.from_numpy(state["eigen_psf"][:rank])
    ny, nx = (n // settings.fine_upsampling for n in images.shape[1:])
    limit = float(state["band_limit"])
    grid = frequency_grid(
        (ny, nx),
        upsampling=settings.fine_upsampling,
        band_limit=limit if math.isfinite(limit) else None,
    )
    dy, dx = (torch.tensor([-(n // 2) / settings.fine_upsampling]) for n in images.shape[1:])
    return FieldDrawing(
        grid=grid,
        coefficients=grid.coefficients(images) * grid.phases(dy, dx),
        alpha=torch.from_numpy(state["alpha"][:rank, :n_functions]),
        positions=_position_functions(state, n_functions),
        width=float(state["width"]),
    )


def _report(fitted: FittedField, stars: StarBatch) -> FitReport:
    grid, values = fitted.grid, fitted.values
    ny, nx = grid.shape
    zero = (grid.ky == 0) & (grid.kx == 0)
    total = fitted.field.at_stars()[:, torch.from_numpy(zero)].real[:, 0]
    total = total * math.prod(grid.shape) / math.sqrt(math.prod(grid.fine_shape))
    n_pixels = torch.from_numpy((stars.weight > 0).sum((1, 2)) - 3).clamp(min=1)
    used, chi2 = fitted.used, fitted.chi2
    return FitReport(
        used=used.numpy(),
        flux=(values.flux * total).double().numpy(),
        shift_x=(values.dx - nx // 2).double().numpy(),
        shift_y=(values.dy - ny // 2).double().numpy(),
        flux_error=(fitted.errors.flux * total.abs()).double().numpy(),
        shift_x_error=fitted.errors.dx.double().numpy(),
        shift_y_error=fitted.errors.dy.double().numpy(),
        chi2=chi2.double().numpy(),
        reduced_chi2=float((chi2 * n_pixels)[used].sum() / n_pixels[used].sum()),
        n_iterations=fitted.n_rounds,
        converged=fitted.converged,
    )
