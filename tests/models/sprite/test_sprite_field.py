import numpy as np
import pytest
from sprite_scene import aligned_error, gaussian

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.errors import ConfigError, FitError, InputError
from psfscale.models import load_model_class, settings_class
from psfscale.models.sprite.field import Cells, SpriteField

SIZE = 16
CCD = 1000.0


def truth(x: float, *, step: float, n: int) -> np.ndarray:
    """A PSF that grows along x."""
    return gaussian(n, step=step, y=0.0, x=0.0, sigma=0.9 + 0.4 * x / CCD, ratio=1.15)


def _stars(n=24, seed=3, snr=80):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, CCD, (2, n))
    images = []
    for here in x:
        dy, dx = rng.uniform(-0.5, 0.5, 2)
        sigma = 0.9 + 0.4 * here / CCD
        star = gaussian(SIZE, step=1.0, y=dy, x=dx, sigma=sigma, ratio=1.15)
        images.append(1000 * star)
    clean = np.array(images)
    sigma = np.sqrt((clean**2).sum((1, 2))).mean() / snr
    noisy = clean + sigma * rng.normal(size=clean.shape)
    weight = np.full(clean.shape, 1 / sigma**2)
    return StarBatch(image=noisy, weight=weight, x=x, y=y)


@pytest.fixture(scope="module")
def fitted():
    model = SpriteField(cells_x=3, cells_y=1)
    return model, model.fit(_stars())


def test_sprite_field__follows_the_psf_over_the_ccd(fitted):
    model, report = fitted
    x = np.array([100.0, 500.0, 900.0])
    at = FieldPoints(x=x, y=np.full(3, CCD / 2))
    drawn = model.predict(at, PixelGrid(shape=(33, 33), oversampling=2))
    for psf, here in zip(drawn, x, strict=True):
        expected = truth(here, step=0.5, n=33)
        assert aligned_error(psf, expected / expected.sum()) < 0.08
    assert report.reduced_chi2 == pytest.approx(1, abs=0.15)
    assert report.used.all()


def test_sprite_field__draws_unit_sums_and_centres(fitted):
    model, _ = fitted
    at = FieldPoints(x=np.array([0.0, 300.0, 2000.0]), y=np.array([0.0, 1.0, -50.0]))
    drawn = model.predict(at, PixelGrid(shape=(31, 31), oversampling=2))
    assert np.allclose(drawn.sum((1, 2)), 1, atol=1e-5)
    offset = np.arange(31) - 15
    assert np.abs((drawn * offset).sum((1, 2))).max() < 0.2


def test_sprite_field__state_brings_the_same_model_back(fitted):
    model, _ = fitted
    declared = {a.name: a for a in SpriteField.state_arrays(model.settings, (SIZE, SIZE))}
    state = model.state()
    assert {n: (a.shape, a.dtype.name) for n, a in state.items()} == {
        n: (a.shape, a.dtype) for n, a in declared.items()
    }
    other = SpriteField.from_state(state, model.settings)
    at = FieldPoints(x=np.array([10.0, 700.0]), y=np.array([3.0, 40.0]))
    grid = PixelGrid(shape=(20, 20), oversampling=2)
    assert np.array_equal(model.predict(at, grid), other.predict(at, grid))
    assert other.stamp_shape == (SIZE, SIZE)


def test_sprite_field__clips_a_star_that_is_two():
    stars = _stars()
    image = stars.image.copy()
    image[5] += np.roll(image[5], (3, 3), (0, 1))
    spoiled = StarBatch(image=image, weight=stars.weight, x=stars.x, y=stars.y)
    report = SpriteField(cells_x=2, cells_y=1).fit(spoiled)
    assert not report.used[5]
    assert report.used.sum() == len(stars) - 1


def test_sprite_field__reports_fluxes_and_shifts_of_all_stars(fitted):
    _, report = fitted
    assert np.allclose(report.flux, 1000, rtol=0.12)
    assert np.abs(report.shift_x).max() < 0.6
    assert len(report.chi2) == 24


def test_cells__weights_are_those_of_the_nearest_centres():
    box = ((0.0, 4.0), (0.0, 2.0))
    cells = Cells(n_y=2, n_x=4, box=box, bilinear=True)
    weights = cells(np.array([0.5, 1.0, 9.0]), np.array([0.5, 1.0, -3.0]))
    assert np.allclose(weights.sum(1), 1)
    assert weights[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert weights[1].tolist() == [0.25, 0.25, 0, 0, 0.25, 0.25, 0, 0]
    assert weights[2].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    nearest = Cells(n_y=2, n_x=4, box=box, bilinear=False)(np.array([1.4]), np.array([1.6]))
    assert nearest[0].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_sprite_field__stands_in_the_registry():
    assert load_model_class("sprite") is SpriteField
    assert settings_class("sprite")().cells_x >= 1


def test_sprite_field__refuses_what_it_cannot_do(fitted):
    with pytest.raises(FitError, match="2 of 2 stars"):
        SpriteField().fit(_stars(n=2))
    with pytest.raises(FitError, match="no field yet"):
        SpriteField().state()
    with pytest.raises(ConfigError, match="cells_x"):
        SpriteField(cells_x=0)
    state = fitted[0].state()
    with pytest.raises(InputError, match="'width'"):
        SpriteField.from_state({**state, "width": np.zeros(2)}, fitted[0].settings)
