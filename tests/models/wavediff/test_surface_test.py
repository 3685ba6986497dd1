"""Wavefronts beyond the Zernikes: derivatives, the linear problem, the prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from wave_scene import OPTICS, WAVELENGTH, N, coefficients, stars

from psfscale.models.position import PositionPolynomials
from psfscale.models.wavediff.blur import Blur
from psfscale.models.wavediff.fit import refine
from psfscale.models.wavediff.forward import Nuisances, Scene, Wavefronts
from psfscale.models.wavediff.joint import Surfaces, linearised
from psfscale.models.wavediff.optics import LightPath, amplitude_of
from psfscale.models.wavediff.prior import Roughness, learnt, posterior
from psfscale.models.wavediff.stars import WeightedStars
from psfscale.models.wavediff.surface import SurfaceBasis, cosines, waves_of
from psfscale.models.wavediff.surface_test import Trial, split

N_WAVES = 6
WAVES = waves_of(N_WAVES)
FREE = Nuisances(fluxes=True, background=True, centroids=True, jitter=True)


def scene_of(
    n: int, *, rippled: bool = True, shifts: float = 0.3, seed: int = 5
) -> tuple[Scene, torch.Tensor]:
    """Stars in double precision, some pixels masked, and their functions of position."""
    batch = stars(n, snr=300, shifts=shifts, rippled=rippled, seed=seed)
    path = LightPath.of(OPTICS, amplitude_of(OPTICS, None))
    path = replace(path, amplitude=path.amplitude.double())
    pixels = WeightedStars.of(batch, N, torch.device("cpu"))
    weight = pixels.weight.double()
    weight[::2, 3, 4] = 0
    weight *= 1 + 0.5 * torch.rand(
        weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    positions = PositionPolynomials.around(batch.x, batch.y, degree=1)
    functions = torch.from_numpy(positions(batch.x, batch.y))
    scene = Scene(
        pixels=WeightedStars(image=pixels.image.double(), weight=weight),
        functions=functions,
        spectra=torch.from_numpy(batch.sed),
        camera=path.camera(WAVELENGTH.tolist(), N),
        path=path,
        modes=path.modes(10),
        surfaces=SurfaceBasis(cosines=cosines(path.axis, N_WAVES), functions=functions),
    )
    return scene, functions


def start(scene: Scene) -> Wavefronts:
    rng = np.random.default_rng(3)
    surface = torch.zeros(3, N_WAVES, N_WAVES, dtype=torch.float64)
    kx, ky = zip(*WAVES, strict=True)
    surface[:, ky, kx] = torch.from_numpy(0.003 * rng.normal(size=(3, len(WAVES))))
    return Wavefronts(
        zernike=torch.from_numpy(0.02 * rng.normal(size=(10, 3))),
        tilt=torch.from_numpy(0.02 * rng.normal(size=(len(scene), 2))),
        blur=Blur(round=0.05),
        surface=surface,
    )


def best(scene: Scene, free: Nuisances, *, n: int) -> Wavefronts:
    """The best Zernikes of the first `n` stars drawn, from the true ones."""
    batch = stars(n)
    functions = PositionPolynomials.around(batch.x, batch.y, degree=1)(batch.x, batch.y)
    true = np.linalg.lstsq(functions, coefficients(batch.x, batch.y), rcond=None)[0].T
    zernike = torch.from_numpy(true)
    tilt = torch.zeros(n, 2, dtype=torch.float64)
    if free.centroids:
        tilt = torch.from_numpy(functions @ true[1:3].T)
        zernike[1:3] = 0
    here = Wavefronts(zernike=zernike, tilt=tilt)
    bare = replace(scene, surfaces=None)
    return refine(bare, here, nuisances=free, max_steps=6).wavefronts


def chi2_of(scene: Scene, at: Wavefronts) -> torch.Tensor:
    """χ² of the stars, flux and background at their best."""
    stamp = scene.stamps(at)
    return scene.pixels.chi2(scene.pixels.light(stamp, fluxes=True, background=True).of(stamp))


def test_normal__is_half_the_descent_of_chi2_along_each_cosine() -> None:
    scene, _ = scene_of(3)
    at = start(scene)
    normal = scene.normal(at, FREE, WAVES)
    assert normal.matrix.shape == (3, 10 + len(WAVES) + 1, 10 + len(WAVES) + 1)
    step = 1e-5
    for number in (0, 7, len(WAVES) - 1):
        kx, ky = WAVES[number]
        change = torch.zeros_like(at.surface)
        change[0, ky, kx] = step  # the constant function is 1 at every star
        after, before = (
            chi2_of(scene, replace(at, surface=at.surface + sign * change)) for sign in (1, -1)
        )
        slope = -(after - before) / (4 * step)
        np.testing.assert_allclose(normal.vector[:, 10 + number], slope, rtol=1e-5)


def test_normal__has_the_curvature_of_a_model_that_fits() -> None:
    scene, _ = scene_of(2)
    at = start(scene)
    exact = replace(scene, pixels=replace(scene.pixels, image=scene.stamps(at)))
    matrix = exact.normal(at, FREE, WAVES).matrix
    kx, ky = WAVES[4]
    change = torch.zeros_like(at.surface)
    change[0, ky, kx] = 1e-4
    chi2 = chi2_of(exact, replace(at, surface=at.surface + change))
    np.testing.assert_allclose(chi2, 1e-8 * matrix[:, 14, 14], rtol=1e-2)


@pytest.mark.parametrize("centroids", [False, True])
def test_joint__foresees_how_far_chi2_falls(centroids: bool) -> None:
    scene, features = scene_of(30, shifts=0.3 if centroids else 0.0)
    free = replace(FREE, centroids=centroids)
    at = best(scene, free, n=30)
    joint = linearised(scene, at, free, features=features, waves=WAVES)
    problem = joint.surfaces()
    sigma = Roughness(rms=(0.01, 0.005)).sigma(WAVES, [0, 1, 1]).ravel()
    change = joint.change(problem, posterior(problem, sigma).mean)
    after = joint.moved(change, N_WAVES)
    fallen = float((chi2_of(scene, at) - chi2_of(scene, after)).sum())
    # The rest of the fall is what is not linear, and the stars' own tilts at their best before.
    assert fallen > 500
    assert fallen == pytest.approx(joint.gain(change), rel=0.15)
    # About the new wavefronts the same coefficients are asked for, not their change.
    again = linearised(scene, after, free, features=features, waves=WAVES)
    np.testing.assert_allclose(
        again.start, joint.start + change[joint.n_field :], rtol=1e-12, atol=1e-15
    )


def test_joint__does_not_depend_on_the_order_of_the_stars() -> None:
    scene, features = scene_of(20)
    at = start(scene)
    order = torch.from_numpy(np.random.default_rng(0).permutation(20))
    one = linearised(scene, at, FREE, features=features, waves=WAVES)
    two = linearised(
        scene.select(order), at.select(order), FREE, features=features[order], waves=WAVES
    )
    np.testing.assert_allclose(two.matrix, one.matrix, rtol=1e-9, atol=1e-9 * one.matrix.max())


def problem_of(seed: int, sigma: np.ndarray, *, n_data: int = 400, noise: float = 0.01) -> Surfaces:
    """Coefficients drawn from a prior, seen through a random matrix."""
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n_data, sigma.size)) / noise
    data = design @ (sigma.ravel() * rng.normal(size=sigma.size)) + rng.normal(size=n_data)
    none = np.zeros((0, sigma.size))
    return Surfaces(matrix=design.T @ design, vector=design.T @ data, still=none[:, 0], carry=none)


def test_evidence__is_that_of_the_gaussian_of_the_data() -> None:
    sigma = Roughness(rms=(0.01, 0.004)).sigma(WAVES, [0, 1, 1]).ravel()
    rng = np.random.default_rng(1)
    design = rng.normal(size=(60, sigma.size)) / 0.01
    data = rng.normal(size=60) * 2
    none = np.zeros((0, sigma.size))
    problem = Surfaces(
        matrix=design.T @ design, vector=design.T @ data, still=none[:, 0], carry=none
    )
    covariance = np.eye(60) + (design * sigma**2) @ design.T
    likelihood = -0.5 * (
        data @ np.linalg.solve(covariance, data) + np.linalg.slogdet(covariance)[1]
    )
    found = posterior(problem, sigma)
    assert found.evidence == pytest.approx(likelihood + 0.5 * data @ data, rel=1e-9)
    step = 1e-5
    for k in (0, 17):
        up, down = sigma.copy(), sigma.copy()
        up[k] *= np.exp(step)
        down[k] *= np.exp(-step)
        slope = (posterior(problem, up).evidence - posterior(problem, down).evidence) / (2 * step)
        assert found.slope[k] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_roughness__is_learnt_from_what_is_seen() -> None:
    waves, degrees = waves_of(12), [0, 1, 1]
    truth = Roughness(rms=(0.02, 0.006), slope=3.0)
    problem = problem_of(0, truth.sigma(waves, degrees), n_data=900, noise=0.005)
    law, found = learnt(problem, waves=waves, degrees=degrees, start=Roughness.usual(1), n_steps=30)
    # 120 and 240 coefficients, not all of them seen: errors of about 1/sqrt(2 · 60).
    np.testing.assert_allclose(law.rms, truth.rms, rtol=0.25)
    assert law.slope == pytest.approx(3.0, abs=0.5)
    best = found.evidence
    for other in (replace(law, rms=(0.03, 0.006)), replace(law, slope=law.slope + 2)):
        assert posterior(problem, other.sigma(waves, degrees).ravel()).evidence < best


def test_roughness__vanishes_where_there_is_nothing() -> None:
    waves, degrees = waves_of(8), [0, 1, 1]
    problem = problem_of(2, np.zeros((len(waves), 3)))
    law, found = learnt(problem, waves=waves, degrees=degrees, start=Roughness.usual(1), n_steps=30)
    # Noise of 0.0005 in each of 47 coefficients would be 0.0034 rms.
    assert max(law.rms) < 0.002
    assert abs(found.evidence) < 3


@pytest.mark.parametrize("rippled", [False, True])
def test_trial__is_won_where_there_are_ripples_alone(rippled: bool) -> None:
    scene, features = scene_of(60, rippled=rippled)
    at = best(scene, FREE, n=60)
    parts = [
        linearised(scene.select(part), at.select(part), FREE, features=features[part], waves=WAVES)
        for part in split(torch.arange(60), 0.25, 0)
    ]
    assert Trial.of(parts, [0, 1, 1]).wins == rippled


def test_joint__is_the_sum_of_its_parts() -> None:
    scene, features = scene_of(12)
    at = start(scene)
    whole = linearised(scene, at, FREE, features=features, waves=WAVES)
    parts = [
        linearised(scene.select(part), at.select(part), FREE, features=features[part], waves=WAVES)
        for part in split(torch.arange(12), 0.3, 0)
    ]
    joined = parts[0].joined(parts[1:])
    scale = whole.matrix.max()
    np.testing.assert_allclose(joined.matrix, whole.matrix, rtol=1e-9, atol=1e-12 * scale)
    rest = joined.without(parts[2])
    np.testing.assert_allclose(rest.vector, parts[0].vector + parts[1].vector, rtol=1e-6)


def test_split__is_into_like_parts() -> None:
    parts = split(torch.arange(5, 45), 0.15, 3)
    assert sorted(len(part) for part in parts) == [5, 5, 6, 6, 6, 6, 6]
    assert sorted(torch.cat(parts).tolist()) == list(range(5, 45))
    again = split(torch.arange(5, 45), 0.15, 3)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
