"""Every mode runs or is refused; results are what theory says; faults are named."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from deconvolution_scene import circular, pixel_error, scene

from psfscale.arrays import ObjectFlag
from psfscale.deconvolve.restore import deconvolve
from psfscale.errors import ConfigError, InputError

MODES = ["all", "sparse", "lowr", "grad"]
OPTIMISERS = ["condat", "fwbw", "gfwbw"]


@pytest.mark.parametrize(
    ("mode", "optimiser", "gradient", "fixed"),
    list(
        itertools.product(
            MODES, OPTIMISERS, ["psf_known", "psf_unknown", "shape", "none"], [True, False]
        )
    ),
)
def test_deconvolve__every_combination_runs_or_is_refused(mode, optimiser, gradient, fixed):
    field = scene(6, fixed=fixed)
    options = {"mode": mode, "opt_type": optimiser, "grad_type": gradient, "n_iter": 8}
    if (mode, gradient) == ("grad", "none"):
        with pytest.raises(ConfigError, match="nothing to solve"):
            deconvolve(field.images, field.psfs, **options)
        return
    found = deconvolve(field.images, field.psfs, sigma=field.sigma, **options)
    assert found.image.shape == field.images.shape
    assert np.isfinite(found.image).all()
    assert bool((found.image >= -1e-12).all())
    assert np.isfinite(found.chi2).all()
    assert (found.psf is not None) == (gradient == "psf_unknown")
    if found.psf is not None:
        np.testing.assert_allclose(found.psf.sum((1, 2)), 1, rtol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        *({"lowr_type": a, "lowr_thresh_type": b, "lowr_thresh_factor": 0.3}
          for a in ("standard", "ngole")
          for b in ("soft", "hard")),
        *({"mode": m, "wavelet": w} for m in ("sparse", "all")
          for w in ("linear", "starlet", "biorthogonal")),
        {"mode": "sparse", "n_reweights": 0},
        {"mode": "sparse", "n_reweights": 3, "wave_thresh_factor": (4.0, 3.0)},
        {"positivity": False},
        {"mode": "sparse", "positivity": False, "opt_type": "fwbw"},
        {"boundary": "zero"},
        {"mode": "sparse", "boundary": "zero"},
    ],
)  # fmt: skip
def test_deconvolve__restores_galaxies_in_every_manner(options):
    field = scene(24, snr=30)
    found = deconvolve(
        field.images, field.psfs, sigma=field.sigma, n_iter=100, **{"mode": "lowr", **options}
    )
    before = np.median(pixel_error(field.images, field.truth))
    after = np.median(pixel_error(found.image, field.truth))
    # n = 24, seed 3: what is seen is off by 0.08; the worst manner, without positivity, by 0.056
    assert after < 0.75 * before
    assert np.median(found.chi2) == pytest.approx(1, abs=0.25)


def test_deconvolve__is_the_identity_without_blur_and_noise():
    field = scene(4)
    delta = np.zeros((5, 5))
    delta[2, 2] = 1
    for mode in ("grad", "sparse"):
        found = deconvolve(field.truth, delta, mode=mode, sigma=1e-9, n_iter=300)
        np.testing.assert_allclose(found.image, field.truth, atol=1e-8)


def test_deconvolve__inverts_a_mild_blur_without_noise():
    field = scene(4)
    psf = np.pad([[0, 0.05, 0], [0.05, 0.8, 0.05], [0, 0.05, 0]], 9)
    blurred = circular(field.truth, np.repeat(psf[None], 4, 0))
    found = deconvolve(blurred, psf, mode="grad", sigma=1e-9, n_iter=300, convergence=1e-14)
    np.testing.assert_allclose(found.image, field.truth, atol=1e-7)
    assert bool(found.converged.all())


@pytest.mark.parametrize(("mode", "n"), [("sparse", 600), ("grad", 1500)])
def test_deconvolve__optimisers_agree_at_convergence(mode, n):
    field = scene(3, snr=10, psf_width=(0.7, 0.9))
    answers = [
        deconvolve(
            field.images,
            field.psfs,
            mode=mode,
            opt_type=optimiser,
            sigma=field.sigma,
            n_reweights=0,
            n_iter=n,
            convergence=1e-7,
        )
        for optimiser in (OPTIMISERS if mode == "grad" else ["condat", "fwbw"])
    ]
    for answer in answers[1:]:
        assert answer.cost[-1] == pytest.approx(answers[0].cost[-1], rel=2e-3)


def test_deconvolve__soft_low_rank_optimisers_agree_at_convergence():
    field = scene(12, snr=10)
    answers = [
        deconvolve(
            field.images,
            field.psfs,
            mode="lowr",
            opt_type=optimiser,
            lowr_thresh_type="soft",
            lowr_thresh_factor=0.3,
            sigma=field.sigma,
            n_iter=1500,
            convergence=1e-7,
        )
        for optimiser in OPTIMISERS
    ]
    for answer in answers[1:]:
        assert answer.cost[-1] == pytest.approx(answers[0].cost[-1], rel=1e-3)
        gap = np.linalg.norm(answer.image - answers[0].image) / np.linalg.norm(answers[0].image)
        assert gap < 0.02


@pytest.mark.parametrize("mode", ["sparse", "grad"])
def test_deconvolve__galaxies_without_a_joint_prior_do_not_see_each_other(mode):
    field = scene(6)
    options = {"mode": mode, "sigma": field.sigma, "n_iter": 60, "convergence": 0.0}
    whole = deconvolve(field.images, field.psfs, current_res=field.images, **options)
    few = deconvolve(
        field.images[[4, 1]], field.psfs[[4, 1]], current_res=field.images[[4, 1]], **options
    )
    np.testing.assert_allclose(few.image, whole.image[[4, 1]], atol=1e-12, rtol=0)


def test_all__gains_on_sparsity_alone():
    field = scene(40, snr=2, psf_width=(1.4, 1.8), seed=17)

    def error(**options):
        found = deconvolve(field.images, field.psfs, sigma=field.sigma, **options)
        return np.median(pixel_error(found.image, field.truth))

    assert error(mode="all") < 0.9 * error(mode="sparse")


def test_deconvolve__low_rank_commutes_with_the_order_of_the_galaxies():
    field = scene(12)
    order = np.random.default_rng(0).permutation(12)
    options = {"mode": "lowr", "sigma": field.sigma, "n_iter": 40}
    there = deconvolve(field.images[order], field.psfs[order], **options)
    here = deconvolve(field.images, field.psfs, **options)
    np.testing.assert_allclose(there.image, here.image[order], atol=1e-10, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_deconvolve__scales_with_the_flux_unit(mode):
    field = scene(6)
    options = {"mode": mode, "n_iter": 30}
    one = deconvolve(field.images, field.psfs, sigma=field.sigma, **options)
    many = deconvolve(1000 * field.images, field.psfs, sigma=1000 * field.sigma, **options)
    np.testing.assert_allclose(many.image, 1000 * one.image, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_deconvolve__leaves_masked_pixels_out_and_flags_them(mode):
    field = scene(12, snr=30)
    mask = np.zeros(field.images.shape, dtype=bool)
    mask[2, 4:6, 3:9] = True
    spoiled = np.where(mask, 1e4, field.images)
    found = deconvolve(spoiled, field.psfs, mode=mode, sigma=field.sigma, mask=mask, n_iter=100)
    clean = deconvolve(field.images, field.psfs, mode=mode, sigma=field.sigma, n_iter=100)
    flagged = (found.flags & ObjectFlag.MASKED) != 0
    assert np.flatnonzero(flagged).tolist() == [2]
    error = [float(pixel_error(r.image, field.truth)[2]) for r in (found, clean)]
    assert error[0] < 3 * error[1] + 0.01


def test_deconvolve__weighs_galaxies_by_their_own_noise():
    field = scene(24, snr=30)
    rng = np.random.default_rng(1)
    factor = np.repeat([1.0, 10.0], 12)[:, None, None]
    images = field.images + field.sigma * np.sqrt(factor**2 - 1) * rng.normal(
        size=field.images.shape
    )
    sigma = field.sigma * factor[:, 0, 0]
    told = deconvolve(images, field.psfs, sigma=sigma)
    common = deconvolve(images, field.psfs, sigma=float(np.median(sigma)))
    error = [np.median(pixel_error(r.image, field.truth)[12:]) for r in (told, common)]
    assert error[0] < 0.7 * error[1]


def test_deconvolve__says_which_galaxies_have_not_converged():
    field = scene(6)
    hasty = deconvolve(field.images, field.psfs, mode="grad", sigma=field.sigma, n_iter=3)
    assert not bool(hasty.converged.any())
    assert bool(((hasty.flags & ObjectFlag.NOT_CONVERGED) != 0).all())
    assert hasty.convergence[-1].reason == "limit"
    patient = deconvolve(field.images, field.psfs, mode="sparse", sigma=field.sigma, n_iter=2000)
    assert bool(patient.converged.all())


def test_deconvolve__starts_from_an_earlier_result():
    field = scene(6)
    options = {"mode": "grad", "sigma": field.sigma}
    far = deconvolve(field.images, field.psfs, n_iter=600, **options)
    again = deconvolve(field.images, field.psfs, n_iter=5, current_res=far.image, **options)
    fresh = deconvolve(field.images, field.psfs, n_iter=5, **options)
    gaps = [np.linalg.norm(r.image - far.image) for r in (again, fresh)]
    assert gaps[0] < 0.1 * gaps[1]
    assert far.cost[-1] < again.cost[-1] < fresh.cost[-1]


@pytest.mark.parametrize("fixed", [True, False])
def test_deconvolve__refined_psfs_restore_better_than_wrong_ones(fixed):
    field = scene(8, snr=50, fixed=fixed)
    y, x = np.mgrid[:21, :21] - 10
    wrong = np.exp(-(x**2 + y**2) / 2 / 1.8**2)
    wrong = np.broadcast_to(wrong / wrong.sum(), field.psfs.shape)
    options = {"mode": "sparse", "sigma": field.sigma, "n_iter": 150}
    refined = deconvolve(
        field.images, wrong, grad_type="psf_unknown", lambda_psf=1e-3, beta_psf=1e6, **options
    )
    kept = deconvolve(field.images, wrong, **options)
    assert refined.psf is not None
    assert refined.psf.shape == (1 if fixed else 8, 21, 21)
    gap = [float(np.square(psf - field.psfs).sum()) for psf in (refined.psf, wrong)]
    assert gap[0] < gap[1]
    error = [np.median(pixel_error(r.image, field.truth)) for r in (refined, kept)]
    assert error[0] < 0.8 * error[1]


def test_deconvolve__shape_constraint_brings_moments_back():
    from psfscale.deconvolve.problem import moment_windows

    field = scene(12, snr=5)
    windows = moment_windows((21, 21)).flatten(1)
    options = {"mode": "sparse", "sigma": field.sigma, "n_iter": 500}

    def misfit(found):
        residual = circular(found.image, field.psfs) - field.images
        return float((torch.from_numpy(residual).flatten(1) @ windows.T).square().mean())

    plain = deconvolve(field.images, field.psfs, **options)
    held = deconvolve(field.images, field.psfs, grad_type="shape", lambda_shape=4.0, **options)
    assert misfit(held) < 0.7 * misfit(plain)


@pytest.mark.parametrize("mode", ["learnt", "lowr"])
def test_deconvolve__returns_arrays_of_arrays_and_tensors_of_tensors(mode):
    field = scene(6)
    arrays = deconvolve(field.images.tolist(), field.psfs, mode=mode)
    tensors = deconvolve(torch.from_numpy(field.images), field.psfs, mode=mode)
    pairs = [
        (getattr(arrays, name), getattr(tensors, name))
        for name in ("image", "flags", "sigma", "chi2", "flux", "converged")
    ]
    if mode == "learnt":
        pairs += [(arrays.error, tensors.error), (arrays.clumpiness, tensors.clumpiness)]
        pairs += [
            (getattr(arrays.profile, name), getattr(tensors.profile, name))
            for name in ("flux", "flux_error", "size", "ellipticity", "ellipticity_error")
        ]
    else:
        pairs += [(arrays.dual[0], tensors.dual[0])]
    for array, tensor in pairs:
        assert (type(array), type(tensor)) == (np.ndarray, torch.Tensor)
        np.testing.assert_allclose(array, tensor)


def test_deconvolve__keeps_float32():
    field = scene(6, dtype=np.float32)
    found = deconvolve(field.images, field.psfs)
    assert found.image.dtype == found.sigma.dtype == np.float32


def test_deconvolve__means_it_where_it_says_converged():
    field = scene(24, snr=10)
    options = {"mode": "sparse", "sigma": field.sigma, "n_reweights": 0}
    found = deconvolve(field.images, field.psfs, **options)
    far = deconvolve(field.images, field.psfs, n_iter=2000, convergence=1e-9, **options)
    assert found.converged.mean() > 0.5
    gap = np.linalg.norm(found.image - far.image, axis=(1, 2))
    gap /= np.linalg.norm(far.image, axis=(1, 2))
    # a squared distance of 1e-4 is the bound
    assert np.median(gap[found.converged]) < 0.015


def test_deconvolve__gains_on_steps_that_are_the_same_for_all_detail():
    """The same minimum, by steps in the metric of the data and by one step, masked and not."""
    field = scene(6, snr=10)
    mask = np.zeros(field.images.shape, dtype=bool)
    mask[:, 2, 3] = True
    options = {"mode": "sparse", "sigma": field.sigma, "n_reweights": 0}
    for held_out in (None, mask):
        answers = [
            deconvolve(
                field.images, field.psfs, mask=held_out, n_iter=n, convergence=1e-9,
                condat_sigma=step, **options,
            )
            for n, step in ((600, None), (6000, 0.3))
        ]  # fmt: skip
        assert answers[0].cost[-1] == pytest.approx(answers[1].cost[-1], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"mode": "lowr", "relax": 1.5}, ConfigError, "below 1.5"),
        ({"mode": "magic"}, ConfigError, "mode"),
        ({"depth": 3}, ConfigError, "depth"),
        ({"mode": "lowr", "condat_tau": 5.0}, ConfigError, "do not converge"),
        ({"mode": "lowr", "opt_type": "fwbw", "relax": 0.5}, ConfigError, "condat alone"),
        ({"parity": True, "mode": "all"}, ConfigError, "cannot run it"),
        ({"parity": True, "mode": "lowr", "opt_type": "gfwbw"}, ConfigError, "parity holds for"),
        (
            {"parity": True, "mode": "lowr", "grad_type": "shape"},
            ConfigError,
            "parity has no grad_type",
        ),
        ({"parity": True, "mode": "sparse", "boundary": "zero"}, ConfigError, "circular"),
        ({"mode": "sparse", "wave_thresh_factor": (-1.0,)}, ConfigError, "not be negative"),
        ({"n_iter": 20, "parity": True}, ConfigError, "mode learnt has no n_iter, parity"),
        ({"mode": "lowr", "learnt": {"oversampling": 2}}, ConfigError, "belong to mode learnt"),
        ({"learnt": {"oversampling": 0}}, ConfigError, "oversampling"),
        ({"noise_est": 0.1, "sigma": 0.1}, InputError, "noise_est is the noise"),
        ({"current_res": np.zeros((2, 3, 3))}, InputError, "current_res"),
    ],
)
def test_deconvolve__refuses_what_makes_no_sense(options, kind, message):
    field = scene(4)
    with pytest.raises(kind, match=message):
        deconvolve(field.images, field.psfs, **options)
