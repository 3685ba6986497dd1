import cvxpy
import numpy as np
import pytest
import torch
from sprite_scene import stamps

from psfscale.kernels.spectral import frequency_grid
from psfscale.models.dictionary import dictionary
from psfscale.models.sprite.data import Stamps, StampTerm
from psfscale.models.sprite.settings import SPRITESettings
from psfscale.models.sprite.sparse import coefficient_noise, corrected


def _problem(*, uniform):
    """A small term, a rough first guess, and the settings of a tight solve."""
    images, shifts, flux, sigma = stamps(1, 3, snr=60, seed=2, size=8)
    grid = frequency_grid((8, 8), upsampling=2)
    weight = np.broadcast_to(1 / sigma[..., None, None] ** 2, images.shape).copy()
    if not uniform:
        weight *= np.random.default_rng(4).uniform(0.3, 1, weight.shape)
        weight[0, 1, 2, 5] = 0
    term = StampTerm.at(
        Stamps(image=torch.as_tensor(images), weight=torch.as_tensor(weight)),
        grid=grid,
        amplitude=torch.as_tensor(flux) * grid.pixel_ratio,
        dy=torch.as_tensor(shifts[..., 0]) + 4,
        dx=torch.as_tensor(shifts[..., 1]) + 4,
        uniform=uniform,
    )
    cycles = (grid.cycles**2).sum(0)
    first = torch.exp(-2 * np.pi**2 * 1.1**2 * cycles)[None].to(torch.complex128)
    first = first / np.sqrt(np.prod(grid.fine_shape))
    settings = SPRITESettings(
        transform="starlet",
        n_scales=2,
        threshold=2.0,
        n_reweights=0,
        tolerance=1e-9,
        max_iterations=20000,
    )
    return term, first, settings


def _dense(term, settings):
    """The problem in matrices: M, y of unit noise, ΦΔ and Λ, for images on the fine grid."""
    grid = term.grid
    n = int(np.prod(grid.fine_shape))
    basis = grid.coefficients(torch.eye(n, dtype=torch.float64).reshape(n, *grid.fine_shape))
    root = term.stamps.weight.sqrt()
    design = (root * term.forward(basis[:, None, :]))[:, 0].reshape(n, -1).T.numpy()
    filters = dictionary(grid, settings).filters
    phi = grid.image(basis[:, None, :] * filters).reshape(n, -1).T.numpy()
    noise = coefficient_noise(term, filters, propagated=False)
    scale = noise.expand(1, len(filters), *grid.fine_shape).reshape(-1).numpy()
    data = (root * term.stamps.image).reshape(-1).numpy()
    return design, data, phi, settings.threshold * scale


def _generic(design, data, phi, bound, guess):
    """The minimum by an interior-point solver, from the definition of the problem alone."""
    delta = cvxpy.Variable(design.shape[1])
    cost = 0.5 * cvxpy.sum_squares(data - design @ (guess + delta))
    cost += cvxpy.norm1(cvxpy.multiply(bound, phi @ delta))
    cvxpy.Problem(cvxpy.Minimize(cost), [guess + delta >= 0]).solve(solver=cvxpy.CLARABEL)
    return delta.value


def _cost(delta, design, data, phi, bound, guess):
    rest = data - design @ (guess + delta)
    return 0.5 * rest @ rest + np.abs(bound * (phi @ delta)).sum()


@pytest.mark.parametrize("uniform", [True, False])
def test_corrected__is_the_minimum_that_an_interior_point_solver_finds(uniform):
    term, first, settings = _problem(uniform=uniform)
    ours = corrected(
        term, first, settings=settings, noise_norm=torch.ones(1).double(), coarse_free=False
    )
    assert bool(ours.converged.all())
    guess = term.grid.image(first)[0].reshape(-1).numpy()
    problem = (*_dense(term, settings), guess)
    delta = ours.psf[0].reshape(-1).numpy() - guess
    # The image splits off positivity; the band-limited side of the splitting is the same.
    theirs = _generic(*problem)
    assert (guess + delta).min() > -1e-12
    assert _cost(delta, *problem) <= _cost(theirs, *problem) * (1 + 1e-5)
    scale = np.linalg.norm(guess + theirs)
    assert np.linalg.norm(delta - theirs) < 1e-3 * scale
    assert np.linalg.norm(theirs) > 0.05 * scale


def test_corrected__reweighting_frees_large_coefficients():
    term, first, settings = _problem(uniform=True)
    costs = []
    for n in (0, 2):
        options = settings.model_copy(update={"n_reweights": n, "tolerance": 1e-4})
        psf = corrected(
            term, first, settings=options, noise_norm=torch.ones(1).double(), coarse_free=False
        ).psf
        rest = term.stamps.image - term.forward(term.grid.coefficients(psf))
        costs.append(float((term.stamps.weight * rest**2).sum()))
    assert costs[1] < costs[0]


def test_corrected__coarse_band_left_free_fits_closer():
    term, first, settings = _problem(uniform=True)
    options = settings.model_copy(update={"threshold": 50.0, "tolerance": 1e-4})
    costs = []
    for free in (False, True):
        psf = corrected(
            term, first, settings=options, noise_norm=torch.ones(1).double(), coarse_free=free
        ).psf
        rest = term.stamps.image - term.forward(term.grid.coefficients(psf))
        costs.append(float((term.stamps.weight * rest**2).sum()))
    assert costs[1] < costs[0]
