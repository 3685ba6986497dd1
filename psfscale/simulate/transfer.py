r"""Images of a square of sky by way of their transfer functions, from wavefronts on.

A PSF is known by its transfer function ``T(f) = ∫ I(v) exp(−2πi f·v) dv`` on the frequencies of a
periodic square of sky, on which galaxies, jitter and pixels multiply, and of which images are drawn
at any sampling. Nothing is interpolated: light at a wavelength comes from the pupil to the samples
of the square by matrix DFT, ``E(v) = Σ_u g(u) exp(2πi u·v / λ)``, and all wavelengths add there.

======  ================================================  =============
symbol  name                                              unit
======  ================================================  =============
u       pupil sample from the middle                      m
v       place on the sky from the middle                  arcsec
f       spatial frequency                                 1 / arcsec
g       field in the pupil, ``A exp(2πi W / λ)``          1
A, W    amplitude and wavefront (OPD)                     1, µm
======  ================================================  =============
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import galsim
import numpy as np
from scipy import fft

from psfscale.kernels.optics.pupil import PupilShape, pupil_amplitude, pupil_axis

if TYPE_CHECKING:
    from jaxtyping import Complex, Float

    from psfscale.survey.instrument import Telescope

ARCSEC = np.pi / 180 / 3600
"""An arcsec [rad]."""
_BEYOND = 8
"""The square is wider than the largest image by one part in so many: what is folded is faint."""


@dataclass(frozen=True, kw_only=True)
class SkySquare:
    """A periodic square of sky, sampled finely enough for an aperture.

    Attributes
    ----------
    pixel_scale : of the CCD [arcsec]
    n_pixels : CCD pixels along a side
    per_pixel : samples along a CCD pixel
    """

    pixel_scale: float
    n_pixels: int
    per_pixel: int

    @classmethod
    def of(cls, *, pixel_scale: float, reach: int, aperture: float, wavelength: float) -> SkySquare:
        """For images of `reach` pixels through `aperture` [m] from `wavelength` [µm] on."""
        n = reach + max(reach // _BEYOND, 2)
        while n % 2 or fft.next_fast_len(n, real=True) != n:
            n += 1
        finest = wavelength * 1e-6 / (2 * aperture) / ARCSEC
        return cls(
            pixel_scale=pixel_scale, n_pixels=n, per_pixel=int(np.ceil(pixel_scale / finest))
        )

    @property
    def side(self) -> float:
        """Of the square [arcsec]."""
        return self.n_pixels * self.pixel_scale

    @property
    def n_samples(self) -> int:
        """Along a side, an even number."""
        return self.n_pixels * self.per_pixel

    def period_samples(self, aperture: float, wavelength: float) -> int:
        """Samples across an aperture [m] whose light [µm] does not repeat in the square."""
        return int(np.ceil(self.side * ARCSEC * aperture / (wavelength * 1e-6)))

    @cached_property
    def frequencies(self) -> tuple[Float[np.ndarray, " y"], Float[np.ndarray, " half"]]:
        """Along y, and the half not below 0 along x [1/arcsec]."""
        n, step = self.n_samples, self.pixel_scale / self.per_pixel
        return np.fft.fftfreq(n, step), np.fft.rfftfreq(n, step)

    def jitter(self, sigma: float) -> Float[np.ndarray, "y half"]:
        """Transfer function of a Gaussian [arcsec]."""
        fy, fx = self.frequencies
        return np.asarray(np.exp(-2 * (np.pi * sigma) ** 2 * (fy[:, None] ** 2 + fx**2)))

    def transfer(self, samples: Float[np.ndarray, "y x"]) -> Complex[np.ndarray, "y half"]:
        """Of light given at samples that lie symmetrically about the middle."""
        fy, fx = self.frequencies
        middle = (self.n_samples - 1) / 2 * self.pixel_scale / self.per_pixel
        turn_y, turn_x = (np.exp(2j * np.pi * middle * f) for f in (fy, fx))
        return np.asarray(fft.rfft2(samples) * turn_y[:, None] * turn_x)

    def profile(self, profile: galsim.GSObject) -> Complex[np.ndarray, "y half"]:
        """Transfer function of one of GalSim's profiles."""
        n, dk = self.n_samples, 2 * np.pi / self.side
        image = galsim.ImageCD(galsim.BoundsI(0, n // 2, -(n // 2), n // 2 - 1), scale=dk)
        profile.drawKImage(image, recenter=False)
        return np.asarray(fft.ifftshift(image.array, axes=0))

    def moved(
        self, transfer: Complex[np.ndarray, "y half"], *, x: float, y: float
    ) -> Complex[np.ndarray, "y half"]:
        """The same light, moved [arcsec]."""
        fy, fx = self.frequencies
        turn_y, turn_x = np.exp(-2j * np.pi * y * fy), np.exp(-2j * np.pi * x * fx)
        return np.asarray(transfer * turn_y[:, None] * turn_x)

    def image(
        self, transfer: Complex[np.ndarray, "y half"], *, oversampling: int, size: int
    ) -> Float[np.ndarray, "y x"]:
        """Light in `size` CCD pixels a side, their centres 1 / `oversampling` of a pixel apart.

        The origin lies at index ``size // 2``; a sample is the light of a pixel divided by
        ``oversampling²``, so that the samples of a whole image add up to its light.
        """
        rows, columns = _drawing(self, oversampling, size)
        return np.asarray(((rows @ transfer) @ columns).real)


@lru_cache(maxsize=8)
def _drawing(square: SkySquare, oversampling: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Inverse transforms along y and x with the pixel in them."""
    scale = square.pixel_scale / oversampling
    place = (np.arange(size) - size // 2) * scale
    fy, fx = square.frequencies
    both = np.where((fx == 0) | (fx == fx[-1]), 1.0, 2.0)  # f and −f add to twice the real part
    rows, columns = (
        np.exp(2j * np.pi * np.outer(place, f))
        * np.sinc(f * square.pixel_scale)
        * scale
        / square.side
        for f in (fy, fx)
    )
    return rows, np.ascontiguousarray((columns * both).T)


@dataclass(frozen=True, kw_only=True)
class Light:
    """One wavelength on its way from the pupil to a square of sky.

    Attributes
    ----------
    amplitude : (y, x) of the pupil, even side
    wavelength : [µm]
    cosine, sine : (sample, pupil sample), of the right halves of both
    unit : factor of intensities that makes all light 1 (Parseval; a sample half open passes half)
    """

    amplitude: Float[np.ndarray, "y x"]
    wavelength: float
    cosine: Float[np.ndarray, "sample pupil"]
    sine: Float[np.ndarray, "sample pupil"]
    unit: float

    @classmethod
    def of(
        cls,
        amplitude: Float[np.ndarray, "y x"],
        square: SkySquare,
        *,
        aperture: float,
        wavelength: float,
    ) -> Light:
        """Through an aperture [m] at a wavelength [µm]."""
        step = square.pixel_scale / square.per_pixel * ARCSEC
        period = wavelength * 1e-6 * len(amplitude) / aperture
        u = (np.arange(len(amplitude) // 2) + 0.5) / len(amplitude) * aperture
        v = (np.arange(square.n_samples // 2) + 0.5) * step
        angle = 2 * np.pi / (wavelength * 1e-6) * np.outer(v, u)
        return cls(
            amplitude=amplitude,
            wavelength=wavelength,
            cosine=np.cos(angle),
            sine=np.sin(angle),
            unit=float((step / period) ** 2 / np.sum(amplitude)),
        )

    def __call__(self, wavefront: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
        """Light at the samples of the square, through a wavefront [µm]; sums to at most 1."""
        field = self.amplitude * np.exp(2j * np.pi / self.wavelength * wavefront)
        focus = self._along_first(self._along_first(field).T).T
        return np.asarray(self.unit * (focus.real**2 + focus.imag**2))

    def _along_first(
        self, z: Complex[np.ndarray, "pupil any"]
    ) -> Complex[np.ndarray, "sample any"]:
        """``Σ_u z(u) exp(2πi u v / λ)`` by parity: real products of half the size."""
        z = np.ascontiguousarray(z)
        half = len(z) // 2
        right, left = z[half:], z[half - 1 :: -1]
        even = (self.cosine @ (right + left).view(np.float64)).view(np.complex128)
        odd = 1j * (self.sine @ (right - left).view(np.float64)).view(np.complex128)
        return np.concatenate([(even - odd)[::-1], even + odd])


@lru_cache(maxsize=4)
def pupil(
    telescope: Telescope, n: int, last: int
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "zernike y x"]]:
    """Amplitude and Noll Zernikes from index 4 to `last`, on `n` samples a side."""
    u = pupil_axis(n, grid="areas")
    x, y = np.meshgrid(u, u)
    amplitude = pupil_amplitude(PupilShape.of(telescope), n, grid="areas")
    return amplitude, galsim.zernike.zernikeBasis(last, x, y)[4:]
