"""The page: numbers into words, figures into their places."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from psfscale.attributes import codes_of, from_stored
from psfscale.report.choices import choice_plate, choice_rows, gather_choices
from psfscale.report.data import (
    Components,
    Stacks,
    StarSample,
    gather_components,
    gather_stacks,
    gather_stars,
)
from psfscale.report.drawing import style
from psfscale.report.figures import (
    exposure_trends,
    residual_histograms,
    residual_maps,
    shape_maps,
)
from psfscale.report.galaxies import restored_plate
from psfscale.report.images import component_stamps, residual_mosaic, stacked_stamps
from psfscale.report.numbers import cost_rows, headline, host_rows, tiles, worst_ccds
from psfscale.report.plate import Plate
from psfscale.report.tallies import galaxy_flags, galaxy_plates, galaxy_rows, star_plates

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from psfscale.report.choices import Choices

_FAILURES_SHOWN = 200


def render(
    tree: xr.DataTree,
    *,
    survey: xr.DataTree,
    summary: xr.Dataset,
    tables: Mapping[str, xr.Dataset],
    status: Mapping[str, Any],
) -> str:
    """The HTML of the page."""
    environment = Environment(
        loader=PackageLoader("psfscale.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = summary.load()
    choices = gather_choices(tree)
    failures = list(status.get("failures", ()))
    attributes = from_stored(tree.attrs)
    return environment.get_template("page.html").render(
        title=str(status.get("run") or "psfscale run").rstrip("/").rpartition("/")[2],
        survey_name=str(survey.attrs.get("survey", "")),
        state=_state(status),
        tiles=tiles(summary),
        headline=headline(summary),
        summary={str(k): v.item() for k, v in summary.items()},
        plates=_plates(tree, survey, tables, choices) if int(summary["n_ccds"]) else [],
        choices=choice_rows(choices),
        worst=worst_ccds(tree),
        units=status.get("units", {}),
        ccds=status.get("ccds", {}),
        costs=cost_rows(status.get("costs", {})),
        hosts=host_rows(status.get("hosts", {})),
        galaxies=galaxy_rows(tables),
        galaxy_flags=galaxy_flags(tables),
        deaths=status.get("deaths", {}),
        doubts=_doubts(status),
        failures=failures[:_FAILURES_SHOWN],
        n_failures=len(failures),
        flags=_flag_counts(tree),
        config=_as_text(attributes.get("config")),
        settings=_as_text(attributes.get("model_settings")),
        versions=attributes.get("versions", {}),
        fingerprint=str(attributes.get("survey_fingerprint", "")),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        maker=version("psfscale"),
    )


def _state(status: Mapping[str, Any]) -> tuple[str, str]:
    """How the run stands, in a word for the badge's colour and a sentence."""
    if status.get("driver") == "running":
        return "running", "running"
    failed, doubts = (len(status.get(name, ())) for name in ("failures", "doubts"))
    if not status.get("finished", True):
        return "open", "not finished; the same command resumes it"
    if failed:
        return "failed", f"finished, with {failed} CCD failure{'s' if failed > 1 else ''}"
    if doubts:
        return "open", "finished, with doubtful CCDs"
    return "done", "finished, no failures"


def _doubts(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The checks that tripped: how many CCDs, which first, and its reason."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for doubt in status.get("doubts", ()):
        found.setdefault(doubt["check"], []).append(doubt)
    return [
        {
            "check": check,
            "n": len({(one["exposure_id"], one["ccd_id"]) for one in of_check}),
            "where": f"exposure {of_check[0]['exposure_id']}, CCD {of_check[0]['ccd_id']}",
            "message": of_check[0]["message"],
        }
        for check, of_check in found.items()
    ]


def _as_text(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def _flag_counts(tree: xr.DataTree) -> list[tuple[str, int]]:
    """How many stars carry each bit that the metrics set, most frequent first."""
    flags = tree["stars"].dataset["flags"]
    bits = codes_of(flags.attrs)
    counts = dict.fromkeys(bits, 0)
    for i in range(flags.sizes["exposure"]):
        values = flags.isel(exposure=i).values
        for name, bit in bits.items():
            counts[name] += int(((values & np.uint32(bit)) != 0).sum())
    return sorted(((k, n) for k, n in counts.items() if n), key=lambda item: -item[1])


def _plates(
    tree: xr.DataTree,
    survey: xr.DataTree,
    tables: Mapping[str, xr.Dataset],
    choices: Choices | None,
) -> list[Plate]:
    stars, stacks = gather_stars(tree, survey), gather_stacks(tree)
    components = gather_components(tree)
    with style():
        tallied = star_plates(tables)
        sampled = [] if any(plate.name == "field" for plate in tallied) else ["residual-maps"]
        plates = [
            p for p in _star_plates(stars) if p.name in ("histograms", "shape-maps", *sampled)
        ]
        plates += tallied
        plates += _stack_plates(stacks, tree.dataset["ccd"].values)
        if components is not None and len(components.images):
            plates.append(_component_plate(components))
        if choices is not None:
            plates.append(choice_plate(choices))
        plates += restored_plate(tree, survey)
        plates += galaxy_plates(tables)
        exposures = tree["exposures"].to_dataset().load()
        if exposures.sizes["exposure"] > 1:
            plates.append(
                Plate.of(
                    "trends",
                    "Exposure by exposure",
                    exposure_trends(exposures),
                    "Reserved stars of each exposure. The mean star of the CCD is the baseline; "
                    "the dotted noise line is the pixel error a perfect model would have.",
                )
            )
    return plates


def _star_plates(stars: StarSample) -> list[Plate]:
    measured = int(np.isfinite(stars.residual("R2")).sum())
    modelled = int(np.isfinite(stars.columns["R2_model"]).sum())
    shown = f"{stars.n_exposures} of {stars.of_exposures} exposures"
    plane = "the focal plane" if stars.unit == "mm" else "the CCD (the survey has no layout)"
    return [
        Plate.of(
            "histograms",
            "Shape residuals",
            residual_histograms(stars),
            f"Star − model of the distortions e₁, e₂ and of the relative size, adaptive moments; "
            f"n = {measured} reserved stars, {shown}. The orange line is the mean. The width is "
            "mostly the noise of single stars.",
        ),
        Plate.of(
            "residual-maps",
            "Shape residuals over the field",
            residual_maps(stars),
            f"The same residuals over {plane}: each star, or means in cells of at least three "
            f"where there are many; n = {measured} reserved stars, {shown}.",
        ),
        Plate.of(
            "shape-maps",
            "The PSF over the field",
            shape_maps(stars),
            f"The model at the stars (fit and reserved, n = {modelled}, {shown}) over {plane}. "
            "Left: sticks along the major axis, as long as the ellipticity is large. Right: FWHM "
            "of the Gaussian of equal adaptive R², pixel response included.",
        ),
    ]


def _stack_plates(stacks: Stacks, ccds: np.ndarray) -> list[Plate]:
    n = int(stacks.n_stars.sum())
    plates = []
    if n:
        plates.append(
            Plate.of(
                "stack",
                "Stacked stars",
                stacked_stamps(stacks),
                f"Mean of n = {n} reserved stars over flux; stars weigh as SNR² within a CCD, CCDs "
                f"as their number of stars. {_stack_method(stacks)} Structure in the right panel "
                "is what the model misses everywhere.",
            )
        )
    if (stacks.n_stars > 0).sum() > 1:
        plates.append(
            Plate.of(
                "mosaic",
                "Residual of each CCD",
                residual_mosaic(stacks, ccds),
                "Mean star − model of each CCD's reserved stars, central 25 CCD pixels, one scale.",
            )
        )
    return plates


def _stack_method(stacks: Stacks) -> str:
    """How the stars were put on each other."""
    if stacks.samples == 1:  # stacks of schema version 1
        return (
            "Stars were moved onto each other by sinc interpolation: where they are undersampled, "
            "streaks along the pixel axes come from that, not from the model."
        )
    return (
        f"Cells are 1/{stacks.samples} of a CCD pixel, centred on each star. A pixel's residual is "
        "laid on the cells under it, nothing is interpolated; the star is the mean model and that "
        "residual, so that in the left panel detail finer than the pixels comes from the model."
    )


def _component_plate(components: Components) -> Plate:
    return Plate.of(
        "components",
        "Eigen-PSFs",
        component_stamps(components),
        f"{components.meaning}; model {components.model}, exposure {components.exposure}, CCD "
        f"{components.ccd} (the CCD of median pixel error). Red is positive, blue negative; "
        "each panel has its own scale, stretched (asinh) towards faint structure, and the sign "
        "that makes its strongest pixel positive.",
    )
