"""The mean star of a CCD: the baseline that a PSF field has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.metrics.refit import MARGIN, Refit, sampling, separable

if TYPE_CHECKING:
    from jaxtyping import Float

    from psfscale.metrics.refit import Stamps

_ITERATIONS = 12
_HIGHEST_SNR = 300.0
_TOLERANCE = 1e-12
"""Squared gradient over its start at which the mean is found; below lies rounding alone."""


def mean_star(
    image: Stamps, weight: Stamps, at: Refit, *, oversampling: int
) -> Float[np.ndarray, "y x"]:
    """The one PSF that explains all stars best at their given fluxes and centroids.

    Weighted least squares over all unmasked pixels, by conjugate gradients from zero: at
    `oversampling` 1 the registered, flux-normalised, inverse-variance mean; above, the mean
    on a finer grid, which undersampled stars of many sub-pixel phases determine. A star's
    weight stops growing at a signal to noise of 300, so that no single one is the mean.

    Parameters
    ----------
    image, weight : (star, y, x) [electron], [1/electron²]
    at : of these stars
    oversampling : samples per CCD pixel of the result

    Returns
    -------
    (y, x) : unit sum, centred on index ``n // 2``, reaching `MARGIN` pixels over the stamp
    """
    weight = _moderated(weight, at)
    height, width = ((n + 2 * MARGIN) * oversampling for n in image.shape[1:])
    size = {"oversampling": oversampling}
    rows, _ = sampling(at.shift_y, n=image.shape[1], n_fine=height, **size)
    columns, _ = sampling(at.shift_x, n=image.shape[2], n_fine=width, **size)
    rows = rows * at.flux[:, None, None] * oversampling**2
    rows_t, columns_t = rows.swapaxes(-1, -2), columns.swapaxes(-1, -2)

    def adjoint(residual: Stamps) -> Float[np.ndarray, "y x"]:
        return np.asarray(separable(rows_t, weight * residual, columns_t).sum(axis=0))

    mean = np.zeros((height, width))
    gradient = adjoint(np.where(weight > 0, image, 0.0))
    direction, power = gradient, float((gradient**2).sum())
    enough = _TOLERANCE * power
    for _ in range(_ITERATIONS):
        if power <= enough:
            break
        curved = adjoint(separable(rows, direction, columns))
        step = power / float((direction * curved).sum())
        mean = mean + step * direction
        gradient = gradient - step * curved
        power, before = float((gradient**2).sum()), power
        direction = gradient + power / before * direction
    return np.asarray(mean / mean.sum())


def _moderated(weight: Stamps, at: Refit) -> Stamps:
    """Weights with each star's signal to noise held below the limit."""
    snr2 = (weight * at.model**2).sum(axis=(1, 2))
    return np.asarray(weight / (1 + snr2 / _HIGHEST_SNR**2)[:, None, None])
