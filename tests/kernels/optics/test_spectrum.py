from __future__ import annotations

import numpy as np
import pytest

from psfscale.errors import InputError
from psfscale.kernels.optics.spectrum import flat_spectrum, quadrature


def spectra(n: int = 3, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    sed = np.random.default_rng(4).uniform(0.2, 1, (n, bins))
    return sed / sed.sum(1, keepdims=True), np.linspace(0.55, 0.9, bins)


def test_quadrature__integrates_polynomials_in_wavenumber_against_any_spectrum() -> None:
    sed, wavelength = spectra()
    nodes, weights = quadrature(sed, wavelength, n_nodes=6)
    for power in np.arange(6.0):
        exact = sed @ wavelength**-power
        np.testing.assert_allclose(weights @ nodes**-power, exact, rtol=1e-10)
    np.testing.assert_allclose(weights.sum(1), 1)


def test_quadrature__of_a_smooth_function_converges_with_the_nodes() -> None:
    sed, wavelength = spectra()
    exact = sed @ np.sinc(0.9 / wavelength)
    errors = []
    for n in (3, 5, 8):
        nodes, weights = quadrature(sed, wavelength, n_nodes=n)
        errors.append(np.abs(weights @ np.sinc(0.9 / nodes) - exact).max())
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_quadrature__of_few_wavelengths_takes_them_as_they_are() -> None:
    sed, wavelength = spectra(bins=10)
    sed[:, :6] = 0
    nodes, weights = quadrature(sed, wavelength, n_nodes=8)
    assert nodes.tolist() == wavelength[6:].tolist()
    np.testing.assert_allclose(weights, sed[:, 6:] / sed[:, 6:].sum(1, keepdims=True))


def test_flat_spectrum__has_the_same_photons_everywhere() -> None:
    sed, wavelength = flat_spectrum(0.5, 0.9)
    assert sed.sum() == pytest.approx(1)
    assert sed @ wavelength == pytest.approx(0.7)


@pytest.mark.parametrize("bad", [-0.1, np.nan, 0.0])
def test_quadrature__refuses_spectra_without_photons(bad: float) -> None:
    sed, wavelength = spectra()
    sed[1] = bad
    with pytest.raises(InputError, match=r"1 spectra .*first: \[1\]"):
        quadrature(sed, wavelength, n_nodes=4)
    with pytest.raises(InputError, match="finite and positive"):
        quadrature(spectra()[0], -wavelength, n_nodes=4)
