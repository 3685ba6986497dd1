"""Stages that want more of a worker than a thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import toy
from distributed import Nanny, Scheduler, SpecCluster

from psfscale.errors import ConfigError, RunError
from psfscale.pipeline import open_run, plan_run, run
from psfscale.pipeline.drive.ready import Frontier
from psfscale.pipeline.runs.context import build_context
from psfscale.pipeline.stages.registry import stages_of
from psfscale.pipeline.stages.resources import demanded, lacking, require
from psfscale.pipeline.workers.connect import slurm_options
from psfscale.pipeline.workers.profiles import AddressProfile, LocalProfile, SlurmProfile

WAVEDIFF = {"model": {"name": "wavediff"}}


@pytest.fixture
def children(monkeypatch):
    """Child processes find the toy models."""
    path = [str(Path(toy.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def wishes(folder, **changes):
    context = build_context(toy.make_config(folder, **changes))
    stages = {name: stage.resources for name, stage in stages_of(context).items()}
    return stages, demanded(context, stages)


def test_stage__wishes_a_gpu_where_its_model_can_use_one(coloured) -> None:
    both = {"models": [{"name": "rca"}, {"name": "wavediff"}]}
    stages, demands = wishes(coloured, **both)
    assert {name for name, want in stages.items() if want} == {"fit_wavediff"}
    assert stages["fit_wavediff"] == {"GPU": 1}
    assert demands == {}
    on_cpu = {"model": {"name": "wavediff", "settings": {"device": "cpu"}}}
    assert not any(wishes(coloured, **on_cpu)[0].values())


def test_demands__are_of_the_run_file_or_of_a_device(coloured) -> None:
    wanted = {"fit": {"GPU": 1}, "psf": {"MEMORY": 5e9}}
    assert wishes(coloured, **WAVEDIFF, resources=wanted)[1] == wanted
    model = {"name": "wavediff", "settings": {"device": "cuda:1"}}
    assert wishes(coloured, model=model)[1] == {"fit": {"GPU": 1}}
    several = {"models": [{"name": "rca"}, model]}
    assert wishes(coloured, **several)[1] == {"fit_wavediff": {"GPU": 1}}
    assert set(wishes(coloured, **several, resources={"fit": {"GPU": 2}})[1]) == {
        "fit_rca",
        "fit_wavediff",
    }
    with pytest.raises(ConfigError, match="resources names the stage 'fits'"):
        wishes(coloured, **WAVEDIFF, resources={"fits": {"GPU": 1}})


def test_require__says_what_is_missing_and_what_to_do() -> None:
    assert lacking({"GPU": 1, "A": 2}, {"GPU": 1.0, "A": 1.0}) == {"A": 2}
    require({"fit": {"GPU": 1}}, {"GPU": 1.0}, where="", advice="")
    says = "demands GPU: 1 for the stage fit, and nothing has it: buy one, or take the demand"
    with pytest.raises(RunError, match=says):
        require({"fit": {"GPU": 1}}, {}, where="nothing has it", advice="buy one")


def test_frontier__hands_out_apart_what_wants_another_worker(coloured) -> None:
    config = toy.make_config(coloured, models=[{"name": "rca"}, {"name": "wavediff"}])
    frontier = Frontier(plan_run(config), {"fit_wavediff": {"GPU": 1}})
    first, second = frontier.take(), frontier.take()
    assert [todo.unit.key for todo in first] == [("fit_rca", 0)]
    assert [todo.unit.key for todo in second] == [("fit_wavediff", 0)]
    third = frontier.take()
    assert third[0].unit.exposure == 1
    frontier.finish(("fit_rca", 0))
    frontier.finish(("fit_wavediff", 0))
    assert [todo.unit.stage for todo in frontier.take()] == ["choose", "psf", "metrics"]


def test_serial_run__is_refused_a_gpu_that_this_process_does_not_see(coloured, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = toy.make_config(coloured, **WAVEDIFF, resources={"fit": {"GPU": 1}})
    with pytest.raises(RunError, match="demands GPU: 1 for the stage fit, and this process sees 0"):
        run(config, serial=True, observers=[])
    relaxed = toy.make_config(coloured, **WAVEDIFF)
    assert run(relaxed, serial=True, observers=[]).exit_code == 0
    # what is done already demands nothing
    assert run(config, serial=True, observers=[]).n_units == 0


def test_cluster__without_the_resource_is_refused_at_the_start(coloured, children) -> None:
    config = toy.make_config(coloured, **WAVEDIFF, resources={"fit": {"GPU": 1}})
    says = "none of the cluster's 1 workers has it: start workers with --resources"
    with pytest.raises(RunError, match=says):
        run(config, cluster=LocalProfile(workers=1), observers=[])
    assert plan_run(config).n_done == 0


def test_cluster__with_the_resource_gets_the_units_that_want_it(coloured, children) -> None:
    """One of two workers has a GPU, as far as Dask is told; every fit runs there."""
    plain = {"nthreads": 1, "host": "127.0.0.1"}
    equipped = {**plain, "resources": {"GPU": 1}}
    workers = {k: {"cls": Nanny, "options": o} for k, o in enumerate((equipped, plain))}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    notes = coloured / "notes"
    model = {"name": "wavediff", "settings": {"note": str(notes)}}
    config = toy.make_config(coloured, model=model, resources={"fit": {"GPU": 1}})
    with SpecCluster(workers=workers, scheduler=scheduler) as cluster:
        gpu = cluster.workers[0].pid
        profile = AddressProfile(kind="address", address=cluster.scheduler_address)
        assert run(config, cluster=profile, observers=[]).exit_code == 0
    lines = {tuple(line.split()) for line in notes.read_text().splitlines()}
    assert {line for line in lines if line[0] == "fit"} == {("fit", "auto", str(gpu))}
    # PSFs and metrics are drawn on the processor of whoever is free
    assert {device for what, device, _ in lines if what == "draw"} == {"auto", "cpu"}


def test_cluster__without_gpus_fits_on_the_processor(coloured, children) -> None:
    devices = coloured / "devices"
    model = {"name": "wavediff", "settings": {"note": str(devices)}}
    config = toy.make_config(coloured, model=model)
    assert run(config, cluster=LocalProfile(workers=1), observers=[]).exit_code == 0
    told = {tuple(line.split()[:2]) for line in devices.read_text().splitlines()}
    assert told == {("fit", "cpu"), ("draw", "cpu")}
    serial = toy.make_config(coloured, model=model, output=coloured / "serial.zarr")
    run(serial, serial=True, observers=[])
    toy.require_same_arrays(config.output, serial.output)
    assert open_run(config.output)["units/device"].values[0, 0] == "cpu"


def test_profiles__declare_what_their_workers_have() -> None:
    slurm = SlurmProfile(kind="slurm", workers=1, resources={"GPU": 1})
    assert slurm_options(slurm)["worker_extra_args"][-2:] == ["--resources", "GPU=1"]
    assert (
        "--resources"
        not in slurm_options(SlurmProfile(kind="slurm", workers=1))["worker_extra_args"]
    )
