"""Galaxies as they are seen, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from psfscale.deconvolve.learnt.background import NO_SKY

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

    from psfscale.deconvolve.learnt.background import Sky
    from psfscale.deconvolve.learnt.fourier import Canvas

__all__ = ["Sight"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """Some galaxies as they are seen, pixel by pixel.

    Attributes
    ----------
    canvas : frequencies and stamps
    image : (object, y, x)
    root_weight : (object, y, x) square roots of inverse variances, 0 where masked
    beam : (object, fy, fx) transfer functions from the sky to the stamp's corner
    sky : levels under galaxies, integrated out of `data` and `seen`
    """

    canvas: Canvas
    image: Float[Tensor, "object y x"]
    root_weight: Float[Tensor, "object y x"]
    beam: Complex[Tensor, "object fy fx"]
    sky: Sky = NO_SKY

    @cached_property
    def level(self) -> Float[Tensor, "object value"]:
        """A level of 1 over the noise."""
        return self.root_weight.flatten(1)

    @cached_property
    def data(self) -> Float[Tensor, "object value"]:
        """The pixels over their noise."""
        pixels = ((self.image - self.sky.mean) * self.root_weight).flatten(1)
        return self.sky.whitened(pixels, self.level)

    @cached_property
    def n_values(self) -> Float[Tensor, " object"]:
        """Pixels in use."""
        return (self.root_weight > 0).flatten(1).sum(1)

    def seen(
        self, spectra: Complex[Tensor, "object model fy fx"]
    ) -> Float[Tensor, "object model value"]:
        """What models of the galaxies would be in place of `data`."""
        pixels = (self.canvas.observe(spectra) * self.root_weight[:, None]).flatten(2)
        return self.sky.whitened(pixels, self.level)

    def select(self, chosen: Tensor) -> Sight:
        """The galaxies picked by indices."""
        if len(chosen) == len(self.image):
            return self
        return replace(
            self,
            image=self.image[chosen],
            root_weight=self.root_weight[chosen],
            beam=self.beam[chosen],
        )

    def without_sky(self, residual: Float[Tensor, "object y x"]) -> Float[Tensor, "object y x"]:
        """Whitened residuals of profiles, less the levels that they make likely."""
        flat = residual.flatten(1) - self.sky.mean * self.level
        found = self.sky.expected(flat, self.level)[:, None] * self.level
        return (flat - found).reshape(residual.shape)

    def doubted(self, doubt: Float[Tensor, "object y x"]) -> Sight:
        """The same, √w lowered by a factor."""
        return replace(self, root_weight=self.root_weight * doubt)
