"""The measures of the house: circles of imports, names, docstrings, comments, twins, lines.

    python tests/house.py            the table
    python tests/house.py --list     what stands behind each figure

Imports count wherever they stand: under ``TYPE_CHECKING`` and inside functions too.
"""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "psfscale"
QUESTION = re.compile(r"(What|Of|Whose|Nothing|How|Which|Where|Who)\b")
NO_REASON = re.compile(r"#\s*(noqa|type:|fmt:|pragma|!)")


def sources() -> dict[str, Path]:
    """Return the files of the package by the names of their modules."""
    return {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def trees() -> dict[str, ast.Module]:
    """Return the parsed files of the package by module."""
    return {name: ast.parse(path.read_text()) for name, path in sources().items()}


def imports(tree: ast.Module, modules: Iterable[str]) -> set[str]:
    """Return the modules of the package that a file imports, anywhere in it."""
    known, found = set(modules), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known) or ({node.module} & known)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
    return found


def import_graph() -> nx.DiGraph:
    """Return the graph of imports among files."""
    files = trees()
    graph = nx.DiGraph()
    graph.add_nodes_from(files)
    graph.add_edges_from((a, b) for a, t in files.items() for b in imports(t, files) if a != b)
    return graph


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Return groups of nodes that reach each other, each sorted."""
    found = nx.strongly_connected_components(graph)
    return sorted(sorted(group) for group in found if len(group) > 1)


def room_circles(graph: nx.DiGraph) -> list[list[str]]:
    """Return groups of rooms of the pipeline that reach each other."""
    rooms = nx.DiGraph()
    for edge in graph.edges:
        one, other = (name.split(".")[2] if name.count(".") > 1 else "" for name in edge)
        if all(name.startswith("psfscale.pipeline.") for name in edge) and one != other:
            rooms.add_edge(one, other)
    return circles(rooms)


def class_names() -> dict[str, list[str]]:
    """Return public names of classes that several files define, with the files."""
    places = defaultdict(list)
    for module, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    return {name: found for name, found in places.items() if len(found) > 1}


def file_names() -> dict[str, int]:
    """Return names that several files bear, with how many."""
    names = Counter(path.name for path in sources().values() if path.name != "__init__.py")
    return {name: n for name, n in names.items() if n > 1}


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the docstrings of a file, each with the name of what it describes."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text
        for one, two in pairwise(_body(node)):
            if isinstance(one, ast.Assign | ast.AnnAssign) and _is_text(two):
                yield "constant", two.value.value


def _body(node: ast.AST) -> list[ast.stmt]:
    body = getattr(node, "body", [])
    return body if isinstance(body, list) else []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def questions() -> list[str]:
    """Return docstrings that begin with a word that makes a riddle of what is described."""
    return [
        f"{module}:{name}: {text.splitlines()[0]}"
        for module, tree in trees().items()
        for name, text in docstrings(tree)
        if QUESTION.match(text)
    ]


def comments() -> list[str]:
    """Return comments that give a reason: not those to a tool, and a block counts once."""
    found = []
    for module, path in sources().items():
        latest = -2
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT and not NO_REASON.match(token.string):
                    if token.start[0] != latest + 1:
                        found.append(f"{module}:{token.start[0]}: {token.string}")
                    latest = token.start[0]
    return found


def _calls(matches: Callable[[ast.Call], bool]) -> list[str]:
    found = []
    for module, tree in trees().items():
        functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
        found += [
            f"{module}.{function.name}"
            for function in functions
            if any(isinstance(n, ast.Call) and matches(n) for n in ast.walk(function))
        ]
    return found


def renames() -> list[str]:
    """Return functions that put a file or folder in the place of another in one step.

    Of what one argument renames, that of axes is told apart by a mapping or its name.
    """

    def matches(call: ast.Call) -> bool:
        if not isinstance(call.func, ast.Attribute) or call.keywords:
            return False
        of_os = isinstance(call.func.value, ast.Name) and call.func.value.id == "os"
        wanted = 2 if of_os else 1
        of_axes = call.args and isinstance(call.args[0], ast.Dict | ast.DictComp | ast.Starred)
        named = call.func.attr in ("replace", "rename") and len(call.args) == wanted
        return named and not of_axes

    return _calls(matches)


def conjugate_gradients() -> list[str]:
    """Return functions that iterate conjugate gradients: those with the ratio of two residuals."""
    return [
        f"{module}.{node.name}"
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(n, ast.For | ast.While) for n in ast.walk(node))
        and re.search(r"conjugate.gradient|\bcg\b", ast.unparse(node), re.IGNORECASE)
    ]


def lines() -> int:
    """Return how many lines the package has."""
    return sum(path.read_text().count("\n") for path in sources().values())


def measures() -> Mapping[str, list[str] | int]:
    """Return each measure, with what stands behind it where that can be listed."""
    graph = import_graph()
    rooms = [room for group in room_circles(graph) for room in group]
    return {
        "circles of files": [" ".join(group) for group in circles(graph)],
        "rooms of the pipeline that reach each other": rooms,
        "class names with two meanings": [f"{n}: {p}" for n, p in class_names().items()],
        "file names borne twice or more": [f"{n} {k}" for n, k in file_names().items()],
        "docstrings that begin with a question": questions(),
        "comments that give a reason": comments(),
        "functions that put a file in the place of another": renames(),
        "functions of conjugate gradients": conjugate_gradients(),
        "files": len(sources()),
        "lines": lines(),
    }


def main() -> None:
    """Write the table, and with ``--list`` what it counts."""
    for name, found in measures().items():
        rows = found if isinstance(found, list) else []
        count = found if isinstance(found, int) else len(found)
        listed = [f"           {row}" for row in rows] if "--list" in sys.argv else []
        sys.stdout.write("\n".join([f"{count:7,}  {name}", *listed, ""]))


if __name__ == "__main__":
    main()
