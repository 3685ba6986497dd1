"""Fit a PSF field to the stars of a CCD, or of all CCDs of an exposure, and let it pass or not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.arrays import ObjectFlag, Role, StarBatch
from psfscale.errors import FitError, PsfCheckError
from psfscale.models.state import widened
from psfscale.pipeline.stages.ccd import ccd_place, group_of, model_of, pad
from psfscale.pipeline.stages.focal_plane import CcdPlace, half_turn
from psfscale.pipeline.stages.quality import VERDICT, Verdict, judge, release, stars_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psfscale.models.base import FitReport, PsfModel
    from psfscale.models.fitted import FittedModel
    from psfscale.pipeline.stages.context import RunContext

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
    left_out = _left_out(stars, context)
    chosen = np.flatnonzero((stars["role"].values == Role.FIT) & ~left_out)
    if not chosen.size:
        raise FitError(_no_star("CCD", left_out, context))
    batch = stars_of(stars, chosen, colour=model.chromatic)
    fits = _attempts(ccd, batch, chosen, left_out, context, model)
    told, field, verdict = _best(fits)
    verdict = release(verdict, context)
    check_release(field, context, verdict)
    arrays = {f"{results}/fit_{name}": ("star", values) for name, values in told.items()}
    state = _state(field, context, model)
    return xr.Dataset({**arrays, **state}, attrs={VERDICT: verdict})


_Attempt = tuple[dict[str, np.ndarray], Any, Verdict, str]
"""Results of the stars, the field, the verdict, and what kind of field it is."""


def _attempts(
    ccd: xr.Dataset,
    batch: StarBatch,
    chosen: np.ndarray,
    left_out: np.ndarray,
    context: RunContext,
    model: FittedModel,
) -> Iterator[_Attempt]:
    """The field of the settings, then simpler ones as long as they are taken."""
    falls_back = context.config.quality.on_doubt == "fall_back"
    simpler = model.simpler() if falls_back else ()
    for kind, settings in (("", model.settings), *simpler):
        field, report = _fitted(batch, context, replace(model, settings=settings))
        if kind:
            field = model.restore(widened(field, model.settings), context.device)
        told = {k: pad(v, chosen, len(left_out)) for k, v in _told(report).items()}
        told["flags"] |= _left_out_flags(left_out)
        yield told, field, judge(ccd, field, told, context, model), kind


def _best(fits: Iterator[_Attempt]) -> tuple[dict[str, np.ndarray], Any, Verdict]:
    """The first field that passes the checks a simpler one may pass, or the last."""
    first = next(fits)
    told, field, verdict, kind = first
    while verdict.simpler_may_help and (simpler := next(fits, None)) is not None:
        told, field, verdict, kind = simpler
    return told, field, verdict.after(first[2], kind) if kind else verdict


def _left_out(stars: xr.Dataset, context: RunContext) -> np.ndarray:
    """Whether the run leaves stars out for the flags of the survey store."""
    flagged = (stars["flags"].values & context.config.stars.mask) != 0
    return np.asarray(flagged & (stars["role"].values != Role.EMPTY))


def _left_out_flags(left_out: np.ndarray) -> np.ndarray:
    return np.where(left_out, int(ObjectFlag.LEFT_OUT), 0).astype(np.uint32)


def _no_star(where: str, left_out: np.ndarray, context: RunContext) -> str:
    n = int(left_out.sum())
    names = " or ".join(context.config.stars.leave_out)
    why = f", {n} are left out as {names} (stars.leave_out)" if n else ""
    return f"no star of role fit on this {where}{why}; the model needs some"


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
    left_out = _left_out(stars, context)
    on, star = np.nonzero((stars["role"].values == Role.FIT) & ~left_out)
    if not on.size:
        raise FitError(_no_star("exposure", left_out, context))
    places = {k: ccd_place(exposure.isel(ccd=k), context) for k in np.unique(on).tolist()}
    turned = np.array([places[k].turned for k in on.tolist()])
    field, report = _fitted(_in_focal_plane(stars, on, star, places, turned), context, model)
    told = _told(report)
    for name in _SHIFTS:
        told[name] = np.where(turned, -told[name], told[name])
    shape = stars["role"].shape
    flat = np.ravel_multi_index((on, star), shape)
    padded = {k: pad(v, flat, shape[0] * shape[1]).reshape(shape) for k, v in told.items()}
    padded["flags"] |= _left_out_flags(left_out)
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
    from psfscale.models.judged import explained

    field: Any = model.build(context.device)
    if context.checkpoint is not None and hasattr(field, "checkpoint"):
        field.checkpoint = context.checkpoint
    try:
        report = field.fit(batch)
    except FitError as error:
        raise explained(error, batch, context.config.quality) from error
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


def release_ccd(
    ccd: xr.Dataset, context: RunContext, *, model: FittedModel, results: str
) -> Verdict:
    """Judge the field of an exposure on a CCD.

    Parameters
    ----------
    ccd : what was given to the fit and what it returned, of one CCD
    results : group of what the fit told of its stars

    Raises
    ------
    PsfCheckError
        It is not fit for release.
    InputError
        The CCD does not lie where the layout has it.
    """
    field = model_of(ccd, context, model)
    told = {name: ccd[f"{results}/fit_{name}"].values for name in ("flags", "chi2")}
    verdict = release(judge(ccd, field, told, context, model), context)
    check_release(field, context, verdict)
    return verdict


def check_release(field: Any, context: RunContext, verdict: Verdict) -> None:
    """Pass silently if a PSF field is sound on a grid over the CCD.

    Raises
    ------
    PsfCheckError
        It is not; the message also has what the `verdict` finds doubtful, the likely cause.
    """
    from psfscale.metrics import check_psf

    detector, known = context.instrument.detector, context.instrument.psf
    try:
        check_psf(
            field,
            columns=detector.columns,
            rows=detector.rows,
            grid=context.config.checks.grid,
            pixel_scale=detector.pixel_scale,
            fwhm_range=(known.fwhm_minimum, known.fwhm_maximum),
        )
    except PsfCheckError as error:
        causes = (doubt.message for doubt in verdict.doubts)
        raise PsfCheckError("; ".join([str(error), *causes])) from error
