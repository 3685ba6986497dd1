"""Fit a PSF field to the stars of a CCD, or of all CCDs of an exposure, and let it pass or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.arrays import ObjectFlag, Role, StarBatch
from psfscale.errors import FitError
from psfscale.pipeline.stages.ccd import ccd_place, group_of, model_of, pad
from psfscale.pipeline.stages.focal import CcdPlace, half_turn

if TYPE_CHECKING:
    from psfscale.models.base import FitReport, PsfModel
    from psfscale.pipeline.stages.context import FittedModel, RunContext

_SHIFTS = ("shift_x", "shift_y")
RESULTS = ("flux", *_SHIFTS, "flux_error", "shift_x_error", "shift_y_error", "chi2", "flags")
"""What a fit tells of its stars, stored as ``fit_<name>``."""


def fit_ccd(
    ccd: xr.Dataset, context: RunContext, *, model: FittedModel, results: str
) -> xr.Dataset:
    """Fit a field to the stars of role fit of a CCD, and check it on a grid over the CCD.

    Parameters
    ----------
    model : which
    results : group of what the fit tells of its stars

    Raises
    ------
    FitError
        The stars do not determine the model.
    InputError
        A star has NaN or infinite pixels with a positive weight.
    PsfCheckError
        The fitted PSF is not fit for release.
    """
    stars = group_of(ccd, "stars")
    chosen = np.flatnonzero(stars["role"].values == Role.FIT)
    if not chosen.size:
        msg = "no star of role fit on this CCD; the model needs some"
        raise FitError(msg)
    names = ("image", "weight", "x", "y", *(("sed",) if model.chromatic and "sed" in stars else ()))
    batch = StarBatch(**{k: stars[k].values[chosen] for k in names}, wavelength=_bins(stars, names))
    field, report = _fitted(batch, context, model)
    check_release(field, context)
    n = stars.sizes["star"]
    told = {f"{results}/fit_{k}": ("star", pad(v, chosen, n)) for k, v in _told(report).items()}
    return xr.Dataset({**told, **_state(field, context, model)})


def fit_exposure(
    exposure: xr.Dataset, context: RunContext, *, model: FittedModel, results: str
) -> xr.Dataset:
    """Fit one field of the focal plane to the stars of role fit of all CCDs.

    The arrays of an exposure have an axis ``ccd`` before those of `fit_ccd`; the model's own have
    none. What every CCD gets of the field is for `release_ccd` to check.

    Raises
    ------
    FitError
        The stars do not determine the model.
    InputError
        A star has NaN or infinite pixels with a positive weight, or a CCD does not lie where the
        layout has it.
    """
    stars = group_of(exposure, "stars")
    on, star = np.nonzero(stars["role"].values == Role.FIT)
    if not on.size:
        msg = "no star of role fit on this exposure; the model needs some"
        raise FitError(msg)
    places = {k: ccd_place(exposure.isel(ccd=k), context) for k in np.unique(on).tolist()}
    turned = np.array([places[k].turned for k in on.tolist()])
    field, report = _fitted(_in_focal_plane(stars, on, star, places, turned), context, model)
    told = _told(report)
    for name in _SHIFTS:
        told[name] = np.where(turned, -told[name], told[name])
    shape = stars["role"].shape
    flat = np.ravel_multi_index((on, star), shape)
    padded = {k: pad(v, flat, shape[0] * shape[1]).reshape(shape) for k, v in told.items()}
    arrays = {f"{results}/fit_{k}": (("ccd", "star"), v) for k, v in padded.items()}
    return xr.Dataset({**arrays, **_state(field, context, model)})


def _in_focal_plane(
    stars: xr.Dataset,
    on: np.ndarray,
    star: np.ndarray,
    places: dict[int, CcdPlace],
    turned: np.ndarray,
) -> StarBatch:
    """Stars number `star` of CCDs number `on`, positions and stamps as the focal plane has them."""
    image, weight = (stars[name].values[on, star] for name in ("image", "weight"))
    image[turned], weight[turned] = half_turn(image[turned], weight[turned])
    x, y = stars["x"].values[on, star], stars["y"].values[on, star]
    for ccd, place in places.items():
        x[on == ccd], y[on == ccd] = place.position(x[on == ccd], y[on == ccd])
    names = ("sed",) if "sed" in stars else ()
    sed = stars["sed"].values[on, star] if names else None
    return StarBatch(image=image, weight=weight, x=x, y=y, sed=sed, wavelength=_bins(stars, names))


def _bins(stars: xr.Dataset, names: tuple[str, ...]) -> np.ndarray | None:
    return stars["wavelength"].values if "sed" in names else None


def _fitted(
    batch: StarBatch, context: RunContext, model: FittedModel
) -> tuple[PsfModel, FitReport]:
    field: Any = model.build(context.device)
    if context.checkpoint is not None and hasattr(field, "checkpoint"):
        field.checkpoint = context.checkpoint
    report = field.fit(batch)
    return field, report


def _told(report: FitReport) -> dict[str, np.ndarray]:
    flags = np.where(report.used, 0, int(ObjectFlag.OUTLIER))
    if not report.converged:
        flags |= int(ObjectFlag.NOT_CONVERGED)
    told = {name: getattr(report, name) for name in RESULTS if name != "flags"}
    return {**told, "flags": flags.astype(np.uint32)}


def _state(field: PsfModel, context: RunContext, model: FittedModel) -> dict[str, Any]:
    group, state = f"models/{model.name}", field.state()
    return {
        f"{group}/{a.name}": (tuple(f"{group}.{dim}" for dim in a.dims), state[a.name])
        for a in model.state_arrays(context.stamp_shape)
    }


def release_ccd(ccd: xr.Dataset, context: RunContext, *, model: FittedModel) -> None:
    """Pass silently if the field of an exposure is sound on a CCD.

    Parameters
    ----------
    ccd : what was given to the fit and what it returned, of one CCD

    Raises
    ------
    PsfCheckError
        It is not.
    InputError
        The CCD does not lie where the layout has it.
    """
    check_release(model_of(ccd, context, model), context)


def check_release(field: Any, context: RunContext) -> None:
    """Pass silently if a PSF field is sound on a grid over the CCD.

    Raises
    ------
    PsfCheckError
        It is not.
    """
    from psfscale.metrics import check_psf

    detector, known = context.instrument.detector, context.instrument.psf
    check_psf(
        field,
        columns=detector.columns,
        rows=detector.rows,
        grid=context.config.checks.grid,
        pixel_scale=detector.pixel_scale,
        fwhm_range=(known.fwhm_minimum, known.fwhm_maximum),
    )
