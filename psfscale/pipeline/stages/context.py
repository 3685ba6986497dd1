"""All that the units of a run share: configuration, instrument, model settings, shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from psfscale.arrays import PixelGrid, stack_shape
from psfscale.config import RunConfig
from psfscale.deconvolve.learnt.settings import N_SUMS
from psfscale.deconvolve.settings import DeconvolutionSettings
from psfscale.errors import ConfigError, StoreError
from psfscale.models import CHROMATIC, load_model_class, settings_class
from psfscale.models.wavediff.settings import OpticsSettings
from psfscale.pipeline.stages.given import numbers_of, read_prior
from psfscale.pipeline.storage import array_of, values_of
from psfscale.store.layout import attributes_of, n_exposures_of, open_root
from psfscale.store.schema import MODEL_CODES
from psfscale.store.survey_instrument import stored_instrument
from psfscale.survey import Instrument, load_survey
from psfscale.survey.agreement import require_filters, require_same
from psfscale.survey.quantity import WITH_SOURCES
from psfscale.yamlfile import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import zarr
    from pydantic import BaseModel

    from psfscale.config import ModelChoice
    from psfscale.models.base import Checkpoint, PsfModel, StateArray
    from psfscale.pipeline.stages.given import Numbers

LAYOUT = 2
"""Of run stores."""
PACKAGES = ("psfscale", "torch", "numpy", "scipy", "zarr", "xarray", "dask", "distributed")


def resolve_settings(name: str, given: dict[str, Any], instrument: Instrument | None) -> BaseModel:
    """Settings of a model with nothing left open.

    What is not given follows the instrument where it says something (``upsampling``,
    ``optics`` key by key, and ``band_limit`` where the model's grid does not already cut below
    it), else the defaults.

    Raises
    ------
    ConfigError
        There is no such model, or no such setting, or a value is wrong.
    """
    kind = settings_class(name)
    if instrument is not None and "optics" in kind.model_fields:
        telescope = OpticsSettings.of(instrument).model_dump()
        given = {**given, "optics": {**telescope, **(given.get("optics") or {})}}
    settings = validate(given, kind, name=f"settings of model {name!r}")
    if instrument is None:
        return settings
    open_keys = set(kind.model_fields) - settings.model_fields_set
    if "upsampling" in open_keys:
        given = {**given, "upsampling": instrument.psf.upsampling}
        settings = validate(given, kind, name=f"settings of model {name!r}")
    finest = getattr(settings, "fine_upsampling", getattr(settings, "upsampling", 1))
    band_limit = instrument.band_limit
    if "band_limit" in open_keys and band_limit is not None and band_limit < finest / 2:
        given = {**given, "band_limit": band_limit}
    return validate(given, kind, name=f"settings of model {name!r}")


@dataclass(frozen=True, kw_only=True)
class FittedModel:
    """A PSF model that a run fits.

    Attributes
    ----------
    name : in `psfscale.models`
    settings : frozen, nothing left open
    per : what one field of it covers
    """

    name: str
    settings: BaseModel
    per: Literal["ccd", "exposure"]

    @classmethod
    def of(cls, choice: ModelChoice, instrument: Instrument) -> Self:
        """A model of a run file, its settings settled."""
        usual: Literal["ccd", "exposure"] = "exposure" if choice.name in CHROMATIC else "ccd"
        settings = resolve_settings(choice.name, choice.settings, instrument)
        return cls(name=choice.name, settings=settings, per=choice.per or usual)

    @property
    def kind(self) -> type[PsfModel]:
        """Its class; the first use imports its room."""
        return load_model_class(self.name)

    @property
    def chromatic(self) -> bool:
        """Whether its PSFs hang on spectra."""
        return self.name in CHROMATIC

    @property
    def of_exposure(self) -> bool:
        """Whether one field of it covers all CCDs of an exposure."""
        return self.per == "exposure"

    def state_arrays(self, stamp_shape: tuple[int, int]) -> tuple[StateArray, ...]:
        """The arrays of its state, for star stamps (y, x)."""
        return tuple(self.kind.state_arrays(self.settings, stamp_shape))

    def simpler(self) -> tuple[tuple[str, BaseModel], ...]:
        """Return settings of simpler fields that may stand in for it, each with a name."""
        ladder: Any = getattr(self.settings, "simpler", tuple)
        return () if self.of_exposure else tuple(ladder())

    def build(self, device: str) -> PsfModel:
        """A field to be fitted, on `device` where its settings leave that open."""
        return self.kind(self._on(device))  # type: ignore[call-arg]

    def restore(self, state: Mapping[str, np.ndarray], device: str) -> PsfModel:
        """The field of a state, on `device` where its settings leave that open."""
        return self.kind.from_state(state, self._on(device))

    def _on(self, device: str) -> BaseModel:
        if getattr(self.settings, "device", None) != "auto":
            return self.settings
        return self.settings.model_copy(update={"device": device})


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What every stage may ask for; the same in the driver, on a worker and in a notebook.

    Attributes
    ----------
    config : of the run
    instrument : of the survey
    models : PSF models of the run, in the order of preference
    restore_settings : frozen settings of the restoration, nothing left open
    sizes : length of every dim of the run store; ``group.dim`` comes before ``dim``
    stamp_shape : (y, x) [pixel] of the star stamps
    has_galaxies : whether the survey store holds galaxies
    has_spectra : whether it holds spectra
    has_jacobians : whether it holds Jacobians of the sky, as stores do since schema version 2
    checkpoint : where a long fit keeps itself between two phases, if anywhere
    device : where to compute what leaves it open
    given_prior : what galaxies look like, where the run does not learn that
    """

    config: RunConfig
    instrument: Instrument
    models: tuple[FittedModel, ...]
    restore_settings: DeconvolutionSettings
    sizes: dict[str, int]
    stamp_shape: tuple[int, int]
    has_galaxies: bool
    has_spectra: bool = False
    has_jacobians: bool = False
    checkpoint: Checkpoint | None = None
    device: str = "auto"
    given_prior: Numbers | None = None

    @property
    def run(self) -> Path:
        """Path of the run store."""
        return self.config.output

    def model_of_code(self, code: int) -> FittedModel:
        """The model that ``ccds/model`` says stands for a CCD."""
        return next(model for model in self.models if MODEL_CODES[model.name] == code)

    @property
    def chromatic(self) -> bool:
        """Whether a model of the run is to be told spectra that the survey store holds."""
        return self.has_spectra and any(model.chromatic for model in self.models)

    @property
    def psf_grid(self) -> PixelGrid:
        """The stamp on which PSFs at galaxies are drawn."""
        shape = self.sizes["psf_y"], self.sizes["psf_x"]
        return PixelGrid(shape=shape, oversampling=self.config.psf.oversampling)

    @property
    def wants_galaxy_psfs(self) -> bool:
        """Whether the run draws PSFs at galaxies."""
        return self.has_galaxies and self.config.psf.at_galaxies

    @property
    def wants_restoration(self) -> bool:
        """Whether the run restores galaxies."""
        return self.has_galaxies and self.config.restore.at_galaxies

    @property
    def wants_prior(self) -> bool:
        """Whether restored galaxies share a prior that some exposures teach."""
        learnt = self.restore_settings.mode == "learnt"
        own = self.given_prior is None and self.config.restore.learn_exposures > 0
        return self.wants_restoration and learnt and own

    @property
    def restored_grid(self) -> PixelGrid:
        """The grid of restored galaxies and of the PSFs they are restored with."""
        shape = self.sizes["galaxies.restored_y"], self.sizes["galaxies.restored_x"]
        return PixelGrid(shape=shape, oversampling=_fine(self.restore_settings))

    @classmethod
    def build(
        cls,
        config: RunConfig,
        instrument: Instrument | None = None,
        given_prior: Numbers | None = None,
    ) -> Self:
        """Read the survey store and settle every setting.

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
        if instrument is None:
            instrument = _instrument(root, config)
        restoration = validate(
            config.restore.settings, DeconvolutionSettings, name="settings of the restoration"
        )
        sizes, stamp_shape = _sizes(root, config, _fine(restoration))
        return cls(
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

    def attributes(self) -> dict[str, Any]:
        """What the run store says of itself: enough to build this context again."""
        return {
            "kind": "run",
            "layout": LAYOUT,
            "config": self.config.model_dump(mode="json"),
            "instrument": self.instrument.model_dump(mode="json", context=WITH_SOURCES),
            "model_settings": {m.name: m.settings.model_dump(mode="json") for m in self.models},
            "given_prior": self.given_prior,
            "versions": versions(),
        }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    return {"python": python_version(), **{name: version(name) for name in PACKAGES}}


def read_context(run: Path) -> RunContext:
    """The context of the latest driver of a run store.

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
    return RunContext.build(config, instrument, cast("Numbers", attributes.get("given_prior")))


def require_run(root: zarr.Group, run: Path) -> None:
    """That this is a run's store, of today's layout.

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
    """The instrument of a survey store, or of the file that a run names, if they agree."""
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


def _given_prior(config: RunConfig, settings: DeconvolutionSettings) -> Numbers | None:
    path = config.restore.prior
    if path is None or not config.restore.at_galaxies:
        return None
    if settings.mode != "learnt":
        msg = f"restore.prior is for mode learnt, not {settings.mode}: leave it out"
        raise ConfigError(msg)
    if path.resolve() == config.output.resolve():
        msg = f"restore.prior names this run's own output, {path}: leave it out, or take another"
        raise ConfigError(msg)
    return numbers_of(read_prior(path))


def _fine(settings: DeconvolutionSettings) -> int:
    """Pixels of a restored galaxy per CCD pixel, along an axis."""
    return settings.learnt.oversampling if settings.mode == "learnt" else 1


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
