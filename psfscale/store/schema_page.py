"""The schema as a page of text: what ``psfscale schema`` prints and docs/schema.md holds."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from psfscale.attributes import codes_of
from psfscale.store.schema import (
    INLINE_SPECTRA_SCHEMA,
    RUN_SCHEMA,
    SPECTRA_SCHEMA,
    SURVEY_SCHEMA,
)
from psfscale.store.versions import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psfscale.store.schema import ArraySpec

_HEAD = f"""\
# Data schema

Every array of every store: its dims, type, unit, who writes it, and what it means. This page
is what `psfscale schema` prints; `psfscale/store/schema.py` is where it is stated.

Stores are plain Zarr v3 and open with `xarray.open_datatree(path, engine="zarr")`. Positions
are 0-based: the centre of the first pixel is 0. Entries nobody has written read as NaN
(floats), 0 (integers) or the empty string. Chunks carry a crc32c checksum. Codes are described as
the CF conventions have it: `flag_masks` (bits) or `flag_values` (numbers), with `flag_meanings`.
Attributes of the root that have structure are JSON text; `json_attributes` names them.

A part of a group is saved with `.drop_encoding().to_zarr(...)` or `.to_netcdf(...)`, since xarray
would cut it as the whole is cut; what `psfscale.open_run` gives has no encoding. NetCDF 3 (xarray
without netCDF4 or h5netcdf) has no integers of 64 bits: leave out `units/wanted`, `fingerprint`
and `digest` there, and ids beyond 2³¹.

This is schema version {SCHEMA_VERSION}. psfscale reads stores of earlier versions as they are, and
`psfscale migrate STORE` converts them in place, in seconds, so that they can be added to.

One stored object has one writer. Arrays of owner `ccd` are cut into one shard a CCD, of owner
`exposure` into one object an exposure, of owner `ledger` or `driver` into chunks of 1024
exposures.

Arrays with a name in the column *pack* lie side by side in the array of that name, so that an
exposure is a handful of files: `stars/metrics` has an axis `metric` of labels, `stars/fits` an
axis `fit`, and so on. `psfscale.open_run` gives them under their own names and types; plain xarray
gives `tree["stars"].metrics.sel(metric="e1_star")`, in the type of the pack (flags are whole
numbers in float32).

`/seds` and `sed_id` stand in survey stores whose survey file has `spectra`; where stars bring their
own, `sed` stands in place of `sed_id`, and `/seds` holds the wavelengths alone. Without `/seds` all
spectra are flat.
"""


def schema_text(model_arrays: Iterable[ArraySpec] = ()) -> str:
    """Both schemas as Markdown, with the arrays of the PSF models where given."""
    return "\n".join(
        [
            _HEAD,
            "## Survey store\n",
            *_tables((*SURVEY_SCHEMA, *SPECTRA_SCHEMA, INLINE_SPECTRA_SCHEMA[0])),
            "## Run store\n",
            *_tables((*RUN_SCHEMA, *model_arrays)),
        ]
    )


def _tables(specs: Iterable[ArraySpec]) -> Iterable[str]:
    for group, members in groupby(sorted(specs, key=lambda s: s.group), key=lambda s: s.group):
        yield f"### `/{group}`\n"
        yield "| array | dims | type | unit | pack | owner | written by | meaning |"
        yield "|---|---|---|---|---|---|---|---|"
        for spec in members:
            yield (
                f"| `{spec.name}` | {', '.join(spec.dims)} | {spec.dtype} | {spec.units} "
                f"| {spec.pack} | {spec.owner} | {spec.stage} | {_meaning(spec)} |"
            )
        yield ""


def _meaning(spec: ArraySpec) -> str:
    attributes = dict(spec.attributes)
    names = str(attributes.get("reason_meanings", "")).split()
    codes = codes_of(attributes) or {name: i for i, name in enumerate(names)}
    told = ", ".join(f"{code} {name}" for name, code in codes.items())
    return f"{spec.long_name} — {told}" if told else spec.long_name
