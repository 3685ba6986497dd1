"""A population: learnt from sums that add up, stored as arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learnt_galaxies import gaussian_psf, observed, population

from psfscale.deconvolve.learnt.learn import contribution, first_prior, learn_prior, learn_sums
from psfscale.deconvolve.learnt.prior import Prior, ProfileSums, vague_prior
from psfscale.deconvolve.learnt.profile import WIDTHS
from psfscale.deconvolve.learnt.settings import N_SUMS, LearntSettings
from psfscale.errors import InputError

SETTINGS = LearntSettings(n_rounds=3)
STACK = observed(population(48, seed=11), gaussian_psf(), sigma=1.0, seed=12)


def test_vague_prior__has_modes_that_keep_the_flux():
    prior = vague_prior(0.5)
    assert float(prior.mean[:-1].sum()) == pytest.approx(1)
    assert float(prior.modes.sum(0).abs().max()) < 1e-10
    eigenvalues = torch.linalg.eigvalsh(prior.population)
    assert bool((eigenvalues > 0).all())


def test_contribution__adds_up_over_blocks_in_any_order():
    prior = first_prior(STACK, SETTINGS)
    whole, _ = contribution(STACK, prior, settings=SETTINGS)
    parts = [
        contribution(STACK.select(slice(i, i + 16)), prior, settings=SETTINGS)[0]
        for i in (32, 0, 16)
    ]
    total = parts[0] + (parts[1] + parts[2])
    assert total.count == whole.count
    torch.testing.assert_close(total.first, whole.first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total.second, whole.second, rtol=1e-5, atol=1e-5)


def test_sums__weigh_a_galaxy_less_that_is_none_of_the_family():
    y, x = np.mgrid[:33, :33]
    ring = 40 * np.exp(-((np.hypot(y - 16, x - 16) - 8) ** 2) / 4)
    truth = np.stack([*population(4, seed=13), ring])
    stack = observed(truth, gaussian_psf(), sigma=1.0, seed=14)
    prior = learn_prior([STACK], settings=SETTINGS)
    sums, fit = contribution(stack, prior, settings=LearntSettings(fast=True))
    assert bool(fit.converged.all())
    assert float(fit.excess[-1]) > 30
    assert sums.count == pytest.approx(4, abs=0.05)


def test_first_prior__of_the_fast_fit_has_no_twist():
    fast = LearntSettings(fast=True, n_rounds=2)
    assert not first_prior(STACK, fast).twist
    assert not learn_prior([STACK], settings=fast).twist
    assert learn_prior([STACK], settings=SETTINGS).twist


def test_sums__are_the_same_after_a_row_of_numbers():
    sums, _ = contribution(STACK, first_prior(STACK, SETTINGS), settings=SETTINGS)
    row = sums.vector()
    assert len(row) == N_SUMS
    again = ProfileSums.from_vector(row)
    assert torch.equal(again.vector(), row)
    torch.testing.assert_close(again.prior().covariance, sums.prior().covariance)


def test_sums__of_no_galaxy_make_no_prior():
    with pytest.raises(InputError, match="at least one galaxy, got none"):
        ProfileSums.from_vector(torch.zeros(N_SUMS)).prior()


def test_learn_prior__of_samples_learnt_apart_is_that_of_all_together():
    together = learn_prior([STACK], settings=SETTINGS)
    apart = [
        learn_sums([STACK.select(slice(i, i + 12))], settings=SETTINGS) for i in (0, 12, 24, 36)
    ]
    pooled = (apart[0] + apart[1] + apart[2] + apart[3]).prior()
    once = SETTINGS.model_copy(update={"n_rounds": 1})
    shared = learn_sums([STACK], settings=once, prior=pooled).prior()
    # Two ways to one maximum: within a third of the population's spread over sqrt(n), n = 48.
    allowed = float(together.covariance[-1, -1] / 48) ** 0.5 / 3
    assert float(shared.mean[-1]) == pytest.approx(float(together.mean[-1]), abs=allowed)
    assert shared.ellipticity == pytest.approx(together.ellipticity, rel=0.1)


def test_learn_prior__finds_the_population():
    prior = learn_prior([STACK.select(slice(0, 20)), STACK.select(slice(20, 48))])
    assert prior.n_galaxies >= 46
    # Logarithmic ellipticity is half a small distortion: 0.25 / 2. n = 48 (seed 11): ± 10 %.
    assert prior.ellipticity**0.5 == pytest.approx(0.13, abs=0.04)
    # Uniform within half a pixel, and three galaxies' worth of the vague prior's 1 pixel.
    assert prior.centre == pytest.approx((48 / 12 + 3 * 1) / 51, rel=0.25)
    assert float(prior.mean[:-1].sum()) == pytest.approx(1)


def test_learn_prior__of_no_galaxies_is_refused():
    with pytest.raises(InputError, match="at least one galaxy, got none"):
        learn_prior([STACK.select(slice(0, 0))])


def test_arrays__bring_the_prior_back():
    prior = learn_prior([STACK.select(slice(0, 12))], settings=LearntSettings(n_rounds=1))
    again = Prior.from_arrays({k: np.asarray(v) for k, v in prior.arrays().items()})
    torch.testing.assert_close(again.covariance, prior.covariance)
    torch.testing.assert_close(again.mean, prior.mean)
    assert again.centre == prior.centre


def test_prior__of_another_ladder_is_refused():
    n = len(WIDTHS)
    with pytest.raises(InputError, match=rf"a prior has a mean \({n + 1},\)"):
        Prior(
            mean=torch.zeros(n),
            covariance=torch.eye(n),
            ellipticity=0.1,
            gradient=0.1,
            alignment=0.0,
            centre=1.0,
        )
