"""``psfscale deconvolve``: stacks in, restored stacks out, measured against the truth if given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from psfscale.arrayfile import read_array
from psfscale.deconvolve import DeconvolutionSettings
from psfscale.drop_in.restored_files import Format, RestoredFiles, restored_arrays
from psfscale.errors import ConfigError, InputError
from psfscale.yamlfile import validate

if TYPE_CHECKING:
    from psfscale.deconvolve.score import Score
    from psfscale.deconvolve.stack import Restoration

__all__ = ["DeconvolutionFiles", "Deconvolved", "deconvolve_files", "make_settings"]


@dataclass(frozen=True, kw_only=True)
class DeconvolutionFiles:
    """Files of a deconvolution; npy or FITS.

    Attributes
    ----------
    images : (object, y, x), or (y, x) for one
    psfs : (object, y, x), or (y, x) for all
    output : one file that holds all (.npz, .fits, .zarr), or what the names of several begin with
        (``<output>_primal.npy``, ...), see `RestoredFiles`; ``<images>_<mode>`` where None
    output_format : of several files; npy where None
    current_res : earlier ``_primal`` to start from
    weight : inverse variances, 0 = masked
    clean_data : true galaxies
    true_psf : true PSFs, to measure refined ones
    """

    images: Path
    psfs: Path
    output: Path | None = None
    output_format: Format | None = None
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

    restoration: Restoration[np.ndarray]
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
    return validate(options, DeconvolutionSettings, name="settings of the deconvolution")


def deconvolve_files(
    files: DeconvolutionFiles,
    settings: DeconvolutionSettings,
    *,
    random_seed: int | None = None,
    kernel: float | None = None,
    metric: Literal["median", "mean"] = "median",
    overwrite: bool = False,
) -> Deconvolved:
    """Restore the stack of a file.

    Parameters
    ----------
    random_seed : the images are the first ones of the clean stack shuffled with this seed
    kernel : window of the scores, see `psfscale.deconvolve.score`
    metric : average of the scores
    overwrite : whether an earlier result is replaced

    Raises
    ------
    InputError, ConfigError, StoreError
        A file cannot be read or written, or its arrays or the settings are wrong.
    """
    from psfscale.deconvolve.restore import deconvolve
    from psfscale.deconvolve.score import score

    output = RestoredFiles.of(
        files.output, images=files.images, mode=settings.mode, output_format=files.output_format
    )
    known = (files.images, files.psfs, files.weight, files.clean_data, files.true_psf)
    output.require(apart=[path for path in known if path is not None], overwrite=overwrite)
    if kernel is not None and not 0 < kernel < np.inf:
        msg = f"--kernel is the width of a window [pixel], positive; got {kernel}"
        raise ConfigError(msg)
    images = _stack(files.images)
    clean = (
        None if files.clean_data is None else _clean(files.clean_data, images.shape, random_seed)
    )
    true_psf = None if files.true_psf is None else _stack(files.true_psf)
    found = deconvolve(
        images,
        read_array(files.psfs),
        weight=None if files.weight is None else _stack(files.weight),
        current_res=None if files.current_res is None else _stack(files.current_res),
        settings=settings,
    )
    written = output.write(restored_arrays(found))
    result = psf_score = None
    if clean is not None:
        result = score(found.image, clean, kernel=kernel, metric=metric)
    if true_psf is not None and found.psf is not None:
        psf_score = score(found.psf, true_psf, kernel=kernel, metric=metric)
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
