"""The sample of stars: the stellar locus, a list of stars, and what is counted of the rest."""

import numpy as np
import pytest
from astropy.table import Table
from ingest_samples import (
    COLUMNS,
    ROWS,
    catalogue,
    images_recipe,
    make_survey,
    stack_arrays,
    stack_recipe,
    stored,
    write_exposure,
)

from psfscale.arrays import Role
from psfscale.errors import InputError
from psfscale.ingest import ingest
from psfscale.ingest.objects import Objects
from psfscale.ingest.sample import refusals_by_size
from psfscale.ingest.star_list import StarList
from psfscale.store.refusal import Refusal
from psfscale.survey.selection import SizeMagnitude

SIDE, SKY = 25, 10.0


def _gaussians(x, y, flux, sigma):
    """Stamps of Gaussians [electron]; the pixel nearest to (x, y) is the middle one."""
    axis = np.arange(SIDE) - SIDE // 2
    dx, dy = (p - np.floor(p + 0.5) for p in (x, y))
    rx = (axis - dx[:, None]) ** 2
    ry = (axis - dy[:, None]) ** 2
    light = np.exp(-(rx[:, None, :] + ry[:, :, None]) / (2 * sigma**2)[:, None, None])
    return flux[:, None, None] * light / (2 * np.pi * sigma**2)[:, None, None]


def _field(rng, *, n_stars=250, n_galaxies=250, saturation=np.inf, trend=0.05):
    """Objects on a CCD of 1000 x 1000 pixels, which are stars, and their sizes over the mean."""
    n = n_stars + n_galaxies
    x, y = rng.uniform(20, 980, (2, n))
    star = np.arange(n) < n_stars
    wide = 1 + trend * (x + y - 1000) / 1000
    flux = np.where(star, 10 ** rng.uniform(3.9, 5.6, n), 10 ** (3.9 + rng.exponential(0.35, n)))
    # Galaxies as small as one likes, in proportion to their radius.
    radius = np.where(star, 0, 4 * np.sqrt(rng.uniform(0, 1, n)))
    image = _gaussians(x, y, flux, np.hypot(1.7 * wide, radius))
    image += rng.normal(size=image.shape) * np.sqrt(SKY**2 + image)
    full = image >= saturation
    blank = np.full(n, np.nan)
    objects = Objects(
        id=np.arange(n), x=x, y=y, ra=blank, dec=blank, flux=blank, snr=blank,
        flags=np.zeros(n, np.uint32), image=np.minimum(image, saturation).astype(np.float32),
        weight=np.where(full, 0, SKY**-2).astype(np.float32), sed_id=np.zeros(n, int),
        full=np.full(n, saturation),
    )  # fmt: skip
    return objects, star, wide


def _reasons(objects, **settings):
    return refusals_by_size(objects, ccd_shape=(1000, 1000), settings=SizeMagnitude(**settings))


def test_size__blended_stars_beside_the_locus_do_not_cost_faint_stars():
    # One field; 10 % of the stars have a neighbour of a third of their flux, 3.4 pixels away.
    rng = np.random.default_rng(31)
    objects, star, _ = _field(rng, n_stars=300, n_galaxies=0)
    blended = rng.uniform(size=300) < 0.1
    angle = rng.uniform(0, 2 * np.pi, 300)
    flux = np.where(blended, objects.image.sum(axis=(1, 2)) / 3, 0)
    axis = np.arange(SIDE) - SIDE // 2
    dx = objects.x - np.floor(objects.x + 0.5) + 3.4 * np.cos(angle)
    dy = objects.y - np.floor(objects.y + 0.5) + 3.4 * np.sin(angle)
    rx, ry = ((axis - d[:, None]) ** 2 for d in (dx, dy))
    beside = np.exp(-(rx[:, None, :] + ry[:, :, None]) / (2 * 1.7**2)) / (2 * np.pi * 1.7**2)
    objects.image[:] += (flux[:, None, None] * beside).astype(np.float32)
    reason = _reasons(objects)
    single = star & ~blended
    refused = np.count_nonzero(reason[single] == Refusal.LOW_SNR)
    faintest = _reasons(objects, galaxies=0.999)
    assert refused <= np.count_nonzero(faintest[single] == Refusal.LOW_SNR)


def test_size__few_galaxies_enter_and_few_stars_are_lost():
    # 8 fields of seed 100 to 107, the settings chosen on others.
    counts = np.zeros(4)
    for seed in range(100, 108):
        objects, star, _ = _field(np.random.default_rng(seed))
        reason = _reasons(objects)
        within = (reason == -1) | (reason == Refusal.NOT_A_STAR)
        taken = reason == -1
        counts += [np.sum(s) for s in (taken & star, within & star, taken & ~star, within & ~star)]
    stars, all_stars, galaxies, all_galaxies = counts
    assert stars >= 0.95 * all_stars
    assert galaxies <= 0.005 * stars
    assert all_stars > 500
    assert all_galaxies > 100


def test_size__the_saturation_cut_does_not_favour_large_stars():
    # 10 fields of 300 stars, seed 200; sizes vary by 20 % over the CCD.
    cut, peak_alone = [], []
    for seed in range(200, 210):
        objects, star, wide = _field(
            np.random.default_rng(seed), n_stars=300, n_galaxies=0, saturation=5000.0, trend=0.1
        )
        flux = objects.image.sum(axis=(1, 2))
        reason = _reasons(objects)
        assert np.sum(reason == Refusal.SATURATED) > 30
        for found, taken in (
            (cut, star & (reason == -1)),
            (peak_alone, star & (objects.image.max(axis=(1, 2)) < 5000)),
        ):
            brightest = np.flatnonzero(taken)[np.argsort(flux[taken])[-15:]]
            found.append(wide[brightest].mean() - wide[star].mean())
    error = 0.058 / np.sqrt(15 * 10)  # the sizes' spread, over all stars looked at
    assert abs(np.mean(cut)) < 4 * error
    assert np.mean(peak_alone) > 3 * error


def test_size__too_few_stars_have_no_locus_and_are_counted_so():
    objects, _, _ = _field(np.random.default_rng(1), n_stars=8, n_galaxies=0)
    assert set(_reasons(objects).tolist()) == {Refusal.NO_LOCUS}


def test_size__masked_pixels_beside_the_core_do_not_cost_a_star():
    objects, star, _ = _field(np.random.default_rng(3), n_galaxies=0)
    whole = _reasons(objects) == -1
    objects.weight[:, 8, 14] = 0
    objects.image[:, 8, 14] = 1e6
    assert np.mean((_reasons(objects) == -1)[whole]) > 0.97
    assert star.all()


def _save(path, objects):
    np.savez(
        path,
        **stack_arrays(
            len(objects),
            image=objects.image,
            weight=objects.weight,
            x=objects.x * COLUMNS / 1000,
            y=objects.y * ROWS / 1000,
        ),
    )
    return path


@pytest.mark.parametrize("region", ["auto", "exposure"])
def test_ingest__takes_the_stars_of_the_locus_and_counts_the_rest(tmp_path, region):
    objects, star, _ = _field(np.random.default_rng(5))
    recipe = stack_recipe()
    chosen = "auto" if region == "auto" else {"region": region}
    recipe["stars"]["select"] = {"size_magnitude": chosen}
    events = []
    summary = ingest(
        make_survey(recipe), [_save(tmp_path / "a.npz", objects)], tmp_path / "s.zarr",
        observer=events.append,
    )  # fmt: skip
    ids = stored(tmp_path / "s.zarr")["id"].values
    assert np.mean(star[ids]) > 0.99
    assert summary.n_stars == len(ids) > 50
    assert summary.n_stars + sum(summary.refused.values()) == len(objects)
    assert {Refusal.NOT_A_STAR, Refusal.LOW_SNR} <= set(summary.refused)
    assert "not_a_star" in str(summary)
    assert [event.phase for event in events] == ["scan", "select", "write"]
    assert not (tmp_path / "s.zarr/.psfscale/refused.jsonl").exists()


def _list_of(table, rows, **changes):
    """A list of some rows of a catalogue, ten years before the exposure, with motions."""
    n = len(rows)
    stars = Table({"ra": table["RA"][rows], "dec": table["DEC"][rows]})
    stars["pmra"], stars["pmdec"] = np.full(n, 200.0), np.full(n, -300.0)  # mas / yr
    stars["ref_epoch"] = np.full(n, 2015.0)
    years = 10.0  # MJD 60676.5 is 2025.0
    stars["ra"] -= 0.2 * years / 3600 / np.cos(np.radians(stars["dec"]))
    stars["dec"] += 0.3 * years / 3600
    for name, value in changes.items():
        stars[name] = value
    return stars


def _spread(n=40):
    table = catalogue([1], n=n)
    rng = np.random.default_rng(7)
    table["RA"], table["DEC"] = 10 + rng.uniform(0, 0.05, n), -5 + rng.uniform(0, 0.05, n)
    return table


def _matched(path, **more):
    recipe = images_recipe()
    recipe["stars"] |= {"select": {"match": {"path": str(path), **more} if more else str(path)}}
    return make_survey(recipe)


@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".ecsv", ".csv"])
def test_match__joins_a_list_at_the_epoch_of_the_exposure(tmp_path, suffix):
    table = _spread()
    rows = np.arange(0, 40, 2)
    stars = _list_of(table, rows)
    path = tmp_path / f"gaia{suffix}"
    if suffix == ".parquet":
        stars.to_pandas().to_parquet(path)
    else:
        stars.write(path)
    image = write_exposure(tmp_path, "A", [1], table=table)
    summary = ingest(_matched(path), [image], tmp_path / "s.zarr")
    assert stored(tmp_path / "s.zarr")["id"].values.tolist() == table["ID"][rows].tolist()
    assert summary.refused == {Refusal.NOT_MATCHED: 20}


def test_match__without_the_motions_finds_none(tmp_path):
    table = _spread()
    stars = _list_of(table, np.arange(40), pmra=0.0, pmdec=0.0)
    stars.write(tmp_path / "gaia.fits")
    image = write_exposure(tmp_path, "A", [1], table=table)
    summary = ingest(_matched(tmp_path / "gaia.fits"), [image], tmp_path / "s.zarr")
    assert summary.refused == {Refusal.NOT_MATCHED: 40}


def test_match__gives_a_star_to_the_nearest_row_alone(tmp_path):
    table = _spread(4)
    table["RA"][:], table["DEC"][:] = 10.0, [-5.0, -5.0001, -5.0002, -4.9]
    Table({"ra": [10.0], "dec": [-5.00012]}).write(tmp_path / "list.csv")
    image = write_exposure(tmp_path, "A", [1], table=table)
    summary = ingest(_matched(tmp_path / "list.csv"), [image], tmp_path / "s.zarr")
    assert stored(tmp_path / "s.zarr")["id"].values.tolist() == [101]
    assert summary.refused == {Refusal.NOT_MATCHED: 1, Refusal.MATCH_TAKEN: 2}


def test_match__a_star_of_the_list_has_one_role_whatever_its_measured_place(tmp_path):
    table, moved = _spread(200), _spread(200)
    moved["DEC"] += 0.4 / 3600
    Table({"ra": table["RA"], "dec": table["DEC"], "source_id": np.arange(200)}).write(
        tmp_path / "list.fits"
    )
    files = [
        write_exposure(tmp_path, name, [1], table=t) for name, t in (("A", table), ("B", moved))
    ]
    summary = ingest(_matched(tmp_path / "list.fits"), files, tmp_path / "s.zarr")
    one, other = (stored(tmp_path / "s.zarr", exposure=i)["role"].values for i in (0, 1))
    np.testing.assert_array_equal(one, other)
    assert len(one) == 200
    assert summary.refused == {}
    assert 15 < np.sum(one == Role.RESERVED) < 70


def test_match__a_list_that_is_missing_or_has_motions_without_an_epoch_is_an_error(tmp_path):
    table = _spread(4)
    image = write_exposure(tmp_path, "A", [1], table=table)
    with pytest.raises(InputError, match=r"no catalogue at .*none.fits: select.match names it"):
        ingest(_matched(tmp_path / "none.fits"), [image], tmp_path / "s.zarr")
    stars = _list_of(table, np.arange(4))
    stars.remove_column("ref_epoch")
    stars.write(tmp_path / "gaia.fits")
    with pytest.raises(
        InputError, match="has proper motions, but no column 'ref_epoch' or 'REF_EPOCH': give"
    ):
        ingest(_matched(tmp_path / "gaia.fits"), [image], tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    survey = _matched(tmp_path / "gaia.fits", epoch=2015.0)
    assert ingest(survey, [image], tmp_path / "s.zarr").n_stars == 4


@pytest.mark.parametrize("key", ["pmra", "pmdec", "ref_epoch", "id"])
def test_match__a_column_that_the_recipe_names_must_be_there(tmp_path, key):
    columns = {"ra": [10.0], "dec": [-5.0], "pmRA": [1.0], "pmDE": [1.0], "source_id": [1]}
    Table(columns).write(tmp_path / "gaia.fits")
    image = write_exposure(tmp_path, "e1", [1])
    with pytest.raises(InputError, match=r"gaia.fits has no column 'pm_RA' \(do you mean 'pmRA'"):
        ingest(
            _matched(tmp_path / "gaia.fits", **{"epoch": 2016.0, key: "pm_RA"}),
            [image],
            tmp_path / "s.zarr",
        )


def test_match__one_motion_without_the_other_is_an_error(tmp_path):
    Table({"ra": [10.0], "dec": [-5.0], "pmra": [1.0]}).write(tmp_path / "gaia.fits")
    image = write_exposure(tmp_path, "e1", [1])
    with pytest.raises(InputError, match=r"gaia.fits has no column 'pmdec' .*'PMDEC' \(do you"):
        ingest(_matched(tmp_path / "gaia.fits", epoch=2016.0), [image], tmp_path / "s.zarr")


def test_match__motions_need_the_time_of_the_exposure():
    one = np.ones(1)
    stars = StarList(
        name="list.fits", ra=one, dec=one, pm_ra=one, pm_dec=one, epoch=2016 * one,
        identity=np.ones(1, int),
    )  # fmt: skip
    with pytest.raises(InputError, match="the time of the exposure is unknown: give the recipe"):
        stars.match(one, one, mjd=float("nan"), radius=1.0)


def test_recipe__galaxies_are_not_chosen_by_the_stellar_locus():
    recipe = images_recipe()
    galaxies = recipe["stars"] | {"select": {"size_magnitude": "auto"}}
    with pytest.raises(ValueError, match="match and size_magnitude choose stars"):
        make_survey(recipe | {"galaxies": galaxies})
