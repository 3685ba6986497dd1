r"""From spectra to a few wavelengths: Gauss-Legendre nodes with product-integration weights.

A broad-band PSF is ``Σ_b s_b PSF(λ_b)``, s the photons in each bin of the spectrum. As PSF(λ) is
smooth, it is replaced by its interpolation polynomial through Q Gauss-Legendre nodes, which
leaves ``Σ_q w_q PSF(λ_q)`` with ``w_q = Σ_b s_b ℓ_q(λ_b)``, ℓ_q the nodes' Lagrange polynomials:
the spectrum is integrated as it stands, and only the PSF is approximated. Polynomials and nodes
are in 1/λ, of which a phase is a linear function: there the PSF is band-limited, no harder to
follow at one end of the passband than at the other.

======  ===============================================  ======
symbol  name                                             unit
======  ===============================================  ======
λ_b     centres of the spectrum's bins                   µm
s_b     photons per bin, summing to 1                    1
λ_q     nodes                                            µm
w_q     weights of the nodes; sum to 1, may be negative  1
======  ===============================================  ======
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psfscale.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["flat_spectrum", "gauss_nodes", "node_weights", "quadrature"]


def gauss_nodes(n: int, minimum: float, maximum: float) -> Float[np.ndarray, " node"]:
    """Gauss-Legendre nodes in 1/λ between two wavelengths, ascending in λ [µm]."""
    nodes = np.polynomial.legendre.leggauss(n)[0]
    low, high = 1 / maximum, 1 / minimum
    return np.asarray(1 / (0.5 * (low + high) - 0.5 * (high - low) * nodes))


def node_weights(
    nodes: Float[np.ndarray, " node"],
    *,
    sed: Float[np.ndarray, "object wavelength"],
    wavelength: Float[np.ndarray, " wavelength"],
) -> Float[np.ndarray, "object node"]:
    """Weights of the nodes that integrate each spectrum; rows sum to that of the spectrum."""
    k, places = 1 / wavelength, 1 / nodes
    lagrange = np.ones((len(k), len(places)))
    for q, place in enumerate(places):
        for other in np.delete(places, q):
            lagrange[:, q] *= (k - other) / (place - other)
    return np.asarray(sed.astype(np.float64) @ lagrange)


def flat_spectrum(minimum: float, maximum: float, *, n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(sed, wavelength) with the same photons in each of `n` bins between two wavelengths [µm]."""
    edges = np.linspace(minimum, maximum, n + 1)
    return np.full(n, 1 / n), 0.5 * (edges[1:] + edges[:-1])


def quadrature(
    sed: Float[np.ndarray, "object wavelength"],
    wavelength: Float[np.ndarray, " wavelength"],
    *,
    n_nodes: int,
) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, "object node"]]:
    """Nodes for these spectra, and each spectrum's weights, summing to 1.

    The nodes span the wavelengths at which any spectrum has photons. Where those are no more
    than `n_nodes` the nodes are those wavelengths, and nothing is approximated.

    Raises
    ------
    InputError
        A spectrum is not finite, has negative photons or none, or a wavelength is not positive.
    """
    _require_spectra(sed, wavelength)
    lit = (sed > 0).any(axis=0)
    sed, wavelength = sed[:, lit].astype(np.float64), wavelength[lit].astype(np.float64)
    sed = sed / sed.sum(axis=1, keepdims=True)
    if len(wavelength) <= n_nodes:
        return wavelength, sed
    nodes = gauss_nodes(n_nodes, float(wavelength.min()), float(wavelength.max()))
    return nodes, node_weights(nodes, sed=sed, wavelength=wavelength)


def _require_spectra(sed: np.ndarray, wavelength: np.ndarray) -> None:
    if not (np.isfinite(wavelength).all() and (wavelength > 0).all()):
        msg = "wavelengths must be finite and positive [µm]"
        raise InputError(msg)
    bad = ~np.isfinite(sed).all(axis=1) | (sed < 0).any(axis=1) | ~(sed > 0).any(axis=1)
    if bad.any():
        first = np.flatnonzero(bad)[:5].tolist()
        msg = (
            f"{int(bad.sum())} spectra have no photons, or some that are negative or not finite "
            f"(first: {first}); give photons per bin"
        )
        raise InputError(msg)
