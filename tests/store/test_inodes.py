"""How many files and folders a store costs: a survey of 40,000 exposures must fit a file system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

import toy

from psfscale.store.schema import RUN_SCHEMA, SURVEY_SCHEMA
from psfscale.store.stores import create_store, open_root

SIZES = {"ccd": 2, "star": 16, "galaxy": 16, "stage": 1, "reason": 1, "prior.sum": 3}
STAMPS = [f"{kind}_{axis}" for kind in ("stamp", "psf", "restored") for axis in "yx"]


def inodes(store: Path) -> tuple[int, int]:
    """Files and folders below a store."""
    below = [path.is_dir() for path in store.rglob("*")]
    return below.count(False), below.count(True)


@pytest.mark.parametrize("schema", [SURVEY_SCHEMA, RUN_SCHEMA])
def test_array_by_ccd__costs_one_file_a_ccd_and_no_folder(tmp_path, schema) -> None:
    specs = [spec for spec in schema if spec.owner == "ccd"]
    sizes = SIZES | {"exposure": 3} | dict.fromkeys(STAMPS, 4)
    create_store(tmp_path / "s.zarr", specs, sizes=sizes, attributes={})
    root = open_root(tmp_path / "s.zarr", mode="r+")
    before = inodes(tmp_path / "s.zarr")
    for spec in specs:
        root[spec.path][...] = 1
    files, folders = inodes(tmp_path / "s.zarr")
    assert (files - before[0], folders - before[1]) == (len(specs) * 3 * SIZES["ccd"], 0)


def test_exposure_of_a_survey__costs_the_stamps_of_its_ccds_and_few_files_more(tmp_path) -> None:
    one, three = (toy.make_survey(tmp_path / f"{n}.zarr", n) for n in (1, 3))
    files, folders = (b - a for a, b in zip(inodes(one), inodes(three), strict=True))
    stamps = sum(spec.owner == "ccd" for spec in SURVEY_SCHEMA) * toy.N_CCDS
    columns = sum(spec.owner == "exposure" for spec in SURVEY_SCHEMA)
    assert folders == 0
    assert files <= 2 * (stamps + columns)
