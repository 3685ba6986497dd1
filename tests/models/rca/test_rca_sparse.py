"""RCA's sparse step: its cost, its minimum and the laws of its operators."""

import cvxpy
import numpy as np
import pytest
import torch

from psfscale.kernels.spectral import frequency_grid
from psfscale.models.dictionary import dictionary
from psfscale.models.rca.field import Field
from psfscale.models.rca.prior import FieldPrior, RowPrior
from psfscale.models.rca.ridge import FieldProblem
from psfscale.models.rca.settings import RCASettings
from psfscale.models.rca.sparse import PositionImages, solve_sparse
from psfscale.models.rca.stars import StarPixels, StarValues

SHAPE = (6, 5)
N_STARS, RANK = 6, 2
SMOOTH = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
CHOICES = [
    {"transform": "starlet", "n_scales": 2},
    {"transform": "biorthogonal", "n_scales": 1},
    {"transform": "user", "filters": np.stack([np.pad([[1.0]], 1) - SMOOTH, SMOOTH])},
]


class Scene:
    """Six stars of a field of two components, in a float64 problem of 198 unknowns."""

    def __init__(self, *, masked=False, band_limit=None, seed=4):
        self.rng = np.random.default_rng(seed)
        self.grid = frequency_grid(SHAPE, upsampling=2, band_limit=band_limit)
        self.n = int(np.prod(self.grid.fine_shape))
        x = self.rng.uniform(-1, 1, N_STARS)
        functions = torch.from_numpy(np.stack([np.ones(N_STARS), x], 1))
        self.values = StarValues(
            flux=torch.from_numpy(self.rng.uniform(60, 160, N_STARS)),
            dy=torch.from_numpy(3 + self.rng.uniform(-0.5, 0.5, N_STARS)),
            dx=torch.from_numpy(2 + self.rng.uniform(-0.5, 0.5, N_STARS)),
        )
        # Functions orthonormal in the noise metric, as the fit has them.
        weight = torch.ones(N_STARS, *SHAPE, dtype=torch.float64)
        if masked:
            weight = torch.from_numpy(self.rng.uniform(0.2, 1, weight.shape))
            weight[1, 2:4, 3] = 0
        importance = weight.flatten(1).amax(1) * self.values.flux**2 / self.grid.pixel_ratio
        factor = torch.linalg.cholesky(functions.T @ (importance[:, None] * functions))
        self.mixing = torch.linalg.inv(factor).T
        self.basis = functions @ self.mixing
        truth = self.basis @ torch.linalg.solve(self.mixing, self.profiles().flatten(1))
        spectra = self.grid.coefficients(truth.reshape(N_STARS, *self.grid.fine_shape))
        spectra = spectra * self.grid.phases(self.values.dy, self.values.dx)
        clean = self.values.flux[:, None, None] * self.grid.sample(spectra)
        noise = torch.from_numpy(self.rng.normal(size=clean.shape)) / weight.clamp(0.1).sqrt()
        self.pixels = StarPixels(
            image=torch.where(weight > 0, clean + noise, 0.0),
            weight=weight,
            full_weight=weight.flatten(1).amax(1),
        )
        self.field = Field(
            coefficients=0.8
            * self.grid.coefficients(
                torch.linalg.solve(self.mixing, self.profiles().flatten(1)).reshape(
                    RANK, *self.grid.fine_shape
                )
            ),
            mixing=self.mixing,
            basis=self.basis,
        )
        self.problem = FieldProblem.of(
            self.field, self.pixels, self.values, grid=self.grid, weight=self.pixels.full_weight
        )
        self.identity = self.grid.coefficients(
            torch.eye(self.n, dtype=torch.float64).reshape(self.n, *self.grid.fine_shape)
        )

    def profiles(self):
        """A round PSF with dark wings and a slope of it over the field, on pixel (0, 0)."""
        y, x = (
            torch.fft.fftfreq(n, 1 / p, dtype=torch.float64)
            for n, p in zip(self.grid.fine_shape, SHAPE, strict=True)
        )
        r2 = y[:, None] ** 2 + x[None, :] ** 2
        return torch.stack([torch.exp(-r2 / 2), 0.2 * (r2 - 1) * torch.exp(-r2 / 2)])

    def prior(self):
        y = torch.linspace(0.2, 3, self.grid.fine_shape[0], dtype=torch.float64)
        variance = (50 * torch.exp(-2 * y))[None, :, None].expand(RANK, *self.grid.fine_shape)
        pattern = (
            self.field.coefficients[:1]
            / self.grid.inner(self.field.coefficients[:1], self.field.coefficients[:1]).sqrt()
        )
        rows = RowPrior(
            patterns=pattern,
            turn=torch.eye(RANK, dtype=torch.float64),
            variance=torch.tensor([[1e3], [0.05]], dtype=torch.float64),
        )
        return FieldPrior(variance=variance.clone(), rows=rows)

    def design(self):
        """Stamps of every fine pixel of every component, in noise units: (pixel, unknown)."""
        spectra = self.identity * 1.0
        columns = []
        for k in range(RANK):
            for i in range(N_STARS):
                phase = self.grid.phases(self.values.dy[i], self.values.dx[i])
                stamp = self.grid.sample(spectra * phase) * self.values.flux[i] * self.basis[i, k]
                columns.append((self.pixels.weight[i].sqrt() * stamp).flatten(1))
        rows = torch.stack(columns).reshape(RANK, N_STARS, self.n, -1)
        return rows.permute(1, 3, 0, 2).reshape(-1, RANK * self.n).numpy()

    def data(self):
        return (self.pixels.weight.sqrt() * self.pixels.image).flatten().numpy()

    def analysis(self, bank):
        """Bands of every fine pixel: (coefficient, pixel), per band."""
        return bank.forward(self.identity).permute(1, 2, 3, 0).flatten(1, 2).numpy()


def settings_of(choice, **more):
    return RCASettings(**{"threshold": 2.0, "n_reweights": 0, **choice, **more})


def solved(scene, settings, *, tolerance=1e-4):
    rows = scene.basis / scene.basis.norm(dim=1, keepdim=True)
    return rows, solve_sparse(
        scene.field,
        scene.problem,
        scene.prior(),
        positions=rows,
        settings=settings,
        tolerance=tolerance,
        max_iterations=20000,
    )


def generic(scene, settings, rows):
    """The minimum by an interior-point solver, from the definition of the problem alone."""
    prior, bank = scene.prior(), dictionary(scene.grid, settings)
    # What of the images the grid's frequencies span.
    kept = scene.grid.image(scene.identity).flatten(1).numpy()
    values, vectors = np.linalg.eigh(kept)
    span = vectors[:, values > 0.5]
    free = [cvxpy.Variable(span.shape[1]) for _ in range(RANK)]
    image = [span @ f for f in free]
    stacked = cvxpy.hstack(image)
    sigma = bank.noise((prior.variance / (prior.variance + 1)) ** 2)
    seen = bank.forward(scene.field.coefficients).abs()
    limit = (settings.threshold * sigma / (1 + seen / sigma)).flatten(2).numpy()
    cost = 0.5 * cvxpy.sum_squares(scene.design() @ stacked - scene.data())
    pattern = scene.grid.image(prior.rows.patterns[0]).flatten().numpy()
    phi = scene.analysis(bank)
    for k in range(RANK):
        root = 1 / np.sqrt(prior.variance[k].flatten().numpy())
        cost += 0.5 * cvxpy.sum_squares(cvxpy.multiply(root, image[k]))
        cost += 0.5 / float(prior.rows.variance[k, 0]) * cvxpy.square(pattern @ image[k])
        for band in range(len(phi) - 1):
            cost += cvxpy.sum(cvxpy.multiply(limit[k, band], cvxpy.abs(phi[band] @ image[k])))
    positive = (
        [sum(float(row[k]) * image[k] for k in range(RANK)) >= 0 for row in rows]
        if settings.positivity
        else []
    )
    problem = cvxpy.Problem(cvxpy.Minimize(cost), positive)
    problem.solve(solver=cvxpy.CLARABEL)

    def cost_at(images):
        for k in range(RANK):
            free[k].value = span.T @ images[k]
        return float(cost.value)

    return np.stack([i.value for i in image]), problem.value, cost_at


@pytest.mark.parametrize(
    ("choice", "positivity"),
    [(CHOICES[0], False), *((choice, True) for choice in CHOICES)],
    ids=["starlet, free", "starlet", "biorthogonal", "user"],
)
def test_solve_sparse__is_the_minimum_that_an_interior_point_solver_finds(choice, positivity):
    scene = Scene()
    settings = settings_of(choice, positivity=positivity)
    rows, ours = solved(scene, settings)
    assert ours.convergence.converged
    theirs, least, cost_at = generic(scene, settings, rows)
    images = scene.grid.image(ours.field.coefficients).flatten(1).numpy()
    assert cost_at(images) <= least + 1e-5 * abs(least)
    assert np.linalg.norm(images - theirs) < 1e-3 * np.linalg.norm(theirs)
    if positivity:
        assert (rows.numpy() @ images).min() > -1e-5 * np.abs(images).max()
    start = scene.grid.image(scene.field.coefficients).flatten(1).numpy()
    assert np.linalg.norm(start - theirs) > 0.05 * np.linalg.norm(theirs)


def test_solve_sparse__with_masks_has_its_minimum_where_the_stars_cost_has():
    # The filled stars majorise the weighted cost: repeated, they lead to its own minimum.
    scene = Scene(masked=True)
    settings = settings_of(CHOICES[0], threshold=0.0)
    for _ in range(20):
        rows, ours = solved(scene, settings, tolerance=1e-2)
        scene.field = ours.field
        scene.problem = FieldProblem.of(
            ours.field,
            scene.pixels,
            scene.values,
            grid=scene.grid,
            weight=scene.pixels.full_weight,
        )
    theirs, least, cost_at = generic(scene, settings, rows)
    images = scene.grid.image(ours.field.coefficients).flatten(1).numpy()
    assert cost_at(images) <= least * (1 + 1e-4)
    assert np.linalg.norm(images - theirs) < 0.01 * np.linalg.norm(theirs)


@pytest.mark.parametrize("tolerance", [1.0, 0.1, 1e-3])
def test_solve_sparse__residual_bounds_its_duality_gap(tolerance):
    scene = Scene()
    settings = settings_of(CHOICES[0], positivity=False)
    prior, grid = scene.prior(), scene.grid
    ours = solve_sparse(
        scene.field,
        scene.problem,
        prior,
        positions=scene.basis,
        settings=settings,
        tolerance=tolerance,
        max_iterations=20000,
    )
    c = ours.field.coefficients
    residual = scene.problem.gram.forward(c) - scene.problem.right
    gap = 0.0
    for term, dual in zip(ours.terms, ours.duals, strict=True):
        residual = residual + term.operator.adjoint(dual)
        # Fenchel-Young: g(z) + g*(u) − ⟨u, z⟩, the supremum found by the proximal operator.
        z = term.operator.forward(c)
        gap += float(_fenchel_young(term, z, dual))
    assert gap >= -1e-9
    gap += 0.5 * float(grid.inner(residual, _inverse(scene, residual)))
    noise = np.sqrt(RANK * scene.n)
    assert gap < tolerance * noise
    if tolerance < 0.01:
        assert gap < 1e-3


def _fenchel_young(term, z, dual):
    """g(z) + g*(u) − ⟨u, z⟩ for the quadratic terms and for the box."""
    big = torch.full_like(dual, 1e9)
    bound = term.prox_conjugate(big, 0.0)
    if bool((bound == big).all()):
        variance = (1e9 / term.prox_conjugate(big, 1.0)) - 1
        return (0.5 * z**2 / variance + 0.5 * variance * dual**2 - z * dual).sum()
    return (bound * z.abs() - dual * z).sum()


def _inverse(scene, right):
    """G⁻¹ by a dense solve."""
    n = RANK * scene.n
    c = torch.zeros(n, RANK, len(scene.grid), dtype=torch.complex128)
    for k in range(RANK):
        c[k * scene.n : (k + 1) * scene.n, k] = scene.identity
    dense = torch.stack([scene.grid.image(scene.problem.gram.forward(v)).flatten() for v in c])
    answer = torch.linalg.solve(dense, scene.grid.image(right).flatten())
    return scene.grid.coefficients(answer.reshape(RANK, *scene.grid.fine_shape))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("band_limit", [None, 0.8])
def test_field_problem__has_the_gradient_of_the_weighted_cost(masked, band_limit):
    scene = Scene(masked=masked, band_limit=band_limit)
    g = torch.Generator().manual_seed(1)
    shape = (RANK, *scene.grid.fine_shape)
    step = scene.grid.coefficients(torch.randn(shape, generator=g, dtype=torch.float64))

    def cost(c):
        spectra = (scene.basis.to(c.dtype) @ c) * scene.grid.phases(
            scene.values.dy, scene.values.dx
        )
        model = scene.values.flux[:, None, None] * scene.grid.sample(spectra)
        return 0.5 * float((scene.pixels.weight * (scene.pixels.image - model) ** 2).sum())

    c, h = scene.field.coefficients, 1e-3
    numeric = (cost(c + h * step) - cost(c - h * step)) / (2 * h)
    gradient = scene.problem.gram.forward(c) - scene.problem.right
    assert float(scene.grid.inner(gradient, step)) == pytest.approx(numeric, rel=1e-7)


@pytest.mark.parametrize("case", [((7, 10), 3, None), ((9, 11), 2, 0.7)])
def test_position_images__have_their_exact_adjoint_and_norm(case):
    grid = frequency_grid(case[0], upsampling=case[1], band_limit=case[2])
    g = torch.Generator().manual_seed(2)
    rows = torch.randn(5, 3, generator=g, dtype=torch.float64)
    operator = PositionImages(grid=grid, rows=rows)
    c = grid.coefficients(torch.randn(3, *grid.fine_shape, generator=g, dtype=torch.float64))
    images = operator.forward(c)
    other = torch.randn(images.shape, generator=g, dtype=torch.float64)
    left, right = (images * other).sum(), grid.inner(c, operator.adjoint(other))
    assert abs(left - right) < 1e-10 * images.norm() * other.norm()
    assert images.norm() <= operator.norm() * grid.inner(c, c).sqrt() * (1 + 1e-12)


def test_row_prior__has_its_exact_adjoint_and_keeps_norms():
    scene = Scene(band_limit=0.8)
    rows = scene.prior().rows
    g = torch.Generator().manual_seed(2)
    shape = (RANK, *scene.grid.fine_shape)
    c = scene.grid.coefficients(torch.randn(shape, generator=g, dtype=torch.float64))
    a = torch.randn(RANK, 1, generator=g, dtype=torch.float64)
    left = float((rows.forward(c, scene.grid) * a).sum())
    assert left == pytest.approx(float(scene.grid.inner(c, rows.adjoint(a))), rel=1e-10)
    back = rows.adjoint(a)
    assert float(scene.grid.inner(back, back)) == pytest.approx(float((a**2).sum()), rel=1e-10)
