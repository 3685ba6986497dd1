"""``psfscale deconvolve``: every option of the published command, under its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from psfscale.cli_guard import Verb
from psfscale.errors import ConfigError
from psfscale.files import require_file

if TYPE_CHECKING:
    from psfscale.deconvolve import DeconvolutionSettings
    from psfscale.drop_in.deconvolve import Deconvolved

__all__ = ["DropInCommand", "deconvolve"]

VALUES = {"--wave_thresh_factor"}
"""Options that take several values in a row."""

BARE = {"--condat_sigma", "--condat_tau"}
"""Options that may stand without a value: the step is then chosen."""

CHOSEN = "auto"

WAVELETS = {"1": "linear", "2": "starlet", "24": "biorthogonal"}
"""mr_transform's numbers of the wavelets."""

BOUNDARIES = {"astropy": "circular", "scipy": "zero"}
"""The published names of the two convolutions: what each does at the stamp's border."""


FILES = (
    "images", "psfs", "output", "output_format", "current_res", "weight", "clean_data", "true_psf",
)  # fmt: skip
"""Arguments that name files."""

PUBLISHED_MODE = "lowr"
"""Mode of the published command where none is named."""

SETTINGS = (
    "opt_type", "grad_type", "n_iter", "convergence", "cost_window", "noise_est",
    "lowr_thresh_factor", "lowr_type", "lowr_thresh_type", "n_reweights", "relax", "lambda_psf",
    "beta_psf", "lambda_shape", "parity",
)  # fmt: skip
"""Arguments that are settings of the same name."""

RENAMED = {"--no_grad": ("--grad_type", "none"), "--no_plots": ()}
"""Flags of older versions, and what stands for them: there are no plots to leave out."""


class DropInCommand(Verb):
    """Takes ``@config.ini``, ``--wave_thresh_factor 3 3 4`` and a bare ``--condat_sigma``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options in the form that the parser below knows."""
        return super().parse_args(ctx, list(_spelled(_expanded(args))))


def _expanded(args: list[str]) -> list[str]:
    """``@file`` replaced by the options in it."""
    out: list[str] = []
    for arg in args:
        out += _file_options(Path(arg[1:])) if arg.startswith("@") else [arg]
    return out


def _file_options(path: Path) -> list[str]:
    """Options of an ini file: ``key=value`` or ``key value ...`` a line; ``#``, ``;`` comment."""
    require_file(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        msg = f"{path} is not a text file of options: {error}"
        raise ConfigError(msg) from error
    out: list[str] = []
    for line in lines:
        text = line.strip()
        if not text or text[0] in "#;[":
            continue
        key, *values = text.replace("=", " ", 1).split()
        out += [key if key.startswith("-") else f"--{key}", *values]
    return out


def _spelled(args: list[str]) -> list[str]:
    """Several values become as many options, and a bare step says ``auto``."""
    out: list[str] = []
    option = None
    args = [word for arg in args for word in RENAMED.get(arg, (arg,))]
    for i, arg in enumerate(args):
        following = args[i + 1] if i + 1 < len(args) else "-"
        if option and not arg.startswith("-"):
            out += [option, arg]
            continue
        option = arg if arg in VALUES and not following.startswith("-") else None
        if option is None:
            out.append(arg)
        if arg in BARE and following.startswith("-"):
            out.append(CHOSEN)
    return out


def _step(value: str | None, name: str) -> float | None:
    if value in {None, CHOSEN}:
        return None
    try:
        return float(str(value))
    except ValueError as error:
        msg = f"{name} is a number, or bare to have it chosen; got {value!r}"
        raise ConfigError(msg) from error


def _named(value: str, names: dict[str, str], option: str) -> str:
    if value not in {*names, *names.values()}:
        pairs = ", ".join(f"{number} ({name})" for number, name in names.items())
        msg = f"{option} is one of {pairs}; got {value!r}"
        raise ConfigError(msg)
    return names.get(value, value)


Images = Annotated[Path, typer.Option("-i", "--input", help="noisy galaxies, npy or FITS")]
Psfs = Annotated[
    Path, typer.Option("-p", "--psf", "--psf_file", help="PSFs, one a galaxy or one for all")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help=".npz, .fits or .zarr: one file with all; else OUTPUT_primal, _error, _flux, _chi2, "
        "_flags, _dual, _psf [INPUT_MODE]",
    ),
]
OutputFormat = Annotated[
    Literal["npy", "fits"] | None,
    typer.Option("--output_format", help="of OUTPUT_primal and the others [npy]"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an earlier result")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="print nothing")]
CurrentRes = Annotated[
    Path | None, typer.Option("-k", "--current_res", help="earlier _primal to start from")
]
Weight = Annotated[Path | None, typer.Option("--weight", help="inverse variances, 0 = masked")]
NoiseEst = Annotated[
    float | None, typer.Option("--noise_est", help="noise of all galaxies; else measured")
]
Mode = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--mode",
        help="learnt, all, sparse, lowr or grad [learnt; lowr where an option below is given]",
    ),
]
OptType = Annotated[str, typer.Option("--opt_type", help="condat, fwbw or gfwbw")]
NIter = Annotated[int, typer.Option("--n_iter", help="iterations of a pass at most")]
CostWindow = Annotated[
    int | None, typer.Option("--cost_window", help="iterations between costs [parity: 1]")
]
Convergence = Annotated[
    float, typer.Option("--convergence", help="pixel error still to come; parity: of the cost")
]
NoPos = Annotated[bool, typer.Option("--no_pos", help="no positivity")]
GradType = Annotated[str, typer.Option("--grad_type", help="psf_known, psf_unknown, shape or none")]
ConvolveMethod = Annotated[
    str, typer.Option("--convolve_method", help="astropy (circular) or scipy (zero)")
]
LowrThreshFactor = Annotated[
    float | None,
    typer.Option(
        "--lowr_thresh_factor", help="times the published low-rank threshold [chosen; parity: 1]"
    ),
]
LowrType = Annotated[str, typer.Option("--lowr_type", help="standard or ngole")]
LowrThreshType = Annotated[str, typer.Option("--lowr_thresh_type", help="soft or hard")]
WaveletType = Annotated[
    str, typer.Option("--wavelet_type", help="1 linear, 2 starlet, 24 biorthogonal 7/9")
]
WaveThreshFactor = Annotated[
    list[float] | None,
    typer.Option(
        "--wave_thresh_factor", help="thresholds, finest scale first [3 3 4; sparse: 4.5 4.5 6]"
    ),
]
NReweights = Annotated[int, typer.Option("--n_reweights", help="reweighted passes")]
LambdaPsf = Annotated[
    float, typer.Option("--lambda_psf", help="psf_unknown: hold on the given PSFs")
]
BetaPsf = Annotated[float, typer.Option("--beta_psf", help="psf_unknown: step of the PSFs")]
LambdaShape = Annotated[float, typer.Option("--lambda_shape", help="shape: weight of the moments")]
Relax = Annotated[
    float | None, typer.Option("--relax", help="relaxation of condat [chosen; parity: 0.8]")
]
CondatSigma = Annotated[
    str | None, typer.Option("--condat_sigma", help="dual step [chosen; parity: 0.5]")
]
CondatTau = Annotated[
    str | None, typer.Option("--condat_tau", help="primal step [chosen; parity: 0.5]")
]
Parity = Annotated[bool, typer.Option("--parity", help="the published program's own arithmetic")]
CleanData = Annotated[
    Path | None, typer.Option("-c", "--clean_data", help="true galaxies, to measure errors")
]
TruePsf = Annotated[
    Path | None, typer.Option("--true_psf", help="true PSFs, to measure refined ones")
]
RandomSeed = Annotated[
    int | None,
    typer.Option(
        "-r", "--random_seed", min=0, max=2**32 - 1, help="of the choice from the clean stack"
    ),
]
Kernel = Annotated[
    float | None, typer.Option("--kernel", help="Gaussian window of the errors [pixel σ]")
]
Metric = Annotated[
    Literal["median", "mean"], typer.Option("--metric", help="average of the errors")
]


def deconvolve(
    images: Images,
    psfs: Psfs,
    output: Output = None,
    output_format: OutputFormat = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    current_res: CurrentRes = None,
    weight: Weight = None,
    noise_est: NoiseEst = None,
    mode: Mode = None,
    opt_type: OptType = "condat",
    n_iter: NIter = 150,
    cost_window: CostWindow = None,
    convergence: Convergence = 0.0001,
    no_pos: NoPos = False,
    grad_type: GradType = "psf_known",
    convolve_method: ConvolveMethod = "astropy",
    lowr_thresh_factor: LowrThreshFactor = None,
    lowr_type: LowrType = "standard",
    lowr_thresh_type: LowrThreshType = "hard",
    wavelet_type: WaveletType = "1",
    wave_thresh_factor: WaveThreshFactor = None,
    n_reweights: NReweights = 1,
    lambda_psf: LambdaPsf = 1.0,
    beta_psf: BetaPsf = 1.0,
    lambda_shape: LambdaShape = 1.0,
    relax: Relax = None,
    condat_sigma: CondatSigma = None,
    condat_tau: CondatTau = None,
    parity: Parity = False,
    clean_data: CleanData = None,
    true_psf: TruePsf = None,
    random_seed: RandomSeed = None,
    kernel: Kernel = None,
    metric: Metric = "median",
) -> None:
    """Restore galaxies seen through their PSFs; takes the published command's options and @file."""
    # The names are those of settings and files: they are passed on as a whole.
    given = dict(locals())
    from time import process_time

    from psfscale.drop_in.deconvolve import DeconvolutionFiles, deconvolve_files

    settings = _settings(given)
    files = DeconvolutionFiles(**{name: given[name] for name in FILES})
    start = process_time()
    done = deconvolve_files(
        files,
        settings,
        random_seed=random_seed,
        kernel=kernel,
        metric=metric,
        overwrite=overwrite,
    )
    if not quiet:
        _report(done, settings.mode, process_time() - start)


def _settings(given: dict[str, Any]) -> DeconvolutionSettings:
    """Mode learnt, or the published default where options belong to the published modes."""
    from psfscale.drop_in.deconvolve import make_settings

    options = _settings_of(given)
    if given["mode"] is not None:
        return make_settings(mode=given["mode"], **options)
    published = make_settings(mode=PUBLISHED_MODE, **options)
    alone = make_settings(mode=PUBLISHED_MODE, noise_est=given["noise_est"])
    if published != alone or given["current_res"] is not None:
        return published
    return make_settings(mode="learnt", noise_est=given["noise_est"])


def _settings_of(given: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that the command has for them, but for the mode."""
    same = {name: given[name] for name in SETTINGS}
    return {
        **same,
        "boundary": _named(given["convolve_method"], BOUNDARIES, "--convolve_method"),
        "positivity": not given["no_pos"],
        "wavelet": _named(given["wavelet_type"], WAVELETS, "--wavelet_type"),
        "wave_thresh_factor": tuple(given["wave_thresh_factor"] or ()) or None,
        "condat_sigma": _step(given["condat_sigma"], "--condat_sigma"),
        "condat_tau": _step(given["condat_tau"], "--condat_tau"),
    }


def _report(done: Deconvolved, mode: str, seconds: float) -> None:
    import numpy as np

    found = done.restoration
    steps = ""
    if found.convergence:
        n = sum(c.n_iterations for c in found.convergence)
        steps = f"{n} iterations, residual {found.convergence[-1].residual:.2g}, "
    typer.echo(
        f"mode {mode}: {len(found)} galaxies, {steps}"
        f"{int(found.converged.sum())} galaxies converged, "
        f"chi² {float(np.median(found.chi2)):.3f} a pixel, {seconds:.1f} CPU s"
    )
    if done.score is not None:
        typer.echo(f"galaxies: {done.score}")
    if done.psf_score is not None:
        typer.echo(f"PSFs: {done.psf_score}")
    for path in done.written:
        typer.echo(f"written: {path}")
