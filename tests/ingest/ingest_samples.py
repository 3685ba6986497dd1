"""Small surveys and files of every format, for the tests of ingest."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.table import Table

from psfscale.store.stores import open_tree
from psfscale.survey import Survey

GAIN, SKY, NOISE, SATURATION = 2.0, 100.0, 5.0, 60000.0
ROWS, COLUMNS, STAMP = 60, 80, 9


def _q(value, unit):
    return {"value": value, "unit": unit, "source": "test"}


def make_survey(ingest, *, n_ccds=3, layout=None, name="sample"):
    """A survey of small CCDs with ids from 1."""
    grid = {
        "kind": "grid", "columns": n_ccds, "rows": 1, "gap_x": _q(1, "mm"), "gap_y": _q(1, "mm"),
    }  # fmt: skip
    return Survey.model_validate(
        {
            "name": name,
            "instrument": {
                "telescope": {"aperture": _q(1.2, "m"), "focal_length": _q(24.5, "m")},
                "passband": {"minimum": _q(0.55, "um"), "maximum": _q(0.9, "um")},
                "detector": {
                    "pixel_scale": _q(0.1, "arcsec"),
                    "pixel_size": _q(12, "um"),
                    "columns": COLUMNS,
                    "rows": ROWS,
                    "gain": _q(GAIN, "electron/adu"),
                    "read_noise": _q(4, "electron"),
                },
                "focal_plane": {"first_ccd": 1, "n_ccds": n_ccds, "layout": layout or grid},
                "psf": {
                    "fwhm_minimum": _q(0.1, "arcsec"),
                    "fwhm_maximum": _q(1, "arcsec"),
                    "upsampling": 1,
                },
            },
            "ingest": ingest,
        }
    )


def ldac_recipe(**changes):
    return {
        "format": "ldac",
        "exposure": {"card": ["EXPNUM", "VISIT"]},
        "ccd": {"card": "CCDNUM"},
        "ccds_may_be_absent": True,
        "time": {"card": "MJD-OBS", "unit": "d"},
        "filter": {"card": "FILTER", "pattern": r"^(\S+)"},
        "unit": "adu",
        "sky_noise": {"card": "SEXBKDEV", "unit": "adu"},
        "stars": {
            "columns": {
                "id": "NUMBER",
                "x": ["XWIN_IMAGE", "X_IMAGE"],
                "y": ["YWIN_IMAGE", "Y_IMAGE"],
                "flux": {"name": "FLUX_AUTO", "unit": "adu"},
                "snr": "SNR_WIN",
                "flags": "FLAGS",
            }
        },
    } | changes


def star_table(n, *, seed=1, first_id=1):
    """Positions (1-based) and photometry of n stars well inside the CCD."""
    rng = np.random.default_rng(seed)
    return {
        "NUMBER": np.arange(first_id, first_id + n, dtype=np.int32),
        "XWIN_IMAGE": rng.uniform(10, COLUMNS - 10, n),
        "YWIN_IMAGE": rng.uniform(10, ROWS - 10, n),
        "FLUX_AUTO": rng.uniform(1e3, 1e4, n).astype(np.float32),
        "SNR_WIN": rng.uniform(50, 200, n).astype(np.float32),
        "FLAGS": np.zeros(n, np.int16),
    }


def stamps(n, *, seed=2, size=STAMP):
    return np.random.default_rng(seed).normal(0, NOISE, (n, size, size)).astype(np.float32) + 50


def _form(values):
    letter = {"i2": "I", "i4": "J", "f4": "E", "f8": "D"}[values.dtype.str[1:]]
    return f"{values.shape[1]}{letter}" if values.ndim == 2 else letter


def ldac_hdus(exposure, ccd, table, vignet, **cards):
    """A pair of LDAC_IMHEAD and LDAC_OBJECTS, the header cards in a character array."""
    header = fits.Header()
    header["EXPNUM"] = exposure
    header["CCDNUM"] = ccd
    header["MJD-OBS"] = 56569.25
    header["FILTER"] = "r sample 6415.0"
    header["SEXBKDEV"] = NOISE
    header["CRPIX1"], header["CRPIX2"] = 41.0, 31.0
    for name, value in cards.items():
        header[name] = value
    text = header.tostring(sep="", endcard=True, padding=False)
    cards_of_row = np.array([[text[at : at + 80] for at in range(0, len(text), 80)]])
    column = fits.Column(
        "Field Header Card",
        f"{len(text)}A",
        dim=f"(80, {len(text) // 80})",
        array=cards_of_row,
    )
    columns = [
        fits.Column("VIGNET", f"{vignet[0].size if len(vignet) else STAMP**2}E",
                    dim=str(tuple(int(n) for n in vignet.shape[:0:-1])), array=vignet),
        *(fits.Column(name, _form(values), array=values) for name, values in table.items()),
    ]  # fmt: skip
    return [
        fits.BinTableHDU.from_columns([column], name="LDAC_IMHEAD"),
        fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS"),
    ]


def write_ldac(path, exposure, ccds, *, n=5, edit=None, **cards):
    """A LDAC file of several CCDs; `edit(ccd, table, vignet)` spoils it. Returns the path."""
    hdus = [fits.PrimaryHDU()]
    for ccd in ccds:
        table, vignet = star_table(n, seed=ccd), stamps(n, seed=ccd)
        if edit is not None:
            table, vignet = edit(ccd, table, vignet) or (table, vignet)
        hdus += ldac_hdus(exposure, ccd, table, vignet, **cards)
    fits.HDUList(hdus).writeto(path)
    return path


def tan_wcs(ccd):
    """Header of a TAN WCS; each CCD a tenth of a degree from the last."""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 10.0 + 0.1 * ccd, -5.0
    header["CRPIX1"], header["CRPIX2"] = COLUMNS / 2 + 0.5, ROWS / 2 + 0.5
    header["CD1_1"], header["CD1_2"] = -0.1 / 3600, 0.0
    header["CD2_1"], header["CD2_2"] = 0.0, 0.1 / 3600
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    return header


def sky_image(ccd, *, seed=0):
    """Pixels (y, x) [ADU] with sky: every pixel has its own value."""
    rng = np.random.default_rng([seed, ccd])
    return rng.normal(SKY, NOISE, (ROWS, COLUMNS)).astype(np.float32)


def exposure_hdus(exposure, ccds, *, image=sky_image, weight=None, mask=None, compressed=False):
    """Primary header, and SCI, WHT, MSK of every CCD."""
    primary = fits.PrimaryHDU()
    primary.header["EXPOSURE"] = exposure
    primary.header["MJD-OBS"] = 60676.5
    primary.header["FILTER"] = "VIS"
    primary.header["RA"], primary.header["DEC"] = 10.0, -5.0
    hdus = [primary]
    kind = fits.CompImageHDU if compressed else fits.ImageHDU
    for ccd in ccds:
        planes = {
            "SCI": image(ccd),
            "WHT": np.full((ROWS, COLUMNS), 1 / NOISE**2, np.float32) if weight is None else weight,
            "MSK": np.zeros((ROWS, COLUMNS), np.int32) if mask is None else mask,
        }
        for name, plane in planes.items():
            header = tan_wcs(ccd)
            header["CCDNUM"], header["GAIN"], header["RDNOISE"] = ccd, GAIN, 4.0
            header["SATURATE"], header["SKY"] = SATURATION, SKY
            options = {"compression_type": "GZIP_2", "quantize_level": 0.0} if compressed else {}
            hdus.append(kind(plane, header=header, name=name, **options))
            hdus[-1].ver = ccd
    return fits.HDUList(hdus)


def images_recipe(**changes):
    catalogue = {
        "path": "{root}/catalogues/{exposure}_stars.fits",
        "stamp_size": STAMP,
        "columns": {
            "id": "ID", "ccd": "CCD", "x": "X", "y": "Y", "ra": "RA", "dec": "DEC",
            "flux": {"name": "FLUX", "unit": "adu"}, "snr": "SNR", "flags": "FLAGS",
        },
    }  # fmt: skip
    return {
        "format": "images",
        "exposure": {"card": "EXPOSURE"},
        "ccd": {"card": "CCDNUM"},
        "ccds_may_be_absent": True,
        "time": {"card": "MJD-OBS", "unit": "d"},
        "filter": {"card": "FILTER"},
        "unit": "adu",
        "gain": {"card": "GAIN", "unit": "electron / adu"},
        "read_noise": {"card": "RDNOISE", "unit": "electron"},
        "saturation": {"card": "SATURATE", "unit": "adu"},
        "science": {"extname": "SCI"},
        "weight": {"extname": "WHT", "kind": "inverse_variance"},
        "mask": {"extname": "MSK"},
        "background": {"kind": "card", "level": {"card": "SKY", "unit": "adu"}},
        "stars": catalogue,
    } | changes


def catalogue(ccds, *, n=4, seed=5):
    """A catalogue of n objects on each CCD, positions 1-based."""
    rng = np.random.default_rng(seed)
    total = n * len(ccds)
    ccd = np.repeat(np.asarray(ccds), n)
    return Table(
        {
            "ID": np.arange(total) + 100,
            "CCD": ccd,
            "X": rng.uniform(10, COLUMNS - 10, total),
            "Y": rng.uniform(10, ROWS - 10, total),
            "RA": np.full(total, 10.0),
            "DEC": np.full(total, -5.0),
            "FLUX": rng.uniform(1e3, 1e4, total),
            "SNR": rng.uniform(20, 90, total),
            "FLAGS": np.zeros(total, int),
        }
    )


def write_exposure(folder, exposure, ccds, *, table=None, suffix=".fits", **options):
    """images/<exposure>.fits with its catalogue beside it. Returns the image's path."""
    images, catalogues = folder / "images", folder / "catalogues"
    images.mkdir(exist_ok=True)
    catalogues.mkdir(exist_ok=True)
    path = images / f"{exposure}{suffix}"
    exposure_hdus(exposure, ccds, **options).writeto(path)
    (catalogue(ccds) if table is None else table).write(catalogues / f"{exposure}_stars.fits")
    return path


def stack_recipe(**changes):
    return {
        "format": "stack",
        "filename": r"(?P<exposure>.+)\.np[yz]",
        "exposure": {"group": "exposure"},
        "unit": "electron",
        "weight": "weight",
        "stars": {"origin": 0, "columns": {"x": "x", "y": "y"}},
    } | changes


def stack_arrays(n=6, **changes):
    rng = np.random.default_rng(3)
    return {
        "image": stamps(n),
        "weight": np.full((n, STAMP, STAMP), 0.25, np.float32),
        "x": rng.uniform(10, 60, n),
        "y": rng.uniform(10, 40, n),
    } | changes


def stored(path, group="stars", *, exposure=0, ccd=0):
    """The taken objects of a CCD, in memory."""
    data = open_tree(path)[group].to_dataset().isel(exposure=exposure, ccd=ccd).load()
    (axis,) = {"star", "galaxy"} & set(data.dims)
    return data.isel({axis: data["role"].values > 0})


def exposures(path):
    return open_tree(path)["exposures"].to_dataset().load()
