"""The course of a WaveDiff fit: named phases, from each of which a killed fit can go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from psfscale.models.wavediff.result import Phase, Step, Trained
from psfscale.models.wavediff.snapshot import fingerprint, restore, snapshot
from psfscale.models.wavediff.train import STILL, Training

if TYPE_CHECKING:
    from collections.abc import Callable

    from psfscale.arrays import StarBatch
    from psfscale.models.base import Checkpoint
    from psfscale.models.wavediff.fixed import FixedWavefront
    from psfscale.models.wavediff.optics import LightPath
    from psfscale.models.wavediff.settings import OpticsSettings, WaveDiffSettings

__all__ = ["COURSE", "train"]

COARSE_STEPS, SETTLING_STEPS = 6, 1
COARSE_STARS = 400
"""Stars that hold the field well enough for its first steps; the brightest."""


def _search(training: Training) -> None:
    training.free_jitter()
    training.search()


def _coarse_optics(training: Training) -> None:
    training.refine(COARSE_STEPS, brightest=COARSE_STARS)
    if training.nuisances.own and len(training.refined) < int(training.used.sum()):
        training.refine(SETTLING_STEPS)  # the other stars' own centres


def _full_optics(training: Training) -> None:
    training.settle_jitter()
    training.correct()
    training.settle()
    training.clip()
    training.polish()


def _judge_surfaces(training: Training) -> None:
    training.try_surfaces()


def _with_surfaces(training: Training) -> None:
    training.fit_surfaces()
    training.polish()


COURSE: tuple[tuple[str, Callable[[Training], None]], ...] = (
    ("search", _search),
    ("coarse optics", _coarse_optics),
    ("full optics", _full_optics),
    ("surfaces judged", _judge_surfaces),
    ("surfaces", _with_surfaces),
)
"""The phases of a fit; it ends early where surfaces are not wanted, or not found."""
WITHOUT_SURFACES, JUDGED = 3, 4
"""Phases of a fit whose settings have no surfaces, and of one whose stars do not gain by them."""


def _length(training: Training, done: int) -> int:
    """Phases of this fit, as far as is known after `done` of them."""
    if training.settings.surfaces is False:
        return WITHOUT_SURFACES
    without = done >= JUDGED and training.wavefronts.surface is None
    return JUDGED if without else len(COURSE)


def train(
    stars: StarBatch,
    settings: WaveDiffSettings,
    *,
    optics: OpticsSettings,
    path: LightPath,
    observe: Callable[[Phase | Step], None],
    checkpoint: Checkpoint | None = None,
    fixed: FixedWavefront | None = None,
) -> Trained:
    """Fit a wavefront field to stars.

    Parameters
    ----------
    observe : told of every step, and of every phase as it ends, those before a resumed one too
    checkpoint : given the fit after every phase, and asked for it at the beginning
    fixed : wavefront that the field is added to

    Raises
    ------
    FitError
        Too few stars with signal.
    """
    training = Training(stars, settings, optics=optics, path=path, fixed=fixed)
    told: list[Phase] = []
    own = fingerprint(stars, settings, path, fixed)
    if checkpoint is not None:
        told = restore(training, checkpoint.load(), own)
    for phase in told:
        observe(phase)
    while (done := len(told)) < _length(training, done):
        told.append(_walked(training, done, observe))
        if checkpoint is not None:
            checkpoint.save(snapshot(training, told, own))
        observe(told[-1])
    return _trained(training)


def _walked(training: Training, done: int, observe: Callable[[Step], None]) -> Phase:
    """Go through the phase after `done` of them."""
    name, run = COURSE[done]
    total, steps, start = _length(training, done), [], time.perf_counter()

    def tell(chi2: float) -> None:
        seconds = time.perf_counter() - start
        steps.append((chi2, seconds))
        n = len(steps)
        observe(Step(name=name, step=n, done=done, total=total, reduced_chi2=chi2, seconds=seconds))

    training.tell = tell
    run(training)
    return Phase(
        name=name,
        done=done + 1,
        total=_length(training, done + 1),
        reduced_chi2=training.reduced_chi2,
        seconds=time.perf_counter() - start,
        steps=tuple(steps),
    )


def _trained(training: Training) -> Trained:
    light = training.light()
    return Trained(
        wavefronts=training.smoothed(),
        positions=training.positions,
        surface=training.wavefronts.surface,
        light=light,
        nuisances=training.nuisances,
        used=training.used,
        chi2=training.pixels.chi2(light.of(training.stamp)),
        n_pixels=(training.pixels.weight > 0).sum((1, 2)),
        stamp=training.stamp,
        n_steps=training.found.n_steps,
        converged=training.found.converged and training.moved < STILL,
    )
