"""Fit and predict on plain arrays: what ``psfscale fit`` and ``predict`` do without a survey."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from psfscale.arrayfile import read_array
from psfscale.arrays import PixelGrid
from psfscale.errors import ConfigError, FitError, InputError
from psfscale.files import named, require_apart
from psfscale.models import CHROMATIC, SETTINGS, load_model_class
from psfscale.models.fitted import resolve_settings
from psfscale.models.judged import explained
from psfscale.npzfile import read_npz
from psfscale.store.checkpoint import CheckpointFile
from psfscale.store.groups import require_group_place
from psfscale.store.saved_models import (
    hull_of,
    load_model,
    require_model_place,
    run_specs,
    save_model,
)
from psfscale.store.stacks import PSF_FORMATS, PSF_KIND, read_points, read_stars, write_psfs
from psfscale.survey import load_survey
from psfscale.survey.hull import hull_corners, outside_hull
from psfscale.yamlfile import replace_values

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
    overwrite: bool = False,
    observer: Callable[[Any], None] | None = None,
) -> FitReport:
    """Fit model `name` to a star stack and save it.

    A model that can go on after a kill keeps what it has done beside `output`, until it ends.

    Parameters
    ----------
    name : of the model
    stars : npz, see `psfscale.store.stacks`
    output : store to write
    settings : ``key=value`` items of the model's settings; ``pupil=FILE`` (npy or FITS) replaces
        the survey's pupil, ``prior=FILE`` (npz) is a fixed wavefront, see
        `psfscale.models.wavediff.fixed`
    survey : survey file that supplies what `settings` leave out, where given
    overwrite : whether a model that lies at `output` is replaced
    observer : told of the phases of a fit, by models that tell

    Raises
    ------
    ConfigError, InputError, StoreError, FitError
        The settings, the stack or the output are wrong, or the stars do not fix the model.
    """
    instrument = None if survey is None else load_survey(survey).instrument
    given = replace_values({}, settings)
    parts = {**_pupil(name, given), **_prior(name, given)}
    chosen = resolve_settings(name, given, instrument)
    require_model_place(output, overwrite=overwrite)
    batch = read_stars(stars)
    model: Any = load_model_class(name)(chosen, **parts)  # type: ignore[call-arg]
    if hasattr(model, "observer"):
        model.observer = observer
    checkpoint = CheckpointFile(output.with_name(f"{output.name}.checkpoint.npz"))
    if hasattr(model, "checkpoint"):
        model.checkpoint = checkpoint
    try:
        report: FitReport = model.fit(batch)
    except FitError as error:
        raise explained(error, batch) from error
    places = np.column_stack([batch.x, batch.y])[report.used]
    save_model(model, output, hull=hull_corners(places), overwrite=overwrite)
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
        return {"prior": FixedWavefront(**read_npz(path))}
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
    overwrite: bool = False,
) -> Drawn:
    """Draw a saved model's PSFs at the points of an npz.

    Parameters
    ----------
    path : of the model
    at : npz, see `psfscale.store.stacks`
    output : file to write, whose ending is its format
    overwrite : whether what lies at `output` is replaced

    Raises
    ------
    InputError, StoreError
        The model, the points or the output are wrong.
    """
    require_apart(output, (path, at))
    _require_psf_place(output, overwrite=overwrite)
    model = load_model(path)
    points = read_points(at)
    side = size if size is not None else model.stamp_shape[0] * oversampling
    grid = PixelGrid(shape=(side, side), oversampling=oversampling, pixel=pixel, centre=centre)
    psf = model.predict(points, grid)
    hull = hull_of(path)
    beyond = np.ones(len(points), bool) if hull is None else outside_hull(hull, points.x, points.y)
    with named(output):
        write_psfs(output, psf, at=points, extrapolated=beyond)
    return Drawn(n=len(points), n_extrapolated=int(beyond.sum()), hull_known=hull is not None)


def _require_psf_place(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that PSFs cannot be written to, before they are drawn."""
    if output.suffix not in PSF_FORMATS:
        msg = (
            f"the ending of {output} is none of {', '.join(PSF_FORMATS)}: PSFs are written in "
            "the format of the ending"
        )
        raise InputError(msg)
    require_group_place(output, kind=PSF_KIND, overwrite=overwrite)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What `predict_stack` drew.

    Attributes
    ----------
    n : PSFs
    n_extrapolated : of them, beyond the stars that the model was fitted to
    hull_known : whether the model says where its stars lay; all count as extrapolated where not
    """

    n: int
    n_extrapolated: int
    hull_known: bool


def model_schema() -> Iterable[ArraySpec]:
    """Stored arrays of every model at its default settings."""
    for name, settings in SETTINGS.items():
        arrays = load_model_class(name).state_arrays(settings(), (32, 32))
        yield from run_specs(name, arrays, of_exposure=name in CHROMATIC)
