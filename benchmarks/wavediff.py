"""Accuracy and speed of WaveDiff on simulated fields with truth.

    python benchmarks/wavediff.py --data DIR [--row NAME ...] [--stars N ...]

DIR holds ``wavediff_field_A.npz``, whose pupil and spectra every row uses. Rows:

field    the 200 noisy stars of that file, as published
twins    the same recipe drawn by benchmarks/wavediff_fields.py, seeds 101, 102, 103
forward  PSFs a CPU second, 8 wavelengths, pupil of 256 samples
stars    200, 500, 1000, 2000 stars of seed 104, and RCA on the same stars
outside  surface errors beyond the Zernikes, quadratic over the field, wrong spectra, jitter, random
         centroids; before and with the surfaces of the model
drift    the same with a surface that stays and others that drift over the field
device   2000 stars on the accelerator, where there is one: fit and PSFs a second

Every fit has the default settings. Times are CPU seconds of one thread (``device``: wall).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
import warnings
from pathlib import Path

import galsim
import numpy as np
import torch
from scoring import fitted_to_star
from wavediff_fields import APERTURE, FOCAL_LENGTH, PIXEL, draw_field

from psfscale.arrays import FieldPoints, PixelGrid, StarBatch
from psfscale.kernels.centroid import windowed_centroid
from psfscale.models.rca.model import RCA
from psfscale.models.wavediff.fit import field_covariance
from psfscale.models.wavediff.forward import Nuisances, Scene, Wavefronts
from psfscale.models.wavediff.model import WaveDiff
from psfscale.models.wavediff.optics import LightPath
from psfscale.models.wavediff.settings import OpticsSettings
from psfscale.models.wavediff.stars import WeightedStars
from psfscale.survey import load_survey

SURVEY = Path(__file__).parents[1] / "catalogs/euclid_vis.yaml"
OPTICS = OpticsSettings.of(load_survey(SURVEY).instrument)
MONO = np.arange(0.55, 0.895, 0.01)
HEADER = (
    f"{'row':26s} {'obs %':>6s} {'3x %':>6s} {'e1':>8s} {'e2':>8s} {'R2':>8s} "
    f"{'mono %':>6s} {'OPD %':>6s} {'chi2':>6s} {'CPU s':>6s} {'GB':>5s}"
)


def relative(psf, truth):
    """Mean over stars of the relative RMS error [%]."""
    error = np.sqrt(((psf - truth) ** 2).mean((1, 2)) / (truth**2).mean((1, 2)))
    return 100 * error.mean()


def shapes(psf):
    """(e1, e2, R²) by adaptive moments as published (reduced shear), NaN where they fail."""
    found = []
    for image in psf:
        m = galsim.hsm.FindAdaptiveMom(
            galsim.Image(np.ascontiguousarray(image, dtype=float)), strict=False
        )
        ok = not m.error_message
        shape = m.observed_shape
        found.append((shape.g1, shape.g2, 2 * m.moments_sigma**2) if ok else (np.nan,) * 3)
    return np.array(found)


def batch(image, sigma, x, y, sed, wavelength):
    weight = np.broadcast_to((1 / sigma**2)[:, None, None], image.shape)
    return StarBatch(
        image=image, weight=weight.astype(np.float32), x=x, y=y, sed=sed, wavelength=wavelength
    )


def timed_fit(stars, **options):
    model = WaveDiff(optics=OPTICS, **options)
    start = time.process_time()
    report = model.fit(stars)
    return model, report, time.process_time() - start


def noise_limit(model, stars, at, *, draws=8):
    """Errors (obs %, 3x %, e1, e2, R²) at `at` of an efficient estimator of the parametric field.

    The Cramér-Rao bound of the coefficients, by the derivatives of coarse optics at the fitted
    field, flux known; the errors are those of `draws` fields scattered by it, seed 0.
    """
    state = model.state()
    path = LightPath.of(OPTICS, state["pupil"]).coarser(4)
    zernike = torch.from_numpy(state["zernike"]).float()
    fixed = Nuisances(fluxes=False, background=False, centroids=False, jitter=False)
    nodes, weights = spectra(stars.points)
    scene = Scene(
        pixels=WeightedStars.of(stars, 32, torch.device("cpu")),
        functions=torch.from_numpy(model.positions(stars.x, stars.y)).float(),
        spectra=torch.from_numpy(weights).float(),
        camera=path.camera(nodes.tolist(), 32),
        path=path,
        modes=path.modes(len(zernike)),
    )
    here = Wavefronts(zernike=zernike, tilt=torch.zeros(len(stars), 2))
    covariance = field_covariance(scene.normal(here, fixed), scene.functions, fixed).numpy()
    root, rng = np.linalg.cholesky(covariance), np.random.default_rng(0)
    coarse, fine = drawn_stamps(model, at)
    found = []
    for _ in range(draws):
        moved = {name: array.copy() for name, array in state.items()}
        moved["zernike"][1:] += (root @ rng.normal(size=len(root))).reshape(len(zernike) - 1, -1)
        one, three = drawn_stamps(WaveDiff.from_state(moved, model.settings), at)
        found.append([relative(one, coarse), relative(three, fine), *shape_errors(three, fine)])
    return np.mean(found, axis=0)


def drawn_stamps(model, at):
    """Stamps, and optical 3x stamps, in the published convention."""
    fine = PixelGrid(shape=(64, 64), oversampling=3, pixel="none")
    return model.predict(at, PixelGrid(shape=(32, 32))), model.predict(at, fine)


def shape_errors(psf, truth):
    """Rms errors of e1, e2 and, relative, R²."""
    expected = shapes(truth)
    e1, e2, size = np.sqrt(np.nanmean((shapes(psf) - expected) ** 2, axis=0))
    return e1, e2, size / np.nanmean(expected[:, 2])


def spectra(points):
    from psfscale.kernels.optics.spectrum import quadrature

    return quadrature(points.sed, points.wavelength, n_nodes=3)


def score(name, model, report, seconds, stars, truth, *, limit=True):
    """Print a line of the table; `truth` holds x, y, sed, wavelength, stars, fine, mono, z."""
    at = FieldPoints(x=truth["x"], y=truth["y"], sed=truth["sed"], wavelength=truth["wavelength"])
    coarse, fine = drawn_stamps(model, at)
    e1, e2, size = shape_errors(fine, truth["fine"])
    opd = np.nan
    if "z" in truth:
        z = model.zernikes(at)
        n = min(z.shape[1], truth["z"].shape[1])
        missed = np.linalg.norm((z[:, :n] - truth["z"][:, :n])[:, 1:], axis=1)
        opd = 100 * (missed / np.linalg.norm(truth["z"][:, 1:], axis=1)).mean()
    mono = np.nan
    if "mono" in truth:
        one = [mono_points(at, w) for w in MONO]
        grid = PixelGrid(shape=(32, 32))
        mono = np.mean(
            [
                relative(model.predict(p, grid), truth["mono"](w))
                for p, w in zip(one, MONO, strict=True)
            ]
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name:26s} {relative(coarse, truth['stars']):6.3f} "
        f"{relative(fine, truth['fine']):6.3f} {e1:8.1e} {e2:8.1e} {size:8.1e} "
        f"{mono:6.3f} {opd:6.1f} {report.reduced_chi2:6.3f} {seconds:6.1f} {memory:5.2f}",
        flush=True,
    )
    if limit:
        obs, three, e1, e2, size = noise_limit(model, stars, at)
        print(
            f"{'  at the noise limit':26s} {obs:6.3f} {three:6.3f} {e1:8.1e} {e2:8.1e} {size:8.1e}"
        )


def mono_points(at, wavelength):
    n = len(at)
    return FieldPoints(x=at.x, y=at.y, sed=np.ones((n, 1)), wavelength=np.array([wavelength]))


def optics_of(data):
    z = np.load(data / "wavediff_field_A.npz", allow_pickle=False)
    amplitude = (z["obscurations"] * z["pupil_circle"]).astype(np.float32)
    return amplitude, z["SED_table"], z["SED_lambda_nm"] / 1e3


def row_field(data):
    z = np.load(data / "wavediff_field_A.npz", allow_pickle=False)
    print("\nwavediff_field_A: 200 noisy stars, 100 test stars")
    print(HEADER)
    amplitude, wavelength = optics_of(data)[0], z["gt_lambda_um"]
    sed, pos = z["gt_sed_weights"][z["train_sed_id"]], z["train_pos"].astype(float)
    stars = batch(
        z["train_stars_noisy"], z["train_noise_sigma"], pos[:, 0], pos[:, 1], sed, wavelength
    )
    model, report, seconds = timed_fit(stars, pupil=amplitude)
    x, y = z["test_pos"].astype(float).T
    test = Truth(amplitude, x, y, z["test_zernikes_um"].astype(float))
    truth = {
        "x": x,
        "y": y,
        "sed": z["gt_sed_weights"][z["test_sed_id"]],
        "wavelength": wavelength,
        "stars": z["test_stars"],
        "fine": z["test_stars_SR"],
        "z": z["test_zernikes_um"],
        "mono": test.mono,
    }
    score("WaveDiff", model, report, seconds, stars, truth)


class Truth:
    """Monochromatic truth of test stars."""

    def __init__(self, amplitude, x, y, z, surface=None, jitter=0.0):
        from wavediff_fields import Field

        self.field = Field(
            amplitude=amplitude,
            x=x,
            y=y,
            sed=np.ones((len(x), 1)),
            wavelength=np.array([0.7]),
            coefficients=z,
            surface=surface,
            jitter=jitter,
        )

    def mono(self, wavelength):
        one = dataclasses.replace(self.field, wavelength=np.array([wavelength]))
        return one.draw(oversampled=False)


def drawn(data, seed, n, **options):
    amplitude, table, table_wavelength = optics_of(data)
    train, test, _, noisy, sigma = draw_field(
        seed, n, amplitude=amplitude, table=table, table_wavelength=table_wavelength, **options
    )
    return train, test, noisy, sigma


def truth_of(test, *, mono=True):
    truth = {
        "x": test.x,
        "y": test.y,
        "sed": test.sed,
        "wavelength": test.wavelength,
        "stars": test.draw(oversampled=False),
        "fine": test.draw(oversampled=True),
        "z": test.coefficients,
    }
    if mono:
        own = Truth(test.amplitude, test.x, test.y, test.coefficients, test.surface, test.jitter)
        truth["mono"] = own.mono
    return truth


def row_twins(data):
    print("\nown fields on the same recipe: 200 stars, 100 test stars")
    print(HEADER)
    for seed in (101, 102, 103):
        train, test, noisy, sigma = drawn(data, seed, 200)
        stars = batch(noisy, sigma, train.x, train.y, train.sed, train.wavelength)
        score(f"seed {seed}", *timed_fit(stars), stars, truth_of(test))


def row_forward(data):
    amplitude = optics_of(data)[0]
    path = LightPath.of(OPTICS, amplitude)
    camera = path.camera(np.linspace(0.56, 0.89, 8), 32)
    z = 0.02 * torch.randn(64, 45, generator=torch.Generator().manual_seed(0))
    opd = torch.einsum("sj,jyx->syx", z, path.modes(45))
    weights = torch.full((64, 8), 1 / 8)
    camera.draw(opd, weights)
    start = time.process_time()
    camera.draw(opd, weights)
    print(f"\nforward: {64 / (time.process_time() - start):.0f} PSFs a CPU second")


def row_stars(data, numbers=(200, 500, 1000, 2000)):
    print("\nby number of stars, seed 104; RCA on the same stars, which does not know where the")
    print("optical axis is: the best shift and flux for each test star")
    print(HEADER)
    train, test, noisy, sigma = drawn(data, 104, max(numbers))
    truth = truth_of(test, mono=False)
    at = FieldPoints(x=test.x, y=test.y)
    for n in numbers:
        stars = batch(
            noisy[:n], sigma[:n], train.x[:n], train.y[:n], train.sed[:n], train.wavelength
        )
        score(f"WaveDiff, {n} stars", *timed_fit(stars), stars, truth)
        rca = RCA(upsampling=3, band_limit=OPTICS.band_limit)
        start = time.process_time()
        rca.fit(stars)
        seconds = time.process_time() - start
        stamps = fitted_to_star(rca.predict, at, truth["stars"], np.ones_like(truth["stars"]))
        error = relative(stamps, truth["stars"])
        print(f"{f'RCA, {n} stars':26s} {error:6.3f} {'':45s} {seconds:13.1f}", flush=True)


def fine_centroid(fine, *, width):
    """(y, x) windowed centroids of 3x stars under a pixel, from sample 32 [CCD pixel]."""
    pixel = sum(np.roll(fine, (a, b), (1, 2)) for a in (-1, 0, 1) for b in (-1, 0, 1))
    centroid = windowed_centroid(torch.from_numpy(pixel).double(), width=3 * width)
    return np.stack([(c.numpy() - 32) / 3 for c in centroid])


def truth_windowed(test, *, width):
    """Stamps and 3x stamps of test stars, their windowed centroid on index n // 2."""
    # Zernikes reach the edges of the pupil's grid, whose samples are spaced by diameter / samples.
    micron = APERTURE * PIXEL / FOCAL_LENGTH / 4 * (1 - 1 / len(test.amplitude))
    z = test.coefficients.copy()
    for _ in range(3):
        here = dataclasses.replace(test, coefficients=z)
        fine = here.draw(oversampled=True)
        z = z.copy()
        z[:, 1:3] -= fine_centroid(fine, width=width)[::-1].T * micron
    fine = dataclasses.replace(test, coefficients=z).draw(oversampled=True)
    # At the CCD's sampling the axis lies a third of a pixel below the stamp's centre.
    z = z.copy()
    z[:, 1:3] += micron / 3
    return dataclasses.replace(test, coefficients=z).draw(oversampled=False), fine


def wrong_spectra(sed, rng, share=0.05):
    sed = np.clip(sed * (1 + share * rng.normal(size=sed.shape)), 0, None)
    return sed / sed.sum(1, keepdims=True)


def row_outside(data, numbers=(200, 500, 1000, 2000), *, law="poly", seed=211):
    print(f"\noutside the family, {law}: 10 nm rms of surface, spectra wrong by 5 %, jitter")
    print(f"0.25 pixel, centroids within half a pixel; seed {seed}, 100 test stars.")
    print("Zernikes: the fit before its surfaces")
    print(HEADER)
    train, test, noisy, sigma = drawn(
        data, seed, max(numbers), surface_rms=0.010, jitter=0.25, centroids=1.0, law=law
    )
    rng = np.random.default_rng(seed + 7)
    sed = wrong_spectra(train.sed, rng)
    at = {"x": test.x, "y": test.y, "sed": wrong_spectra(test.sed, rng)}
    for n in numbers:
        stars = batch(noisy[:n], sigma[:n], train.x[:n], train.y[:n], sed[:n], train.wavelength)
        for name, *fitted in staged_fit(stars):
            state = fitted[0].state()
            stamps, fine = truth_windowed(test, width=float(state["width"]))
            truth = {**at, "wavelength": test.wavelength, "stars": stamps, "fine": fine}
            score(f"{n} stars, {name}", *fitted, stars, truth, limit=False)
            rms = 1e3 * np.sqrt((state["surface"] ** 2).sum((1, 2)))
            print(f"    jitter {state['jitter'].round(4)} pixel, surfaces {rms.round(1)} nm")


def row_drift(data, numbers=(200, 500, 1000, 2000)):
    row_outside(data, numbers, law="drift", seed=212)


def staged_fit(stars):
    """(name, model, report, CPU seconds) of the Zernikes alone and, if taken, of the surfaces."""
    kept, start = [], time.process_time()

    class Keeper:
        def load(self):
            return kept[-1][0] if kept else None

        def save(self, arrays):
            kept.append((arrays, time.process_time() - start))

    model = WaveDiff(optics=OPTICS)
    model.checkpoint = Keeper()
    report = model.fit(stars)
    seconds = time.process_time() - start
    spent = dict(zip((phase.name for phase in model.history), (s for _, s in kept), strict=True))
    print("    " + ", ".join(f"{name} {s:.0f}" for name, s in spent.items()) + " CPU s")
    last = [*spent].index("full optics")
    state = model.state()
    then, none = kept[last][0], np.zeros_like(state["surface"])
    jitter = np.array(json.loads(str(then["blur"]))["round"] ** 0.5)
    before = {"zernike": then["zernike"], "jitter": jitter, "surface": none}
    plain = WaveDiff.from_state(state | before, model.settings)
    yield "Zernikes", plain, model.history[last], spent["full optics"]
    if state["surface"].any():
        yield "surfaces", model, report, seconds


def row_device(data):
    if not torch.cuda.is_available():
        print("\ndevice: no CUDA device here")
        return
    train, _, noisy, sigma = drawn(data, 104, 2000)
    stars = batch(noisy, sigma, train.x, train.y, train.sed, train.wavelength)
    model = WaveDiff(optics=OPTICS, device="cuda:0")
    model.fit(stars.select(np.arange(64)))
    start = time.perf_counter()
    model.fit(stars)
    torch.cuda.synchronize()
    print(f"\ndevice: {torch.cuda.get_device_name()}")
    print(f"fit of 2000 stars: {time.perf_counter() - start:.1f} s")
    at = FieldPoints(x=train.x, y=train.y, sed=train.sed, wavelength=train.wavelength)
    start = time.perf_counter()
    model.predict(at, PixelGrid(shape=(32, 32))).sum().item()
    print(f"PSFs a second: {2000 / (time.perf_counter() - start):.0f}")
    print(f"peak memory: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


BY_NUMBER = ("stars", "outside", "drift")
ROWS = {
    "field": row_field,
    "twins": row_twins,
    "forward": row_forward,
    "stars": row_stars,
    "outside": row_outside,
    "drift": row_drift,
    "device": row_device,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--row", choices=ROWS, action="append")
    parser.add_argument(
        "--stars", type=int, action="append", help="how many, of `stars`, `outside` and `drift`"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    for name in arguments.row or ROWS:
        own = {"numbers": arguments.stars} if arguments.stars and name in BY_NUMBER else {}
        ROWS[name](arguments.data, **own)


if __name__ == "__main__":
    main()
