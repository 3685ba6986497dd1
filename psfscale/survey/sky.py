"""What a simulated survey looks like: stars, galaxies, PSF field, noise and defects."""

from __future__ import annotations

from psfscale.survey.instrument import Part


class SkyRecipe(Part):
    """Everything the simulator draws, with its size as parameters."""
