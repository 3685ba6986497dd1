"""Fit and predict on plain arrays: what ``psfscale fit`` and ``predict`` do without a survey."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psfscale.arrayfile import read_array
from psfscale.arrays import PixelGrid
from psfscale.errors import ConfigError, InputError, StoreError
from psfscale.models import CHROMATIC, SETTINGS, load_model_class
from psfscale.pipeline.stages.context import resolve_settings
from psfscale.store.checkpoint import CheckpointFile
from psfscale.store.models import load_model, run_specs, save_model
from psfscale.store.stacks import read_arrays, read_points, read_stars, write_psfs
from psfscale.survey import load_survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from psfscale.models.base import FitReport
    from psfscale.store.schema import ArraySpec


def fit_stack(
    name: str,
    stars: Path,
    output: Path,
    *,
    settings: Sequence[str],
    survey: Path | None,
    observer: Callable[[Any], None] | None = None,
) -> FitReport:
    """Fit model `name` to a star stack and save it.

    A model that can go on after a kill keeps what it has done beside `output`, until it ends.

    Parameters
    ----------
    name : of the model
    stars : npz, see `psfscale.store.stacks`
    output : store to write; must not exist
    settings : ``key=value`` items of the model's settings; ``pupil=FILE`` (npy or FITS) replaces
        the survey's pupil, ``prior=FILE`` (npz) is a fixed wavefront, see
        `psfscale.models.wavediff.fixed`
    survey : survey file that supplies what `settings` leave out, where given
    observer : told of the phases of a fit, by models that tell

    Raises
    ------
    ConfigError, InputError, StoreError, FitError
        The settings, the stack or the output are wrong, or the stars do not fix the model.
    """
    instrument = None if survey is None else load_survey(survey).instrument
    given = _parse(settings)
    parts = {**_pupil(name, given), **_prior(name, given)}
    chosen = resolve_settings(name, given, instrument)
    batch = read_stars(stars)
    if output.exists():
        msg = f"{output} exists already; choose another path or remove it"
        raise StoreError(msg)
    model: Any = load_model_class(name)(chosen, **parts)  # type: ignore[call-arg]
    if hasattr(model, "observer"):
        model.observer = observer
    checkpoint = CheckpointFile(output.with_name(f"{output.name}.checkpoint.npz"))
    if hasattr(model, "checkpoint"):
        model.checkpoint = checkpoint
    report: FitReport = model.fit(batch)
    save_model(model, output)
    checkpoint.remove()
    return report


def _pupil(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The pupil that `given` names, taken out of it; its side becomes a setting."""
    if name != "wavediff" or "pupil" not in given:
        return {}
    pupil = read_array(str(given.pop("pupil")))
    if pupil.ndim != 2 or pupil.shape[0] != pupil.shape[1]:
        msg = f"the pupil has shape {pupil.shape}, expected a square image of its amplitude"
        raise ConfigError(msg)
    given["optics"] = {"pupil_samples": len(pupil), **given.get("optics", {})}
    return {"pupil": pupil}


def _prior(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The fixed wavefront that `given` names, taken out of it."""
    if name != "wavediff" or "prior" not in given:
        return {}
    from psfscale.models.wavediff.fixed import FixedWavefront

    path = Path(str(given.pop("prior")))
    try:
        return {"prior": FixedWavefront(**read_arrays(path))}
    except TypeError as error:
        msg = f"{path}: {error}; a fixed wavefront has coefficient, x_range, y_range, zernike, x, y"
        raise InputError(msg) from error


def predict_stack(
    path: Path,
    at: Path,
    output: Path,
    *,
    oversampling: int,
    size: int | None,
    pixel: Literal["native", "none"] = "native",
    centre: Literal["auto", "windowed", "axis"] = "auto",
) -> int:
    """Draw a saved model's PSFs at the points of an npz; returns how many."""
    model = load_model(path)
    points = read_points(at)
    side = size if size is not None else model.stamp_shape[0] * oversampling
    grid = PixelGrid(shape=(side, side), oversampling=oversampling, pixel=pixel, centre=centre)
    psf = model.predict(points, grid)
    write_psfs(output, psf.cpu().numpy(), at=points)
    return len(points)


def model_schema() -> Iterable[ArraySpec]:
    """Stored arrays of every model at its default settings."""
    for name, settings in SETTINGS.items():
        arrays = load_model_class(name).state_arrays(settings(), (32, 32))
        yield from run_specs(name, arrays, of_exposure=name in CHROMATIC)


def _parse(items: Sequence[str]) -> dict[str, Any]:
    bad = [item for item in items if "=" not in item]
    if bad:
        msg = f"expected setting=value, got {', '.join(bad)}"
        raise ConfigError(msg)
    try:
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(items)), resolve=True)
    except OmegaConfBaseException as error:
        msg = f"settings cannot be read: {error}"
        raise ConfigError(msg) from error
    return dict(parsed)
