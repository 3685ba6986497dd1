"""The sky in Fourier space: adjoint, linear convolution, fine grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learnt_galaxies import gaussian_psf
from scipy.signal import fftconvolve

from psfscale.deconvolve.learnt.fourier import Canvas


@pytest.mark.parametrize("oversampling", [1, 2, 3])
def test_adjoint__is_that_of_observe_after_blurring(oversampling):
    torch.manual_seed(1)
    canvas = Canvas(
        shape=(11, 14), psf_shape=(7, 8), oversampling=oversampling, dtype=torch.float64
    )
    transfer = canvas.transfer(torch.rand(2, 7, 8, dtype=torch.float64)) * canvas.to_centre
    sky = torch.randn(2, *canvas.padded, dtype=torch.float64)
    stamps = torch.randn(2, 11, 14, dtype=torch.float64)
    there = (canvas.observe(canvas.spectra(sky) * transfer) * stamps).sum()
    back = (sky * canvas.sky(canvas.adjoint(stamps) * transfer.conj())).sum()
    assert there.item() == pytest.approx(back.item(), rel=1e-10)


@pytest.mark.parametrize("side", [9, 41])
def test_observe__is_the_linear_convolution_of_what_lies_in_the_stamp(side):
    rng = np.random.default_rng(2)
    image, psf = rng.random((15, 12)), gaussian_psf(2.0, side)
    canvas = Canvas(shape=(15, 12), psf_shape=(side, side), dtype=torch.float64)
    sky = torch.zeros(1, *canvas.padded, dtype=torch.float64)
    sky[0, :15, :12] = torch.from_numpy(image)
    transfer = canvas.transfer(torch.from_numpy(psf)[None])
    seen = canvas.observe(canvas.spectra(sky) * transfer)[0].numpy()
    full = fftconvolve(image, psf)[side // 2 :, side // 2 :][:15, :12]
    # What wraps round has passed the whole stamp and its margin: far in the PSF's wings.
    np.testing.assert_allclose(seen, full, atol=1e-9)


@pytest.mark.parametrize("oversampling", [2, 3])
@pytest.mark.parametrize("side", [14, 15])
def test_observe__samples_the_fine_grid_at_the_centres_of_pixels(oversampling, side):
    canvas = Canvas(
        shape=(side, side), psf_shape=(5, 5), oversampling=oversampling, dtype=torch.float64
    )
    spectra = (canvas.gaussian(1.5) * canvas.to_centre)[None]
    coarse = canvas.observe(spectra)[0].numpy()
    expected = gaussian_psf(1.5, side)
    np.testing.assert_allclose(coarse / coarse.sum(), expected, atol=1e-6)
    fine = canvas.image(spectra)[0].numpy()
    centre = side * oversampling // 2
    assert np.unravel_index(fine.argmax(), fine.shape) == (centre, centre)
