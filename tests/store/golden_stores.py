"""The golden stores of earlier schema versions, unpacked where a test wants them."""

from __future__ import annotations

import tarfile
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
VERSIONS = sorted(int(path.name[8:-7]) for path in FOLDER.glob("version-*.tar.xz"))


def unpack(version: int, folder: Path) -> Path:
    """Unpack ``survey.zarr``, ``run.zarr``, ``model.zarr`` and ``toy.yaml`` into `folder`."""
    with tarfile.open(FOLDER / f"version-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder
