"""What the page shows, read from the stores one exposure at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psfscale.arrays import Role
from psfscale.attributes import codes_of

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import Float

_EXPOSURES_SHOWN = 64
"""Exposures whose stars are drawn; more are thinned evenly. Numbers come from all."""
_IMAGES = ("exposure", "ccd", "component")
_PLACES = ("x", "y", "field_x", "field_y")
_SHAPES = ("e1_star", "e2_star", "R2_star", "e1_model", "e2_model", "R2_model", "chi2")


@dataclass(frozen=True, kw_only=True)
class StarSample:
    """Stars of the exposures shown, one entry a star.

    Attributes
    ----------
    columns : (star,) by name: places, shapes, chi2, and `reserved`
    unit : of the focal-plane places, ``mm``, or ``pixel`` where the survey has no layout
    n_exposures, of_exposures : exposures read, and in the run
    """

    columns: dict[str, np.ndarray]
    unit: str
    n_exposures: int
    of_exposures: int

    @property
    def place(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each star stands, in `unit`."""
        names = ("field_x", "field_y") if self.unit == "mm" else ("x", "y")
        return self.columns[names[0]], self.columns[names[1]]

    def residual(self, name: str) -> np.ndarray:
        """Star − model of e1 or e2, or of R2 over the model's; NaN for stars of the fit."""
        difference = self.columns[f"{name}_star"] - self.columns[f"{name}_model"]
        if name == "R2":
            difference = difference / self.columns["R2_model"]
        return np.where(self.columns["reserved"], difference, np.nan)


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """Mean reserved star and residual of each CCD, over the exposures shown.

    Attributes
    ----------
    star, residual : (ccd, y, x), over flux; NaN where a CCD has none
    n_stars : (ccd,)
    samples : cells per CCD pixel, 1 in runs of schema version 1
    """

    star: Float[np.ndarray, "ccd y x"]
    residual: Float[np.ndarray, "ccd y x"]
    n_stars: Float[np.ndarray, " ccd"]
    samples: int = 1

    def overall(self) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
        """Means over all CCDs, each weighing as its stars."""
        has = self.n_stars > 0
        if not has.any():
            return self.star[0], self.residual[0]
        weight = self.n_stars[has]
        return (
            np.average(self.star[has], axis=0, weights=weight),
            np.average(self.residual[has], axis=0, weights=weight),
        )


@dataclass(frozen=True, kw_only=True)
class Components:
    """Components of the model of one CCD: (component, y, x), and whose they are."""

    images: Float[np.ndarray, "component y x"]
    model: str
    meaning: str
    exposure: str
    ccd: int


def shown_exposures(n: int) -> list[int]:
    """At most `_EXPOSURES_SHOWN` of `n`, evenly spread."""
    if n <= _EXPOSURES_SHOWN:
        return list(range(n))
    return [round(at) for at in np.linspace(0, n - 1, _EXPOSURES_SHOWN)]


def gather_stars(tree: xr.DataTree, survey: xr.DataTree) -> StarSample:
    """The stars of role fit and reserved, with their places and shapes."""
    stars, metrics = survey["stars"].dataset, tree["stars"].dataset
    n = metrics.sizes["exposure"]
    shown = shown_exposures(n)
    parts: list[dict[str, np.ndarray]] = []
    for i in shown:
        role = stars["role"].isel(exposure=i).values
        present = role != Role.EMPTY
        part = {"reserved": role[present] == Role.RESERVED}
        for source, names in ((stars, _PLACES), (metrics, _SHAPES)):
            for name in names:
                part[name] = source[name].isel(exposure=i).values[present].astype(np.float32)
        parts.append(part)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    on_plane = bool(np.isfinite(columns["field_x"]).any())
    return StarSample(
        columns=columns,
        unit="mm" if on_plane else "pixel",
        n_exposures=len(shown),
        of_exposures=n,
    )


def gather_stacks(tree: xr.DataTree) -> Stacks:
    """The stacks of the CCDs, averaged over the exposures shown."""
    ccds = tree["ccds"].dataset
    shape = tuple(ccds.sizes[d] for d in ccds["mean_star"].dims[1:])
    star, residual, held, count = (np.zeros(n) for n in (shape, shape, shape, shape[:1]))
    for i in shown_exposures(ccds.sizes["exposure"]):
        one = ccds[["mean_star", "mean_residual", "n_reserved"]].isel(exposure=i).load()
        images = one["mean_star"].values, one["mean_residual"].values
        known = np.isfinite(images[0])
        n = np.where(known.any(axis=(1, 2)), one["n_reserved"].values, 0).astype(np.float64)
        weight = known * n[:, None, None]
        star += np.nan_to_num(images[0]) * weight
        residual += np.nan_to_num(images[1]) * weight
        held, count = held + weight, count + n
    held = np.where(held > 0, held, np.nan)
    samples = int(ccds["mean_star"].attrs.get("samples_per_pixel", 1))
    return Stacks(star=star / held, residual=residual / held, n_stars=count, samples=samples)


def gather_components(tree: xr.DataTree) -> Components | None:
    """Components of the measured CCD of median error, if the model's state has images of them."""
    if "models" not in tree.children:
        return None
    chosen = _typical_ccd(tree["ccds"].dataset)
    if chosen is None:
        return None
    exposure, ccd = chosen
    models = dict(tree["models"].children)
    stands = _standing(tree["ccds"].dataset, exposure, ccd)
    for name, node in models.items() if stands not in models else [(stands, models[stands])]:
        # Among the variables: xarray holds an array named as one of its dims to be a coordinate.
        for title, array in node.dataset.variables.items():
            if len(array.dims) == 5 and array.dims[:3] == _IMAGES:
                images = array[exposure, ccd].values.astype(np.float64)
                used = np.isfinite(images).all(axis=(1, 2)) & (images != 0).any(axis=(1, 2))
                return Components(
                    images=images[used],
                    model=str(name),
                    meaning=str(array.attrs.get("long_name", title)),
                    exposure=str(tree.dataset["exposure"].values[exposure]),
                    ccd=int(tree.dataset["ccd"].values[ccd]),
                )
    return None


def _standing(ccds: xr.Dataset, exposure: int, ccd: int) -> str:
    """The model that stands for a CCD, of several; empty where there is one alone."""
    if "model" not in ccds:
        return ""
    code = int(ccds["model"][exposure, ccd])
    codes = codes_of(ccds["model"].attrs)
    return next((str(name) for name, known in codes.items() if known == code), "")


def _typical_ccd(ccds: xr.Dataset) -> tuple[int, int] | None:
    error = ccds["model_rel_rmse"].values
    finite = np.isfinite(error)
    if not finite.any():
        return None
    order = np.argsort(np.where(finite, error, np.inf), axis=None)
    exposure, ccd = np.unravel_index(order[(finite.sum() - 1) // 2], error.shape)
    return int(exposure), int(ccd)
