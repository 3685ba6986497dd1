"""SPRITE: one PSF, super-resolved, from several undersampled noisy stamps; many at once.

Paper: Ngolè Mboula, Starck, Ronayette, Okumura & Amiaux 2015, A&A 575, A86
(arXiv:1410.7679). What is solved, and what departs from the paper, stands in
``docs/methods/sprite.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, overload

import torch

from psfscale.errors import FitError, InputError
from psfscale.kernels.spectral import frequency_grid
from psfscale.kernels.user_tensors import Array, array_fields, read_tensor, unit_of_images
from psfscale.models.sprite.bayes import norms
from psfscale.models.sprite.data import Stamps, StampTerm
from psfscale.models.sprite.fit import register
from psfscale.models.sprite.guess import first_guess
from psfscale.models.sprite.prior import prior_basis
from psfscale.models.sprite.settings import SPRITESettings
from psfscale.models.sprite.sparse import corrected
from psfscale.models.sprite.stars import Fixed, stamp_noise
from psfscale.yamlfile import with_options

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float
    from numpy.typing import ArrayLike
    from torch import Tensor

    from psfscale.kernels.spectral import FrequencyGrid
    from psfscale.models.sprite.fit import Registered

__all__ = ["SPRITE", "SpriteResult"]

CHUNK_CPU = 4
"""PSFs solved together on a processor: the most that stay near its caches."""

CHUNK_GPU = 256


@dataclass(frozen=True, kw_only=True)
class SpriteResult(Generic[Array]):
    """Super-resolved PSFs and their stamps, in tensors or in NumPy arrays.

    Attributes
    ----------
    psf : (psf, y, x), unit sum, centroid on index ``n // 2``; pixel response included
    psf_error : (psf, y, x), standard error of `psf`, averaged over each radius
    flux, flux_error : (psf, exposure) [electron]
    shift_y, shift_x : (psf, exposure) [CCD pixel], star from the centre of its stamp
    shift_error : (psf, exposure, 2), of shift_y and shift_x for a known PSF [CCD pixel]
    noise : (psf, exposure) standard deviation of a stamp's best pixel [electron]
    chi2 : (psf, exposure) mean of squared residuals in noise units
    n_rounds : (psf,) rounds of PSF and stars
    n_iterations : (psf,) iterations of the correction
    converged : (psf,) whether rounds and correction both reached their tolerance
    """

    psf: Array
    psf_error: Array
    flux: Array
    flux_error: Array
    shift_y: Array
    shift_x: Array
    shift_error: Array
    noise: Array
    chi2: Array
    n_rounds: Array
    n_iterations: Array
    converged: Array

    def numpy(self) -> SpriteResult[np.ndarray]:
        """Return the same in NumPy arrays."""
        return SpriteResult(**array_fields(self))

    def times(self, unit: float) -> SpriteResult[Array]:
        """The same in a flux unit `unit` times smaller: fluxes and noise are multiplied by it."""
        scaled = {name: getattr(self, name) * unit for name in ("flux", "flux_error", "noise")}
        return replace(self, **scaled)


class SPRITE:
    """Sparse recovery of instrument PSFs by super-resolution of undersampled stamps.

    Parameters
    ----------
    settings : all settings, or None for the defaults
    **options : single settings, over `settings`

    Examples
    --------
    >>> SPRITE(upsampling=3, transform="starlet").settings.upsampling
    3
    """

    def __init__(self, settings: SPRITESettings | None = None, **options: Any) -> None:
        self._settings = with_options(
            settings or SPRITESettings(), options, name="settings of SPRITE"
        )

    @property
    def settings(self) -> SPRITESettings:
        """The frozen settings."""
        return self._settings

    @overload
    def fit(
        self,
        images: Tensor,
        *,
        weight: ArrayLike | Tensor | None = None,
        sigma: ArrayLike | Tensor | None = None,
        mask: ArrayLike | Tensor | None = None,
        shifts: ArrayLike | Tensor | None = None,
        flux: ArrayLike | Tensor | None = None,
    ) -> SpriteResult[Tensor]: ...

    @overload
    def fit(
        self,
        images: ArrayLike,
        *,
        weight: ArrayLike | Tensor | None = None,
        sigma: ArrayLike | Tensor | None = None,
        mask: ArrayLike | Tensor | None = None,
        shifts: ArrayLike | Tensor | None = None,
        flux: ArrayLike | Tensor | None = None,
    ) -> SpriteResult[np.ndarray]: ...

    def fit(
        self,
        images: ArrayLike | Tensor,
        *,
        weight: ArrayLike | Tensor | None = None,
        sigma: ArrayLike | Tensor | None = None,
        mask: ArrayLike | Tensor | None = None,
        shifts: ArrayLike | Tensor | None = None,
        flux: ArrayLike | Tensor | None = None,
    ) -> SpriteResult[Any]:
        """Super-resolve each PSF from its stamps.

        The result holds tensors where `images` is a tensor, on its device, and NumPy arrays else.
        All that is not given is estimated. A PSF of the batch comes out as it would alone, and
        does not depend on the order of its exposures.

        Parameters
        ----------
        images : (psf, exposure, y, x) [electron], background subtracted, the star within a few
            pixels of index ``n // 2``; float32 or float64, on the device to work on
        weight : (psf, exposure, y, x) [1/electron²], inverse variances, 0 = masked; a stamp
            without weight counts as absent
        sigma : (psf, exposure) [electron], noise of each stamp, in place of `weight`
        mask : (psf, exposure, y, x), True for pixels not to use
        shifts : (psf, exposure, 2) [CCD pixel], (y, x) of the star from index ``n // 2``; only
            their differences between exposures matter
        flux : (psf, exposure) [electron]; only their ratios matter for the PSF

        Raises
        ------
        InputError
            Shapes disagree, values are not finite where used, or both weight and sigma came.
        FitError
            A PSF has no stamp with a star in it.
        """
        flux_unit = getattr(images, "unit", None)
        image, masked = read_tensor(images, "images")
        if image.ndim != 4 or min(image.shape) < 1 or min(image.shape[2:]) < 8:
            msg = f"images are (psf, exposure, y, x) of 8×8 pixels or more, got {image.shape}"
            raise InputError(msg)
        good = torch.ones_like(image, dtype=torch.bool) if masked is None else ~masked
        unit = unit_of_images(image[good])
        image = image if unit == 1.0 else image / unit
        noise = {
            "weight": _Given(weight, None if flux_unit is None else flux_unit**-2, unit**2),
            "sigma": _Given(sigma, flux_unit, 1 / unit),
        }
        stamps = _stamps(image, good=good, mask=mask, **noise)
        grid = frequency_grid(
            (image.shape[2], image.shape[3]),
            upsampling=self._settings.upsampling,
            band_limit=self._settings.band_limit,
        )
        fixed = _fixed(image, grid, shifts=shifts, flux=_Given(flux, flux_unit, 1 / unit))
        size = CHUNK_CPU if image.device.type == "cpu" else CHUNK_GPU
        parts = [
            self._fit_chunk(stamps.select(chunk), fixed.select(chunk), grid)
            for chunk in (slice(i, i + size) for i in range(0, len(image), size))
        ]
        names = [field.name for field in fields(SpriteResult)]
        whole: SpriteResult[Tensor] = SpriteResult(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        )
        found = whole.times(unit)
        return found if isinstance(images, torch.Tensor) else found.numpy()

    def _fit_chunk(self, stamps: Stamps, fixed: Fixed, grid: FrequencyGrid) -> SpriteResult[Tensor]:
        settings = self._settings
        registered = register(stamps, fixed, grid=grid, settings=settings)
        values = registered.values
        term = StampTerm.at(
            stamps,
            grid=grid,
            amplitude=values.amplitude,
            dy=values.dy,
            dx=values.dx,
            uniform=stamps.uniform,
        )
        guess = first_guess(term, registered, kind=settings.first_guess)
        answer = corrected(
            term,
            guess,
            settings=settings,
            noise_norm=norms(registered.draw, grid),
            coarse_free=settings.first_guess != "bayes",
        )
        shape = (grid.shape[0] * settings.upsampling, grid.shape[1] * settings.upsampling)
        fine = grid.coefficients(answer.psf)
        centre = [torch.tensor(n // 2 / settings.upsampling).to(values.dy) for n in shape]
        psf = grid.image(fine * grid.phases(centre[0], centre[1]), shape)
        if settings.positivity:
            # Positive on the fine grid; between its pixels a band-limited image may dip.
            psf = psf.clamp(min=0)
        total = psf.sum((1, 2))
        ratio = settings.upsampling**2 / grid.pixel_ratio
        scale = (total / ratio)[:, None] / grid.pixel_ratio
        residual = stamps.weight.sqrt() * (stamps.image - term.forward(fine))
        used = (stamps.weight > 0).sum((2, 3)).clamp(min=1)
        error = values.error if values.error is not None else torch.zeros_like(values.dy)[..., None]
        return SpriteResult(
            psf=psf / total[:, None, None],
            psf_error=_radial_error(grid, registered, shape) / ratio,
            flux=values.amplitude * scale,
            flux_error=error[..., 0] * scale,
            shift_y=values.dy - grid.shape[0] // 2,
            shift_x=values.dx - grid.shape[1] // 2,
            shift_error=error[..., 1:],
            noise=stamps.weight.flatten(2).amax(2).clamp(min=1e-37).rsqrt(),
            chi2=(residual**2).sum((2, 3)) / used,
            n_rounds=registered.n_rounds,
            n_iterations=answer.n_iterations,
            converged=registered.settled & answer.converged,
        )


class _Given(NamedTuple):
    """An array that the user may give, the unit of its quantities, and its factor in the fit."""

    values: Any
    unit: Any = None
    factor: float = 1.0


def _shaped(name: str, given: _Given, *, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The array in the fit's unit; what is masked counts as 0."""
    tensor, masked = read_tensor(given.values, name, unit=given.unit)
    if tuple(tensor.shape) != shape:
        msg = f"{name} has shape {tuple(tensor.shape)}, expected {shape}"
        raise InputError(msg)
    tensor = (tensor * given.factor).to(like)
    return tensor if masked is None else torch.where(masked.to(like.device), 0.0, tensor)


def _stamps(image: Tensor, *, good: Tensor, weight: _Given, sigma: _Given, mask: Any) -> Stamps:
    """Pixels and inverse variances; noise that is not given is estimated."""
    shape, pair = tuple(image.shape), tuple(image.shape[:2])
    if weight.values is not None and sigma.values is not None:
        msg = "give weight (inverse variances) or sigma (noise of each stamp), not both"
        raise InputError(msg)
    if mask is not None:
        good = good & ~_shaped("mask", _Given(mask), like=image, shape=shape).bool()
    if weight.values is not None:
        variance_inverse = _shaped("weight", weight, like=image, shape=shape)
        if not bool(torch.isfinite(variance_inverse).all()) or bool((variance_inverse < 0).any()):
            msg = "weight must be finite and not negative (inverse variance, 0 = masked)"
            raise InputError(msg)
        good = good & (variance_inverse > 0)
    if not bool(torch.isfinite(image[good]).all()):
        msg = "images have NaN or infinite pixels in use; mask them or give them weight 0"
        raise InputError(msg)
    image = torch.where(good, image, 0.0)
    if weight.values is None:
        noise = (
            stamp_noise(image, good=good)
            if sigma.values is None
            else _shaped("sigma", sigma, like=image, shape=pair)
        )
        if not bool((noise[good.flatten(2).any(2)] > 0).all()):
            msg = "the noise of a stamp is zero or negative: give sigma, or mask the stamp"
            raise InputError(msg)
        variance_inverse = (1 / noise**2)[..., None, None].expand(shape)
    stamps = Stamps(image=image, weight=torch.where(good, variance_inverse, 0.0))
    empty = torch.nonzero(~stamps.present.any(1)).flatten()
    if len(empty):
        msg = f"{len(empty)} PSFs have no stamp with weight (first: {empty[:5].tolist()})"
        raise FitError(msg)
    return stamps


def _fixed(image: Tensor, grid: FrequencyGrid, *, shifts: Any, flux: _Given) -> Fixed:
    """What the user knows, in the units of the fit."""
    pair = tuple(image.shape[:2])
    amplitude = dy = dx = None
    if shifts is not None:
        centres = _shaped("shifts", _Given(shifts, "pixel"), like=image, shape=(*pair, 2))
        if not bool(torch.isfinite(centres).all()):
            msg = "shifts must be finite"
            raise InputError(msg)
        dy, dx = centres[..., 0] + grid.shape[0] // 2, centres[..., 1] + grid.shape[1] // 2
    if flux.values is not None:
        amplitude = _shaped("flux", flux, like=image, shape=pair) * grid.pixel_ratio
        if not bool((amplitude > 0).all()):
            msg = "flux must be positive; give absent stamps weight 0 and any positive flux"
            raise InputError(msg)
    return Fixed(amplitude=amplitude, dy=dy, dx=dx)


def _radial_error(
    grid: FrequencyGrid, registered: Registered, shape: tuple[int, int]
) -> Float[Tensor, "psf y x"]:
    """Standard error from one draw of the posterior, averaged over radii."""
    draw = grid.image(registered.draw)
    basis = prior_basis(grid, dtype=draw.dtype, device=draw.device)
    return basis.spread(basis.mean(draw**2), shape).sqrt()
