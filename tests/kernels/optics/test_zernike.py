from __future__ import annotations

import galsim
import numpy as np
import pytest
import torch

from psfscale.errors import InputError
from psfscale.kernels.optics.zernike import legendre_products, noll_index, project, zernikes


def disc(n: int) -> tuple[np.ndarray, np.ndarray]:
    u = (np.arange(n) - (n - 1) / 2) * (2 / n)
    x, y = np.meshgrid(u, u)
    return x, y


def test_noll_index__is_that_of_the_paper() -> None:
    table = [(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3)]
    assert [noll_index(j) for j in range(1, 11)] == table
    with pytest.raises(InputError, match="counts from 1"):
        noll_index(0)


def test_zernikes__are_those_of_galsim() -> None:
    x, y = disc(24)
    basis = galsim.zernike.zernikeBasis(36, x, y)[1:]
    np.testing.assert_allclose(zernikes(36, x, y), basis, atol=1e-10)


def test_zernikes__are_orthonormal_over_the_disc() -> None:
    x, y = disc(400)
    inside = np.hypot(x, y) <= 1
    z = zernikes(15, x, y)[:, inside]
    np.testing.assert_allclose(z @ z.T / inside.sum(), np.eye(15), atol=0.01)


def test_legendre_products__sum_to_the_zernikes_everywhere() -> None:
    x, y = np.random.default_rng(1).uniform(-1, 1, (2, 50))
    degrees, weight = legendre_products(28)
    px, py = (np.polynomial.legendre.legvander(u, 6) for u in (x, y))
    products = np.stack([px[:, a] * py[:, b] for a, b in degrees])
    np.testing.assert_allclose(weight @ products, zernikes(28, x, y), atol=1e-12)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_projection__on_an_obscured_pupil_returns_the_coefficients(batch: tuple[int, ...]) -> None:
    x, y = disc(32)
    amplitude = torch.from_numpy(((np.hypot(x, y) <= 1) & (np.hypot(x - 0.1, y) > 0.35)) * 1.0)
    modes = torch.from_numpy(zernikes(21, x, y))
    rng = np.random.default_rng(2)
    coefficients = torch.from_numpy(rng.normal(size=(*batch, 21)))
    surface = torch.einsum("...j,jyx->...yx", coefficients, modes)
    found = project(surface, modes, amplitude=amplitude)
    torch.testing.assert_close(found, coefficients)
