"""Tables and maps of a survey in memory, with residuals that hang on place, flux and colour."""

from __future__ import annotations

import numpy as np
import xarray as xr

from psfscale.arrays import Role
from psfscale.metrics.tables.axes import axes_of
from psfscale.metrics.tables.count import Collector
from psfscale.metrics.tables.tables import results
from psfscale.survey.instrument import Instrument

COLUMNS = 3


def _quantity(value: object, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": "made up for tests"}


def _instrument(n_ccds: int) -> Instrument:
    gaps = {name: _quantity(1.0, "mm") for name in ("gap_x", "gap_y")}
    grid = {"kind": "grid", "columns": COLUMNS, "rows": n_ccds // COLUMNS, **gaps}
    return Instrument.model_validate(
        {
            "telescope": {"aperture": _quantity(1.0, "m"), "focal_length": _quantity(10.0, "m")},
            "passband": {"minimum": _quantity(0.5, "um"), "maximum": _quantity(0.9, "um")},
            "detector": {
                "pixel_scale": _quantity(0.1, "arcsec"),
                "pixel_size": _quantity(10.0, "um"),
                "columns": 2000,
                "rows": 2000,
                "gain": _quantity(1.0, "electron / adu"),
                "read_noise": _quantity(3.0, "electron"),
            },
            "focal_plane": {"first_ccd": 1, "n_ccds": n_ccds, "layout": grid},
            "psf": {
                "fwhm_minimum": _quantity(0.1, "arcsec"),
                "fwhm_maximum": _quantity(1.0, "arcsec"),
                "upsampling": 1,
            },
        }
    )


def synthetic_tables(
    *, exposures: int = 4, n_ccds: int = 6, stars: int = 40, rho: bool = True
) -> dict[str, xr.Dataset]:
    instrument = _instrument(n_ccds)
    collector = Collector(axes_of(instrument), rho=rho)
    for exposure in range(exposures):
        rng = np.random.default_rng(exposure)
        shape = (n_ccds, stars)
        collector.add(
            f"exp-{exposure}",
            stars=(_stars(rng, shape, instrument), np.ones(n_ccds, bool)),
            galaxies=(_galaxies(rng, shape, instrument), np.ones(n_ccds, bool)),
        )
    return results(collector.tally(), axes_of(instrument), ccds=np.arange(1, n_ccds + 1))


def _place(rng: np.random.Generator, shape: tuple[int, int], instrument: Instrument):
    x, y = rng.uniform(0, 1999, (2, *shape))
    middle = np.array([instrument.ccd_centre(1 + ccd) for ccd in range(shape[0])])
    return {
        "x": x,
        "y": y,
        "field_x": middle[:, :1] + (x - 999.5) * 0.01,
        "field_y": middle[:, 1:] + (y - 999.5) * 0.01,
    }


def _stars(rng: np.random.Generator, shape: tuple[int, int], instrument: Instrument):
    found = {"role": np.full(shape, Role.RESERVED, "u1"), **_place(rng, shape, instrument)}
    u, v = found["field_x"] / 30, found["field_y"] / 20
    found |= {"ra": 10 + 0.16 * u, "dec": 0.1 * v}
    flux = 10 ** rng.uniform(3.5, 6, shape)
    noise = 30 / np.sqrt(flux)
    colour = rng.choice([0.62, 0.66, 0.71, 0.75], size=shape)
    delta = {
        "e1": 3e-3 * (u**2 - v**2),
        "e2": 4e-3 * u * v,
        "R2": 2e-3 * (np.log10(flux) - 4.5) + 0.05 * (colour - 0.68),
    }
    for name, offset in delta.items():
        model = np.full(shape, 0.3) if name == "R2" else rng.normal(0, 0.03, shape)
        scale = model if name == "R2" else 1.0
        found[f"{name}_model"] = model
        found[f"{name}_star"] = model + scale * (offset + 0.1 * noise * rng.normal(size=shape))
    found |= {"flux": flux, "colour": colour, "chi2": rng.normal(1, 0.05, shape)}
    found["rel_rmse"] = noise
    return found | {name: np.zeros(shape, "u4") for name in ("flags", "fit_flags")}


def _galaxies(rng: np.random.Generator, shape: tuple[int, int], instrument: Instrument):
    found = {"role": np.ones(shape, "u1"), **_place(rng, shape, instrument)}
    flux = 10 ** rng.uniform(2.5, 4.5, shape)
    found |= {"flux": flux, "restored_flux": flux * (1 + 20 / flux * rng.normal(size=shape))}
    for name in ("e1", "e2"):
        found[f"restored_{name}"] = rng.normal(0, 0.25, shape)
    found["restored_R2"] = np.exp(rng.normal(-1.5, 0.4, shape))
    found["restored_chi2"] = rng.normal(1, 0.05, shape)
    found["restored_flags"] = np.where(rng.random(shape) < 0.1, 32, 0).astype("u4")
    return found
