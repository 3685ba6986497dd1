from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from wave_scene import (
    OPTICS,
    WAVELENGTH,
    blurred_stars,
    coefficients,
    draw,
    draw_blurred,
    points,
    ripple,
    stars,
)

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.cli import app
from psfscale.errors import ConfigError, FitError, InputError
from psfscale.kernels.centroid import windowed_centroid
from psfscale.kernels.optics.pupil import PupilShape, pupil_amplitude
from psfscale.kernels.optics.zernike import project
from psfscale.models import load_model_class, settings_class
from psfscale.models.wavediff.drawing import Drawing
from psfscale.models.wavediff.model import WaveDiff
from psfscale.models.wavediff.optics import LightPath
from psfscale.models.wavediff.phases import train
from psfscale.models.wavediff.result import Phase, Step
from psfscale.models.wavediff.settings import OpticsSettings
from psfscale.store.saved_models import load_model, save_model
from psfscale.survey import load_survey

SMALL = {"optics": OPTICS, "n_zernikes": 10, "degree": 1, "device": "cpu"}
GRID = PixelGrid(shape=(16, 16))
DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]


def error(psf: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean(np.linalg.norm(psf - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2)))
    )


@pytest.fixture(scope="module")
def fitted():
    model = WaveDiff(**SMALL)
    return model, model.fit(stars())


@pytest.fixture(scope="module")
def rough():
    """Stars of a telescope with ripples beyond the Zernikes, test points and their truth."""
    at = points(30, seed=77)
    truth = draw(coefficients(at.x, at.y), at.sed, surface=ripple(at.x))
    return stars(n=80, snr=300, rippled=True), at, truth


def test_wavediff__reaches_the_noise_limit_at_new_positions_and_colours(fitted) -> None:
    model, report = fitted
    at = points(30, seed=77)
    psf = model.predict(at, GRID)
    truth = draw(coefficients(at.x, at.y), at.sed)
    # 27 parameters over 40 stars of S/N 150: sqrt(27 / 40) / 150 = 0.55 %.
    assert error(psf, truth) < 0.0075
    assert report.reduced_chi2 == pytest.approx(1, abs=0.05)
    assert report.converged
    assert report.used.all()


def test_wavediff__finds_the_wavefront_itself(fitted) -> None:
    model, _ = fitted
    at = points(30, seed=77)
    found, truth = model.zernikes(at), coefficients(at.x, at.y)
    assert np.linalg.norm((found - truth)[:, 1:]) < 0.1 * np.linalg.norm(truth[:, 1:])
    opd = model.wavefront(at)
    assert opd.shape == (30, 32, 32)
    assert not opd[:, 0, 0].any()


def test_wavediff__draws_a_single_wavelength(fitted) -> None:
    model, _ = fitted
    at = points(5)
    mono = np.zeros((5, 4))
    mono[:, 2] = 1
    one = FieldPoints(x=at.x, y=at.y, sed=np.ones((5, 1)), wavelength=WAVELENGTH[2:3])
    psf = model.predict(one, GRID)
    assert error(psf, draw(coefficients(at.x, at.y), mono)) < 0.01


def test_wavediff__knows_fluxes_background_and_centres_of_its_stars() -> None:
    scene = stars(flux=500.0, background=0.4, shifts=0.5)
    model = WaveDiff(**SMALL)
    report = model.fit(scene)
    np.testing.assert_allclose(report.flux, 500, rtol=0.04)
    y, x = windowed_centroid(torch.from_numpy(scene.image), width=1.5)
    assert np.abs(report.shift_y - (y.numpy() - 8)).max() < 0.05
    assert np.abs(report.shift_x - (x.numpy() - 8)).max() < 0.05
    assert report.reduced_chi2 == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("size", [24, 25])
@pytest.mark.parametrize("oversampling", [1, 2, 3])
@pytest.mark.parametrize("pixel", ["native", "none"])
def test_wavediff__puts_the_windowed_centroid_on_half_the_side(
    fitted, size: int, oversampling: int, pixel: str
) -> None:
    model, _ = fitted
    side = size * oversampling // 2
    grid = PixelGrid(
        shape=(side, side + 1), oversampling=oversampling, pixel=pixel, centre="windowed"
    )
    psf = torch.from_numpy(model.predict(points(3), grid)).double()
    torch.testing.assert_close(psf.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    if oversampling == 1:
        return  # a pixel is too coarse to tell
    width = float(model.state()["width"]) * oversampling
    y, x = windowed_centroid(psf, width=width)
    assert (y - side // 2).abs().max() < 0.03 * oversampling
    assert (x - (side + 1) // 2).abs().max() < 0.03 * oversampling


def test_optical_psf__summed_over_pixels_is_the_effective_one(fitted) -> None:
    model, _ = fitted
    at = points(4)
    fine = PixelGrid(shape=(48, 48), oversampling=3, pixel="none", centre="axis")
    coarse = PixelGrid(shape=(16, 16), centre="axis")
    mono = FieldPoints(x=at.x, y=at.y, sed=np.ones((4, 1)), wavelength=WAVELENGTH[:1])
    summed = model.predict(mono, fine).reshape(4, 16, 3, 16, 3).sum((2, 4))
    np.testing.assert_allclose(summed, model.predict(mono, coarse), atol=2e-6)


def test_wavediff__state_brings_the_same_model_back(fitted, tmp_path: Path) -> None:
    model, _ = fitted
    save_model(model, tmp_path / "model.zarr")
    other = load_model(tmp_path / "model.zarr")
    at = points(6)
    assert np.array_equal(model.predict(at, GRID), other.predict(at, GRID))
    assert other.stamp_shape == (16, 16)
    with pytest.raises(InputError, match="'zernike' has shape"):
        WaveDiff.from_state({**model.state(), "zernike": np.zeros((3, 3))}, model.settings)


def test_wavediff__does_not_depend_on_the_order_of_stars_or_points(fitted) -> None:
    model, _ = fitted
    at = points(6)
    order = np.array([4, 2, 0, 5, 1, 3])
    shuffled = FieldPoints(
        x=at.x[order], y=at.y[order], sed=at.sed[order], wavelength=at.wavelength
    )
    psf = model.predict(at, GRID)
    np.testing.assert_allclose(model.predict(shuffled, GRID), psf[order], atol=1e-7)
    scene = stars()
    again = WaveDiff(**SMALL)
    again.fit(scene.select(np.random.default_rng(0).permutation(len(scene))))
    np.testing.assert_allclose(again.predict(at, GRID), psf, atol=2e-4 * float(psf.max()))


@pytest.mark.parametrize("shifts", [0.0, 0.4])
def test_wavediff__that_begins_with_the_brightest_ends_with_all(monkeypatch, shifts: float) -> None:
    scene = stars(n=40, shifts=shifts)
    found = []
    for few in (400, 15):
        monkeypatch.setattr("psfscale.models.wavediff.phases.COARSE_STARS", few)
        model = WaveDiff(**SMALL, surfaces=False)
        report = model.fit(scene)
        assert report.used.all()
        assert report.converged
        found.append((model.state()["zernike"], report.reduced_chi2))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=3e-4)  # µm; a third of a σ
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


def test_wavediff__clips_a_star_that_is_two() -> None:
    scene = stars()
    image = scene.image.copy()
    image[7] += 0.5 * np.roll(image[7], 4, axis=1)
    spoiled = StarBatch(
        image=image,
        weight=scene.weight,
        x=scene.x,
        y=scene.y,
        sed=scene.sed,
        wavelength=scene.wavelength,
    )
    report = WaveDiff(**SMALL, fluxes=True).fit(spoiled)
    assert not report.used[7]
    assert report.used.sum() == 39


def test_wavediff__ignores_masked_pixels() -> None:
    scene = stars()
    image, weight = scene.image.copy(), scene.weight.copy()
    image[::3, 2, 3], weight[::3, 2, 3] = 1e6, 0
    masked = StarBatch(
        image=image, weight=weight, x=scene.x, y=scene.y, sed=scene.sed, wavelength=WAVELENGTH
    )
    report = WaveDiff(**SMALL).fit(masked)
    assert report.used.all()
    assert report.reduced_chi2 == pytest.approx(1, abs=0.05)


def test_wavediff__takes_a_pupil_that_is_given(fitted) -> None:
    model, _ = fitted
    pupil = model.state()["pupil"]
    same = WaveDiff(**SMALL, pupil=pupil)
    assert same.fit(stars(n=10)).used.all()
    with pytest.raises(ConfigError, match=r"shape \(8, 8\), expected \(32, 32\)"):
        WaveDiff(**SMALL, pupil=np.ones((8, 8)))
    with pytest.raises(ConfigError, match="finite, not negative"):
        WaveDiff(**SMALL, pupil=-pupil)


def test_wavediff__stands_in_the_registry() -> None:
    assert load_model_class("wavediff") is WaveDiff
    assert settings_class("wavediff")().n_zernikes == 45


def test_wavediff__refuses_what_it_cannot_do(fitted) -> None:
    with pytest.raises(ConfigError, match="give a survey file"):
        WaveDiff()
    with pytest.raises(ConfigError, match=r"jitter is a width .* got -0.3"):
        WaveDiff(**SMALL, jitter=-0.3)
    with pytest.raises(ConfigError, match="n_zernikes"):
        WaveDiff(**{**SMALL, "n_zernikes": 2})
    with pytest.raises(FitError, match="no field yet"):
        WaveDiff(**SMALL).state()
    with pytest.raises(FitError, match="2 of 2 stars have S/N above"):
        WaveDiff(**SMALL).fit(stars(n=2))
    with pytest.raises(ConfigError, match="is not here"):
        WaveDiff(**{**SMALL, "device": "cuda:99"}).fit(stars(n=10))
    with pytest.raises(InputError, match="wider than the"):
        fitted[0].predict(points(1), PixelGrid(shape=(64, 64)))


def test_wavediff__finds_the_jitter() -> None:
    scene = stars(n=60, snr=300, shifts=0.3)
    blurred = blurred_stars(scene, covariance=(0.16, 0.0, 0.16))
    model = WaveDiff(**SMALL)
    report = model.fit(blurred)
    assert float(model.state()["jitter"]) == pytest.approx(0.4, abs=0.02)
    assert report.reduced_chi2 == pytest.approx(1, abs=0.1)
    sharp = WaveDiff(**SMALL)
    sharp.fit(scene)
    assert float(sharp.state()["jitter"]) < 0.1
    held = WaveDiff(**SMALL, jitter=0.4)
    held.fit(blurred)
    assert float(held.state()["jitter"]) == pytest.approx(0.4)


def test_surfaces__are_found_where_the_zernikes_do_not_reach(rough) -> None:
    scene, at, truth = rough
    few = WaveDiff(**SMALL, surfaces=False)
    few.fit(scene)
    more = WaveDiff(**SMALL)
    report = more.fit(scene)
    before, after = (error(m.predict(at, GRID), truth) for m in (few, more))
    assert after < 0.6 * before
    assert report.reduced_chi2 < 1.15
    back = WaveDiff.from_state(more.state(), more.settings)
    assert np.array_equal(back.predict(at, GRID), more.predict(at, GRID))
    # The wavefront itself: its Zernikes, surfaces included, are those of the true one.
    light = LightPath.of(OPTICS, more.state()["pupil"])
    modes, amplitude = light.modes(10).double(), light.amplitude.double()
    share = project(torch.from_numpy(ripple(at.x)), modes, amplitude=amplitude).numpy()
    exact = (coefficients(at.x, at.y) + share)[:, 3:]
    alone = more.positions(at.x, at.y) @ more.state()["zernike"].T
    missed, split = (np.linalg.norm(z[:, 3:] - exact) for z in (more.zernikes(at), alone))
    assert missed < 0.06 * np.linalg.norm(exact)
    assert missed < 0.3 * split


def test_wavediff__finds_the_jitter_of_an_elliptical_guiding_error(tmp_path: Path) -> None:
    covariance = (0.16, 0.05, 0.08)
    blurred = blurred_stars(stars(n=60, snr=300), covariance=covariance)
    model = WaveDiff(**SMALL, surfaces=False, jitter_shape="elliptical")
    report = model.fit(blurred)
    state = model.state()
    assert float(state["jitter"]) ** 2 == pytest.approx(0.12, abs=0.01)
    np.testing.assert_allclose(state["stretch"], [0.04, 0.05], atol=0.005)
    assert report.reduced_chi2 == pytest.approx(1, abs=0.05)
    at = points(20, seed=77)
    truth = draw_blurred(coefficients(at.x, at.y), at.sed, covariance=covariance)
    assert error(model.predict(at, PixelGrid(shape=(16, 16), centre="axis")), truth) < 0.005
    save_model(model, tmp_path / "model.zarr")
    back = load_model(tmp_path / "model.zarr")
    assert np.array_equal(back.predict(at, GRID), model.predict(at, GRID))
    round_ = WaveDiff(**SMALL, surfaces=False)
    assert round_.fit(blurred).reduced_chi2 > 1.2


@pytest.mark.parametrize("shifts", [0.0, 0.4])
def test_defocus__of_each_star_is_found_and_its_field_predicted(shifts: float) -> None:
    """Focus that scatters from star to star, by more than the field varies."""
    scene = stars(n=60, defocus=0.02, shifts=shifts)
    own = WaveDiff(**SMALL, surfaces=False, defocus="auto")
    report = own.fit(scene)
    assert report.reduced_chi2 == pytest.approx(1, abs=0.05)
    at = points(40, seed=77)
    truth = coefficients(at.x, at.y)
    # 60 stars hold the mean focus of a plane to 0.02 µm · sqrt(3 / 60).
    assert np.sqrt(np.mean((own.zernikes(at) - truth)[:, 3] ** 2)) < 0.01
    assert np.abs((own.zernikes(at) - truth)[:, 4:]).max() < 0.01
    without = WaveDiff(**SMALL, surfaces=False)
    assert without.fit(scene).reduced_chi2 > 1.1


def test_defocus__is_that_of_the_field_where_the_stars_have_none_of_their_own(fitted) -> None:
    model, _ = fitted
    auto = WaveDiff(**SMALL, defocus="auto")
    auto.fit(stars())
    np.testing.assert_array_equal(auto.state()["zernike"], model.state()["zernike"])
    forced = WaveDiff(**SMALL, defocus=True)
    forced.fit(stars())
    at = points(10)
    np.testing.assert_allclose(forced.zernikes(at)[:, 3], model.zernikes(at)[:, 3], atol=3e-3)


def test_diffusion__blurs_the_effective_psf_alone(fitted) -> None:
    """Fixed, of the detector: as a jitter of its width, but not in the optical PSF."""
    model, _ = fitted
    state, at = model.state(), points(3)
    diffuse = OPTICS.model_copy(update={"diffusion": 0.3})
    there = WaveDiff.from_state(state, WaveDiff(**{**SMALL, "optics": diffuse}).settings)
    shaken = WaveDiff.from_state({**state, "jitter": np.array(0.3)}, model.settings)
    grid = PixelGrid(shape=(16, 16), centre="axis")
    torch.testing.assert_close(there.predict(at, grid), shaken.predict(at, grid))
    optical = PixelGrid(shape=(48, 48), oversampling=3, pixel="none", centre="axis")
    torch.testing.assert_close(there.predict(at, optical), model.predict(at, optical))
    assert np.abs(there.predict(at, grid) - model.predict(at, grid)).max() > 0.01
    telescope = load_survey(Path(__file__).parents[3] / "catalogs/euclid_vis.yaml").instrument
    detector = telescope.detector.model_copy(update={"diffusion": 3.0})
    told = OpticsSettings.of(telescope.model_copy(update={"detector": detector}))
    assert told.diffusion == pytest.approx(3 / 12)
    assert OpticsSettings.of(telescope).diffusion == 0


@pytest.mark.parametrize("spatial", ["graph", "polygraph"])
def test_surfaces__follow_other_functions_of_position(rough, spatial: str) -> None:
    scene, at, truth = rough
    model = WaveDiff(**SMALL, spatial=spatial)
    model.fit(scene)
    assert model.state()["surface"].any()
    assert error(model.predict(at, GRID), truth) < 0.035


def test_surfaces__stay_away_where_the_zernikes_suffice(fitted) -> None:
    assert not fitted[0].state()["surface"].any()


class Memory:
    """A device whose memory runs out while batches are large; counts what is held of a failure."""

    def __init__(self, *, enough: float) -> None:
        self.enough = enough
        self.asked: list[float] = []
        self.held: list[weakref.ref[torch.Tensor]] = []
        self.leaked = 0

    def run(self, work, *args, path, **kwargs):
        self.leaked += sum(ref() is not None for ref in self.held)
        self.asked.append(path.batch_bytes)
        made = torch.zeros(1)
        self.held.append(weakref.ref(made))
        if path.batch_bytes > self.enough:
            raise torch.OutOfMemoryError
        return work(*args, path=path, **kwargs)


def test_fit__halves_its_batches_once_when_memory_runs_out(monkeypatch) -> None:
    memory = Memory(enough=2e6)
    monkeypatch.setattr("psfscale.models.wavediff.model.train", partial(memory.run, train))
    scene = stars(n=12)
    squeezed = WaveDiff(**SMALL, surfaces=False)
    squeezed.fit(scene)
    assert memory.asked == [4e6, 2e6]
    assert memory.leaked == 0
    monkeypatch.undo()
    plain = WaveDiff(**SMALL, surfaces=False)
    plain.fit(scene)
    np.testing.assert_allclose(squeezed.state()["zernike"], plain.state()["zernike"], atol=1e-6)
    memory = Memory(enough=0)
    monkeypatch.setattr("psfscale.models.wavediff.model.train", partial(memory.run, train))
    with pytest.raises(torch.OutOfMemoryError):
        WaveDiff(**SMALL).fit(scene)
    assert memory.asked == [4e6, 2e6]


def test_predict__halves_its_batches_once_when_memory_runs_out(fitted, monkeypatch) -> None:
    model, _ = fitted
    whole, asked, draw_all = model.predict(points(6), GRID), [], Drawing.draw

    def draw_little(drawing, at, grid):
        asked.append(drawing.path.batch_bytes)
        if len(asked) == 1:
            raise torch.OutOfMemoryError
        return draw_all(drawing, at, grid)

    monkeypatch.setattr(Drawing, "draw", draw_little)
    torch.testing.assert_close(model.predict(points(6), GRID), whole)
    assert asked == [4e6, 2e6]


def test_predict__of_many_is_that_of_each(fitted) -> None:
    model, _ = fitted
    at = points(70)
    whole = model.predict(at, GRID)
    for k in (0, 31, 32, 69):
        one = FieldPoints(
            x=at.x[k : k + 1], y=at.y[k : k + 1], sed=at.sed[k : k + 1], wavelength=at.wavelength
        )
        torch.testing.assert_close(model.predict(one, GRID)[0], whole[k], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("device", DEVICES)
def test_wavediff__is_the_same_on_every_device(fitted, device: str) -> None:
    model, report = fitted
    there = WaveDiff(**{**SMALL, "device": device})
    again = there.fit(stars())
    assert again.reduced_chi2 == pytest.approx(report.reduced_chi2, rel=1e-4)
    at = points(6)
    psf = model.predict(at, GRID)
    np.testing.assert_allclose(there.predict(at, GRID), psf, atol=2e-4 * float(psf.max()))


@pytest.mark.parametrize("scatter", [0.0, 0.03])
def test_fluxes__are_held_at_one_where_they_fall_short_of_it_alike(scatter: float) -> None:
    scene = stars(n=20, flux=0.996)
    factor = 1 + scatter * np.random.default_rng(4).normal(size=20)
    image = (scene.image * factor[:, None, None]).astype(np.float32)
    report = WaveDiff(**SMALL, surfaces=False).fit(replace(scene, image=image))
    if scatter:
        np.testing.assert_allclose(report.flux, 0.996 * factor, rtol=0.03)
        assert report.flux.std() > 0.02
    else:
        assert (report.flux == 1).all()


def test_fluxes_and_background__are_in_electrons_and_electrons_a_pixel() -> None:
    """A scaled image has scaled fluxes, and the same PSF."""
    scene = stars(n=16, flux=300.0, background=0.5)
    bright = StarBatch(
        image=10 * scene.image,
        weight=scene.weight / 100,
        x=scene.x,
        y=scene.y,
        sed=scene.sed,
        wavelength=scene.wavelength,
    )
    models = [WaveDiff(**SMALL, surfaces=False) for _ in range(2)]
    one, ten = (model.fit(batch) for model, batch in zip(models, (scene, bright), strict=True))
    np.testing.assert_allclose(ten.flux, 10 * one.flux, rtol=1e-3)
    assert ten.reduced_chi2 == pytest.approx(one.reduced_chi2, rel=1e-3)
    psf = [model.predict(points(3), GRID) for model in models]
    np.testing.assert_allclose(psf[0], psf[1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(psf[0].sum((1, 2)), 1, rtol=1e-5)


def test_zernikes__hold_the_surfaces_share() -> None:
    model = WaveDiff(**SMALL)
    model.fit(stars())
    state = model.state()
    state["surface"][0, 1:4, 0:3] = 0.01
    other = WaveDiff.from_state(state, model.settings)
    at = points(4)
    path = other.wavefront(at).astype(np.float64)
    # The projection leaves nothing that another one would find.
    light = LightPath.of(OPTICS, state["pupil"])
    modes = light.modes(10).double().numpy()
    rest = path - np.einsum("sj,jyx->syx", other.zernikes(at), modes)
    weight = light.amplitude.double().numpy() ** 2
    left = np.einsum("syx,jyx,yx->sj", rest, modes, weight) / weight.sum()
    assert np.abs(left).max() < 1e-6
    assert np.abs(other.zernikes(at) - model.zernikes(at)).max() > 1e-3


def test_wavediff__tells_of_its_phases() -> None:
    model = WaveDiff(**SMALL)
    events = []
    model.observer = events.append
    model.fit(stars(n=20))
    told = [event for event in events if isinstance(event, Phase)]
    assert [p.name for p in told] == [
        "search",
        "coarse optics",
        "full optics",
        "surfaces judged",
    ]
    assert [p.done for p in told] == [1, 2, 3, 4]
    assert [p.total for p in told] == [5, 5, 5, 4]  # these stars need no surfaces
    assert told[-1].reduced_chi2 == pytest.approx(1, abs=0.1)
    assert model.history == told
    for phase in told[:3]:
        steps = [e for e in events if isinstance(e, Step) and e.name == phase.name]
        assert phase.steps == tuple((step.reduced_chi2, step.seconds) for step in steps)
        assert [step.step for step in steps] == list(range(1, len(steps) + 1))
        assert {step.done for step in steps} == {phase.done - 1}
    search = [chi2 for chi2, _ in told[0].steps]
    assert search[-1] < 0.6 * search[0]
    assert told[1].steps[-1][0] == told[1].reduced_chi2


def test_wavediff__keeps_its_history_in_the_store(fitted, tmp_path: Path) -> None:
    model, _ = fitted
    save_model(model, tmp_path / "model.zarr")
    assert load_model(tmp_path / "model.zarr").history == model.history
    assert model.history[1].steps


def test_fit_and_predict__take_the_telescope_from_the_survey(tmp_path: Path) -> None:
    """From arrays to the optical PSF by the command line, with a pupil and a number replaced."""
    scene = stars(n=12)
    np.savez(
        tmp_path / "stars.npz",
        image=scene.image,
        weight=scene.weight,
        x=scene.x,
        y=scene.y,
        sed=scene.sed,
        wavelength=scene.wavelength,
    )
    np.savez(tmp_path / "at.npz", x=[10.0, 700.0], y=[20.0, 900.0])
    shape = PupilShape(diameter=1200, discs=OPTICS.discs, vanes=OPTICS.vanes)
    np.save(tmp_path / "pupil.npy", pupil_amplitude(shape, 32, grid="areas"))
    survey = str(Path(__file__).parents[3] / "catalogs/euclid_vis.yaml")
    model, at, out = (str(tmp_path / name) for name in ("model.zarr", "at.npz", "psf.npz"))
    stack, pupil = str(tmp_path / "stars.npz"), f"pupil={tmp_path / 'pupil.npy'}"
    options = ["--set", pupil, "--set", "n_zernikes=10", "--set", "degree=1"]
    options += ["--set", "surfaces=false", "--set", "optics.pupil_grid=areas"]
    command = ["fit", "wavediff", stack, "--survey", survey, "-o", model, *options]
    fitted = CliRunner().invoke(app, command)
    assert fitted.exit_code == 0, fitted.output
    assert "12 of 12 stars used" in fitted.output
    fine = ["--oversampling", "3", "--size", "40", "--pixel", "none", "--centre", "axis"]
    assert CliRunner().invoke(app, ["predict", model, at, "-o", out, *fine]).exit_code == 0
    with np.load(out) as file:
        assert file["psf"].shape == (2, 40, 40)
        np.testing.assert_allclose(file["psf"].sum((1, 2)), 1, rtol=1e-5)
    lacking = CliRunner().invoke(app, ["fit", "wavediff", stack, "-o", model + "2"])
    assert lacking.exit_code == 2
    assert "give a survey file" in lacking.output


def test_effective_models__refuse_the_optical_psf() -> None:
    grid = PixelGrid(shape=(16, 16), pixel="none")
    with pytest.raises(InputError, match="rca knows the effective PSF alone"):
        grid.require_effective("rca")
    with pytest.raises(InputError, match="fit wavediff"):
        PixelGrid(shape=(16, 16), centre="axis").require_effective("sprite")
    PixelGrid(shape=(16, 16), centre="windowed").require_effective("rca")
