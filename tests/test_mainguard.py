"""Scripts without the guard that Python's worker processes need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIMULATE = """
from pathlib import Path
from psfscale.simulate import simulate
from psfscale.survey import load_survey
{guard}simulate(load_survey({survey!r}), Path({output!r}), exposures=2, ccds=1, workers=2)
"""
SURVEY = str(Path(__file__).parent.parent / "catalogs/toy.yaml")
GUARDS = {
    "": False,
    'if __name__ == "__main__": ': True,
    'if "main" in __name__ and __name__ != "__mp_main__": ': True,
}


@pytest.mark.parametrize("guard", GUARDS)
def test_script__without_the_guard_is_told_what_is_missing(tmp_path, guard) -> None:
    script = tmp_path / "script.py"
    script.write_text(SIMULATE.format(guard=guard, survey=SURVEY, output=str(tmp_path / "sky")))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is GUARDS[guard], done.stderr
    if not GUARDS[guard]:
        told = done.stderr.splitlines()[-1]
        assert told.startswith("psfscale.errors.RunError: "), done.stderr
        assert f'{script}, line 5, starts this outside of `if __name__ == "__main__":`' in told
        assert "out of memory" not in told
        assert "bootstrapping" not in done.stderr
