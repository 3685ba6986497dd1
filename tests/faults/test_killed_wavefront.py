"""A worker killed in the middle of a real WaveDiff fit: the unit goes on to the same bits."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import toy
import yaml

from psfscale.pipeline import run
from psfscale.pipeline.workers.profiles import LocalProfile

SMALL = {
    "n_zernikes": 6,
    "degree": 0,
    "n_wavelengths": 2,
    "surfaces": False,
    "optics": {"pupil_samples": 64},
}
DEATH = """
import os
import signal
from pathlib import Path

from psfscale.store.checkpoint import CheckpointFile

folder, save = Path(os.environ["DEATH_FOLDER"]), CheckpointFile.save


def die_in_the_next_phase():
    from psfscale.kernels.optics.broadband import BroadbandPsf

    light, calls = BroadbandPsf._light, []

    def dying(self, *args):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return light(self, *args)

    BroadbandPsf._light = dying


def told(self, arrays):
    save(self, arrays)
    with (folder / "phases").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if not (folder / "died").exists():
        (folder / "died").touch()
        die_in_the_next_phase()


CheckpointFile.save = told
"""


@pytest.mark.slow
def test_killed_worker__goes_on_from_the_last_phase_of_a_wavefront(survey, monkeypatch) -> None:
    shutil.rmtree(survey / "survey.zarr")
    toy.make_survey(survey / "survey.zarr", 2)
    file = survey / "toy.yaml"
    content = yaml.safe_load(file.read_text())
    content["instrument"]["psf"]["fwhm_maximum"]["value"] = 0.5  # smaller stamps to check
    file.write_text(yaml.safe_dump(content))
    toy.place_and_colour(survey)
    site = survey / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(DEATH)
    model = {"name": "wavediff", "settings": SMALL}
    quiet = toy.make_config(survey, model=model, output=survey / "undisturbed.zarr")
    quiet = quiet.model_copy(update={"output": survey / "undisturbed.zarr"})
    assert run(quiet, serial=True, observers=[]).exit_code == 0
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    monkeypatch.setenv("DEATH_FOLDER", str(survey))
    config = toy.make_config(survey, model=model)
    summary = run(config, cluster=LocalProfile(workers=1), observers=[])
    assert summary.exit_code == 0, summary
    begun = [int(pid) for pid in (survey / "phases").read_text().split()]
    died, after = begun[0], begun[1:]
    assert died not in after
    n_phases = len(after) + 1
    assert n_phases % 2 == 0  # of two exposures: none of the phases was walked twice
    lines = (config.output / ".psfscale/events.jsonl").read_text().splitlines()
    deaths = [e for e in map(json.loads, lines) if e["event"] == "UnitDied"]
    assert [(e["stage"], e["n_deaths"]) for e in deaths] == [("fit", 1)]
    assert not list((config.output / ".psfscale" / "checkpoints").iterdir())
    toy.require_same_arrays(config.output, quiet.output)
