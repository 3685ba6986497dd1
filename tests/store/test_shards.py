"""What is written here is read by zarr-python, and the reverse."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd
from zarr.codecs import Crc32cCodec, GzipCodec, ZstdCodec

from psfscale.errors import StoreError
from psfscale.store.shards import StoredArray, compressor

LAYOUTS = {
    "stamps": ((3, 2, 32, 5, 4), (1, 1, 32, 5, 4), (1, 1, 16, 5, 4), 2),
    "cut": ((3, 4, 5, 7), (1, 4, 5, 7), (1, 4, 1, 7), 1),
    "whole": ((3, 4, 7), (1, 4, 7), (1, 4, 7), 1),
}


def make(folder, layout: str, dtype: str, *, compressor=None) -> zarr.Array:
    shape, shard, chunk, _ = LAYOUTS[layout]
    return zarr.create_array(
        folder / f"{layout}-{dtype}.zarr",
        shape=shape,
        dtype=dtype,
        chunks=chunk,
        shards=None if shard == chunk else shard,
        compressors=[compressor or ZstdCodec(level=1), Crc32cCodec()],
        fill_value=np.nan if dtype.startswith("f") else 0,
        overwrite=True,
    )


def values_of(layout: str, dtype: str, seed: int, *, empty: bool) -> np.ndarray:
    shape, *_, n_leading = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    values = (100 * rng.normal(size=shape[n_leading:])).astype(dtype)
    values[: len(values) // 2 if not empty else None] = np.nan if dtype.startswith("f") else 0
    return values


@settings(max_examples=40, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(["f4", "f8", "u1", "u4", "i8"]),
    seed=st.integers(0, 2**32 - 1),
    empty=st.booleans(),
)
def test_stored_array__and_zarr_read_what_the_other_writes(
    tmp_path_factory, layout, dtype, seed, empty
) -> None:
    array = make(tmp_path_factory.mktemp("objects"), layout, dtype)
    stored, values = StoredArray(array), values_of(layout, dtype, seed, empty=empty)
    n = LAYOUTS[layout][3]
    ours, theirs, nobodys = ((k, 1)[:n] for k in range(3))
    stored.write(ours, values)
    np.testing.assert_array_equal(array[ours], values)
    array[theirs] = values
    np.testing.assert_array_equal(stored.read(theirs), values)
    np.testing.assert_array_equal(stored.read(nobodys), array[nobodys])
    assert stored.read(ours).dtype == array.dtype


def test_stored_array__of_nothing_but_fill_values_is_no_file(tmp_path) -> None:
    stored = StoredArray(make(tmp_path, "stamps", "f4"))
    stored.write((0, 0), values_of("stamps", "f4", 1, empty=False))
    assert stored.path((0, 0)).exists()
    stored.write((0, 0), np.full((32, 5, 4), np.nan, "f4"))
    assert not stored.path((0, 0)).exists()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("how", ["flipped", "cut short", "emptied"])
def test_stored_array__names_the_file_that_is_damaged(tmp_path, layout, how) -> None:
    stored = StoredArray(make(tmp_path, layout, "f4"))
    index = (1, 1)[: LAYOUTS[layout][3]]
    stored.write(index, values_of(layout, "f4", 2, empty=False))
    raw = bytearray(stored.path(index).read_bytes())
    if how == "flipped":
        raw[len(raw) // 3] ^= 8
    stored.path(index).write_bytes(raw[: {"cut short": -3, "emptied": 0}.get(how)])
    with pytest.raises(StoreError, match=rf"{stored.path(index).name} is damaged"):
        stored.read(index)


def test_stored_array__refuses_what_is_not_one_whole_object(tmp_path) -> None:
    stored = StoredArray(make(tmp_path, "whole", "f4"))
    with pytest.raises(StoreError, match="is not one whole stored object"):
        stored.write((0, 1), np.zeros(7, "f4"))
    with pytest.raises(StoreError, match=r"takes shape \(4, 7\), got \(4, 6\)"):
        stored.write((0,), np.zeros((4, 6), "f4"))


def test_stored_array__of_other_codecs_is_left_to_zarr(tmp_path) -> None:
    array = make(tmp_path, "cut", "f4", compressor=GzipCodec())
    stored, values = StoredArray(array), values_of("cut", "f4", 3, empty=False)
    stored.write((0,), values)
    np.testing.assert_array_equal(array[0], values)
    np.testing.assert_array_equal(stored.read((0,)), values)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_stored_array__reads_its_own_layout_without_zarr(tmp_path, layout, dtype) -> None:
    stored = StoredArray(make(tmp_path, layout, dtype))
    index = (1, 1)[: LAYOUTS[layout][3]]
    checksum = stored.write(index, values_of(layout, dtype, 4, empty=False))
    assert checksum == stored.checksum(index)  # None where zarr-python wrote it


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CHAIN = [LITTLE, {"name": "zstd", "configuration": {"level": 3, "checksum": False}}, "crc32c"]


def sharded(**configuration) -> list[dict]:
    defaults = {"chunk_shape": [2], "codecs": CHAIN, "index_codecs": [LITTLE, "crc32c"]}
    return [{"name": "sharding_indexed", "configuration": {**defaults, **configuration}}]


@pytest.mark.parametrize(
    "codecs",
    [
        CHAIN,
        [*CHAIN[:2], {"name": "crc32c"}],
        [*CHAIN[:2], {"name": "crc32c", "configuration": {}}],
        sharded(),
        sharded(index_location="end", index_codecs=[LITTLE, {"name": "crc32c"}]),
    ],
)
def test_compressor__is_found_in_each_spelling_of_the_standard(codecs) -> None:
    assert compressor(codecs, itemsize=4) == Zstd(level=3)


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "bytes", "configuration": {"endian": "big"}}, *CHAIN[1:]],
        ["bytes", *CHAIN[1:]],
        CHAIN[:2],
        [LITTLE, {"name": "gzip", "configuration": {"level": 1}}, "crc32c"],
        sharded(index_location="start"),
        sharded(index_codecs=[LITTLE]),
        sharded(codecs=CHAIN[:2]),
    ],
)
def test_compressor__of_another_encoding_is_none(codecs) -> None:
    assert compressor(codecs, itemsize=4) is None


def test_compressor__of_single_bytes_needs_no_order() -> None:
    assert compressor(["bytes", *CHAIN[1:]], itemsize=1) == Zstd(level=3)
