"""The true PSF field of an exposure: aberrated pupil, jitter, pixel.

The wavefront is a sum of Noll Zernikes whose coefficients are polynomials of the position
in the focal plane. A survey has one such field; each exposure adds its own small change.

**Centre.** A PSF is shifted so that the windowed centroid (adaptive moments) of the
effective PSF lies at its origin: the true position of a star is the centroid of its image.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import galsim
import numpy as np

from psfscale.errors import ConfigError
from psfscale.simulate.seeds import Stream, generator
from psfscale.simulate.transfer import Light, SkySquare, pupil
from psfscale.survey.instrument import GridLayout

if TYPE_CHECKING:
    from jaxtyping import Complex, Float

    from psfscale.survey import Instrument
    from psfscale.survey.simulation import OpticsRecipe, SkyRecipe

_PUPIL_PLANE = 3
"""The recipe's pupil pixels go across so many diameters."""
_CENTRING_OVERSAMPLING = 3
_CENTRING_REACH = 2.5
"""The centring stamp reaches so many of the widest believable FWHM from its middle."""


def _monomials(u: np.ndarray, v: np.ndarray, degree: int) -> Float[np.ndarray, "object term"]:
    terms = [u ** (d - p) * v**p for d in range(degree + 1) for p in range(d + 1)]
    return np.stack(terms, axis=-1)


def _extent(instrument: Instrument) -> tuple[float, float]:
    """Distance from the axis to the edges of the focal plane along x and y [mm]."""
    layout, detector = instrument.focal_plane.layout, instrument.detector
    if not isinstance(layout, GridLayout):
        msg = f"a survey with a {layout.kind!r} layout cannot be simulated; give it a grid"
        raise ConfigError(msg)
    pitch = layout.pitch(detector)
    return (
        (layout.columns * pitch[0] - layout.gap_x) / 2,
        (layout.rows * pitch[1] - layout.gap_y) / 2,
    )


def _random_field(
    rng: np.random.Generator, recipe: OpticsRecipe, rms: float
) -> Float[np.ndarray, "zernike term"]:
    """Coefficients of a wavefront field [µm] of this rms over the focal plane.

    High radial orders, and high degrees in position, are weaker, as in real telescopes.
    """
    orders = np.array([galsim.zernike.noll_to_zern(j)[0] for j in range(4, recipe.zernikes + 1)])
    side = np.linspace(-1, 1, 9)
    u, v = np.meshgrid(side, side)
    grid = _monomials(u.ravel(), v.ravel(), recipe.degree)
    degrees = np.repeat(np.arange(recipe.degree + 1), np.arange(recipe.degree + 1) + 1)
    field = rng.normal(size=(len(orders), len(degrees))) / orders[:, None] / (1 + degrees)
    measured = np.sqrt(np.mean(np.sum((grid @ field.T) ** 2, axis=1)))
    return np.asarray(field * (rms / measured))


class DrawnField:
    """The PSF at any place of the focal plane, for one exposure.

    PSFs are transfer functions on the frequencies of `square`, which draws them.

    Parameters
    ----------
    instrument : with a grid layout
    recipe : of the sky
    exposure : index of the exposure
    """

    def __init__(self, instrument: Instrument, *, recipe: SkyRecipe, exposure: int) -> None:
        self._telescope = instrument.optics_of("simulate")
        self._recipe = optics = recipe.optics
        scale = float(instrument.detector.pixel_scale)
        reach = _CENTRING_REACH * instrument.psf.fwhm_maximum / scale
        self._centring_size = 2 * math.ceil(reach * _CENTRING_OVERSAMPLING) + 1
        self._extent = _extent(instrument)
        band = instrument.passband_of("simulate")
        bins = (np.arange(optics.wavelengths) + 0.5) / optics.wavelengths
        self._wavelengths = band.minimum + bins * (band.maximum - band.minimum)
        self.square = SkySquare.of(
            pixel_scale=scale,
            reach=max(recipe.stamp, recipe.truth.size // recipe.truth.oversampling),
            aperture=self._telescope.aperture,
            wavelength=float(self._wavelengths[0]),
        )
        own = generator(recipe.seed, Stream.EXPOSURE_OPTICS, exposure)
        self._coefficients = _random_field(
            generator(recipe.seed, Stream.OPTICS), optics, optics.wavefront_error
        ) + _random_field(own, optics, optics.exposure_scatter)
        self._coefficients[0, 0] += own.normal() * optics.defocus_scatter

    def zernikes(
        self, field_x: Float[np.ndarray, " object"], field_y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object zernike"]:
        """Noll coefficients from index 4 on [µm] at focal-plane positions [mm]."""
        terms = _monomials(
            field_x / self._extent[0], field_y / self._extent[1], self._recipe.degree
        )
        return np.asarray(terms @ self._coefficients.T)

    def psf(
        self,
        zernikes: Float[np.ndarray, " zernike"],
        photons: Float[np.ndarray, " wavelength"] | None = None,
    ) -> Complex[np.ndarray, "y half"]:
        """The PSF without the pixel, of unit light, centred as the module says.

        Parameters
        ----------
        zernikes : Noll coefficients from index 4 on [µm]
        photons : in each of the recipe's bins, summing to 1; the same in all if None

        Raises
        ------
        ConfigError
            The PSF is so wide that it has no windowed centroid.
        """
        n = len(self._wavelengths)
        shares = np.full(n, 1 / n) if photons is None else photons
        wavefront = np.tensordot(zernikes, self._pupil[1], axes=1)
        lit = [(light, s) for light, s in zip(self._light, shares, strict=True) if s > 0]
        samples = sum(s * light(wavefront) for light, s in lit)
        psf = self.square.transfer(np.asarray(samples)) * self._jitter
        x, y = self._centroid(psf)
        return self.square.moved(psf, x=-x, y=-y)

    @cached_property
    def _pupil(self) -> tuple[np.ndarray, np.ndarray]:
        # Light of the shortest wavelength repeats itself beyond the square, and not in it.
        fewest = self.square.period_samples(self._telescope.aperture, float(self._wavelengths[0]))
        n = max(math.ceil(self._recipe.pupil_pixels / _PUPIL_PLANE), fewest)
        return pupil(self._telescope, n + n % 2, self._recipe.zernikes)

    @cached_property
    def _light(self) -> list[Light]:
        amplitude, aperture = self._pupil[0], self._telescope.aperture
        return [
            Light.of(amplitude, self.square, aperture=aperture, wavelength=float(w))
            for w in self._wavelengths
        ]

    @cached_property
    def _jitter(self) -> Float[np.ndarray, "y half"]:
        return self.square.jitter(self._recipe.jitter)

    def _centroid(self, psf: Complex[np.ndarray, "y half"]) -> tuple[float, float]:
        drawn = self.square.image(
            psf, oversampling=_CENTRING_OVERSAMPLING, size=self._centring_size
        )
        image = galsim.Image(drawn)
        try:
            centroid = galsim.hsm.FindAdaptiveMom(image).moments_centroid - image.true_center
        except galsim.GalSimHSMError as error:
            reason = str(error).strip()
            msg = f"the PSF has no windowed centroid ({reason}); lower its aberrations or jitter"
            raise ConfigError(msg) from error
        step = self.square.pixel_scale / _CENTRING_OVERSAMPLING
        return centroid.x * step, centroid.y * step

    def effective(
        self, psf: Complex[np.ndarray, "y half"], *, oversampling: int, size: int
    ) -> Float[np.ndarray, "y x"]:
        """The PSF as a star shows it, pixel included: unit sum, centre at index n // 2."""
        image = self.square.image(psf, oversampling=oversampling, size=size)
        return np.asarray(image / image.sum())
