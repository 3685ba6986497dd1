"""Faults are tried on the toy survey and model of the pipeline's tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

PIPELINE = Path(__file__).parent.parent / "pipeline"
sys.path.insert(0, str(PIPELINE))

import mean_star  # noqa: E402
import toy  # noqa: E402

from psfscale import models  # noqa: E402


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """A folder with toy instrument and survey (4 exposures); child processes know its model."""
    monkeypatch.setitem(models.MODELS, "rca", "mean_star:MeanStar")
    monkeypatch.setitem(models.SETTINGS, "rca", mean_star.MeanStarSettings)
    monkeypatch.setenv("PYTHONPATH", str(PIPELINE), prepend=os.pathsep)
    toy.write_instrument(tmp_path)
    toy.make_survey(tmp_path / "survey.zarr", 4)
    return tmp_path
