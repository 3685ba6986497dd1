from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import toy
from typer.testing import CliRunner

from psfscale.cli import app
from psfscale.errors import ConfigError, HeldError, InputError
from psfscale.pipeline import open_run, run, status_of
from psfscale.pipeline.drive.blocks import configs, run_blocks, run_stores, write_index
from psfscale.pipeline.ledger.lease import Lease
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.runs.store import create_run_store
from psfscale.processes import Interrupt
from psfscale.store.index import list_stores


@pytest.fixture
def blocks(survey):
    """A survey of four exposures in two blocks, and its index."""
    (survey / "survey.zarr").rename(survey / "first.zarr")
    toy.make_survey(survey / "second.zarr", 4)
    root = toy.open_root(survey / "second.zarr", mode="r+")
    root["exposures/complete"][:2] = 0
    root["exposure"][:2] = root["exposures/id"][:2] = ["none-0", "none-1"]
    write_index(survey / "survey.yaml", [survey / "first.zarr", survey / "second.zarr"])
    return toy.make_config(survey, survey=survey / "survey.yaml", output=survey / "runs")


def test_run_blocks__runs_every_block_as_a_run_of_its_own(survey, blocks) -> None:
    summary = run_blocks(blocks, serial=True, observers=[])
    assert (summary.exit_code, list(summary.ended), summary.held) == (0, ["first", "second"], {})
    alone = toy.make_config(survey, survey=survey / "second.zarr", output=survey / "alone.zarr")
    run(alone, serial=True, observers=[])
    toy.require_same_arrays(survey / "runs/second.zarr", alone.output)
    again = run_blocks(blocks, serial=True, observers=[])
    assert [s.n_units for s in again.ended.values()] == [0, 0]


def test_run_blocks__passes_by_what_another_driver_holds(survey, blocks) -> None:
    first = configs(blocks)["first"]
    blocks.output.mkdir()
    create_run_store(build_context(first))
    with Lease(first.output):
        summary = run_blocks(blocks, serial=True, observers=[])
    assert list(summary.ended) == ["second"]
    assert "held by another driver (host" in str(summary)
    assert list(run_blocks(blocks, serial=True, observers=[]).ended) == ["first", "second"]
    state = open_run(first.output)["ccds/state"].sel(stage=list(toy.STAGES))
    assert np.asarray(state == 1).all()


def test_run_blocks__after_more_exposures_leaves_finished_blocks_alone(survey, blocks) -> None:
    run_blocks(blocks, serial=True, observers=[])
    before = toy.run_arrays(survey / "runs/first.zarr")
    toy.append_exposure(survey / "second.zarr")
    toy.make_survey(survey / "third.zarr", 6)
    root = toy.open_root(survey / "third.zarr", mode="r+")
    root["exposures/complete"][:5] = 0
    root["exposure"][:5] = root["exposures/id"][:5] = [f"other-{i}" for i in range(5)]
    names = ("first.zarr", "second.zarr", "third.zarr")
    write_index(survey / "survey.yaml", [survey / name for name in names], overwrite=True)
    summary = run_blocks(blocks, serial=True, observers=[])
    assert [s.n_units for s in summary.ended.values()] == [0, 3, 3]
    assert [p.name for p in run_stores(survey / "runs")] == list(names)
    after = toy.run_arrays(survey / "runs/first.zarr")
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_run_blocks__takes_up_a_block_whose_driver_died(blocks, monkeypatch) -> None:
    first = configs(blocks)["first"]
    calls = []

    def held_once(config, **options):
        calls.append(config.output.stem)
        if calls == ["first"]:
            msg = "held"
            raise HeldError(msg)
        return run(config, **options)

    monkeypatch.setattr("psfscale.pipeline.drive.blocks.run", held_once)
    monkeypatch.setattr(
        "psfscale.pipeline.drive.blocks.read_holder",
        lambda store: SimpleNamespace(state="stale") if store == first.output else None,
    )
    summary = run_blocks(blocks, serial=True, observers=[])
    assert calls == ["first", "second", "first"]
    assert (list(summary.ended), summary.held) == (["second", "first"], {})


def test_run_blocks__that_is_stopped_at_a_held_block_ends_as_interrupted(blocks) -> None:
    first = configs(blocks)["first"]
    create_run_store(build_context(first))
    told = [0, 0, signal.SIGTERM]  # the signal comes after the look that begins a block
    interrupt = Interrupt(lambda: told.pop(0) if len(told) > 1 else told[0])
    with Lease(first.output):
        summary = run_blocks(blocks, serial=True, observers=[], interrupt=interrupt)
    assert summary.exit_code == 128 + signal.SIGTERM
    assert not summary.ended


def test_status__of_blocks_adds_them_up_and_names_those_not_begun(survey, blocks) -> None:
    first = configs(blocks)["first"]
    blocks.output.mkdir()
    list_stores(blocks.output / "index.yaml", [c.output for c in configs(blocks).values()])
    run(first, serial=True, observers=[])
    begun = status_of(blocks.output)
    assert (begun.finished, begun.not_begun) == (False, ("second",))
    assert "not begun: second" in str(begun)
    run_blocks(blocks, serial=True, observers=[])
    found = status_of(blocks.output)
    assert found.finished
    assert "2 of 2 blocks finished" in str(found)
    told = json.loads(json.dumps(found.as_dict()))
    each = told["blocks"].values()
    assert told["units"]["fit"]["done"] == sum(b["units"]["fit"]["done"] for b in each) == 4
    assert told["ccds"]["fit"]["DONE"] == 8
    (host,) = told["hosts"].values()
    assert host["n_units"] == sum(c["n_units"] for c in told["costs"].values()) == 12
    assert host["cpu_seconds"] == pytest.approx(
        sum(c["cpu_seconds"] for c in told["costs"].values()), abs=1e-2
    )
    assert host["devices"] == ["cpu"]
    fit = told["costs"]["fit"]
    assert fit["peak_memory"] > 2**20
    assert (fit["n_objects"], fit["objects"]) == (4 * 2 * toy.N_FILLED, "stars")
    assert told["costs"]["psf"]["n_objects"] == 4 * 2 * 5
    assert f"  fit      {found.costs['fit']}" in str(found)
    assert "96 stars, " in str(found.costs["fit"])


def test_verify__looks_at_every_block(survey, blocks) -> None:
    run_blocks(blocks, serial=True, observers=[])
    told = CliRunner().invoke(app, ["verify", str(blocks.output)])
    assert told.exit_code == 0
    assert told.stdout.count("no damages") == 2
    chunk = next((blocks.output / "second.zarr/stars/metrics/").glob("c.2.*"))
    chunk.write_bytes(b"spoilt")
    told = CliRunner().invoke(app, ["verify", str(blocks.output)])
    assert told.exit_code == 1
    assert "second: metrics of exposure 2" in told.stdout


def test_index__is_planned_and_run_from_the_command_line(survey, blocks) -> None:
    stores = [str(survey / name) for name in ("first.zarr", "second.zarr")]
    index = survey / "other.yaml"
    assert CliRunner().invoke(app, ["index", *stores, "-o", str(index)]).exit_code == 0
    assert index.read_text() == "blocks:\n- first.zarr\n- second.zarr\n"
    config = survey / "run.yaml"
    config.write_text("survey: other.yaml\ninstrument: toy.yaml\noutput: runs\n")
    planned = CliRunner().invoke(app, ["plan", str(config)])
    assert planned.stdout.count("fit              2       0        2") == 2
    assert planned.stdout.endswith("2 blocks: 12 units to do, 0 done\n")
    result = CliRunner().invoke(app, ["run", str(config), "--serial"])
    assert result.exit_code == 0
    assert "first: 6 units run" in result.stdout
    status = CliRunner().invoke(app, ["status", str(survey / "runs")])
    assert "2 of 2 blocks finished" in status.stdout


def test_index__refuses_an_exposure_in_two_blocks_and_two_blocks_of_one_name(survey) -> None:
    (survey / "more").mkdir()
    toy.make_survey(survey / "more/survey.zarr", 1)
    both = [survey / "survey.zarr", survey / "more/survey.zarr"]
    with pytest.raises(InputError, match=r"exposure exp-0 is in .* and in .*more"):
        write_index(survey / "index.yaml", both)
    (survey / "index.yaml").write_text("blocks: [survey.zarr, more/survey.zarr]\n")
    with pytest.raises(ConfigError, match=r"names of their own.*twice: \['survey'\]"):
        configs(toy.make_config(survey, survey=survey / "index.yaml"))
    with pytest.raises(InputError, match=r"an index ends in \.yaml, got .*index\.json"):
        write_index(survey / "index.json", both[:1])
