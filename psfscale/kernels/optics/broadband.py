r"""Broad-band PSFs from wavefronts: pupil, wavelengths, detector; with exact derivatives.

``I = Σ_q w_q n_q R |F_q(A exp(2πi W / λ_q))|² Rᵀ``, F_q the matrix DFT at wavelength λ_q, R the
detector along an axis, n_q the normalisation of a wavelength: one over its sum inside the stamp,
or over its energy in the whole focal plane. Derivatives are written out: with respect to the
wavefront at every pupil point (`pullback`), along a change of the wavefront (`push`), and with
respect to products of Legendre polynomials, all of them at little more than the cost of one
transform each (`jacobian`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from psfscale.kernels.optics.propagate import MatrixDFT, pupil_field

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Float
    from torch import Tensor

__all__ = ["CACHE_BYTES", "BroadbandPsf", "working_set"]

CACHE_BYTES = 4e6
"""Working set of a batch on a CPU: about its second-level cache."""
DEVICE_SHARE = 0.1
"""The same on an accelerator, which wants wide batches: a share of its free memory."""


def working_set(device: torch.device) -> float:
    """Bytes that a batch should take on a device."""
    if device.type != "cuda":
        return CACHE_BYTES
    return DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Light:
    """One wavelength's light: field in the pupil and in the focal plane, stamp, its factor."""

    pupil: Float[Tensor, "2 object y x"]
    focus: Float[Tensor, "2 object v u"]
    image: Float[Tensor, "object pixel pixel"]
    norm: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class BroadbandPsf:
    """The map from wavefronts and spectral weights to stamps.

    Attributes
    ----------
    amplitude : (y, x) of the pupil; fixes dtype and device
    wavelengths : (node,) [µm]
    path_step : OPD across a pupil sample at an image sample from the axis [µm]
    response : (pixel, sample) of the detector along y and x
    axis : image sample of the optical axis, along y and x
    normalised : each wavelength to 1 inside the stamp, or to 1 in the whole focal plane
    kernel : transfer (y, half of x) of a symmetric blur of the samples that is not along the axes,
        as of `torch.fft.rfft2`, or None; the samples' border is wide enough for it
    batch_bytes : working set of a batch
    """

    amplitude: Float[Tensor, "y x"]
    wavelengths: tuple[float, ...]
    path_step: float
    response: Float[Tensor, "pixel sample"]
    axis: float
    normalised: Literal["stamp", "energy"] = "stamp"
    kernel: Float[Tensor, "y half"] | None = None
    batch_bytes: float = CACHE_BYTES

    @cached_property
    def _transforms(self) -> tuple[MatrixDFT, ...]:
        n_pupil, n_image = self.amplitude.shape[0], self.response.shape[1]
        return tuple(
            MatrixDFT.of(
                n_pupil, n_image, path_step=self.path_step, wavelength=w, like=self.amplitude
            )
            for w in self.wavelengths
        )

    @cached_property
    def _axis_tilt(self) -> Tensor:
        """OPD [µm] that moves the axis from the middle of the samples to its place."""
        n = self.amplitude.shape[0]
        i = torch.arange(n, dtype=torch.float64, device=self.amplitude.device) - (n - 1) / 2
        offset = self.axis - (self.response.shape[1] - 1) / 2
        tilt = self.path_step * offset * (i[:, None] + i[None, :])
        return tilt.to(self.amplitude.dtype)

    @cached_property
    def _energy(self) -> float:
        return float((self.amplitude.double() ** 2).sum())

    def batches(self, n: int, *, copies: int = 1) -> list[slice]:
        """Slices of `n` objects, each a working set; `copies` of a field are held for each."""
        side = max(self.amplitude.shape[0], self.response.shape[1])
        size = 4 * side**2 * self.amplitude.element_size() * copies
        step = max(1, int(self.batch_bytes / size))
        return [slice(k, min(k + step, n)) for k in range(0, n, step)]

    def __call__(
        self, opd: Float[Tensor, "object y x"], weights: Float[Tensor, "object node"]
    ) -> Float[Tensor, "object pixel pixel"]:
        """The stamps; differentiable with respect to `opd` [µm]."""
        out: Tensor = _Broadband.apply(opd, weights, self)  # type: ignore[no-untyped-call]
        return out

    def draw(
        self, opd: Float[Tensor, "object y x"], weights: Float[Tensor, "object node"]
    ) -> Float[Tensor, "object pixel pixel"]:
        """The stamps, without a graph of derivatives."""
        out = self._blank(opd)
        for part, q, light in self._passes(opd):
            out[part] += weights[part, q, None, None] * light.image
        return out

    def pullback(
        self,
        opd: Float[Tensor, "object y x"],
        weights: Float[Tensor, "object node"],
        slope: Float[Tensor, "object pixel pixel"],
    ) -> Float[Tensor, "object y x"]:
        """Derivative of ``Σ slope · stamp`` with respect to the wavefront."""
        out = torch.zeros_like(opd)
        for part, q, light in self._passes(opd):
            s = slope[part]
            if self.normalised == "stamp":
                s = s - (s * light.image).sum((-2, -1), keepdim=True)
            s = s * light.norm * weights[part, q, None, None]
            samples = self._blurred(self.response.T @ (s @ self.response))
            back = self._transforms[q].adjoint(light.focus * samples)
            g, k = light.pupil, 4 * math.pi / self.wavelengths[q]
            out[part] += k * (back[1] * g[0] - back[0] * g[1])
        return out

    def push(
        self,
        opd: Float[Tensor, "object y x"],
        weights: Float[Tensor, "object node"],
        change: Float[Tensor, "object y x"],
    ) -> Float[Tensor, "object pixel pixel"]:
        """First-order change of the stamps along a change of the wavefront [µm]."""
        out = self._blank(opd)
        for part, q, light in self._passes(opd, copies=2):
            moved = self._transforms[q].forward(light.pupil * change[part])
            out[part] += weights[part, q, None, None] * self._slope(light, moved, q)
        return out

    def jacobian(
        self,
        opd: Float[Tensor, "object y x"],
        weights: Float[Tensor, "object node"],
        *,
        products: Sequence[tuple[int, int]],
        polynomials: Float[Tensor, "degree x"],
    ) -> tuple[Float[Tensor, "object pixel pixel"], Float[Tensor, "product object pixel pixel"]]:
        """Stamps and their derivatives with respect to products of polynomials in x and y.

        Parameters
        ----------
        products : (a, b), degrees along x and y
        polynomials : values on the pupil's samples along an axis
        """
        stamp = self._blank(opd)
        slopes = stamp.new_zeros((len(products), *stamp.shape))
        for q in range(len(self.wavelengths)):
            light, transform = self._light(opd, q), self._transforms[q]
            w = weights[:, q, None, None]
            stamp += w * light.image
            along_x = [transform.forward_last(light.pupil * p).mT for p in polynomials]
            for b, polynomial in enumerate(polynomials):
                chosen = [k for k, product in enumerate(products) if product[1] == b]
                if chosen:
                    fields = torch.stack([along_x[products[k][0]] for k in chosen], dim=1)
                    moved = transform.forward_last(fields * polynomial).mT
                    slopes[chosen] += w * self._slope(light, moved, q)
        return stamp, slopes

    def _blank(self, opd: Tensor) -> Tensor:
        n = self.response.shape[0]
        return opd.new_zeros((len(opd), n, n))

    def _passes(self, opd: Tensor, *, copies: int = 1) -> Iterator[tuple[slice, int, _Light]]:
        """The light of each working set of objects at each wavelength."""
        for part in self.batches(len(opd), copies=copies):
            for q in range(len(self.wavelengths)):
                yield part, q, self._light(opd[part], q)

    def _light(self, opd: Tensor, q: int) -> _Light:
        g = pupil_field(self.amplitude, opd + self._axis_tilt, wavelength=self.wavelengths[q])
        e = self._transforms[q].forward(g)
        seen = self._seen(e[0] ** 2 + e[1] ** 2)
        if self.normalised == "stamp":
            norm = 1 / seen.sum((-2, -1), keepdim=True)
        else:
            # Parseval: one period of the focal plane, λ / s samples along each axis.
            area = (self.wavelengths[q] / self.path_step) ** 2
            norm = torch.full_like(seen[:, :1, :1], 1 / (self._energy * area))
        return _Light(pupil=g, focus=e, image=seen * norm, norm=norm)

    def _slope(self, light: _Light, moved: Tensor, q: int) -> Tensor:
        """Change of a stamp when the field in the focal plane changes by ``2πi/λ · moved``."""
        k, e = 4 * math.pi / self.wavelengths[q], light.focus
        slope = self._seen(e[1] * moved[0] - e[0] * moved[1]) * (k * light.norm)
        if self.normalised == "stamp":
            slope = slope - light.image * slope.sum((-2, -1), keepdim=True)
        return slope

    def _seen(self, intensity: Tensor) -> Tensor:
        """What the detector makes of the samples."""
        return self.response @ (self._blurred(intensity) @ self.response.T)

    def _blurred(self, samples: Tensor) -> Tensor:
        """The samples under the kernel, which is its own adjoint."""
        if self.kernel is None:
            return samples
        spectrum = torch.fft.rfft2(samples) * self.kernel
        blurred: Tensor = torch.fft.irfft2(spectrum, s=samples.shape[-2:])
        return blurred


class _Broadband(torch.autograd.Function):
    """`BroadbandPsf` for automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, opd: Tensor, weights: Tensor, optics: BroadbandPsf) -> Tensor:
        ctx.save_for_backward(opd, weights)
        ctx.optics = optics
        return optics.draw(opd, weights)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        opd, weights = ctx.saved_tensors
        return ctx.optics.pullback(opd, weights, slope.contiguous()), None, None
