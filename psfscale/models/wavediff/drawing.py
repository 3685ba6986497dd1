"""PSFs of a wavefront field at any position, spectrum, sampling and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from psfscale.kernels.centroid import windowed_centroid
from psfscale.kernels.optics.zernike import project
from psfscale.models.wavediff.setup import spectra_of
from psfscale.models.wavediff.surface import cosines

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from psfscale.arrays import FieldPoints, PixelGrid
    from psfscale.models.position import PositionPolynomials
    from psfscale.models.wavediff.blur import Blur
    from psfscale.models.wavediff.fixed import FixedWavefront
    from psfscale.models.wavediff.optics import LightPath
    from psfscale.models.wavediff.settings import OpticsSettings
    from psfscale.models.wavediff.surface import SurfaceFunctions

__all__ = ["Drawing"]

STEP = 32
"""Objects whose wavefronts are held at once, or a batch of the camera where that is wider."""
CENTRING_ROUNDS = 3
"""Rounds of shift and centroid; the first leaves thousandths of a pixel."""
CENTRING_OVERSAMPLING = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A fitted field, ready to be drawn.

    Attributes
    ----------
    path : pupil and focal plane
    optics : the settings they came from
    n_wavelengths : nodes of a broad-band spectrum
    zernike : (zernike, function) [µm]
    surface : (function, cosine, cosine) beyond the Zernikes [µm]
    positions, field : the functions of position of both
    width : σ of the window that defines the centroid [CCD pixel]
    blur : by the jitter [CCD pixel]
    on_axis : whether the stars' stamps were registered to the optical axis
    fixed : wavefront that the field is added to, or None
    """

    path: LightPath
    optics: OpticsSettings
    n_wavelengths: int
    zernike: Float[Tensor, "zernike function"]
    surface: Float[Tensor, "function cosine cosine"]
    positions: PositionPolynomials
    field: SurfaceFunctions
    width: float
    blur: Blur
    on_axis: bool
    fixed: FixedWavefront | None = None

    def zernikes(self, at: FieldPoints) -> Float[np.ndarray, "object zernike"]:
        """Zernike coefficients at positions [µm], the surfaces' share of them included."""
        own = self._of_modes(at.x, at.y)
        maps = self._maps()
        if maps is None:
            return own
        amplitude = self.path.amplitude.double()
        share = project(maps.double(), self._modes().double(), amplitude=amplitude).cpu().numpy()
        return np.asarray(own + self.field(at.x, at.y) @ share)

    def _modes(self) -> Tensor:
        n = 0 if self.fixed is None else self.fixed.n_zernikes
        return self.path.modes(max(n, len(self.zernike)))

    def _of_modes(self, x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "object zernike"]:
        """Coefficients of the fitted field and of what is fixed [µm]."""
        own = self.positions(x, y) @ self.zernike.numpy().T
        if self.fixed is None:
            return np.asarray(own)
        fixed = self.fixed(x, y)
        wide = np.zeros((len(x), max(own.shape[1], fixed.shape[1])))
        wide[:, : own.shape[1]] += own
        wide[:, : fixed.shape[1]] += fixed
        return wide

    def _opd(self, at: FieldPoints, part: slice, modes: Tensor, maps: Tensor | None) -> Tensor:
        x, y = at.x[part], at.y[part]
        z = torch.from_numpy(self._of_modes(x, y)).to(modes)
        opd = torch.einsum("sj,jyx->syx", z, modes)
        if maps is None:
            return opd
        return opd + torch.einsum("sf,fyx->syx", torch.from_numpy(self.field(x, y)).to(modes), maps)

    def _maps(self) -> Tensor | None:
        """The surfaces on the pupil's samples [µm], or None where there are none."""
        if not self.surface.any():
            return None
        waves = cosines(self.path.axis, self.surface.shape[1]).to(self.path.amplitude)
        return waves.T @ self.surface.to(waves) @ waves

    def wavefront(self, at: FieldPoints) -> Float[Tensor, "object y x"]:
        """OPD [µm] at positions; 0 where the pupil is blocked."""
        whole = self._opd(at, slice(None), self._modes(), self._maps())
        return whole * (self.path.amplitude > 0)

    def draw(self, at: FieldPoints, grid: PixelGrid) -> Float[Tensor, "object y x"]:
        """PSFs of unit sum, placed as `grid` says."""
        nodes, weights = spectra_of(at, self.optics, self.n_wavelengths)
        size = max(grid.shape)
        camera = self.path.camera(
            nodes.tolist(),
            size,
            oversampling=grid.oversampling,
            pixel=grid.pixel,
            blur=self.blur,
        )
        rows, columns = (slice(size // 2 - n // 2, size // 2 - n // 2 + n) for n in grid.shape)
        spectra = torch.from_numpy(weights).to(self.path.amplitude)
        modes, maps = self._modes(), self._maps()
        on_axis = grid.centre == "axis" or (grid.centre == "auto" and self.on_axis)
        out = modes.new_zeros((len(at), *grid.shape))
        wide = camera.batches(len(at))[0] if len(at) else slice(0, 0)
        step = max(STEP, wide.stop)
        for k in range(0, len(at), step):
            part = slice(k, k + step)
            opd = self._opd(at, part, modes, maps)
            if not on_axis:
                opd = self._centred(opd, spectra[part], nodes.tolist(), grid)
            out[part] = camera.draw(opd, spectra[part])[:, rows, columns]
        return out / out.sum((-2, -1), keepdim=True)

    def _centred(
        self,
        opd: Tensor,
        spectra: Tensor,
        nodes: list[float],
        grid: PixelGrid,
    ) -> Tensor:
        """The wavefronts, tilted so that the windowed centroid falls on the stamp's centre."""
        fine = CENTRING_OVERSAMPLING
        side = 2 * int(4 * self.width * fine) + 1
        seen = self.path.camera(nodes, side, oversampling=fine, blur=self.blur)
        # The axis of the camera that draws may lie off its centre, for binned pixels.
        binned = self.optics.binned if grid.pixel == "native" and grid.oversampling == 1 else None
        own = (binned - 1) / (2 * binned) if binned else 0.0
        dy = torch.zeros(len(opd), dtype=torch.float64, device=opd.device)
        dx = torch.zeros_like(dy)
        for _ in range(CENTRING_ROUNDS):
            stamp = seen.draw(opd + self.path.tilt(-dy, -dx), spectra)
            y, x = windowed_centroid(stamp.double(), width=self.width * fine)
            dy, dx = dy + (y - side // 2) / fine, dx + (x - side // 2) / fine
        return opd + self.path.tilt(own - dy, own - dx)
