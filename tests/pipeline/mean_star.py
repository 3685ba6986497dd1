"""The smallest PSF model: the mean star of the CCD, everywhere."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from psfscale.errors import FitError
from psfscale.models.base import FitReport, StateArray


class MeanStarSettings(BaseModel):
    """Its settings, and the faults that tests ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_copies: int = 1
    min_stars: int = 3
    sleep: float = 0.0
    meet: str = ""
    """Folder: the first fits wait here until two processes fit at the same time."""
    upsampling: int = 1
    band_limit: float | None = None
    kill_below_flux: float = -1e30
    poison_file: str = ""
    hang_below_flux: float = -1e30
    hog_below_flux: float = -1e30


class MeanStar:
    """Normalised mean of the stamps; knows no sub-pixel shift."""

    name = "rca"

    def __init__(self, settings: MeanStarSettings) -> None:
        self.settings = settings
        self.mean = np.zeros((1, 1), np.float32)

    @classmethod
    def state_arrays(cls, settings, stamp_shape):
        shape = (settings.n_copies, *stamp_shape)
        return (
            StateArray(
                name="mean",
                dims=("copy", "psf_y", "psf_x"),
                shape=shape,
                dtype="f4",
                units="1",
                long_name="mean star",
            ),
        )

    @property
    def stamp_shape(self):
        return self.mean.shape

    def fit(self, stars):
        if len(stars) < self.settings.min_stars:
            msg = f"{len(stars)} stars, at least {self.settings.min_stars} are needed"
            raise FitError(msg)
        time.sleep(self.settings.sleep)
        self._meet()
        self._poison(stars)
        flux = stars.image.sum(axis=(1, 2))
        self.mean = (stars.image / flux[:, None, None]).mean(axis=0).astype(np.float32)
        self.mean /= self.mean.sum()
        n = len(stars)
        return FitReport(
            used=np.ones(n, bool),
            flux=flux,
            shift_x=np.zeros(n),
            shift_y=np.zeros(n),
            flux_error=np.full(n, np.nan),
            shift_x_error=np.full(n, np.nan),
            shift_y_error=np.full(n, np.nan),
            chi2=np.ones(n),
            reduced_chi2=1.0,
            n_iterations=1,
            converged=True,
        )

    def _meet(self):
        if not self.settings.meet:
            return
        place, end = Path(self.settings.meet), time.monotonic() + 150
        place.mkdir(exist_ok=True)
        (place / str(os.getpid())).touch()
        while len(list(place.iterdir())) < 2:
            if time.monotonic() > end:
                msg = "no other process came to fit"
                raise FitError(msg)
            time.sleep(0.02)

    def _poison(self, stars):
        """Hang, or kill the process, where the first star is fainter than asked for."""
        if stars.image[0].sum() < self.settings.hang_below_flux:
            time.sleep(600)
        if stars.image[0].sum() < self.settings.hog_below_flux:
            hoard = []
            while len(hoard) < 100:
                hoard.append(np.ones(2**24))
                time.sleep(0.05)
        if stars.image[0].sum() < self.settings.kill_below_flux:
            if self.settings.poison_file:
                with Path(self.settings.poison_file).open("a") as file:
                    file.write("killed\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def predict(self, at, grid):
        mean = np.kron(self.mean, np.ones((grid.oversampling,) * 2)) / grid.oversampling**2
        out = np.zeros((len(at), *grid.shape), np.float32)
        height, width = (min(a, b) for a, b in zip(mean.shape, grid.shape, strict=True))
        y0, x0 = ((n // 2 - m // 2) for n, m in zip(grid.shape, (height, width), strict=True))
        my, mx = ((n // 2 - m // 2) for n, m in zip(mean.shape, (height, width), strict=True))
        out[:, y0 : y0 + height, x0 : x0 + width] = mean[my : my + height, mx : mx + width]
        return out / out.sum(axis=(1, 2), keepdims=True)

    def state(self):
        return {"mean": np.repeat(self.mean[None], self.settings.n_copies, axis=0)}

    @classmethod
    def from_state(cls, state, settings):
        model = cls(settings)
        model.mean = np.array(state["mean"][0])
        return model
