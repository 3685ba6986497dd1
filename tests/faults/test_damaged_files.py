"""Files of stores flipped, cut or deleted: named, never believed, and put right."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import pytest
import toy

from psfscale.errors import PsfscaleError
from psfscale.pipeline import aggregate_run, run, status, verify, verify_survey
from psfscale.pipeline.units.session import NEVER_FILL, session_of
from psfscale.store.seal import write_seal

SEED = 20261201
N_FILES = 10
"""Files of a run that are damaged in CI, of some 250; the campaign damages all."""


@pytest.fixture
def finished(survey):
    """A run with a failed CCD, whose marker stays a file, and with tables."""
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="few")
    config = toy.make_config(survey)
    run(config, serial=True, observers=[])
    aggregate_run(config.output)
    return config


def files_of(store: Path) -> list[Path]:
    """Files of a store, but for what may be lost: logs, tallies that are kept, locks, the seal."""
    state = store / ".psfscale"
    markers = set((state / "markers").rglob("*.json"))
    return sorted(
        path
        for path in store.rglob("*")
        if path.is_file() and (path in markers or state not in path.parents)
    )


def damage(path: Path, how: str, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(raw[: rng.randrange(len(raw))])
    else:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)


def cases(store: Path, n: int) -> list[tuple[Path, str]]:
    """Files of each kind (array or metadata), each damaged in one way."""
    rng = random.Random(SEED)
    files = files_of(store)
    return [(path, rng.choice(("deleted", "cut", "flipped"))) for path in rng.sample(files, n)]


def named(store: Path, path: Path, check) -> bool:
    """Whether a check names the file, or at least its array, or refuses to open the store by it."""
    try:
        said = str(check(store))
    except PsfscaleError as error:
        said = str(error)
    name = path.relative_to(store).as_posix()
    return name in said or str(path) in said


@pytest.mark.slow
def test_damaged_file_of_a_run__is_named_and_put_right(finished, tmp_path) -> None:
    store, rng = finished.output, random.Random(SEED)
    whole = tmp_path / "whole"
    shutil.copytree(store, whole)
    before = toy.run_arrays(store)
    for path, how in cases(store, N_FILES):
        damage(path, how, rng)
        assert named(store, path, verify), f"{path} {how} is not named"
        with contextlib.suppress(PsfscaleError):  # a sentence, no other error
            status(store)
        verify(store, repair=True)
        session_of.cache_clear()
        run(finished, serial=True, observers=[])
        aggregate_run(store)
        assert verify(store).ok, (path, how, str(verify(store)))
        after = toy.run_arrays(store)
        for name in before:
            assert str(before[name]) == str(after[name]), (path, how, name)
        shutil.rmtree(store)
        shutil.copytree(whole, store)


@pytest.mark.slow
def test_run__without_a_seal_is_repaired_too(finished) -> None:
    """A driver that was killed leaves none: books that cannot be read are made again by units."""
    store = finished.output
    before = toy.run_arrays(store)
    for name in ("units/fingerprint/c.0.0", "ccds/state/c.0.0.0", "ccds/psf_R2/c.0.0"):
        (store / ".psfscale/seal.zip").unlink()
        (store / name).write_bytes(b"nonsense")
        assert named(store, store / name, verify)
        verify(store, repair=True)
        run(finished, serial=True, observers=[])
        aggregate_run(store)
        assert verify(store).ok
        after = toy.run_arrays(store)
        for array in before:
            assert str(before[array]) == str(after[array]), (name, array)


@pytest.mark.slow
def test_damaged_file_of_a_survey__is_named(survey) -> None:
    store, rng = survey / "survey.zarr", random.Random(SEED)
    write_seal(store)
    assert verify_survey(store).ok
    whole = survey / "whole"
    shutil.copytree(store, whole)
    for path, how in cases(store, N_FILES):
        damage(path, how, rng)
        unsealed = (
            how == "deleted" and path.parent.name not in NEVER_FILL and path.name != "zarr.json"
        )
        if not (unsealed and path.parts[-3] in ("stars", "galaxies")):  # may hold fill values alone
            assert named(store, path, verify_survey), f"{path} {how} is not named"
        shutil.rmtree(store)
        shutil.copytree(whole, store)
