"""Derivatives of a fit against finite differences, in double precision, with masks and weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from wave_scene import OPTICS, WAVELENGTH, points, spectra

from psfscale.models.wavediff.blur import SHARP, Blur
from psfscale.models.wavediff.forward import Nuisances, Scene, Wavefronts
from psfscale.models.wavediff.optics import LightPath, amplitude_of
from psfscale.models.wavediff.stars import WeightedStars

N_STARS, N_MODES = 4, 8
ALL = Nuisances(fluxes=True, background=True, centroids=False, jitter=True, stretch=True)


def double_scene(*, noise: float) -> tuple[Scene, Wavefronts]:
    """Stars drawn by the scene itself, with masked pixels and weights that vary by ten."""
    rng = np.random.default_rng(4)
    path = LightPath.of(OPTICS, amplitude_of(OPTICS, None))
    path = replace(path, amplitude=path.amplitude.double())
    at = points(N_STARS)
    functions = np.stack([np.ones(N_STARS), at.x / 1000, at.y / 1000], axis=1)
    weight = 10 ** rng.uniform(4, 5, (N_STARS, 16, 16)) * (rng.random((N_STARS, 16, 16)) > 0.1)
    empty = torch.zeros(N_STARS, 16, 16, dtype=torch.float64)
    scene = Scene(
        pixels=WeightedStars(image=empty, weight=torch.from_numpy(weight)),
        functions=torch.from_numpy(functions),
        spectra=torch.from_numpy(spectra(N_STARS)),
        camera=path.camera(WAVELENGTH.tolist(), 16),
        path=path,
        modes=path.modes(N_MODES + 2),
        known=torch.from_numpy(0.02 * rng.normal(size=(N_STARS, N_MODES + 2))),
        offset=torch.from_numpy(1e-4 * rng.normal(size=(N_STARS, 16, 16))),
    )
    here = Wavefronts(
        zernike=torch.from_numpy(0.03 * rng.normal(size=(N_MODES, 3))),
        tilt=torch.from_numpy(0.02 * rng.normal(size=(N_STARS, 2))),
        blur=Blur(round=0.05, plus=0.02, cross=-0.01),
    )
    flux = torch.from_numpy(rng.uniform(0.5, 2, N_STARS))[:, None, None]
    image = (
        flux * scene.stamps(here) + 1e-3 + noise * torch.from_numpy(rng.normal(size=empty.shape))
    )
    return replace(scene, pixels=WeightedStars(image=image, weight=scene.pixels.weight)), here


def residual(scene: Scene, here: Wavefronts) -> torch.Tensor:
    """(star, pixel) weighted, flux and background eliminated."""
    stamp = scene.stamps(here)
    light = scene.pixels.light(stamp, fluxes=True, background=True)
    return (scene.pixels.weight.sqrt() * (scene.pixels.image - light.of(stamp))).flatten(1)


def slopes(scene: Scene, here: Wavefronts, step: float = 1e-5) -> torch.Tensor:
    """(star, parameter, pixel) of the residual, by central differences; last the blur's three."""
    found = []
    for mode in range(N_MODES):
        moved = []
        for sign in (1, -1):
            zernike = here.zernike.clone()
            zernike[mode, 0] += sign * step
            moved.append(residual(scene, replace(here, zernike=zernike)))
        found.append((moved[0] - moved[1]) / (2 * step))
    for way in ([1e-4, 0, 0], [0, 1e-4, 0], [0, 0, 1e-4]):
        there, back = (
            residual(scene, replace(here, blur=here.blur.moved([s * w for w in way])))
            for s in (1, -1)
        )
        found.append((there - back) / 2e-4)
    return torch.stack(found, dim=1)


def test_normal_vector__is_half_the_descent_of_chi2() -> None:
    scene, here = double_scene(noise=3e-3)
    exact = -(slopes(scene, here) @ residual(scene, here)[..., None])[..., 0]
    found = scene.normal(here, ALL).vector
    torch.testing.assert_close(found[:, :-3], exact[:, :-3], rtol=1e-6, atol=1e-4)
    # The blur's derivatives are finite differences themselves, to one side.
    for k in (-3, -2, -1):
        assert torch.corrcoef(torch.stack([found[:, k], exact[:, k]]))[0, 1] > 0.99


def test_aged_normal__has_the_descent_of_here() -> None:
    scene, here = double_scene(noise=3e-3)
    old = scene.normal(here, ALL)
    there = replace(here, zernike=here.zernike * 1.1, blur=here.blur.moved([0.01]))
    fresh, aged = scene.normal(there, ALL), scene.aged(old, there, ALL)
    torch.testing.assert_close(aged.vector, fresh.vector, rtol=1e-8, atol=1e-6)
    assert aged.matrix is old.matrix


def test_normal_matrix__is_that_of_the_residuals() -> None:
    scene, here = double_scene(noise=0.0)
    jacobian = slopes(scene, here)
    exact = jacobian @ jacobian.mT
    found = scene.normal(here, ALL).matrix
    n = N_MODES
    torch.testing.assert_close(found[:, :n, :n], exact[:, :n, :n], rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(
        found[:, n], exact[:, n], rtol=0.1, atol=float(exact[:, n].max()) / 20
    )


@pytest.mark.parametrize("bytes_", [1.0, 3e4, 1e9])
def test_scene__does_not_depend_on_its_batches(bytes_: float) -> None:
    scene, here = double_scene(noise=3e-3)
    one = replace(scene, camera=replace(scene.camera, batch_bytes=bytes_))
    plain = replace(here, blur=SHARP)
    for found, expected in (
        (one.stamps(plain), scene.stamps(plain)),
        (one.normal(plain, ALL).matrix, scene.normal(plain, ALL).matrix),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    chosen = torch.tensor([2, 0])
    few = scene.select(chosen).stamps(plain.select(chosen))
    torch.testing.assert_close(few, scene.stamps(plain)[chosen], rtol=1e-12, atol=1e-14)
