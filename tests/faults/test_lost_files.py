"""Files of stores that are gone or cannot be read: named, never taken for fill values."""

from __future__ import annotations

import errno
import re

import pytest
import toy

from psfscale.arrays import UnitState
from psfscale.errors import LostLeaseError
from psfscale.pipeline import open_run, run, status
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.units import execute as unit
from psfscale.pipeline.units.session import session_of
from psfscale.store.shards import StoredArray


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch) -> None:
    """Errors of input and output are tried again at once."""
    monkeypatch.setattr(unit, "PAUSE", 0.0)


def failures(folder, **changes):
    config = toy.make_config(folder, **changes)
    run(config, serial=True, observers=[])
    return status(config.output).failures


@pytest.mark.parametrize(
    ("file", "stages", "n_ccds"),
    [
        ("stars/role/c.1.0.0", {"fit", "metrics"}, 2),
        ("stars/x/c.1.0.0", {"fit"}, 2),
        ("galaxies/role/c.1.0.0", {"psf"}, 2),
        ("stars/weight/c.1.1.0.0.0", {"fit"}, 1),
    ],
)
def test_lost_file_of_the_survey__is_a_failure_that_names_it(survey, file, stages, n_ccds) -> None:
    path = survey / "survey.zarr" / file
    content = path.read_bytes()
    path.unlink()
    found = failures(survey)
    assert {f.stage for f in found} == stages
    for failure in found:
        assert failure.exposure == 1
        assert f"{path} is lost; restore it from a copy" in failure.message
    assert sum(f.stage == min(stages) for f in found) == n_ccds
    path.write_bytes(content)
    config = toy.make_config(survey)
    assert run(config, serial=True, retry_failed=True, observers=[]).exit_code == 0
    quiet = config.model_copy(update={"output": survey / "quiet.zarr"})
    run(quiet, serial=True, observers=[])
    toy.require_same_arrays(config.output, quiet.output)


def test_lost_product__is_a_failure_of_the_unit_that_reads_it(survey) -> None:
    restore = {"at_galaxies": True, "learn_exposures": 3, "settings": {"learnt": {"n_rounds": 1}}}
    config = toy.make_config(survey, restore=restore)
    assert run(config, serial=True, observers=[]).exit_code == 0
    lost = config.output / "prior/sums/c.1.0.0"
    lost.unlink()
    toy.append_exposure(survey / "survey.zarr")
    session_of.cache_clear()
    run(config, serial=True, observers=[])
    found = status(config.output).failures
    assert {(f.stage, f.exposure) for f in found} == {("restore", 4)}
    assert all(f"{lost} is lost" in f.message for f in found)


def test_ccd_without_objects__has_no_file_and_lacks_none(survey) -> None:
    toy.make_survey(survey / "few.zarr", 1, galaxies=False)
    assert failures(survey, survey=survey / "few.zarr") == ()


def test_error_on_the_stamps_of_one_ccd__is_the_failure_of_that_ccd_alone(
    survey, monkeypatch
) -> None:
    read, n_tried = StoredArray.read, []

    def fail(self, index):
        if self.array.path == "stars/image" and index == (2, 1):
            n_tried.append(index)
            raise OSError(errno.EIO, "Input/output error", "a bad sector")
        return read(self, index)

    monkeypatch.setattr(StoredArray, "read", fail)
    found = failures(survey)
    assert {(f.stage, f.exposure, f.ccd) for f in found if f.stage == "fit"} == {("fit", 2, 1)}
    assert re.search("Input/output error.*a bad sector", found[0].message)
    assert len(n_tried) >= unit.IO_ATTEMPTS
    states = open_run(survey / "run.zarr")["ccds/state"].sel(stage="fit").values
    assert (states == UnitState.DONE).sum() == states.size - 1


def test_unit_whose_driver_has_a_successor__writes_no_more(survey, monkeypatch) -> None:
    """The lease is taken over after the first CCD; nothing of the second reaches the disk."""
    config, written = toy.make_config(survey), []
    write = StoredArray.write

    def lose_lease(self, index, values, **rest):
        written.append((self.array.path, index))
        if len(written) == 1:
            (config.output / ".psfscale/lease.json").unlink()
            Lease(config.output)._beat()
        return write(self, index, values, **rest)

    monkeypatch.setattr(StoredArray, "write", lose_lease)
    with pytest.raises(LostLeaseError, match="another driver has taken"):
        run(config, serial=True, observers=[])
    assert len(written) == 1
