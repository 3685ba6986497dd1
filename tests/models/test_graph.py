"""Frequency atoms of star positions: what they are, and that they hold between the stars."""

import numpy as np
import pytest

from psfscale.models.graph import FrequencyAtoms, StarGraph, spread_nodes, unit_positions
from psfscale.models.graph_choice import choose_atoms, function_degrees
from psfscale.models.position import PositionPolynomials

BOX = ((0.0, 2000.0), (-100.0, 900.0))


def positions(n, seed=7):
    rng = np.random.default_rng(seed)
    return rng.uniform(*BOX[0], n), rng.uniform(*BOX[1], n)


def test_star_graph__atoms_are_the_lowest_eigenvectors_of_the_distance_operator():
    at = unit_positions(*positions(40), box=BOX)
    graph, e, a = StarGraph(nodes=at), 1.3, 0.7
    distance = np.linalg.norm(at[:, None] - at, axis=2)
    np.fill_diagonal(distance, np.inf)
    weight = (distance / distance.min()) ** -e
    operator = a * np.diag(weight.sum(1)) - weight
    values, vectors = np.linalg.eigh(operator)
    atoms = graph.atoms(e, a, n=6)
    assert np.allclose(np.abs((atoms * vectors[:, :6]).sum(0)), 1, atol=1e-9)
    assert np.all(np.diff(values) > 0)


def test_star_graph__first_atom_of_a_laplacian_is_constant():
    graph = StarGraph(nodes=unit_positions(*positions(30), box=BOX))
    assert np.ptp(graph.atoms(2.0, 1.0, n=3)[:, 0]) < 1e-10


def test_star_graph__stands_an_exponent_that_no_weight_survives():
    graph = StarGraph(nodes=unit_positions(*positions(30), box=BOX))
    assert np.isfinite(graph.atoms(1e4, 0.5, n=5)).all()


def test_frequency_atoms__pass_through_their_values():
    x, y = positions(60)
    knots = unit_positions(x, y, box=BOX)
    values = np.random.default_rng(1).normal(size=(60, 4))
    assert np.allclose(FrequencyAtoms.through(knots, values, box=BOX)(x, y), values, atol=1e-8)


def test_frequency_atoms__keep_planes_everywhere():
    x, y = positions(25)
    knots = unit_positions(x, y, box=BOX)
    atoms = FrequencyAtoms.through(knots, knots @ np.array([[1.0], [-2.0]]) + 3, box=BOX)
    at = unit_positions(*positions(100, seed=8), box=BOX)
    expected = at @ np.array([1.0, -2.0]) + 3
    assert np.allclose(atoms(*positions(100, seed=8))[:, 0], expected, atol=1e-10)


def test_frequency_atoms__keep_their_edge_value_outside_the_box():
    x, y = positions(25)
    values = np.random.default_rng(2).normal(size=(25, 2))
    atoms = FrequencyAtoms.through(unit_positions(x, y, box=BOX), values, box=BOX)
    outside = atoms(np.array([-500.0, 2500.0]), np.array([100.0, 5000.0]))
    np.testing.assert_array_equal(outside, atoms(np.array([0.0, 2000.0]), np.array([100.0, 900.0])))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_frequency_atoms__through_stars_on_a_line_are_their_mean(n):
    knots = np.stack([np.linspace(-1, 1, n), np.zeros(n)], axis=1)
    atoms = FrequencyAtoms.through(knots, np.arange(n)[:, None] + 1.0, box=BOX)
    assert atoms(*positions(3))[:, 0] == pytest.approx((n + 1) / 2)


def test_spread_nodes__are_far_apart_and_leave_out_stars_in_one_place():
    at = unit_positions(*positions(300), box=BOX)
    twice = np.concatenate([at, at])
    nodes = twice[spread_nodes(twice, most=1000)]
    assert len(nodes) == 300
    few = twice[spread_nodes(twice, most=20)]
    distance = np.linalg.norm(few[:, None] - few, axis=2) + 9 * np.eye(20)
    assert distance.min() > 0.3


def test_function_degrees__are_those_of_the_polynomials():
    pairs = PositionPolynomials(degree=5, box=BOX).degrees
    assert function_degrees(21).tolist() == [a + b for a, b in pairs]


def chosen(amplitude, x, y, **options):
    return choose_atoms(
        x,
        y,
        importance=np.ones(len(x)),
        amplitude=amplitude,
        box=BOX,
        **{"lead": np.ones((len(x), 1)), "n_functions": 15, "most_nodes": 256, **options},
    )


def wavy(x, y):
    return np.stack([np.sin(x / 300), np.cos(x / 500 + y / 200), x * y / 1e6], axis=1)


def test_choose_atoms__follow_a_smooth_field_between_the_stars():
    x, y = positions(200)
    noise = np.random.default_rng(3).normal(size=(200, 3))
    atoms = chosen(20 * wavy(x, y) + noise, x, y, n_functions=28)
    basis = np.concatenate([np.ones((200, 1)), atoms(x, y)], axis=1)
    assert basis.shape == (200, 28)
    weight = np.linalg.lstsq(basis, wavy(x, y), rcond=None)[0]
    at = positions(500, seed=9)
    found = np.concatenate([np.ones((500, 1)), atoms(*at)], axis=1) @ weight
    scatter = np.std(wavy(*at), axis=0)
    assert np.all(np.std(found - wavy(*at), axis=0) < 0.2 * scatter)


def test_choose_atoms__do_not_depend_on_the_order_of_the_stars():
    x, y = positions(80)
    amplitude = 20 * wavy(x, y) + np.random.default_rng(3).normal(size=(80, 3))
    order = np.random.default_rng(4).permutation(80)
    at = positions(50, seed=9)
    first = chosen(amplitude, x, y)(*at)
    second = chosen(amplitude[order], x[order], y[order])(*at)
    # The atoms' signs are free.
    sign = np.sign((first * second).sum(0))
    assert np.allclose(first, second * sign, atol=1e-6)


def test_choose_atoms__of_more_stars_than_nodes_use_the_nodes_only():
    x, y = positions(120)
    atoms = chosen(20 * wavy(x, y), x, y, most_nodes=40)
    assert atoms.knots.shape == (40, 2)
    assert atoms.weights.shape == (43, 14)


def test_choose_atoms__are_independent_of_the_functions_before_them():
    x, y = positions(100)
    lead = PositionPolynomials(degree=2, box=BOX)(x, y)
    atoms = chosen(20 * wavy(x, y), x, y, lead=lead)
    basis = np.concatenate([lead, atoms(x, y)], axis=1)
    size = np.linalg.svd(basis / np.linalg.norm(basis, axis=0), compute_uv=False)
    assert basis.shape == (100, 15)
    assert size.min() > 0.005
