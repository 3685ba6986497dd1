import numpy as np
import pytest
import pywt
import torch

from psfscale.errors import InputError
from psfscale.kernels.frames.wavelet import biorthogonal79, filter_bank
from psfscale.kernels.spectral import frequency_grid

GRIDS = [((7, 10), 3, None), ((9, 11), 3, 0.72), ((16, 9), 2, None)]
LAPLACE = np.array([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 8
BANK = np.stack([LAPLACE, np.eye(3) / 3, np.full((3, 3), 1 / 9)])


def _case(case):
    shape, upsampling, band_limit = case
    grid = frequency_grid(shape, upsampling=upsampling, band_limit=band_limit)
    image = torch.randn(2, *grid.fine_shape, generator=torch.Generator().manual_seed(5)).double()
    return grid, grid.coefficients(image)


def _banks(grid):
    return {"7/9": biorthogonal79(grid, n_scales=3), "user": filter_bank(grid, BANK)}


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("name", ["7/9", "user"])
def test_filter_bank__gives_the_image_back(case, name):
    grid, c = _case(case)
    bank = _banks(grid)[name]
    assert torch.allclose(bank.inverse(bank.forward(c)), c, atol=1e-11)


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("name", ["7/9", "user"])
def test_filter_bank__has_its_exact_adjoint(case, name):
    grid, c = _case(case)
    bank = _banks(grid)[name]
    bands = bank.forward(c)
    other = torch.randn(bands.shape, generator=torch.Generator().manual_seed(6)).double()
    left, right = (bands * other).sum(), grid.inner(c, bank.adjoint(other))
    assert abs(left - right) < 1e-10 * bands.norm() * other.norm()


def test_biorthogonal79__is_the_stationary_transform_of_pywavelets():
    grid = frequency_grid((20, 24), upsampling=1)
    _, c = _case(((20, 24), 1, None))
    image = grid.image(c)[0].numpy()
    ours = biorthogonal79(grid, n_scales=2).forward(c)[0].numpy()
    theirs = pywt.swt2(image, "bior4.4", level=2, trim_approx=True)
    for scale, (horizontal, vertical, diagonal) in enumerate(theirs[:0:-1]):
        for k, band in enumerate((vertical, horizontal, diagonal)):
            here = ours[3 * scale + k] * 2.0 ** (scale + 1)
            # PyWavelets leaves each band where its filters' delays put it.
            assert _shifted_distance(here, band) < 1e-10 * np.abs(band).max()
    assert _shifted_distance(4 * ours[-1], theirs[0]) < 1e-10 * np.abs(theirs[0]).max()


def _shifted_distance(a, b):
    spectrum = np.fft.ifft2(np.fft.fft2(b) * np.fft.fft2(a).conj()).real
    shift = np.unravel_index(spectrum.argmax(), spectrum.shape)
    return np.abs(np.roll(a, shift, (0, 1)) - b).max()


def test_biorthogonal79__bands_stay_where_the_image_is():
    grid = frequency_grid((32, 32), upsampling=1)
    image = torch.zeros(1, *grid.fine_shape, dtype=torch.float64)
    image[0, 16, 16] = 1
    bands = biorthogonal79(grid, n_scales=2).forward(grid.coefficients(image))[0]
    for band in bands:
        assert np.unravel_index(int(band.abs().argmax()), band.shape) == (16, 16)
        mirrored = band.flip(-1, -2).roll((1, 1), (-1, -2))
        assert torch.allclose(band, mirrored, atol=1e-12)


def test_filter_bank__norms_are_those_of_noise():
    grid = frequency_grid((40, 40), upsampling=1)
    noise = torch.randn(50, 40, 40, generator=torch.Generator().manual_seed(2)).double()
    bank = biorthogonal79(grid, n_scales=2)
    measured = bank.forward(grid.coefficients(noise)).std((0, 2, 3))
    # 80000 samples, correlated over 4 pixels in the coarse bands: 2 % is 1.4 sigma there.
    assert torch.allclose(measured, bank.noise_norms, rtol=0.05)


def test_filter_bank__norm_is_the_largest_gain():
    grid = frequency_grid((9, 11), upsampling=2)
    bank = filter_bank(grid, BANK)
    c = torch.zeros(1, len(grid), dtype=torch.complex128)
    c[0, int((bank.filters.abs() ** 2).sum(0).argmax())] = 1
    size = grid.inner(c, c).sqrt()
    assert float(bank.forward(c).norm() / size) == pytest.approx(bank.norm())


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (np.ones((3, 3)), "finite array"),
        (np.ones((1, 99, 3)), "exceed the super-resolved"),
        (LAPLACE[None], "blind to some frequencies"),
    ],
)
def test_filter_bank__refuses_what_is_no_bank(kernels, message):
    with pytest.raises(InputError, match=message):
        filter_bank(frequency_grid((8, 8), upsampling=1), kernels)


def test_biorthogonal79__refuses_no_scales():
    with pytest.raises(InputError, match="at least one scale"):
        biorthogonal79(frequency_grid((8, 8), upsampling=1), n_scales=0)
