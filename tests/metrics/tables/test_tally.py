from __future__ import annotations

from functools import reduce
from itertools import permutations

import crowd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psfscale.errors import InputError
from psfscale.metrics.tables.axes import axes_of
from psfscale.metrics.tables.count import Collector
from psfscale.metrics.tables.exact import carried, joined, split
from psfscale.metrics.tables.tally import NOTHING, Tally, merge


@pytest.fixture(scope="module")
def parts() -> list[Tally]:
    """Six exposures in three parts."""
    return [crowd.tally(seeds, rho=True) for seeds in ([0, 1, 2], [3], [4, 5])]


@pytest.fixture(scope="module")
def whole() -> Tally:
    return crowd.tally(range(6), rho=True)


def test_merge__of_parts_is_the_whole_bit_for_bit_in_any_order(parts, whole) -> None:
    assert {name.split("/")[0] for name in whole.arrays} == {"stars", "galaxies", "rho"}
    for order in permutations(parts):
        assert reduce(merge, order).same(whole)


def test_merge__is_associative_and_nothing_is_its_identity(parts) -> None:
    a, b, c = parts
    assert merge(merge(a, b), c).same(merge(a, merge(b, c)))
    assert merge(a, NOTHING).same(a)
    assert merge(NOTHING, a).same(a)


def test_merge__of_a_tally_with_itself_is_itself(parts) -> None:
    assert merge(parts[0], parts[0]).same(parts[0])
    assert merge(crowd.tally([4, 5], rho=True), parts[2]).same(parts[2])


def test_merge__refuses_an_exposure_that_is_in_both(parts) -> None:
    with pytest.raises(InputError, match=r"1 exposures are in both tallies \(exp-3"):
        merge(parts[1], crowd.tally([3, 9], rho=True))


def test_merge__refuses_tallies_of_other_cells(parts) -> None:
    collector = Collector(axes_of(crowd.instrument("reference_pixel")), rho=False)
    collector.add("other", stars=crowd.stars(8))
    with pytest.raises(InputError, match="over_field/counts counts over"):
        merge(parts[0], collector.tally())


def test_tally__does_not_depend_on_the_order_or_the_size_of_batches(whole, monkeypatch) -> None:
    monkeypatch.setattr("psfscale.metrics.tables.count.AT_ONCE", 1)
    assert crowd.tally([5, 2, 0, 1, 4, 3], rho=True).same(whole)


def test_tally__of_no_exposure_is_nothing() -> None:
    assert crowd.tally([]).same(NOTHING)


@given(st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=20), st.randoms())
def test_exact_sums__are_the_same_in_any_order(values, random) -> None:
    def total(terms):
        high, low = np.int64(0), np.int64(0)
        for term in terms:
            more, rest = split(np.array(term))
            high, low = carried(high + more, low + rest)
        return int(high), int(low)

    shuffled = list(values)
    random.shuffle(shuffled)
    assert total(values) == total(shuffled)
    exact = sum(map(int, np.array(values) * 2.0**30)) / 2**30
    found = float(joined(*map(np.array, total(values))))
    assert found == pytest.approx(exact, abs=1e-7 + 1e-15 * sum(map(abs, values)))


def test_exact_sums__keep_fourteen_decimals() -> None:
    values = np.random.default_rng(0).normal(0, 1e-3, 1000)
    high, low = split(values)
    found = joined(*carried(high.sum(), low.sum()))
    assert found == pytest.approx(values.sum(), abs=1000 * 2.0**-46)
    assert (low >= 0).all()
