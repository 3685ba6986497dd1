"""How much a pattern varies over the field: the law of variances and the choice of functions."""

import torch

from psfscale.models.variation import Variation, row_support

DEGREE = torch.tensor([d for d in range(7) for _ in range(d + 1)])


def drawn(first, ratio, *, n=400, seed=3):
    """Amplitudes of many patterns whose variance falls from degree to degree, with noise."""
    generator = torch.Generator().manual_seed(seed)
    variance = first * ratio ** (DEGREE.double() - 1)
    variance[0] = 0
    z = torch.randn(len(DEGREE), n, generator=generator, dtype=torch.float64)
    return z * torch.sqrt(1 + variance)[:, None], variance


def found_in(amplitude, *, mixing=None, noise=1.0):
    n, m = amplitude.shape[-2:]
    return Variation.of(
        amplitude,
        mixing=torch.eye(n, dtype=torch.float64) if mixing is None else mixing,
        degree=DEGREE[:n],
        noise=torch.full((*amplitude.shape[:-2], m), noise, dtype=torch.float64),
    )


def test_variation__finds_the_law_of_the_amplitudes():
    amplitude, truth = drawn(100.0, 0.4)
    found = found_in(amplitude).variance
    # Functions come strongest first, so that degrees keep their order.
    ratio = torch.log(found[1:] / truth[1:, None]).mean(1)
    # Trial ratios lie 0.78 apart, so that the last of five steps is off by half of that to a power.
    assert torch.allclose(ratio, torch.zeros(27, dtype=torch.float64), atol=0.4)


def test_variation__of_noise_lets_little_through():
    amplitude, _ = drawn(0.0, 1.0)
    found = found_in(amplitude)
    assert (found.variance[1:] / (1 + found.variance[1:])).mean() < 0.12


def test_variation__is_smooth_where_no_bright_stars_are():
    # One bright star in a corner and many faint ones: what the functions do between them is
    # told by the prior, not by the metric of the bright star's noise.
    generator = torch.Generator().manual_seed(6)
    x = 2 * torch.rand(60, generator=generator, dtype=torch.float64) - 1
    functions = x[:, None] ** torch.arange(6)
    root = torch.where(torch.arange(60) < 3, 300.0, 3.0).double()
    r = torch.linalg.qr(root[:, None] * functions).R
    mixing = torch.linalg.inv(r)
    truth = torch.tensor([1.0, 1.0, 0.3, 0.1, 0.0, 0.0], dtype=torch.float64)[:, None]
    noise = torch.randn(6, 50, generator=generator, dtype=torch.float64)
    z = r @ truth + noise
    prior = Variation.of(
        z,
        mixing=mixing,
        degree=torch.arange(6),
        noise=torch.ones(50, dtype=torch.float64),
    )
    kept = prior.variance / (1 + prior.variance)
    fitted = mixing @ prior.turn.mT @ (kept * (prior.turn @ z))
    at = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None] ** torch.arange(6)
    error = (at @ (fitted - truth)).square().mean().sqrt()
    unbiased = (at @ mixing @ noise).square().mean().sqrt()
    assert error < 0.6 * unbiased


def test_variation__turns_functions_and_keeps_the_constant():
    generator = torch.Generator().manual_seed(8)
    upper = torch.triu(torch.randn(28, 28, generator=generator, dtype=torch.float64))
    mixing = upper + 8 * torch.eye(28, dtype=torch.float64)
    turn = found_in(drawn(50.0, 0.5, n=6)[0], mixing=mixing).turn
    assert torch.allclose(turn @ turn.mT, torch.eye(28, dtype=torch.float64), atol=1e-10)
    assert turn[0].tolist() == [1.0] + 27 * [0.0]


def test_variation__counts_scatter_of_the_stars_as_noise():
    amplitude, _ = drawn(100.0, 0.4, n=20)
    assert torch.equal(found_in(2 * amplitude, noise=4.0).variance, found_in(amplitude).variance)


def test_variation__of_a_batch_is_that_of_each():
    amplitude = torch.stack([drawn(100.0, 0.4, n=5)[0], drawn(3.0, 0.8, n=5, seed=4)[0]])
    mixing = torch.eye(28, dtype=torch.float64).expand(2, 28, 28)
    together = found_in(amplitude, mixing=mixing)
    for i in range(2):
        alone = found_in(amplitude[i])
        assert torch.allclose(together.variance[i], alone.variance)
        assert torch.allclose(together.evidence[i], alone.evidence)


def test_row_support__keeps_the_strongest_functions_and_the_constant():
    square = torch.tensor([[0.0], [9.0], [1.0], [100.0], [25.0]])
    used = row_support(square, torch.full_like(square, 10.0), most=3)
    assert used[:, 0].tolist() == [True, False, False, True, True]


def test_row_support__of_highest_likelihood_drops_noise_and_keeps_signal():
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(28, 200, generator=generator)
    prior = torch.full_like(noise, 50.0)
    assert row_support(noise**2, prior, most=None)[1:].double().mean() < 0.01
    signal = noise * 51**0.5
    assert row_support(signal**2, prior, most=None)[1:].double().mean() > 0.8
    few = torch.where(torch.arange(28)[:, None] < 4, 20.0 + noise, noise)
    kept = row_support(few**2, prior, most=None)
    assert kept[:4].all()
    assert kept[4:].double().mean() < 0.02
