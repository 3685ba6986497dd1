"""SPRITE as a PSF field: one PSF per cell of a CCD, from the cell's stars as its stamps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel

from psfscale.errors import FitError
from psfscale.kernels.spectral import frequency_grid
from psfscale.models.base import FitReport, StateArray
from psfscale.models.field_drawing import FieldDrawing
from psfscale.models.flux_unit import in_flux_unit
from psfscale.models.judged import held_to_phases, judged
from psfscale.models.sprite.data import Stamps
from psfscale.models.sprite.model import SPRITE, SpriteResult
from psfscale.models.sprite.settings import SpriteFieldSettings, SPRITESettings
from psfscale.models.sprite.stars import StampValues, matched_snr, refitted, start_values
from psfscale.models.state import CENTROID_WINDOW, StoredField, position_box

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from psfscale.arrays import FieldPoints, PixelGrid, StarBatch

__all__ = ["Cells", "SpriteField"]

CHUNK_BYTES = 64e6
"""Memory that one chunk of a prediction may take."""

REFITS = 5
"""Gauss-Newton steps that put the field's PSF on each star."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A regular grid of cells over a box of positions, row by row.

    Attributes
    ----------
    n_y, n_x : cells along each axis
    box : ((x_min, x_max), (y_min, y_max)) [pixel]
    bilinear : weight the four nearest cells, or take the nearest alone
    """

    n_y: int
    n_x: int
    box: tuple[tuple[float, float], tuple[float, float]]
    bilinear: bool

    def _places(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions in units of cells from the centre of the first, within the centres."""
        (x0, x1), (y0, y1) = self.box
        across = (np.asarray(x, np.float64) - x0) / max(x1 - x0, 1e-9) * self.n_x - 0.5
        up = (np.asarray(y, np.float64) - y0) / max(y1 - y0, 1e-9) * self.n_y - 0.5
        return np.clip(up, 0, self.n_y - 1), np.clip(across, 0, self.n_x - 1)

    def __call__(
        self, x: Float[np.ndarray, " object"], y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object cell"]:
        """Weight of each cell at positions [pixel]; they sum to 1."""
        hats = []
        for place, n in zip(self._places(x, y), (self.n_y, self.n_x), strict=True):
            at = place if self.bilinear else np.rint(place)
            hats.append(np.clip(1 - np.abs(at[:, None] - np.arange(n)), 0, None))
        weights: np.ndarray = (hats[0][:, :, None] * hats[1][:, None, :]).reshape(len(x), -1)
        return weights

    def distances(
        self, x: Float[np.ndarray, " star"], y: Float[np.ndarray, " star"]
    ) -> Float[np.ndarray, "cell star"]:
        """Distances of stars from the centres of the cells, in cells, along the longer axis."""
        (x0, x1), (y0, y1) = self.box
        across = (x - x0) / max(x1 - x0, 1e-9) * self.n_x - 0.5
        up = (y - y0) / max(y1 - y0, 1e-9) * self.n_y - 0.5
        cy, cx = (c.ravel()[:, None] for c in np.mgrid[: self.n_y, : self.n_x])
        far: np.ndarray = np.maximum(np.abs(across - cx), np.abs(up - cy))
        return far


class SpriteField(StoredField[SpriteFieldSettings]):
    """A CCD's PSF, cell by cell, each super-resolved from the stars in it.

    Parameters
    ----------
    settings : all settings, or None for the defaults
    **options : single settings, over `settings`

    Examples
    --------
    >>> SpriteField(cells_x=4, cells_y=4).settings.cells_x
    4
    """

    name: ClassVar[str] = "sprite"
    settings_class: ClassVar[type[BaseModel]] = SpriteFieldSettings
    images: ClassVar[str] = "cell_psf"

    @classmethod
    def state_arrays(cls, settings: Any, stamp_shape: tuple[int, int]) -> tuple[StateArray, ...]:
        """The arrays that `state` returns for these settings and star stamps (y, x)."""
        fine = (stamp_shape[0] * settings.upsampling, stamp_shape[1] * settings.upsampling)
        return (
            StateArray(
                name="cell_psf",
                dims=("cell", "fine_y", "fine_x"),
                shape=(settings.cells_y * settings.cells_x, *fine),
                dtype="float32",
                units="1",
                long_name="PSF of each cell, row by row, pixel response included, unit sum",
            ),
            position_box("range of x and y that the cells divide"),
            CENTROID_WINDOW,
        )

    @in_flux_unit
    def fit(self, stars: StarBatch) -> FitReport:
        """Super-resolve the PSF of each cell, replacing what was fitted before.

        Raises
        ------
        FitError
            Fewer stars with signal than a cell needs.
        """
        settings = held_to_phases(self._settings, stars)
        stamps, snr, width, usable = _usable_stars(stars, settings)
        chosen = np.flatnonzero(usable)
        box = tuple((float(p[chosen].min()), float(p[chosen].max())) for p in (stars.x, stars.y))
        cells = _cells(np.array(box), settings)
        distance = cells.distances(stars.x, stars.y)
        result, members = _fit_cells(stamps, distance, usable, snr, settings)
        outliers = _outliers(result, members, len(stars), clip=settings.clip)
        if outliers.any():
            usable = usable & ~outliers
            _require_enough(usable, settings)
            result, members = _fit_cells(stamps, distance, usable, snr, settings)
        self._state = {
            "cell_psf": result.psf.numpy().astype(np.float32),
            "box": np.array(box),
            "width": np.array(width),
        }
        # Stars beyond the brightest of a cell are not clipped: the cell needs no more.
        report = self._report(stars, stamps, usable, result)
        return judged(report, stars, upsampling=self._settings.n_aliases)

    def widened(self, settings: SpriteFieldSettings) -> dict[str, np.ndarray]:
        """Return the state of a field of one cell with as many cells as `settings` have."""
        state = self.state()
        cells = settings.cells_y * settings.cells_x
        return {**state, "cell_psf": np.repeat(state["cell_psf"], cells, axis=0)}

    def predict(self, at: FieldPoints, grid: PixelGrid) -> Float[np.ndarray, "object y x"]:
        """PSFs at positions, each of unit sum, centred on index ``n // 2`` of the grid.

        The effective PSF: pixel response included, sampled at the grid's pixel centres. Beyond
        the stars' stamp it is 0.

        Raises
        ------
        FitError
            The model was not fitted yet.
        InputError
            The grid asks for the optical PSF, which this model cannot know.
        """
        grid.require_effective(self.name)
        drawing = self._drawing()
        return drawing.draw(at.x, at.y, grid=grid, chunk_bytes=CHUNK_BYTES).numpy()

    def _drawing(self) -> FieldDrawing:
        state, settings = self._fitted(), self._settings
        images = torch.from_numpy(state["cell_psf"])
        grid = frequency_grid(
            self.stamp_shape, upsampling=settings.upsampling, band_limit=settings.band_limit
        )
        back = [torch.tensor([-(n // 2) / settings.upsampling]) for n in images.shape[1:]]
        return FieldDrawing(
            grid=grid,
            coefficients=grid.coefficients(images) * grid.phases(back[0], back[1]),
            alpha=torch.eye(len(images), dtype=torch.float64),
            positions=_cells(state["box"], settings),
            width=float(state["width"]),
        )

    def _report(
        self,
        stars: StarBatch,
        stamps: Stamps,
        used: Bool[np.ndarray, " star"],
        fit: SpriteResult[Tensor],
    ) -> FitReport:
        """The field's PSF put on every star."""
        drawing = self._drawing()
        grid = drawing.grid
        weight = torch.from_numpy(drawing.positions(stars.x, stars.y)).float()
        psf = weight.to(drawing.coefficients.dtype) @ drawing.coefficients
        each = Stamps(image=stamps.image.transpose(0, 1), weight=stamps.weight.transpose(0, 1))
        values, _ = start_values(each, pixel_ratio=grid.pixel_ratio)
        for _ in range(REFITS):
            values = refitted(
                each,
                values,
                grid=grid,
                psf=psf,
                relaxation=1.0,
                max_shift=self._settings.max_shift,
            )
        model = values.amplitude[..., None, None] * grid.sample(
            (psf * grid.phases(values.dy[:, 0], values.dx[:, 0]))[:, None]
        )
        square = (each.weight * (each.image - model) ** 2).sum((1, 2, 3)).double().numpy()
        free = np.maximum((stars.weight > 0).sum((1, 2)) - 3, 1)
        zero = torch.from_numpy((grid.ky == 0) & (grid.kx == 0))
        total = psf[:, zero].real[:, 0] * np.sqrt(np.prod(grid.fine_shape)) / grid.pixel_ratio
        ny, nx = grid.shape
        error = values.known_error[:, 0]
        return FitReport(
            used=used,
            flux=(values.amplitude[:, 0] * total).double().numpy(),
            shift_x=(values.dx[:, 0] - nx // 2).double().numpy(),
            shift_y=(values.dy[:, 0] - ny // 2).double().numpy(),
            flux_error=(error[:, 0] * total.abs()).double().numpy(),
            shift_x_error=error[:, 2].double().numpy(),
            shift_y_error=error[:, 1].double().numpy(),
            chi2=square / free,
            reduced_chi2=float(square[used].sum() / free[used].sum()),
            n_iterations=int(fit.n_rounds.max()),
            converged=bool(fit.converged.all()),
        )


def _cells(box: Float[np.ndarray, "axis bound"], settings: SpriteFieldSettings) -> Cells:
    (x0, x1), (y0, y1) = box.tolist()
    return Cells(
        n_y=settings.cells_y,
        n_x=settings.cells_x,
        box=((x0, x1), (y0, y1)),
        bilinear=settings.interpolation == "bilinear",
    )


def _usable_stars(
    stars: StarBatch, settings: SpriteFieldSettings
) -> tuple[Stamps, Float[np.ndarray, " star"], float, Bool[np.ndarray, " star"]]:
    """All stars as stamps of one PSF, their S/N, their common width, and which can be used."""
    weight = torch.as_tensor(stars.weight).float()
    image = torch.where(weight > 0, torch.as_tensor(stars.image).float(), 0.0)
    stamps = Stamps(image=image[None], weight=weight[None])
    values, width = start_values(stamps, pixel_ratio=1.0)
    snr = matched_snr(stamps, values, width=width, pixel_ratio=1.0)[0].numpy()
    usable = (snr > settings.min_snr) & _near(values, stars.stamp_shape, settings.max_shift)
    _require_enough(usable, settings)
    return stamps, snr, float(width[0]), usable


def _near(values: StampValues, shape: tuple[int, int], reach: float) -> Bool[np.ndarray, " star"]:
    dy, dx = values.dy[0].numpy() - shape[0] // 2, values.dx[0].numpy() - shape[1] // 2
    near: np.ndarray = np.maximum(np.abs(dy), np.abs(dx)) < reach
    return near


def _require_enough(usable: Bool[np.ndarray, " star"], settings: SpriteFieldSettings) -> None:
    n = int(usable.sum())
    if n < settings.min_stars:
        msg = (
            f"{n} of {len(usable)} stars have S/N above {settings.min_snr}, lie within "
            f"{settings.max_shift} pixels of their stamp's centre and are no outliers; "
            f"SPRITE needs {settings.min_stars}"
        )
        raise FitError(msg)


def _fit_cells(
    stamps: Stamps,
    distance: Float[np.ndarray, "cell star"],
    usable: Bool[np.ndarray, " star"],
    snr: Float[np.ndarray, " star"],
    settings: SpriteFieldSettings,
) -> tuple[SpriteResult[Tensor], Int[np.ndarray, "cell exposure"]]:
    """The cells' PSFs, and which stars (−1 = none) served as their exposures."""
    members = [
        _members(row, usable, snr, least=settings.min_stars, most=settings.max_stars)
        for row in distance
    ]
    table = np.full((len(members), max(len(m) for m in members)), -1)
    for row, chosen in zip(table, members, strict=True):
        row[: len(chosen)] = chosen
    index = torch.from_numpy(np.maximum(table, 0))
    absent = torch.from_numpy(table < 0)[..., None, None]
    known = {name: getattr(settings, name) for name in SPRITESettings.model_fields}
    result = SPRITE(SPRITESettings(**known)).fit(
        stamps.image[0][index], weight=torch.where(absent, 0.0, stamps.weight[0][index])
    )
    return result, table


def _members(
    distance: Float[np.ndarray, " star"],
    usable: Bool[np.ndarray, " star"],
    snr: Float[np.ndarray, " star"],
    *,
    least: int,
    most: int,
) -> Int[np.ndarray, " exposure"]:
    """The brightest usable stars of a cell; where too few are in it, the nearest."""
    inside = np.flatnonzero(usable & (distance <= 0.5))
    if len(inside) < least:
        candidates = np.flatnonzero(usable)
        return candidates[np.argsort(distance[candidates], kind="stable")[:least]]
    return inside[np.argsort(-snr[inside], kind="stable")[:most]]


def _outliers(
    result: SpriteResult[Tensor],
    members: Int[np.ndarray, "cell exposure"],
    n_stars: int,
    *,
    clip: float,
) -> Bool[np.ndarray, " star"]:
    """Stars whose reduced χ² in their cell stands out of all others'."""
    present = members >= 0
    chi2 = result.chi2.double().numpy()
    typical = np.median(chi2[present])
    spread = max(1.4826 * float(np.median(np.abs(chi2[present] - typical))), 0.05)
    out = np.zeros(n_stars, dtype=bool)
    out[members[present & (chi2 > typical + clip * spread)]] = True
    return out
