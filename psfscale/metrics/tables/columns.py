"""What is tallied of stars and of galaxies, from their columns in the stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import STANDS_OUT, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that every object has, or may have."""

    name: str
    units: str
    long_name: str


_ON_SKY = "along the sky's axes, u west and v north"
STAR_QUANTITIES = (
    Measure(name="e1_residual", units="1", long_name="e1, reserved star − model"),
    Measure(name="e2_residual", units="1", long_name="e2, reserved star − model"),
    Measure(name="R2_residual", units="1", long_name="R2, (reserved star − model) / model"),
    Measure(name="chi2", units="1", long_name="reduced chi² of the reserved star"),
    Measure(name="rel_rmse", units="1", long_name="relative pixel RMSE of the reserved star"),
    Measure(name="e1_model", units="1", long_name="e1 of the model at every star"),
    Measure(name="e2_model", units="1", long_name="e2 of the model at every star"),
    Measure(name="R2_model", units="arcsec2", long_name="R2 of the model at every star"),
    Measure(name="e1_residual_sky", units="1", long_name=f"e1, reserved star − model, {_ON_SKY}"),
    Measure(name="e2_residual_sky", units="1", long_name=f"e2, reserved star − model, {_ON_SKY}"),
    Measure(name="e1_model_sky", units="1", long_name=f"e1 of the model at every star, {_ON_SKY}"),
    Measure(name="e2_model_sky", units="1", long_name=f"e2 of the model at every star, {_ON_SKY}"),
)
GALAXY_QUANTITIES = (
    Measure(name="flux_residual", units="1", long_name="restored flux / catalogue's − 1"),
    Measure(name="magnitude", units="mag", long_name="−2.5 log10 of the restored flux"),
    Measure(name="chi2", units="1", long_name="mean squared residual in noise units"),
    Measure(name="e1", units="1", long_name="e1 of the restored galaxy"),
    Measure(name="e2", units="1", long_name="e2 of the restored galaxy"),
    Measure(name="R2", units="arcsec2", long_name="R2 of the restored galaxy"),
    Measure(name="e1_sky", units="1", long_name=f"e1 of the restored galaxy, {_ON_SKY}"),
    Measure(name="e2_sky", units="1", long_name=f"e2 of the restored galaxy, {_ON_SKY}"),
)

STAR_SURVEY = ("role", "x", "y", "field_x", "field_y", "ra", "dec")
"""Arrays of the survey's stars that a tally reads."""
_SHAPES = tuple(f"{name}_{of}" for of in ("star", "model") for name in ("e1", "e2", "R2"))
STAR_RUN = ("flux", "chi2", "rel_rmse", *_SHAPES, "flags", "fit_flags")
"""Arrays of the run's stars that a tally reads."""
STAR_SKY = tuple(f"{name}_sky" for name in _SHAPES)
"""The same, which runs of schema version 1 lack; shapes along the pixels then stand for them."""
GALAXY_SURVEY = ("role", "x", "y", "field_x", "field_y", "flux")
"""Arrays of the survey's galaxies that a tally reads."""
GALAXY_RUN = ("restored_flux", "restored_chi2", "restored_e1", "restored_e2", "restored_R2",
              "restored_flags")  # fmt: skip
"""Arrays of the run's galaxies that a tally reads."""
GALAXY_SKY = ("restored_e1_sky", "restored_e2_sky")
"""The same, which runs of schema version 1 lack."""

_PLACE = ("x", "y", "field_x", "field_y")


def star_columns(arrays: Columns, use: np.ndarray) -> dict[str, np.ndarray]:
    """The stars of an exposure, one entry each, ready to be counted.

    Reserved stars that stand out (`STANDS_OUT`) count by their flags, not in residuals and ρ.

    Parameters
    ----------
    arrays : (ccd, star) each: `STAR_SURVEY`, `STAR_RUN`, and ``colour`` [µm], ``jacobian`` and
        `STAR_SKY` where known
    use : (ccd,) whose metrics are done
    """
    flat = _present(arrays, use)
    fair = (flat["flags"].astype(np.uint32) & np.uint32(STANDS_OUT)) == 0
    reserved = (flat["role"] == Role.RESERVED) & fair
    found = {
        **{name: flat[name] for name in (*_PLACE, "ccd", "ra", "dec", "flux")},
        **{name: flat[name].astype(np.float64) for name in _SHAPES},
        **_on_sky(flat, _SHAPES),
        "brightness": magnitude(flat["flux"]),
        "colour": flat.get("colour", np.full(reserved.shape, np.nan)),
        "flags": flat["flags"] | flat["fit_flags"],
        "reserved": reserved,
        "oriented": _oriented(flat),
    }
    for frame in ("", "_sky"):
        for name in ("e1", "e2", "R2"):
            difference = found[f"{name}_star{frame}"] - found[f"{name}_model{frame}"]
            found[f"{name}_residual{frame}"] = np.where(reserved, difference, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        found["R2_residual"] = found["R2_residual"] / found["R2_model"]
    for name in ("chi2", "rel_rmse"):
        found[name] = np.where(reserved, flat[name], np.nan)
    return found


def _on_sky(flat: Columns, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Shapes along the sky's axes; along the pixels' where the run has none."""
    return {f"{name}_sky": flat.get(f"{name}_sky", flat[name]).astype(np.float64) for name in names}


def _oriented(flat: Columns) -> np.ndarray:
    """(star,) whether the WCS of its CCD is known."""
    if "jacobian" not in flat:
        return np.zeros(len(flat["role"]), bool)
    return np.asarray(np.isfinite(flat["jacobian"]).all(axis=(1, 2)))


def galaxy_columns(arrays: Columns, use: np.ndarray) -> dict[str, np.ndarray]:
    """The galaxies of an exposure, one entry each, ready to be counted.

    Parameters
    ----------
    arrays : (ccd, galaxy) each: `GALAXY_SURVEY`, `GALAXY_RUN`, and ``colour`` [µm] and `GALAXY_SKY`
        where known
    use : (ccd,) whose galaxies are restored
    """
    flat = _present(arrays, use)
    restored = flat["restored_flux"].astype(np.float64)
    flux = np.where(np.isfinite(flat["flux"]), flat["flux"], restored).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = restored / flat["flux"] - 1
    return {
        **{name: flat[name] for name in (*_PLACE, "ccd")},
        **{name: flat[f"restored_{name}"] for name in ("chi2", "e1", "e2", "R2")},
        "flux": flux,
        **{
            name.removeprefix("restored_"): values
            for name, values in _on_sky(flat, ("restored_e1", "restored_e2")).items()
        },
        "flux_residual": residual,
        "brightness": magnitude(flux),
        "magnitude": magnitude(restored),
        "colour": flat.get("colour", np.full(flux.shape, np.nan)),
        "flags": flat["restored_flags"],
    }


def magnitude(flux: np.ndarray) -> np.ndarray:
    """Instrumental magnitude of a flux [electron]; NaN where it is not positive."""
    positive = np.where(flux > 0, flux, np.nan).astype(np.float64)
    return np.asarray(-2.5 * np.log10(positive))


def _present(arrays: Columns, use: np.ndarray) -> dict[str, np.ndarray]:
    """Objects that are there, on CCDs in use, with the index of their CCD."""
    ccd, at = np.nonzero((arrays["role"] != Role.EMPTY) & use[:, None])
    return {"ccd": ccd, **{name: values[ccd, at] for name, values in arrays.items()}}
