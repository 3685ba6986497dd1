from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from psfscale.errors import ConfigError
from psfscale.pipeline.workers.profiles import (
    AddressProfile,
    LocalProfile,
    SchedulerFileProfile,
    SlurmProfile,
    load_profile,
)

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("local", LocalProfile),
        ("slurm", SlurmProfile),
        ("address", AddressProfile),
        ("scheduler-file", SchedulerFileProfile),
        ("kubernetes", AddressProfile),
    ],
)
def test_profile__of_deploy_is_read_by_its_name(name, kind) -> None:
    assert isinstance(load_profile(name), kind)


def test_deploy__holds_no_profile_without_a_test() -> None:
    assert {p.stem for p in DEPLOY.glob("*.yaml")} == {
        "local",
        "slurm",
        "address",
        "scheduler-file",
        "kubernetes",
    }


def test_profile__paths_are_relative_to_its_file() -> None:
    assert load_profile("scheduler-file").path.resolve() == DEPLOY.parent / "scheduler.json"


def test_profile__workers_are_overridden() -> None:
    assert load_profile("local", workers=3).workers == 3
    assert load_profile("slurm", workers=3).workers == 3
    with pytest.raises(ConfigError, match="'address' brings its own workers"):
        load_profile("address", workers=3)
    with pytest.raises(ConfigError, match="at least one worker, got 0"):
        load_profile("local", workers=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "local", "worker": 3}, "worker: Extra inputs"),
        ({"kind": "cloud"}, "does not match any of the expected tags"),
        ({"kind": "address"}, "address: Field required"),
        ({"kind": "address", "address": "10.0.0.1"}, "should match pattern"),
        ({"kind": "slurm", "workers": 1, "tls_ca": "ca.pem"}, "give all or none"),
        ({"kind": "local", "workers": 0}, "greater than or equal to 1"),
    ],
)
def test_profile__refuses_what_is_wrong(tmp_path, content, message) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        load_profile(path)


def test_profile__that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no cluster profile 'moon': .*'local'"):
        load_profile("moon")
    with pytest.raises(ConfigError, match=r"no such file: moon\.yaml"):
        load_profile("moon.yaml")


def test_dask_settings__of_deploy_are_those_of_the_profiles() -> None:
    from psfscale.pipeline.workers.cluster import SETTINGS

    def flat(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    assert dict(flat(yaml.safe_load((DEPLOY / "dask/psfscale.yaml").read_text()))) == SETTINGS


def test_slurm_profile__becomes_a_job_script() -> None:
    slurm = pytest.importorskip("dask_jobqueue.slurm")
    from psfscale.pipeline.workers.connect import slurm_options

    profile = load_profile("slurm").model_copy(
        update={"partition": "night", "prologue": ("module load python",)}
    )
    options = {k: v for k, v in slurm_options(profile).items() if k != "scheduler_options"}
    script = slurm.SLURMJob("tcp://10.0.0.1:8786", "worker", **options).job_script()
    for line in ("#SBATCH -p night", "#SBATCH -t 04:00:00", "#SBATCH --requeue", "module load"):
        assert line in script
    assert "--nthreads 1" in script
    assert "--lifetime 220m" in script
    assert "distributed.cli.dask_worker tcp://10.0.0.1:8786" in script
