"""The pixels of one CCD: background, noise and masks, and stamps cut from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import sep
from jaxtyping import Bool, Float

from psfscale.errors import InputError
from psfscale.ingest.formats.facts import FileDefectError
from psfscale.ingest.objects import nearest_pixel
from psfscale.kernels.weight_kind import other_kind
from psfscale.survey.recipe import MeshBackground

if TYPE_CHECKING:
    from psfscale.ingest.formats.calibration import Calibration
    from psfscale.ingest.formats.units import Level

_NOISE_BOX = 64
_CELL = 32
_CELLS = 256


@dataclass(frozen=True, kw_only=True)
class CcdPixels:
    """One CCD in electrons, background removed.

    Attributes
    ----------
    image : (y, x) [electron]; NaN where the file has none
    weight : (y, x) [1/electron²], 0 where masked
    saturated : (y, x)
    full : level of `image` at which a pixel saturates [electron], None where unknown
    """

    image: Float[np.ndarray, "y x"]
    weight: Float[np.ndarray, "y x"]
    saturated: Bool[np.ndarray, "y x"]
    full: Level | None = None

    def full_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
        """Return (object,) the level at which the pixel at a position saturates."""
        if self.full is None:
            return None
        height, width = self.image.shape
        rows, columns = nearest_pixel(y).clip(0, height - 1), nearest_pixel(x).clip(0, width - 1)
        full = np.broadcast_to(np.asarray(self.full, np.float64), (height, width))
        return np.asarray(full[rows, columns])


def inverse_variance(plane: np.ndarray, kind: str, electrons: Level) -> np.ndarray:
    """A noise plane, in place, as inverse variance [1/electron²]; 0 where it makes no sense.

    Parameters
    ----------
    plane : (y, x) float32, in the unit of the image
    kind : ``inverse_variance``, ``variance`` or ``rms``
    electrons : in one unit of the image
    """
    bad = ~(np.isfinite(plane) & (plane > 0))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if kind == "rms":
            np.square(plane, out=plane)
        if kind != "inverse_variance":
            np.reciprocal(plane, out=plane)
    plane /= np.square(np.asarray(electrons, np.float32))
    plane[bad | ~np.isfinite(plane)] = 0
    return plane


def require_agreement(sky: np.ndarray, plane: np.ndarray, *, kind: str, name: str) -> None:
    """Refuse weights that contradict the scatter of the sky and fit it as another kind.

    Parameters
    ----------
    sky : (y, x) background-subtracted image, NaN where it is not to be used
    plane : (y, x) the weights as they stand, in the unit of `sky`
    kind : what the recipe takes them for
    name : of the weights, for the message

    Raises
    ------
    FileDefectError
        They seem to be of another kind.
    """
    other = other_kind(_cells(sky), _cells(plane), stated=kind)
    if other is not None:
        msg = (
            f"{name} are stated to be {kind}, by which the sky scatters by {other.stated:.3g}; it "
            f"scatters by {other.scatter:.3g}, as if they were {other.kind}: state `kind: "
            f"{other.kind}` in the recipe, or `trusted: true` to take them as they are stated"
        )
        raise FileDefectError(msg)


def _cells(plane: np.ndarray) -> np.ndarray:
    """(cell, pixel) square cells spread evenly over a plane (y, x)."""
    height, width = (max(n // _CELL, 1) for n in plane.shape)
    rows, columns = (min(n, _CELL) for n in plane.shape)
    tiles = plane[: height * rows, : width * columns].reshape(height, rows, width, columns)
    cells = tiles.swapaxes(1, 2).reshape(-1, rows * columns)
    return cells[:: max(len(cells) // _CELLS, 1)]


def mesh_background(
    image: np.ndarray, *, bad: np.ndarray, recipe: MeshBackground
) -> Float[np.ndarray, "y x"]:
    """Background (y, x) of an image, from clipped modes on a mesh (SExtractor's method)."""
    return np.asarray(_mesh(image, bad, recipe.box, recipe.filter).back(dtype=np.float32))


def measured_weight(
    image: np.ndarray, *, bad: np.ndarray, section: np.ndarray | None
) -> np.ndarray:
    """(y, x) inverse variance [1/electron²] of the sky of a background-subtracted image.

    Parameters
    ----------
    image : (y, x) [electron]
    bad : (y, x) pixels not to look at
    section : (y, x) number of the section of each pixel, each of which has its own noise
    """
    parts = np.zeros(image.shape, np.int8) if section is None else section
    weight = np.zeros(image.shape, np.float32)
    for number in np.unique(parts[parts >= 0]):
        inside = parts == number
        noise = float(_mesh(image, bad | ~inside, _NOISE_BOX, 3).globalrms)
        weight[inside] = 1 / noise**2 if noise > 0 else 0
    return weight


def _mesh(image: np.ndarray, bad: np.ndarray, box: int, cells: int) -> sep.Background:
    clean = np.where(bad, np.float32(0), image)
    return sep.Background(clean, mask=bad, bw=box, bh=box, fw=cells, fh=cells)


def modelled_weight(background: Level, *, read_noise: Level, shape: tuple[int, int]) -> np.ndarray:
    """(y, x) inverse variance [1/electron²] of sky and read-out, the objects aside.

    Raises
    ------
    InputError
        Neither background nor read noise is positive.
    """
    noise = np.square(np.asarray(read_noise, np.float32))
    variance = np.maximum(np.asarray(background, np.float32), 0) + noise
    if not (variance > 0).any():
        msg = "the noise cannot be modelled: neither background nor read noise is positive"
        raise InputError(msg)
    with np.errstate(divide="ignore"):
        weight = np.where(variance > 0, 1 / variance, 0).astype(np.float32)
    return np.broadcast_to(weight, shape)


def cut(
    pixels: CcdPixels,
    x: np.ndarray,
    y: np.ndarray,
    shape: tuple[int, int],
    *,
    calibrate: Calibration,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stamps around positions: image, weight, and whether a pixel is saturated.

    The pixel nearest to the position lies on index ``n // 2`` of the stamp. What reaches
    over the edge of the CCD is 0 with weight 0.

    Parameters
    ----------
    pixels : of the CCD
    x, y : (object,) [pixel], 0-based
    shape : (y, x) pixels of a stamp
    calibrate : tells whether the objects' own noise is added
    """
    height, width = pixels.image.shape
    rows = nearest_pixel(y)[:, None] + np.arange(shape[0]) - shape[0] // 2
    columns = nearest_pixel(x)[:, None] + np.arange(shape[1]) - shape[1] // 2
    on_ccd = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    at = (np.clip(rows, 0, height - 1)[:, :, None], np.clip(columns, 0, width - 1)[:, None, :])
    image = np.where(on_ccd, pixels.image[at], np.float32(0))
    weight = np.where(on_ccd, pixels.weight[at], np.float32(0))
    if calibrate.source_noise:
        weight = weight / (1 + weight * np.maximum(np.nan_to_num(image), 0))
    saturated = (on_ccd & pixels.saturated[at]).any(axis=(1, 2))
    return image, weight, saturated
