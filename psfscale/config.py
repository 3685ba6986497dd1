"""The configuration of a run: one YAML file, overridable key by key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from psfscale.arrays import ObjectFlag
from psfscale.yamlfile import read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StarLimits(_Part):
    """Which stars of the survey store take part."""

    leave_out: tuple[Literal["EDGE", "MASKED", "CATALOGUE", "SATURATED"], ...] = Field(
        default=("SATURATED", "EDGE"),
        description="flags of the survey store whose stars are neither fitted nor measured",
    )

    @property
    def mask(self) -> int:
        """The flags as bits."""
        return int(sum({int(ObjectFlag[name]) for name in self.leave_out}))


class ModelChoice(_Part):
    """Which PSF model is fitted, and its own settings."""

    name: Literal["rca", "sprite", "wavediff"] = Field(
        default="rca", description="name in psfscale.models"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of the model; what is left out follows the survey, then defaults",
    )
    per: Literal["ccd", "exposure"] | None = Field(
        default=None,
        description="one field a CCD, or one over all CCDs of an exposure; unset: wavediff an "
        "exposure, the others a CCD",
    )


class PsfProducts(_Part):
    """The PSFs written at galaxies."""

    at_galaxies: bool = Field(default=True, description="draw the PSF at every galaxy")
    oversampling: int = Field(default=1, ge=1, le=100, description="PSF pixels per CCD pixel")
    size: int | None = Field(
        default=None,
        ge=5,
        le=10_000,
        description="side of the PSF stamp [PSF pixel]; as the galaxy's if unset",
    )


class RestoredGalaxies(_Part):
    """The galaxies written without their PSFs."""

    at_galaxies: bool = Field(default=False, description="restore every galaxy")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of `psfscale.deconvolve`; what is left out is its default",
    )
    learn_exposures: int = Field(
        default=8,
        ge=0,
        description="mode learnt: the first exposures with galaxies, which teach the prior of all, "
        "by n_learn galaxies each; 0 = every CCD learns its own",
    )
    prior: Path | None = Field(
        default=None,
        description="mode learnt: a run store whose learnt prior is taken, or a .npz file of one; "
        "unset = learn",
    )


class Checks(_Part):
    """What a fitted PSF must pass before it is released."""

    grid: int = Field(default=5, ge=2, description="points along each side of the CCD")


def _limit(default: float, description: str, **bounds: Any) -> Any:
    text = f"{description}; null = not checked"
    return Field(default=default, description=text, **bounds)


class Quality(_Part):
    """Limits beyond which a fit that ended is DOUBTFUL, and what then becomes of it.

    Where each default comes from stands in ``docs/quality.md``.
    """

    on_doubt: Literal["mark", "fail", "fall_back"] = Field(
        default="mark",
        description="mark: DOUBTFUL, used as if done; fail: quarantined; fall_back: fitted anew "
        "with a lower degree, then as a mean star, where a simpler field may help, else marked",
    )
    exit_code: Literal[0, 3] = Field(
        default=0, description="of a run without failures that ends with DOUBTFUL CCDs"
    )
    mean_star_excess: float | None = _limit(
        0.1,
        "pixel error on reserved stars over that of the mean star, less 1, where the stars agree "
        "that the mean star is better",
        ge=0,
    )
    fewest_stars: int = Field(
        default=5,
        ge=5,
        description="reserved stars of a CCD below which those of the exposure are pooled for "
        "`mean_star_excess`; fewer than five cannot agree beyond chance",
    )
    clipped_fraction: float | None = _limit(
        0.5, "share of the stars clipped by the fit", ge=0, le=1
    )
    chi2_maximum: float | None = _limit(10, "median reduced chi² of the fitted stars", gt=0)
    chi2_minimum: float | None = _limit(0.2, "the same, from below", ge=0)
    starless_fraction: float | None = _limit(
        0.5, "share of stamps without a star in their centre", ge=0, le=1
    )
    starless_snr: float = Field(
        default=2.0, gt=0, description="signal to noise of the central pixels that make a star"
    )
    sky: float | None = _limit(
        0.5, "level of the stamps' border whatever the stars' flux [its noise]", gt=0
    )
    weight_factor: float | None = _limit(
        4, "variance of the stamps' borders over that of the weights, or the inverse", gt=1
    )
    position_offset: float | None = _limit(
        0.5, "median distance of the stars from their positions along an axis [pixel]", gt=0
    )
    outside_fraction: float | None = _limit(
        0.2, "share of the catalogue's objects outside the CCD", ge=0, le=1
    )
    phases: bool = Field(
        default=True, description="check that the stars' sub-pixel phases carry the upsampling"
    )


class Metrics(_Part):
    """How the model's own shape is measured."""

    grid: int = Field(
        default=5, ge=1, description="points along each side of the CCD to average over"
    )


class Limits(_Part):
    """When a run gives up."""

    failed_fraction: float = Field(
        default=0.5, ge=0, le=1, description="stop when more of the finished CCDs than this failed"
    )
    failed_minimum: int = Field(default=10, ge=1, description="and at least so many CCDs failed")
    unit_timeout: float = Field(default=3600, gt=0, description="longest a unit may take [s]")


class RunConfig(_Part):
    """All that determines a run."""

    survey: Path = Field(description="survey store to read")
    instrument: Path | None = Field(
        default=None,
        description="survey file (catalogs/*.yaml) of the instrument; unset: the survey store's "
        "own, which a file must not contradict",
    )
    output: Path = Field(description="run store to write or resume")
    model: ModelChoice | None = Field(
        default=None, description="the PSF model; rca if neither this nor `models` is given"
    )
    models: tuple[ModelChoice, ...] = Field(
        default=(), description="several PSF models, of which each CCD gets one"
    )
    choice: Literal["first", "reserved"] = Field(
        default="first",
        description="of several models, the first that could be fitted, or the one that agrees "
        "best with the reserved stars of the CCD",
    )
    stars: StarLimits = Field(default_factory=StarLimits)
    psf: PsfProducts = Field(default_factory=PsfProducts)
    restore: RestoredGalaxies = Field(default_factory=RestoredGalaxies)
    checks: Checks = Field(default_factory=Checks)
    quality: Quality = Field(default_factory=Quality)
    metrics: Metrics = Field(default_factory=Metrics)
    limits: Limits = Field(default_factory=Limits)
    resources: dict[str, dict[str, Annotated[float, Field(gt=0)]]] = Field(
        default_factory=dict,
        description="what a stage demands of its workers, such as {fit: {GPU: 1}}; refused where "
        "the cluster has none",
    )

    @model_validator(mode="after")
    def _models_are_clear(self) -> Self:
        if self.model is not None and self.models:
            msg = "give model or models, not both"
            raise ValueError(msg)
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            msg = f"a model comes once in a run, models has {', '.join(names)}"
            raise ValueError(msg)
        return self

    @property
    def fitted(self) -> tuple[ModelChoice, ...]:
        """The PSF models of the run, in the order of preference."""
        return self.models or (self.model or ModelChoice(),)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file.

    Relative paths in the file are relative to its folder, those in `overrides` to the
    working directory.

    Parameters
    ----------
    path : YAML file
    overrides : ``key.sub=value`` items that replace values of the file

    Raises
    ------
    ConfigError
        The file is missing or not YAML, a key is unknown, missing or of the wrong type.
    """
    config = read_yaml(path, RunConfig, overrides=[_from_here(item) for item in overrides])
    base = path.resolve().parent
    given = {key: getattr(config, key) for key in _PATHS}
    found = {key: path if path is None else base / path for key, path in given.items()}
    if config.restore.prior is not None:
        prior = base / config.restore.prior
        found |= {"restore": config.restore.model_copy(update={"prior": prior})}
    return config.model_copy(update=found)


_PATHS = ("survey", "instrument", "output")


def _from_here(override: str) -> str:
    key, equals, value = override.partition("=")
    is_path = key in (*_PATHS, "restore.prior") and value not in ("", "null")
    return f"{key}={Path(value).resolve()}" if equals and is_path else override


def fingerprint(*parts: object) -> str:
    """Hexadecimal BLAKE2b digest (128 bits) of JSON-able parts; equal parts, equal digest."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
