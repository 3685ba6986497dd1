"""YAML files that a user writes, read into frozen pydantic models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import MappingNode, Node, SafeLoader, SequenceNode, YAMLError, compose

from psfscale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

M = TypeVar("M", bound=BaseModel)
_LARGEST = 20_000_000
_MOST_VALUES = 1_000_000


def read_yaml(path: Path | str, model: type[M], *, overrides: Sequence[str] = ()) -> M:
    """Read a YAML file into `model`.

    Parameters
    ----------
    path : of the file
    model : pydantic model that describes and checks it
    overrides : ``key.sub=value`` items laid over the file

    Raises
    ------
    ConfigError
        The file is missing or not YAML, or a key is unknown, missing or of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no such file: {path}"
        raise ConfigError(msg)
    try:
        _require_bounded(path)
        tree = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        raw = OmegaConf.to_container(tree)  # unresolved: references can double without end too
    except ConfigError:
        raise
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        msg = f"{path} is not a readable YAML file: {error}"
        raise ConfigError(msg) from error
    return validate(raw, model, name=str(path))


def _require_bounded(path: Path) -> None:
    """Refuse a file of more than a million values, written out or by aliases of aliases.

    Raises
    ------
    ConfigError
        It has more, or an alias that holds itself.
    """
    if path.stat().st_size > _LARGEST:
        msg = f"{path} is larger than {_LARGEST // 10**6} MB, which no survey or run file is"
        raise ConfigError(msg)
    with path.open(encoding="utf-8") as file:
        root = compose(file, Loader=SafeLoader)
    if root is not None and _size(root, {}) > _MOST_VALUES:
        msg = f"{path} unfolds to more than {_MOST_VALUES:,} values: its aliases repeat each other"
        raise ConfigError(msg)


def _size(node: Node, known: dict[int, float]) -> float:
    """Values of a node with all aliases written out; infinite where it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # what asks for it before it is known lies within it
        children: list[Node] = []
        if isinstance(node, MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def validate(raw: object, model: type[M], *, name: str) -> M:
    """`raw` as a `model`; what is wrong with it is told key by key, under `name`.

    Raises
    ------
    ConfigError
        A key is unknown, missing or of the wrong kind.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in item['loc'])}: "
            f"{item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise ConfigError("\n".join([f"{name} is not valid:", *lines])) from error
