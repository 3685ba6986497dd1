from __future__ import annotations

from collections.abc import Callable

import galsim
import numpy as np
import pytest

from psfscale.errors import ConfigError
from psfscale.simulate.optics import PsfField, pupil_mask
from psfscale.survey import Survey

Tiny = Callable[..., Survey]


def field(survey: Survey, exposure: int = 0, seed: int = 3) -> PsfField:
    recipe = survey.simulate.optics
    return PsfField(survey.instrument, recipe=recipe, seed=seed, exposure=exposure)


def psf_at(optics: PsfField, x: float, y: float, oversampling: int = 3, size: int = 45):
    (zernikes,) = optics.zernikes(np.array([x]), np.array([y]))
    return optics.effective(optics.profile(zernikes), oversampling=oversampling, size=size)


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
        PsfField(instrument, recipe=survey.simulate.optics, seed=0, exposure=0)


def test_profile__defocused_into_a_ring_is_a_clear_error(tiny: Tiny) -> None:
    defocus = np.zeros(12)
    defocus[0] = 1.0
    with pytest.raises(ConfigError, match=r"no windowed centroid \(.*\); lower its aberrations"):
        field(tiny()).profile(defocus)


def test_pupil_mask__blocks_what_the_survey_file_says(tiny: Tiny) -> None:
    telescope = tiny().instrument.telescope
    n, side = 600, 1.2
    mask = pupil_mask(telescope, side, n)
    step = side / n * 1e3

    def is_open(x: float, y: float) -> bool:
        return bool(mask[round(y / step) + n // 2, round(x / step) + n // 2])

    assert not is_open(0, 51)
    assert not is_open(0, 51 + 190)
    assert is_open(0, 51 + 204)
    for vane in telescope.pupil.spiders:
        assert not is_open(vane.x, vane.y)
        angle = np.deg2rad(vane.angle)
        across = -np.sin(angle) * 20, np.cos(angle) * 20
        assert is_open(vane.x + across[0], vane.y + across[1])
    disc, cap = np.pi * 600**2, np.pi * 197.5**2
    vanes = (disc - cap) - mask.sum() * step**2
    assert 0 < vanes < 3 * 12 * 700  # shorter where they run into the cap or over the rim
