"""Whatever happens to a run, what it calls done is what an undisturbed run would have written."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import toy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mortal import Killed, Mortal

from psfscale.pipeline import plan_run, run, verify
from psfscale.pipeline.events import UnitSubmitted
from psfscale.pipeline.ledger.marker import read_markers, remove_marker
from psfscale.pipeline.ledger.table import read_known
from psfscale.store.stores import open_tree

pytestmark = pytest.mark.slow

STAGES = ("fit", "psf", "metrics")
GRIDS = (2, 3)
START, MOST = 2, 4
PRODUCTS = {
    "fit": ("stars/fit_flux", "stars/fit_flags", "models/rca/mean"),
    "psf": ("galaxies/psf", "galaxies/flags"),
    "metrics": ("stars/chi2", "stars/flags", "ccds/psf_R2", "ccds/n_fit", "ccds/mean_star"),
}
FILES = {"fit": "models/rca/mean/c.{}.0.0.0.0", "metrics": "stars/metrics/c.{}.0.0.0"}


class Disturbed(RuleBasedStateMachine):
    """A run of the toy survey, and all that can happen to it."""

    mortal: Mortal
    references: dict[int, Path]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=os.environ["PSFSCALE_STATES"]))
        toy.write_instrument(self.folder)
        toy.make_survey(self.folder / "survey.zarr", START)
        self.grid, self.n_exposures = GRIDS[0], START

    @property
    def config(self):
        return toy.make_config(self.folder, metrics={"grid": self.grid})

    @property
    def path(self) -> Path:
        return self.folder / "run.zarr"

    def done(self) -> set:
        """Units that are done as wanted now."""
        if not (self.path / "zarr.json").exists():
            return set()
        plan = plan_run(self.config)
        todo = {item.unit.key for item in plan.todo}
        every = {(s, e) for s in STAGES for e in range(self.n_exposures)}
        return every - todo

    def go(self, *, dies_after: int | None) -> None:
        before, begun = self.done(), []
        self.mortal.left = dies_after
        try:
            summary = run(self.config, serial=True, observers=[begun.append])
            assert summary.exit_code == 0
            assert self.done() == {(s, e) for s in STAGES for e in range(self.n_exposures)}
        except Killed:
            self.mortal.left = None
            self.path.joinpath(".psfscale/lease.json").unlink(missing_ok=True)  # its holder died
        finally:
            self.mortal.left = None
        again = {(e.stage, e.exposure) for e in begun if isinstance(e, UnitSubmitted)}
        assert not again & before, "done twice without need"

    @rule()
    def run_to_the_end(self) -> None:
        self.go(dies_after=None)

    @rule(n=st.integers(0, 90))
    def run_and_be_killed(self, n) -> None:
        self.go(dies_after=n)

    @rule()
    def change_settings(self) -> None:
        self.grid = GRIDS[1 - GRIDS.index(self.grid)]

    @precondition(lambda self: self.n_exposures < MOST)
    @rule()
    def append_an_exposure(self) -> None:
        toy.append_exposure(self.folder / "survey.zarr")
        self.n_exposures += 1

    @precondition(lambda self: (self.folder / "run.zarr/zarr.json").exists())
    @rule(which=st.integers(0, 100))
    def lose_a_marker(self, which) -> None:
        keys = sorted(read_markers(self.path))
        if keys:
            remove_marker(self.path, keys[which % len(keys)])

    @rule(
        stage=st.sampled_from(sorted(FILES)), exposure=st.integers(0, MOST - 1), lost=st.booleans()
    )
    def damage_a_product(self, stage, exposure, lost) -> None:
        if (stage, exposure) not in self.done():
            return
        file = self.path / FILES[stage].format(exposure)
        if lost:
            file.unlink()
        else:
            raw = bytearray(file.read_bytes())
            raw[len(raw) // 2] ^= 1
            file.write_bytes(raw)
        found = verify(self.path, repair=True)
        assert (stage, exposure) in {damage.key for damage in found.damages}
        assert (stage, exposure) not in self.done()
        if stage == "fit":
            assert not {("psf", exposure), ("metrics", exposure)} & self.done()

    @invariant()
    def done_is_whole(self) -> None:
        if not hasattr(self, "folder") or not (self.path / "zarr.json").exists():
            return
        tree, truth = open_tree(self.path), open_tree(self.references[self.grid])
        known = read_known(self.path, STAGES)
        unsettled = set(read_markers(self.path))
        for stage, exposure in self.done():
            assert known.fingerprints[exposure, STAGES.index(stage)]
            for name in PRODUCTS[stage]:
                if name.startswith(("ccds/psf", "ccds/n_")) and (stage, exposure) in unsettled:
                    continue  # travels in the marker
                np.testing.assert_array_equal(
                    tree[name][exposure], truth[name][exposure], err_msg=f"{name} {exposure}"
                )

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)


def test_run__is_what_an_undisturbed_one_is_whatever_happens(tmp_path, survey, monkeypatch) -> None:
    monkeypatch.setenv("PSFSCALE_STATES", str(tmp_path))
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    toy.write_instrument(quiet)
    toy.make_survey(quiet / "survey.zarr", MOST)
    Disturbed.references = {}
    for grid in GRIDS:
        output = quiet / f"run-{grid}.zarr"
        run(
            toy.make_config(quiet, output=output, metrics={"grid": grid}),
            serial=True,
            observers=[],
        )
        Disturbed.references[grid] = output
    Disturbed.mortal = Mortal(monkeypatch)
    run_state_machine_as_test(
        Disturbed,
        settings=settings(
            max_examples=10,
            stateful_step_count=10,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
