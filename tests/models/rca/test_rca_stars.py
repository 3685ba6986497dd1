import numpy as np
import torch

from psfscale.arrays import StarBatch
from psfscale.kernels.spectral import frequency_grid
from psfscale.models.rca.stars import StarPixels, StarValues, refit, standard_errors

SHAPE = (15, 16)
GRID = frequency_grid(SHAPE, upsampling=2)


def scene(n, *, seed=3, noise=0.02, flux=5.0):
    """Stars of one known Gaussian PSF; their values, pixels and shifted spectra."""
    fine = (np.mgrid[: GRID.fine_shape[0], : GRID.fine_shape[1]].T / 2).T
    r2 = (fine[0] - 7.3) ** 2 + (fine[1] - 8.1) ** 2
    psf = torch.from_numpy(np.exp(-r2 / (2 * 1.4**2)))
    spectra = GRID.coefficients(psf).expand(1, n, -1)
    clean = flux * GRID.sample(spectra)[0].numpy()
    rng = np.random.default_rng(seed)
    weight = np.full(clean.shape, noise**-2)
    weight[:, :, :4] /= 4
    weight[:, 7, 8] = 0
    noisy = clean + rng.normal(size=clean.shape) / np.sqrt(np.where(weight > 0, weight, 1))
    stars = StarBatch(image=noisy, weight=weight, x=np.zeros(n), y=np.zeros(n))
    pixels = StarPixels.of([stars], dtype=torch.float64)
    start = torch.zeros(1, n, dtype=torch.float64)
    return pixels, StarValues(flux=start + flux, dy=start, dx=start), spectra


def test_standard_errors__are_the_scatter_of_the_refit() -> None:
    # n = 600, seed 3: the scatter is known to 3 %
    pixels, values, spectra = scene(600)
    found, _ = refit(pixels, values, grid=GRID, spectra=spectra)
    known = standard_errors(pixels, values, grid=GRID, spectra=spectra, factor=torch.ones(1, 600))
    for name in ("flux", "dy", "dx"):
        pull = (getattr(found, name) - getattr(values, name)) / getattr(known, name)
        assert abs(float(pull.std()) - 1) < 0.1
        assert abs(float(pull.mean())) < 0.15


def test_standard_errors__grow_with_the_variance_of_the_star() -> None:
    pixels, values, spectra = scene(2)
    factor = torch.tensor([[1.0, 4.0]])
    known = standard_errors(pixels, values, grid=GRID, spectra=spectra, factor=factor)
    torch.testing.assert_close(known.dx[0, 1], 2 * known.dx[0, 0])


def test_standard_errors__are_unknown_where_no_pixel_is() -> None:
    pixels, values, spectra = scene(2)
    weight = pixels.weight.clone()
    weight[0, 1] = 0
    masked = StarPixels(image=pixels.image, weight=weight, full_weight=pixels.full_weight)
    factor = torch.ones(1, 2)
    known = standard_errors(masked, values, grid=GRID, spectra=spectra, factor=factor)
    assert torch.isfinite(known.flux[0, 0])
    assert torch.isnan(known.flux[0, 1])
