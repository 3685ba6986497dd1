"""Doubts about catalogues whose positions are wrong, from FITS files to the end of a run."""

from __future__ import annotations

import numpy as np
import pytest
import toy
from astropy.io import fits
from astropy.table import Table

from psfscale.arrays import UnitState
from psfscale.ingest import ingest
from psfscale.pipeline import open_run, run
from psfscale.survey import Survey

SIDE, STAMP, NOISE = 300, 15, 5.0


def place(seed: int, n: int = 40, high: float = SIDE - 20) -> np.ndarray:
    """x and y (2, star) [pixel], no star within the stamp of another or of its mirror image."""
    rng = np.random.default_rng(seed)
    places = rng.uniform([20, 20], [high, SIDE - 20], (20000, 2))
    chosen = np.empty((0, 2))
    for one in places:
        both = np.concatenate([chosen, chosen[:, ::-1], one[None, ::-1]])
        if len(chosen) < n and (np.abs(both - one).max(axis=1) > STAMP).all():
            chosen = np.concatenate([chosen, one[None]])
    assert len(chosen) == n
    return chosen.T


def draw(x: np.ndarray, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(0, NOISE, shape)
    for one, other in zip(x, y, strict=True):
        image += 400 * np.exp(-((columns - one) ** 2 + (rows - other) ** 2) / (2 * 1.5**2))
    return image.astype(np.float32)


def write_files(folder, x, y, *, columns: int):
    """An exposure of one CCD of 300 rows, and its catalogue, as SExtractor counts pixels."""
    image = fits.ImageHDU(draw(x, y, (SIDE, columns)), name="SCI")
    image.header["CCDNUM"] = 1
    primary = fits.PrimaryHDU()
    primary.header["EXPOSURE"] = "one"
    fits.HDUList([primary, image]).writeto(folder / "one.fits")
    Table({"X": x + 1, "Y": y + 1}).write(folder / "one_stars.fits")
    return folder / "one.fits"


def write_ldac(folder, x, y):
    """The same as SExtractor writes it with stamps."""
    image = draw(x, y, (SIDE, SIDE))
    at = np.floor(np.stack([y, x]) + 0.5).astype(int) - STAMP // 2
    stamps = np.stack([image[i : i + STAMP, j : j + STAMP] for i, j in at.T])
    cards = fits.Header([("EXPOSURE", "one"), ("CCDNUM", 1)]).tostring(padding=False)
    text = fits.Column("Field Header Card", f"{len(cards)}A", array=[cards])
    head = fits.BinTableHDU.from_columns([text], name="LDAC_IMHEAD")
    table = fits.BinTableHDU(Table({"X": x + 1, "Y": y + 1, "VIGNET": stamps}), name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), head, table]).writeto(folder / "one.cat")
    return folder / "one.cat"


def recipe(form: str, columns: dict[str, str], origin: int = 1) -> dict[str, object]:
    objects: dict[str, object] = {"columns": columns, "origin": origin}
    if form == "images":
        objects |= {"path": "{directory}/{stem}_stars.fits", "stamp_size": STAMP}
    beside = {"background": {"kind": "subtracted"}} if form == "images" else {}
    return {
        "format": form, "exposure": {"card": "EXPOSURE"}, "ccd": {"card": "CCDNUM"},
        "ccds_may_be_absent": True, "unit": "electron", "stars": objects, **beside,
    }  # fmt: skip


def doubts_of(folder, path, ingest_recipe, *, columns: int = SIDE) -> str:
    """Ingest a file, run, and return what is doubtful about its CCD, or why it has no PSF."""
    instrument = toy.INSTRUMENT["instrument"]
    detector = instrument["detector"] | {"rows": SIDE, "columns": columns}
    survey = Survey.model_validate(
        {"name": "toy", "instrument": instrument | {"detector": detector}, "ingest": ingest_recipe}
    )
    ingest(survey, [path], folder / "survey.zarr")
    settings = dict.fromkeys(("hang_below_flux", "hog_below_flux", "kill_below_flux"), -1e9)
    unmet = {"mean_star_excess": None, "chi2_maximum": None}  # the mean star knows no shift
    config = toy.make_config(folder, instrument=None, model={"settings": settings}, quality=unmet)
    summary = run(config, serial=True, observers=[])
    state = open_run(folder / "run.zarr")["ccds/state"].sel(stage="fit")[0, 0]
    assert (state == UnitState.DOUBTFUL) == bool(summary.doubts)
    return "; ".join(str(one) for one in (*summary.doubts, *summary.failures))


RIGHT, SWAPPED = {"x": "X", "y": "Y"}, {"x": "Y", "y": "X"}


def test_run__of_right_catalogues_doubts_nothing(tmp_path, mean_model) -> None:
    x, y = place(1)
    assert doubts_of(tmp_path, write_ldac(tmp_path, x, y), recipe("ldac", RIGHT)) == ""


def test_run__of_swapped_columns_on_a_square_ccd_says_so(tmp_path, mean_model) -> None:
    x, y = place(2)
    told = doubts_of(tmp_path, write_files(tmp_path, x, y, columns=SIDE), recipe("images", SWAPPED))
    assert "have no star in their centre" in told
    assert "are x and y swapped" in told


def test_run__of_swapped_columns_on_an_oblong_ccd_says_so(tmp_path, mean_model) -> None:
    x, y = place(3, n=20, high=130)
    path = write_files(tmp_path, x, y, columns=150)
    told = doubts_of(tmp_path, path, recipe("images", SWAPPED), columns=150)
    assert "objects of the catalogue lie outside the CCD" in told
    assert "are x and y swapped" in told


def test_run__of_swapped_columns_beside_stamps_says_so(tmp_path, mean_model) -> None:
    x, y = place(4)
    told = doubts_of(tmp_path, write_ldac(tmp_path, x, y), recipe("ldac", SWAPPED))
    assert "is doubtful: within their pixels" in told
    assert "are x and y swapped" in told


@pytest.mark.parametrize("origin", [0, 1])
def test_run__of_the_wrong_origin_asks_for_it(tmp_path, mean_model, origin) -> None:
    x, y = place(5)
    path = write_files(tmp_path, x, y, columns=SIDE)
    table = Table({"X": x + origin, "Y": y + origin})
    table.write(tmp_path / "one_stars.fits", overwrite=True)
    told = doubts_of(tmp_path, path, recipe("images", RIGHT, origin=1 - origin))
    assert "is the origin of the catalogue 1 or 0, are x and y swapped" in told
