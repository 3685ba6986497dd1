"""Build the context of a run from its configuration and its stores, and read it back."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING, Any, cast

from psfscale.arrays import stack_shape
from psfscale.config import RunConfig
from psfscale.deconvolve.learnt.settings import N_SUMS
from psfscale.deconvolve.settings import DeconvolutionSettings
from psfscale.errors import ConfigError, StoreError
from psfscale.models import CHROMATIC
from psfscale.models.fitted import FittedModel
from psfscale.pipeline.runs.prior import prior_numbers, read_prior
from psfscale.pipeline.stages.context import RunContext
from psfscale.store.stores import array_of, attributes_of, n_exposures_of, open_root, values_of
from psfscale.store.survey_instrument import require_survey_store, stored_instrument
from psfscale.survey import Instrument, load_survey
from psfscale.survey.agreement import require_filters, require_same
from psfscale.survey.quantity import WITH_SOURCES
from psfscale.yamlfile import validate

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

    from psfscale.deconvolve.learnt.settings import PriorNumbers

__all__ = ["build_context", "context_attributes", "read_context", "require_run", "versions"]

LAYOUT = 2
"""Of run stores."""
PACKAGES = ("psfscale", "torch", "numpy", "scipy", "zarr", "xarray", "dask", "distributed")


def build_context(
    config: RunConfig,
    instrument: Instrument | None = None,
    given_prior: PriorNumbers | None = None,
) -> RunContext:
    """Read the survey store and resolve every setting.

    Parameters
    ----------
    config : of the run
    instrument : if not given, that of the survey store, or of the file that `config` names
    given_prior : likewise

    Raises
    ------
    ConfigError
        The instrument file or the model's settings are wrong, the file contradicts the survey
        store, there is neither, or the prior is of no use.
    InputError
        An exposure is in a filter that the instrument does not describe.
    StoreError
        There is no survey store, or no run whose prior is to be taken.
    """
    root = open_root(config.survey)
    require_survey_store(root, config.survey)
    if instrument is None:
        instrument = _instrument(root, config)
    restoration = validate(
        config.restore.settings, DeconvolutionSettings, name="settings of the restoration"
    )
    sizes, stamp_shape = _sizes(root, config, restoration.fine_pixels)
    return RunContext(
        config=config,
        instrument=instrument,
        models=tuple(FittedModel.of(choice, instrument) for choice in config.fitted),
        restore_settings=restoration,
        sizes=sizes,
        stamp_shape=stamp_shape,
        has_galaxies="psf_y" in sizes,
        has_spectra="seds" in root,
        has_jacobians="stars/jacobian" in root,
        given_prior=given_prior or _given_prior(config, restoration),
    )


def context_attributes(context: RunContext) -> dict[str, Any]:
    """Return the attributes of the run store: enough to build the context again."""
    return {
        "kind": "run",
        "layout": LAYOUT,
        "config": context.config.model_dump(mode="json"),
        "instrument": context.instrument.model_dump(mode="json", context=WITH_SOURCES),
        "model_settings": {m.name: m.settings.model_dump(mode="json") for m in context.models},
        "given_prior": context.given_prior,
        "versions": versions(),
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    return {"python": python_version(), **{name: version(name) for name in PACKAGES}}


def read_context(run: Path) -> RunContext:
    """Return the context of the latest driver of a run store.

    Raises
    ------
    StoreError
        There is no run store, or it does not hold a run.
    """
    root = open_root(run)
    require_run(root, run)
    attributes = attributes_of(root)
    stored = RunConfig.model_validate(attributes["config"])
    config = stored.model_copy(update={"output": run})
    instrument = Instrument.model_validate(attributes["instrument"])
    return build_context(config, instrument, cast("PriorNumbers", attributes.get("given_prior")))


def require_run(root: zarr.Group, run: Path) -> None:
    """Raise where this is no store of a run, in the current layout.

    Raises
    ------
    StoreError
        It is not.
    """
    if root.attrs.get("kind") != "run":
        msg = f"{run} is a store, but not of a run: it was not written by `psfscale run`"
        raise StoreError(msg)
    if root.attrs.get("layout") != LAYOUT:
        msg = f"{run} was written by another psfscale, in another layout; choose another output"
        raise StoreError(msg)


def _instrument(root: zarr.Group, config: RunConfig) -> Instrument:
    """Return the instrument of a survey store, or of the file that a run names, if they agree."""
    stored = stored_instrument(root)
    given = None if config.instrument is None else load_survey(config.instrument).instrument
    if given is not None and stored is not None:
        require_same(given, stored, name=str(config.instrument), store=config.survey)
    found = given or stored
    if found is None:
        msg = (
            f"{config.survey} does not say which instrument it is of (an earlier psfscale wrote "
            "it): name its survey file as `instrument` in the run file"
        )
        raise ConfigError(msg)
    chromatic = [choice.name for choice in config.fitted if choice.name in CHROMATIC]
    names, ids = (
        [str(text) for text in values_of(root, f"exposures/{key}")] for key in ("filter", "id")
    )
    require_filters(found, names, ids, one=chromatic[0] if chromatic else None)
    return found


def _given_prior(config: RunConfig, settings: DeconvolutionSettings) -> PriorNumbers | None:
    path = config.restore.prior
    if path is None or not config.restore.at_galaxies:
        return None
    if settings.mode != "learnt":
        msg = f"restore.prior is for mode learnt, not {settings.mode}: leave it out"
        raise ConfigError(msg)
    if path.resolve() == config.output.resolve():
        msg = f"restore.prior names this run's own output, {path}: leave it out, or take another"
        raise ConfigError(msg)
    return prior_numbers(read_prior(path))


def _sizes(
    root: zarr.Group, config: RunConfig, fine: int
) -> tuple[dict[str, int], tuple[int, int]]:
    _, n_ccds, n_stars, rows, columns = array_of(root, "stars/image").shape
    sizes = {"exposure": n_exposures_of(root), "ccd": n_ccds, "star": n_stars}
    sizes |= {"stamp_y": rows, "stamp_x": columns}
    sizes["ccds.stamp_y"], sizes["ccds.stamp_x"] = stack_shape((rows, columns))
    sizes["prior.sum"] = N_SUMS
    if "galaxies/image" in root:
        *_, n_galaxies, height, width = array_of(root, "galaxies/image").shape
        scale, side = config.psf.oversampling, config.psf.size
        sizes["galaxy"] = n_galaxies
        sizes["psf_y"] = side or height * scale
        sizes["psf_x"] = side or width * scale
        sizes["galaxies.restored_y"], sizes["galaxies.restored_x"] = height * fine, width * fine
    return sizes, (rows, columns)
