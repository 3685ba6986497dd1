"""``psfscale deconvolve``: the published options, files in and out, faults in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from typer.testing import CliRunner

import psfscale
from psfscale.cli import app

sys.path.insert(0, str(Path(__file__).parent / "deconvolve"))
from deconvolution_scene import scene

PUBLISHED = [
    "--input", "--psf", "--output", "--output_format", "--quiet", "--current_res", "--noise_est",
    "--mode", "--opt_type", "--n_iter", "--cost_window", "--convergence", "--no_pos",
    "--lowr_thresh_factor", "--lowr_type", "--lowr_thresh_type", "--wavelet_type",
    "--wave_thresh_factor", "--n_reweights", "--relax", "--condat_sigma", "--condat_tau",
    "--clean_data", "--random_seed", "--kernel", "--metric", "--grad_type", "--convolve_method",
    "--lambda_psf", "--beta_psf", "--lambda_shape",
]  # fmt: skip


@pytest.fixture
def field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = scene(8)
    np.save("stack.npy", made.images)
    np.save("psfs.npy", made.psfs)
    np.save("truth.npy", made.truth)
    return made


def call(*words):
    result = CliRunner().invoke(app, ["deconvolve", *[str(w) for w in words]])
    return result.exit_code, result.output


RUN = ["-i", "stack.npy", "-p", "psfs.npy", "--n_iter", "5"]


def test_command__knows_every_published_option():
    import typer

    command = typer.main.get_command(app).commands["deconvolve"]
    known = {name for param in command.params for name in param.opts}
    assert set(PUBLISHED) <= known
    defaults = {param.name: param.default for param in command.params}
    assert [defaults[k] for k in ("mode", "opt_type", "n_iter", "n_reweights", "metric")] == [
        None, "condat", 150, 1, "median",
    ]  # fmt: skip


def test_command__writes_what_python_returns(field):
    code, out = call(*RUN, "-o", "out", "--noise_est", 0.01, "--mode", "sparse")
    assert code == 0, out
    assert "8 galaxies, 10 iterations" in out
    found = psfscale.deconvolve(field.images, field.psfs, mode="sparse", noise_est=0.01, n_iter=5)
    np.testing.assert_allclose(np.load("out_primal.npy"), found.image, atol=1e-12)
    np.testing.assert_allclose(np.load("out_dual.npy"), found.dual[0], atol=1e-12)
    assert not Path("out_psf.npy").exists()


def contents(path):
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    if path.suffix == ".zarr":
        with xr.open_zarr(path, consolidated=False) as group:
            return {name: array.values for name, array in group.variables.items()}
    with fits.open(path) as hdus:
        arrays = {hdu.name.lower(): hdu.data for hdu in hdus if hdu.is_image}
        table = hdus["OBJECTS"].data
        return {"primal": arrays.pop("primary"), **arrays, **{n: table[n] for n in table.names}}


def test_command__writes_all_that_is_known_in_files_or_in_one(field):
    found = psfscale.deconvolve(field.images, field.psfs)
    names = ("image", "error", "flux", "chi2", "flags")
    expected = {name: getattr(found, name) for name in names}
    expected["primal"] = expected.pop("image")
    code, out = call(*RUN[:4], "-o", "out.npy")
    assert code == 0, out
    parts = {path.stem[4:]: np.load(path) for path in Path().glob("out_*.npy")}
    for name in ("out.npz", "out.fits", "out.zarr"):
        code, out = call(*RUN[:4], "-o", name)
        assert code == 0, out
        assert f"written: {name}" in out
        assert contents(Path(name)).keys() == expected.keys()
    for arrays in (parts, *(contents(Path(f"out.{end}")) for end in ("npz", "fits", "zarr"))):
        assert arrays.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_allclose(arrays[key], values, rtol=1e-6, atol=1e-12)


def test_command__without_an_output_takes_the_published_name(field):
    code, out = call(*RUN)
    assert code == 0, out
    assert {path.name for path in Path().glob("stack_*")} == {
        f"stack_lowr_{name}.npy" for name in ("primal", "dual", "flux", "chi2", "flags")
    }


def test_command__leaves_nothing_of_an_earlier_result(field):
    assert call(*RUN, "-o", "out", "--mode", "sparse")[0] == 0
    np.save("out_other.npy", [1])
    Path("out_dual.fits").touch()
    before = {path: path.stat().st_mtime_ns for path in Path().iterdir()}
    code, out = call(*RUN, "-o", "out", "--mode", "grad")
    assert code == 2
    assert "out_primal.npy" in out
    assert "--overwrite" in out
    assert {path: path.stat().st_mtime_ns for path in Path().iterdir()} == before
    assert call(*RUN, "-o", "out", "--mode", "grad", "--overwrite")[0] == 0
    names = ("primal", "flux", "chi2", "flags", "other")
    assert {path.name for path in Path().glob("out*")} == {f"out_{name}.npy" for name in names}


def test_command__never_replaces_its_input(field):
    fits.PrimaryHDU(field.images).writeto("stack.fits")
    np.save("out_primal.npy", field.images)
    for words in (["-i", "stack.fits", "-o", "stack.fits"], ["-i", "out_primal.npy", "-o", "out"]):
        code, out = call(*words, "-p", "psfs.npy", "--overwrite")
        assert code == 2
        assert "is an input" in out


def test_command__reads_and_writes_fits(field):
    fits.PrimaryHDU(field.images).writeto("stack.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(field.psfs)]).writeto("psfs.fits")
    call(*RUN, "-o", "npy", "--noise_est", 0.01)
    code, out = call(
        "-i", "stack.fits", "-p", "psfs.fits", "-o", "fits", "--output_format", "fits",
        "--n_iter", 5, "--noise_est", 0.01,
    )  # fmt: skip
    assert code == 0, out
    np.testing.assert_allclose(fits.getdata("fits_primal.fits"), np.load("npy_primal.npy"))
    assert Path("fits_dual.fits").exists()


def test_command__writes_refined_psfs_and_both_duals(field):
    code, out = call(*RUN, "-o", "out", "--grad_type", "psf_unknown", "--true_psf", "psfs.npy")
    assert code == 0, out
    assert np.load("out_psf.npy").shape == field.psfs.shape
    assert "PSFs: pixel error" in out
    code, out = call(*RUN, "-o", "both", "--mode", "all")
    assert code == 0, out
    assert np.load("both_dual0.npy").shape == (8, 3, 21, 21)
    assert np.load("both_dual1.npy").shape == (8, 21, 21)


def test_command__takes_an_ini_file(field):
    Path("config.ini").write_text(
        "# comment\n\n; another\ninput=stack.npy\npsf_file = psfs.npy\noutput=ini\n"
        "mode sparse\nwave_thresh_factor 4 3 2\nno_pos\nn_iter=5\n"
    )
    code, out = call("@config.ini", "--n_iter", 7, "--n_reweights", 0)
    assert code == 0, out
    assert "8 galaxies, 7 iterations" in out
    code, out = call(
        *RUN[:4], "-o", "words", "--n_iter", 7, "--n_reweights", 0, "--mode", "sparse",
        "--wave_thresh_factor", 4, 3, 2, "--no_pos",
    )  # fmt: skip
    assert code == 0, out
    np.testing.assert_array_equal(np.load("ini_primal.npy"), np.load("words_primal.npy"))


def test_command__takes_bare_and_given_steps(field):
    for steps in (["--condat_sigma", "--condat_tau"], ["--condat_sigma", 0.4, "--condat_tau", 0.6]):
        code, out = call(*RUN, *steps, "--relax", 0.8, "--no_plots", "--overwrite")
        assert code == 0, out


def test_command__measures_against_the_truth(field):
    shuffled = np.random.RandomState(4).permutation(20)
    whole = np.zeros((20, 21, 21))
    whole[shuffled[:8]] = field.truth
    np.save("catalogue.npy", whole)
    words = [*RUN, "--noise_est", field.sigma, "--kernel", 4, "--metric", "mean"]
    code, known = call(*words, "-c", "truth.npy")
    assert code == 0, known
    code, seeded = call(*words, "-c", "catalogue.npy", "-r", 4, "-o", "seeded")
    assert code == 0, seeded
    line = next(text for text in known.splitlines() if text.startswith("galaxies: pixel error"))
    assert line in seeded


def test_command__starts_where_it_ended_and_is_quiet(field):
    call(*RUN, "-o", "one")
    code, out = call(*RUN, "-q", "-k", "one_primal.npy", "-o", "two")
    assert (code, out) == (0, "")
    assert np.load("two_primal.npy").shape == field.images.shape


def test_command__takes_one_galaxy_and_one_psf(field):
    np.save("one.npy", field.images[0])
    np.save("psf.npy", field.psfs[0])
    code, out = call("-i", "one.npy", "-p", "psf.npy", "--mode", "grad", "-o", "out")
    assert code == 0, out
    assert np.load("out_primal.npy").shape == (1, 21, 21)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-i", "none.npy"], "no such file: none.npy"),
        (["@none.ini"], "no such file: none.ini"),
        (["--mode", "magic"], "mode"),
        (["--wavelet_type", "14"], "--wavelet_type is one of 1 (linear)"),
        (["--convolve_method", "magic"], "--convolve_method is one of"),
        (["--condat_tau", "much"], "--condat_tau is a number"),
        (["--condat_tau", "9"], "do not converge"),
        (["--parity", "--mode", "all"], "cannot run it"),
        (["--mode", "grad", "--no_grad"], "nothing to solve"),
        (["-c", "psfs.npy", "-r", "1", "-i", "short.npy"], "psfs have shape"),
        (["-k", "short.npy", "--mode", "grad"], "current_res has the images' shape"),
        (["--true_psf", "none.npy"], "no such file: none.npy"),
        (["-o", ""], "an empty argument"),
        (["-o", "/"], "is no name of a file"),
        (["--kernel", "nan"], "--kernel is the width of a window"),
        (["--mode", "sparse", "--wave_thresh_factor", *["3"] * 40], "40 scales reach beyond"),
        (["--mode", "sparse", "--wave_thresh_factor", "nan"], "finite number"),
        (["--mode", "sparse", "--wave_thresh_factor"], "requires an argument"),
        (["-o", "out.fits", "--output_format", "npy"], "contradict each other"),
        (["-c", "short.npy"], "holds galaxies of shape (3, 21, 21)"),
        (["-o", "none/out"], "out_primal.npy cannot be written, there is no such folder"),
        (["-p", "twice.npy"], "PSFs do not sum to 1"),
        (["-i", "nan.npy"], "NaN or infinite pixels"),
    ],
)
def test_command__ends_wrong_input_in_one_sentence(field, words, sentence):
    np.save("short.npy", field.images[:3])
    np.save("twice.npy", 2 * field.psfs)
    np.save("nan.npy", np.where(np.arange(21) == 3, np.nan, field.images))
    code, out = call(*RUN, *words)
    assert code == 2
    assert sentence in " ".join(out.split())
    assert "Traceback" not in out


def test_command__parity_reproduces_the_published_arithmetic(field):
    """An independent, literal loop of the published program: no shared code, NumPy alone."""
    code, out = call(*RUN[:4], "--parity", "--n_iter", 40, "--convergence", 0, "-o", "out")
    assert code == 0, out
    y, psfs = field.images, field.psfs
    deviation = np.abs(y - np.median(y))
    cut = 1.4826 * np.median(deviation) * np.sqrt(441) / 0.5

    def blur(stack, kernels):
        moved = np.roll(kernels, (-10, -10), (1, 2))
        return np.fft.ifft2(np.fft.fft2(stack) * np.fft.fft2(moved)).real

    x, u = np.ones_like(y), np.ones_like(y)
    for _ in range(40):
        gradient = blur(blur(x, psfs) - y, psfs[:, ::-1, ::-1])
        ahead = np.maximum(x - 0.5 * gradient - 0.5 * u, 0)
        ascent = u + 0.5 * (2 * ahead - x)
        left, s, right = np.linalg.svd((ascent / 0.5).reshape(8, -1).T, full_matrices=False)
        kept = (left * np.where(s >= cut, s, 0)) @ right
        dual = ascent - 0.5 * kept.T.reshape(y.shape)
        x, u = 0.8 * ahead + 0.2 * x, 0.8 * dual + 0.2 * u
    np.testing.assert_allclose(np.load("out_primal.npy"), x, rtol=0, atol=1e-8 * np.abs(x).max())
    np.testing.assert_allclose(np.load("out_dual.npy"), u, rtol=0, atol=1e-8 * np.abs(u).max())


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], "learnt"),
        (["--noise_est", 0.01], "learnt"),
        (["--n_iter", 3], "lowr"),
        (["--convolve_method", "scipy", "--n_iter", 3], "lowr"),
        (["--parity", "--n_iter", 3], "lowr"),
        (["--mode", "sparse", "--n_iter", 3], "sparse"),
    ],
)
def test_command__takes_the_published_mode_with_published_options(field, words, mode):
    code, out = call(*RUN[:4], *words)
    assert code == 0, out
    assert out.startswith(f"mode {mode}: 8 galaxies")


def test_command__learns_its_prior(field):
    code, out = call(*RUN[:4], "-o", "out", "-c", "truth.npy")
    assert code == 0, out
    assert "8 galaxies, 8 galaxies converged" in out
    expected = psfscale.deconvolve(field.images, field.psfs).image
    np.testing.assert_allclose(np.load("out_primal.npy"), expected)
    code, out = call(*RUN, "-o", "out", "--mode", "learnt")
    assert code == 2
    assert "mode learnt has no n_iter" in out
