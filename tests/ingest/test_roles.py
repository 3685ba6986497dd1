"""A star is held out in all its exposures or in none, whatever the order of ingest."""

import numpy as np
import pytest
import zarr
from ingest_samples import (
    catalogue,
    exposures,
    images_recipe,
    make_survey,
    stack_arrays,
    stack_recipe,
    stored,
    write_exposure,
)

from psfscale.arrays import Role
from psfscale.errors import ConfigError, StoreError
from psfscale.ingest import ingest
from psfscale.ingest.roles import Reservation
from psfscale.store.refusal import Refusal

DECAM = Reservation(rule="sky", fraction=0.2, cell=128 * 0.263 / 3600)


def _sphere(n, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))


def _seen(ra, dec, scatter, rng):
    """Positions as one exposure measures them, with a scatter [arcsec] along each axis."""
    east, north = rng.normal(0, scatter / 3600, (2, len(ra)))
    return ra + east / np.cos(np.radians(dec)), dec + north


@pytest.mark.parametrize(("scatter", "most"), [(0.2, 1e-5), (0.5, 1e-3)])
def test_roles__no_star_trains_one_exposure_and_validates_another(scatter, most):
    # n = 400,000, seed 1. Of 4 million, 5e-7 flip at 0.2 arcsec and 9.6e-4 at 0.5 arcsec.
    ra, dec = _sphere(400_000, 1)
    rng = np.random.default_rng(2)
    one, other = (DECAM.sky_roles(*_seen(ra, dec, scatter, rng)) for _ in range(2))
    assert np.mean((one != other) & (one != Role.EMPTY) & (other != Role.EMPTY)) <= most
    assert 0 < np.mean(one != other) < 0.05


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.5, 0.9])
def test_roles__share_of_the_sky_is_the_recipes_and_little_is_lost(fraction):
    # n = 400,000, seed 3. The margin's share is at most f (1 - (1 + 2/32)^2) = 0.13 f.
    ra, dec = _sphere(400_000, 3)
    role = Reservation(rule="sky", fraction=fraction, cell=0.01).sky_roles(ra, dec)
    assert np.mean(role == Role.RESERVED) == pytest.approx(fraction, abs=0.003)
    assert np.mean(role == Role.EMPTY) <= 0.13 * fraction + 0.001


def test_roles__each_patch_of_eight_cells_square_has_its_share():
    # 400 patches of 5000 points, seed 4: the lattice is even, a hash would leave sigma = 0.05.
    rng = np.random.default_rng(4)
    side = 8 * DECAM.cell
    share = []
    for ra, dec in zip(rng.uniform(0, 359, 400), rng.uniform(-80, 80, 400), strict=True):
        right = ra + rng.uniform(0, side, 5000) / np.cos(np.radians(dec))
        role = DECAM.sky_roles(right, dec + rng.uniform(0, side, 5000))
        share.append(np.mean(role == Role.RESERVED))
    assert np.min(share) > 0.1
    assert np.std(share) < 0.03


def test_roles__right_ascension_may_be_given_from_minus_180():
    ra, dec = _sphere(10_000, 5)
    np.testing.assert_array_equal(DECAM.sky_roles(ra, dec), DECAM.sky_roles(ra - 360, dec))


def test_roles__stars_within_a_degree_of_the_pole_keep_theirs():
    # n = 100,000, seed 6; the innermost rings, of few cells, may flip.
    rng = np.random.default_rng(6)
    dec = 90 - np.sqrt(rng.uniform(0, 1, 100_000))
    ra = rng.uniform(0, 360, len(dec))
    one, other = (DECAM.sky_roles(*_seen(ra, dec, 0.2, rng)) for _ in range(2))
    assert np.mean((one != other) & (one != Role.EMPTY) & (other != Role.EMPTY)) <= 1e-4
    assert np.mean(one == Role.RESERVED) == pytest.approx(0.2, abs=0.01)


def _table(n, *, first_id, order=None, scatter=0.0, seed=9):
    """A catalogue of one CCD whose rows are the same n stars of the sky."""
    table = catalogue([1], n=n)
    rng = np.random.default_rng(seed)
    table["RA"] = 10 + rng.uniform(0, 0.05, n)
    table["DEC"] = -5 + rng.uniform(0, 0.05, n)
    table["RA"], table["DEC"] = _seen(
        table["RA"], table["DEC"], scatter, np.random.default_rng(first_id)
    )
    table["star"] = np.arange(n)
    table["ID"] = first_id + np.arange(n)
    return table if order is None else table[order]


def _roles(store, exposure, first_id):
    """The role of each star of `_table`, by number; those left out are missing."""
    stars = stored(store, exposure=exposure)
    return dict(zip(stars["id"].values - first_id, stars["role"].values, strict=True))


def test_ingest__a_star_keeps_its_role_in_other_exposures_appended_ones_and_other_orders(tmp_path):
    survey = make_survey(images_recipe())
    n = 120
    order = np.random.default_rng(0).permutation(n)
    # The test's CCDs are small, so are the cells: 0.75 arcsec, and a margin of 0.023.
    first = write_exposure(tmp_path, "A", [1], table=_table(n, first_id=100, scatter=0.002))
    second = write_exposure(
        tmp_path, "B", [1], table=_table(n, first_id=5000, order=order, scatter=0.002)
    )
    ingest(survey, [first], tmp_path / "s.zarr")
    summary = ingest(survey, [second], tmp_path / "s.zarr", append=True)
    ingest(survey, [second, first], tmp_path / "t.zarr")
    one, other = _roles(tmp_path / "s.zarr", 0, 100), _roles(tmp_path / "s.zarr", 1, 5000)
    both = set(one) & set(other)
    assert {star: one[star] for star in both} == {star: other[star] for star in both}
    assert len(both) > 100
    assert set(one.values()) == {Role.FIT, Role.RESERVED}
    assert summary.refused == {Refusal.BESIDE_RESERVED: n - len(other)}
    assert _roles(tmp_path / "t.zarr", 1, 100) == one
    assert _roles(tmp_path / "t.zarr", 0, 5000) == other


def test_ingest__ids_of_the_whole_survey_decide_where_the_recipe_says_so(tmp_path):
    recipe = images_recipe()
    recipe["stars"] = recipe["stars"] | {"ids": "survey"}
    order = np.random.default_rng(0).permutation(100)
    files = [
        write_exposure(tmp_path, "A", [1], table=_table(100, first_id=1)),
        write_exposure(tmp_path, "B", [1], table=_table(100, first_id=1, order=order)),
    ]
    ingest(make_survey(recipe), files, tmp_path / "s.zarr")
    one, other = _roles(tmp_path / "s.zarr", 0, 1), _roles(tmp_path / "s.zarr", 1, 1)
    assert one == other
    assert len(one) == 100
    assert 5 < sum(role == Role.RESERVED for role in one.values()) < 40


def test_recipe__row_numbers_are_no_ids_of_a_survey():
    recipe = images_recipe()
    del recipe["stars"]["columns"]["id"]
    with pytest.raises((ConfigError, ValueError), match="ids: survey needs a column id"):
        make_survey(recipe | {"stars": recipe["stars"] | {"ids": "survey"}})


def _save(path, **arrays):
    np.savez(path, **stack_arrays(60, **arrays))
    return path


def test_ingest__a_store_of_before_keeps_reserving_by_exposure_and_id(tmp_path):
    survey = make_survey(stack_recipe())
    ingest(survey, [_save(tmp_path / "a.npz")], tmp_path / "s.zarr")
    recipe = stack_recipe()
    recipe["stars"]["columns"] |= {"ra": "ra", "dec": "dec"}
    place = {"ra": np.full(60, 10.0), "dec": np.full(60, -5.0)}
    root = zarr.open_group(tmp_path / "s.zarr", mode="r+", use_consolidated=False)
    del root.attrs["reserved_by"]
    counts = root["exposures/n_refused"]
    counts.resize((*counts.shape[:2], 7))
    summary = ingest(
        make_survey(recipe), [_save(tmp_path / "b.npz", **place)], tmp_path / "s.zarr", append=True
    )
    assert summary.n_stars == 60
    role = stored(tmp_path / "s.zarr", exposure=1)["role"].values
    assert set(role.tolist()) == {Role.FIT, Role.RESERVED}  # one place on the sky, both roles
    assert exposures(tmp_path / "s.zarr")["n_refused"].sizes["reason"] == len(Refusal)
    alone = tmp_path / "new.zarr"
    ingest(make_survey(recipe), [_save(tmp_path / "c.npz", **place)], alone)
    assert len(set(stored(alone)["role"].values.tolist())) == 1


def test_ingest__a_rule_of_a_later_version_is_refused(tmp_path):
    survey = make_survey(stack_recipe())
    ingest(survey, [_save(tmp_path / "a.npz")], tmp_path / "s.zarr")
    zarr.open_group(tmp_path / "s.zarr", mode="r+").attrs["reserved_by"] = "dreams"
    with pytest.raises(StoreError, match="reserves stars by 'dreams', expected one of sky"):
        ingest(survey, [_save(tmp_path / "b.npz")], tmp_path / "s.zarr", append=True)
