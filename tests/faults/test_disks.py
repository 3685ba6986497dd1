"""Disks that are full, read-only or damaged stop a run clearly, or cost it what they hold."""

from __future__ import annotations

import errno
import os

import pytest
import toy

from psfscale.errors import RunError
from psfscale.pipeline import run, status, verify
from psfscale.pipeline.ledger import table
from psfscale.store import shards


def failing(effect, number: int, *, after: int):
    """The effect, until the disk has had enough."""
    left = [after]

    def change(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return effect(*args, **options)

    return change


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize(
    ("home", "name", "after"), [(shards, "replace_file", 9), (table.Books, "_set", 1)]
)
def test_full_disk__stops_the_run_and_the_same_command_resumes(
    survey, monkeypatch, number, home, name, after
) -> None:
    config = toy.make_config(survey)
    with monkeypatch.context() as patch:
        patch.setattr(home, name, failing(getattr(home, name), number, after=after))
        with pytest.raises(RunError, match=f"{os.strerror(number)}.*the same command resumes"):
            run(config, serial=True, observers=[])
    stands = status(config.output)
    assert stands.finished == (home is table.Books)  # markers count until they can be copied
    assert not stands.failures
    assert run(config, serial=True, observers=[]).exit_code == 0
    quiet = config.model_copy(update={"output": survey / "quiet.zarr"})
    run(quiet, serial=True, observers=[])
    toy.require_same_arrays(config.output, quiet.output)
    assert verify(config.output).ok


def test_passing_read_error__is_tried_again(survey, monkeypatch) -> None:
    from psfscale.pipeline.units import execute as unit

    monkeypatch.setattr(unit, "PAUSE", 0.0)
    errors = iter([OSError(errno.EIO, "once"), OSError(errno.ESTALE, "twice")])
    real = unit._execute

    def execute(*args, **options):
        error = next(errors, None)
        if error is not None:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(unit, "_execute", execute)
    assert run(toy.make_config(survey), serial=True, observers=[]).exit_code == 0


def test_damaged_stamps__cost_their_ccd_alone(survey) -> None:
    chunk = survey / "survey.zarr/stars/image/c.2.1.0.0.0"
    raw = bytearray(chunk.read_bytes())
    raw[40] ^= 255
    chunk.write_bytes(raw)
    summary = run(toy.make_config(survey), serial=True, observers=[])
    assert summary.exit_code == 1
    (failure,) = [f for f in summary.failures if f.stage == "fit"]
    assert (failure.exposure_id, failure.ccd_id, failure.type) == ("exp-2", 2, "StoreError")
    assert f"{chunk} is damaged: its checksum is wrong" in failure.message
    assert summary.ccds["fit"]["DONE"] == 7
