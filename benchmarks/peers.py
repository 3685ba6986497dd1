"""PSFEx and Piff on the stars that RCA gets, behind one call: ``fit(stars) -> Fitted``.

Both get the same stamps, masks and noise. What a user of either would choose by hand, the
degree in position and the sampling, is chosen by two-fold cross-validation on the training
stars. PSFEx is the Debian package ``psfex``, Piff comes with ``pip install psfscale[bench]``;
a peer that is not installed has no row.
"""

from __future__ import annotations

import importlib.util
import logging
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import galsim
import galsim.des
import numpy as np
import torch
from astropy.io import fits
from scoring import fitted_to_star, star_scores

from psfscale.arrays import FieldPoints, PixelGrid
from psfscale.errors import FitError
from psfscale.kernels.centroid import matched_width, windowed_centroid

FWHM = 2.3548
MASKED = -1e30
"""Value of a masked pixel in a VIGNET."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted PSF field: `predict` draws, `seconds` of CPU were spent on the fit."""

    predict: Callable[[FieldPoints, PixelGrid], np.ndarray]
    seconds: float


def drawn(profile, grid):
    """A profile in units of the CCD pixel, its pixel response included, centred on n // 2."""
    ny, nx = grid.shape
    offset = nx // 2 - (nx - 1) / 2, ny // 2 - (ny - 1) / 2
    scale = 1 / grid.oversampling
    return profile.drawImage(nx=nx, ny=ny, scale=scale, method="no_pixel", offset=offset).array


def shape_width(stars):
    """Gaussian σ [pixel] of the median star."""
    image = np.where(stars.weight > 0, stars.image, 0.0)
    stack = np.median(image / image.max((1, 2), keepdims=True), axis=0)
    return float(matched_width(torch.from_numpy(stack).float(), start=2.0, smallest=0.7))


def centres(stars, width):
    """(y, x) [pixel] of each star on its stamp."""
    image = torch.from_numpy(np.where(stars.weight > 0, stars.image, 0.0)).float()
    return [c.double().numpy() for c in windowed_centroid(image, width=width)]


def aperture(stars, radius, width):
    """Sum and noise of each star's pixels within a radius [pixel] of its centre."""
    ny, nx = stars.stamp_shape
    y, x = (c[:, None, None] for c in centres(stars, width))
    near = np.hypot(np.arange(ny)[:, None] - y, np.arange(nx) - x) < radius
    inside = near & (stars.weight > 0)
    variance = 1 / np.where(inside, stars.weight, np.inf)
    flux = np.where(inside, stars.image, 0.0).sum((1, 2))
    return flux, np.sqrt(variance.sum((1, 2)))


# PSFEx ------------------------------------------------------------------------------------


def vignets(stars, moves):
    """Stamps moved by whole pixels (y, x), what is masked or comes in at `MASKED`."""
    out = np.full(stars.image.shape, MASKED, np.float32)
    ny, nx = stars.stamp_shape
    image = np.where(stars.weight > 0, stars.image, MASKED)
    for target, source, (y, x) in zip(out, image, moves, strict=True):
        to = tuple(slice(max(0, -s), min(n, n - s)) for s, n in ((y, ny), (x, nx)))
        of = tuple(slice(max(0, s), min(n, n + s)) for s, n in ((y, ny), (x, nx)))
        target[to] = source[of]
    return out


def ldac(stars, path, gain):
    """Write a SExtractor catalogue (FITS_LDAC) of the stars with their VIGNETs.

    A VIGNET's centre is the pixel that holds (X_IMAGE, Y_IMAGE), as SExtractor cuts it.
    """
    width = shape_width(stars)
    flux, error = aperture(stars, max(3.0, 1.5 * FWHM * width), width)
    ny, nx = stars.stamp_shape
    offset = np.stack(centres(stars, width), axis=1) - (ny // 2, nx // 2)
    moves = np.round(offset).astype(int)
    n = len(stars)
    column = {
        "X_IMAGE": np.round(stars.x) + 1 + offset[:, 1],
        "Y_IMAGE": np.round(stars.y) + 1 + offset[:, 0],
        "FLUX_APER": flux,
        "FLUXERR_APER": error,
        "SNR_WIN": flux / error,
        "FLUX_RADIUS": np.full(n, 0.5 * FWHM * width),
        "ELONGATION": np.ones(n),
    }
    table = fits.BinTableHDU.from_columns(
        [
            *(
                # PSFEx takes positions of either precision, all else must be of single.
                fits.Column(name, "1D" if name.endswith("IMAGE") else "1E", array=values)
                for name, values in column.items()
            ),
            fits.Column("FLAGS", "1I", array=np.zeros(n, np.int16)),
            fits.Column("VIGNET", f"{ny * nx}E", dim=f"({nx},{ny})", array=vignets(stars, moves)),
        ],
        name="LDAC_OBJECTS",
    )
    card = fits.Header()
    card["SIMPLE"], card["BITPIX"], card["NAXIS"] = True, -32, 2
    card["NAXIS1"], card["NAXIS2"] = int(stars.x.max()) + nx, int(stars.y.max()) + ny
    card["SEXBKDEV"] = float(1 / np.sqrt(np.median(stars.weight[stars.weight > 0])))
    card["SEXBKGND"], card["SEXGAIN"] = 0.0, gain
    text = "".join(c.image for c in card.cards) + "END".ljust(80)
    image = fits.Column("Field Header Card", f"{len(text)}A", array=np.array([text]))
    header = fits.BinTableHDU.from_columns([image], name="LDAC_IMHEAD")
    header.header["TDIM1"] = f"(80, {len(text) // 80})"
    fits.HDUList([fits.PrimaryHDU(), header, table]).writeto(path)
    with fits.open(path) as written:
        place = written["LDAC_IMHEAD"].fileinfo()
    # astropy ends the string in NULs, which PSFEx does not survive.
    content, start = path.read_bytes(), place["datLoc"]
    end = start + len(text)
    path.write_bytes(content[:start] + text.encode() + content[end:])


@dataclass(frozen=True, kw_only=True)
class PSFEx:
    """PSFEx with all training stars offered; it clips outliers by its own rule.

    `sampling` is the PSF's step [CCD pixel], 0 = PSFEx's own choice; `gain` [electron/unit],
    0 = sky noise only.
    """

    degree: int = 2
    sampling: float = 0.0
    gain: float = 0.0
    name = "PSFEx"

    @property
    def label(self):
        step = f"step {self.sampling:.2f}" if self.sampling else "step auto"
        return f"PSFEx, degree {self.degree}, {step}"

    @staticmethod
    def installed():
        return shutil.which("psfex") is not None

    def command(self, catalogue, stars):
        side = int(min(stars.stamp_shape) / (self.sampling or 1)) // 2 * 2 + 1
        options = {
            "PSF_SAMPLING": self.sampling,
            "PSF_SIZE": f"{side},{side}",
            "PSFVAR_DEGREES": self.degree,
            "PSFVAR_NSNAP": 1,  # of diagnostics, which are not part of the fit
            "PHOTFLUX_KEY": "FLUX_APER",
            "PHOTFLUXERR_KEY": "FLUXERR_APER",
            "SAMPLE_AUTOSELECT": "N",
            "SAMPLE_FWHMRANGE": "0.5,50",
            "SAMPLE_MINSN": 1,
            "SAMPLE_MAXELLIP": 1,
            "CHECKPLOT_DEV": "NULL",
            "CHECKPLOT_TYPE": "NONE",
            "CHECKIMAGE_TYPE": "NONE",
            "VERBOSE_TYPE": "QUIET",
            "WRITE_XML": "N",
            "NTHREADS": 1,
        }
        flags = [str(word) for key, value in options.items() for word in (f"-{key}", value)]
        return ["psfex", str(catalogue), "-c", "default.psfex", *flags]

    def fit(self, stars):
        with tempfile.TemporaryDirectory() as folder:
            catalogue = Path(folder) / "stars.cat"
            ldac(stars, catalogue, self.gain)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                self.command(catalogue, stars),
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            result = catalogue.with_suffix(".psf")
            if done.returncode or not result.exists():
                msg = f"psfex failed on {len(stars)} stars: {done.stderr.strip()[-500:]}"
                raise FitError(msg)
            field = galsim.des.DES_PSFEx(str(result))

        def predict(at, grid):
            profiles = (
                field.getPSF(galsim.PositionD(x + 1, y + 1))
                for x, y in zip(at.x, at.y, strict=True)
            )
            return np.stack([drawn(profile, grid) for profile in profiles])

        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Fitted(predict=predict, seconds=spent)


# Piff -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Piff:
    """Piff's PixelGrid of `size`² points a `scale` [CCD pixel] apart, polynomial in position."""

    degree: int = 2
    scale: float = 0.5
    size: int = 21
    name = "Piff"

    @property
    def label(self):
        return f"Piff, degree {self.degree}, step {self.scale:.2f}"

    @staticmethod
    def installed():
        return importlib.util.find_spec("piff") is not None

    @staticmethod
    def stars(stars):
        import piff

        ny, nx = stars.stamp_shape
        out = []
        for image, weight, x, y in zip(stars.image, stars.weight, stars.x, stars.y, strict=True):
            column, row = round(x), round(y)
            pixels, weights = (
                galsim.Image(
                    np.ascontiguousarray(a, dtype=float),
                    xmin=column - nx // 2,
                    ymin=row - ny // 2,
                    scale=1.0,
                )
                for a in (np.where(weight > 0, image, 0.0), weight)
            )
            data = piff.StarData(pixels, galsim.PositionD(column, row), weight=weights)
            out.append(piff.Star(data, None))
        return out

    def fit(self, stars):
        import piff

        quiet = logging.getLogger("piff.quiet")
        quiet.setLevel(logging.CRITICAL)
        psf = piff.SimplePSF(
            piff.PixelGrid(scale=self.scale, size=self.size, interp="Lanczos(5)"),
            piff.BasisPolynomial(order=self.degree),
            outliers=[piff.ChisqOutliers(nsigma=4, max_remove=0.03)],
        )
        images = self.stars(stars)
        start = time.process_time()
        try:
            psf.fit(
                images,
                {0: galsim.PixelScale(1.0)},
                None,
                logger=quiet,
            )
        except (RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            msg = f"piff failed on {len(stars)} stars: {error}"
            raise FitError(msg) from error
        seconds = time.process_time() - start

        def predict(at, grid):
            targets = [
                piff.Star.makeTarget(x=x, y=y, wcs=galsim.PixelScale(1.0), stamp_size=3)
                for x, y in zip(at.x, at.y, strict=True)
            ]
            found = (psf.interpolateStar(target) for target in targets)
            profiles = (psf.model.getProfile(star.fit.params) for star in found)
            return np.stack([drawn(profile, grid) for profile in profiles])

        return Fitted(predict=predict, seconds=seconds)


# Choice of settings -----------------------------------------------------------------------


def cross_validated(settings, stars, *, seed=0, n_stars=200, n_scored=40):
    """The setting of lowest NMSE over stars of the other half of (at most) `n_stars`."""
    order = np.random.default_rng(seed).permutation(len(stars))[:n_stars]
    halves = order[::2], order[1::2]
    costs = []
    for setting in settings:
        cost = 0.0
        for train, rest in (halves, halves[::-1]):
            held = stars.select(rest[:n_scored])
            try:
                fitted = setting.fit(stars.select(train))
            except FitError:
                cost = np.inf
                break
            stamps = fitted_to_star(fitted.predict, held.points, held.image, held.weight)
            cost += star_scores(stamps, held.image, held.weight).nmse
        costs.append(cost)
    return settings[int(np.argmin(costs))]
