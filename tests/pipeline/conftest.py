"""A toy survey and a toy model for the runs of these tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mean_star
import plane_star
import toy

from psfscale import models


@pytest.fixture
def mean_model(monkeypatch):
    """The mean star stands in for the model `rca`, in this process."""
    monkeypatch.setitem(models.MODELS, "rca", "mean_star:MeanStar")
    monkeypatch.setitem(models.SETTINGS, "rca", mean_star.MeanStarSettings)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """The toy survey, made once; tests work on copies."""
    return toy.make_survey(tmp_path_factory.mktemp("toy") / "survey.zarr", 2)


@pytest.fixture
def survey(tmp_path, pristine, mean_model):
    """A folder with the toy instrument and a survey of 2 exposures."""
    toy.write_instrument(tmp_path)
    shutil.copytree(pristine, tmp_path / "survey.zarr")
    return tmp_path


@pytest.fixture
def coloured(survey, monkeypatch):
    """The toy survey with places in the focal plane and spectra, and a cheap chromatic model."""
    monkeypatch.setitem(models.MODELS, "wavediff", "plane_star:PlaneStar")
    monkeypatch.setitem(models.SETTINGS, "wavediff", plane_star.PlaneStarSettings)
    toy.place_and_colour(survey)
    return survey
