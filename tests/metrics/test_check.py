from __future__ import annotations

import numpy as np
import pytest
from gaussian_field import GaussianField

from psfscale.arrays import FieldPoints, PixelGrid
from psfscale.errors import PsfCheckError
from psfscale.metrics import PsfField, check_psf

SCALE = 0.2
FWHM = 1.8 * SCALE * np.sqrt(8 * np.log(2))


def check(model: PsfField, fwhm_range: tuple[float, float] = (0.5, 1.5)) -> None:
    check_psf(model, columns=1000, rows=800, grid=3, pixel_scale=SCALE, fwhm_range=fwhm_range)


def test_check_psf__passes_a_sound_field() -> None:
    check(GaussianField(e1_slope=0.3))


def test_check_psf__size_is_the_fwhm_in_arcsec() -> None:
    check(GaussianField(), (FWHM * 0.999, FWHM * 1.001))
    with pytest.raises(PsfCheckError, match=rf"FWHM {FWHM:.3f} arcsec.*9 of 9"):
        check(GaussianField(), (FWHM * 1.001, 1.5))
    with pytest.raises(PsfCheckError, match="FWHM"):
        check(GaussianField(), (0.1, FWHM * 0.999))


class Spoilt(GaussianField):
    """Broken in the lower right of the CCD alone."""

    def predict(self, at: FieldPoints, grid: PixelGrid) -> np.ndarray:
        drawn = super().predict(at, grid)
        drawn[(at.x > 700) & (at.y < 200)] = self.broken(drawn[0])
        return drawn

    def broken(self, psf: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class NotFinite(Spoilt):
    def broken(self, psf: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(psf))[:, None] == 3, np.nan, psf)


class NoFlux(Spoilt):
    def broken(self, psf: np.ndarray) -> np.ndarray:
        return -psf


class OffCentre(Spoilt):
    def broken(self, psf: np.ndarray) -> np.ndarray:
        return np.roll(psf, 15, axis=1)


class Negative(Spoilt):
    def broken(self, psf: np.ndarray) -> np.ndarray:
        return psf - 0.4 * np.roll(psf, 30, axis=0)


class Spike(Spoilt):
    def broken(self, psf: np.ndarray) -> np.ndarray:
        spike = np.zeros_like(psf)
        spike[len(psf) // 2, len(psf) // 2] = 1.0
        return spike


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (NotFinite(), "not finite"),
        (NoFlux(), "has flux -1"),
        (OffCentre(), "peak 5.0 pixels from its centre"),
        (Negative(), "0.40 of its positive flux in negative pixels"),
        (Spike(), "no measurable adaptive moments"),
    ],
)
def test_check_psf__names_the_check_and_the_place(model: Spoilt, says: str) -> None:
    with pytest.raises(PsfCheckError, match=rf"x=832\.8, y=132\.8 pixel .*{says}.*1 of 9"):
        check(model)
