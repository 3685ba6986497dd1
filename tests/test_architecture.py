"""The shape of the house: light imports, short files, docs that agree with the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "psfscale"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "dask", "distributed", "matplotlib", "galsim", "zarr", "xarray", "scipy"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    return {name.partition(".")[0] for name in out.split()}


@pytest.mark.parametrize(
    "statement", ["import psfscale", "import psfscale.cli", "import psfscale.errors"]
)
def test_import__stays_light(statement: str) -> None:
    assert not modules_after(statement) & HEAVY


@pytest.mark.parametrize(
    "module", ["psfscale.models", "psfscale.config", "psfscale.survey", "psfscale.pipeline"]
)
def test_import__of_settings_and_plans_needs_no_torch(module: str) -> None:
    assert not modules_after(f"import {module}") & {"torch", "matplotlib", "distributed"}


@pytest.mark.torch
def test_public_names__all_resolve() -> None:
    import psfscale

    for name in psfscale.__all__:
        assert getattr(psfscale, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        psfscale.nothing  # noqa: B018


@pytest.mark.torch
def test_rooms__of_the_package_are_all_attributes_of_it() -> None:
    rooms = {p.parent.name for p in PACKAGE.glob("*/__init__.py")} | {"arrays", "config", "errors"}
    code = f"import psfscale; print([r for r in {sorted(rooms)} if getattr(psfscale, r).__name__])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == sorted(rooms)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_source_file__has_one_reason_to_change(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 75, node.name


def test_errors__derive_from_a_builtin_and_survive_pickling() -> None:
    import pickle

    from psfscale import errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PsfscaleError)
    ]
    assert len(kinds) >= 7
    for kind in kinds:
        assert pickle.loads(pickle.dumps(kind("why"))).args == ("why",)
        if kind is not errors.PsfscaleError:
            assert len(kind.__mro__) > 4, f"{kind} has no builtin base"


def private_imports(path: Path) -> list[str]:
    """Return modules of zarr, xarray, dask and distributed that `path` imports from inside."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    inside = re.compile(r"^(zarr|xarray|dask|distributed)\.(.*\.)?(core|_\w+)\.")
    return [name for name in names if inside.match(f"{name}.")]


def test_imports__from_inside_other_packages_stand_in_one_place() -> None:
    found = {str(p.relative_to(PACKAGE)): private_imports(p) for p in SOURCES}
    assert {path: names for path, names in found.items() if names} == {
        "store/lazy.py": ["xarray.core.indexing"]
    }


WRITERS = {
    "files.write_whole", "files.write_whole_folder", "ingest.store._create",
    "pipeline.results.tables._write", "pipeline.runs.store.create_run_store",
    "store.renewal._move_in",
}  # fmt: skip
"""Functions that put a file or folder in the place of another; this set may only shrink."""
QUESTIONS = 316


def test_files_and_rooms__never_import_each_other_in_a_circle() -> None:
    graph = house.import_graph()
    assert house.circles(graph) == []
    assert house.room_circles(graph) == []


def test_names__of_classes_mean_one_thing() -> None:
    assert house.class_names() == {}


def test_files__are_put_in_the_place_of_others_by_few_functions() -> None:
    assert {name.removeprefix("psfscale.") for name in house.renames()} <= WRITERS


def test_docstrings__that_ask_a_question_get_fewer() -> None:
    assert len(house.questions()) <= QUESTIONS
