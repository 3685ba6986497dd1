"""RCA on frequency atoms: the choice from the stars, and fields that vary in them."""

import numpy as np
import pytest
import torch

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.errors import FitError
from psfscale.kernels.spectral import frequency_grid
from psfscale.models.rca.atoms import atoms_of, principal_amplitudes
from psfscale.models.rca.field import Field
from psfscale.models.rca.fit import fit_fields
from psfscale.models.rca.model import RCA
from psfscale.models.rca.settings import RCASettings
from psfscale.models.rca.stars import StarPixels, StarValues

SIZE = 1000.0
GRID = PixelGrid(shape=(30, 30), oversampling=2)
QUICK = {"upsampling": 2, "degree": 4, "n_rounds": 5, "n_scales": 2, "graph_nodes": 64}


def width(x, y):
    """Of the PSF at a position [pixel]; a wave that no polynomial of degree 4 holds."""
    return 1.6 * (1 + 0.15 * np.sin(x / 250) * np.cos(y / 300))


def draw(x, y, dy=0.0, dx=0.0, size=20, step=1.0):
    axis = (np.arange(size) - size // 2) * step
    up, along = (
        np.exp(-0.5 * ((axis - np.atleast_1d(d)[:, None]) / s[:, None]) ** 2)
        for d, s in ((dy, width(x, y)), (dx, 1.2 * np.ones_like(x)))
    )
    return up[:, :, None] * along[:, None, :]


def waving_stars(n, *, seed, snr=200.0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SIZE, (2, n))
    dy, dx = rng.uniform(-0.5, 0.5, (2, n))
    image = draw(x, y, dy, dx)
    image *= (snr * rng.uniform(0.5, 2, n) / np.sqrt((image**2).sum((1, 2))))[:, None, None]
    image += rng.normal(size=image.shape)
    weight = np.ones_like(image)
    weight[0, 3:6, 2:9] = 0
    return StarBatch(image=image.astype("f4"), weight=weight.astype("f4"), x=x, y=y)


def points(n=9, seed=9):
    x, y = np.random.default_rng(seed).uniform(50, 950, (2, n))
    return FieldPoints(x=x, y=y)


@pytest.fixture(scope="module")
def stars():
    return waving_stars(120, seed=1)


@pytest.fixture(scope="module", params=["graph", "hybrid"])
def fitted(request, stars):
    model = RCA(**QUICK, spatial=request.param)
    return model, model.fit(stars), stars


def test_principal_amplitudes__tell_a_pattern_that_stars_follow():
    # Stars a + b·z with z of the position: the first component is z, in noise σ, centred
    # nowhere and scaled by flux; what remains is noise.
    rng = np.random.default_rng(4)
    z = rng.normal(size=50)
    axis = np.arange(16) - 8
    round_ = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / 2.0**2)
    pattern = round_ * (axis[:, None] ** 2 - axis**2)
    pattern /= np.linalg.norm(pattern)
    image = 500 * round_ + 30 * z[:, None, None] * pattern + rng.normal(size=(50, 16, 16))
    stars = StarBatch(image=image, weight=np.ones_like(image), x=z, y=z)
    pixels = StarPixels.of([stars], dtype=torch.float64)
    grid = frequency_grid((16, 16), upsampling=1)
    place = torch.full((1, 50), 8.0, dtype=torch.float64)
    values = StarValues(flux=torch.full((1, 50), 500.0).double(), dy=place, dx=place)
    mean = grid.coefficients(torch.from_numpy(np.roll(round_, (-8, -8), (0, 1)))[None, None])
    field = Field(
        coefficients=mean,
        mixing=torch.ones(1, 1, 1).double(),
        basis=torch.ones(1, 50, 1).double(),
    )
    weight = torch.ones(1, 50).double()
    weight[0, 49] = 0
    found = principal_amplitudes(field, pixels, values, grid=grid, weight=weight)[0].numpy()
    assert found.shape == (50, 6)
    assert np.abs(found[49]).max() < 1e-9
    first = found[:49, 0] * np.sign(found[0, 0] * z[0])
    assert np.std(first - 30 * z[:49]) < 2.0
    assert np.linalg.norm(found[:, 1]) < 0.25 * np.linalg.norm(first)


def test_atoms_of__are_as_many_functions_as_polynomials_of_the_degree():
    rng = np.random.default_rng(3)
    x, y = torch.from_numpy(rng.uniform(0, SIZE, (2, 80)))
    amplitude = torch.stack([torch.sin(x / 150) * 20, torch.cos(y / 300) * 9], 1)
    for spatial, n_lead in (("graph", 1), ("hybrid", 3)):
        functions = atoms_of(
            x,
            y,
            importance=torch.ones(80).double(),
            amplitude=amplitude,
            degree=3,
            box=((0.0, SIZE), (0.0, SIZE)),
            settings=RCASettings(spatial=spatial, graph_nodes=64),
        )
        assert len(functions.lead.degrees) == n_lead
        assert functions(x.numpy(), y.numpy()).shape == (80, 10)
        assert functions.n_functions == 10


def errors(model):
    """Of the predictions between the stars, and of the mean PSF."""
    at = points(40)
    truth = draw(at.x, at.y, size=30, step=0.5)
    truth /= truth.sum((1, 2), keepdims=True)
    size = np.linalg.norm(truth, axis=(1, 2))
    return [
        (np.linalg.norm(psf - truth, axis=(1, 2)) / size).mean()
        for psf in (model.predict(at, GRID), truth.mean(0))
    ]


def test_rca__on_atoms_predicts_the_psf_between_the_stars(fitted):
    # 120 stars of S/N 100-400; seed 1.
    error, mean = errors(fitted[0])
    assert error < 0.6 * mean


def test_state__of_atoms_restores_the_same_bits(fitted):
    model, _, stars = fitted
    state = model.state()
    declared = RCA.state_arrays(model.settings, stars.stamp_shape)
    assert [(a.name, a.shape, a.dtype) for a in declared] == [
        (name, array.shape, str(array.dtype)) for name, array in state.items()
    ]
    again = RCA.from_state(state, model.settings)
    assert np.array_equal(model.predict(points(), GRID), again.predict(points(), GRID))


def test_state__holds_atoms_only_where_there_are_any():
    names = [
        {a.name for a in RCA.state_arrays(RCASettings(spatial=s, degree=d), (20, 20))}
        for s, d in (("polynomial", 3), ("hybrid", 0), ("graph", 3), ("hybrid", 1))
    ]
    assert [{"knots", "atoms"} <= n for n in names] == [False, False, True, True]
    assert all("knots" not in n for n in names[:2])


def test_predict__outside_the_stars_keeps_the_edge(fitted):
    model, _, stars = fitted
    (x0, x1), (y0, y1) = ((p.min(), p.max()) for p in (stars.x, stars.y))
    beyond = FieldPoints(x=np.array([-500.0, x1 + 9, 400]), y=np.array([300.0, 2e4, -70]))
    edge = FieldPoints(x=np.array([x0, x1, 400]), y=np.array([300.0, y1, y0]))
    assert np.array_equal(model.predict(beyond, GRID), model.predict(edge, GRID))


def test_predict__on_atoms_is_the_same_in_batches_and_alone(fitted):
    at = points()
    together = fitted[0].predict(at, GRID)
    alone = np.concatenate(
        [
            fitted[0].predict(FieldPoints(x=at.x[i : i + 1], y=at.y[i : i + 1]), GRID)
            for i in range(len(at.x))
        ]
    )
    assert np.allclose(together, alone, atol=1e-7)


@pytest.mark.parametrize("spatial", ["graph", "hybrid"])
def test_fit_fields__on_atoms_gives_each_ccd_what_it_gets_alone(spatial):
    settings = RCASettings(**{**QUICK, "degree": 2, "n_rounds": 4}, spatial=spatial)
    stars = waving_stars(36, seed=3)
    column = StarBatch(image=stars.image, weight=stars.weight, x=np.full(36, 5.0), y=stars.y)
    # Stars for six, six, three and one functions; those in one column tell none apart.
    ccds = [
        stars,
        column,
        waving_stars(24, seed=4),
        waving_stars(15, seed=5),
        stars.select(range(8)),
    ]
    together = fit_fields(ccds, settings, dtype=torch.float64)
    assert isinstance(together[1], FitError)
    assert "do not determine the field" in str(together[1])
    for i in (0, 2, 3, 4):
        [alone] = fit_fields([ccds[i]], settings, dtype=torch.float64)
        found = together[i]
        assert torch.equal(found.used, alone.used)
        gap = found.grid.image(found.field.at_stars()) - alone.grid.image(alone.field.at_stars())
        # rounding of 1e-16, which the alternations carry on
        assert gap.norm() < 1e-8 * alone.grid.image(alone.field.at_stars()).norm()


def test_fit__of_too_few_stars_for_atoms_is_a_constant_field():
    model = RCA(**QUICK, spatial="graph")
    model.fit(waving_stars(8, seed=7))
    state = model.state()
    assert np.isnan(state["knots"]).all()
    assert np.isnan(state["atoms"]).all()
    assert np.isfinite(model.predict(points(), GRID)).all()


def test_fit__on_atoms_limits_the_functions_of_a_component(stars):
    found = {}
    for most in (None, 1, "auto"):
        model = RCA(**QUICK, spatial="graph", row_sparsity=most)
        model.fit(stars)
        found[most] = errors(model)[0]
    assert found[1] > 1.2 * found[None]
    assert found["auto"] < 1.2 * found[None]
