from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from psfscale.errors import InputError
from psfscale.metrics import rho_statistics

BINS = {"min_separation": 1.0, "max_separation": 30.0, "n_bins": 3}


def stars(seed: int, n: int = 40) -> pd.DataFrame:
    """Stars over a third of a degree around the equator, a fifth of them of the fit."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.normal(0, 0.05, n) for name in ("e1_star", "e2_star")}
    for name in ("e1", "e2"):
        columns[f"{name}_model"] = columns[f"{name}_star"] + rng.normal(0, 0.01, n)
    size = rng.uniform(0.2, 0.3, n)
    columns |= {"R2_star": size, "R2_model": size * (1 + rng.normal(0, 0.02, n))}
    place = {"ra": rng.uniform(0, 0.33, n), "dec": rng.uniform(-0.16, 0.16, n)}
    return pd.DataFrame({**columns, **place, "reserved": np.arange(n) % 5 > 0})


def reduced(e: np.ndarray) -> np.ndarray:
    return e / (1 + np.sqrt(1 - abs(e) ** 2))


def by_hand(tables, one: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Means over pairs in logarithmic bins, flat sky, and the numbers of pairs."""
    edges = np.geomspace(BINS["min_separation"], BINS["max_separation"], BINS["n_bins"] + 1)
    total, n = np.zeros(BINS["n_bins"]), np.zeros(BINS["n_bins"])
    for table in (t[t.reserved] for t in tables):
        star = reduced(table.e1_star.values + 1j * table.e2_star.values)
        model = reduced(table.e1_model.values + 1j * table.e2_model.values)
        t = ((table.R2_star - table.R2_model) / table.R2_star).values
        values = {"g": star, "dg": star - model, "gt": star * t}
        dx, dy = (np.subtract.outer(table[c].values, table[c].values) for c in ("ra", "dec"))
        separation = 60 * np.hypot(dx, dy)
        product = (values[one][:, None].conj() * values[other][None]).real
        for k in range(BINS["n_bins"]):
            inside = (separation >= edges[k]) & (separation < edges[k + 1])
            total[k] += product[inside].sum()
            n[k] += inside.sum()
    return total / n, n / 2


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("rho1", "dg", "dg"),
        ("rho2", "g", "dg"),
        ("rho3", "gt", "gt"),
        ("rho4", "dg", "gt"),
        ("rho5", "g", "gt"),
    ],
)
def test_rho_statistics__are_means_over_pairs_within_exposures(name, one, other) -> None:
    tables = [stars(seed) for seed in range(3)]
    found = rho_statistics(tables, **BINS, bin_slop=0.0)
    expected, n_pairs = by_hand(tables, one, other)
    # flat sky, a third of a degree: a pair at the edge of a bin may fall into the next
    np.testing.assert_allclose(found[name], expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_allclose(found["n_pairs"], n_pairs, atol=2)
    assert found[name].attrs["units"] == "1"


def test_rho_statistics__of_a_constant_error_are_its_square() -> None:
    table = stars(1)
    e = 0.04 + 0.02j
    table["e1_star"], table["e2_star"], table["e1_model"], table["e2_model"] = e.real, e.imag, 0, 0
    found = rho_statistics([table], **BINS)
    np.testing.assert_allclose(found["rho1"], abs(reduced(np.array(e))) ** 2, rtol=1e-4)


def test_rho_statistics__leave_out_what_was_not_measured() -> None:
    table = stars(2)
    with_gaps = pd.concat([table, stars(3).assign(e1_model=np.nan)], ignore_index=True)
    np.testing.assert_array_equal(
        rho_statistics([table], **BINS)["rho2"], rho_statistics([with_gaps], **BINS)["rho2"]
    )


def test_rho_statistics__refuse_stars_without_sky_positions() -> None:
    with pytest.raises(InputError, match="no exposure has two measured reserved stars"):
        rho_statistics([stars(4).assign(ra=np.nan)])


def _turned(table: pd.DataFrame, ccds: list[np.ndarray]) -> pd.DataFrame:
    """The same stars as CCDs see them whose pixels lie so on the sky: J of each, in turn."""
    seen = table.copy()
    for which in ("star", "model"):
        for k, axes in enumerate(ccds):
            mine = np.arange(len(table)) % len(ccds) == k
            e1, e2 = (table.loc[mine, f"{name}_{which}"].to_numpy() for name in ("e1", "e2"))
            matrix = np.stack([1 + e1, e2, e2, 1 - e1], -1).reshape(-1, 2, 2)
            back = np.linalg.inv(axes)
            matrix = back @ matrix @ back.T
            seen.loc[mine, f"e1_{which}"] = (matrix[:, 0, 0] - matrix[:, 1, 1]) / 2
            seen.loc[mine, f"e2_{which}"] = matrix[:, 0, 1]
        for name in ("e1", "e2", "R2"):
            seen[f"{name}_{which}_sky"] = table[f"{name}_{which}"]
    return seen


QUARTER, MIRROR = np.array([[0.0, -1.0], [1.0, 0.0]]), np.diag([-1.0, 1.0])
C, S = np.cos(0.4), np.sin(0.4)


@pytest.mark.parametrize(
    "ccds",
    [[np.eye(2), QUARTER], [np.eye(2), MIRROR], [np.array([[C, -S], [S, C]]), QUARTER]],
)
def test_rho_statistics__of_ccds_turned_to_each_other_are_those_of_the_sky(ccds) -> None:
    table = stars(1, n=200)
    # errors that are alike all over the exposure, so that ρ₁ is their square
    table["e1_star"], table["e2_star"] = table["e1_model"] + 0.02, table["e2_model"] - 0.03
    truth = rho_statistics([table], **BINS)
    seen = _turned(table, ccds)
    found = rho_statistics([seen], **BINS)
    np.testing.assert_allclose(found["rho1"], truth["rho1"], rtol=1e-10)
    pixels = seen.drop(columns=[name for name in seen if name.endswith("_sky")])
    wrong = rho_statistics([pixels], **BINS)["rho1"] / truth["rho1"]
    assert (abs(wrong) < 0.7).all()  # half of the pairs lie on both CCDs


def test_rho_statistics__say_how_many_stars_have_no_orientation() -> None:
    table = stars(1)
    table["oriented"] = np.arange(len(table)) >= 10
    attributes = rho_statistics([table], **BINS).attrs
    assert attributes["n_unoriented"] == int(table.reserved[:10].sum())
    assert rho_statistics([stars(1)], **BINS).attrs["n_unoriented"] == 0
