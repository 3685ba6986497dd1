from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from wave_scene import OPTICS, SIDE, coefficients, draw, points, stars

from psfscale.arrays import PixelGrid
from psfscale.cli import app
from psfscale.errors import ConfigError, InputError
from psfscale.models.wavediff.fixed import FixedWavefront
from psfscale.models.wavediff.model import WaveDiff
from psfscale.store.saved_models import load_model, save_model

SMALL = {"optics": OPTICS, "n_zernikes": 10, "degree": 1, "surfaces": False, "device": "cpu"}
GRID = PixelGrid(shape=(16, 16))
RANGE = np.array([0.0, SIDE])


def polynomials(n_zernikes: int = 14, *, seed: int = 8, rms: float = 0.05) -> FixedWavefront:
    """Quadratic in position, which the fitted field of degree 1 is not, and beyond its modes."""
    c = np.random.default_rng(seed).normal(size=(n_zernikes, 6)) * rms / 3
    c[0] = 0
    return FixedWavefront(coefficient=c, x_range=RANGE, y_range=RANGE)


def at_points(known: FixedWavefront, n: int = 200) -> FixedWavefront:
    x, y = np.random.default_rng(1).uniform(-50, SIDE + 50, (2, n))
    return FixedWavefront(zernike=known(x, y), x=x, y=y)


def scene(known: FixedWavefront, n: int = 40):
    """`wave_scene.stars` with a known wavefront on top."""
    plain = stars(n)
    z = known(plain.x, plain.y)
    z[:, :10] += coefficients(plain.x, plain.y)
    clean = draw(z, plain.sed)
    sigma = np.sqrt((clean**2).sum((1, 2))) / 150
    noise = np.random.default_rng(9).normal(size=clean.shape) * sigma[:, None, None]
    weight = np.broadcast_to(1 / sigma[:, None, None] ** 2, clean.shape).copy()
    return type(plain)(
        image=clean + noise,
        weight=weight,
        x=plain.x,
        y=plain.y,
        sed=plain.sed,
        wavelength=plain.wavelength,
    )


def error(psf: np.ndarray, truth: np.ndarray) -> float:
    norms = np.linalg.norm(psf - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
    return float(norms.mean())


def test_polynomials__are_the_monomials_of_the_paper() -> None:
    c = np.zeros((4, 6))
    c[3] = [1, 2, 3, 4, 5, 6]
    known = FixedWavefront(coefficient=c, x_range=RANGE, y_range=RANGE)
    u, v = 0.4, -0.2
    z = known(np.array([700.0]), np.array([400.0]))
    assert z[0, 3] == pytest.approx(1 + 2 * u + 3 * v + 4 * u * u + 5 * u * v + 6 * v * v)
    assert not z[0, :3].any()


def test_points__give_back_their_values_and_follow_a_smooth_field_between() -> None:
    known = polynomials()
    spread = at_points(known)
    np.testing.assert_allclose(spread(spread.x, spread.y), spread.zernike, atol=1e-9)
    x, y = np.random.default_rng(2).uniform(0, SIDE, (2, 50))
    rms = np.sqrt((known(x, y) ** 2).mean())
    assert np.abs(spread(x, y) - known(x, y)).max() < 0.05 * rms
    linear = FixedWavefront(zernike=np.stack([spread.x, spread.y], axis=1), x=spread.x, y=spread.y)
    far = np.array([-500.0]), np.array([2000.0])
    np.testing.assert_allclose(linear(*far)[0], [-500, 2000], rtol=1e-6)


@pytest.mark.parametrize("kind", ["polynomials", "points"])
def test_prior__is_added_to_the_fitted_wavefront_anywhere(kind: str, tmp_path: Path) -> None:
    known = polynomials()
    prior = known if kind == "polynomials" else at_points(known)
    model = WaveDiff(**SMALL, prior=prior, centroids=False)
    report = model.fit(scene(known))
    assert report.reduced_chi2 == pytest.approx(1, abs=0.05)
    at = points(30, seed=77)
    z = known(at.x, at.y)
    z[:, :10] += coefficients(at.x, at.y)
    psf = model.predict(at, GRID)
    assert error(psf, draw(z, at.sed)) < 0.0085
    found = model.zernikes(at)
    assert found.shape == (30, 14)
    assert np.linalg.norm((found - z)[:, 1:]) < 0.15 * np.linalg.norm(z[:, 1:])
    np.testing.assert_allclose(found[:, 10:], prior(at.x, at.y)[:, 10:])
    save_model(model, tmp_path / "model.zarr")
    back = load_model(tmp_path / "model.zarr")
    assert np.array_equal(back.predict(at, GRID), psf)
    without = WaveDiff(**SMALL)
    assert without.fit(scene(known)).reduced_chi2 > 1.5


def test_prior__of_all_there_is_leaves_nothing_to_fit() -> None:
    plain = stars(40)
    z = coefficients(plain.x, plain.y)
    whole = FixedWavefront(zernike=z, x=plain.x, y=plain.y)
    model = WaveDiff(**SMALL, prior=whole)
    model.fit(plain)
    own = model.positions(plain.x, plain.y) @ model.state()["zernike"].T
    assert np.linalg.norm(own[:, 1:]) < 0.1 * np.linalg.norm(z[:, 1:])


def test_prior__from_a_file_is_taken_by_the_command(tmp_path: Path) -> None:
    known = polynomials(4)
    plain = stars(12)
    np.savez(
        tmp_path / "stars.npz",
        **{k: getattr(plain, k) for k in ("image", "weight", "x", "y", "sed", "wavelength")},
    )
    np.savez(tmp_path / "prior.npz", **known.arrays)
    survey = str(Path(__file__).parents[3] / "catalogs/euclid_vis.yaml")
    settings = ["n_zernikes=6", "degree=0", "surfaces=false", "optics.pupil_samples=32"]
    options = [item for s in [*settings, f"prior={tmp_path}/prior.npz"] for item in ("--set", s)]
    out = tmp_path / "model.zarr"
    command = ["fit", "wavediff", str(tmp_path / "stars.npz"), "--survey", survey, "-o", str(out)]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(load_model(out).state()["fixed_coefficient"], known.coefficient)
    np.savez(tmp_path / "prior.npz", opd=np.zeros(3))
    refused = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "other.zarr"), *options])
    assert refused.exit_code == 2
    assert "a fixed wavefront has coefficient" in " ".join(refused.output.split())


def test_fixed_wavefront__refuses_what_does_not_fit() -> None:
    x = np.arange(4.0)
    with pytest.raises(InputError, match="needs coefficient"):
        FixedWavefront()
    with pytest.raises(InputError, match=r"shape \(4, 5\), expected"):
        FixedWavefront(coefficient=np.zeros((4, 5)), x_range=RANGE, y_range=RANGE)
    with pytest.raises(InputError, match="needs x_range"):
        FixedWavefront(coefficient=np.zeros((4, 6)), y_range=RANGE)
    with pytest.raises(InputError, match=r"needs x and y of its first length, got \(4,\) and None"):
        FixedWavefront(zernike=np.zeros((4, 6)), x=x)
    with pytest.raises(InputError, match="not all on a line"):
        FixedWavefront(zernike=np.zeros((4, 6)), x=x, y=2 * x)
    with pytest.raises(InputError, match="finite"):
        FixedWavefront(zernike=np.full((4, 6), np.nan), x=x, y=x**2)
    with pytest.raises(ConfigError, match="give it as `prior`"):
        WaveDiff(**SMALL, fixed=(4, 6, 0, 0))
