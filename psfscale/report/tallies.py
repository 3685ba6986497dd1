"""What the page shows of the tables and maps that are tallied over all exposures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from psfscale.report.numbers import number
from psfscale.report.plate import Plate
from psfscale.report.tallied import (
    LEAST,
    coarsening,
    galaxies_along,
    residuals_along,
    residuals_over,
    rho_curves,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Tables = Mapping[str, xr.Dataset]

_ROWS = (
    "above, means with standard errors; below, half the width of the middle 68 % of the stars, "
    "their own noise included"
)
_ALONG = (
    ("by_magnitude", "magnitude", "instrumental magnitude", "Residuals by magnitude"),
    ("by_colour", "wavelength", "mean wavelength [µm]", "Residuals by colour"),
    ("by_ccd", "ccd", "CCD", "Residuals by CCD"),
)


def star_plates(tables: Tables) -> list[Plate]:
    """Residuals of all reserved stars over the field and along magnitude, colour and CCD; ρ."""
    return [*_field_plate(tables), *_ccd_plate(tables), *_along_plates(tables), *_rho_plate(tables)]


def galaxy_plates(tables: Tables) -> list[Plate]:
    """Restored galaxies along magnitude."""
    table = tables.get("galaxies/by_magnitude")
    if table is None:
        return []
    table = table.load()
    n = int(table["n"].sel(quantity="flux_residual").sum())
    caption = (
        f"By the catalogue's flux; n = {n:,} galaxies of all exposures; points are means with "
        "standard errors, the band holds the middle 68 % of the galaxies. Sizes are adaptive "
        "moments of the restored galaxies, where those can be measured."
    )
    drawn = galaxies_along(table, "magnitude", "instrumental magnitude")
    return [Plate.of("galaxies", "Restored galaxies", drawn, caption)]


def galaxy_rows(tables: Tables) -> list[dict[str, str]]:
    """The restored galaxies in numbers, one row a quantity."""
    if "galaxies/overall" not in tables:
        return []
    table = tables["galaxies/overall"].load()
    rows = []
    for name in table["quantity"].values.tolist():
        one = table.sel(quantity=name)
        low, middle, high = (
            number(float(one["quantile"].sel(quantile_at=p))) for p in (0.16, 0.5, 0.84)
        )
        rows.append(
            {
                "what": str(one["meaning"].item()),
                "units": str(one["units"].item()).replace("arcsec2", "arcsec²"),
                "n": f"{int(one['n']):,}",
                "median": middle,
                "range": f"{low} … {high}",
                "mean": number(float(one["mean"])),
                "weighted": number(float(one["flux_weighted_mean"])),
            }
        )
    return rows


def galaxy_flags(tables: Tables) -> list[tuple[str, int]]:
    """How many galaxies bear each flag, most frequent first."""
    if "galaxies/overall" not in tables:
        return []
    counts = tables["galaxies/overall"]["n_flagged"].load()
    names = counts["flag"].values.tolist()
    found = [(str(k), int(n)) for k, n in zip(names, counts.values, strict=True) if n]
    return sorted(found, key=lambda item: -item[1])


def _measured(table: xr.Dataset) -> int:
    return int(table["n"].sel(quantity="R2_residual").sum())


def _field_plate(tables: Tables) -> Iterator[Plate]:
    table = tables.get("stars/over_field")
    if table is None or _measured(table) < LEAST:
        return
    table = table.load()
    cell = coarsening(table) * float(table["field_x"][1] - table["field_x"][0])
    drawn = residuals_over(
        table, dims=("field_y", "field_x"), labels=("field y [mm]", "field x [mm]")
    )
    yield Plate.of(
        "field",
        "Residuals over the focal plane",
        drawn,
        _map_caption(table, f"{number(cell, 2)} mm"),
    )


def _ccd_plate(tables: Tables) -> Iterator[Plate]:
    table = tables.get("stars/over_ccd")
    if table is None or _measured(table) < LEAST:
        return
    table = on_one_ccd(table.load())
    cell = coarsening(table) * float(table["x"][1] - table["x"][0])
    drawn = residuals_over(table, dims=("y", "x"), labels=("CCD y [pixel]", "CCD x [pixel]"))
    caption = f"{_map_caption(table, f'{cell:.0f} pixels')} All CCDs lie on one another."
    yield Plate.of("ccd-map", "Residuals over the CCD", drawn, caption)


def on_one_ccd(table: xr.Dataset) -> xr.Dataset:
    """Numbers and means of maps of CCDs laid on one another."""
    n = table["n"].sum("ccd")
    total = (table["mean"].fillna(0) * table["n"]).sum("ccd")
    return xr.Dataset({"n": n, "mean": total / n.where(n > 0)})


def _map_caption(table: xr.Dataset, cell: str) -> str:
    return (
        f"Means of star − model in cells of {cell} with at least {LEAST} of the "
        f"n = {_measured(table):,} reserved stars of all exposures."
    )


def _along_plates(tables: Tables) -> Iterator[Plate]:
    for name, dim, label, title in _ALONG:
        table = tables.get(f"stars/{name}")
        if table is None:
            continue
        held = table["n"].sel(quantity="R2_residual").values >= LEAST
        if held.sum() < 2:
            continue
        caption = f"n = {_measured(table):,} reserved stars of all exposures; {_ROWS}."
        drawn = residuals_along(table.load(), dim, label)
        yield Plate.of(name.replace("_", "-"), title, drawn, caption)


def _astray(rho: xr.Dataset) -> str:
    """What is to be said of stars on CCDs without a WCS."""
    n = int(rho.attrs.get("n_unoriented", 0))
    return f", those of {n} stars on CCDs without a WCS along the pixels'" if n else ""


def _rho_plate(tables: Tables) -> Iterator[Plate]:
    rho = tables.get("rho")
    if rho is None or not np.isfinite(rho["rho1"].values).any():
        return
    caption = (
        f"ρ statistics of reserved stars, {int(rho['n_pairs'].sum()):,} pairs inside exposures; "
        "filled marks are positive, open ones negative, errors from the scatter of exposures. "
        "ρ₁ is the residual with itself, ρ₂ star with residual, ρ₃ to ρ₅ those of the size. "
        f"Shapes are along the sky's axes{_astray(rho)}."
    )
    yield Plate.of("rho", "Correlations of the residuals", rho_curves(rho.load()), caption)
