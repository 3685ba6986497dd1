"""Measure the stars of one CCD against its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.arrays import STANDS_OUT, FieldPoints, ObjectFlag, PixelGrid, Role
from psfscale.metrics.field import OVERSAMPLING, drawn, lattice, sky_jacobian
from psfscale.metrics.meanstar import mean_star
from psfscale.metrics.moments import adaptive_moments
from psfscale.metrics.refit import MARGIN, Refit, refit
from psfscale.metrics.stand_out import stand_out
from psfscale.metrics.star import FRAMES, StarMetrics, measure_stars, power

if TYPE_CHECKING:
    from jaxtyping import Bool

    from psfscale.metrics.field import PsfField

PLAIN = (
    "model_rel_rmse",
    "star_power",
    *(
        f"{name}_{kind}{frame}"
        for frame in FRAMES
        for name in ("e1", "e2", "R2")
        for kind in ("bias", "rmse")
    ),
)
"""Figures that are also given over all reserved stars, those that stand out too: ``<name>_all``."""
_STARS_AT_ONCE = 128
"""Bounds memory: the fine PSFs of so many stars exist at a time."""


def measure_ccd(
    stars: xr.Dataset,
    model: PsfField,
    *,
    fit_flags: np.ndarray,
    pixel_scale: float,
    ccd_shape: tuple[int, int],
    grid: int,
) -> xr.Dataset:
    """All metrics of one CCD, named as the last part of their paths in the run store.

    Parameters
    ----------
    stars : one CCD of the survey store's ``stars`` group: ``image``, ``weight``
        (star, stamp_y, stamp_x), ``x``, ``y``, ``role`` (star,), and ``sed`` with
        ``wavelength`` where known, and ``jacobian`` (star, sky, pixel), NaN without a WCS;
        entries of role 0 are padding
    model : fitted to the stars of role fit
    fit_flags : (star,) bits set by the fit; OUTLIER marks clipped stars
    pixel_scale : [arcsec]
    ccd_shape : (y, x) [pixel]
    grid : points along each side of the CCD at which the model's own shape is averaged

    Returns
    -------
    xr.Dataset
        Arrays over ``star`` belong to the group ``stars``; scalars, and the stacks over
        ``stamp_y, stamp_x``, to the group ``ccds``. What cannot be measured is NaN and has its
        flag.
    """
    role = stars["role"].values
    present = np.flatnonzero(role != Role.EMPTY)
    clipped = (fit_flags & ObjectFlag.OUTLIER) != 0
    fit, reserved = role == Role.FIT, role == Role.RESERVED
    chosen = stars.isel(star=present)
    image = chosen["image"].values.astype(np.float64)
    weight = chosen["weight"].values.astype(np.float64)
    jacobian = sky_jacobian(chosen, pixel_scale=pixel_scale)
    measured = _in_parts(chosen, image, weight, model, pixel_scale, jacobian)
    flags = stand_out(
        image,
        weight,
        measured,
        x=chosen["x"].values,
        y=chosen["y"].values,
        typical=~clipped[present],
    )
    measured.columns["flags"] |= flags
    every = reserved[present]
    kept = every & ((flags & np.uint32(STANDS_OUT)) == 0)
    baseline = _mean_star_power(image, weight, measured.at, (fit & ~clipped)[present], kept)
    counts = {
        "n_fit": fit.sum(),
        "n_clipped": (fit & clipped).sum(),
        "n_reserved": every.sum(),
        "n_flagged": (every & ~kept).sum(),
        "n_measured": (measured.both_shapes & kept).sum(),
        "n_measured_all": (measured.both_shapes & every).sum(),
    }
    plain = _over_reserved(measured, image, weight, every)
    values = {
        "clipped_fraction": _ratio(counts["n_clipped"], counts["n_fit"]),
        **_over_reserved(measured, image, weight, kept),
        **{f"{name}_all": plain[name] for name in PLAIN},
        "mean_star_rel_rmse": np.sqrt(_ratio(baseline, power(image, weight)[kept].sum())),
        **_model_shape(model, chosen, pixel_scale, ccd_shape, grid, jacobian),
    }
    return xr.Dataset(
        {name: ("star", _padded(v, present, len(role))) for name, v in measured.columns.items()}
        | {name: ((), np.int32(value)) for name, value in counts.items()}
        | {name: ((), np.float32(value)) for name, value in values.items()}
        | {name: (("stamp_y", "stamp_x"), stack) for name, stack in measured.stacks(kept).items()}
    )


def _points(stars: xr.Dataset) -> FieldPoints:
    sed = stars["sed"].values if "sed" in stars else None
    return FieldPoints(
        x=stars["x"].values,
        y=stars["y"].values,
        sed=sed,
        wavelength=None if sed is None else stars["wavelength"].values,
    )


def _in_parts(
    stars: xr.Dataset,
    image: np.ndarray,
    weight: np.ndarray,
    model: PsfField,
    pixel_scale: float,
    jacobian: np.ndarray,
) -> StarMetrics:
    grid = _fine_grid(image.shape[1:])
    parts = []
    for start in range(0, max(len(image), 1), _STARS_AT_ONCE):
        part = slice(start, start + _STARS_AT_ONCE)
        psf = drawn(model, _points(stars.isel(star=part)), grid)
        parts.append(
            measure_stars(
                image[part],
                weight[part],
                psf,
                pixel_scale=pixel_scale,
                jacobian=jacobian[part],
            )
        )
    return StarMetrics.joined(parts)


def _fine_grid(stamp: tuple[int, ...]) -> PixelGrid:
    """The stamp and a margin, `OVERSAMPLING` times finer."""
    height, width = ((n + 2 * MARGIN) * OVERSAMPLING for n in stamp)
    return PixelGrid(shape=(height, width), oversampling=OVERSAMPLING)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else np.nan


def _padded(values: np.ndarray, present: np.ndarray, n: int) -> np.ndarray:
    """Values back at the stars' places on the padded axis, as stored."""
    kind = np.uint32 if values.dtype.kind in "ui" else np.float32
    full = np.full(n, 0 if kind is np.uint32 else np.nan, dtype=kind)
    full[present] = values
    return full


def _over_reserved(
    measured: StarMetrics, image: np.ndarray, weight: np.ndarray, kept: Bool[np.ndarray, " star"]
) -> dict[str, float]:
    """Pixel errors and shape residuals of the reserved stars, in sum."""
    columns = measured.columns
    variance = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
    star_power = power(image, weight)[kept].sum()
    residual = power(image - measured.at.model, weight)[kept].sum()
    shaped = kept & measured.both_shapes
    chi2 = columns["chi2"][kept & np.isfinite(columns["chi2"])]
    values = {
        "chi2_median": np.median(chi2) if chi2.size else np.nan,
        "model_rel_rmse": np.sqrt(_ratio(residual, star_power)),
        "noise_rel_rmse": np.sqrt(_ratio(variance[kept].sum(), star_power)),
        "star_power": star_power,
    }
    for frame in FRAMES:
        for name in ("e1", "e2", "R2"):
            of_model = columns[f"{name}_model{frame}"][shaped]
            difference = columns[f"{name}_star{frame}"][shaped] - of_model
            if name == "R2":
                difference = difference / of_model
            measured_any = bool(difference.size)
            values[f"{name}_bias{frame}"] = difference.mean() if measured_any else np.nan
            values[f"{name}_rmse{frame}"] = (
                np.sqrt((difference**2).mean()) if measured_any else np.nan
            )
    return values


def _mean_star_power(
    image: np.ndarray,
    weight: np.ndarray,
    at: Refit,
    used: Bool[np.ndarray, " star"],
    kept: Bool[np.ndarray, " star"],
) -> float:
    """Residual power of the reserved stars when the mean of the used ones is the model."""
    used = used & at.converged
    if not (used.any() and kept.any()):
        return np.nan
    mean = mean_star(image[used], weight[used], at.select(used), oversampling=1)[None]
    again = refit(image[used], weight[used], mean, oversampling=1)
    settled = again.converged
    if settled.any():
        mean = mean_star(
            image[used][settled], weight[used][settled], again.select(settled), oversampling=1
        )[None]
    model = refit(image[kept], weight[kept], mean, oversampling=1).model
    return float(power(image[kept] - model, weight[kept]).sum())


def _model_shape(
    model: PsfField,
    stars: xr.Dataset,
    pixel_scale: float,
    ccd_shape: tuple[int, int],
    grid: int,
    jacobian: np.ndarray,
) -> dict[str, float]:
    """Mean R², e1 and e2 of the model over the CCD; NaN where no point can be measured."""
    rows, columns = ccd_shape
    at = lattice(columns=columns, rows=rows, grid=grid)
    if "sed" in stars:
        at = _with_mean_spectrum(at, stars)
    psf = drawn(model, at, _fine_grid(stars["image"].shape[1:]))
    found = adaptive_moments(psf, pixel_scale=pixel_scale / OVERSAMPLING)
    near = _of_nearest(at, stars, jacobian, pixel_scale)
    sky = found.on_sky(near, pixel_scale=pixel_scale)
    return {
        f"psf_{name}{frame}": getattr(shapes, name)[found.ok].mean() if found.ok.any() else np.nan
        for frame, shapes in zip(FRAMES, (found, sky), strict=True)
        for name in ("R2", "e1", "e2")
    }


def _of_nearest(
    at: FieldPoints, stars: xr.Dataset, jacobian: np.ndarray, pixel_scale: float
) -> np.ndarray:
    """(object, 2, 2) the Jacobian of the star nearest to each point."""
    if not len(jacobian):
        return np.broadcast_to(pixel_scale * np.eye(2), (len(at), 2, 2))
    away = np.hypot(
        np.subtract.outer(at.x, stars["x"].values), np.subtract.outer(at.y, stars["y"].values)
    )
    return np.asarray(jacobian[away.argmin(axis=1)])


def _with_mean_spectrum(at: FieldPoints, stars: xr.Dataset) -> FieldPoints:
    sed = stars["sed"].values.mean(axis=0)
    return FieldPoints(
        x=at.x,
        y=at.y,
        sed=np.broadcast_to(sed, (len(at), len(sed))),
        wavelength=stars["wavelength"].values,
    )
