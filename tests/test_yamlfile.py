from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from psfscale.errors import ConfigError
from psfscale.yamlfile import read_yaml

if TYPE_CHECKING:
    from pathlib import Path


class Anything(BaseModel):
    a: object = None


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return path


def test_yaml__that_doubles_without_end_is_refused_before_it_is_unfolded(tmp_path: Path) -> None:
    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 10)}]" for k in range(1, 10)]
    with pytest.raises(ConfigError, match="unfolds to more than 1,000,000 values"):
        read_yaml(written(tmp_path, "\n".join(lines)), Anything)


def test_yaml__that_holds_itself_or_nests_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unfolds to more than"):
        read_yaml(written(tmp_path, "a: &a [*a]"), Anything)
    with pytest.raises(ConfigError, match="is not a readable YAML file"):
        read_yaml(written(tmp_path, "a: " + "[" * 5000), Anything)


def test_yaml__references_are_left_as_they_are(tmp_path: Path) -> None:
    found = read_yaml(written(tmp_path, "a: ${b}${b}"), Anything)
    assert found.a == "${b}${b}"


def test_yaml__aliases_in_reason_are_read(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "a: [&x {y: 1}, *x]"), Anything).a == [{"y": 1}, {"y": 1}]
