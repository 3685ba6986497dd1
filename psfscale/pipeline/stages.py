"""The stages of a run: pure functions from one CCD's arrays to one CCD's arrays.

A stage takes an `xarray.Dataset` whose variables bear their paths in the stores
(``stars/image``) with the axes exposure and ccd taken away, and returns one alike. It reads
and writes no file and knows no cluster, so it runs in a test or a notebook:

>>> ccd = read_ccd(context, stage, exposure=0, ccd=3)  # doctest: +SKIP
>>> stage.run(ccd, context)["stars/fit_flux"]  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from psfscale.arrays import FieldPoints, ObjectFlag, Role, StarBatch
from psfscale.errors import FitError, PsfCheckError
from psfscale.pipeline.ccd import extrapolation, group_of, pad, stored_model
from psfscale.pipeline.declare import Declared, Input, Stage
from psfscale.pipeline.learning import learn_galaxies, sample_galaxies
from psfscale.pipeline.restoration import restore_galaxies
from psfscale.store.models import run_specs
from psfscale.store.schema import RUN_SCHEMA, ArraySpec

if TYPE_CHECKING:
    from psfscale.models.base import PsfModel
    from psfscale.pipeline.context import RunContext

PREDICT_BLOCK = 512
"""PSFs drawn in one call of a model: bounds the memory of a CCD with many galaxies."""


def settings_of(name: str, context: RunContext) -> dict[str, Any]:
    """The part of the configuration that a stage depends on; JSON-able."""
    return DECLARED[name].settings(context)


def stages_of(context: RunContext) -> dict[str, Stage]:
    """The stages of a run by name, each after those it needs."""
    arrays = context.model_class.state_arrays(context.model_settings, context.stamp_shape)
    model = run_specs(context.config.model.name, arrays)
    return {
        name: declared.build(context, model)
        for name, declared in DECLARED.items()
        if declared.wanted(context)
    }


def _fit_settings(context: RunContext) -> dict[str, Any]:
    return {
        "model": context.config.model.name,
        "settings": context.model_settings.model_dump(mode="json"),
        "checks": context.config.checks.model_dump(),
    }


def _psf_settings(context: RunContext) -> dict[str, Any]:
    return {
        "oversampling": context.config.psf.oversampling,
        "shape": [context.sizes.get("galaxies.y"), context.sizes.get("galaxies.x")],
    }


def _learn_settings(context: RunContext) -> dict[str, Any]:
    """Of the restoration, what bears on the fits that a prior is learnt from."""
    names = {"oversampling", "resolution", "n_learn", "n_rounds"}
    return context.restore_settings.learnt.model_dump(include=names)


def _declare(name: str, context: RunContext, **rest: Any) -> Stage:
    outputs = tuple(spec for spec in RUN_SCHEMA if spec.stage == name)
    return Stage(
        name=name,
        version=VERSIONS[name],
        needs=NEEDS[name],
        gathers=GATHERS[name],
        settings=settings_of(name, context),
        outputs=(*outputs, *rest.pop("more_outputs", ())),
        **rest,
    )


def _survey(group: str, *names: str) -> tuple[Input, ...]:
    return tuple(Input(path=f"{group}/{name}") for name in names)


def _stored(specs: tuple[ArraySpec, ...]) -> tuple[Input, ...]:
    return tuple(Input(path=spec.path, store="run") for spec in specs)


_STAR_INPUTS = _survey("stars", "image", "weight", "x", "y", "role")
_FIT_FLAGS = Input(path="stars/fit_flags", store="run")


def _fit_stage(context: RunContext, model: tuple[ArraySpec, ...]) -> Stage:
    return _declare(
        "fit",
        context,
        run=fit_psf,
        inputs=_STAR_INPUTS,
        more_outputs=model,
        objects="stars/role",
        missing="stars/fit_flags",
    )


def _psf_stage(context: RunContext, model: tuple[ArraySpec, ...]) -> Stage:
    return _declare(
        "psf",
        context,
        run=draw_psfs,
        inputs=(
            *_survey("galaxies", "x", "y", "role"),
            *_survey("stars", "x", "y", "role"),
            _FIT_FLAGS,
            *_stored(model),
        ),
        objects="galaxies/role",
        missing="galaxies/flags",
    )


def _galaxy_inputs(model: tuple[ArraySpec, ...]) -> tuple[Input, ...]:
    return (*_survey("galaxies", "image", "weight", "x", "y", "role"), *_stored(model))


def _restore_stage(context: RunContext, model: tuple[ArraySpec, ...]) -> Stage:
    shared = Input(path="prior/sums", store="run", gathered=True)
    return _declare(
        "restore",
        context,
        run=restore_galaxies,
        inputs=(
            *_galaxy_inputs(model),
            *_survey("stars", "x", "y", "role"),
            _FIT_FLAGS,
            *((shared,) if context.wants_prior else ()),
        ),
        objects="galaxies/role",
        missing="galaxies/restored_flags",
    )


def _sample_stage(context: RunContext, model: tuple[ArraySpec, ...]) -> Stage:
    return _declare(
        "sample",
        context,
        run=sample_galaxies,
        inputs=_galaxy_inputs(model),
        objects="galaxies/role",
        missing="",
    )


def _learn_stage(context: RunContext, model: tuple[ArraySpec, ...]) -> Stage:
    first = Input(path="prior/sample_sums", store="run", gathered=True)
    return _declare(
        "learn",
        context,
        run=learn_galaxies,
        inputs=(*_galaxy_inputs(model), first),
        objects="galaxies/role",
        missing="",
    )


def _metrics_stage(context: RunContext, model: tuple[ArraySpec, ...]) -> Stage:
    return _declare(
        "metrics",
        context,
        run=measure_stars,
        inputs=(*_STAR_INPUTS, _FIT_FLAGS, *_stored(model)),
        objects="stars/role",
        missing="stars/flags",
    )


def fit_psf(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """Fit the PSF field to the stars of role fit, and check it on a grid over the CCD.

    Raises
    ------
    FitError
        The stars do not determine the model.
    InputError
        A star has NaN or infinite pixels with a positive weight.
    PsfCheckError
        The fitted PSF is not fit for release.
    """
    from psfscale.metrics import check_psf

    stars = group_of(ccd, "stars")
    chosen = np.flatnonzero(stars["role"].values == Role.FIT)
    if not chosen.size:
        msg = "no star of role fit on this CCD; the model needs some"
        raise FitError(msg)
    batch = StarBatch(**{k: stars[k].values[chosen] for k in ("image", "weight", "x", "y")})
    model = context.model_class(context.model_settings)  # type: ignore[call-arg]
    report = model.fit(batch)
    detector, known = context.instrument.detector, context.instrument.psf
    check_psf(
        model,
        columns=detector.columns,
        rows=detector.rows,
        grid=context.config.checks.grid,
        pixel_scale=detector.pixel_scale,
        fwhm_range=(known.fwhm_minimum, known.fwhm_maximum),
    )
    flags = np.where(report.used, 0, int(ObjectFlag.OUTLIER))
    if not report.converged:
        flags |= int(ObjectFlag.NOT_CONVERGED)
    results = {
        "fit_flux": report.flux,
        "fit_shift_x": report.shift_x,
        "fit_shift_y": report.shift_y,
        "fit_flux_error": report.flux_error,
        "fit_shift_x_error": report.shift_x_error,
        "fit_shift_y_error": report.shift_y_error,
        "fit_chi2": report.chi2,
        "fit_flags": flags.astype(np.uint32),
    }
    n = stars.sizes["star"]
    padded = {f"stars/{name}": ("star", pad(v, chosen, n)) for name, v in results.items()}
    return xr.Dataset({**padded, **_state_variables(model, context)})


def draw_psfs(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """Draw the PSF at every galaxy; flag those outside the stars' range.

    Raises
    ------
    PsfCheckError
        A drawn PSF is not finite.
    """
    galaxies = group_of(ccd, "galaxies")
    chosen = np.flatnonzero(galaxies["role"].values != Role.EMPTY)
    x, y = galaxies["x"].values[chosen], galaxies["y"].values[chosen]
    model, grid = stored_model(ccd, context), context.psf_grid
    psf = np.full((galaxies.sizes["galaxy"], *grid.shape), np.nan, np.float32)
    for start in range(0, chosen.size, PREDICT_BLOCK):
        part = slice(start, start + PREDICT_BLOCK)
        psf[chosen[part]] = np.asarray(model.predict(FieldPoints(x=x[part], y=y[part]), grid))
    bad = chosen[~np.isfinite(psf[chosen]).all(axis=(1, 2))]
    if bad.size:
        msg = f"the PSF of {bad.size} galaxies is not finite (first: {bad[:5].tolist()})"
        raise PsfCheckError(msg)
    flags = extrapolation(ccd, x, y)
    return xr.Dataset(
        {
            "galaxies/psf": (("galaxy", "galaxies.y", "galaxies.x"), psf),
            "galaxies/flags": ("galaxy", pad(flags, chosen, galaxies.sizes["galaxy"])),
        }
    )


def measure_stars(ccd: xr.Dataset, context: RunContext) -> xr.Dataset:
    """Measure all stars of the CCD against its model."""
    from psfscale.metrics import measure_ccd

    detector = context.instrument.detector
    stars = group_of(ccd, "stars")
    measured = measure_ccd(
        stars.drop_vars("fit_flags"),
        stored_model(ccd, context),
        fit_flags=stars["fit_flags"].values,
        pixel_scale=detector.pixel_scale,
        ccd_shape=(detector.rows, detector.columns),
        grid=context.config.metrics.grid,
    )
    return xr.Dataset({_metric_path(v): v.variable for v in measured.values()})


def _metric_path(metric: xr.DataArray) -> str:
    """Group of a metric: per star where it has the axis, else per CCD."""
    name = str(metric.name)
    return name if "/" in name else f"{'stars' if 'star' in metric.dims else 'ccds'}/{name}"


def _state_variables(model: PsfModel, context: RunContext) -> dict[str, Any]:
    group = f"models/{context.config.model.name}"
    arrays = model.state_arrays(model.settings, context.stamp_shape)
    state = model.state()
    return {
        f"{group}/{a.name}": (tuple(f"{group}.{dim}" for dim in a.dims), state[a.name])
        for a in arrays
    }


DECLARED: dict[str, Declared] = {
    "fit": Declared(version=8, build=_fit_stage, settings=_fit_settings),
    "psf": Declared(
        version=1,
        build=_psf_stage,
        settings=_psf_settings,
        needs=("fit",),
        objects="galaxies",
        wanted=lambda context: context.wants_galaxy_psfs,
    ),
    "metrics": Declared(
        version=1,
        build=_metrics_stage,
        settings=lambda context: context.config.metrics.model_dump(),
        needs=("fit",),
    ),
    "sample": Declared(
        version=1,
        build=_sample_stage,
        settings=_learn_settings,
        needs=("fit",),
        sampled=True,
        objects="galaxies",
        wanted=lambda context: context.wants_prior,
    ),
    "learn": Declared(
        version=1,
        build=_learn_stage,
        settings=_learn_settings,
        needs=("fit",),
        gathers=("sample",),
        sampled=True,
        objects="galaxies",
        wanted=lambda context: context.wants_prior,
    ),
    "restore": Declared(
        version=3,
        build=_restore_stage,
        settings=lambda context: context.restore_settings.model_dump(mode="json"),
        needs=("fit",),
        gathers=("learn",),
        objects="galaxies",
        wanted=lambda context: context.wants_restoration,
    ),
}
"""All stages by name, each after those it needs; the order of the stored ``stage`` axis."""

STAGE_NAMES = tuple(DECLARED)
VERSIONS = {name: declared.version for name, declared in DECLARED.items()}
NEEDS = {name: declared.needs for name, declared in DECLARED.items()}
GATHERS = {name: declared.gathers for name, declared in DECLARED.items()}
