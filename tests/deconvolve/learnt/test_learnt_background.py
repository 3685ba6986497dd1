"""Levels under galaxies: found and integrated out where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learnt_galaxies import gaussian_psf, observed, population

from psfscale.deconvolve.learnt.background import N_MOMENTS, Sky
from psfscale.deconvolve.learnt.band import Band, BandSight
from psfscale.deconvolve.learnt.fourier import Canvas
from psfscale.deconvolve.learnt.learn import learn_prior
from psfscale.deconvolve.learnt.restore import restore
from psfscale.deconvolve.learnt.settings import LearntSettings
from psfscale.deconvolve.stack import galaxy_stack

TRUTH = population(60, seed=31)
STACK = observed(TRUTH, gaussian_psf(), sigma=1.0, seed=32)
LEVELS = torch.from_numpy(np.random.default_rng(33).normal(0.6, 0.25, 60)).to(STACK.image)
LIFTED = galaxy_stack(STACK.image + LEVELS[:, None, None], STACK.psf, sigma=1.0)
MODES = pytest.mark.parametrize("fast", [False, True])


def settings(*, fast: bool, sky: bool = True) -> LearntSettings:
    return LearntSettings(fast=fast, sky=sky, n_rounds=3, error=False)


@pytest.fixture(scope="module")
def priors():
    return {fast: learn_prior([LIFTED], settings=settings(fast=fast)) for fast in (False, True)}


def dense(level: torch.Tensor, variance: float) -> torch.Tensor:
    """Covariance of noise and level, for one galaxy."""
    return torch.eye(len(level), dtype=level.dtype) + variance * torch.outer(level, level)


def test_whitened__gives_products_under_the_covariance_with_the_level():
    rng = torch.Generator().manual_seed(1)
    level = torch.rand(2, 7, generator=rng, dtype=torch.float64)
    values = torch.randn(2, 3, 7, generator=rng, dtype=torch.float64)
    white = Sky(variance=1.7).whitened(values, level)
    for i in range(2):
        wanted = values[i] @ torch.linalg.inv(dense(level[i], 1.7)) @ values[i].T
        torch.testing.assert_close(white[i] @ white[i].T, wanted)
    torch.testing.assert_close(white[:, 1], Sky(variance=1.7).whitened(values[:, 1], level))


def test_expected__is_the_posterior_mean():
    rng = torch.Generator().manual_seed(2)
    level, residual = torch.rand(2, 1, 9, generator=rng, dtype=torch.float64)
    gain = 1.7 * torch.linalg.solve(dense(level[0], 1.7), level[0])
    found = Sky(variance=1.7).expected(residual, level)
    torch.testing.assert_close(found[0], gain @ residual[0])


def test_no_levels__are_none_and_leave_the_data_alone():
    values = torch.randn(2, 5)
    assert Sky.of(torch.zeros(N_MOMENTS)) == Sky()
    assert Sky().whitened(values, torch.ones(2, 5)) is values


@MODES
def test_prior__learns_the_levels_of_a_catalogue(priors, fast):
    prior = priors[fast]
    assert prior.sky_mean == pytest.approx(float(LEVELS.mean()), abs=0.08)
    assert prior.sky_variance**0.5 == pytest.approx(float(LEVELS.std()), rel=0.35)


@MODES
def test_prior__of_a_catalogue_without_levels_has_none(fast):
    prior = learn_prior([STACK], settings=settings(fast=fast))
    assert (prior.sky_mean, prior.sky_variance) == (0.0, 0.0)


@MODES
def test_restored_flux__is_that_of_the_galaxies_alone(priors, fast):
    def off(stack, prior, chosen):
        flux = restore(stack, prior, settings=chosen).image.sum((1, 2))
        return float((flux.double() / torch.from_numpy(TRUTH.sum((1, 2))) - 1).median())

    chosen, blind = settings(fast=fast), settings(fast=fast, sky=False)
    alone = off(STACK, learn_prior([STACK], settings=blind), blind)
    assert off(LIFTED, priors[fast], chosen) == pytest.approx(alone, abs=0.03)
    assert off(LIFTED, learn_prior([LIFTED], settings=blind), blind) > alone + 0.2


def test_restored_galaxies__leave_no_level_in_the_residuals(priors):
    chosen = settings(fast=False)
    found = restore(LIFTED, priors[False], settings=chosen)
    alone = restore(STACK, learn_prior([STACK], settings=chosen), settings=chosen)
    assert float(found.chi2.median()) == pytest.approx(float(alone.chi2.median()), abs=0.03)
    assert int((found.flags != alone.flags).sum()) <= 3


def test_band_sight__without_sky_has_no_level_left():
    canvas = Canvas(shape=STACK.shape, psf_shape=(21, 21))
    band = Band.of(canvas)
    sky = Sky(mean=float(LEVELS.mean()), variance=1.0)
    lifted, alone = (BandSight.of(s, band, band.gaussian(0.5), sky) for s in (LIFTED, STACK))
    truth = torch.from_numpy(TRUTH).to(STACK.image)
    clean = galaxy_stack(truth, STACK.psf, sigma=1.0)
    blurred = band.spectra(clean.image) * band.spectra(STACK.psf)
    cleared = lifted.without_sky(blurred)
    left = ((cleared.data - alone.raw) * alone.level).sum(1) / (alone.level**2).sum(1)
    assert cleared.sky == Sky()
    assert float(left.std()) < 0.05
    assert float(left.std()) < 0.2 * float(LEVELS.std())
