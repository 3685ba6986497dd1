"""An index: the stores of a survey, or of a run, that was cut into blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from psfscale.errors import ConfigError, InputError, StoreError
from psfscale.files import require_new, require_place, write_whole
from psfscale.store.stores import open_root
from psfscale.store.survey_instrument import require_survey_store
from psfscale.yamlfile import read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIXES = (".yaml", ".yml")
INDEX = "index.yaml"
"""In the folder of a run in blocks: its run stores in order, those not begun too."""


class _IndexFile(BaseModel):
    """An index: the survey stores of a survey, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: tuple[Path, ...] = Field(
        min_length=1, description="stores; relative paths are to the folder of the index"
    )


def is_index(survey: Path) -> bool:
    """Whether a path is that of an index, by its name."""
    return survey.suffix in SUFFIXES


def read_index(path: Path) -> list[Path]:
    """The stores of an index, in order.

    Raises
    ------
    ConfigError
        The index is missing or wrong, or two blocks have one name.
    """
    folder = path.resolve().parent
    blocks = [folder / block for block in read_yaml(path, _IndexFile).blocks]
    _require_names(blocks)
    return blocks


def write_index(path: Path, blocks: Sequence[Path], *, overwrite: bool = False) -> None:
    """Write an index of survey stores.

    Parameters
    ----------
    path : of the index
    blocks : stores
    overwrite : whether an index that lies at `path` is replaced

    Raises
    ------
    InputError
        Its name does not end in .yaml, it cannot be written, or two blocks share an exposure.
    ConfigError
        Two blocks have one name.
    StoreError
        A block is no survey store, or something lies at `path` and `overwrite` is False, or it is
        no index.
    """
    if not is_index(path):
        msg = f"an index ends in .yaml, got {path}"
        raise InputError(msg)
    require_place(path)
    require_new(path, overwrite=overwrite)
    if path.exists() and not _holds_index(path):
        msg = f"{path} holds no index: --overwrite replaces an index alone, remove it yourself"
        raise StoreError(msg)
    owner: dict[str, Path] = {}
    for block in blocks:
        for identity in exposures_of(block):
            if identity in owner:
                msg = f"exposure {identity} is in {owner[identity]} and in {block}"
                raise InputError(msg)
            owner[identity] = block
    _require_names(blocks)
    list_stores(path, blocks)


def list_stores(path: Path, stores: Sequence[Path]) -> None:
    """Write an index of these stores, there or not, in one step."""
    here = path.resolve().parent
    text = yaml.safe_dump(
        {"blocks": [_from(here, store.resolve()) for store in stores]}, sort_keys=False
    )
    with write_whole(path) as partial:
        partial.write_text(text)


def _holds_index(path: Path) -> bool:
    try:
        read_index(path)
    except ConfigError:
        return False
    return True


def run_stores(path: Path) -> list[Path]:
    """Return the run store at `path`, or those of the folder of a run in blocks, in its order.

    Raises
    ------
    StoreError
        There is neither.
    """
    if (path / "zarr.json").is_file():
        return [path]
    listed = read_index(path / INDEX) if (path / INDEX).is_file() else sorted(path.glob("*.zarr"))
    stores = [store for store in listed if (store / "zarr.json").is_file()]
    if not stores:
        msg = f"no run store at {path}, and no folder of run stores"
        raise StoreError(msg)
    return stores


def exposures_of(store: Path) -> list[str]:
    """Ids of the exposures of a survey store, in their order.

    Raises
    ------
    StoreError
        There is no store, or it is not of a survey.
    """
    root = open_root(store)
    require_survey_store(root, store)
    ids: Any = root["exposures/id"]
    return [str(identity) for identity in ids[...].tolist() if identity]


def _require_names(blocks: Sequence[Path]) -> None:
    names = [block.stem for block in blocks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"blocks need names of their own, since their runs bear them; twice: {twice}"
        raise ConfigError(msg)


def _from(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
