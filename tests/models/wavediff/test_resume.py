from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from wave_scene import OPTICS, stars

from psfscale.models.wavediff.model import WaveDiff
from psfscale.models.wavediff.phases import COURSE
from psfscale.models.wavediff.result import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

SMALL = {"optics": OPTICS, "n_zernikes": 10, "degree": 1, "surfaces": True, "device": "cpu"}


class DeathError(Exception):
    """Stands for the death of the process."""


class Kept:
    """A checkpoint in memory, whose fit dies after a number of phases."""

    def __init__(self, *, dies_after: int) -> None:
        self.dies_after = dies_after
        self.n_saved = 0
        self.arrays: dict[str, np.ndarray] | None = None

    def load(self) -> dict[str, np.ndarray] | None:
        return self.arrays

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = {name: array.copy() for name, array in arrays.items()}
        self.n_saved += 1
        if self.n_saved == self.dies_after:
            raise DeathError


@pytest.fixture(scope="module")
def rough():
    """Stars whose fit walks through every phase, and that fit."""
    scene = stars(n=32, snr=600, shifts=0.3, rippled=True)
    model = WaveDiff(**SMALL)
    return scene, model, model.fit(scene)


@pytest.mark.parametrize("phase", [1, 2, 3, 5])
def test_fit__goes_on_to_the_same_bits_after_any_phase(rough, phase: int) -> None:
    scene, whole, report = rough
    assert len(whole.history) == len(COURSE)
    kept = Kept(dies_after=phase)
    dying = WaveDiff(**SMALL)
    dying.checkpoint = kept
    with pytest.raises(DeathError):
        dying.fit(scene)
    model = WaveDiff(**SMALL)
    model.checkpoint = kept
    again = model.fit(scene)
    assert kept.n_saved == len(COURSE)
    for name, array in whole.state().items():
        assert np.array_equal(model.state()[name], array), name
    assert np.array_equal(again.chi2, report.chi2)
    assert np.array_equal(again.flux, report.flux)
    assert [p.reduced_chi2 for p in model.history] == [p.reduced_chi2 for p in whole.history]


def test_fit__leaves_the_checkpoint_of_another_fit_alone() -> None:
    scene, plain = stars(n=12), {**SMALL, "surfaces": False}
    kept = Kept(dies_after=99)
    for chosen in (slice(0, 11), slice(0, 12)):
        model = WaveDiff(**plain)
        model.checkpoint, kept.n_saved = kept, 0
        model.fit(scene.select(np.arange(12)[chosen]))
        assert kept.n_saved == len(model.history) == 3
    alone = WaveDiff(**plain)
    alone.fit(scene)
    assert np.array_equal(model.state()["zernike"], alone.state()["zernike"])


DYING = """
import json, os, signal, sys
from psfscale.drop_in.models import fit_stack
from pathlib import Path

def observe(phase):
    if phase.done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

fit_stack("wavediff", Path(sys.argv[1]), Path(sys.argv[2]), settings=json.loads(sys.argv[3]),
          survey=Path(sys.argv[4]), observer=observe)
"""


def test_killed_command__goes_on_and_leaves_the_model_alone(tmp_path: Path) -> None:
    """The process is killed after its second phase; the next takes up from there."""
    from psfscale.drop_in.models import fit_stack
    from psfscale.store.saved_models import load_model

    scene = stars(n=12)
    stack, out = tmp_path / "stars.npz", tmp_path / "model.zarr"
    np.savez(
        stack,
        **{k: getattr(scene, k) for k in ("image", "weight", "x", "y", "sed", "wavelength")},
    )
    survey = Path(__file__).parents[3] / "catalogs/euclid_vis.yaml"
    settings = ["n_zernikes=10", "degree=1", "surfaces=false", "optics.pupil_samples=64"]
    command = [sys.executable, "-c", DYING, stack, out, json.dumps(settings), survey]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(c) for c in command], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {
        "stars.npz",
        "model.zarr.checkpoint.npz",
    }
    told = []
    fit_stack("wavediff", stack, out, settings=settings, survey=survey, observer=told.append)
    told = [event for event in told if isinstance(event, Phase)]
    assert {path.name for path in tmp_path.iterdir()} == {"stars.npz", "model.zarr"}
    assert [phase.done for phase in told] == [1, 2, 3]
    fit_stack("wavediff", stack, tmp_path / "new.zarr", settings=settings, survey=survey)
    whole, resumed = load_model(tmp_path / "new.zarr").state(), load_model(out).state()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
