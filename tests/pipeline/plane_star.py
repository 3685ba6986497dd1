"""A cheap field over a focal plane: a Gaussian that grows along x and with the wavelength."""

from __future__ import annotations

import os
import signal

import numpy as np
from mean_star import MeanStar, MeanStarSettings

from psfscale.models.base import StateArray


class PlaneStarSettings(MeanStarSettings):
    """Its settings; it is killed once, after its first phase, where that is asked for."""

    kill_once: str = ""
    device: str = "auto"
    note: str = ""


class PlaneStar(MeanStar):
    """Knows where its stars lay, how red they were, and on which device it was fitted."""

    name = "wavediff"

    def __init__(self, settings):
        super().__init__(settings)
        self.checkpoint = None
        self.told = np.zeros(4)

    @classmethod
    def state_arrays(cls, settings, stamp_shape):
        (mean,) = super().state_arrays(settings, stamp_shape)
        told = StateArray(
            name="told", dims=("what",), shape=(4,), dtype="f8", units="1", long_name="see `fit`"
        )
        return mean, told

    def _note(self, what):
        """Tell a file on which device this is done."""
        if self.settings.note:
            with open(self.settings.note, "a") as file:  # noqa: PTH123
                file.write(f"{what} {self.settings.device} {os.getpid()}\n")

    def fit(self, stars):
        self._note("fit")
        report = super().fit(stars)
        phases = 0
        if self.checkpoint is not None:
            phases = int((self.checkpoint.load() or {"phases": 0})["phases"])
            self.checkpoint.save({"phases": np.array(phases + 1)})
        if self.settings.kill_once and not phases:
            os.kill(os.getpid(), signal.SIGKILL)
        red = 0.0 if stars.sed is None else float((stars.sed @ stars.wavelength).mean())
        self.told = np.array([stars.x.min(), stars.x.max(), red, phases])
        return report

    def predict(self, at, grid):
        y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in grid.shape), indexing="ij")
        red = 0.0 if at.sed is None else at.sed @ at.wavelength
        width = np.atleast_1d(1 + 1e-3 * at.x + red)
        fine = grid.oversampling
        psf = np.exp(-(x**2 + y**2) / (2 * (fine * width[:, None, None]) ** 2))
        return (psf / psf.sum((1, 2), keepdims=True)).astype(np.float32)

    def state(self):
        return {**super().state(), "told": self.told}

    @classmethod
    def from_state(cls, state, settings):
        model = cls(settings)
        model._note("draw")
        model.mean, model.told = np.array(state["mean"][0]), np.array(state["told"])
        return model
