"""The dictionary Φ of RCA and SPRITE, as their settings name it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.kernels.frames.starlet import starlet
from psfscale.kernels.frames.wavelet import biorthogonal79, filter_bank

if TYPE_CHECKING:
    from psfscale.kernels.frames.wavelet import FilterBank
    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.dictionary_settings import DictionarySettings

__all__ = ["dictionary"]


def dictionary(grid: FrequencyGrid, settings: DictionarySettings) -> FilterBank:
    """Φ on the fine images of a grid, coarse band last.

    Raises
    ------
    InputError
        The user's filters are larger than the fine image, or blind to a frequency.
    """
    if settings.transform == "starlet":
        return starlet(grid, n_scales=settings.n_scales)
    if settings.transform == "biorthogonal":
        return biorthogonal79(grid, n_scales=settings.n_scales)
    return filter_bank(grid, np.array(settings.filters, dtype=np.float64))
