"""The true PSF field of an exposure, drawn by GalSim: aberrated pupil, jitter, pixel.

The wavefront is a sum of Noll Zernikes whose coefficients are polynomials of the position
in the focal plane. A survey has one such field; each exposure adds its own small change.

**Centre.** A profile is shifted so that the windowed centroid (adaptive moments) of the
effective PSF lies at its origin: the true position of a star is the centroid of its image.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import galsim
import numpy as np

from psfscale.errors import ConfigError
from psfscale.kernels.optics.pupil import PupilShape
from psfscale.simulate.seeds import Stream, generator
from psfscale.survey.instrument import GridLayout

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from psfscale.survey import Instrument
    from psfscale.survey.instrument import Telescope
    from psfscale.survey.sky import OpticsRecipe

_PUPIL_PLANE = 3.0
"""Side of the pupil plane in diameters: GalSim's interpolation wants more than Nyquist's 2."""
_GSPARAMS = galsim.GSParams(folding_threshold=0.01)
"""With 256 pupil pixels, 0.2 % relative RMSE from the limit of fine sampling, at a tenth of
its time; GalSim's default (0.005) doubles the time, 0.02 triples the error."""
_CENTRING_OVERSAMPLING = 3
_CENTRING_REACH = 2.5
"""The centring stamp reaches so many of the widest believable FWHM from its middle."""


def pupil_mask(telescope: Telescope, side: float, n: int) -> Bool[np.ndarray, "y x"]:
    """Which points of a square grid of `n` over `side` [m] pass light; the axis at n // 2."""
    u = (np.arange(n) - n // 2) * (side / n) * 1e3
    x, y = np.meshgrid(u, u)
    return PupilShape.of(telescope).passes(x, y)


@lru_cache(maxsize=4)
def _aperture(telescope: Telescope, n: int, wavelength: float) -> galsim.Aperture:
    side = _PUPIL_PLANE * telescope.aperture
    return galsim.Aperture(
        diam=telescope.aperture,
        lam=wavelength * 1e3,
        pupil_plane_im=galsim.Image(pupil_mask(telescope, side, n).astype(float)),
        pupil_plane_scale=side / n,
        gsparams=_GSPARAMS,
    )


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


class PsfField:
    """The PSF at any place of the focal plane, for one exposure.

    Parameters
    ----------
    instrument : with a grid layout
    recipe : of the optics
    seed : of the survey
    exposure : index of the exposure
    """

    def __init__(
        self, instrument: Instrument, *, recipe: OpticsRecipe, seed: int, exposure: int
    ) -> None:
        self._telescope = instrument.telescope
        self._recipe = recipe
        self._pixel_scale = float(instrument.detector.pixel_scale)
        reach = _CENTRING_REACH * instrument.psf.fwhm_maximum / self._pixel_scale
        self._centring_size = 2 * math.ceil(reach * _CENTRING_OVERSAMPLING) + 1
        self._extent = _extent(instrument)
        band = instrument.passband
        bins = (np.arange(recipe.wavelengths) + 0.5) / recipe.wavelengths
        self._wavelengths = band.minimum + bins * (band.maximum - band.minimum)
        own = generator(seed, Stream.EXPOSURE_OPTICS, exposure)
        self._coefficients = _random_field(
            generator(seed, Stream.OPTICS), recipe, recipe.wavefront_error
        ) + _random_field(own, recipe, recipe.exposure_scatter)
        self._coefficients[0, 0] += own.normal() * recipe.defocus_scatter

    def zernikes(
        self, field_x: Float[np.ndarray, " object"], field_y: Float[np.ndarray, " object"]
    ) -> Float[np.ndarray, "object zernike"]:
        """Noll coefficients from index 4 on [µm] at focal-plane positions [mm]."""
        terms = _monomials(
            field_x / self._extent[0], field_y / self._extent[1], self._recipe.degree
        )
        return np.asarray(terms @ self._coefficients.T)

    def profile(
        self,
        zernikes: Float[np.ndarray, " zernike"],
        photons: Float[np.ndarray, " wavelength"] | None = None,
    ) -> galsim.GSObject:
        """The PSF without the pixel, of unit flux, centred as the module says.

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
        lit = [(w, s) for w, s in zip(self._wavelengths, shares, strict=True) if s > 0]
        optics = [self._monochromatic(w, zernikes) * s for w, s in lit]
        jitter = galsim.Gaussian(sigma=self._recipe.jitter)
        psf = galsim.Convolve([galsim.Sum(optics), jitter], gsparams=_GSPARAMS)
        x, y = self._centroid(psf)
        return psf.shift(-x, -y)

    def _monochromatic(self, wavelength: float, zernikes: np.ndarray) -> galsim.OpticalPSF:
        return galsim.OpticalPSF(
            lam=wavelength * 1e3,
            diam=self._telescope.aperture,
            aberrations=np.concatenate([np.zeros(4), zernikes / wavelength]),
            aper=_aperture(
                self._telescope, self._recipe.pupil_pixels, float(self._wavelengths.mean())
            ),
            gsparams=_GSPARAMS,
            suppress_warning=True,  # folding at the edge of the stamp is meant, see _GSPARAMS
        )

    def _centroid(self, psf: galsim.GSObject) -> tuple[float, float]:
        image = self._drawn(psf, _CENTRING_OVERSAMPLING, self._centring_size)
        try:
            centroid = galsim.hsm.FindAdaptiveMom(image).moments_centroid - image.true_center
        except galsim.GalSimHSMError as error:
            reason = str(error).strip()
            msg = f"the PSF has no windowed centroid ({reason}); lower its aberrations or jitter"
            raise ConfigError(msg) from error
        step = self._pixel_scale / _CENTRING_OVERSAMPLING
        return centroid.x * step, centroid.y * step

    def _drawn(self, psf: galsim.GSObject, oversampling: int, size: int) -> galsim.Image:
        effective = galsim.Convolve([psf, galsim.Pixel(self._pixel_scale)], gsparams=_GSPARAMS)
        half = 0.0 if size % 2 else 0.5  # GalSim's centre is (n - 1) / 2, ours n // 2
        return effective.drawImage(
            nx=size,
            ny=size,
            scale=self._pixel_scale / oversampling,
            offset=(half, half),
            method="no_pixel",
        )

    def effective(
        self, psf: galsim.GSObject, *, oversampling: int, size: int
    ) -> Float[np.ndarray, "y x"]:
        """The PSF as a star shows it, pixel included: unit sum, centre at index n // 2."""
        image = self._drawn(psf, oversampling, size).array.astype(np.float64)
        return np.asarray(image / image.sum())
