"""A survey file to begin with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psfscale.errors import InputError
from psfscale.files import require_new, require_place, write_whole

if TYPE_CHECKING:
    from pathlib import Path

_TEMPLATE = """\
# A survey file for psfscale: what the instrument is, and how its files are read.
# Change the values to yours, then:   psfscale ingest {file} IMAGE.fits ... -o {name}.zarr
# As it stands it reads FITS images of one CCD, with a catalogue night1_cat.fits beside night1.fits.
name: {name}

instrument:
  detector:                 # each number may state its `source`, such as a paper
    pixel_scale: {{value: 0.2, unit: arcsec}}
    pixel_size: {{value: 15, unit: um}}
    columns: 2048           # NAXIS1 of the images
    rows: 2048              # NAXIS2
    gain: {{value: 1, unit: electron / adu}}
    read_noise: {{value: 5, unit: electron}}
    # saturation: {{value: 60000, unit: electron}}       # pixels at or above are masked
  focal_plane:
    first_ccd: 1
    n_ccds: 1
    layout:
      kind: grid            # CCDs side by side, numbered along x first
      columns: 1
      rows: 1
      gap_x: {{value: 0, unit: mm}}
      gap_y: {{value: 0, unit: mm}}
  psf:                      # for checks and defaults
    fwhm_minimum: {{value: 0.3, unit: arcsec}}
    fwhm_maximum: {{value: 3, unit: arcsec}}
    upsampling: 1           # pixels of the model per pixel of the CCD; more where undersampled
  # Optics and passband are needed by the model wavediff and by simulate alone:
  # telescope: {{aperture: {{value: 2.4, unit: m}}, focal_length: {{value: 20, unit: m}}}}
  # passband: {{minimum: {{value: 550, unit: nm}}, maximum: {{value: 700, unit: nm}}}}

ingest:
  format: images            # ldac: SExtractor catalogues with VIGNET; stack: stamps in .npz
  filename: '(?P<exposure>.+)\\.fits(\\.fz|\\.gz)?'
  exposure: {{group: exposure}}     # or from a header card: {{card: EXPNUM}}
  ccd: {{value: 1}}                 # or {{card: CCDNUM}}
  unit: adu                 # of the pixels
  # gain: {{card: GAIN, unit: electron / adu}}            # where headers know better
  # saturation: {{card: SATURATE, unit: adu}}
  # science: {{extname: SCI}}       # all 2-D images if left out
  # weight: {{extname: WHT, kind: inverse_variance}}      # or variance, rms
  # mask: {{extname: MSK}}          # not 0 is bad
  background: {{kind: mesh}}        # or {{kind: subtracted}}
  stars:
    path: '{{directory}}/{{exposure}}_cat.fits'             # FITS, ECSV, CSV or Parquet
    stamp_size: 31
    origin: 1               # x, y of the first pixel: 1 in FITS and SExtractor, 0 in numpy
    columns: {{x: X, y: Y}}   # more: id, ra, dec, flux, snr, flags
    # select: [{{column: CLASS_STAR, minimum: 0.9}}]       # which rows are stars
"""


def write_template(path: Path, *, overwrite: bool = False) -> None:
    """Write a minimal survey file, with comments, that is to be completed.

    Parameters
    ----------
    path : new file, ends in .yaml; its name becomes that of the survey
    overwrite : replace a file that is there

    Raises
    ------
    InputError, StoreError
        The file is there already or cannot be written, or has another ending.
    """
    require_place(path, suffixes=(".yaml", ".yml"))
    require_new(path, overwrite=overwrite)
    if not re.fullmatch(r"[\w.-]+", path.stem):
        msg = f"{path.stem!r} cannot be the name of a survey: use letters, digits, '_', '-', '.'"
        raise InputError(msg)
    with write_whole(path) as partial:
        partial.write_text(_TEMPLATE.format(name=path.stem, file=path.name), encoding="utf-8")
