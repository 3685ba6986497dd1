"""What goes into a deconvolution and what comes out: stacks of galaxies, checked once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Self

import torch

from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError
from psfscale.kernels.noise import stamp_noise
from psfscale.kernels.user_tensors import Array, array_fields, finite_tensor, read_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Bool, Float
    from numpy.typing import ArrayLike
    from torch import Tensor

    from psfscale.kernels.optimize.splitting import Ending

__all__ = ["GalaxyStack", "Restoration", "galaxy_stack"]

PSF_SUM_TOLERANCE = 1e-4
"""How far from 1 the sum of a PSF may lie."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GalaxyStack:
    """Galaxies, their weights and PSFs; `galaxy_stack` makes one from arrays and checks it.

    Attributes
    ----------
    image : (object, y, x) [electron, or any flux unit], 0 where masked
    weight : (object, y, x) [1/electron²], inverse variances, 0 = masked
    psf : (object, y, x), one per galaxy, or (1, y, x) for all; unit sum, centre on index
        ``n // 2``
    """

    image: Float[Tensor, "object y x"]
    weight: Float[Tensor, "object y x"]
    psf: Float[Tensor, "psf ky kx"]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) pixels of a stamp."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @property
    def fixed_psf(self) -> bool:
        """Whether one PSF serves all galaxies."""
        return len(self.psf) == 1

    @cached_property
    def sigma(self) -> Float[Tensor, " object"]:
        """Noise of each galaxy's best pixel [electron]."""
        return self.weight.flatten(1).amax(1).rsqrt()

    @cached_property
    def masked(self) -> Bool[Tensor, " object"]:
        """Galaxies with a masked pixel."""
        return (self.weight == 0).flatten(1).any(1)

    @cached_property
    def even(self) -> Bool[Tensor, " object"]:
        """Galaxies whose pixels all weigh the same."""
        flat = self.weight.flatten(1)
        return flat.amin(1) == flat.amax(1)

    @cached_property
    def uniform(self) -> bool:
        """Whether all pixels of a stamp weigh the same, in every stamp."""
        return bool(self.even.all())

    def select(self, chosen: slice | Sequence[int] | Tensor) -> GalaxyStack:
        """The galaxies picked by a slice, a boolean mask or indices, in that order."""
        return GalaxyStack(
            image=self.image[chosen],
            weight=self.weight[chosen],
            psf=self.psf if self.fixed_psf and len(self) > 1 else self.psf[chosen],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Restoration(Generic[Array]):
    """Restored galaxies and what is known of each, in tensors or in NumPy arrays.

    Attributes
    ----------
    image : (object, y, x) [as the input]
    flags : (object,) bits of `psfscale.arrays.ObjectFlag`
    sigma : (object,) noise used [as the input]
    chi2 : (object,) mean of squared residuals in noise units over the pixels in use
    error : (object, y, x) standard error of `image`, or None where the method gives none
    dual : dual variables of the splitting, in the order of its terms; empty where it has none
    psf : (object, y, x) refined PSFs, or None
    cost : cost at each evaluation, of all galaxies together
    convergence : why the solver stopped, last pass last
    """

    image: Array
    flags: Array
    sigma: Array
    chi2: Array
    error: Array | None = None
    dual: tuple[Array, ...] = ()
    psf: Array | None = None
    cost: tuple[float, ...] = ()
    convergence: tuple[Ending, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    @property
    def converged(self) -> Array:
        """(object,) whether the solution of a galaxy reached its tolerance."""
        found: Array = (self.flags & int(ObjectFlag.NOT_CONVERGED)) == 0
        return found

    @property
    def flux(self) -> Array:
        """(object,) sums of the restored images [as the input]."""
        total: Array = self.image.sum((1, 2))
        return total

    def numpy(self) -> Restoration[np.ndarray]:
        """Return the same in NumPy arrays."""
        return Restoration(**array_fields(self))

    def times(self, unit: float) -> Self:
        """The same in a flux unit `unit` times smaller: fluxes are multiplied by it."""
        if unit == 1.0:
            return self
        return replace(
            self,
            image=self.image * unit,
            sigma=self.sigma * unit,
            error=None if self.error is None else self.error * unit,
            dual=tuple(dual * unit for dual in self.dual),
        )


def galaxy_stack(
    images: ArrayLike | Tensor,
    psfs: ArrayLike | Tensor,
    *,
    weight: ArrayLike | Tensor | None = None,
    sigma: ArrayLike | Tensor | float | None = None,
    mask: ArrayLike | Tensor | None = None,
    unit: float = 1.0,
) -> GalaxyStack:
    """A checked stack; noise that is not given is estimated for each galaxy.

    Parameters
    ----------
    images : (object, y, x), background subtracted; float32 or float64, on the device to work on
    psfs : (object, y, x), or (y, x) for all; each sums to 1
    weight : (object, y, x), inverse variances, 0 = masked
    sigma : noise of each galaxy, or of all, in place of `weight`
    mask : (object, y, x), True for pixels not to use; so are masked pixels of masked arrays
    unit : flux unit of the stack [as the images]

    Raises
    ------
    InputError
        Shapes disagree, a value in use is not finite, a weight is negative, a PSF does not sum
        to one, a galaxy is masked everywhere, or both weight and sigma came.
    """
    flux = getattr(images, "unit", None)
    image, masked = read_tensor(images, "images")
    if image.ndim != 3 or min(image.shape) < 1:
        msg = f"images are a stack (object, y, x), got shape {tuple(image.shape)}"
        raise InputError(msg)
    good = torch.ones_like(image, dtype=torch.bool) if masked is None else ~masked
    image = image if unit == 1.0 else image / unit
    psf = _checked_psf(finite_tensor(psfs, "psfs").to(image), len(image))
    if mask is not None:
        good = good & ~_shaped("mask", mask, image)[0].bool()
    inverse_variance = None
    if weight is not None:
        if sigma is not None:
            msg = "give weight (inverse variances) or sigma (noise), not both"
            raise InputError(msg)
        inverse_variance = _weight(weight, image, unit=flux, factor=unit**2)
        good = good & (inverse_variance > 0)
    _require_pixels(image, good)
    whole = bool(good.all())
    if not whole:
        image = torch.where(good, image, 0.0)
    if inverse_variance is None:
        noise = (
            _measured(image, good)
            if sigma is None
            else _sigma(sigma, image, unit=flux, factor=1 / unit)
        )
        inverse_variance = (noise**-2)[:, None, None].expand_as(image)
    if not whole:
        inverse_variance = torch.where(good, inverse_variance, 0.0)
    return GalaxyStack(image=image, weight=inverse_variance, psf=psf)


def join(parts: Sequence[Restoration[Tensor]]) -> Restoration[Tensor]:
    """Restorations of parts of a stack as one, in their order."""
    first = parts[0]
    whole: dict[str, Any] = {}
    for name in (field.name for field in fields(Restoration)):
        values = [getattr(part, name) for part in parts]
        if name == "dual":
            whole[name] = tuple(torch.cat(terms) for terms in zip(*values, strict=True))
        elif name in {"cost", "convergence"}:
            whole[name] = sum(values, ())
        else:
            whole[name] = None if getattr(first, name) is None else torch.cat(values)
    return Restoration(**whole)


def _shaped(
    name: str, values: Any, like: Tensor, *, unit: Any = None, factor: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """An array of the images' shape, times `factor`, and where it was masked."""
    tensor, masked = read_tensor(values, name, unit=unit)
    if tensor.shape != like.shape:
        msg = f"{name} has shape {tuple(tensor.shape)}, expected {tuple(like.shape)}"
        raise InputError(msg)
    return (tensor * factor).to(like), masked


def _weight(values: Any, image: Tensor, *, unit: Any, factor: float) -> Float[Tensor, "object y x"]:
    """Inverse variances over `factor`; 0 where they are masked."""
    unit = None if unit is None else unit**-2
    weight, masked = _shaped("weight", values, image, unit=unit, factor=factor)
    if masked is not None:
        weight = torch.where(masked.to(weight.device), 0.0, weight)
    if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
        msg = "weight must be finite and not negative (inverse variance, 0 = masked)"
        raise InputError(msg)
    return weight


def _sigma(
    values: Any, image: Tensor, *, unit: Any = None, factor: float = 1.0
) -> Float[Tensor, " object"]:
    sigma, _ = read_tensor(values, "sigma", unit=unit)
    if tuple(sigma.shape) not in {(), (len(image),)}:
        msg = f"sigma has shape {tuple(sigma.shape)}, expected one number or ({len(image)},)"
        raise InputError(msg)
    if not bool(torch.isfinite(sigma).all() and (sigma > 0).all()):
        msg = "sigma must be finite and positive"
        raise InputError(msg)
    return (sigma.double() * factor).to(image).expand(len(image))


def _measured(image: Tensor, good: Tensor) -> Float[Tensor, " object"]:
    sigma = stamp_noise(image, good=good)
    flat = torch.nonzero(~(sigma > 0)).flatten()
    if len(flat):
        msg = (
            f"the noise of {len(flat)} galaxies cannot be measured (first: {flat[:5].tolist()}); "
            "give sigma or weight, or mask what is constant"
        )
        raise InputError(msg)
    return sigma


def _checked_psf(psf: Tensor, n: int) -> Float[Tensor, "psf ky kx"]:
    if psf.ndim == 2:
        psf = psf[None]
    if psf.ndim != 3 or len(psf) not in {1, n}:
        msg = f"psfs have shape {tuple(psf.shape)}, expected ({n}, y, x), or (y, x) for all"
        raise InputError(msg)
    total = psf.sum((1, 2), dtype=torch.float64)
    wrong = torch.nonzero((total - 1).abs() > PSF_SUM_TOLERANCE).flatten()
    if len(wrong):
        msg = (
            f"{len(wrong)} PSFs do not sum to 1 (first: number {int(wrong[0])} sums to "
            f"{float(total[wrong[0]]):.6g}); divide each by its sum"
        )
        raise InputError(msg)
    return psf


def _require_pixels(image: Tensor, good: Tensor) -> None:
    bad = torch.nonzero((good & ~torch.isfinite(image)).flatten(1).any(1)).flatten()
    if len(bad):
        msg = (
            f"{len(bad)} galaxies have NaN or infinite pixels in use "
            f"(first: {bad[:5].tolist()}); mask them or give them weight 0"
        )
        raise InputError(msg)
    empty = torch.nonzero(~good.flatten(1).any(1)).flatten()
    if len(empty):
        msg = f"{len(empty)} galaxies are masked everywhere (first: {empty[:5].tolist()})"
        raise InputError(msg)
