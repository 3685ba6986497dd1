"""The light path of a telescope: cameras for any stamp, sampling and spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from psfscale.errors import ConfigError, InputError
from psfscale.kernels.optics.broadband import CACHE_BYTES, BroadbandPsf, working_set
from psfscale.kernels.optics.pupil import PupilShape, pupil_amplitude, pupil_axis
from psfscale.kernels.optics.zernike import zernikes
from psfscale.kernels.response import (
    binned_pixel,
    filter_taps,
    gaussian_blur,
    pixel_matrix,
    square_pixel,
)
from psfscale.models.wavediff.blur import SHARP, Blur

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from psfscale.kernels.response import Transfer
    from psfscale.models.wavediff.settings import OpticsSettings

__all__ = ["LightPath"]

SQUARE_REACH = 2.0
"""Pixels over which the filter of a square pixel extends from its middle."""
BLUR_REACH = 4.0
"""Widths σ over which the filter of a blur extends."""
SPARE_BAND = 1.02
"""Samples are finer than Nyquist by so much, and filters designed so far beyond the limit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LightPath:
    """Pupil and focal plane, in samples.

    Attributes
    ----------
    amplitude : (y, x) of the pupil
    axis : (sample,) places of its samples [radius of the aperture]
    step : OPD across a pupil sample, one CCD pixel from the axis [µm]
    shortest : wavelength of the passband [µm]
    band_limit : of images at that wavelength [cycle/CCD pixel]
    binned : point samples along a CCD pixel, or None for its integral
    normalised : how each wavelength is
    diffusion : σ of the charge in the detector [CCD pixel]
    batch_bytes : working set of a batch
    """

    amplitude: Float[Tensor, "y x"]
    axis: Float[np.ndarray, " sample"]
    step: float
    shortest: float
    band_limit: float
    binned: int | None
    normalised: Literal["stamp", "energy"]
    diffusion: float = 0.0
    batch_bytes: float = CACHE_BYTES

    @classmethod
    def of(cls, optics: OpticsSettings, amplitude: Float[np.ndarray, "y x"]) -> LightPath:
        """The light path through a pupil; samples span the aperture."""
        n = len(amplitude)
        reach = optics.aperture * optics.pixel_size / optics.focal_length
        return cls(
            amplitude=torch.from_numpy(np.array(amplitude, dtype=np.float32)),
            axis=pupil_axis(n, grid=optics.pupil_grid),
            step=reach / n,
            shortest=optics.minimum,
            band_limit=reach / optics.minimum,
            binned=optics.binned,
            normalised=optics.normalised,
            diffusion=optics.diffusion,
        )

    def to(self, device: torch.device) -> LightPath:
        """The same on a device."""
        return replace(self, amplitude=self.amplitude.to(device), batch_bytes=working_set(device))

    def coarser(self, n: int) -> LightPath:
        """The light path with `n` times fewer pupil samples a side, each a mean."""
        side = len(self.axis) // n
        return replace(
            self,
            amplitude=self.amplitude.reshape(side, n, side, n).mean((1, 3)).contiguous(),
            axis=self.axis.reshape(side, n).mean(1),
            step=self.step * n,
        )

    @property
    def widest(self) -> float:
        """Side of the field that the pupil's samples resolve [CCD pixel]."""
        return self.shortest / self.step

    def modes(self, n: int) -> Float[Tensor, "mode y x"]:
        """The first `n` Zernikes on the pupil's samples."""
        x, y = np.meshgrid(self.axis, self.axis)
        return torch.from_numpy(zernikes(n, x, y)).to(self.amplitude)

    def tilt(self, y: Float[Tensor, " object"], x: Float[Tensor, " object"]) -> Tensor:
        """OPD (object, y, x) [µm] that shifts images by (y, x) [CCD pixel]."""
        n = len(self.axis)
        i = torch.arange(n, dtype=torch.float64, device=y.device) - (n - 1) / 2
        out = self.step * (y[:, None, None] * i[:, None] + x[:, None, None] * i)
        return out.to(self.amplitude.dtype)

    def camera(
        self,
        wavelengths: Sequence[float],
        size: int,
        *,
        oversampling: int = 1,
        pixel: Literal["native", "none"] = "native",
        blur: Blur = SHARP,
    ) -> BroadbandPsf:
        """Draws square stamps.

        The axis lies on index ``size // 2``; but for pixels that are sums of point samples, on
        the first of the samples of that pixel, as in the published simulator.

        Parameters
        ----------
        wavelengths : [µm]
        size : side [stamp pixel]
        oversampling : stamp pixels per CCD pixel
        pixel : whether the CCD is in the PSF: its pixel, and the diffusion of its charge
        blur : by the telescope's jitter [CCD pixel]

        Raises
        ------
        InputError
            The stamp is wider than the pupil's samples resolve.
        """
        if size / oversampling > self.widest:
            msg = (
                f"a stamp of {size / oversampling:.0f} CCD pixels is wider than the "
                f"{self.widest:.0f} that {len(self.axis)} pupil samples resolve; draw a smaller "
                "one, or fit with more optics.pupil_samples"
            )
            raise InputError(msg)
        binned = self.binned if pixel == "native" else None
        samples = self._samples(oversampling, binned)
        diffusion = self.diffusion if pixel == "native" else 0.0
        taps = self._taps(samples, pixel, math.sqrt(blur.least + diffusion**2))
        taps = np.pad(taps, math.ceil(BLUR_REACH * blur.longest * samples))
        reach = len(taps) // 2
        stride = samples // oversampling
        axis = stride * (size // 2) + reach
        if binned and oversampling == 1:
            axis -= (binned - 1) * samples // (2 * binned)
        response = pixel_matrix(taps * samples, n_pixels=size, stride=stride)
        return BroadbandPsf(
            amplitude=self.amplitude,
            wavelengths=tuple(float(w) for w in wavelengths),
            path_step=self.step / samples,
            response=torch.from_numpy(response).to(self.amplitude),
            axis=float(axis),
            normalised=self.normalised,
            kernel=self._kernel(blur, samples, response.shape[1]),
            batch_bytes=self.batch_bytes,
        )

    def _kernel(self, blur: Blur, samples: int, n: int) -> Tensor | None:
        """What a blur has beyond a round one, on `n` samples a side."""
        if not blur.spread:
            return None
        fy, fx = np.fft.fftfreq(n, 1 / samples), np.fft.rfftfreq(n, 1 / samples)
        return torch.from_numpy(blur.beyond_round(fy, fx)).to(self.amplitude)

    def _samples(self, oversampling: int, binned: int | None) -> int:
        """Samples per CCD pixel: beyond Nyquist, and whole on both grids."""
        unit = oversampling
        if binned:
            unit = math.lcm(oversampling, binned if binned % 2 else 2 * binned)
        return unit * math.ceil(2 * SPARE_BAND * self.band_limit / unit)

    def _taps(self, samples: int, pixel: str, sigma: float) -> np.ndarray:
        reach = math.ceil(BLUR_REACH * sigma * samples)
        transfer: Transfer = _clear
        if pixel == "native" and self.binned:
            reach += (self.binned - 1) * samples // (2 * self.binned)
            transfer = binned_pixel(self.binned)
        elif pixel == "native":
            reach += math.ceil(SQUARE_REACH * samples)
            transfer = square_pixel
        gaussian = gaussian_blur(sigma)
        return filter_taps(
            lambda f: transfer(f) * gaussian(f),
            samples=samples,
            reach=reach,
            band_limit=SPARE_BAND * self.band_limit,
        )


def _clear(f: np.ndarray) -> np.ndarray:
    return np.ones_like(f)


def amplitude_of(
    optics: OpticsSettings, pupil: Float[np.ndarray, "y x"] | None
) -> Float[np.ndarray, "y x"]:
    """The pupil's amplitude: as given, or by the survey's recipe.

    Raises
    ------
    ConfigError
        The given pupil does not fit the settings.
    """
    n = optics.pupil_samples
    if pupil is None:
        shape = PupilShape(diameter=optics.aperture * 1e3, discs=optics.discs, vanes=optics.vanes)
        return pupil_amplitude(shape, n, grid=optics.pupil_grid)
    if pupil.shape != (n, n):
        msg = f"the pupil has shape {pupil.shape}, expected {(n, n)} as optics.pupil_samples says"
        raise ConfigError(msg)
    if not np.isfinite(pupil).all() or pupil.min() < 0 or not pupil.any():
        msg = "the pupil must be an amplitude: finite, not negative, and open somewhere"
        raise ConfigError(msg)
    return pupil
