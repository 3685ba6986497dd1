"""Exposures of stars and galaxies with known columns, made with numpy alone."""

from __future__ import annotations

import numpy as np

from psfscale.arrays import Role
from psfscale.metrics.tables.axes import axes_of
from psfscale.metrics.tables.count import Collector
from psfscale.survey.instrument import Instrument

N_CCDS = 3


def quantity(value: object, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": "made up for tests"}


def instrument(layout: str = "grid") -> Instrument:
    grid = {
        "kind": "grid",
        "columns": N_CCDS,
        "rows": 1,
        "gap_x": quantity(1.0, "mm"),
        "gap_y": quantity(1.0, "mm"),
    }
    return Instrument.model_validate(
        {
            "telescope": {"aperture": quantity(1.0, "m"), "focal_length": quantity(10.0, "m")},
            "passband": {"minimum": quantity(0.5, "um"), "maximum": quantity(0.9, "um")},
            "detector": {
                "pixel_scale": quantity(0.1, "arcsec"),
                "pixel_size": quantity(10.0, "um"),
                "columns": 1000,
                "rows": 2000,
                "gain": quantity(1.0, "electron / adu"),
                "read_noise": quantity(3.0, "electron"),
            },
            "focal_plane": {
                "first_ccd": 1,
                "n_ccds": N_CCDS,
                "layout": grid if layout == "grid" else {"kind": layout},
            },
            "psf": {
                "fwhm_minimum": quantity(0.1, "arcsec"),
                "fwhm_maximum": quantity(1.0, "arcsec"),
                "upsampling": 1,
            },
        }
    )


AXES = axes_of(instrument())


def stars(seed: int, n: int = 40) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns (ccd, star) of one exposure; the last CCD has no metrics in odd exposures."""
    rng = np.random.default_rng(seed)
    shape = (N_CCDS, n)
    role = rng.choice([Role.EMPTY, Role.FIT, Role.RESERVED], p=[0.1, 0.5, 0.4], size=shape)
    found = {"role": role.astype("u1"), **_places(rng, shape)}
    found |= {"ra": rng.uniform(10, 10.3, shape), "dec": rng.uniform(-0.1, 0.2, shape)}
    for name, scale in (("e1", 0.02), ("e2", 0.03)):
        found[f"{name}_model"] = rng.normal(0, 0.05, shape).astype("f4")
        found[f"{name}_star"] = (found[f"{name}_model"] + rng.normal(1e-3, scale, shape)).astype(
            "f4"
        )
    found["R2_model"] = rng.uniform(0.2, 0.3, shape).astype("f4")
    found["R2_star"] = (found["R2_model"] * (1 + rng.normal(0, 0.02, shape))).astype("f4")
    found["chi2"] = rng.chisquare(100, shape).astype("f4") / 100
    found["rel_rmse"] = rng.uniform(0.01, 0.4, shape).astype("f4")
    found["e1_star"][rng.random(shape) < 0.05] = np.nan
    found["flux"] = 10 ** rng.uniform(3, 6, shape)
    found["colour"] = rng.choice([np.nan, 0.65, 0.72, 0.81], size=shape)
    found["flags"] = rng.choice([0, 32, 512], size=shape).astype("u4")
    found["fit_flags"] = rng.choice([0, 16], size=shape).astype("u4")
    return found, np.arange(N_CCDS) < N_CCDS - seed % 2


def galaxies(seed: int, n: int = 30) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns (ccd, galaxy) of one exposure, all CCDs restored."""
    rng = np.random.default_rng((seed, 7))
    shape = (N_CCDS, n)
    found = {"role": rng.choice([0, 1], size=shape).astype("u1"), **_places(rng, shape)}
    found["flux"] = 10 ** rng.uniform(2, 4, shape)
    found["restored_flux"] = found["flux"] * rng.normal(1, 0.1, shape)
    for name in ("e1", "e2"):
        found[f"restored_{name}"] = rng.normal(0, 0.3, shape)
    found["restored_R2"] = rng.uniform(0.1, 0.5, shape)
    found["restored_chi2"] = rng.uniform(0.8, 1.2, shape)
    found["restored_flags"] = rng.choice([0, 32], size=shape).astype("u4")
    return found, np.ones(N_CCDS, bool)


def _places(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    x, y = rng.uniform(-0.5, 999.5, shape), rng.uniform(-0.5, 1999.5, shape)
    middle = (np.arange(N_CCDS) - 1)[:, None] * 11.0
    return {"x": x, "y": y, "field_x": middle + (x - 499.5) * 0.01, "field_y": (y - 999.5) * 0.01}


def tally(seeds, *, rho: bool = False):
    collector = Collector(AXES, rho=rho)
    for seed in seeds:
        collector.add(f"exp-{seed}", stars=stars(seed), galaxies=galaxies(seed))
    return collector.tally()


def flat(make, seeds) -> dict[str, np.ndarray]:
    """All objects that count, in one row, with the index of their CCD."""
    parts = []
    for seed in seeds:
        arrays, use = make(seed)
        ccd, at = np.nonzero((arrays["role"] != Role.EMPTY) & use[:, None])
        parts.append({"ccd": ccd, **{name: values[ccd, at] for name, values in arrays.items()}})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
