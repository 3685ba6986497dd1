"""A campaign of faults: commands killed, starved of disk, given damaged files and mangled input.

Every trial runs a command of psfscale in a process of its own; it dies, or its disk is full, at a
chosen change of the disk, wherever that is made. The same command is then run again, and
what it leaves is compared with what it leaves undisturbed.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import toy
import yaml
from astropy.io import fits

from psfscale.cli import app

DIED = -signal.SIGKILL
UNFORESEEN = 70
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
SIDE, N_STARS = 200, 16


@dataclass(frozen=True)
class Command:
    """A command and what it needs.

    Attributes
    ----------
    name : of the scenario
    arguments : of ``psfscale``, run in the folder
    outputs : paths whose content is compared
    tries : exit codes of the command run again after it was disturbed
    """

    name: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    tries: tuple[int, ...] = (0,)


@dataclass
class Tally:
    """What became of the trials of a row.

    Attributes
    ----------
    tried : trials
    survived : that ended as if undisturbed, or were named
    wrong : what did not
    """

    tried: int = 0
    survived: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, problem: str) -> None:
        self.tried += 1
        self.survived += not problem
        self.wrong += [f"{name}: {problem}"] if problem else []

    def __str__(self) -> str:
        lines = [f"{self.tried} tried, {self.survived} as they should be"]
        return "\n".join([*lines, *(f"  {text}" for text in self.wrong)])


class Changes:
    """Counts the changes of the disk below a folder, and does something before one of them."""

    def __init__(self, folder: Path, at: int | None, act: Callable[[], None]) -> None:
        self.folder, self.at, self.act, self.n = str(folder), at, act, 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = args[:3]
            changes = bool(set(str(mode)) & set("wax+")) if mode else bool(int(flags) & _WRITES)  # type: ignore[call-overload]
        else:
            path, changes = args[0] if args else "", event in _CHANGES
        if not changes or not os.path.abspath(str(path)).startswith(self.folder):  # noqa: PTH100
            return
        self.n += 1
        if self.at is not None and self.n >= self.at:
            self.act()


def run_command(
    folder: Path, arguments: Sequence[str], *, at: int | None = None, fault: str = "kill"
) -> tuple[int, int]:
    """Run ``psfscale`` in a child; returns its exit code (minus a signal) and its changes.

    Parameters
    ----------
    folder : it runs here, and its changes here are counted; what it prints goes to ``said``
    at : the change before which the fault comes; never if not given
    fault : ``kill``; or ``full``, a disk that takes nothing from there on
    """
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), int(told or 0)
    os.close(read)
    code = UNFORESEEN
    try:
        code = _in_child(folder, arguments, write, at, fault)
    finally:
        os._exit(code)


def _in_child(
    folder: Path, arguments: Sequence[str], write: int, at: int | None, fault: str
) -> int:
    os.chdir(folder)
    with (folder / "said").open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a path on it")

    changes = Changes(folder, at, kill if fault == "kill" else full)
    try:
        app(list(arguments))
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    changes.at = None
    sys.stdout.flush()
    os.write(write, str(changes.n).encode())
    return int(code)


def content(path: Path) -> object:
    """What is compared of an output: the arrays of a store, the text of a page, the rest whole."""
    if (path / "zarr.json").is_file():
        return {name: str(values) for name, values in toy.run_arrays(path).items()}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name].tobytes() for name in stored}
    if path.suffix == ".html":
        return path.read_text().strip().endswith("</html>")
    return path.read_bytes() if path.is_file() else None


def trial(start: Path, command: Command, quiet: dict[str, object], at: int, fault: str) -> str:
    """What is wrong after a command was disturbed and run again; empty where nothing is."""
    folder = start.with_name(f"{start.name}-trial")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    code, _ = run_command(folder, command.arguments, at=at, fault=fault)
    said = (folder / "said").read_text()
    if fault == "full" and (code == UNFORESEEN or "Traceback" in said):
        return f"full at change {at}: exit {code}, {said[-300:]!r}"
    code, _ = run_command(folder, command.arguments)
    if code not in command.tries:
        said = (folder / "said").read_text()[-300:]
        return f"{fault} at change {at}: exit {code} afterwards, {said!r}"
    for name in command.outputs:
        if content(folder / name) != quiet[name]:
            return f"{fault} at change {at}: {name} is another"
    return ""


def disturb(
    start: Path, command: Command, n: int, fault: str, rng: random.Random, tally: Tally
) -> int:
    """Disturb a command at `n` of its changes; returns how many there are."""
    folder = start.with_name(f"{start.name}-quiet")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    code, changes = run_command(folder, command.arguments)
    if code != 0:
        tally.add(
            command.name, f"undisturbed: exit {code}, {(folder / 'said').read_text()[-300:]!r}"
        )
        return 0
    quiet = {name: content(folder / name) for name in command.outputs}
    for at in sorted(rng.sample(range(1, changes + 1), min(n, changes))):
        tally.add(command.name, trial(start, command, quiet, at, fault))
    return changes


def make_inputs(folder: Path, seed: int) -> None:
    """Write three exposures of one CCD of 200 x 200 pixels, and what the commands read."""
    rng = np.random.default_rng(seed)
    content = {**toy.INSTRUMENT, "name": "mini"}
    instrument = yaml.safe_load(yaml.safe_dump(content["instrument"]))
    instrument["detector"] |= {"columns": SIDE, "rows": SIDE}
    instrument["focal_plane"] |= {"n_ccds": 1}
    instrument["focal_plane"]["layout"] |= {"columns": 1}
    columns = {"id": "ID", "x": "X", "y": "Y"}
    path = "{directory}/{stem}_cat.fits"
    objects = {"path": path, "stamp_size": 21, "columns": columns}
    content["instrument"] = instrument
    content["ingest"] = {
        "format": "images",
        "exposure": {"card": "EXPID"},
        "ccd": {"card": "CCDNUM"},
        "unit": "adu",
        "science": {"extname": "SCI"},
        "background": {"kind": "card", "level": {"card": "SKY", "unit": "adu"}},
        "stars": objects,
        "galaxies": objects,
    }
    (folder / "survey.yaml").write_text(yaml.safe_dump(content))
    for number in range(3):
        _write_exposure(folder / f"e{number}.fits", f"e{number}", rng)
    run = {"survey": "survey.zarr", "instrument": "survey.yaml", "output": "run.zarr"}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    stamps = rng.normal(size=(24, 15, 15)).astype("f4") + toy_star(15)
    places = rng.uniform(0, 100, (2, 24))
    np.savez(folder / "stars.npz", image=stamps, sigma=np.ones(24), x=places[0], y=places[1])
    np.savez(folder / "at.npz", x=places[0], y=places[1])


def toy_star(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return (200 * np.exp(-(x**2 + y**2) / 8)).astype("f4")


def _write_exposure(path: Path, name: str, rng: np.random.Generator) -> None:
    x, y = (a.ravel() for a in np.meshgrid([40.0, 80, 120, 160], [40.0, 80, 120, 160]))
    image = 300 + rng.normal(0, 5, (SIDE, SIDE))
    for a, b in zip(x, y, strict=True):
        i, j = int(b) - 10, int(a) - 10
        image[i : i + 21, j : j + 21] += 15 * toy_star(21)
    header = fits.Header({"EXPID": name, "CCDNUM": 1, "SKY": 300.0})
    science = fits.ImageHDU(image.astype("f4"), header, name="SCI")
    fits.HDUList([fits.PrimaryHDU(), science]).writeto(path)
    column = fits.Column
    columns = [column("ID", "J", array=np.arange(N_STARS)), column("X", "D", array=x + 1)]
    columns.append(column("Y", "D", array=y + 1))
    table = fits.BinTableHDU.from_columns(columns)
    table.writeto(path.with_name(f"{path.stem}_cat.fits"))


INGEST = ("ingest", "survey.yaml", "-o", "survey.zarr")
RUN = ("run", "run.yaml", "--serial")
STORES = ("survey.zarr", "run.zarr")
SCENARIOS = (
    (Command("ingest", (*INGEST, "e0.fits", "e1.fits"), STORES[:1], (0, 2)), ()),
    (
        Command("ingest --append", (*INGEST, "--append", "e2.fits"), STORES[:1], (0, 2)),
        ((*INGEST, "e0.fits", "e1.fits"),),
    ),
    (Command("run", RUN, STORES), ((*INGEST, "e0.fits", "e1.fits"),)),
    (
        Command("run of a survey that grew", RUN, STORES),
        ((*INGEST, "e0.fits", "e1.fits"), RUN, (*INGEST, "--append", "e2.fits")),
    ),
    (
        Command("run with other settings", (*RUN, "metrics.grid=4"), STORES),
        ((*INGEST, "e0.fits"), RUN),
    ),
    (
        Command("metrics", ("metrics", "run.zarr"), STORES),
        ((*INGEST, "e0.fits"), RUN, ("metrics", "run.zarr")),
    ),
    (
        Command("report", ("report", "run.zarr", "-o", "report.html"), (*STORES, "report.html")),
        ((*INGEST, "e0.fits"), RUN, ("report", "run.zarr", "-o", "report.html")),
    ),
    (
        Command("predict", ("predict", "m.zarr", "at.npz", "-o", "psf.npz"), ("psf.npz",), (0, 2)),
        (("fit", "rca", "stars.npz", "-o", "m.zarr"),),
    ),
    (Command("fit", ("fit", "rca", "stars.npz", "-o", "m.zarr"), ("m.zarr",), (0, 2)), ()),
)
"""Commands to be disturbed, and those that were run before."""


def prepare(folder: Path, before: Sequence[Sequence[str]], seed: int) -> Path:
    """A folder in which the commands `before` have been run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_inputs(folder, seed)
    for arguments in before:
        code, _ = run_command(folder, arguments)
        if code:
            msg = f"psfscale {' '.join(arguments)}: exit {code}\n{(folder / 'said').read_text()}"
            raise RuntimeError(msg)
    return folder


def disturb_all(folder: Path, n: int, fault: str, seed: int) -> Tally:
    """Disturb every command at `n` changes of the disk."""
    rng, tally = random.Random(seed), Tally()
    for k, (command, before) in enumerate(SCENARIOS):
        disturb(prepare(folder / f"s{k}", before, seed), command, n, fault, rng, tally)
    return tally


MANGLED = (
    ((*INGEST, "e0.fits"), "e0.fits"),
    ((*INGEST, "e0.fits"), "e0_cat.fits"),
    ((*INGEST, "e0.fits"), "survey.yaml"),
    ((*RUN,), "run.yaml"),
    (("fit", "rca", "stars.npz", "-o", "m.zarr"), "stars.npz"),
)
"""Commands, and the input of theirs that is mangled."""


def mangle(raw: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, empty or overwrite a part of a file."""
    n = len(raw)
    start = rng.randrange(n)
    end = min(n, start + rng.choice((1, 4, 80, 2880)))
    part = raw[start:end]
    return {
        "flip": raw[:start] + bytes([raw[start] ^ (1 << rng.randrange(8))]) + raw[start + 1 :],
        "cut": raw[:start],
        "leave out": raw[:start] + raw[end:],
        "repeat": raw[:end] + part + raw[end:],
        "overwrite": raw[:start] + rng.randbytes(len(part)) + raw[end:],
        "empty": b"",
    }[rng.choice(("flip", "cut", "leave out", "repeat", "overwrite", "overwrite", "empty"))]


def mangle_inputs(folder: Path, n: int, seed: int) -> Tally:
    """Mangle inputs `n` times: done, done with failures listed, or refused in a sentence."""
    rng, tally = random.Random(seed), Tally()
    start = prepare(folder / "inputs", ((*INGEST, "e1.fits"),), seed)
    for _ in range(n):
        arguments, name = rng.choice(MANGLED)
        there = folder / "mangled"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(start, there)
        if arguments[0] == "ingest":
            shutil.rmtree(there / "survey.zarr")
        (there / "said").unlink(missing_ok=True)
        (there / name).write_bytes(mangle((start / name).read_bytes(), rng))
        code, _ = run_command(there, arguments)
        said = (there / "said").read_text()
        wrong = code not in (0, 1, 2) or "Traceback" in said
        tally.add(
            f"{arguments[0]} of a mangled {name}", f"exit {code}, {said[-400:]!r}" if wrong else ""
        )
    return tally
