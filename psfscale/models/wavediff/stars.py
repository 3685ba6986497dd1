"""The stars of a fit: pixels, and what each star adds of its own (flux, background)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from psfscale.arrays import StarBatch

__all__ = ["StarLight", "WeightedStars"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StarLight:
    """Flux and background of each star.

    Attributes
    ----------
    flux : (star,) [electron]
    background : (star,) [electron/pixel]
    flux_error, background_error : their standard deviations; 0 where held fixed
    """

    flux: Float[Tensor, " star"]
    background: Float[Tensor, " star"]
    flux_error: Float[Tensor, " star"]
    background_error: Float[Tensor, " star"]

    def of(self, stamp: Float[Tensor, "star y x"]) -> Float[Tensor, "star y x"]:
        """The stars' images, `stamp` being their PSFs."""
        return self.flux[:, None, None] * stamp + self.background[:, None, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedStars:
    """Images and inverse variances of the stars.

    Attributes
    ----------
    image, weight : (star, y, x)
    """

    image: Float[Tensor, "star y x"]
    weight: Float[Tensor, "star y x"]

    @classmethod
    def of(cls, stars: StarBatch, size: int, device: torch.device) -> WeightedStars:
        """The pixels of a batch in single precision, on square stamps; masked ones are zero."""
        ny, nx = stars.stamp_shape
        top, left = size // 2 - ny // 2, size // 2 - nx // 2
        image, weight = torch.zeros((2, len(stars), size, size), device=device)
        inside = (slice(None), slice(top, top + ny), slice(left, left + nx))
        weight[inside] = torch.from_numpy(stars.weight.astype("float32")).to(device)
        image[inside] = torch.from_numpy(stars.image.astype("float32")).to(device)
        return cls(image=torch.where(weight > 0, image, 0.0), weight=weight)

    def select(self, chosen: Bool[Tensor, " star"] | Tensor) -> WeightedStars:
        """Some of the stars."""
        return WeightedStars(image=self.image[chosen], weight=self.weight[chosen])

    def part(self, chosen: slice) -> WeightedStars:
        """A run of the stars."""
        return WeightedStars(image=self.image[chosen], weight=self.weight[chosen])

    def softened(self, share: float) -> WeightedStars:
        """The same, as if every pixel missed the model by a `share` of its own light.

        Far from the solution the brightest pixels hold all of χ², and their misfit says nothing
        of where to go; softened, faint and bright pixels pull alike.
        """
        own = (share * self.image.clamp(min=0)) ** 2 * self.weight
        return WeightedStars(image=self.image, weight=self.weight / (1 + own))

    @property
    def signal_to_noise(self) -> Float[Tensor, " star"]:
        """Of each star, its own image taken as the truth."""
        square = (self.weight * self.image**2).sum((1, 2)) - (self.weight > 0).sum((1, 2))
        return square.clamp(min=0).sqrt()

    def light(
        self, stamp: Float[Tensor, "star y x"], *, fluxes: bool, background: bool
    ) -> StarLight:
        """Flux and background of highest likelihood, given the stars' PSFs."""
        w = self.weight
        columns = torch.stack([stamp, torch.ones_like(stamp)], dim=1)
        free = torch.tensor([fluxes, background], device=stamp.device)
        target = self.image if fluxes else self.image - stamp
        gram = torch.einsum("sayx,sbyx,syx->sab", columns, columns, w).double()
        moment = torch.einsum("sayx,syx,syx->sa", columns, w, target).double()
        held = torch.diag_embed((~free).double().expand(len(stamp), 2))
        gram = torch.where(free[:, None] & free[None, :], gram, 0.0) + held
        inverse = torch.linalg.inv(gram)
        value = (inverse @ torch.where(free, moment, 0.0)[..., None])[..., 0].to(stamp.dtype)
        error = inverse.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt() * free
        error = error.to(stamp.dtype)
        return StarLight(
            flux=value[:, 0] if fluxes else torch.ones_like(value[:, 0]),
            background=value[:, 1],
            flux_error=error[:, 0],
            background_error=error[:, 1],
        )

    def chi2(self, model: Float[Tensor, "star y x"]) -> Float[Tensor, " star"]:
        """χ² of each star."""
        return (self.weight * (self.image - model) ** 2).sum((1, 2))
