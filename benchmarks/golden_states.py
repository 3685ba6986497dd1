"""Digests of every array that fixed seeds give, to compare before and after code is moved.

    python benchmarks/golden_states.py record states.json
    python benchmarks/golden_states.py compare states.json

The walk goes through the command line alone: a toy survey is simulated, ingested into one store and
into blocks, run with RCA, with the chromatic models and block by block, measured; SPRITE is fitted
to its stars and both restorations take its galaxies. Digests hold on one machine with one set of
packages: floating-point results of others differ in their last digits.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

CATALOGUES = Path(__file__).parent.parent / "catalogs"
SURVEY, RUNS = CATALOGUES / "toy.yaml", CATALOGUES / "runs"
CHROMATIC = [f"models.0.settings.{s}" for s in ("n_zernikes=11", "degree=1", "surfaces=false")]
"""Settings of an optical model that takes seconds."""
CHANGING = {
    "units": ("finished", "seconds", "memory", "attempt", "host", "device"),
    "ccds": ("seconds",),
    "exposures": ("content",),  # of the metadata of files, which name their time
}
"""Words in the names of arrays, by group, whose values a clock or a machine sets."""


def walk(folder: Path) -> None:
    """Make every kind of product in `folder`, by the command line."""
    sizes = ("--exposures", "2", "--ccds", "2", "--stars", "40", "--galaxies", "4")
    _command("simulate", SURVEY, folder / "sky", *sizes)
    recipe, images = folder / "sky/survey.yaml", sorted((folder / "sky/images").glob("*.fits"))
    survey, index = folder / "survey.zarr", folder / "index.yaml"
    _command("ingest", recipe, *images, "-o", survey)
    _command("ingest", recipe, *images, "-o", index, "--block", "1")
    _command("ingest", recipe, images[0], "-o", folder / "one.zarr")
    for name, store, settings in (
        ("toy", survey, ()),
        ("chromatic", folder / "one.zarr", CHROMATIC),
        ("toy", index, ()),
    ):
        output = folder / f"{name}-{store.stem}.zarr"
        run = [RUNS / f"{name}.yaml", f"survey={store}", f"output={output}", *settings]
        _command("run", *run, "--serial")
        _command("metrics", output, "--serial")
    _stacks(survey, folder)
    _command("fit", "sprite", folder / "stars.npz", "-o", folder / "sprite.zarr")
    _command("predict", folder / "sprite.zarr", folder / "at.npz", "-o", folder / "psf.npz")
    for mode in ("sparse", "lowr"):
        stacks = ["-i", folder / "image.npy", "-p", folder / "psf.npy"]
        more = ["--mode", mode, "--n_iter", "40", "-o", folder / f"restored-{mode}"]
        _command("deconvolve", *stacks, *more)


def _command(*words: object) -> None:
    command = [sys.executable, "-m", "psfscale.cli", *map(str, words)]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"{time.monotonic() - start:6.1f} s  {words[0]}", flush=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _stacks(survey: Path, folder: Path) -> None:
    """Write stacks of stars and galaxies of the first CCD, for the commands that take stacks."""
    root = zarr.open_group(survey, mode="r")
    stars = {name: root[f"stars/{name}"][0, 0] for name in ("image", "weight", "x", "y", "role")}
    first = np.flatnonzero(stars["role"] == 1)[:8]
    np.savez(folder / "stars.npz", **{n: v[first] for n, v in stars.items() if n != "role"})
    np.savez(folder / "at.npz", x=stars["x"][first], y=stars["y"][first])
    galaxies = root["galaxies/image"][0, 0, :4]
    np.save(folder / "image.npy", np.nan_to_num(galaxies))
    psf = np.nan_to_num(stars["image"][first[:4]]).clip(0)
    np.save(folder / "psf.npy", psf / psf.sum((1, 2), keepdims=True))


def states(folder: Path) -> dict[str, str]:
    """Return a digest for each array and each file of arrays below `folder`, and of the layout."""
    found: dict[str, str] = {}
    for metadata in sorted(folder.rglob("zarr.json")):
        store = metadata.parent
        if (store.parent / "zarr.json").exists():
            continue
        for path, member in zarr.open_group(store, mode="r").members(max_depth=None):
            if isinstance(member, zarr.Array) and not _changes(path):
                found[f"{store.relative_to(folder)}:{path}"] = _digest(member[...])
        files = (f.relative_to(store) for f in store.rglob("*") if f.is_file())
        layout = sorted(str(f) for f in files if f.parts[0] != ".psfscale")
        found[f"{store.relative_to(folder)}:files"] = _digest(np.array(layout, dtype=object))
    for path in sorted([*folder.glob("*.np[yz]"), *folder.glob("restored-*")]):
        content = np.load(path)
        arrays = content if path.suffix == ".npz" else {"": content}
        found |= {f"{path.name}:{name}": _digest(arrays[name]) for name in arrays}
    return found


def _changes(path: str) -> bool:
    group, _, name = path.rpartition("/")
    return any(word in name for word in CHANGING.get(group, ()))


def _digest(values: np.ndarray) -> str:
    if values.dtype.kind in "OTU":
        content = json.dumps([str(value) for value in values.ravel()]).encode()
    else:
        content = np.ascontiguousarray(values).tobytes()
    head = f"{values.dtype.kind}{values.dtype.itemsize}{values.shape}".encode()
    return hashlib.sha256(head + content).hexdigest()[:16]


def main() -> None:
    """Record the states, or compare them with recorded ones; exit 1 where they differ."""
    what, path = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        walk(Path(name))
        now = states(Path(name))
    if what == "record":
        path.write_text(json.dumps(now, indent=1, sort_keys=True))
        print(f"{len(now)} states recorded")
        return
    before = json.loads(path.read_text())
    differ = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    print("\n".join(differ))
    print(f"{len(before.keys() | now.keys()) - len(differ)} states agree, {len(differ)} differ")
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
