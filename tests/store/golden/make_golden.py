"""Make the golden stores of this version of the schema: ``python make_golden.py FOLDER``.

The archive of each version was made by the code of its time and is read by the tests for ever;
one that is there is never made again. It holds ``toy.yaml``, ``survey.zarr``, ``run.zarr`` and
``model.zarr``: 2 exposures of 2 CCDs, with stars of both roles, galaxies, several flags, fields
of RCA, PSFs at galaxies, restored galaxies, metrics, tables and one CCD that failed. The run
names its survey by a relative path: read it from the folder of both.
"""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "pipeline"))

import toy

from psfscale.arrays import ObjectFlag, Role
from psfscale.pipeline import aggregate_run, open_run, run
from psfscale.store.saved_models import save_model
from psfscale.store.stores import open_root
from psfscale.store.versions import SCHEMA_VERSION


def complete_survey(path: Path) -> None:
    """Ids, places in the sky and flags, which the toy survey leaves out."""
    root = open_root(path, mode="r+")
    for group in ("stars", "galaxies"):
        role = root[f"{group}/role"][...]
        number = np.arange(role.size).reshape(role.shape)
        there = role != Role.EMPTY
        root[f"{group}/id"][...] = np.where(there, 1000 + number, 0)
        root[f"{group}/ra"][...] = np.where(there, 150 + 1e-3 * number, np.nan)
        root[f"{group}/dec"][...] = np.where(there, 2 - 1e-3 * number, np.nan)
        root[f"{group}/flux"][...] = np.where(there, 1e3, np.nan)
        flags = np.where(number % 5 == 1, int(ObjectFlag.SATURATED | ObjectFlag.EDGE), 0)
        root[f"{group}/flags"][...] = np.where(there, flags, 0)


def make(folder: Path) -> None:
    os.chdir(folder)
    here = Path()
    toy.write_instrument(here)
    toy.make_survey(here / "survey.zarr", 2)
    complete_survey(here / "survey.zarr")
    toy.spoil_ccd(here / "survey.zarr", 1, 1, how="few")
    config = toy.make_config(
        here,
        model={"name": "rca", "settings": {"n_components": 2, "upsampling": 1}},
        restore={
            "at_galaxies": True,
            "learn_exposures": 1,
            "settings": {"learnt": {"n_rounds": 1, "fast": True}},
        },
    )
    run(config, serial=True, observers=[])
    aggregate_run(config.output)
    save_model(open_run(config.output).model(exposure="exp-0", ccd=1), here / "model.zarr")


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    archive = Path(__file__).resolve().parent / f"version-{SCHEMA_VERSION}.tar.xz"
    if archive.exists():
        sys.exit(f"{archive} is there; a golden store is never made again")
    make(out)
    with tarfile.open(archive, "w:xz") as tar:
        for name in ("toy.yaml", "survey.zarr", "run.zarr", "model.zarr"):
            tar.add(out / name, arcname=name)
