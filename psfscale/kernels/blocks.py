"""Stacks in parts that a processor's cache holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["stack_blocks"]

BLOCK_BYTES = 2**19
"""What stays in a processor's second-level cache."""


def stack_blocks(x: Tensor, *, samples: int) -> Iterator[slice]:
    """Slices of a stack, each of about `BLOCK_BYTES` at `samples` values an object.

    The whole stack where it does not lie in a processor's memory.
    """
    size = len(x)
    if x.device.type == "cpu":
        size = max(1, BLOCK_BYTES // (x.element_size() * samples))
    return (slice(i, i + size) for i in range(0, len(x), size))
