from __future__ import annotations

from collections.abc import Callable

import galsim
import numpy as np
import pytest

from psfscale.errors import ConfigError
from psfscale.kernels.optics.pupil import PupilShape
from psfscale.simulate.optics import DrawnField
from psfscale.survey import Survey

Tiny = Callable[..., Survey]


def field(survey: Survey, exposure: int = 0, seed: int = 3) -> DrawnField:
    recipe = survey.simulate.model_copy(update={"seed": seed})
    return DrawnField(survey.instrument, recipe=recipe, exposure=exposure)


def psf_at(optics: DrawnField, x: float, y: float, oversampling: int = 3, size: int = 45):
    (zernikes,) = optics.zernikes(np.array([x]), np.array([y]))
    return optics.effective(optics.psf(zernikes), oversampling=oversampling, size=size)


@pytest.mark.parametrize("size", [44, 45])
@pytest.mark.parametrize("oversampling", [2, 3, 4])
def test_effective_psf__sums_to_one_with_its_windowed_centroid_at_half_the_side(
    tiny: Tiny, size: int, oversampling: int
) -> None:
    psf = psf_at(field(tiny()), 1.0, -2.0, oversampling, size)
    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(psf))
    assert psf.sum() == pytest.approx(1, abs=1e-12)
    # GalSim counts from 1. At 2 samples a pixel the sampling moves the centroid a little.
    assert moments.moments_centroid.x - 1 == pytest.approx(size // 2, abs=0.01)
    assert moments.moments_centroid.y - 1 == pytest.approx(size // 2, abs=0.01)


def test_effective_psf__of_a_clear_perfect_aperture_is_an_airy_pattern(tiny: Tiny) -> None:
    survey = tiny(
        "instrument.telescope.pupil.secondary=null",
        "instrument.telescope.pupil.spiders=[]",
        "simulate.optics.wavefront_error.value=0",
        "simulate.optics.exposure_scatter.value=0",
        "simulate.optics.defocus_scatter.value=0",
        "simulate.optics.pupil_pixels=512",
    )
    airy = galsim.Airy(lam=725, diam=1.2)
    exact = galsim.Convolve(airy, galsim.Gaussian(sigma=0.04), galsim.Pixel(0.1)).drawImage(
        nx=45, ny=45, scale=0.1 / 3, method="no_pixel"
    )
    expected = exact.array / exact.array.sum()
    error = psf_at(field(survey), 0.0, 0.0) - expected
    assert np.linalg.norm(error) < 0.01 * np.linalg.norm(expected)


def by_galsim(survey: Survey, zernikes: np.ndarray, photons: np.ndarray) -> galsim.GSObject:
    """Jittered PSF by another way from the same pupil, finely sampled, as it comes."""
    telescope, band, n = survey.instrument.telescope, survey.instrument.passband, 640
    u = (np.arange(n) - n // 2) * (3 * telescope.aperture / n) * 1e3
    fine = galsim.GSParams(folding_threshold=0.002)
    aperture = galsim.Aperture(
        diam=telescope.aperture,
        lam=725,
        pupil_plane_im=galsim.Image(PupilShape.of(telescope).passes(*np.meshgrid(u, u)) * 1.0),
        pupil_plane_scale=3 * telescope.aperture / n,
        gsparams=fine,
    )
    edges = np.linspace(band.minimum, band.maximum, len(photons) + 1)
    waves = [
        share
        * galsim.OpticalPSF(
            lam=1e3 * wavelength,
            diam=telescope.aperture,
            aberrations=np.concatenate([np.zeros(4), zernikes / wavelength]),
            aper=aperture,
            gsparams=fine,
            suppress_warning=True,
        )
        for share, wavelength in zip(photons, (edges[1:] + edges[:-1]) / 2, strict=True)
    ]
    jitter = galsim.Gaussian(sigma=survey.simulate.optics.jitter)
    return galsim.Convolve([galsim.Sum(waves), jitter], gsparams=fine)


def drawn_by_galsim(profile: galsim.GSObject, shift: tuple[float, float]) -> np.ndarray:
    seen = galsim.Convolve([profile, galsim.Pixel(0.1)], gsparams=profile.gsparams).shift(*shift)
    return seen.drawImage(nx=45, ny=45, scale=0.1 / 3, method="no_pixel", dtype=float).array


def test_effective_psf__and_a_galaxy_under_it_agree_with_galsim(tiny: Tiny) -> None:
    survey = tiny("simulate.optics.pupil_pixels=768")
    optics, photons = field(survey), np.array([0.1, 0.2, 0.3, 0.4])
    (zernikes,) = optics.zernikes(np.array([1.0]), np.array([-2.0]))
    psf = optics.psf(zernikes, photons)
    other = by_galsim(survey, zernikes, photons)
    ours = optics.effective(psf, oversampling=3, size=45)
    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(drawn_by_galsim(other, (0, 0))))
    off = moments.moments_centroid - galsim.PositionD(23, 23)
    shift = -off.x * 0.1 / 3, -off.y * 0.1 / 3
    theirs = drawn_by_galsim(other, shift)
    theirs /= theirs.sum()
    assert np.linalg.norm(ours - theirs) < 0.002 * np.linalg.norm(theirs)  # turned: 0.3
    galaxy = galsim.Sersic(1, half_light_radius=0.3).shear(e1=0.3, e2=-0.2)
    blurred = drawn_by_galsim(galsim.Convolve([other, galaxy], gsparams=other.gsparams), shift)
    mine = optics.square.image(psf * optics.square.profile(galaxy), oversampling=3, size=45)
    assert np.linalg.norm(mine - blurred) < 0.002 * np.linalg.norm(blurred)


def test_psf_field__varies_smoothly_over_the_focal_plane(tiny: Tiny) -> None:
    optics = field(tiny())
    here, near, far = (psf_at(optics, x, x) for x in (-1.5, -1.49, 1.5))
    scale = np.linalg.norm(here)
    assert np.linalg.norm(far - here) > 0.02 * scale
    assert np.linalg.norm(near - here) < 0.05 * np.linalg.norm(far - here)


def test_zernikes__have_the_wavefront_error_of_the_recipe(tiny: Tiny) -> None:
    survey = tiny(
        "simulate.optics.exposure_scatter.value=0", "simulate.optics.defocus_scatter.value=0"
    )
    plane = survey.instrument.focal_plane.layout.pitch(survey.instrument.detector)
    side = np.linspace(-1, 1, 41)
    u, v = np.meshgrid(side * (plane[0] - 0.3), side * (plane[1] - 0.3))
    zernikes = field(survey).zernikes(u.ravel(), v.ravel())
    assert zernikes.shape == (41 * 41, 12)
    # 41 points a side instead of the 9 that the field is scaled on: a few per cent apart.
    assert np.sqrt((zernikes**2).sum(axis=1).mean()) == pytest.approx(0.08, rel=0.1)


def test_exposures__differ_by_their_scatter_alone(tiny: Tiny) -> None:
    at = np.array([0.3]), np.array([-0.4])
    still = tiny(
        "simulate.optics.exposure_scatter.value=0", "simulate.optics.defocus_scatter.value=0"
    )
    first, second = (field(still, exposure=i).zernikes(*at) for i in (0, 1))
    np.testing.assert_array_equal(first, second)
    restless = tiny("simulate.optics.exposure_scatter.value=0")
    moved = field(restless, exposure=1).zernikes(*at) - first
    assert moved[0, 0] != 0
    np.testing.assert_allclose(moved[0, 1:], 0, atol=1e-15)


def test_seed__changes_the_field(tiny: Tiny) -> None:
    at = np.array([0.3]), np.array([-0.4])
    assert not np.allclose(field(tiny(), seed=1).zernikes(*at), field(tiny(), seed=2).zernikes(*at))


def test_psf_field__of_a_layout_without_a_grid_is_refused(tiny: Tiny) -> None:
    survey = tiny()
    plane = survey.instrument.focal_plane.model_dump() | {"layout": {"kind": "reference_pixel"}}
    focal_plane = type(survey.instrument.focal_plane).model_validate(plane)
    instrument = survey.instrument.model_copy(update={"focal_plane": focal_plane})
    with pytest.raises(ConfigError, match="cannot be simulated; give it a grid"):
        DrawnField(instrument, recipe=survey.simulate, exposure=0)


def test_profile__defocused_into_a_ring_is_a_clear_error(tiny: Tiny) -> None:
    defocus = np.zeros(12)
    defocus[0] = 1.0
    with pytest.raises(ConfigError, match=r"no windowed centroid \(.*\); lower its aberrations"):
        field(tiny()).psf(defocus)
