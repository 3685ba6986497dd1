"""YAML files that a user writes, read into frozen pydantic models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from psfscale.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

M = TypeVar("M", bound=BaseModel)


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
        tree = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        raw = OmegaConf.to_container(tree, resolve=True)
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        msg = f"{path} is not a readable YAML file: {error}"
        raise ConfigError(msg) from error
    return validate(raw, model, name=str(path))


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
