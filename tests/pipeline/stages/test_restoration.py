from __future__ import annotations

import numpy as np
import pytest
import toy
import xarray as xr

import psfscale
from psfscale.arrays import ObjectFlag, Role
from psfscale.deconvolve.learnt.prior import shared_prior
from psfscale.deconvolve.learnt.settings import N_SUMS
from psfscale.errors import ConfigError
from psfscale.pipeline import plan_run, run
from psfscale.pipeline.runs.context import build_context, read_context
from psfscale.pipeline.stages import restoration
from psfscale.pipeline.stages.ccd import restoring_psfs
from psfscale.pipeline.stages.registry import stages_of
from psfscale.pipeline.units.exposure_io import ExposureReader
from psfscale.pipeline.units.session import Session


def restoring(survey, **restore):
    return toy.make_config(survey, restore={"at_galaxies": True, **restore})


def one_ccd(context):
    stages = stages_of(context)
    fitted = stages["fit"].run(ExposureReader(stages["fit"], Session(context), 0).ccd(1), context)
    survey_inputs = [s for s in stages["restore"].inputs if s.store == "survey"]
    session, found = Session(context), fitted
    for source in survey_inputs:
        values = session.of_survey(source.path).array[0, 1]
        found = found.assign({source.path: (session.dims(source.path, survey=True), values)})
    return found


@pytest.mark.parametrize(
    ("settings", "bias"),
    [({"learnt": {"n_rounds": 2}}, 60), ({"mode": "sparse", "n_iter": 40}, 120)],
)
def test_restore__returns_the_galaxies_flux_without_the_psf(survey, settings, bias) -> None:
    context = build_context(restoring(survey, settings=settings))
    ccd = one_ccd(context)
    result = stages_of(context)["restore"].run(ccd, context)
    assert set(result) == {spec.path for spec in stages_of(context)["restore"].outputs}
    real = ccd["galaxies/role"].values != Role.EMPTY
    flux = result["galaxies/restored_flux"].values
    # flux 1000 with a noise of 11; positivity keeps the upper half of the noise around a galaxy
    np.testing.assert_allclose(flux[real], 1e3, atol=bias)
    assert np.isnan(flux[~real]).all()
    before = ccd["galaxies/image"].values[real].max((1, 2))
    after = result["galaxies/restored"].values[real].max((1, 2))
    assert (after > 1.5 * before).all()  # sharper
    with_error = np.isfinite(result["galaxies/restored_error"].values[real]).all()
    assert with_error == ("learnt" in settings)


def test_restore__measures_the_shape_of_what_it_restored(survey) -> None:
    context = build_context(restoring(survey, settings={"learnt": {"n_rounds": 2}}))
    ccd = one_ccd(context)
    y, x = np.mgrid[: toy.SIDE, : toy.SIDE] - toy.SIDE // 2
    image = ccd["galaxies/image"].copy(deep=True)
    # a Gaussian of 1.6 by 1.2 pixels under a PSF of 1.5, and for contrast a point
    wide = np.exp(-(x**2) / (2 * (1.6**2 + 1.5**2)) - y**2 / (2 * (1.2**2 + 1.5**2)))
    image[1] = 1e5 * wide / wide.sum() + np.random.default_rng(1).normal(size=wide.shape)
    result = stages_of(context)["restore"].run(ccd.assign({"galaxies/image": image}), context)
    found = {
        name: result[f"galaxies/restored_{name}"].values for name in ("e1", "e2", "R2", "flags")
    }
    assert found["R2"][1] == pytest.approx((1.6**2 + 1.2**2) * 0.1**2, rel=0.15)
    assert found["e1"][1] == pytest.approx((1.6**2 - 1.2**2) / (1.6**2 + 1.2**2), abs=0.06)
    assert found["e2"][1] == pytest.approx(0, abs=0.05)
    failed = (found["flags"] & ObjectFlag.MOMENTS_FAILED_DATA) != 0
    real = ccd["galaxies/role"].values != Role.EMPTY
    np.testing.assert_array_equal(failed, real & np.isnan(found["R2"]))


def test_restore__keeps_the_flux_on_a_finer_grid(survey) -> None:
    settings = {"learnt": {"n_rounds": 1, "oversampling": 2}}
    context = build_context(restoring(survey, settings=settings))
    assert context.restored_grid.oversampling == 2
    ccd = one_ccd(context)
    result = stages_of(context)["restore"].run(ccd, context)
    assert result["galaxies/restored"].shape[1:] == (2 * toy.SIDE, 2 * toy.SIDE)
    real = ccd["galaxies/role"].values != Role.EMPTY
    np.testing.assert_allclose(result["galaxies/restored_flux"].values[real], 1e3, atol=60)


def test_restore__flags_a_galaxy_without_a_pixel_and_keeps_the_others(survey) -> None:
    context = build_context(restoring(survey, settings={"learnt": {"n_rounds": 1}}))
    ccd = one_ccd(context)
    weight = ccd["galaxies/weight"].copy(deep=True)
    weight[0] = 0
    result = stages_of(context)["restore"].run(ccd.assign({"galaxies/weight": weight}), context)
    assert result["galaxies/restored_flags"].values[0] == ObjectFlag.MASKED
    assert np.isnan(result["galaxies/restored_e1"].values[0])
    assert np.isnan(result["galaxies/restored"].values[0]).all()
    assert np.isfinite(result["galaxies/restored_flux"].values[1])


def test_run__restores_without_fitting_again_when_only_the_restoration_changes(survey) -> None:
    first = restoring(survey, settings={"learnt": {"n_rounds": 1}})
    assert run(first, serial=True).exit_code == 0
    tree = psfscale.open_run(first.output)
    assert np.isfinite(tree.galaxies(exposure="exp-0", ccd=1)["restored_flux"]).all()
    changed = restoring(survey, settings={"mode": "sparse", "n_iter": 5})
    assert {todo.unit.stage for todo in plan_run(changed).todo} == {"restore"}


def test_run__restores_all_exposures_by_the_prior_that_the_first_ones_teach(survey) -> None:
    toy.append_exposure(survey / "survey.zarr")
    settings = {"learnt": {"n_rounds": 1}}
    config = restoring(survey, settings=settings, learn_exposures=2)
    assert run(config, serial=True).exit_code == 0
    sums = toy.run_arrays(config.output)["prior/sums"]
    assert np.isfinite(sums[:2]).all()
    assert np.isnan(sums[2]).all()
    prior = shared_prior(sums)
    assert prior.n_galaxies > 15  # of 2 exposures, 2 CCDs, 5 galaxies each
    context = read_context(config.output)
    stage = stages_of(context)["restore"]
    reader = ExposureReader(stage, Session(context), 2, sample=(0, 1))
    galaxies = reader.ccd(1)
    found = psfscale.deconvolve(
        galaxies["galaxies/image"].values[:5],
        restoring_psfs(galaxies, np.arange(5), context),
        weight=galaxies["galaxies/weight"].values[:5],
        prior=prior,
    )
    stored = psfscale.open_run(config.output).galaxies(exposure="exp-2", ccd=2)["restored"]
    np.testing.assert_array_equal(stored.values[:5], found.image)


def test_restore__does_not_depend_on_the_blocks_of_a_ccd(survey, monkeypatch) -> None:
    context = build_context(restoring(survey, settings={"learnt": {"n_rounds": 1}}))
    ccd = one_ccd(context)
    sums = stages_of(context)["sample"].run(ccd, context)["prior/sample_sums"].values
    ccd = ccd.assign({"prior/sums": (("a", "b", "c"), sums[None, None])})
    whole = stages_of(context)["restore"].run(ccd, context)
    monkeypatch.setattr(restoration, "BLOCK", 2)
    parts = stages_of(context)["restore"].run(ccd, context)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-3, err_msg=name)


def test_shared_prior__leaves_out_ccds_without_sums() -> None:
    sums = np.full((2, 3, N_SUMS), np.nan)
    assert shared_prior(sums) is None
    sums[1, 2] = 1.0
    sums[0, 1] = 3.0
    assert shared_prior(sums).n_galaxies == 4.0


def test_run__learns_anew_what_others_gather_when_a_sampled_exposure_changes(survey) -> None:
    config = restoring(survey, settings={"learnt": {"n_rounds": 1}}, learn_exposures=1)
    assert run(config, serial=True).exit_code == 0
    toy.seal(survey / "survey.zarr", 0, "another content")
    found = {(todo.unit.stage, todo.unit.exposure) for todo in plan_run(config).todo}
    assert {("sample", 0), ("learn", 0), ("restore", 0), ("restore", 1)} <= found
    assert ("fit", 1) not in found


@pytest.fixture
def mended(survey):
    """A run whose exposures both teach, after a CCD of the first has failed and was mended."""
    config = restoring(survey, settings={"learnt": {"n_rounds": 1}})
    toy.spoil_ccd(survey / "survey.zarr", 0, 1, how="nan")
    assert run(config, serial=True, observers=[]).exit_code == 1
    toy.mend_ccd(survey / "survey.zarr", 0, 1)
    return config


def test_run__restores_what_failed_alone_by_the_prior_that_stands(mended) -> None:
    before = toy.run_arrays(mended.output)
    assert np.isnan(before["galaxies/restored"][0, 1]).all()
    summary = run(mended, serial=True, retry_failed=True, observers=[])
    assert summary.exit_code == 0
    assert summary.n_units == 4  # fit, psf, metrics and restore of one exposure
    after = toy.run_arrays(mended.output)
    np.testing.assert_array_equal(after["prior/sums"], before["prior/sums"])
    assert np.isnan(after["prior/sums"][0, 1]).all()
    for kept in (0, slice(0, 1)), (1, slice(None)):
        np.testing.assert_array_equal(
            after["galaxies/restored"][kept], before["galaxies/restored"][kept]
        )
    found = psfscale.open_run(mended.output).galaxies(exposure="exp-0", ccd=2)
    alone = psfscale.deconvolve(
        found["image"].values,
        found["psf"].values,
        weight=found["weight"].values,
        prior=shared_prior(after["prior/sums"]),
    )
    np.testing.assert_allclose(found["restored"], alone.image, rtol=1e-4, atol=1e-3)


def test_run__that_learns_again_is_as_if_nothing_had_failed(mended) -> None:
    run(mended, serial=True, retry_failed=True, observers=[])
    assert run(mended, serial=True, learn_again=True, observers=[]).exit_code == 0
    quiet = mended.model_copy(update={"output": mended.output.with_name("quiet.zarr")})
    run(quiet, serial=True, observers=[])
    toy.require_same_arrays(mended.output, quiet.output)


def test_sample__leaves_out_a_galaxy_that_is_not_finite(survey) -> None:
    context = build_context(restoring(survey, settings={"learnt": {"n_rounds": 1}}))
    ccd = one_ccd(context)
    image = ccd["galaxies/image"].copy(deep=True)
    image[2, 5, 5] = np.nan
    sums = stages_of(context)["sample"].run(ccd.assign({"galaxies/image": image}), context)
    assert shared_prior(sums["prior/sample_sums"].values[None, None]).n_galaxies == 4


def test_run__draws_no_restored_arrays_unless_asked(survey) -> None:
    config = toy.make_config(survey)
    assert run(config, serial=True).exit_code == 0
    with xr.open_datatree(config.output, engine="zarr") as tree:
        assert "restored" not in tree["galaxies"]


def test_restore__refuses_unknown_settings(survey) -> None:
    with pytest.raises(ConfigError, match="n_turns"):
        build_context(restoring(survey, settings={"n_turns": 1}))
