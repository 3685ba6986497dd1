from __future__ import annotations

import json

import numpy as np
import pytest
import toy

from psfscale.pipeline import run, status
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.state.run_status import Pace
from psfscale.store.stores import open_root


def test_status__tells_the_rate_of_the_last_quarter_of_an_hour_and_what_is_left(survey) -> None:
    config = toy.make_config(survey)
    run(config, serial=True, observers=[])
    root = open_root(config.output, mode="r+")
    names = [str(name) for name in root["stage"][...]]
    at = [names.index(stage) for stage in toy.STAGES]
    ended = np.full(root["units/finished"].shape, np.nan)
    ended[0, at] = 1e4  # long ago
    ended[1, at] = 2e4 - np.array([10, 5, 0])
    root["units/finished"][...] = ended
    root["units/fingerprint"][1, at[2]] = 0
    root["ccds/state"][1, :, at[2]] = 0
    with Lease(config.output):
        found = status(config.output)
        assert "0.2 units a second, 0:00:05 left" in str(found)
    assert found.pace.n_left == 1
    assert found.pace.rate == pytest.approx(1 / 5)  # of the second exposure's fit and psf
    told = json.loads(json.dumps(found.as_dict()))["pace"]
    assert told["seconds_left"] == pytest.approx(5)


def test_pace__is_unknown_before_units_have_ended_and_nothing_is_left_in_the_end() -> None:
    assert Pace(n_left=5, rate=0.0).seconds_left is None
    assert str(Pace(n_left=5, rate=0.0)) == "5 units to do"
    assert Pace(n_left=0, rate=0.0).seconds_left == 0
    assert Pace(n_left=7200, rate=2.0).as_dict() == {
        "n_left": 7200,
        "units_per_second": 2.0,
        "seconds_left": 3600.0,
    }
