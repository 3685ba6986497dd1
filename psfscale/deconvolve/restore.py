"""Galaxies without their PSFs: from arrays to a checked result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from psfscale.arrays import ObjectFlag
from psfscale.deconvolve.learnt.learn import restore_by_own_prior
from psfscale.deconvolve.learnt.restore import restore as restore_learnt
from psfscale.deconvolve.priors import (
    Free,
    LowRank,
    LowRankCoefficients,
    Sparse,
    low_rank_threshold,
    noise_edge,
    sparse_thresholds,
)
from psfscale.deconvolve.problem import DataTerm, NoData
from psfscale.deconvolve.refine import RefinedPsf
from psfscale.deconvolve.settings import DeconvolutionSettings
from psfscale.deconvolve.solve import solve
from psfscale.deconvolve.stack import GalaxyStack, Restoration, galaxy_stack, join
from psfscale.deconvolve.wiener import wiener
from psfscale.errors import ConfigError, InputError
from psfscale.kernels.convolution import Convolution
from psfscale.kernels.frames.filter_bank import Bands
from psfscale.kernels.user_tensors import finite_tensor, read_tensor, unit_of_images
from psfscale.yamlfile import with_options

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import ArrayLike
    from torch import Tensor

    from psfscale.deconvolve.learnt.prior import Prior as GalaxyPrior
    from psfscale.deconvolve.priors import Penalty
    from psfscale.deconvolve.solve import Solved
    from psfscale.kernels.optimize.lowrank import ThresholdKind

__all__ = ["deconvolve", "restore"]

SHARE_OF_NOISE = {"lowr": 0.3, "all": 0.15}
"""Low-rank threshold over the largest singular value of noise, `noise_edge`."""

CONCAVITY = {"lowr": 8.0, "all": 2.0}
"""γ of the low-rank penalty [1/mean curvature of the data term]."""

BLOCK = 128
"""Galaxies solved together where each has its own problem."""


@overload
def deconvolve(images: Tensor, psfs: ArrayLike | Tensor, **options: Any) -> Restoration[Tensor]: ...


@overload
def deconvolve(
    images: ArrayLike, psfs: ArrayLike | Tensor, **options: Any
) -> Restoration[np.ndarray]: ...


def deconvolve(
    images: ArrayLike | Tensor,
    psfs: ArrayLike | Tensor,
    *,
    weight: ArrayLike | Tensor | None = None,
    sigma: ArrayLike | Tensor | float | None = None,
    mask: ArrayLike | Tensor | None = None,
    current_res: ArrayLike | Tensor | None = None,
    prior: GalaxyPrior | None = None,
    settings: DeconvolutionSettings | None = None,
    **options: Any,
) -> Restoration[Any]:
    """Restore a stack of galaxies, each seen through its own PSF.

    The result holds tensors where `images` is a tensor, on its device, and NumPy arrays else.

    Parameters
    ----------
    images : (object, y, x), background subtracted; float32 or float64, which the result keeps,
        on the device to work on
    psfs : (object, y, x), or (y, x) for all; each sums to 1, centre on index ``n // 2``
    weight : (object, y, x), inverse variances, 0 = masked
    sigma : noise of each galaxy, or of all, in place of `weight`; measured where neither is given
    mask : (object, y, x), True for pixels not to use
    current_res : (object, y, x), an earlier result to start from
    prior : of mode learnt, from `psfscale.deconvolve.learnt.learn.learn_prior`; learnt from these
        galaxies where None
    settings : all settings, or None for the defaults
    **options : single settings, over `settings`; see `DeconvolutionSettings`

    Raises
    ------
    ConfigError
        A setting is unknown, out of range, or combined with one that excludes it.
    InputError
        The arrays are not what they should be; see `galaxy_stack`.

    Examples
    --------
    >>> import numpy as np
    >>> psf = np.full((3, 3), 1 / 9)
    >>> deconvolve(np.eye(9)[None], psf, mode="grad", sigma=0.1).image.shape
    (1, 9, 9)
    """
    chosen = with_options(
        settings or DeconvolutionSettings(), options, name="settings of the deconvolution"
    )
    if chosen.noise_est is not None:
        if weight is not None or sigma is not None:
            msg = "noise_est is the noise of all galaxies: give it, or weight, or sigma"
            raise InputError(msg)
        sigma = chosen.noise_est
    if chosen.parity:
        masked = isinstance(images, np.ma.MaskedArray) and np.ma.is_masked(images)
        if not (weight is None and mask is None) or masked:
            msg = "the published program knows no weights and no masks: leave parity out"
            raise ConfigError(msg)
        sigma = common_noise(images) if sigma is None else sigma
    # parity and refined PSFs have settings in the images' own unit
    literal = chosen.parity or chosen.grad_type == "psf_unknown"
    unit = 1.0 if literal else unit_of_images(images)
    stack = galaxy_stack(images, psfs, weight=weight, sigma=sigma, mask=mask, unit=unit)
    start = None if current_res is None else _start(current_res, stack, unit)
    prior = None if prior is None else prior.times(1 / unit)
    found = restore(stack, settings=chosen, start=start, prior=prior).times(unit)
    return found if isinstance(images, torch.Tensor) else found.numpy()


def _start(
    current_res: ArrayLike | Tensor, stack: GalaxyStack, unit: float
) -> Float[Tensor, "object y x"]:
    start = (finite_tensor(current_res, "current_res") / unit).to(stack.image)
    if start.shape != stack.image.shape:
        msg = (
            f"current_res has the images' shape {tuple(stack.image.shape)}, got shape "
            f"{tuple(start.shape)}"
        )
        raise InputError(msg)
    return start


def restore(
    stack: GalaxyStack,
    *,
    settings: DeconvolutionSettings,
    start: Float[Tensor, "object y x"] | None = None,
    prior: GalaxyPrior | None = None,
) -> Restoration[Tensor]:
    """Restore a checked stack; galaxies without a joint prior are taken a block at a time.

    Parameters
    ----------
    start : what to start from; the Wiener solution where None
    prior : of mode learnt; learnt from the stack where None

    Raises
    ------
    ConfigError
        `start` is given to mode learnt, or `prior` to another.
    """
    if settings.mode == "learnt":
        return _learnt(stack, settings, start, prior)
    if prior is not None:
        msg = f"a learnt prior is for mode learnt, not {settings.mode}: leave it out"
        raise ConfigError(msg)
    joint = settings.mode in {"lowr", "all"} or (
        settings.grad_type == "psf_unknown" and stack.fixed_psf
    )
    if joint or settings.parity:
        return _Block(stack, settings).restored(start)
    if start is None and settings.grad_type != "none":
        whole = _Block(stack, settings)
        start = whole.first_guess() * stack.sigma[:, None, None]
    blocks = [slice(i, i + BLOCK) for i in range(0, len(stack), BLOCK)]
    return join(
        [
            _Block(stack.select(b), settings).restored(None if start is None else start[b])
            for b in blocks
        ]
    )


def _learnt(
    stack: GalaxyStack,
    settings: DeconvolutionSettings,
    start: Tensor | None,
    prior: GalaxyPrior | None,
) -> Restoration[Tensor]:
    if start is not None:
        msg = "mode learnt finds its own start: leave current_res out, or name another mode"
        raise ConfigError(msg)
    if prior is None:
        return restore_by_own_prior(stack, settings=settings.learnt)
    return restore_learnt(stack, prior, settings=settings.learnt)


def common_noise(images: ArrayLike | Tensor) -> float:
    """Scaled median absolute deviation of all pixels of a stack; galaxies' light raises it."""
    image, masked = read_tensor(images, "images")
    pixels = np.asarray((image if masked is None else image[~masked]).cpu(), dtype=np.float64)
    return float(1.4826 * np.median(np.abs(pixels - np.median(pixels))))


class _Block:
    """Galaxies that are solved together, over their noise.

    In parity the images stay in their own unit, `level` is the noise of all of them.
    """

    def __init__(self, stack: GalaxyStack, settings: DeconvolutionSettings) -> None:
        self.stack, self.settings = stack, settings
        self.level = 1.0
        self.scale = stack.sigma
        if settings.parity:
            self.scale = torch.ones_like(stack.sigma)
            self.level = float(stack.sigma[0])
        self.image = stack.image / self.scale[:, None, None]
        self.blur = Convolution(psf=stack.psf, shape=stack.shape, boundary=settings.boundary)
        self.weight: Tensor | None = None
        if not settings.parity and not stack.uniform:
            self.weight = stack.weight * stack.sigma.square()[:, None, None]

    def restored(self, start: Tensor | None) -> Restoration[Tensor]:
        """The solution, back in the images' unit."""
        scale = self.scale[:, None, None]
        data = self._data()
        begin = self.first_guess() if start is None else start / scale
        solved = solve(data, self._priors(), settings=self.settings, start=begin)
        return Restoration(
            image=solved.x * scale,
            flags=self._flags(solved),
            sigma=self.scale * self.level,
            chi2=self._chi2(data, solved.x),
            dual=tuple(
                dual * self.scale.reshape(-1, *[1] * (dual.ndim - 1)) for dual in solved.duals
            ),
            psf=data.blur.psf if self.settings.grad_type == "psf_unknown" else None,
            cost=solved.cost,
            convergence=solved.convergence,
        )

    def first_guess(self) -> Tensor:
        """What to start from: Hᵀy, the Wiener solution, the images without data, 1 in parity.

        A penalty that leaves large singular values whole keeps what it starts from: Hᵀy has no
        amplified noise among them, where the Wiener solution has.
        """
        if self.settings.parity:
            return torch.ones_like(self.image)
        if self.settings.grad_type == "none":
            return self.image.clone()
        if self.settings.mode in {"lowr", "all"}:
            return self._data().pulled()
        begin = wiener(self.image, psf=self.stack.psf, weight=self.weight)
        return begin.clamp(min=0) if self.settings.positivity else begin

    def _data(self) -> DataTerm:
        settings = self.settings
        if settings.grad_type == "psf_unknown":
            return RefinedPsf(
                self.image,
                weight=self.weight,
                blur=self.blur,
                scale=self.scale,
                lambda_psf=settings.lambda_psf,
                beta_psf=settings.beta_psf,
                literal=settings.parity,
            )
        if settings.grad_type == "none":
            return NoData(self.image, weight=self.weight, blur=self.blur)
        shape = settings.lambda_shape if settings.grad_type == "shape" else 0.0
        return DataTerm(self.image, weight=self.weight, blur=self.blur, lambda_shape=shape)

    def _priors(self) -> list[Penalty]:
        mode = self.settings.mode
        priors: list[Penalty] = []
        if mode in {"sparse", "all"}:
            priors.append(self._sparse())
        if mode in {"lowr", "all"}:
            priors.append(self._low_rank())
        if mode == "grad" and self.settings.parity:
            priors.append(Free())
        return priors

    def _sparse(self) -> Penalty:
        settings = self.settings
        bands = Bands(
            shape=self.stack.shape,
            wavelet=settings.wavelet,
            n_scales=len(settings.wave_factors),
        )
        thresholds = self.level * sparse_thresholds(bands, self.blur, settings.wave_factors)
        # The published program pairs each galaxy with the PSF at its place from the end.
        return Sparse(bands, thresholds.flip(0) if settings.parity else thresholds)

    def _low_rank(self) -> Penalty:
        settings = self.settings
        concavity = CONCAVITY[settings.mode] / float(self.blur.psf.square().sum((1, 2)).mean())
        hard: ThresholdKind = "hard" if settings.parity else "firm"
        kind = "soft" if settings.lowr_thresh_type == "soft" else hard
        if settings.lowr_type == "ngole":
            return LowRankCoefficients(
                (settings.lowr_thresh_factor or 1.0) * self.level,
                kind=kind,
                concavity=concavity,
                blur=self.blur,
                paired=settings.parity,
            )
        return LowRank(
            self._low_rank_level() * self.level,
            kind=kind,
            concavity=concavity,
            follow=not settings.parity,
        )

    def _low_rank_level(self) -> float:
        """λ for unit noise: a share of what noise gives, or the published one by a factor."""
        settings, n = self.settings, len(self.stack)
        if settings.lowr_thresh_factor is None and not settings.parity:
            return SHARE_OF_NOISE[settings.mode] * noise_edge(n, self.blur)
        published = low_rank_threshold(n, self.image[0].numel())
        return (settings.lowr_thresh_factor or 1.0) * published

    def _flags(self, solved: Solved) -> Tensor:
        flags = torch.where(self.stack.masked, int(ObjectFlag.MASKED), 0)
        late = torch.where(solved.converged.to(flags.device), 0, int(ObjectFlag.NOT_CONVERGED))
        return flags | late

    def _chi2(self, data: DataTerm, x: Tensor) -> Tensor:
        used = (self.stack.weight > 0).flatten(1).sum(1)
        square = data.residual(x).flatten(1).square().sum(1)
        return square / used / self.level**2
