import numpy as np
import pytest
import torch
from sprite_scene import aligned_error, psf, stamps

from psfscale.errors import ConfigError, FitError, InputError
from psfscale.models.sprite.model import SPRITE

SIZE = 20
FIELDS = ("psf", "flux", "shift_y", "shift_x", "noise", "chi2")


@pytest.fixture(scope="module")
def scene():
    return stamps(2, 4, snr=100, seed=5, size=SIZE)


@pytest.fixture(scope="module")
def result(scene):
    return SPRITE().fit(scene[0])


def test_sprite__recovers_the_psf_below_the_pixel_scale(scene, result):
    truth = psf(2 * SIZE, step=0.5)
    errors = [aligned_error(p, truth / truth.sum()) for p in result.psf]
    # 1764 unknowns share 4 stamps of S/N 100: white noise alone would give 0.1 and more.
    assert max(errors) < 0.06


def test_sprite__finds_shifts_fluxes_and_noise(scene, result):
    images, shifts, flux, sigma = scene
    found = np.stack([result.shift_y, result.shift_x], -1) - shifts
    found -= found.mean(1, keepdims=True)
    # Half a Gaussian's σ over S/N is 0.01 pixel for one stamp; the common PSF is not known.
    assert np.abs(found).max() < 0.05
    ratio = result.flux / flux
    assert np.allclose(ratio / ratio.mean(1, keepdims=True), 1, atol=0.04)
    # Positivity turns noise in the wings into flux; without it the total is known to 3 %.
    free = SPRITE(positivity=False).fit(images).flux / flux
    assert np.allclose(free.mean(1), 1, atol=0.06)
    # The median deviation of some 165 pixels knows σ to 9 %.
    assert np.allclose(result.noise / sigma, 1, atol=0.3)


def test_sprite__psf_is_positive_of_unit_sum_and_centred(result):
    image = result.psf
    assert np.allclose(image.sum((1, 2)), np.ones(2))
    assert bool((image >= 0).all())
    index = np.arange(2 * SIZE) - SIZE
    window = np.exp(-(index[:, None] ** 2 + index**2) / (2 * 2.0**2))
    light = (image * window).sum((1, 2))
    assert np.abs((image * window * index).sum((1, 2)) / light).max() < 0.1
    assert np.abs((image * window * index[:, None]).sum((1, 2)) / light).max() < 0.1


def test_sprite__reports_errors_that_match_the_scatter(scene, result):
    truth = psf(2 * SIZE, step=0.5)
    truth = truth / truth.sum()
    claimed = np.sqrt((result.psf_error**2).sum((1, 2))) / np.linalg.norm(truth)
    found = [aligned_error(p, truth) for p in result.psf]
    for c, f in zip(claimed.tolist(), found, strict=True):
        assert 0.4 < c / f < 2.5
    assert bool((result.flux_error > 0).all())
    assert bool((result.shift_error > 0).all())


def test_sprite__batch_of_n_is_n_batches_of_one(scene, result):
    for i, image in enumerate(scene[0]):
        alone = SPRITE().fit(image[None])
        for name in FIELDS:
            one, many = getattr(alone, name)[0], getattr(result, name)[i]
            assert np.allclose(one, many, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sprite__works_in_the_precision_and_on_the_device_of_its_images(
    scene, result, device, dtype
):
    images = torch.as_tensor(scene[0]).to(device, dtype)
    found = SPRITE().fit(images)
    for name in FIELDS:
        values = getattr(found, name)
        assert values.device.type == device.type
        assert values.dtype == dtype
    peak = float(result.psf.max())
    assert np.allclose(found.psf.cpu(), result.psf, atol=3e-3 * peak)
    alone = SPRITE().fit(images[1:2])
    assert torch.allclose(alone.psf[0], found.psf[1], atol=1e-5 * peak)
    order = [2, 0, 3, 1]
    turned = SPRITE().fit(images[:, order])
    assert torch.allclose(turned.psf, found.psf, atol=1e-4 * peak)
    assert torch.allclose(turned.shift_x, found.shift_x[:, order], atol=1e-4)


def test_sprite__order_of_exposures_is_immaterial(scene, result):
    order = [2, 0, 3, 1]
    other = SPRITE().fit(scene[0][:, order])
    assert np.allclose(other.psf, result.psf, atol=1e-7 * float(result.psf.max()))
    assert np.allclose(other.shift_y, result.shift_y[:, order], atol=1e-6)
    assert np.allclose(other.flux, result.flux[:, order], rtol=1e-6)


def test_sprite__masked_pixels_do_not_matter(scene):
    images, *_, sigma = scene
    mask = np.zeros(images.shape, dtype=bool)
    mask[0, 1, 4:7, 3:6] = True
    mask[0, 3, 12, 11] = True
    weight = np.where(mask, 0, 1 / sigma[..., None, None] ** 2)
    spoiled = np.where(mask, 1e6, images)
    sprite = SPRITE()
    clean, other = sprite.fit(images, weight=weight), sprite.fit(spoiled, weight=weight)
    hidden = sprite.fit(np.where(mask, np.nan, images), sigma=sigma, mask=mask)
    assert np.array_equal(clean.psf, other.psf)
    assert np.allclose(clean.psf, hidden.psf, atol=1e-7 * float(clean.psf.max()))


def test_sprite__absent_stamps_do_not_matter(scene):
    images, *_, sigma = scene
    weight = np.broadcast_to(1 / sigma[..., None, None] ** 2, images.shape).copy()
    longer = np.concatenate([images, np.ones((2, 1, SIZE, SIZE))], 1)
    padded = np.concatenate([weight, np.zeros((2, 1, SIZE, SIZE))], 1)
    one, other = SPRITE().fit(images, weight=weight), SPRITE().fit(longer, weight=padded)
    assert np.allclose(one.psf, other.psf, atol=1e-4 * float(one.psf.max()))


def test_sprite__takes_what_is_known(scene):
    images, shifts, flux, sigma = scene
    known = SPRITE().fit(images, shifts=shifts, flux=flux, sigma=sigma)
    moved = known.shift_y - shifts[..., 0]
    assert np.allclose(moved, moved[:, :1], atol=1e-9)
    ratio = known.flux / flux
    assert np.allclose(ratio, ratio[:, :1])
    assert np.allclose(known.noise, sigma)
    truth = psf(2 * SIZE, step=0.5)
    assert max(aligned_error(p, truth / truth.sum()) for p in known.psf) < 0.06


def test_sprite__follows_the_flux_scale(scene, result):
    scaled = SPRITE().fit(1e4 * scene[0])
    assert np.allclose(scaled.psf, result.psf, atol=1e-6 * float(result.psf.max()))
    assert np.allclose(scaled.flux, 1e4 * result.flux, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"upsampling": 3, "transform": "biorthogonal", "noise": "propagated"},
        {"upsampling": 4, "band_limit": 1.0},
        {"upsampling": 1, "positivity": False},
        {"band_limit": 0.9, "n_reweights": 0},
    ],
)
def test_sprite__options_work_together(scene, options):
    sprite = SPRITE(**options)
    found = sprite.fit(scene[0][:1].astype(np.float32))
    n = SIZE * sprite.settings.upsampling
    truth = psf(n, step=1 / sprite.settings.upsampling)
    assert found.psf.dtype == np.float32
    assert aligned_error(found.psf[0], truth / truth.sum()) < 0.12


@pytest.mark.parametrize("kind", ["median", "coaddition", "gaussian"])
def test_sprite__correction_mends_a_classical_first_guess(scene, kind):
    images = scene[0][:1]
    truth = psf(2 * SIZE, step=0.5)
    truth = truth / truth.sum()
    options = {"first_guess": kind, "transform": "biorthogonal", "max_iterations": 200}
    guess = SPRITE(threshold=1e9, n_reweights=0, **options | {"max_iterations": 1}).fit(images)
    mended = SPRITE(threshold=3.0, **options).fit(images)
    before, after = (aligned_error(r.psf[0], truth) for r in (guess, mended))
    assert after < 0.1
    assert after < before


def test_sprite__user_bank_equal_to_the_starlet_gives_its_answer(scene):
    kernel = np.array([1.0, 4, 6, 4, 1]) / 16
    smooth = np.outer(kernel, kernel)
    delta = np.zeros((5, 5))
    delta[2, 2] = 1
    images = scene[0][:1]
    user = SPRITE(transform="user", filters=np.stack([delta - smooth, smooth]).tolist())
    starlet = SPRITE(transform="starlet", n_scales=1)
    one, other = user.fit(images), starlet.fit(images)
    assert np.allclose(one.psf, other.psf, atol=1e-3 * float(one.psf.max()))


def test_sprite__leaves_its_inputs_alone(scene):
    images = scene[0].copy()
    SPRITE(n_rounds=2, max_iterations=2).fit(images)
    assert np.array_equal(images, scene[0])


IMAGES = np.random.default_rng(1).normal(size=(1, 2, 10, 10))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": IMAGES[0]}, InputError, r"images are \(psf, exposure, y, x\)"),
        ({"images": np.full((1, 1, 10, 10), np.nan)}, InputError, "NaN or infinite"),
        ({"images": IMAGES, "weight": np.ones((1, 2))}, InputError, "weight has shape"),
        ({"images": IMAGES, "weight": -np.ones(IMAGES.shape)}, InputError, "not negative"),
        ({"images": IMAGES, "weight": np.zeros(IMAGES.shape)}, FitError, "no stamp with weight"),
        (
            {"images": IMAGES, "weight": np.ones(IMAGES.shape), "sigma": np.ones((1, 2))},
            InputError,
            "not both",
        ),
        ({"images": IMAGES, "sigma": np.zeros((1, 2))}, InputError, "zero or negative"),
        ({"images": IMAGES, "shifts": np.full((1, 2, 2), np.nan)}, InputError, "finite"),
        ({"images": IMAGES, "flux": np.zeros((1, 2))}, InputError, "positive"),
    ],
)
def test_sprite__refuses_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        SPRITE().fit(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "user"}, "give filters"),
        ({"upsampling": 0}, "upsampling"),
        ({"colour": 1}, "colour"),
    ],
)
def test_sprite__refuses_bad_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        SPRITE(**options)
