"""Flux and centroid of a PSF on a star, and the star on the PSF's own grid.

The PSF is given finely sampled and centred; both directions are separable sinc
interpolation, exact for what the finer (or the star's) grid resolves.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from psfscale.arrays import centre_index

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    Stamps = Float[np.ndarray, "star y x"]
    PerStar = Float[np.ndarray, " star"]

MARGIN = 3
"""CCD pixels by which a drawn PSF reaches over the stamp, so that it can be shifted."""
DROP = 0.8
"""Width of a pixel's drop [CCD pixel]; with a fine cell's more than a pixel, so that drops meet."""
_START = 2
"""Whole pixels around the centre tried as a start; stays within `MARGIN`."""
_STEPS = 12
_LONGEST_STEP = 0.5
_TOLERANCE = 1e-4
_RIDGE = 1e-10
_NODE = 1e-4
"""Distance from a sample below which sinc is its own series, to 1e-16 and 1e-11."""


@dataclass(frozen=True, kw_only=True)
class Refit:
    """The best flux and centroid of a PSF on each star, and the image they make.

    Attributes
    ----------
    flux : [electron], NaN where the star has no unmasked pixel
    shift_x, shift_y : centroid from the centre of the stamp [pixel]
    model : flux × shifted PSF at the star's pixels [electron]
    converged : False where the centroid still moved at the last step, or the flux is not
        positive
    """

    flux: PerStar
    shift_x: PerStar
    shift_y: PerStar
    model: Stamps
    converged: Bool[np.ndarray, " star"]

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """The parts, one after the other."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )

    def select(self, chosen: np.ndarray) -> Refit:
        """The stars picked by a boolean mask or by indices."""
        return Refit(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


def sampling(
    shift: PerStar, *, n: int, n_fine: int, oversampling: int
) -> tuple[Float[np.ndarray, "star n fine"], Float[np.ndarray, "star n fine"]]:
    """Matrices that sample a centred fine axis at ``n`` CCD pixels, and their derivative.

    Pixel i of a star whose centroid lies `shift` from the stamp's centre sees the PSF at
    fine index ``oversampling (i − n//2 − shift) + n_fine//2``. The derivative is by `shift`.
    """
    fine = np.arange(n_fine) - centre_index(n_fine)
    seen = oversampling * (np.arange(n) - centre_index(n) - shift[:, None])[..., None]
    u = seen - fine
    # sin π(a − j) = (−1)ʲ sin πa: two sines an axis point, not one an entry.
    sign = np.where(fine % 2, -1.0, 1.0)
    at_node = np.abs(u) < _NODE
    safe = np.where(at_node, 1.0, u)
    kernel = np.where(
        at_node, 1 - (np.pi * u) ** 2 / 6, np.sin(np.pi * seen) * sign / (np.pi * safe)
    )
    slope = np.where(at_node, -(np.pi**2) * u / 3, (np.cos(np.pi * seen) * sign - kernel) / safe)
    return kernel, -oversampling * slope


def resampling(
    shift: PerStar, *, n: int, n_fine: int, oversampling: int
) -> Float[np.ndarray, "star fine n"]:
    """Matrices that carry ``n`` CCD pixels to a fine axis centred on the star."""
    pixel = np.arange(n) - centre_index(n)
    fine = (np.arange(n_fine) - centre_index(n_fine)) / oversampling
    return np.asarray(np.sinc(fine[:, None] + shift[:, None, None] - pixel))


def drops(
    shift: PerStar, *, n: int, n_fine: int, oversampling: int
) -> Float[np.ndarray, "star fine n"]:
    """Matrices that lay ``n`` CCD pixels on a fine axis centred on the star, each as a drop.

    A pixel lies on the cells that the middle `DROP` of its width overlaps, by the share of a cell
    that is covered. No entry is negative, so that nothing rings, and no cell is left out: what is
    laid down is divided by what the weights alone lay down.
    """
    pixel = np.arange(n) - centre_index(n)
    cell = (np.arange(n_fine) - centre_index(n_fine)) / oversampling
    away = np.abs(pixel - shift[:, None, None] - cell[:, None])
    half = 0.5 / oversampling
    overlap = np.minimum(half, DROP / 2 - away) + half
    return np.asarray(np.clip(overlap, 0, None) * oversampling)


def separable(rows: Stamps, images: Stamps, columns: Stamps) -> Stamps:
    """``rows @ image @ columnsᵀ`` of each star."""
    return np.asarray(rows @ (images @ columns.swapaxes(-1, -2)))


def shifted(
    psf: Stamps, shift_y: PerStar, shift_x: PerStar, *, shape: tuple[int, int], oversampling: int
) -> Stamps:
    """PSFs at CCD pixels, per unit flux, with their centroid moved by the shifts."""
    rows, _ = sampling(shift_y, n=shape[0], n_fine=psf.shape[1], oversampling=oversampling)
    columns, _ = sampling(shift_x, n=shape[1], n_fine=psf.shape[2], oversampling=oversampling)
    return np.asarray(separable(rows, psf, columns) * oversampling**2)


def refit(image: Stamps, weight: Stamps, psf: Stamps, *, oversampling: int) -> Refit:
    """Best flux and centroid of each star under its PSF, by Gauss–Newton.

    Parameters
    ----------
    image, weight : (star, y, x) [electron], [1/electron²]; pixels of weight 0 are not read
    psf : (star, y, x) or (1, y, x), unit sum, centred on index ``n // 2``, reaching
        `MARGIN` CCD pixels over the stamp on each side
    oversampling : PSF samples per CCD pixel
    """
    image = np.where(weight > 0, image, 0.0)
    psf = np.broadcast_to(psf, (len(image), *psf.shape[1:]))
    centre, settled = _descend(image, weight, psf, oversampling)
    unit = shifted(psf, *centre, shape=image.shape[1:], oversampling=oversampling)
    flux = _best_flux(image, weight, unit)
    seen = np.isfinite(flux)
    return Refit(
        flux=flux,
        shift_y=np.where(seen, centre[0], np.nan),
        shift_x=np.where(seen, centre[1], np.nan),
        model=flux[:, None, None] * unit,
        converged=settled & (flux > 0),
    )


def _descend(
    image: Stamps, weight: Stamps, psf: Stamps, oversampling: int
) -> tuple[Float[np.ndarray, "axis star"], Bool[np.ndarray, " star"]]:
    """Centroids (y, x) of least χ², and where they settled within the stamp.

    A step that explains less of the star than the point it left is taken back and halved.
    """
    centre = _start(image, weight, psf, oversampling)
    trial = centre.copy()
    step = np.zeros_like(centre)
    best = np.full(len(image), -np.inf)
    settled = np.zeros(len(image), dtype=bool)
    moving = np.flatnonzero((weight > 0).any(axis=(1, 2)))
    for _ in range(_STEPS):
        if not moving.size:
            break
        explained, newton = _newton_step(
            image[moving], weight[moving], psf[moving], trial[:, moving], oversampling
        )
        better = explained >= best[moving]
        won = moving[better]
        centre[:, won], best[won] = trial[:, won], explained[better]
        step[:, moving] = np.where(better, newton, step[:, moving] / 2)
        trial[:, moving] = np.clip(centre[:, moving] + step[:, moving], -MARGIN, MARGIN)
        small = np.hypot(*step[:, moving]) <= _TOLERANCE
        settled[moving] = small
        moving = moving[~small]
    return centre, settled & (np.abs(centre).max(axis=0) < MARGIN)


def _best_flux(image: Stamps, weight: Stamps, unit: Stamps) -> PerStar:
    power = (weight * unit**2).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = (weight * unit * image).sum(axis=(-2, -1)) / power
    return np.asarray(np.where(power > 0, flux, np.nan))


def _start(
    image: Stamps, weight: Stamps, psf: Stamps, oversampling: int
) -> Float[np.ndarray, "axis star"]:
    """The whole-pixel shift (y, x) at which the PSF explains most of the star."""
    height, width = image.shape[1:]
    at_rest = np.zeros(1)
    rows, _ = sampling(
        at_rest, n=height + 2 * _START, n_fine=psf.shape[1], oversampling=oversampling
    )
    columns, _ = sampling(
        at_rest, n=width + 2 * _START, n_fine=psf.shape[2], oversampling=oversampling
    )
    unit = separable(rows, psf, columns)
    # The padded stamp keeps its centre: (n + 2s)//2 = n//2 + s.
    shifts = [(j, i) for j in range(-_START, _START + 1) for i in range(-_START, _START + 1)]
    explained = np.empty((len(shifts), len(image)))
    for score, (j, i) in zip(explained, shifts, strict=True):
        moved = unit[:, _START - j :, _START - i :][:, :height, :width]
        flux = np.nan_to_num(_best_flux(image, weight, moved))
        score[:] = flux * np.abs(flux) * (weight * moved**2).sum(axis=(1, 2))
    best = np.array(shifts, dtype=np.float64)[explained.argmax(axis=0)]
    return np.ascontiguousarray(best.T)


def _newton_step(
    image: Stamps,
    weight: Stamps,
    psf: Stamps,
    centre: Float[np.ndarray, "axis star"],
    oversampling: int,
) -> tuple[PerStar, Float[np.ndarray, "axis star"]]:
    """χ² explained at a centroid (y, x), and the Gauss–Newton step from it, flux free."""
    size = {"oversampling": oversampling}
    rows, d_rows = sampling(centre[0], n=image.shape[1], n_fine=psf.shape[1], **size)
    columns, d_columns = sampling(centre[1], n=image.shape[2], n_fine=psf.shape[2], **size)
    across = psf @ columns.swapaxes(-1, -2)
    unit = rows @ across
    flux = _best_flux(image, weight, unit)
    slope_y = flux[:, None, None] * (d_rows @ across)
    slope_x = flux[:, None, None] * (rows @ (psf @ d_columns.swapaxes(-1, -2)))
    tangent = np.stack([unit, slope_y, slope_x], axis=1)
    weighted = tangent * weight[:, None]
    n = len(image)
    normal = weighted.reshape(n, 3, -1) @ tangent.reshape(n, 3, -1).swapaxes(-1, -2)
    residual = (image - flux[:, None, None] * unit).reshape(n, -1, 1)
    pull = weighted.reshape(n, 3, -1) @ residual
    diagonal = normal[:, range(3), range(3)]
    explained = flux * np.abs(flux) * diagonal[:, 0]
    # A star of no flux leaves no slope: the ridge keeps its step at zero.
    floor = _RIDGE * diagonal + np.finfo(np.float64).tiny
    normal[:, range(3), range(3)] += floor
    step = np.linalg.solve(normal, pull)[:, 1:, 0].T
    return explained, np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
