"""Every array that psfscale stores: dims, dtype, unit, owner, fill and meaning, in one place.

The schema is documentation and check in one: stores are created from it, region writes are
asserted against it, ``psfscale schema`` prints it, and ``docs/schema.md`` is that print.

**Owner** says who writes an array, and so how it is cut: one stored object has exactly one
writer (two writers in one chunk or shard lose rows silently).

=========  ==========================  ===========================================
owner      stored object               written by
=========  ==========================  ===========================================
ccd        shard of one CCD's objects  the unit of its exposure, one CCD at a time
exposure   one exposure                the unit of its exposure, once, whole
ledger     chunks of 1024 exposures    the driver, from the marker of the unit
driver     chunks of 1024 exposures    the driver alone
=========  ==========================  ===========================================

Arrays of one **pack** lie together in one stored array, side by side along an axis of labels, so
that an exposure of a survey is a handful of files and not fifty (`psfscale.store.packs`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from psfscale.arrays import STACK_SAMPLES, ObjectFlag, Role, UnitState
from psfscale.attributes import enumeration_attributes, flag_attributes
from psfscale.store.figures import METRIC_COUNTS, ON_SKY, metric_values
from psfscale.store.refusal import Refusal
from psfscale.store.spec import EXPOSURES_PER_CHUNK, OBJECTS_PER_CHUNK, ArraySpec
from psfscale.store.spec import spec_of as _spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "EXPOSURES_PER_CHUNK",
    "INLINE_SPECTRA_SCHEMA",
    "MODEL_CODES",
    "OBJECTS_PER_CHUNK",
    "RUN_SCHEMA",
    "SPECTRA_SCHEMA",
    "STAR_RESULTS",
    "SURVEY_SCHEMA",
    "ArraySpec",
    "star_results_of",
]

MODEL_CODES = {"rca": 1, "sprite": 2, "wavediff": 3}
"""Codes of the PSF models in ``ccds/model``."""
_FLAG_BITS = tuple(flag_attributes(dict(ObjectFlag.__members__)).items())
_ROLES = tuple(enumeration_attributes(dict(Role.__members__)).items())
_REASONS = (("reason_meanings", " ".join(Refusal.__members__)),)
_MODELS = tuple(enumeration_attributes(MODEL_CODES).items())
_STATES = tuple(enumeration_attributes(dict(UnitState.__members__)).items())


def _flags(path: str, dims: str, long_name: str, **rest: object) -> ArraySpec:
    return _spec(path, dims, "u4", "1", long_name, attributes=_FLAG_BITS, **rest)


AXES = (
    _spec("exposure", "exposure", "str", "", "exposure id", owner="driver", stage="driver"),
    _spec("ccd", "ccd", "i4", "", "CCD id", owner="driver", stage="driver"),
)


def _exposures() -> Iterable[ArraySpec]:
    at, also = "exposure", {"owner": "driver"}
    yield _spec("exposures/id", at, "str", "", "exposure id", **also)
    yield _spec("exposures/time", at, "f8", "d", "start of the exposure, MJD UTC", **also)
    yield _spec("exposures/filter", at, "str", "", "filter", **also)
    yield _spec("exposures/ra", at, "f8", "deg", "right ascension of the pointing, ICRS", **also)
    yield _spec("exposures/dec", at, "f8", "deg", "declination of the pointing, ICRS", **also)
    yield _spec("exposures/complete", at, "u1", "1", "1 when the exposure is whole", **also)
    yield _spec(
        "exposures/content", at, "str", "", "BLAKE2b digest of the exposure's arrays", **also
    )
    yield _spec("exposures/digest", at, "u8", "1", "digest of its files; 0: not known", **also)
    yield _spec("exposures/source", at, "str", "", "names of the files it came from", **also)
    yield _spec("exposures/n_off_ccds", at, "i8", "1", "catalogue rows that lie on no CCD", **also)
    per_ccd = "exposure ccd"
    cards = "cards of the WCS, one a line (with lookup tables: a FITS file in base64); empty: none"
    yield _spec("exposures/wcs", per_ccd, "str", "", cards, owner="exposure")
    yield _spec("exposures/n_stars", per_ccd, "i4", "1", "stars taken", **also)
    yield _spec("exposures/n_galaxies", per_ccd, "i4", "1", "galaxies taken", **also)
    yield _spec(
        "exposures/n_masked", per_ccd, "i4", "1", "taken objects with masked pixels", **also
    )
    yield _spec(
        "exposures/n_refused",
        "exposure ccd reason",
        "i4",
        "1",
        "objects refused, by reason",
        attributes=_REASONS,
        **also,
    )


def _objects(kind: str) -> Iterable[ArraySpec]:
    group, at = ("stars", "star") if kind == "star" else ("galaxies", "galaxy")
    one, stamp = f"exposure ccd {at}", f"exposure ccd {at} stamp_y stamp_x"
    yield _spec(f"{group}/image", stamp, "f4", "electron", "stamp, background removed", owner="ccd")
    yield _spec(
        f"{group}/weight", stamp, "f4", "electron-2", "inverse variance, 0 = masked", owner="ccd"
    )
    yield _spec(f"{group}/x", one, "f8", "pixel", "column; first pixel's centre is 0")
    yield _spec(f"{group}/y", one, "f8", "pixel", "row; first pixel's centre is 0")
    yield _spec(f"{group}/field_x", one, "f8", "mm", "focal-plane position from the axis, along x")
    yield _spec(f"{group}/field_y", one, "f8", "mm", "focal-plane position from the axis, along y")
    yield _spec(f"{group}/ra", one, "f8", "deg", "right ascension, ICRS")
    yield _spec(f"{group}/dec", one, "f8", "deg", "declination, ICRS")
    matrix = "[[du/dx, du/dy], [dv/dx, dv/dy]], u west, v north; NaN: no WCS, orientation unknown"
    yield _spec(f"{group}/jacobian", f"{one} sky pixel", "f4", "arcsec pixel-1", matrix)
    yield _spec(f"{group}/flux", one, "f4", "electron", "flux of the catalogue")
    yield _spec(f"{group}/snr", one, "f4", "1", "signal to noise of the catalogue or the stamp")
    yield _flags(f"{group}/flags", one, "bits of what is known of the object")
    yield _spec(
        f"{group}/role", one, "u1", "1", "empty, fit or reserved for validation", attributes=_ROLES
    )
    yield _spec(f"{group}/id", one, "i8", "1", "id of the object in its catalogue")


SURVEY_SCHEMA: tuple[ArraySpec, ...] = (
    *AXES,
    *_exposures(),
    *_objects("star"),
    *_objects("galaxy"),
)
"""Arrays of a survey store; a store without galaxies leaves their group out."""


def _spectra() -> Iterable[ArraySpec]:
    also = {"owner": "driver"}
    at = "template wavelength"
    yield _spec("seds/sed", at, "f8", "1", "photons per bin, sum 1; template 0 is flat", **also)
    yield _spec("seds/wavelength", "wavelength", "f8", "um", "centres of the bins", **also)
    yield _spec("seds/name", "template", "str", "", "name of the template", **also)
    for group, at in (("stars", "star"), ("galaxies", "galaxy")):
        yield _spec(
            f"{group}/sed_id", f"exposure ccd {at}", "i4", "1", "spectrum: template in /seds"
        )


INLINE_SPECTRA_SCHEMA: tuple[ArraySpec, ...] = (
    _spec(
        "stars/sed",
        "exposure ccd star wavelength",
        "f4",
        "1",
        "photons per bin, sum 1, where stars bring their own",
        owner="ccd",
    ),
    _spec("seds/wavelength", "wavelength", "f8", "um", "centres of the bins", owner="driver"),
)
"""Arrays of a survey store whose stars bring their own spectra, in place of `SPECTRA_SCHEMA`."""

SPECTRA_SCHEMA: tuple[ArraySpec, ...] = tuple(_spectra())
"""Arrays of a survey store whose survey file has spectra; without them all spectra are flat."""


def _star_results() -> Iterable[ArraySpec]:
    at = "exposure ccd star"

    def fit(name: str, dtype: str, units: str, long_name: str) -> ArraySpec:
        return _spec(f"stars/{name}", at, dtype, units, long_name, stage="fit", pack="fits")

    yield fit("fit_flux", "f4", "electron", "flux fitted with the model")
    yield fit("fit_shift_x", "f4", "pixel", "fitted centroid from the centre of the stamp, x")
    yield fit("fit_shift_y", "f4", "pixel", "fitted centroid from the centre of the stamp, y")
    for name, units in (("flux", "electron"), ("shift_x", "pixel"), ("shift_y", "pixel")):
        yield fit(f"fit_{name}_error", "f4", units, f"standard error of fit_{name}, PSF known")
    yield fit("fit_chi2", "f4", "1", "reduced chi² of the star in the fit")
    yield _flags("stars/fit_flags", at, "bits set by the fit", stage="fit", pack="fits")


def _choices() -> Iterable[ArraySpec]:
    also = {"stage": "choose", "pack": "choices"}
    yield _spec(
        "ccds/model", "exposure ccd", "u1", "1", "PSF model chosen", attributes=_MODELS, **also
    )
    for name in MODEL_CODES:
        what = f"geometric mean of the reserved stars' reduced chi² under {name}"
        yield _spec(f"ccds/score_{name}", "exposure ccd", "f4", "1", what, **also)


STAR_RESULTS: tuple[ArraySpec, ...] = tuple(_star_results())
"""What the fit of the model that stands for a CCD tells of its stars."""


def star_results_of(model: str, stage: str) -> tuple[ArraySpec, ...]:
    """What the fit of one of several models tells of the stars, ``models/<name>/fit_...``."""
    return tuple(
        replace(spec, path=f"models/{model}/{spec.name}", stage=stage) for spec in STAR_RESULTS
    )


def _star_metrics() -> Iterable[ArraySpec]:
    at = "exposure ccd star"

    def metric(name: str, units: str, long_name: str) -> ArraySpec:
        return _spec(f"stars/{name}", at, "f4", units, long_name, stage="metrics", pack="metrics")

    yield metric("flux", "electron", "best flux of the model on the star")
    yield metric("shift_x", "pixel", "best centroid from the centre of the stamp, x")
    yield metric("shift_y", "pixel", "best centroid from the centre of the stamp, y")
    yield metric("chi2", "1", "reduced chi² of the star against the model, centroid and flux free")
    yield metric("rel_rmse", "1", "||star - model|| / ||star||, unmasked pixels, noise included")
    yield metric("max_residual", "1", "largest |star - model| over the star's peak")
    for which, what in (("star", "star"), ("model", "model at the star's position")):
        yield metric(f"e1_{which}", "1", f"distortion e1 of the {what}, adaptive moments")
        yield metric(f"e2_{which}", "1", f"distortion e2 of the {what}, adaptive moments")
        yield metric(f"R2_{which}", "arcsec2", f"Mxx + Myy of the {what}, adaptive moments")
    yield _flags("stars/flags", at, "bits set by the metrics", stage="metrics", pack="metrics")
    # Last, so that entries of a pack that earlier versions have keep their places.
    for which, what in (("star", "star"), ("model", "model at the star's position")):
        for name, units in (("e1", "1"), ("e2", "1"), ("R2", "arcsec2")):
            yield metric(f"{name}_{which}_sky", units, f"{name} of the {what}, {ON_SKY}")


def _ccd_metrics() -> Iterable[ArraySpec]:
    at = "exposure ccd"

    also = {"stage": "metrics", "owner": "ledger"}
    for name, long_name in METRIC_COUNTS:
        yield _spec(f"ccds/{name}", at, "i4", "1", long_name, **also)
    for name, units, long_name in metric_values("CCD"):
        yield _spec(f"ccds/{name}", at, "f4", units, long_name, **also)
    for name, what in (("mean_star", "reserved stars"), ("mean_residual", "star - model")):
        yield _spec(
            f"ccds/{name}",
            f"{at} stamp_y stamp_x",
            "f4",
            "1",
            f"mean of {what} over flux, centred, SNR²-weighted, on a finer grid",
            stage="metrics",
            pack="stamps",
            attributes=(("samples_per_pixel", STACK_SAMPLES),),
        )


def _aggregates() -> Iterable[ArraySpec]:
    also = {"owner": "driver", "stage": "driver"}
    for group, dims, where in (("exposures", "exposure", "exposure"), ("summary", "", "survey")):
        yield _spec(f"{group}/n_ccds", dims, "i8", "1", "CCDs with metrics", **also)
        for name, long_name in METRIC_COUNTS:
            yield _spec(f"{group}/{name}", dims, "i8", "1", long_name, **also)
        for name, units, long_name in metric_values(where):
            yield _spec(f"{group}/{name}", dims, "f8", units, long_name, **also)
    yield _spec("summary/n_exposures", "", "i8", "1", "exposures with metrics", **also)


def _units() -> Iterable[ArraySpec]:
    at, also = "exposure stage", {"owner": "driver", "stage": "driver"}
    yield _spec(
        "units/wanted", at, "u8", "1", "fingerprint of all that determines the unit", **also
    )
    yield _spec("units/fingerprint", at, "u8", "1", "the same when it was done; 0: not", **also)
    yield _spec("units/seconds", at, "f4", "s", "wall time of the attempt", **also)
    yield _spec("units/cpu_seconds", at, "f4", "s", "CPU time of the attempt", **also)
    yield _spec("units/stage_seconds", at, "f4", "s", "of it, in the stage's own code", **also)
    yield _spec("units/peak_memory", at, "u8", "byte", "largest resident memory meanwhile", **also)
    yield _spec("units/attempt", at, "u2", "1", "number of the attempt, from 1", **also)
    yield _spec("units/finished", at, "f8", "s", "end of the attempt, Unix time", **also)
    yield _spec("units/host", at, "str", "", "host that ran it", **also)
    yield _spec("units/device", at, "str", "", "device that ran it", **also)
    yield _spec(
        "units/content",
        "exposure",
        "str",
        "",
        "content of the exposure in the survey that the run is of",
        **also,
    )
    yield _spec("units/digest", at, "u8", "1", "digest of all that it stored; 0: not known", **also)


GALAXY_PRODUCTS: tuple[ArraySpec, ...] = (
    _spec(
        "galaxies/psf",
        "exposure ccd galaxy psf_y psf_x",
        "f4",
        "1",
        "PSF at the galaxy, unit sum",
        owner="ccd",
        stage="psf",
    ),
    _flags("galaxies/flags", "exposure ccd galaxy", "bits set by the PSF stage", stage="psf"),
)


def _restorations() -> Iterable[ArraySpec]:
    at = "exposure ccd galaxy"
    stamp, also = f"{at} restored_y restored_x", {"owner": "ccd", "stage": "restore"}
    yield _spec("galaxies/restored", stamp, "f4", "electron", "galaxy without its PSF", **also)
    yield _spec(
        "galaxies/restored_error", stamp, "f4", "electron", "standard error of `restored`", **also
    )
    packed = {"stage": "restore", "pack": "restorations"}
    yield _spec("galaxies/restored_flux", at, "f4", "electron", "sum of `restored`", **packed)
    yield _spec(
        "galaxies/restored_chi2", at, "f4", "1", "mean squared residual in noise units", **packed
    )
    yield from (_restored_shape(name, "", "", packed) for name in ("e1", "e2", "R2"))
    yield _flags("galaxies/restored_flags", at, "bits set by the restoration", **packed)
    # Last, as in the metrics of stars.
    yield from (_restored_shape(name, "_sky", f", {ON_SKY}", packed) for name in ("e1", "e2", "R2"))


def _restored_shape(name: str, suffix: str, frame: str, packed: Mapping[str, object]) -> ArraySpec:
    path, units = f"galaxies/restored_{name}{suffix}", "arcsec2" if name == "R2" else "1"
    what = "Mxx + Myy" if name == "R2" else f"distortion {name}"
    what = f"{what} of the restored galaxy, adaptive moments{frame}"
    return _spec(path, "exposure ccd galaxy", "f4", units, what, **packed)


def _prior() -> Iterable[ArraySpec]:
    at = "exposure ccd sum"
    yield _spec(
        "prior/sample_sums",
        at,
        "f8",
        "1",
        "what sampled galaxies tell of all, under a prior of the CCD's own",
        stage="sample",
    )
    yield _spec(
        "prior/sums",
        at,
        "f8",
        "1",
        "what sampled galaxies tell of all, under the prior of all samples",
        stage="learn",
    )


RUN_SCHEMA: tuple[ArraySpec, ...] = (
    *AXES,
    _spec("stage", "stage", "str", "", "stage of the run", owner="driver", stage="driver"),
    *STAR_RESULTS,
    *_star_metrics(),
    *_ccd_metrics(),
    *_choices(),
    *_aggregates(),
    *_units(),
    _spec(
        "ccds/state",
        "exposure ccd stage",
        "u1",
        "1",
        "what became of the CCD, by stage",
        owner="driver",
        stage="driver",
        attributes=_STATES,
    ),
    *GALAXY_PRODUCTS,
    *_prior(),
    *_restorations(),
)
"""Arrays of a run store; the models' own arrays come on top, in ``models/<name>``, and
galaxy products are left out where none are asked for."""
