"""``psfscale deconvolve``: stacks in, restored stacks out, measured against the truth if given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from psfscale.arrayfile import read_array, write_array
from psfscale.deconvolve import DeconvolutionSettings
from psfscale.errors import ConfigError, InputError

if TYPE_CHECKING:
    from psfscale.deconvolve.score import Score
    from psfscale.deconvolve.stack import Restoration

__all__ = ["DeconvolutionFiles", "Deconvolved", "deconvolve_files", "make_settings"]

Format = Literal["npy", "fits"]


@dataclass(frozen=True, kw_only=True)
class DeconvolutionFiles:
    """Files of a deconvolution; npy or FITS.

    Attributes
    ----------
    images : (object, y, x), or (y, x) for one
    psfs : (object, y, x), or (y, x) for all
    output : written as ``<output>_primal``, ``<output>_dual`` and ``<output>_psf``
    output_format : of the output
    current_res : earlier ``_primal`` to start from
    weight : inverse variances, 0 = masked
    clean_data : true galaxies
    true_psf : true PSFs, to measure refined ones
    """

    images: Path
    psfs: Path
    output: Path | None = None
    output_format: Format = "npy"
    current_res: Path | None = None
    weight: Path | None = None
    clean_data: Path | None = None
    true_psf: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Deconvolved:
    """What was done.

    Attributes
    ----------
    restoration : the result
    written : files
    score : of the galaxies against the true ones, where given
    psf_score : of refined PSFs against the true ones, where given
    """

    restoration: Restoration
    written: tuple[Path, ...]
    score: Score | None = None
    psf_score: Score | None = None


def make_settings(**options: object) -> DeconvolutionSettings:
    """Settings from options of the command.

    Raises
    ------
    ConfigError
        An option is wrong or excluded by another.
    """
    try:
        return DeconvolutionSettings(**options)  # type: ignore[arg-type]
    except ValueError as error:
        msg = f"deconvolution settings: {error}"
        raise ConfigError(msg) from error


def deconvolve_files(
    files: DeconvolutionFiles,
    settings: DeconvolutionSettings,
    *,
    random_seed: int | None = None,
    kernel: float | None = None,
    metric: Literal["median", "mean"] = "median",
) -> Deconvolved:
    """Restore the stack of a file.

    Parameters
    ----------
    random_seed : the images are the first ones of the clean stack shuffled with this seed
    kernel : window of the scores, see `psfscale.deconvolve.score`
    metric : average of the scores

    Raises
    ------
    InputError, ConfigError
        A file cannot be read, or its arrays or the settings are wrong.
    """
    from psfscale.deconvolve.restore import deconvolve
    from psfscale.deconvolve.score import score

    images = _stack(files.images)
    clean = (
        None if files.clean_data is None else _clean(files.clean_data, images.shape, random_seed)
    )
    found = deconvolve(
        images,
        read_array(files.psfs),
        weight=None if files.weight is None else _stack(files.weight),
        current_res=None if files.current_res is None else _stack(files.current_res),
        settings=settings,
    )
    written = () if files.output is None else _write(found, files.output, files.output_format)
    primal = found.image.cpu().numpy()
    result = None
    if clean is not None:
        result = score(primal, clean, kernel=kernel, metric=metric)
    psf_score = None
    if files.true_psf is not None and found.psf is not None:
        true_psf = _stack(files.true_psf)
        psf_score = score(found.psf.cpu().numpy(), true_psf, kernel=kernel, metric=metric)
    return Deconvolved(restoration=found, written=written, score=result, psf_score=psf_score)


def _stack(path: Path) -> np.ndarray:
    array = read_array(path)
    return array[None] if array.ndim == 2 else array


def _clean(path: Path, shape: tuple[int, ...], seed: int | None) -> np.ndarray:
    clean = _stack(path)
    if seed is not None:
        clean = clean[np.random.RandomState(seed).permutation(len(clean))]
    clean = clean[: shape[0]]
    if clean.shape != shape:
        msg = f"{path} holds galaxies of shape {clean.shape}, the images have shape {shape}"
        raise InputError(msg)
    return clean


def _write(found: Restoration, output: Path, kind: Format) -> tuple[Path, ...]:
    """One file a product; the dual variables of two priors get a number each."""
    named = {"primal": found.image}
    if len(found.dual) == 1:
        named["dual"] = found.dual[0]
    else:
        named.update({f"dual{i}": dual for i, dual in enumerate(found.dual)})
    if found.psf is not None:
        named["psf"] = found.psf
    written = []
    for name, array in named.items():
        path = output.with_name(f"{output.name}_{name}.{kind}")
        write_array(path, array.cpu().numpy())
        written.append(path)
    return tuple(written)
