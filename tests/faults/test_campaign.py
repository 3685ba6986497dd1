"""A part of the campaign of faults; ``python benchmarks/faults.py`` runs all of it."""

from __future__ import annotations

import campaign
import mean_star
import pytest

from psfscale import models

SEED = 1
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def toy_model(monkeypatch) -> None:
    monkeypatch.setitem(models.MODELS, "rca", "mean_star:MeanStar")
    monkeypatch.setitem(models.SETTINGS, "rca", mean_star.MeanStarSettings)


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_command__disturbed_at_any_change_of_the_disk_ends_as_if_it_had_not_been(
    tmp_path, fault
) -> None:
    tally = campaign.disturb_all(tmp_path, 2, fault, SEED)
    assert not tally.wrong, str(tally)
    assert len(campaign.SCENARIOS) < tally.tried <= 2 * len(campaign.SCENARIOS)


def test_mangled_input__is_refused_in_a_sentence_or_counted(tmp_path) -> None:
    tally = campaign.mangle_inputs(tmp_path, 30, SEED)
    assert not tally.wrong, str(tally)
