"""One stored object (a chunk or a shard) read or written whole, as the Zarr v3 standard has it.

zarr-python takes 3 to 5 ms of CPU for a shard of stamps, most of it before any byte is read;
this takes 0.2 ms for the codecs that psfscale's own stores use, and leaves any other array to
zarr-python. What is written here is read there, and the reverse; tests hold both.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zlib import crc32

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from zarr.storage import LocalStore

from psfscale.errors import StoreError
from psfscale.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import zarr

_CHECKSUM = 4
_ABSENT = 2**64 - 1
"""Offset and length of a chunk that holds fill values alone."""


@dataclass(frozen=True, kw_only=True)
class _Coder:
    """How the objects of one array are encoded: (bytes, zstd, crc32c), sharded or not."""

    dtype: np.dtype[Any]
    fill: Any
    shard: tuple[int, ...]
    chunk: tuple[int, ...]
    zstd: Zstd

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Self | None:
        """None where the array is not as psfscale makes them."""
        if array.metadata.zarr_format != 3 or array.dtype.kind not in "fiu":
            return None
        codecs = array.metadata.to_dict()["codecs"]
        zstd = compressor(codecs, itemsize=array.dtype.itemsize)
        if zstd is None:
            return None
        return cls(
            dtype=np.dtype(array.dtype).newbyteorder("<"),
            fill=array.fill_value,
            shard=array.shards or array.chunks,
            chunk=array.chunks,
            zstd=zstd,
        )

    def decode(self, raw: bytes) -> np.ndarray:
        """The values of a stored object; ValueError or RuntimeError where it is damaged."""
        if self.shard == self.chunk:
            return self._decode_chunk(raw).reshape(self.shard)
        out = np.full(self.shard, self.fill, self.dtype)
        places = list(self._places())
        start = len(raw) - 16 * len(places) - _CHECKSUM
        if start < 0:
            msg = "it is too short"
            raise ValueError(msg)
        index = np.frombuffer(_checked(raw[start:]), "<u8").reshape(-1, 2)
        for place, (offset, length) in zip(places, index.tolist(), strict=True):
            if offset != _ABSENT:
                values = self._decode_chunk(raw[offset : offset + length])
                out[place] = values.reshape(self.chunk)
        return out

    def encode(self, values: np.ndarray, *, keep: bool) -> bytes | None:
        """The bytes of a stored object; None where it holds fill values alone, unless to `keep`."""
        if self.shard == self.chunk:
            return self._encode_chunk(values, keep=keep)
        parts: list[bytes] = []
        index: list[tuple[int, int]] = []
        offset = 0
        for place in self._places():
            part = self._encode_chunk(values[place], keep=False)
            index.append((_ABSENT, _ABSENT) if part is None else (offset, len(part)))
            if part is not None:
                parts.append(part)
                offset += len(part)
        if not parts and not keep:
            return None
        return b"".join([*parts, _signed(np.array(index, "<u8").tobytes())])

    def _places(self) -> Iterator[tuple[slice, ...]]:
        grid = (range(0, n, step) for n, step in zip(self.shard, self.chunk, strict=True))
        for corner in product(*grid):
            yield tuple(slice(a, a + n) for a, n in zip(corner, self.chunk, strict=True))

    def _decode_chunk(self, raw: bytes) -> np.ndarray:
        return np.frombuffer(self.zstd.decode(_checked(raw)), self.dtype)

    def _encode_chunk(self, values: np.ndarray, *, keep: bool) -> bytes | None:
        values = np.ascontiguousarray(values, self.dtype)
        same = np.isnan(values) if self.fill != self.fill else values == self.fill
        return None if same.all() and not keep else _signed(self.zstd.encode(values))


def compressor(codecs: Any, *, itemsize: int) -> Zstd | None:
    """Return the compressor of an array that is encoded as psfscale's own are.

    Parameters
    ----------
    codecs : as the Zarr v3 standard writes them in an array's metadata
    itemsize : bytes of a value

    Returns
    -------
    Zstd or None
        None for any other chain than (bytes, zstd, crc32c), little-endian, in a shard or not
    """
    chain = _named(codecs)
    if [name for name, _ in chain] == ["sharding_indexed"]:
        sharding = chain[0][1]
        index = _named(sharding["index_codecs"])
        at_end = sharding.get("index_location", "end") == "end"
        if not at_end or not _is_chain(index, ("bytes", "crc32c"), itemsize=8):
            return None
        chain = _named(sharding["codecs"])
    if not _is_chain(chain, ("bytes", "zstd", "crc32c"), itemsize=itemsize):
        return None
    return Zstd(level=chain[1][1].get("level", 0), checksum=chain[1][1].get("checksum", False))


_Codec = tuple[str, "Mapping[str, Any]"]
"""Name and configuration."""


def _named(codecs: Any) -> list[_Codec]:
    """Return the codecs; the standard also writes one without a configuration as a bare name."""
    return [
        (spec, {}) if isinstance(spec, str) else (spec["name"], spec.get("configuration") or {})
        for spec in codecs
    ]


def _is_chain(codecs: list[_Codec], names: tuple[str, ...], *, itemsize: int) -> bool:
    """Whether `codecs` are those, with little-endian values (a single byte has no order)."""
    if tuple(name for name, _ in codecs) != names:
        return False
    return itemsize == 1 or codecs[0][1].get("endian") == "little"


def _signed(raw: bytes) -> bytes:
    checksum: int = google_crc32c.value(raw)
    return raw + checksum.to_bytes(_CHECKSUM, "little")


def _checked(raw: bytes) -> bytes:
    body = raw[:-_CHECKSUM]
    if google_crc32c.value(body) != int.from_bytes(raw[-_CHECKSUM:], "little"):
        msg = "its checksum is wrong"
        raise ValueError(msg)
    return body


def digest_of(checksums: Mapping[str, int]) -> str:
    """Return 16 hexadecimal digits that tell stored objects, by key and checksum, from others."""
    lines = "\n".join(f"{key} {checksum}" for key, checksum in sorted(checksums.items()))
    return hashlib.blake2b(lines.encode(), digest_size=8).hexdigest()


class StoredArray:
    """An array whose stored objects are read and written whole.

    Parameters
    ----------
    array : of an open store on a file system
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        self.shape: tuple[int, ...] = array.shape
        self.shard: tuple[int, ...] = array.shards or array.chunks
        store = array.store_path.store
        self._coder = _Coder.of(array) if isinstance(store, LocalStore) else None

    def key(self, index: tuple[int, ...]) -> str:
        """Name of the object at the leading indices `index` in its store."""
        key = self.array.metadata.encode_chunk_key((*index, *[0] * (len(self.shape) - len(index))))
        return f"{self.array.path}/{key}".lstrip("/")

    def path(self, index: tuple[int, ...]) -> Path:
        """File of the object at the leading indices `index`."""
        return Path(str(self.array.store_path.store.root)) / self.key(index)  # type: ignore[attr-defined]

    def checksum(self, index: tuple[int, ...]) -> int:
        """CRC-32 of the object's bytes as they lie in the store.

        Not the CRC-32C that each chunk ends with: over bytes and their own checksum that is one
        number for all chunks.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        """
        return crc32(self.path(index).read_bytes())

    def require(self, index: tuple[int, ...]) -> None:
        """Refuse to read what is not there, which would read as fill values.

        Raises
        ------
        FileNotFoundError
            There is no file of the object at the leading indices `index`.
        """
        if not self._cuts(index) and not self.path(index).exists():
            msg = f"{self.path(index)} is lost; restore it from a copy, or make it anew"
            raise FileNotFoundError(errno.ENOENT, msg)

    def read(self, index: tuple[int, ...]) -> np.ndarray:
        """``array[index]``, one whole object or not.

        Raises
        ------
        StoreError
            The object is damaged.
        """
        if self._coder is None or self._cuts(index):
            return np.asarray(self.array[index])
        path = self.path(index)
        try:
            values = self._coder.decode(path.read_bytes())
        except FileNotFoundError:
            values = np.full(self.shard, self._coder.fill, self._coder.dtype)
        except (ValueError, RuntimeError) as error:
            msg = f"{path} is damaged: {error}; remove it, or restore it from a copy"
            raise StoreError(msg) from error
        return values.reshape(self.shape[len(index) :])

    def write(
        self, index: tuple[int, ...], values: np.ndarray, *, keep: bool = False
    ) -> int | None:
        """``array[index] = values``, on the disk when this returns.

        The object is replaced in one step: a reader meets the old values or the new.

        Parameters
        ----------
        index : leading indices, (exposure) or (exposure, ccd)
        values : of shape ``array.shape[len(index):]``
        keep : store an object of fill values too, so that it can be told from a lost one

        Returns
        -------
        int or None
            `checksum` of the object; None where nothing is stored, or zarr-python wrote it

        Raises
        ------
        StoreError
            The region is not one whole stored object, or the values have another shape.
        """
        if self._cuts(index):
            msg = (
                f"region {index} of {self.array.path} (shape {self.shape}) is not one whole "
                f"stored object {self.shard}: writing it could lose a neighbour's rows"
            )
            raise StoreError(msg)
        if values.shape != self.shape[len(index) :]:
            expected = self.shape[len(index) :]
            msg = f"{self.array.path}[{index}] takes shape {expected}, got {values.shape}"
            raise StoreError(msg)
        if self._coder is None:
            self.array[index] = values
            return None
        raw, path = self._coder.encode(values.reshape(self.shard), keep=keep), self.path(index)
        if raw is None:
            path.unlink(missing_ok=True)
            return None
        replace_file(path, raw)
        return crc32(raw)

    def _cuts(self, index: tuple[int, ...]) -> bool:
        n = len(index)
        return any(size != 1 for size in self.shard[:n]) or self.shard[n:] != self.shape[n:]
