"""RCA over several CCDs at once: each comes out as it would alone."""

import numpy as np
import pytest
import torch

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.errors import FitError
from psfscale.models.rca.fit import fit_fields
from psfscale.models.rca.model import RCA
from psfscale.models.rca.settings import RCASettings

SIZE = 1000.0
QUICK = RCASettings(upsampling=2, degree=2, n_rounds=5, n_scales=2)
GRID = PixelGrid(shape=(30, 30), oversampling=2)


def gaussian_stars(n, *, seed, sigma=1.6, snr=150.0, size=20):
    """Stars whose width and elongation follow the position; one has masked pixels."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SIZE, (2, n))
    dy, dx = rng.uniform(-0.5, 0.5, (2, n))
    axis = np.arange(size) - size // 2
    wide = sigma * (1 + 0.2 * (x / SIZE - 0.5))
    high = sigma * (1 - 0.2 * (y / SIZE - 0.5))
    up = np.exp(-0.5 * ((axis - dy[:, None]) / high[:, None]) ** 2)
    along = np.exp(-0.5 * ((axis - dx[:, None]) / wide[:, None]) ** 2)
    image = up[:, :, None] * along[:, None, :]
    image *= (snr * rng.uniform(0.5, 2, n) / np.sqrt((image**2).sum((1, 2))))[:, None, None]
    image += rng.normal(size=image.shape)
    weight = np.ones_like(image)
    weight[0, 3:6, 2:9] = 0
    return StarBatch(image=image.astype("f4"), weight=weight.astype("f4"), x=x, y=y)


def points(n=7):
    x, y = np.random.default_rng(9).uniform(100, 900, (2, n))
    return FieldPoints(x=x, y=y)


@pytest.fixture(scope="module")
def ccds():
    """Unlike star numbers, hence degrees; unlike widths, hence frequencies; one hopeless."""
    noise = gaussian_stars(15, seed=3, snr=0.01)
    return [
        gaussian_stars(40, seed=1),
        noise,
        gaussian_stars(25, seed=2, sigma=2.6),
        gaussian_stars(10, seed=4),
        gaussian_stars(33, seed=5),
    ]


@pytest.fixture(scope="module")
def batch(ccds):
    return RCA.fit_batch(ccds, QUICK)


def stamps_of(fitted):
    """Each star's PSF, flux and place, of one array."""
    psf = fitted.grid.image(fitted.field.at_stars()).flatten(1) * fitted.values.flux[:, None]
    return torch.cat([psf, fitted.values.dy[:, None], fitted.values.dx[:, None]], 1)


def gap(one, other):
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def test_fit_fields__gives_each_ccd_what_it_gets_alone(ccds):
    together = fit_fields(ccds, QUICK, dtype=torch.float64)
    for i in (0, 2, 3, 4):
        [alone] = fit_fields([ccds[i]], QUICK, dtype=torch.float64)
        assert torch.equal(together[i].used, alone.used)
        assert together[i].grid.band_limit == alone.grid.band_limit
        # rounding of 1e-16, which the alternations carry on
        assert gap(stamps_of(together[i]), stamps_of(alone)) < 1e-9
        assert torch.allclose(together[i].chi2, alone.chi2, rtol=1e-8)


def test_fit_fields__does_not_depend_on_the_order_of_the_stars(ccds):
    order = np.random.default_rng(2).permutation(len(ccds[0]))
    fields = fit_fields([ccds[0], ccds[0].select(order)], QUICK, dtype=torch.float64)
    assert gap(stamps_of(fields[1]), stamps_of(fields[0])[order]) < 1e-9


def test_fit_batch__gives_each_ccd_what_it_gets_alone(ccds, batch):
    for i in (0, 2, 3, 4):
        model, report = batch[i]
        single = RCA(QUICK)
        alone = single.fit(ccds[i])
        assert np.array_equal(report.used, alone.used)
        # float32 rounding of 6e-8, a few times over
        assert np.allclose(report.flux, alone.flux, rtol=1e-5)
        assert report.reduced_chi2 == pytest.approx(alone.reduced_chi2, rel=1e-5)
        assert gap(model.predict(points(), GRID), single.predict(points(), GRID)) < 1e-5


def test_fit_batch__reports_a_failed_ccd_for_itself(ccds, batch):
    assert [isinstance(found, FitError) for found in batch] == [i == 1 for i in range(5)]
    with pytest.raises(FitError, match="of 15 stars have S/N above 5"):
        RCA(QUICK).fit(ccds[1])
    assert "of 15 stars have S/N above 5" in str(batch[1])


def test_fit_batch__reports_ccds_whose_stars_do_not_tell_functions_apart(ccds):
    column = ccds[0]
    same = StarBatch(
        image=column.image, weight=column.weight, x=np.full(len(column), 5.0), y=column.y
    )
    found = RCA.fit_batch([same, ccds[4]], QUICK)
    assert isinstance(found[0], FitError)
    assert "do not determine the field" in str(found[0])
    alone = RCA(QUICK).fit(ccds[4])
    assert found[1][1].reduced_chi2 == pytest.approx(alone.reduced_chi2, rel=1e-5)


def test_fit_batch__works_on_any_device(ccds, device, batch):
    found = RCA.fit_batch(ccds[:1], QUICK, device=device)
    model, report = found[0]
    assert np.array_equal(report.used, batch[0][1].used)
    expected = batch[0][0].predict(points(), GRID)
    assert gap(model.predict(points(), GRID), expected) < 1e-4
    assert isinstance(model.state()["eigen_psf"], np.ndarray)
    assert np.isfinite(expected).all()
