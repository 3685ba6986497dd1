"""Restored galaxies against their truth: images, fine grids, targets, masks, clumps."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
import torch
from learnt_galaxies import (
    BEAM,
    SIDE,
    draw,
    gaussian_psf,
    observed,
    pixel_error,
    population,
    sheared,
)

from psfscale.arrays import ObjectFlag
from psfscale.deconvolve.learnt.learn import deconvolve, learn_prior
from psfscale.deconvolve.learnt.restore import restore
from psfscale.deconvolve.learnt.settings import LearntSettings
from psfscale.deconvolve.stack import GalaxyStack, galaxy_stack
from psfscale.errors import ConfigError

TRUTH = population(40, seed=21)
PSF = gaussian_psf()
STACK = observed(TRUTH, PSF, sigma=1.0, seed=22)
PRIOR = learn_prior([STACK], settings=LearntSettings(n_rounds=3))
RESTORED = restore(STACK, PRIOR)


def test_restore__comes_near_the_truth():
    error = pixel_error(RESTORED.image.numpy(), TRUTH)
    before = pixel_error(STACK.image.numpy(), TRUTH)
    assert np.median(error) < 0.01
    assert np.median(error) < 0.05 * np.median(before)
    assert bool(RESTORED.converged.all())
    assert RESTORED.chi2.median().item() == pytest.approx(1, abs=0.05)


def test_restore__gives_galaxies_what_they_get_alone():
    part = restore(STACK.select(slice(7, 12)), PRIOR)
    torch.testing.assert_close(part.image, RESTORED.image[7:12], rtol=1e-3, atol=1e-2)


def test_restore__errors_tell_the_distance_to_the_truth():
    bright = 0.1 * TRUTH.max((1, 2), keepdims=True) < TRUTH
    z = (RESTORED.image.numpy() - TRUTH) / RESTORED.error.numpy()
    # 40 galaxies (seed 21) of some ten free parameters each.
    assert 0.6 < np.median(np.abs(z[bright])) / 0.6745 < 1.5


def test_restore__does_not_look_at_masked_pixels():
    image, mask = STACK.image[:6].clone(), torch.zeros(6, SIDE, SIDE, dtype=torch.bool)
    mask[:, 10:13, 12:15] = True
    spoiled = torch.where(mask, torch.nan, image)
    result = restore(galaxy_stack(spoiled, PSF, sigma=1.0, mask=mask), PRIOR)
    assert bool((result.flags & ObjectFlag.MASKED).bool().all())
    error = pixel_error(result.image.numpy(), TRUTH[:6])
    assert np.median(error) < 0.02


def test_restore__follows_each_galaxys_own_noise():
    rng = np.random.default_rng(23)
    sigma = torch.from_numpy(rng.choice([0.3, 1.0, 3.0], len(TRUTH))).float()
    extra = (sigma**2 - 0.3**2).clamp(min=0).sqrt()[:, None, None]
    quiet = observed(TRUTH, PSF, sigma=0.3, seed=24)
    noise = torch.from_numpy(rng.normal(size=quiet.image.shape)).float()
    mixed = galaxy_stack(quiet.image + extra * noise, PSF, sigma=sigma)
    error = pixel_error(restore(mixed, PRIOR).image.numpy(), TRUTH)
    levels = [np.median(error[(sigma == s).numpy()]) for s in (0.3, 1.0, 3.0)]
    assert levels[0] < levels[1] < levels[2]


def test_target__is_the_truth_seen_through_it():
    result = restore(STACK, PRIOR, settings=LearntSettings(target_fwhm=4.0))
    rng = np.random.default_rng(21)
    first = np.clip(rng.normal(0, 0.25, 2), -0.6, 0.6)
    radius = np.exp(rng.normal(0.9, 0.25))
    dy, dx = rng.uniform(-0.5, 0.5, 2)
    galaxy = galsim.Exponential(half_light_radius=radius, flux=1000.0).shear(
        e1=first[0], e2=first[1]
    )
    seen = draw(galsim.Convolve(galaxy.shift(dx, dy), galsim.Gaussian(fwhm=4.0)))
    assert pixel_error(result.image[:1].numpy(), seen[None])[0] < 0.01


def test_oversampling__restores_on_the_grid_of_the_psf():
    fine = 2
    shapes = [(0.2, 0.1), (-0.3, 0.2), (0.0, -0.2)]
    galaxy = galsim.Exponential(half_light_radius=2.5, flux=1000.0)
    profiles = [sheared(galaxy, *e) for e in shapes]
    blurred = [galsim.Convolve(p, galsim.Gaussian(sigma=1.6)) for p in profiles]
    image = np.stack([draw(p) for p in blurred])
    image += np.random.default_rng(25).normal(0, 0.5, image.shape)
    psf = gaussian_psf(1.6 * fine, 41)
    result = deconvolve(
        image.astype(np.float32), psf, sigma=0.5, oversampling=fine, resolution=BEAM * fine
    )
    # The centre of an even stamp is the pixel right of its middle; GalSim's is the middle.
    half = 0.5 / fine
    truth = np.stack(
        [draw(p.shift(half, half), side=fine * SIDE, scale=1 / fine) for p in profiles]
    )
    assert result.image.shape == truth.shape
    error = pixel_error(result.image, truth / fine**2)
    assert error.max() < 0.02


KNOT = galsim.Gaussian(sigma=BEAM, flux=60.0)


def test_clumps__are_restored_where_the_data_show_them():
    rng = np.random.default_rng(26)
    smooth = sheared(galsim.Exponential(half_light_radius=3.5, flux=1000.0), 0.2, 0.1)
    knots = [galsim.Gaussian(sigma=BEAM, flux=60.0).shift(*rng.normal(0, 3, 2)) for _ in range(5)]
    truth = np.stack([draw(smooth), draw(galsim.Sum([smooth, *knots]))])
    stack = observed(truth, PSF, sigma=0.1, seed=27)
    result = restore(stack, PRIOR)
    bare = restore(stack, PRIOR, settings=LearntSettings(clumps=False))
    assert float(result.clumpiness[0]) == 0 < float(result.clumpiness[1])
    with_clumps, without = (pixel_error(r.image.numpy(), truth) for r in (result, bare))
    assert with_clumps[0] == without[0]
    assert with_clumps[1] < 0.45 * without[1]


@pytest.mark.parametrize("fast", [False, True])
def test_clumps__of_bright_galaxies_are_not_lost_in_rounding(fast):
    rng = np.random.default_rng(33)
    smooth = sheared(galsim.Exponential(half_light_radius=3.5, flux=1000.0), 0.2, 0.1)
    truth = np.stack(
        [
            draw(galsim.Sum([smooth, *(knot.shift(*rng.normal(0, 3, 2)) for knot in [KNOT] * 5)]))
            for _ in range(6)
        ]
    )
    stack = observed(truth, PSF, sigma=0.01, seed=34)
    chosen = LearntSettings(fast=fast, error=False)
    together = restore(stack, PRIOR, settings=chosen)
    assert float(together.chi2.max()) < 2
    for i in range(6):
        alone = restore(stack.select(slice(i, i + 1)), PRIOR, settings=chosen).image[0]
        assert float((together.image[i] - alone).norm() / alone.norm()) < 0.01


def test_clumps__are_restored_whatever_the_pixels_weigh():
    rng = np.random.default_rng(29)
    smooth = sheared(galsim.Exponential(half_light_radius=3.5, flux=1000.0), 0.2, 0.1)
    knots = [galsim.Gaussian(sigma=BEAM, flux=60.0).shift(*rng.normal(0, 3, 2)) for _ in range(5)]
    truth = draw(galsim.Sum([smooth, *knots]))[None]
    stack = observed(truth, PSF, sigma=0.1, seed=30)
    weight = stack.weight.clone()
    weight[0, 0, 0] *= 0.5
    uneven = GalaxyStack(image=stack.image, weight=weight, psf=stack.psf)
    assert bool(stack.even[0])
    assert not bool(uneven.even[0])
    bare = restore(stack, PRIOR, settings=LearntSettings(clumps=False))
    without = pixel_error(bare.image.numpy(), truth)[0]
    for some in (stack, uneven):
        found = restore(some, PRIOR)
        assert float(found.clumpiness[0]) > 0
        assert pixel_error(found.image.numpy(), truth)[0] < 0.8 * without


def test_restore__flags_a_galaxy_with_a_neighbour():
    pair = np.stack([TRUTH[0], TRUTH[0] + np.roll(TRUTH[1], (10, -9), axis=(0, 1))])
    flags = restore(observed(pair, PSF, sigma=0.5, seed=28), PRIOR).flags & ObjectFlag.BLENDED
    assert flags.tolist() == [0, int(ObjectFlag.BLENDED)]


@pytest.mark.parametrize("unit", [1e-5, 1e5])
def test_restore__knows_no_unit_of_flux(unit):
    scaled = galaxy_stack(STACK.image[:4] * unit, PSF, sigma=unit)
    result = restore(scaled, PRIOR)
    torch.testing.assert_close(result.image / unit, RESTORED.image[:4], rtol=1e-2, atol=0.05)
    torch.testing.assert_close(result.error / unit, RESTORED.error[:4], rtol=2e-2, atol=0.02)


def test_restore__keeps_float64():
    double = GalaxyStack(
        image=STACK.image[:2].double(), weight=STACK.weight[:2].double(), psf=STACK.psf.double()
    )
    image = restore(double, PRIOR).image
    assert image.dtype == torch.float64
    torch.testing.assert_close(image.float(), RESTORED.image[:2], rtol=1e-2, atol=0.05)


def test_deconvolve__learns_from_few_galaxies():
    result = deconvolve(STACK.image[:2], PSF, sigma=1.0)
    assert np.median(pixel_error(result.image.numpy(), TRUTH[:2])) < 0.03


@pytest.mark.parametrize(
    ("option", "message"),
    [({"oversampling": 0}, "oversampling"), ({"rank": 3}, "rank")],
)
def test_deconvolve__refuses_settings_it_does_not_know(option, message):
    with pytest.raises(ConfigError, match=message):
        deconvolve(STACK.image[:2], PSF, sigma=1.0, **option)
