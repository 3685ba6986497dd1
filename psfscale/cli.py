"""The ``psfscale`` command. Each verb loads its room when it is called, so help is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psfscale.cli_array import fit, predict
from psfscale.cli_deconvolve import DropInCommand, deconvolve
from psfscale.cli_guard import EPILOG, Verb, Verbs
from psfscale.cli_progress import phases, progress
from psfscale.errors import ExitCode
from psfscale.files import require_folder, require_place, require_room

if TYPE_CHECKING:
    from psfscale.config import RunConfig
    from psfscale.pipeline import ClusterProfile

app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Survey-scale PSF modelling: exposures in, PSF models, PSFs at galaxies and metrics out.",
    epilog=EPILOG,
)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key.sub=value items that replace values of the file")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key.sub=value replaces a value of the file; repeatable"),
]

Cluster = Annotated[
    str | None, typer.Option(help="profile: a name in deploy/ or a YAML file [local]")
]
Serial = Annotated[bool, typer.Option(help="in this process, without a cluster")]
Workers = Annotated[int | None, typer.Option(help="workers; overrides the profile")]


def _version(wanted: bool) -> None:
    if wanted:
        from psfscale import __version__

        typer.echo(f"psfscale {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Survey-scale PSF modelling: exposures in, PSF models, PSFs at galaxies and metrics out."""


@app.command(cls=Verb)
def simulate(
    survey: Annotated[Path, typer.Argument(help="survey file with a `simulate` recipe")],
    output: Annotated[Path, typer.Argument(help="new folder for images, catalogues, truth")],
    exposures: Annotated[int | None, typer.Option(help="number of exposures")] = None,
    ccds: Annotated[int | None, typer.Option(help="CCDs an exposure")] = None,
    stars: Annotated[int | None, typer.Option(help="stars a CCD")] = None,
    galaxies: Annotated[int | None, typer.Option(help="galaxies a CCD")] = None,
    seed: Annotated[int | None, typer.Option(help="root of all random numbers")] = None,
    workers: Annotated[int, typer.Option(help="processes that draw CCDs")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a simulated survey, once the new is whole")
    ] = False,
    settings: Settings = None,
) -> None:
    """Draw a survey with known truth: FITS exposures, catalogues and truth tables."""
    from psfscale.simulate import simulate as draw
    from psfscale.survey import load_survey

    with progress("simulate", "CCDs") as advance:
        summary = draw(
            load_survey(survey, settings or ()),
            output,
            exposures=exposures,
            ccds=ccds,
            stars=stars,
            galaxies=galaxies,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            observer=lambda event: advance(event.done, event.total, event.exposure),
        )
    typer.echo(str(summary))


@app.command(cls=Verb)
def init(
    survey: Annotated[Path, typer.Argument(help="survey file to write, .yaml")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
) -> None:
    """Write a minimal survey file, with comments, to be completed for an instrument."""
    from psfscale.survey import write_template

    write_template(survey, overwrite=overwrite)
    typer.echo(f"{survey} written: complete it, then `psfscale ingest {survey} FILES... -o STORE`")


@app.command(cls=Verb)
def ingest(
    survey: Annotated[Path, typer.Argument(help="survey file: instrument and ingest recipe")],
    files: Annotated[list[Path], typer.Argument(help="LDAC catalogues, FITS exposures or stacks")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="survey store to write, or index (.yaml) of blocks"),
    ],
    append: Annotated[
        bool, typer.Option("--append", help="add exposures to an existing survey")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a survey store by the new one, once whole")
    ] = False,
    block: Annotated[int, typer.Option(help="exposures of a block, where an index is written")] = (
        1000
    ),
    settings: Settings = None,
) -> None:
    """Read files into a survey store, or into the blocks of an index; every object is counted."""
    from functools import partial

    from psfscale.ingest import ingest as read
    from psfscale.ingest import ingest_blocks
    from psfscale.store.index import is_index
    from psfscale.survey import load_survey

    require_room(output)
    into = partial(ingest_blocks, block_size=block) if is_index(output) else read
    with phases("ingest", {"scan": "files", "write": "CCDs"}) as advance:
        summary = into(
            load_survey(survey, settings or ()),
            files,
            output,
            append=append,
            overwrite=overwrite,
            observer=lambda event: advance(event.phase, event.done, event.total, str(event.file)),
        )
    typer.echo(str(summary))
    raise typer.Exit(ExitCode.DONE if summary.ok else ExitCode.LISTED)


@app.command(cls=Verb)
def index(
    stores: Annotated[list[Path], typer.Argument(help="survey stores, one a block")],
    output: Annotated[Path, typer.Option("-o", "--output", help="index to write, .yaml")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an index")] = False,
) -> None:
    """Make one survey of several stores; `run` takes the index in the place of a store."""
    from psfscale.pipeline import write_index

    write_index(output, stores, overwrite=overwrite)
    typer.echo(f"{len(stores)} blocks in {output}")


def _config(path: Path, overrides: list[str] | None) -> RunConfig:
    from psfscale.config import load_config

    return load_config(path, overrides or ())


def _print_resolved(config: RunConfig) -> None:
    import yaml

    from psfscale.pipeline import resolved_config

    whole = resolved_config(config).model_dump(mode="json")
    if config.instrument is None and not config.survey.exists():
        typer.echo(f"{config.survey} is not there yet: its settings are defaults", err=True)
    typer.echo(yaml.safe_dump(whole, sort_keys=False), nl=False)


@app.command(cls=Verb)
def config(
    path: Annotated[Path | None, typer.Argument(metavar="config", help="run file")] = None,
    overrides: Overrides = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="print the JSON schema of run files, for editors")
    ] = False,
) -> None:
    """Print a run file with every setting written out, or the schema of run files."""
    if schema:
        from psfscale.pipeline.runs.settings import run_schema

        typer.echo(json.dumps(run_schema(), indent=2, default=str))
    elif path is None:
        raise typer.BadParameter(message="name a run file, or give --schema")
    else:
        _print_resolved(_config(path, overrides))


@app.command(cls=Verb)
def settings(
    name: Annotated[str, typer.Argument(help="rca, sprite, wavediff, deconvolve or run")],
) -> None:
    """List settings with their defaults, units and meaning."""
    from psfscale.pipeline.runs.settings import settings_text

    typer.echo(settings_text(name), nl=False)


def _profile(*, serial: bool, cluster: str | None, workers: int | None) -> ClusterProfile | None:
    """Return the profile of the cluster that was asked for; None for this process."""
    from psfscale.errors import ConfigError
    from psfscale.pipeline import load_profile

    if not serial:
        return load_profile(cluster or "local", workers=workers)
    if cluster is not None or workers is not None:
        msg = "--serial runs in this process, without a cluster: leave out --cluster and --workers"
        raise ConfigError(msg)
    return None


@app.command(cls=Verb)
def plan(
    config: Annotated[Path, typer.Argument(help="run file")], overrides: Overrides = None
) -> None:
    """Print what `run` would do, and what is done already."""
    from psfscale.pipeline import is_index, plan_blocks, plan_run

    run_config = _config(config, overrides)
    if not is_index(run_config.survey):
        typer.echo(str(plan_run(run_config)))
        return
    n_todo = n_done = n_blocks = 0
    for name, planned in plan_blocks(run_config):
        typer.echo(f"{name}\n{planned}")
        n_todo, n_done, n_blocks = n_todo + planned.n_todo, n_done + planned.n_done, n_blocks + 1
    typer.echo(f"{n_blocks} blocks: {n_todo} units to do, {n_done} done")


@app.command(cls=Verb)
def run(
    config: Annotated[Path, typer.Argument(help="run file")],
    overrides: Overrides = None,
    cluster: Cluster = None,
    serial: Serial = False,
    workers: Workers = None,
    drivers: Annotated[
        int, typer.Option(min=1, help="of a survey in blocks, drivers that share the workers")
    ] = 1,
    retry_failed: Annotated[bool, typer.Option(help="try quarantined CCDs again")] = False,
    wait_lease: Annotated[
        float, typer.Option(min=0, help="wait for the lease of another driver, so many seconds")
    ] = 0.0,
    learn_again: Annotated[
        bool, typer.Option(help="learn the prior of restored galaxies again, restore all by it")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(help="delete finished products of other shapes, or of another survey"),
    ] = False,
    dump_config: Annotated[bool, typer.Option(help="print the full run file and stop")] = False,
) -> None:
    """Fit, predict and measure all that is missing; the same command resumes.

    Exit code: 0 done, 1 done with failed CCDs, 2 wrong input; `psfscale --help` lists all.
    """
    run_config = _config(config, overrides)
    if dump_config:
        _print_resolved(run_config)
        return
    from psfscale.pipeline import run_survey

    profile = _profile(serial=serial, cluster=cluster, workers=workers)
    options = {"cluster": profile, "serial": serial, "wait_lease": wait_lease}
    again = {
        "retry_failed": retry_failed,
        "learn_again": learn_again,
        "overwrite": overwrite,
    }
    summary = run_survey(run_config, drivers=drivers, **options, **again)
    typer.echo(str(summary))
    raise typer.Exit(summary.exit_code)


@app.command(cls=Verb)
def status(
    path: Annotated[Path, typer.Argument(help="run store, or the folder of a run in blocks")],
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Show units by state and the reason of every failure, from the store alone."""
    from psfscale.pipeline import status_of

    state = status_of(path)
    typer.echo(json.dumps(state.as_dict(), indent=2) if as_json else str(state))


@app.command(cls=Verb)
def verify(
    path: Annotated[
        Path, typer.Argument(help="run or survey store, or the folder of a run in blocks")
    ],
    repair: Annotated[
        bool, typer.Option(help="put right what is damaged, or have the next run do so")
    ] = False,
) -> None:
    """Read all that a store holds and check it against checksums and books; 1 where damaged."""
    from psfscale.pipeline import verify_stores

    found = verify_stores(path, repair=repair)
    for one in found:
        typer.echo(f"{one.run.stem}: {one}" if len(found) > 1 else str(one))
    raise typer.Exit(ExitCode.DONE if all(one.ok for one in found) else ExitCode.LISTED)


@app.command(cls=Verb)
def migrate(
    paths: Annotated[
        list[Path],
        typer.Argument(help="survey or run stores, an index, or folders of runs in blocks"),
    ],
) -> None:
    """Convert stores of an earlier schema version in place; nothing is computed again."""
    from psfscale.pipeline import migrate as convert

    for path in paths:
        converted = convert(path)
        for store in converted:
            typer.echo(f"{store} is of today's schema version now")
        if not converted:
            typer.echo(f"{path} is of today's schema version already")


@app.command(cls=Verb)
def metrics(
    path: Annotated[Path, typer.Argument(help="run store, or the folder of a run in blocks")],
    table: Annotated[
        Path | None, typer.Option(help="write per-star metrics as .parquet or .csv")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help="folder to write every table and map to, as .parquet")
    ] = None,
    rho: Annotated[
        bool, typer.Option("--rho", help="ρ statistics too (needs TreeCorr; takes longer)")
    ] = False,
    cluster: Cluster = None,
    serial: Serial = False,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Aggregate the metrics of a run again, from its stores, and print them."""
    from psfscale.pipeline import aggregate_run, metrics_of_stars, write_tables

    if table is not None:
        require_place(table, suffixes=(".parquet", ".csv"))
    if tables is not None:
        require_folder(tables)
    profile = _profile(serial=serial, cluster=cluster, workers=workers)
    summary = aggregate_run(path, rho=rho, cluster=profile)
    if table is not None:
        metrics_of_stars(path, table)
    if tables is not None:
        write_tables(path, tables)
    typer.echo(json.dumps(summary.as_dict(), indent=2) if as_json else str(summary))


@app.command(cls=Verb)
def report(
    path: Annotated[Path, typer.Argument(help="run store, or the folder of a run in blocks")],
    output: Annotated[Path, typer.Option("-o", "--output", help="page to write, .html")],
) -> None:
    """Write one self-contained HTML page about a run."""
    from psfscale.pipeline import report_run

    require_place(output, suffixes=(".html", ".htm"))
    report_run(path, output)
    typer.echo(f"report written to {output}")


app.command(cls=Verb)(fit)
app.command(cls=Verb)(predict)
app.command(cls=DropInCommand)(deconvolve)


@app.command(cls=Verb)
def schema() -> None:
    """Print every stored array: dims, type, unit, owner and meaning."""
    from psfscale.drop_in.models import model_schema
    from psfscale.store.schema_page import schema_text

    typer.echo(schema_text(model_schema()), nl=False)


if __name__ == "__main__":
    sys.exit(app())
