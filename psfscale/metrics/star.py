"""Measure stars against the PSFs drawn at their positions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from psfscale.arrays import ObjectFlag, centre_index, stack_shape
from psfscale.metrics.field import OVERSAMPLING
from psfscale.metrics.moments import Moments, adaptive_moments
from psfscale.metrics.refit import Refit, drops, refit, resampling, separable

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from psfscale.metrics.refit import PerStar, Stamps

SKY = "_sky"
"""End of the names of shapes along the sky's axes, u towards west and v towards north."""
FRAMES = ("", SKY)
"""Ends of the names of shapes, along the pixel axes and along the sky's."""
_FREE = 3  # flux and centroid
_HIDDEN_LIMIT = 0.1
"""Share of the model's power under masked pixels above which a star's shape is not measured."""


@dataclass(frozen=True, kw_only=True)
class Drops:
    """Stars on the fine grid of their models, cropped to the stack.

    Attributes
    ----------
    model : (star, y, x) flux in a CCD pixel over flux
    laid : (star, y, x) weight × (star − model) / flux, as drops
    weight : (star, y, x) weight of the residual over flux, as drops
    """

    model: Stamps
    laid: Stamps
    weight: Stamps

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """The parts, one after the other."""
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)}
        )


@dataclass(frozen=True, kw_only=True)
class StarMetrics:
    """What was measured of stars, star by star.

    Attributes
    ----------
    columns : (star,) arrays by their names in the store
    at : fluxes, centroids and models of the stars
    both_shapes : the moments of the star and of its model were measured
    drops : what the star adds to the stack of residuals
    snr2 : squared signal to noise under the model
    """

    columns: dict[str, np.ndarray]
    at: Refit
    both_shapes: Bool[np.ndarray, " star"]
    drops: Drops
    snr2: PerStar

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """The parts, one after the other."""

        def end_to_end(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        return cls(
            columns={
                name: np.concatenate([part.columns[name] for part in parts])
                for name in parts[0].columns
            },
            at=Refit.joined([part.at for part in parts]),
            both_shapes=end_to_end("both_shapes"),
            drops=Drops.joined([part.drops for part in parts]),
            snr2=end_to_end("snr2"),
        )

    def stacks(self, chosen: Bool[np.ndarray, " star"]) -> dict[str, Float[np.ndarray, "y x"]]:
        """Mean star and mean residual of the chosen stars, each weighing as its SNR².

        Both over flux, on cells `OVERSAMPLING` times finer than the pixels: a cell's residual is
        the weighted mean of the pixels that lie on it, and the star is the mean model and that.
        """
        use = chosen & self.at.converged
        model, laid, weight = (
            a[use] for a in (self.drops.model, self.drops.laid, self.drops.weight)
        )
        total = weight.sum(axis=0)
        residual = np.divide(
            laid.sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0
        )
        mean = np.average(model, axis=0, weights=self.snr2[use]) if use.any() else np.nan
        stacks = {"mean_star": mean + residual, "mean_residual": residual}
        return {name: stack.astype(np.float32) for name, stack in stacks.items()}


def power(image: Stamps, weight: Stamps) -> PerStar:
    """Sum of squares over the unmasked pixels."""
    return np.asarray((np.where(weight > 0, image, 0.0) ** 2).sum(axis=(1, 2)))


def measure_stars(
    image: Stamps,
    weight: Stamps,
    psf: Stamps,
    *,
    pixel_scale: float,
    jacobian: Float[np.ndarray, "star 2 2"],
) -> StarMetrics:
    """Every per-star metric of stars whose PSFs are drawn, fine and with a margin.

    Parameters
    ----------
    image, weight : (star, y, x) [electron], [1/electron²]
    psf : (star, y, x), `OVERSAMPLING` samples a CCD pixel
    pixel_scale : of the CCD [arcsec]
    jacobian : of the sky's tangent plane by the CCD's pixels, as `sky_jacobian` gives it
    """
    at = refit(image, weight, psf, oversampling=OVERSAMPLING)
    used = weight > 0
    residual = np.where(used, image - at.model, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_flux = residual / at.flux[:, None, None]
    of_star, of_model = _shapes(at, per_flux, psf, pixel_scale)
    hidden = _hidden(at.model, used)
    ok = of_star.ok & at.converged & (hidden <= _HIDDEN_LIMIT)
    columns = {
        "flux": at.flux,
        "shift_x": at.shift_x,
        "shift_y": at.shift_y,
        **_pixel_errors(image, weight, residual),
        **_shape_columns(of_star, ok, of_model),
        **_shape_columns(
            of_star.on_sky(jacobian, pixel_scale=pixel_scale),
            ok,
            of_model.on_sky(jacobian, pixel_scale=pixel_scale),
            suffix=SKY,
        ),
        "flags": _flags(ok, of_model.ok, at.converged),
    }
    return StarMetrics(
        columns=columns,
        at=at,
        both_shapes=ok & of_model.ok,
        drops=_drops(at, residual, weight, psf),
        snr2=np.nan_to_num((weight * at.model**2).sum(axis=(1, 2))),
    )


def _hidden(model: Stamps, used: Bool[np.ndarray, "star y x"]) -> PerStar:
    total = (model**2).sum(axis=(1, 2))
    seen = np.where(used, model**2, 0.0).sum(axis=(1, 2))
    return np.asarray(1 - np.divide(seen, total, out=np.zeros_like(total), where=total > 0))


def _shapes(
    at: Refit, per_flux: Stamps, psf: Stamps, pixel_scale: float
) -> tuple[Moments, Moments]:
    """Moments of the stars and of their models, on one fine grid.

    The star is the model plus what the pixels say against it: the residual, carried to the
    fine grid by sinc interpolation. Star and model then meet HSM in the same sampling and
    at the same sub-pixel phase, and masked pixels say nothing.
    """
    rows, columns = (
        resampling(shift, n=n, n_fine=n_fine, oversampling=OVERSAMPLING)
        for shift, n, n_fine in (
            (at.shift_y, per_flux.shape[1], psf.shape[1]),
            (at.shift_x, per_flux.shape[2], psf.shape[2]),
        )
    )
    star = psf + separable(rows, per_flux, columns) / OVERSAMPLING**2
    fine = pixel_scale / OVERSAMPLING
    return adaptive_moments(star, pixel_scale=fine), adaptive_moments(psf, pixel_scale=fine)


def _pixel_errors(image: Stamps, weight: Stamps, residual: Stamps) -> dict[str, PerStar]:
    used = weight > 0
    free = np.maximum(used.sum(axis=(1, 2)) - _FREE, 1)
    peak = np.where(used, image, -np.inf).max(axis=(1, 2))
    norm = np.sqrt(power(image, weight))
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = {
            "chi2": (weight * residual**2).sum(axis=(1, 2)) / free,
            "rel_rmse": np.sqrt(power(residual, weight)) / norm,
            "max_residual": np.abs(residual).max(axis=(1, 2)) / peak,
        }
    bright = used.any(axis=(1, 2)) & (peak > 0)
    return {name: np.where(bright, values, np.nan) for name, values in errors.items()}


def _shape_columns(
    of_star: Moments, star_ok: Bool[np.ndarray, " star"], of_model: Moments, suffix: str = ""
) -> dict[str, PerStar]:
    columns = {}
    for name in ("e1", "e2", "R2"):
        columns[f"{name}_star{suffix}"] = np.where(star_ok, getattr(of_star, name), np.nan)
        columns[f"{name}_model{suffix}"] = getattr(of_model, name)
    return columns


def _flags(
    star_ok: Bool[np.ndarray, " star"],
    model_ok: Bool[np.ndarray, " star"],
    converged: Bool[np.ndarray, " star"],
) -> np.ndarray:
    flags = np.zeros(len(star_ok), dtype=np.uint32)
    flags[~star_ok] |= np.uint32(ObjectFlag.MOMENTS_FAILED_DATA)
    flags[~model_ok] |= np.uint32(ObjectFlag.MOMENTS_FAILED_MODEL)
    flags[~converged] |= np.uint32(ObjectFlag.NOT_CONVERGED)
    return flags


def _drops(at: Refit, residual: Stamps, weight: Stamps, psf: Stamps) -> Drops:
    """Stars on cells centred on them.

    A residual over flux has the variance 1 / (weight × flux²).
    """
    height, width = residual.shape[1:]
    cells = stack_shape((height, width))
    known = np.isfinite(at.flux)
    shift_y, shift_x, flux = (
        np.where(known, values, 0.0)[..., None, None]
        for values in (at.shift_y, at.shift_x, at.flux)
    )
    size = {"oversampling": OVERSAMPLING}
    rows = drops(shift_y[:, 0, 0], n=height, n_fine=cells[0], **size)
    columns = drops(shift_x[:, 0, 0], n=width, n_fine=cells[1], **size)
    picked = tuple(
        centre_index(fine) + np.arange(n) - centre_index(n)
        for n, fine in zip(cells, psf.shape[1:], strict=True)
    )
    return Drops(
        model=psf[:, picked[0][:, None], picked[1]] * OVERSAMPLING**2,
        laid=separable(rows, weight * flux * residual, columns),
        weight=separable(rows, weight * flux**2, columns),
    )
