"""YAML files that a user writes, read into frozen pydantic models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, RootModel, ValidationError
from yaml import MappingNode, Node, SafeLoader, SequenceNode, YAMLError
from yaml.constructor import ConstructorError

from psfscale.errors import ConfigError
from psfscale.names import by_nearness, nearest

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

M = TypeVar("M", bound=BaseModel)
_LARGEST = 20_000_000
_MOST_VALUES = 1_000_000
_TAG = "tag:yaml.org,2002:"


class _Loader(SafeLoader):
    """Loader of YAML in which `1e-3` is a number, a date is text, and a key comes once."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping; raise where a key is given twice."""
        names = [key.value for key, _ in node.value if key.tag != f"{_TAG}merge"]
        twice = {str(name) for name in names if names.count(name) > 1}
        if twice:
            msg = f"the key {', '.join(sorted(twice))} is given twice"
            raise ConstructorError(None, None, msg, node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (f"{_TAG}timestamp", f"{_TAG}float")]
    for first, pairs in SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+"
        r"|\.\d[\d_]*([eE][-+]?\d+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read_yaml(path: Path | str, model: type[M], *, overrides: Sequence[str] = ()) -> M:
    """Read a YAML file into `model`.

    Parameters
    ----------
    path : of the file
    model : pydantic model that describes and checks it
    overrides : ``key.sub=value`` items that replace values of the file, see `replace_values`

    Raises
    ------
    ConfigError
        The file is missing or not YAML, or a key is unknown, missing or of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no such file: {path}"
        raise ConfigError(msg)
    if path.stat().st_size > _LARGEST:
        msg = f"{path} is larger than {_LARGEST // 10**6} MB, which no survey or run file is"
        raise ConfigError(msg)
    with path.open(encoding="utf-8") as file:
        tree = _load(file, str(path))
    return validate(replace_values(tree, overrides), model, name=str(path))


def replace_values(tree: Any, items: Sequence[str]) -> Any:
    """Return a tree of mappings and lists in which ``key.sub=value`` items replace values.

    A mapping as the value is merged into the one that is there; the key of a list's entry is its
    place, from 0 (``models.0.name=rca``). The tree given is not changed.

    Raises
    ------
    ConfigError
        An item has no ``=``, its value is not YAML, or its key names no entry of a list.
    """
    tree = {} if tree is None else tree
    for item in items:
        key, equals, text = item.partition("=")
        if not (key and equals):
            msg = f"expected key=value, got {item!r}"
            raise ConfigError(msg)
        tree = _replaced(tree, key.split("."), _load(text, f"the value of {item!r}"), item)
    return tree


def _replaced(tree: Any, keys: Sequence[str], value: Any, item: str) -> Any:
    if not keys:
        if not (isinstance(tree, dict) and isinstance(value, dict)):
            return value
        merged = {name: _replaced(tree.get(name), (), new, item) for name, new in value.items()}
        return {**tree, **merged}
    first, *rest = keys
    if isinstance(tree, list):
        if not (first.isdecimal() and int(first) < len(tree)):
            msg = f"{item!r}: {first!r} is no place in a list of {len(tree)}, counted from 0"
            raise ConfigError(msg)
        entry = _replaced(tree[int(first)], rest, value, item)
        return [*tree[: int(first)], entry, *tree[int(first) + 1 :]]
    known = tree if isinstance(tree, dict) else {}
    name = next((known_name for known_name in known if str(known_name) == first), first)
    return {**known, name: _replaced(known.get(name), rest, value, item)}


def _load(source: IO[str] | str, name: str) -> Any:
    """Return the content of YAML, of at most a million values with its aliases written out.

    Raises
    ------
    ConfigError
        It is not YAML or has more values, or an alias holds itself.
    """
    try:
        loader = _Loader(source)
        root = loader.get_single_node()
        n_values = 0 if root is None else _size(root, {})
        bounded = root is not None and n_values <= _MOST_VALUES
        content = loader.construct_document(root) if bounded else None
    except (YAMLError, ValueError, RecursionError) as error:
        msg = f"{name} is not readable YAML: {error}"
        raise ConfigError(msg) from error
    if n_values > _MOST_VALUES:
        msg = f"{name} unfolds to more than {_MOST_VALUES:,} values: its aliases repeat each other"
        raise ConfigError(msg)
    return content


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
    """Return `raw` as a `model`.

    Raises
    ------
    ConfigError
        A key is unknown, missing or of the wrong kind; each is named, and the known keys where one
        is unknown, the nearest first.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_fault(item, model) for item in error.errors()]
        raise ConfigError("\n".join([f"{name} is not valid:", *lines])) from error


def with_options(base: M, options: Mapping[str, Any], *, name: str) -> M:
    """Return settings with single ones replaced.

    Raises
    ------
    ConfigError
        An option is unknown or its value is wrong.
    """
    return validate({**base.model_dump(), **options}, type(base), name=name)


def _fault(item: Any, model: type[BaseModel]) -> str:
    """One fault of a validation as a line."""
    place = [str(part) for part in item["loc"]]
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, place[:-1])
        listed = ", ".join(by_nearness(place[-1], known))
        message = f"there is no such key{nearest(place[-1], known)}; known: {listed}"
    return f"  {'.'.join(place)}: {message}" if place else f"  {message}"


def _keys_at(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    """Return the keys that a model knows at a place in it."""
    models = _models_in(model)
    for part in place:
        fields = [kind.model_fields[part] for kind in models if part in kind.model_fields]
        if fields:
            models = [kind for field in fields for kind in _models_in(field.annotation)]
        elif not part.isdecimal():  # of a union: the tag, or the name of the class
            models = [kind for kind in models if _is_tagged(kind, part)] or models
    return list(dict.fromkeys(key for kind in models for key in kind.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, RootModel):
        return _models_in(annotation.model_fields["root"].annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _models_in(part)]


def _is_tagged(kind: type[BaseModel], tag: str) -> bool:
    tags = (get_args(field.annotation) for field in kind.model_fields.values())
    return kind.__name__ == tag or any(tag in known for known in tags)
