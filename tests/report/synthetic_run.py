"""A run and its survey as trees in memory, with plausible numbers and no model behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from psfscale.arrays import STACK_SAMPLES, Role
from psfscale.attributes import to_stored
from psfscale.metrics import aggregate
from psfscale.store.schema import RUN_SCHEMA


def _gaussian(side: int, sigma: float) -> np.ndarray:
    at = np.arange(side) - side // 2
    image = np.exp(-(at[:, None] ** 2 + at**2) / (2 * sigma**2))
    return image / image.sum()


def synthetic_run(
    *,
    exposures: int = 2,
    ccds: int = 3,
    stars: int = 20,
    side: int = 21,
    layout: bool = True,
    seed: int = 1,
) -> tuple[xr.DataTree, xr.DataTree]:
    """The run's tree and the survey's: a square field of CCDs, the last exposure not run."""
    rng = np.random.default_rng(seed)
    here, dims = (exposures, ccds, stars), ("exposure", "ccd", "star")
    columns = int(np.ceil(np.sqrt(ccds)))
    row, column = np.divmod(np.arange(ccds), columns)
    x, y = rng.uniform(0, 2000, (2, *here))
    field_x = (column[:, None] - columns / 2) * 30 + x * 0.0135
    field_y = (row[:, None] - columns / 2) * 30 + y * 0.0135
    role = np.where(rng.random(here) < 0.2, Role.RESERVED, Role.FIT).astype(np.uint8)
    role[:, :, 0], role[:, :, -1] = Role.RESERVED, Role.EMPTY
    run = np.broadcast_to(np.arange(exposures)[:, None, None] < max(exposures - 1, 1), here)
    present = run & (role != Role.EMPTY)

    def where(values: Any) -> np.ndarray:
        return np.where(present, values, np.nan).astype(np.float32)

    u, v = field_x / 100, field_y / 100
    model = {
        "e1": 0.03 * u + 0.02 * (u**2 - v**2),
        "e2": 0.04 * u * v + 0.01,
        "R2": 0.045 * (1 + 0.1 * u**2),
    }
    values: dict[str, np.ndarray] = {"chi2": where(1 + 0.05 * rng.standard_normal(here))}
    for name, truth in model.items():
        scale = truth if name == "R2" else 1.0
        values[f"{name}_model"] = where(truth)
        values[f"{name}_star"] = where(truth + scale * rng.normal(0.002, 0.015, here))
    flags = np.where(present & (rng.random(here) < 0.03), 32, 0).astype(np.uint32)
    attributes = {s.path: dict(s.attributes) for s in RUN_SCHEMA}
    star_group = {name: (dims, value) for name, value in values.items()}
    star_group["flags"] = (dims, flags, attributes["stars/flags"])
    survey_stars = {name: (dims, value) for name, value in (("x", x), ("y", y), ("role", role))} | {
        name: (dims, value if layout else np.full(here, np.nan))
        for name, value in (("field_x", field_x), ("field_y", field_y))
    }
    ccd_group = _ccd_group(values, role, present, side, rng)
    axes = {"exposure": [f"exp{i:04d}" for i in range(exposures)], "ccd": np.arange(1, ccds + 1)}
    groups = aggregate(
        xr.Dataset(star_group), xr.Dataset({"role": (dims, role)}), xr.Dataset(ccd_group)
    )
    components = rng.normal(0, 1, (exposures, ccds, 4, 3 * side, 3 * side)) * _gaussian(3 * side, 6)
    components[:, :, 3] = np.nan
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset(
                coords=axes,
                attrs=to_stored(
                    {
                        "config": {"model": {"name": "rca"}, "seed": 0},
                        "model_settings": {"n_components": 4},
                        "versions": {"psfscale": "0.1.0"},
                        "survey_fingerprint": "0123abcd",
                    }
                ),
            ),
            "/stars": xr.Dataset(star_group),
            "/ccds": xr.Dataset(ccd_group),
            "/models/rca": xr.Dataset(
                {
                    "eigen_psf": (
                        ("exposure", "ccd", "component", "fine_y", "fine_x"),
                        components.astype(np.float32),
                        {"long_name": "eigen-PSFs"},
                    )
                }
            ),
            "/exposures": groups["exposures"],
            "/summary": groups["summary"],
        }
    )
    survey = xr.DataTree.from_dict(
        {"/": xr.Dataset(coords=axes, attrs={"survey": "toy"}), "/stars": xr.Dataset(survey_stars)}
    )
    return tree, survey


def _ccd_group(
    values: dict[str, np.ndarray],
    role: np.ndarray,
    present: np.ndarray,
    side: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    at = ("exposure", "ccd")
    reserved = present & (role == Role.RESERVED)
    n = reserved.sum(axis=2)
    blank = np.where(n > 0, 1.0, np.nan)
    group: dict[str, Any] = {
        "n_fit": (at, (present & (role == Role.FIT)).sum(axis=2)),
        "n_clipped": (at, (n > 0).astype(int)),
        "n_reserved": (at, n),
        "n_measured": (at, n),
        "clipped_fraction": (at, blank / 10),
        "chi2_median": (at, blank * rng.uniform(0.9, 1.2, n.shape)),
        "star_power": (at, blank * n * 1e6),
    }
    for name, size in (("model", 0.1), ("noise", 0.08), ("mean_star", 0.2)):
        group[f"{name}_rel_rmse"] = (at, blank * size * rng.uniform(0.9, 1.1, n.shape))
    for name in ("e1", "e2", "R2"):
        delta = values[f"{name}_star"] - values[f"{name}_model"]
        delta = np.where(reserved, delta / (values["R2_model"] if name == "R2" else 1), 0)
        for frame in ("", "_sky"):
            group[f"{name}_bias{frame}"] = (at, blank * delta.sum(axis=2) / np.maximum(n, 1))
            rms = np.sqrt((delta**2).sum(axis=2) / np.maximum(n, 1))
            group[f"{name}_rmse{frame}"] = (at, blank * rms)
    for name, size in (("R2", 0.045), ("e1", 0.01), ("e2", 0.02)):
        group[f"psf_{name}"] = group[f"psf_{name}_sky"] = (at, blank * size)
    cells = STACK_SAMPLES * side
    stamps = blank[..., None, None] * np.ones((cells, cells))
    stack, told = ("exposure", "ccd", "stamp_y", "stamp_x"), {"samples_per_pixel": STACK_SAMPLES}
    mean = STACK_SAMPLES**2 * _gaussian(cells, 1.6 * STACK_SAMPLES)
    group["mean_star"] = (stack, stamps * mean, told)
    group["mean_residual"] = (stack, stamps * rng.normal(0, 2e-4, (*n.shape, cells, cells)), told)
    return group


STATUS: dict[str, Any] = {
    "run": "/somewhere/toy.zarr",
    "driver": "none",
    "holder": "",
    "finished": True,
    "units": {"fit": {"done": 1, "failed": 1, "pending": 0}},
    "ccds": {"fit": {"DONE": 5, "QUARANTINED": 1}},
    "costs": {
        "fit": {
            "n_units": 2,
            "n_attempts": 3,
            "seconds": 6.4,
            "cpu_seconds": 6.0,
            "stage_seconds": 5.4,
            "peak_memory": 2**29,
            "n_objects": 120,
            "objects": "stars",
        }
    },
    "hosts": {
        "node-7": {
            "n_units": 2,
            "seconds": 6.4,
            "cpu_seconds": 6.0,
            "peak_memory": 2**29,
            "devices": ["cpu", "H100"],
        }
    },
    "deaths": {},
    "failures": [
        {
            "stage": "fit",
            "exposure": 1,
            "exposure_id": "visit-77",
            "ccd": 2,
            "ccd_id": 43,
            "type": "FitError",
            "message": "12 stars <script>alert('no')</script> & too few",
        }
    ],
}
