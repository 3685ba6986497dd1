"""Thresholded singular values: as by a decomposition, whichever way they are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psfscale.kernels.optimize import lowrank
from psfscale.kernels.optimize.lowrank import (
    FIRM_END,
    SingularThreshold,
    nuclear_norm,
    singular_values,
)


def matrix(n, p, seed=1):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, p)) * np.linspace(0.2, 3, p))


def by_decomposition(a, threshold, kind):
    u, s, v = torch.linalg.svd(a, full_matrices=False)
    rules = {
        "hard": s,
        "soft": s - threshold,
        "firm": torch.minimum(s, (s - threshold) * FIRM_END / (FIRM_END - 1)),
    }
    kept = torch.where(s >= threshold, rules[kind], 0.0)
    return (u * kept) @ v


@pytest.mark.parametrize("kind", ["hard", "soft", "firm"])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (9, 9)])
def test_singular_threshold__is_that_of_the_decomposition(kind, shape):
    a = matrix(*shape)
    threshold = float(singular_values(a)[4]) * 1.001
    act = SingularThreshold(kind)
    torch.testing.assert_close(
        act(a, threshold), by_decomposition(a, threshold, kind), atol=1e-10, rtol=0
    )
    assert act.rank == 4
    assert float(act(a, 1e6).abs().max()) == 0


@pytest.mark.parametrize("kind", ["hard", "soft", "firm"])
@pytest.mark.parametrize("shape", [(60, 80), (80, 60)])
def test_singular_threshold__follows_a_sequence(monkeypatch, kind, shape):
    monkeypatch.setattr(lowrank, "EXACT_SIDE", 20)
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(shape[0], 6)), rng.normal(size=(6, shape[1]))
    noise = rng.normal(size=shape)
    act = SingularThreshold(kind)
    for k in range(12):
        noise = 0.99 * noise + 0.14 * rng.normal(size=shape)
        signal = left @ np.diag(np.linspace(1, 2 + k / 10, 6)) @ right
        a = torch.from_numpy(signal + 0.3 * noise)
        out, wanted = act(a, 20.0), by_decomposition(a, 20.0, kind)
        assert float((out - wanted).norm() / wanted.norm()) < 2e-4  # a seventh of the noise is new
        assert act.rank == int((singular_values(a) >= 20).sum())


def test_singular_threshold__sees_a_crowd_of_newcomers(monkeypatch):
    monkeypatch.setattr(lowrank, "EXACT_SIDE", 20)
    act = SingularThreshold("hard")
    quiet = 0.01 * matrix(80, 90)
    act(quiet, 5.0)
    assert act.rank == 0
    loud = matrix(80, 90, seed=4)
    torch.testing.assert_close(act(loud, 5.0), by_decomposition(loud, 5.0, "hard"))
    assert act.rank > lowrank.SPARE


@pytest.mark.parametrize("step", [0.3, 1.0, 2.5])
def test_soft_singular_threshold__obeys_the_moreau_identity(step):
    """Its conjugate's proximal operator is the projection on matrices of norm up to λ."""
    x = torch.from_numpy(np.random.default_rng(5).normal(size=(7, 12)))
    threshold = 2.0

    def prox(v, t):
        return SingularThreshold("soft", follow=False)(v, threshold * t)

    left, s, right = torch.linalg.svd(x, full_matrices=False)
    projected = (left * s.clamp(max=threshold)) @ right
    torch.testing.assert_close(x - step * prox(x / step, 1 / step), projected)


def test_nuclear_norm__is_the_sum_of_singular_values():
    a = matrix(7, 11)
    assert nuclear_norm(a) == pytest.approx(float(torch.linalg.svdvals(a).sum()), rel=1e-10)


@pytest.mark.parametrize("kind", ["hard", "soft", "firm"])
def test_singular_threshold__finds_few_large_values_from_a_random_space(kind):
    rng = np.random.default_rng(6)
    signal = rng.normal(size=(300, 5)) @ np.diag([9, 8, 7, 6, 5]) @ rng.normal(size=(5, 280))
    a = torch.from_numpy(signal + rng.normal(size=(300, 280)))
    act = SingularThreshold(kind)
    out, wanted = act(a, 60.0), by_decomposition(a, 60.0, kind)
    assert act.rank == 5
    assert float((out - wanted).norm() / wanted.norm()) < 1e-8
    order = torch.from_numpy(rng.permutation(300))
    torch.testing.assert_close(SingularThreshold(kind)(a[order], 60.0), out[order])
