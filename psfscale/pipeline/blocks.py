"""Surveys in blocks: one survey store and one run store a block, and an index over them.

Blocks need nothing of one another, so several drivers, each with a cluster of its own, may work
on one index: a block that another driver holds is passed by.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from psfscale.errors import ConfigError, InputError, StoreError
from psfscale.pipeline.launch import run
from psfscale.pipeline.ledger.lease import read_holder
from psfscale.pipeline.plan import plan_run
from psfscale.store.layout import open_root
from psfscale.yamlfile import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psfscale.config import RunConfig
    from psfscale.pipeline.launch import RunSummary
    from psfscale.pipeline.plan import Plan

SUFFIXES = (".yaml", ".yml")


class _IndexFile(BaseModel):
    """An index: the survey stores of a survey, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: tuple[Path, ...] = Field(
        min_length=1, description="survey stores; relative paths are to the folder of the index"
    )


@dataclass(frozen=True, kw_only=True)
class BlocksSummary:
    """What became of every block.

    Attributes
    ----------
    ended : how its run ended, by name, of the blocks that this driver ran
    held : who holds it, by name, of the blocks that another driver runs
    """

    ended: dict[str, RunSummary]
    held: dict[str, str]

    @property
    def exit_code(self) -> int:
        """The largest of the blocks'; 128 and a signal's number where one interrupted."""
        return max((summary.exit_code for summary in self.ended.values()), default=0)

    def __str__(self) -> str:
        lines = [f"{name}: {summary}" for name, summary in self.ended.items()]
        lines += [f"{name}: held by another driver ({who})" for name, who in self.held.items()]
        return "\n".join(lines)


def is_index(survey: Path) -> bool:
    """Whether a run's survey is an index of blocks, not a store."""
    return survey.suffix in SUFFIXES


def write_index(path: Path, blocks: Sequence[Path]) -> None:
    """Write an index of survey stores.

    Raises
    ------
    InputError
        Its name does not end in .yaml, or two blocks have one name or share an exposure.
    StoreError
        A block is no store.
    """
    if not is_index(path):
        msg = f"an index ends in .yaml, got {path.name}"
        raise InputError(msg)
    owner: dict[str, Path] = {}
    for block in blocks:
        ids: Any = open_root(block)["exposures/id"]
        for identity in ids[...].tolist():
            if identity in owner:
                msg = f"exposure {identity} is in {owner[identity]} and in {block}"
                raise InputError(msg)
            owner[identity] = block
    _require_names(blocks)
    here = path.resolve().parent
    listed = [_from(here, block.resolve()) for block in blocks]
    path.write_text(yaml.safe_dump({"blocks": listed}, sort_keys=False))


def configs(config: RunConfig) -> dict[str, RunConfig]:
    """The run of every block, by name; its output lies in the folder `config.output`.

    Raises
    ------
    ConfigError
        The index is missing or wrong.
    """
    folder = config.survey.resolve().parent
    blocks = [folder / block for block in read_yaml(config.survey, _IndexFile).blocks]
    _require_names(blocks)
    return {
        block.stem: config.model_copy(
            update={"survey": block, "output": config.output / f"{block.stem}.zarr"}
        )
        for block in blocks
    }


def run_stores(path: Path) -> list[Path]:
    """The run store at `path`, or those of the folder of a run in blocks.

    Raises
    ------
    StoreError
        There is neither.
    """
    if (path / "zarr.json").is_file():
        return [path]
    found = sorted(store for store in path.glob("*.zarr") if (store / "zarr.json").is_file())
    if not found:
        msg = f"no run store at {path}, and no folder of run stores"
        raise StoreError(msg)
    return found


def plan_blocks(config: RunConfig, *, retry_failed: bool = False) -> Iterator[tuple[str, Plan]]:
    """What a run of every block would do now."""
    for name, block in configs(config).items():
        yield name, plan_run(block, retry_failed=retry_failed)


def run_blocks(config: RunConfig, **options: Any) -> BlocksSummary:
    """Run block after block, but for those that another driver holds.

    Parameters
    ----------
    config : whose `survey` is an index and whose `output` is a folder
    **options : of `psfscale.pipeline.run`

    Raises
    ------
    ConfigError
        The index is missing or wrong.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    summary = BlocksSummary(ended={}, held={})
    for name, block in configs(config).items():
        holder = read_holder(block.output)
        if holder is not None and holder.state == "running":
            summary.held[name] = f"host {holder.host}, process {holder.pid}"
            continue
        ended = run(block, **options)
        summary.ended[name] = ended
        if ended.signal is not None:
            break
    return summary


def _require_names(blocks: Sequence[Path]) -> None:
    names = [block.stem for block in blocks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"blocks need names of their own, since their runs bear them; twice: {twice}"
        raise ConfigError(msg)


def _from(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
