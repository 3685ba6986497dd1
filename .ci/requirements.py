"""Print what pyproject.toml requires, one requirement a line, torch left out.

Torch is several gigabytes from a registry; the tests that need none are marked ``not torch``.

usage: requirements.py [--lowest] [EXTRA ...]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def main(arguments: list[str]) -> None:
    """Print the requirements of the package and of the extras among `arguments`."""
    lowest = "--lowest" in arguments
    extras = [name for name in arguments if not name.startswith("--")]
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    stated = list(project["dependencies"])
    for extra in extras:
        stated += project["optional-dependencies"][extra]
    for requirement in stated:
        if not requirement.startswith("torch>"):
            sys.stdout.write(requirement.replace(">=", "==") if lowest else requirement)
            sys.stdout.write("\n")


main(sys.argv[1:])
