"""A small survey store and its instrument, made with numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
import zarr

from psfscale.arrays import Role
from psfscale.config import RunConfig, fingerprint
from psfscale.store.schema import SPECTRA_SCHEMA, SURVEY_SCHEMA
from psfscale.store.stores import add_arrays, consolidate, create_store, grow, open_root
from psfscale.survey import load_survey
from psfscale.survey.geometry import field_position

N_CCDS = 2
N_STARS = 16
N_FILLED = 12
N_GALAXIES = 16
SIDE = 11
STAGES = ("fit", "psf", "metrics")
"""What a run of these tests wants."""


def quantity(value: object, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": "made up for tests"}


INSTRUMENT = {
    "name": "toy",
    "instrument": {
        "telescope": {"aperture": quantity(1.0, "m"), "focal_length": quantity(10.0, "m")},
        "passband": {"minimum": quantity(0.5, "um"), "maximum": quantity(0.9, "um")},
        "detector": {
            "pixel_scale": quantity(0.1, "arcsec"),
            "pixel_size": quantity(12.0, "um"),
            "columns": 400,
            "rows": 300,
            "gain": quantity(1.0, "electron / adu"),
            "read_noise": quantity(3.0, "electron"),
        },
        "focal_plane": {
            "first_ccd": 1,
            "n_ccds": N_CCDS,
            "layout": {
                "kind": "grid",
                "columns": 2,
                "rows": 1,
                "gap_x": quantity(1.0, "mm"),
                "gap_y": quantity(1.0, "mm"),
            },
        },
        "psf": {
            "fwhm_minimum": quantity(0.1, "arcsec"),
            "fwhm_maximum": quantity(1.0, "arcsec"),
            "upsampling": 1,
        },
    },
    "ingest": {
        "format": "ldac",
        "exposure": {"card": "EXPNUM"},
        "stars": {"columns": {"x": "X_IMAGE", "y": "Y_IMAGE"}},
    },
}


def write_instrument(folder: Path) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(INSTRUMENT))
    return path


def _stamps(rng: np.random.Generator, n: int, flux: float) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    profile = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    clean = flux * profile / profile.sum()
    image = clean + rng.normal(size=(n, SIDE, SIDE))
    return image.astype("f4"), np.ones(image.shape, "f4")


def fill_exposure(path: Path, exposure: int, *, galaxies: bool = True, n_stars: int = N_FILLED):
    """Write one exposure of the toy survey; its content follows from its index alone."""
    root = open_root(path, mode="r+")
    rng = np.random.default_rng(exposure)
    groups = [("stars", n_stars, 1e4 + exposure)]
    if galaxies:
        groups.append(("galaxies", 5, 1e3))
    for group, n, flux in groups:
        for ccd in range(N_CCDS):
            image, weight = _stamps(rng, n, flux)
            root[f"{group}/image"][exposure, ccd, :n] = image
            root[f"{group}/weight"][exposure, ccd, :n] = weight
        place = rng.uniform(20, 280, (2, N_CCDS, n))
        role = np.where(np.arange(n) % 4 == 3, Role.RESERVED, Role.FIT)
        for name, values in {"x": place[0], "y": place[1], "role": role[None], "snr": 100}.items():
            root[f"{group}/{name}"][exposure, :, :n] = values
        root[f"exposures/n_{group}"][exposure] = n
    root["exposure"][exposure] = root["exposures/id"][exposure] = f"exp-{exposure}"
    seal(path, exposure, fingerprint("toy", exposure, n_stars))


def seal(path: Path, exposure: int, content: str) -> None:
    root = open_root(path, mode="r+")
    root["exposures/content"][exposure] = content
    root["exposures/complete"][exposure] = 1


def make_survey(path: Path, n_exposures: int, *, galaxies: bool = True) -> Path:
    specs = [s for s in SURVEY_SCHEMA if galaxies or s.group != "galaxies"]
    sizes = {
        "exposure": n_exposures,
        "ccd": N_CCDS,
        "star": N_STARS,
        "galaxy": N_GALAXIES,
        "stamp_y": SIDE,
        "stamp_x": SIDE,
        "reason": 1,
    }
    create_store(path, specs, sizes=sizes, attributes={"kind": "survey"})
    open_root(path, mode="r+")["ccd"][...] = np.arange(1, N_CCDS + 1)
    for exposure in range(n_exposures):
        fill_exposure(path, exposure, galaxies=galaxies)
    return path


def append_exposure(path: Path) -> int:
    exposure = open_root(path)["exposure"].shape[0]
    grow(path, exposure + 1)
    fill_exposure(path, exposure)
    return exposure


def spoil_ccd(path: Path, exposure: int, ccd: int, *, how: str) -> None:
    """Make a CCD unusable: all stars but one gone, or a NaN that has weight."""
    root = open_root(path, mode="r+")
    if how == "few":
        root["stars/role"][exposure, ccd, 1:] = Role.EMPTY
    else:
        root["stars/image"][exposure, ccd, 0, 3, 3] = np.nan
    seal(path, exposure, fingerprint("spoiled", exposure, ccd, how))


def mend_ccd(path: Path, exposure: int, ccd: int) -> None:
    """Undo the NaN of `spoil_ccd`, without the survey's digest telling."""
    open_root(path, mode="r+")["stars/image"][exposure, ccd, 0, 3, 3] = 0.0


def make_config(folder: Path, **changes) -> RunConfig:
    content = {
        "survey": folder / "survey.zarr",
        "instrument": folder / "toy.yaml",
        "output": folder / "run.zarr",
        **changes,
    }
    return RunConfig.model_validate(content)


def run_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a run store by path, but for the times and hosts of its units."""
    members = zarr.open_group(path, mode="r").members(max_depth=None)
    told = ("units/wanted", "units/fingerprint")
    return {
        name: array[...]
        for name, array in members
        if isinstance(array, zarr.Array) and (not name.startswith("units/") or name in told)
    }


def require_same_arrays(one: Path, other: Path) -> None:
    left, right = run_arrays(one), run_arrays(other)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


SPECTRA = np.array([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
"""Templates of a coloured survey: flat, blue and red."""
WAVELENGTHS = np.array([0.55, 0.65, 0.75, 0.85])


def place_and_colour(folder: Path) -> None:
    """Give a toy survey store places in the focal plane and spectra."""
    instrument = load_survey(folder / "toy.yaml").instrument
    root = open_root(folder / "survey.zarr", mode="r+")
    n_templates, n_bins = SPECTRA.shape
    sizes = {"exposure": root["exposure"].shape[0], "ccd": N_CCDS, "star": N_STARS}
    sizes |= {"galaxy": N_GALAXIES, "template": n_templates, "wavelength": n_bins}
    add_arrays(root, SPECTRA_SCHEMA, sizes=sizes)
    root["seds/sed"][...], root["seds/wavelength"][...] = SPECTRA, WAVELENGTHS
    for group in ("stars", "galaxies"):
        x, y = root[f"{group}/x"][...], root[f"{group}/y"][...]
        for ccd in range(N_CCDS):
            place = field_position(instrument, ccd + 1, x[:, ccd], y[:, ccd])
            root[f"{group}/field_x"][:, ccd], root[f"{group}/field_y"][:, ccd] = place
        ids = np.arange(x.size).reshape(x.shape) % n_templates
        root[f"{group}/sed_id"][...] = np.where(root[f"{group}/role"][...] > 0, ids, 0)
    consolidate(folder / "survey.zarr")
