from __future__ import annotations

from collections.abc import Callable

import galsim
import numpy as np
import pytest

from psfscale.errors import ConfigError
from psfscale.simulate.ccd import draw_ccd
from psfscale.simulate.detector import MaskBit
from psfscale.survey import Survey

Tiny = Callable[..., Survey]
CLEAN = ("simulate.defects.cosmic_rays.value=0", "simulate.defects.masked_columns=0")
ONE_BRIGHT_STAR = (  # 1e8 electrons: noise moves its centroid by 1e-4 pixel
    *CLEAN,
    "instrument.detector.saturation=null",
    "simulate.stars.flux_minimum.value=1e8",
    "simulate.stars.flux_maximum.value=1.1e8",
    "simulate.size.stars=1",
    "simulate.size.galaxies=0",
)
FINE_PIXELS = (  # half of Euclid's: they sample the PSF well, unlike Euclid's own
    "instrument.detector.pixel_scale.value=0.05",
    "simulate.truth.oversampling=1",
    "simulate.truth.size=41",
    "simulate.margin.value=32",
    "simulate.stamp=128",
)


def sky(survey: Survey) -> float:
    return survey.simulate.sky / survey.instrument.detector.gain


def star_stamp(survey: Survey, ccd: int, half: int):
    """A lone star's stamp without sky, its true PSF, and where it lies from the middle pixel."""
    drawn = draw_ccd(survey, exposure=0, ccd=ccd)
    truth = drawn.stars.truth
    (x,), (y,) = truth["X"], truth["Y"]
    column, row = round(x), round(y)  # FITS: the first pixel is 1
    rows, columns = slice(row - 1 - half, row + half), slice(column - 1 - half, column + half)
    stamp = drawn.image[rows, columns].astype(float) - sky(survey)
    return stamp, drawn.stars.psf[0].astype(float), (x - column, y - row), truth["FLUX"][0]


@pytest.mark.parametrize("ccd", [1, 2, 3, 4])
def test_star__has_its_windowed_centroid_at_its_true_position(tiny: Tiny, ccd: int) -> None:
    stamp, _, shift, _ = star_stamp(tiny(*ONE_BRIGHT_STAR, *FINE_PIXELS), ccd, 20)
    centroid = galsim.hsm.FindAdaptiveMom(galsim.Image(stamp)).moments_centroid
    assert (centroid.x - 21, centroid.y - 21) == pytest.approx(shift, abs=0.003)


def test_star__is_its_true_psf_moved_to_its_position(tiny: Tiny) -> None:
    stamp, psf, shift, _ = star_stamp(tiny(*ONE_BRIGHT_STAR, *FINE_PIXELS), 3, 20)
    profile = galsim.InterpolatedImage(galsim.Image(psf, scale=1), x_interpolant="lanczos7")
    moved = profile.shift(shift).drawImage(nx=41, ny=41, scale=1, method="no_pixel").array
    inner = slice(8, -8)  # an interpolated image has no data beyond its edge
    star, model = (image[inner, inner] / image[inner, inner].sum() for image in (stamp, moved))
    assert np.linalg.norm(star - model) < 0.005 * np.linalg.norm(star)


def test_star__holds_the_flux_of_the_truth(tiny: Tiny) -> None:
    survey = tiny(*ONE_BRIGHT_STAR, "simulate.margin.value=50", "simulate.stamp=128")
    stamp, _, _, flux = star_stamp(survey, 1, 45)
    assert 0.98 < stamp.sum() / flux < 1.0005  # the wings reach beyond 9 arcsec


def test_catalogue__flux_and_position_scatter_as_stated(tiny: Tiny) -> None:
    survey = tiny(
        "simulate.size.stars=60",
        "simulate.size.galaxies=0",
        "simulate.stars.separation.value=0",
        "simulate.truth.psf=false",
        "simulate.catalogue.position_decimals=8",
    )
    stars = draw_ccd(survey, exposure=0, ccd=1).stars
    catalogue, truth = stars.catalogue, stars.truth
    pull = (catalogue["FLUX"] / truth["FLUX"] - 1) * catalogue["SNR"]
    moved = np.concatenate([catalogue[key] - truth[key] for key in ("X", "Y")]) / 0.05
    for scatter, n in ((pull, 60), (moved, 120)):  # rms is known to 1 / sqrt(2 n); 4 sigma
        assert np.sqrt(np.mean(scatter**2)) == pytest.approx(1, abs=4 / np.sqrt(2 * n))


def test_snr__is_that_of_the_image(tiny: Tiny) -> None:
    """Many noisy draws of one star, weighed by its noiseless image, scatter by 1 / SNR."""
    survey = tiny(*CLEAN, "simulate.size.stars=1", "simulate.size.galaxies=0", "simulate.stamp=64")
    drawn = draw_ccd(survey, exposure=0, ccd=1)
    (flux,), (snr,) = drawn.stars.truth["FLUX"], drawn.stars.catalogue["SNR"]
    gain = survey.instrument.detector.gain
    noise = 102 + 4.4**2
    psf = drawn.stars.psf[0].astype(float)  # 3 pixels a CCD pixel, 31 of them: its own centre
    binned = psf[2:-2, 2:-2].reshape(9, 3, 9, 3).sum(axis=(1, 3))
    electrons = flux * gain * binned
    assert snr == pytest.approx(np.sqrt((electrons**2 / (noise + electrons)).sum()), rel=0.1)


def test_catalogue__counts_pixels_from_one(tiny: Tiny) -> None:
    survey = tiny(*ONE_BRIGHT_STAR, "simulate.catalogue.position_scatter.value=0")
    drawn = draw_ccd(survey, exposure=0, ccd=1)
    (x,), (y,) = drawn.stars.catalogue["X"], drawn.stars.catalogue["Y"]
    brightest = np.unravel_index(drawn.image.argmax(), drawn.image.shape)
    assert (brightest[0] + 1, brightest[1] + 1) == pytest.approx((y, x), abs=1)
    np.testing.assert_allclose([x, y], np.round([x, y], 3), rtol=0, atol=1e-12)


def test_weight__is_the_noise_of_the_empty_sky(tiny: Tiny) -> None:
    survey = tiny(*CLEAN, "simulate.size.stars=0", "simulate.size.galaxies=0")
    drawn = draw_ccd(survey, exposure=0, ccd=1)
    chi = (drawn.image - sky(survey)) * np.sqrt(drawn.weight)
    assert chi.var() == pytest.approx(1, abs=5 * np.sqrt(2 / chi.size))


def test_mask__flags_what_is_spoilt_and_the_catalogue_what_is_saturated(tiny: Tiny) -> None:
    survey = tiny(
        *CLEAN[:1],
        "simulate.stars.flux_minimum.value=5e6",
        "simulate.stars.flux_maximum.value=6e6",
    )
    drawn = draw_ccd(survey, exposure=0, ccd=1)
    saturated = (drawn.mask & MaskBit.SATURATED) > 0
    assert saturated.sum() >= 4
    np.testing.assert_array_equal(saturated, drawn.image >= np.float32(200000 / 3.48))
    assert (drawn.stars.catalogue["FLAGS"] == 4).all()
    assert (drawn.galaxies.catalogue["FLAGS"] == 0).all()


def test_catalogue__flags_a_core_that_the_edge_cuts(tiny: Tiny) -> None:
    survey = tiny(
        "instrument.detector.columns=24",
        "instrument.detector.rows=24",
        "ingest.stars.stamp_size=21",
        "ingest.galaxies.stamp_size=21",
        "simulate.margin.value=0",
        "simulate.size.stars=20",
        "simulate.size.galaxies=0",
        "simulate.stars.separation.value=0",
        "simulate.truth.psf=false",
    )
    stars = draw_ccd(survey, exposure=0, ccd=1).stars
    places = np.round(np.stack([stars.truth["X"], stars.truth["Y"]]))
    cut = ((places < 4) | (places > 21)).any(axis=0)
    assert 0 < cut.sum() < 20
    np.testing.assert_array_equal((stars.catalogue["FLAGS"] & 8) > 0, cut)


def test_galaxy__is_wider_than_the_psf_and_holds_its_flux(tiny: Tiny) -> None:
    survey = tiny(
        *CLEAN,
        "simulate.size.stars=0",
        "simulate.size.galaxies=1",
        "simulate.galaxies.flux_minimum.value=1e7",
        "simulate.galaxies.flux_maximum.value=1.1e7",
        "simulate.galaxies.half_light_radius_scatter.value=0",
        "simulate.margin.value=40",
        "instrument.detector.saturation=null",
    )
    drawn = draw_ccd(survey, exposure=0, ccd=1)
    truth = drawn.galaxies.truth
    light = drawn.image - sky(survey)
    assert 0.96 < light.sum() / truth["FLUX"][0] < 1.001  # the wings reach beyond 3.2 arcsec
    rows, columns = np.indices(light.shape)
    radius = np.hypot(columns + 1 - truth["X"][0], rows + 1 - truth["Y"][0])
    half = light[radius < 3].sum() / light.sum()  # 3 pixels are its half-light radius
    assert 0.25 < half < 0.5
    assert truth["MODEL"][0] == "sersic"


def test_starless_ccd__keeps_two_stars_and_its_galaxies(tiny: Tiny) -> None:
    survey = tiny("simulate.defects.starless=[[1,3]]", "simulate.truth.psf=false")
    counts = {
        unit: len(draw_ccd(survey, exposure=unit[0], ccd=unit[1]).stars.truth["ID"])
        for unit in ((0, 3), (1, 3), (1, 2))
    }
    assert counts == {(0, 3): 4, (1, 3): 2, (1, 2): 4}


def test_ccd__is_the_same_whenever_drawn_and_its_own(tiny: Tiny) -> None:
    survey = tiny()
    first, again = (draw_ccd(survey, exposure=1, ccd=2) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    for unit in ({"exposure": 0, "ccd": 2}, {"exposure": 1, "ccd": 3}):
        assert (draw_ccd(survey, **unit).image != first.image).mean() > 0.9
    other_seed = survey.simulate.model_copy(update={"seed": 1})
    other = survey.model_copy(update={"simulate": other_seed})
    assert (draw_ccd(other, exposure=1, ccd=2).image != first.image).mean() > 0.9


def test_survey__without_a_recipe_is_a_clear_error(tiny: Tiny) -> None:
    survey = tiny().model_copy(update={"simulate": None})
    with pytest.raises(ConfigError, match="'toy' has no `simulate` section"):
        draw_ccd(survey, exposure=0, ccd=1)


def test_spectra__make_red_objects_wider_than_blue_ones(tiny) -> None:
    survey = tiny(
        *(f"simulate.stars.spectra.{name}=0" for name in "KGF"),
        "simulate.optics.wavefront_error.value=0",
        "simulate.optics.exposure_scatter.value=0",
        "simulate.optics.defocus_scatter.value=0",
        "simulate.size.stars=6",
    )
    drawn = draw_ccd(survey, exposure=0, ccd=1)
    names = drawn.stars.truth["SED"]
    np.testing.assert_array_equal(drawn.stars.catalogue["SED"], names)
    assert set(names) == {"A", "M"}
    centre = drawn.stars.psf.max(axis=(1, 2))
    assert centre[names == "A"].min() > 1.05 * centre[names == "M"].max()
