"""Galaxies without their PSFs: sparse, low-rank, both, or the gradient alone.

The room can be called: ``psfscale.deconvolve(images, psfs, mode="sparse")`` is
`psfscale.deconvolve.restore.deconvolve`. What is solved, and what departs from the papers,
stands in ``docs/methods/deconvolution.md``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from psfscale.deconvolve.settings import DeconvolutionSettings

if TYPE_CHECKING:
    from psfscale.deconvolve.stack import Restoration

__all__ = ["DeconvolutionSettings"]


class _Room(ModuleType):
    def __call__(self, images: Any, psfs: Any, **options: Any) -> Restoration[Any]:
        """Restore a stack of galaxies; see `psfscale.deconvolve.restore.deconvolve`."""
        from psfscale.deconvolve.restore import deconvolve

        return deconvolve(images, psfs, **options)


sys.modules[__name__].__class__ = _Room
