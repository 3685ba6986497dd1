import numpy as np
import pytest

from psfscale.models.position import PositionPolynomials, n_polynomials


def test_position_polynomials__are_orthonormal_over_the_box():
    node, weight = np.polynomial.legendre.leggauss(8)
    x, y = np.meshgrid(50 * (node + 1), 20 * (node + 1) - 10)
    functions = PositionPolynomials(degree=4, box=((0, 100), (-10, 30)))(x.ravel(), y.ravel())
    area = np.outer(weight, weight).ravel() / 4
    gram = functions.T @ (area[:, None] * functions)
    assert functions.shape[1] == n_polynomials(4)
    assert np.allclose(gram, np.eye(n_polynomials(4)), atol=1e-12)


def test_position_polynomials__stand_on_a_line_of_stars():
    x, y = np.linspace(0, 9, 10), np.full(10, 4.0)
    functions = PositionPolynomials.around(x, y, degree=1)(x, y)
    assert np.isfinite(functions).all()
    assert functions[:, 2] == pytest.approx(0, abs=1e-12)


def test_position_polynomials__keep_their_edge_value_outside_the_box():
    functions = PositionPolynomials(degree=6, box=((0, 100), (-10, 30)))
    outside = functions(np.array([-500.0, 50.0, 101.0]), np.array([10.0, 99.0, -10.5]))
    edge = functions(np.array([0.0, 50.0, 100.0]), np.array([10.0, 30.0, -10.0]))
    np.testing.assert_array_equal(outside, edge)
