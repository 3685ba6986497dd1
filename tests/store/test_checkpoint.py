from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from psfscale.store.checkpoint import CheckpointFile

ARRAYS = {
    "numbers": np.arange(12, dtype=np.float32).reshape(3, 4),
    "truth": np.array(True),
    "text": np.array("χ²"),
}


def test_checkpoint__gives_back_what_was_saved_last(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path / "fit.npz")
    assert checkpoint.load() is None
    checkpoint.save({"numbers": np.zeros(1)})
    checkpoint.save(ARRAYS)
    found = checkpoint.load()
    assert found is not None
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    checkpoint.remove()
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_checkpoint__stays_as_it_was_when_saving_fails(tmp_path: Path) -> None:
    checkpoint = CheckpointFile(tmp_path / "fit.npz")
    checkpoint.save(ARRAYS)
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoint.save({"objects": np.array([object()], dtype=object)})
    assert checkpoint.load() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["fit.npz"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_checkpoint__that_is_damaged_counts_as_none(tmp_path: Path, damage: str) -> None:
    checkpoint = CheckpointFile(tmp_path / "fit.npz")
    checkpoint.save(ARRAYS)
    raw = bytearray(checkpoint.path.read_bytes())
    if damage == "flipped":
        raw[raw.index(np.float32(7).tobytes())] ^= 1
    checkpoint.path.write_bytes({"cut": raw[:-40], "flipped": raw, "empty": b""}[damage])
    assert checkpoint.load() is None
