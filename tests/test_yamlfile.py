from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from psfscale.errors import ConfigError
from psfscale.yamlfile import read_yaml, replace_values, validate

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
    with pytest.raises(ConfigError, match="is not readable YAML"):
        read_yaml(written(tmp_path, "a: " + "[" * 5000), Anything)


def test_yaml__references_are_left_as_they_are(tmp_path: Path) -> None:
    found = read_yaml(written(tmp_path, "a: ${b}${b}"), Anything)
    assert found.a == "${b}${b}"


def test_yaml__aliases_in_reason_are_read(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "a: [&x {y: 1}, *x]"), Anything).a == [{"y": 1}, {"y": 1}]


def test_yaml__numbers_dates_and_words_are_read_as_written(tmp_path: Path) -> None:
    text = "a: [1e-3, 1.5E+3, .5, -2., 1_000, .inf, 2026-01-02, 1e-3x, 0x10, no, '1e3']"
    found = read_yaml(written(tmp_path, text), Anything).a
    numbers = [0.001, 1500.0, 0.5, -2.0, 1000, float("inf")]
    assert found == [*numbers, "2026-01-02", "1e-3x", 16, False, "1e3"]


def test_yaml__key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key b is given twice"):
        read_yaml(written(tmp_path, "a: {b: 1, c: 2, b: 3}"), Anything)
    merged = read_yaml(written(tmp_path, "a: [&x {b: 1}, {<<: *x, b: 2}]"), Anything)
    assert merged.a == [{"b": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("b=1e-2", {"b": 0.01, "c": [{"d": 1}, {"d": 2}]}),
        ("b.e=1", {"b": {"e": 1}, "c": [{"d": 1}, {"d": 2}]}),
        ("c.1.d=x=y", {"b": None, "c": [{"d": 1}, {"d": "x=y"}]}),
        ("c.0={f: [3]}", {"b": None, "c": [{"d": 1, "f": [3]}, {"d": 2}]}),
        ("c=[]", {"b": None, "c": []}),
        ("b=", {"b": None, "c": [{"d": 1}, {"d": 2}]}),
        ("7.b=1", {"b": None, "c": [{"d": 1}, {"d": 2}], "7": {"b": 1}}),
    ],
)
def test_replaced_value__leaves_all_else(item: str, expected: object) -> None:
    tree = {"b": None, "c": [{"d": 1}, {"d": 2}]}
    assert replace_values(tree, [item]) == expected
    assert tree == {"b": None, "c": [{"d": 1}, {"d": 2}]}
    assert replace_values({7: {"b": 0}}, ["7.b=1"]) == {7: {"b": 1}}


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("b", "expected key=value, got 'b'"),
        ("=1", "expected key=value"),
        ("c.2.d=1", "'2' is no place in a list of 2, counted from 0"),
        ("c.d=1", "'d' is no place in a list of 2"),
        ("b=[1", "the value of 'b=.1' is not readable YAML"),
    ],
)
def test_replaced_value__that_cannot_be_placed_is_refused(item: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        replace_values({"c": [{"d": 1}, {"d": 2}]}, [item])


class Inner(BaseModel, extra="forbid"):
    depth: int = 1
    width: int = 1


class Square(BaseModel, extra="forbid"):
    kind: Literal["square"]
    side: float = 1.0


class Circle(BaseModel, extra="forbid"):
    kind: Literal["circle"]
    radius: float = 1.0


class Outer(BaseModel, extra="forbid"):
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()
    shape: Annotated[Square | Circle, Field(discriminator="kind")] | None = None


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (
            {"iner": {}},
            "iner: there is no such key (do you mean 'inner'?); known: inner, many, shape",
        ),
        ({"inner": {"widht": 2}}, "inner.widht: there is no such key (do you mean 'width'?); "
         "known: width, depth"),
        ({"many": [{}, {"q": 2}]}, "many.1.q: there is no such key; known: depth, width"),
        ({"shape": {"kind": "circle", "radios": 2}}, "mean 'radius'?); known: radius, kind"),
    ],
)  # fmt: skip
def test_validate__lists_the_keys_where_one_is_unknown(raw: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        validate(raw, Outer, name="it")
