"""``psfscale fit`` and ``predict``: PSF models of plain arrays, without a survey."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from psfscale.cli_progress import progress

__all__ = ["fit", "predict"]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what lies at the output")]


def fit(
    model: Annotated[str, typer.Argument(help="name of the PSF model, e.g. rca")],
    stars: Annotated[Path, typer.Argument(help="stars.npz: image, x, y, weight or sigma")],
    output: Annotated[Path, typer.Option("-o", "--output", help="model.zarr to write")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="setting=value of the model; repeatable")
    ] = None,
    survey: Annotated[
        Path | None,
        typer.Option(help="survey file: optics, band limit, upsampling follow"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a PSF model to a stack of stars, without a survey."""
    from time import process_time

    from psfscale.drop_in.models import fit_stack

    start = process_time()
    with progress("fit", "steps") as advance:

        def observe(event: Any) -> None:
            step = f", step {event.step}" if hasattr(event, "step") else ""
            chi2 = "" if event.reduced_chi2 is None else f", reduced chi² {event.reduced_chi2:.3f}"
            advance(event.done, event.total, f"{event.name}{step}{chi2}")

        result = fit_stack(
            model,
            stars,
            output,
            settings=settings or (),
            survey=survey,
            overwrite=overwrite,
            observer=observe,
        )
    typer.echo(
        f"{result.used.sum()} of {result.used.size} stars used, "
        f"reduced chi² {result.reduced_chi2:.3f}, {process_time() - start:.1f} CPU s; "
        f"model written to {output}"
    )
    for doubt in result.doubts:
        typer.secho(f"doubtful by {doubt.check}: {doubt}", err=True, fg=typer.colors.YELLOW)
    if not result.converged:
        typer.secho("the solver stopped at its iteration limit", err=True, fg=typer.colors.YELLOW)


def predict(
    model: Annotated[Path, typer.Argument(help="model.zarr from `psfscale fit`")],
    at: Annotated[Path, typer.Argument(help="at.npz: x, y, optionally sed, wavelength")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="PSFs to write: .npz, .npy, .fits or .zarr")
    ],
    oversampling: Annotated[int, typer.Option(min=1, help="PSF pixels per CCD pixel")] = 1,
    size: Annotated[
        int | None, typer.Option(min=1, help="side of the PSF stamp [PSF pixel]")
    ] = None,
    pixel: Annotated[
        Literal["native", "none"],
        typer.Option(help="native: with the CCD's pixel; none: the optical PSF (wavediff)"),
    ] = "native",
    centre: Annotated[
        Literal["auto", "windowed", "axis"],
        typer.Option(
            help="what lies on index size // 2: the windowed centroid, or the optical axis "
            "(wavediff); auto: the axis where the fitted stars were registered to it"
        ),
    ] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Draw the PSF of a fitted model at positions and spectra; each sums to 1."""
    from psfscale.drop_in.models import predict_stack

    drawn = predict_stack(
        model,
        at,
        output,
        oversampling=oversampling,
        size=size,
        pixel=pixel,
        centre=centre,
        overwrite=overwrite,
    )
    typer.echo(f"{drawn.n} PSFs written to {output}, {drawn.n_extrapolated} of them extrapolated")
    if not drawn.hull_known:
        typer.echo(
            "the model does not say where its stars lay: all count as extrapolated", err=True
        )
