"""Scripts that start work as they are imported, which their worker processes do.

Python starts worker processes by importing the script anew. Without ``if __name__ == "__main__":``
around the call, each of them would start the same work again.
"""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["end_if_imported_again", "missing_guard"]

UNGUARDED = 78
"""Exit code of a worker process that was about to start its parent's work again."""
PARENT, CHILD = "__main__", "__mp_main__"
"""Names of a script's module, in the process that was started with it and in its workers."""


def end_if_imported_again() -> None:
    """End this process if it is a worker that imports its parent's script; the parent says why."""
    if _script_frame(CHILD) is not None:
        os._exit(UNGUARDED)


def missing_guard() -> str:
    """Return a sentence on a script that calls this without the guard; empty where none does."""
    frame = _script_frame(PARENT)
    if frame is None:
        return ""
    path, line = Path(frame.f_code.co_filename), frame.f_lineno
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # of an interactive session, or not Python
        return ""
    if any(_guards(node, line) for node in tree.body):
        return ""
    return (
        f'; {path}, line {line}, starts this outside of `if __name__ == "__main__":`, and worker '
        "processes, which import the script, would start it again: put the call under that line"
    )


def _script_frame(name: str) -> FrameType | None:
    """Return the frame of a script's own lines, among those that called this."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == name:
            return frame
        frame = frame.f_back
    return None


def _guards(node: ast.stmt, line: int) -> bool:
    """Whether a statement is an ``if`` on the module's name that holds a line."""
    return (
        isinstance(node, ast.If)
        and node.lineno <= line <= (node.end_lineno or 0)
        and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
    )
