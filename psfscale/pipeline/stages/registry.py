"""The stages of a run: pure functions from one CCD's arrays to one CCD's arrays.

A stage takes an `xarray.Dataset` whose variables bear their paths in the stores
(``stars/image``) with the axes exposure and ccd taken away, and returns one alike. It reads
and writes no file and knows no cluster, so it runs in a test or a notebook:

>>> ccd = read_ccd(context, stage, exposure=0, ccd=3)  # doctest: +SKIP
>>> stage.run(ccd, context)["stars/fit_flux"]  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psfscale.models import MODELS
from psfscale.pipeline.stages.ccd import EXPOSURE
from psfscale.pipeline.stages.choose import choose_model, fit_stage
from psfscale.pipeline.stages.drawing import draw_psfs, measure_stars
from psfscale.pipeline.stages.fitting import fit_ccd, fit_exposure, release_ccd
from psfscale.pipeline.stages.learning import learn_galaxies, sample_galaxies
from psfscale.pipeline.stages.resources import wished
from psfscale.pipeline.stages.restoration import restore_galaxies
from psfscale.pipeline.stages.stage import Declared, Input, Stage
from psfscale.store.saved_models import run_specs
from psfscale.store.schema import RUN_SCHEMA, STAR_RESULTS, ArraySpec, star_results_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from psfscale.models.fitted import FittedModel
    from psfscale.pipeline.stages.context import RunContext


def settings_of(name: str, context: RunContext) -> dict[str, Any]:
    """The part of the configuration that a stage depends on; JSON-able."""
    return DECLARED[name].settings(context)


def stages_of(context: RunContext) -> dict[str, Stage]:
    """The stages of a run by name, each after those it needs."""
    return {
        name: declared.build(context)
        for name, declared in DECLARED.items()
        if declared.wanted(context)
    }


def model_arrays(context: RunContext, model: FittedModel) -> tuple[ArraySpec, ...]:
    """Stored arrays of a model's state."""
    return run_specs(
        model.name,
        model.state_arrays(context.stamp_shape),
        of_exposure=model.of_exposure,
        stage=_fit_name(context, model),
    )


def _fit_name(context: RunContext, model: FittedModel) -> str:
    return fit_stage(model) if len(context.models) > 1 else "fit"


def _fit_settings(context: RunContext, name: str | None = None) -> dict[str, Any]:
    model = _model(context, name)
    settings = {
        "model": model.name,
        "settings": model.settings.model_dump(mode="json"),
        "checks": context.config.checks.model_dump(),
        "quality": context.config.quality.model_dump(exclude={"exit_code"}),
        "leave_out": sorted(set(context.config.stars.leave_out)),
    }
    return settings | ({"per": model.per} if model.chromatic or model.of_exposure else {})


def _model(context: RunContext, name: str | None) -> FittedModel:
    return next(model for model in context.models if name in (None, model.name))


def _psf_settings(context: RunContext) -> dict[str, Any]:
    return {
        "oversampling": context.config.psf.oversampling,
        "shape": [context.sizes.get("psf_y"), context.sizes.get("psf_x")],
    }


def _learn_settings(context: RunContext) -> dict[str, Any]:
    """Of the restoration, what bears on the fits that a prior is learnt from."""
    names = {"oversampling", "resolution", "fast", "n_learn", "n_rounds"}
    return context.restore_settings.learnt.model_dump(include=names)


def _restore_settings(context: RunContext) -> dict[str, Any]:
    given = {"prior": context.given_prior} if context.given_prior else {}
    return context.restore_settings.model_dump(mode="json") | given


def _declare(name: str, context: RunContext, **rest: Any) -> Stage:
    outputs = rest.pop("outputs", None)
    if outputs is None:
        outputs = tuple(spec for spec in RUN_SCHEMA if spec.stage == name)
    return Stage(
        name=name,
        version=VERSIONS[name],
        needs=tuple(need for need in NEEDS[name] if DECLARED[need].wanted(context)),
        gathers=GATHERS[name],
        sampled=DECLARED[name].sampled,
        settings=settings_of(name, context),
        outputs=outputs,
        resources=rest.pop("resources", {}),
        **rest,
    )


def _survey(group: str, *names: str) -> tuple[Input, ...]:
    return tuple(Input(path=f"{group}/{name}") for name in names)


def _jacobians(context: RunContext, group: str) -> tuple[Input, ...]:
    return _survey(group, "jacobian") if context.has_jacobians else ()


def _stored(specs: tuple[ArraySpec, ...]) -> tuple[Input, ...]:
    return tuple(Input(path=spec.path, store="run") for spec in specs)


_STAR_INPUTS = _survey("stars", "image", "weight", "x", "y", "role")
_FIT_INPUTS = (
    *_survey("stars", "flags"),
    *_survey("exposures", "n_refused", "n_stars", "n_galaxies"),
)
_FIT_FLAGS = Input(path="stars/fit_flags", store="run")
_CCD_ID = Input(path="ccds/id")


def _colours(context: RunContext, group: str) -> tuple[Input, ...]:
    """Spectra of a group's objects, where a model is to be told them."""
    return _survey(group, "sed", "wavelength") if context.chromatic else ()


def _places(context: RunContext, *groups: str) -> tuple[Input, ...]:
    """Where objects lie in the focal plane, where a field covers an exposure."""
    if not any(model.of_exposure for model in context.models):
        return ()
    found = (_survey(group, "field_x", "field_y") for group in groups)
    return (_CCD_ID, *(source for sources in found for source in sources))


def _models(context: RunContext) -> tuple[Input, ...]:
    """The fields of a CCD, and which of them stands for it."""
    states = (source for m in context.models for source in _stored(model_arrays(context, m)))
    chosen = Input(path="ccds/model", store="run")
    return (*states, *((chosen,) if len(context.models) > 1 else ()))


def _fitted_stars(context: RunContext) -> tuple[Input, ...]:
    """What tells the range of the stars that a field was fitted to."""
    own = (*_survey("stars", "x", "y", "role"), _FIT_FLAGS)
    if not any(model.of_exposure for model in context.models):
        return own
    names = ("field_x", "field_y", "role")
    whole = (Input(path=f"{EXPOSURE}stars/{name}") for name in names)
    return (*own, *whole, Input(path=f"{EXPOSURE}stars/fit_flags", store="run"))


def _fit_stage(context: RunContext, name: str | None = None) -> Stage:
    model = _model(context, name)
    stage = _fit_name(context, model)
    results = "stars" if name is None else f"models/{name}"
    told = STAR_RESULTS if name is None else star_results_of(name, stage)
    fit: Callable[..., Any] = fit_exposure if model.of_exposure else fit_ccd
    return _declare(
        stage,
        context,
        run=partial(fit, model=model, results=results),
        inputs=(
            *_STAR_INPUTS,
            *_FIT_INPUTS,
            *_places(context, "stars"),
            *(_colours(context, "stars") if model.chromatic else ()),
        ),
        outputs=(*told, *model_arrays(context, model)),
        objects="stars/role",
        missing=f"{results}/fit_flags",
        resources=wished(model),
        whole=model.of_exposure,
        release=partial(release_ccd, model=model, results=results) if model.of_exposure else None,
    )


def _choose_stage(context: RunContext) -> Stage:
    told = (star_results_of(model.name, fit_stage(model)) for model in context.models)
    chosen = tuple(spec for spec in RUN_SCHEMA if spec.stage == "choose")
    return _declare(
        "choose",
        context,
        run=choose_model,
        inputs=(
            *_STAR_INPUTS,
            *_places(context, "stars"),
            *_colours(context, "stars"),
            *(source for m in context.models for source in _stored(model_arrays(context, m))),
            *(source for specs in told for source in _stored(specs)),
        ),
        outputs=(*(replace(spec, stage="choose") for spec in STAR_RESULTS), *chosen),
        objects="stars/role",
        missing="stars/fit_flags",
        needs_any=True,
    )


def _psf_stage(context: RunContext) -> Stage:
    return _declare(
        "psf",
        context,
        run=draw_psfs,
        inputs=(
            *_survey("galaxies", "x", "y", "role"),
            *_colours(context, "galaxies"),
            *_places(context, "stars", "galaxies"),
            *_fitted_stars(context),
            *_models(context),
        ),
        objects="galaxies/role",
        missing="galaxies/flags",
    )


def _galaxy_inputs(context: RunContext) -> tuple[Input, ...]:
    return (
        *_survey("galaxies", "image", "weight", "x", "y", "role"),
        *_colours(context, "galaxies"),
        *_places(context, "galaxies"),
        *_models(context),
    )


def _restore_stage(context: RunContext) -> Stage:
    shared = Input(path="prior/sums", store="run", gathered=True)
    return _declare(
        "restore",
        context,
        run=restore_galaxies,
        inputs=(
            *_galaxy_inputs(context),
            *_jacobians(context, "galaxies"),
            *_fitted_stars(context),
            *((shared,) if context.wants_prior else ()),
        ),
        objects="galaxies/role",
        missing="galaxies/restored_flags",
    )


def _learning_stage(
    context: RunContext, *, name: str, run: Callable[..., Any], gathered: tuple[Input, ...] = ()
) -> Stage:
    """A stage of the prior that galaxies share, from their images and PSFs."""
    return _declare(
        name,
        context,
        run=run,
        inputs=(*_galaxy_inputs(context), *gathered),
        objects="galaxies/role",
        missing="",
    )


def _metrics_stage(context: RunContext) -> Stage:
    return _declare(
        "metrics",
        context,
        run=measure_stars,
        inputs=(
            *_STAR_INPUTS,
            *_jacobians(context, "stars"),
            _FIT_FLAGS,
            *_colours(context, "stars"),
            *_places(context, "stars"),
            *_models(context),
        ),
        objects="stars/role",
        missing="stars/flags",
    )


def _fit_of(name: str) -> Declared:
    """The stage that fits one of several models; a change of it refits that model alone."""
    return Declared(
        version=2,
        build=partial(_fit_stage, name=name),
        settings=partial(_fit_settings, name=name),
        wanted=lambda context: (
            len(context.models) > 1 and name in {model.name for model in context.models}
        ),
    )


DECLARED: dict[str, Declared] = {
    "fit": Declared(
        version=11,
        build=_fit_stage,
        settings=_fit_settings,
        wanted=lambda context: len(context.models) == 1,
    ),
    **{f"fit_{name}": _fit_of(name) for name in MODELS},
    "choose": Declared(
        version=2,
        build=_choose_stage,
        settings=lambda context: {
            "choice": context.config.choice,
            "models": [model.name for model in context.models],
        },
        needs=tuple(f"fit_{name}" for name in MODELS),
        wanted=lambda context: len(context.models) > 1,
    ),
    "psf": Declared(
        version=1,
        build=_psf_stage,
        settings=_psf_settings,
        needs=("fit", "choose"),
        objects="galaxies",
        wanted=lambda context: context.wants_galaxy_psfs,
    ),
    "metrics": Declared(
        version=3,
        build=_metrics_stage,
        settings=lambda context: context.config.metrics.model_dump(),
        needs=("fit", "choose"),
    ),
    "sample": Declared(
        version=4,
        build=partial(_learning_stage, name="sample", run=sample_galaxies),
        settings=_learn_settings,
        needs=("fit", "choose"),
        sampled=True,
        objects="galaxies",
        wanted=lambda context: context.wants_prior,
    ),
    "learn": Declared(
        version=4,
        build=partial(
            _learning_stage,
            name="learn",
            run=learn_galaxies,
            gathered=(Input(path="prior/sample_sums", store="run", gathered=True),),
        ),
        settings=_learn_settings,
        needs=("fit", "choose"),
        gathers=("sample",),
        sampled=True,
        objects="galaxies",
        wanted=lambda context: context.wants_prior,
    ),
    "restore": Declared(
        version=11,
        build=_restore_stage,
        settings=_restore_settings,
        needs=("fit", "choose"),
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
