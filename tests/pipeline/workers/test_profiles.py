from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
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
        (
            {"kind": "local", "worker": 3},
            r"no such key \(do you mean 'workers'\?\); known: workers",
        ),
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


def test_slurm_profile__becomes_a_job_script_that_holds_no_key(tmp_path) -> None:
    pytest.importorskip("dask_jobqueue")
    from psfscale.pipeline.workers.connect import make_supply

    profile = load_profile("slurm").model_copy(
        update={
            "partition": "night",
            "prologue": ("module load python",),
            "interface": "lo",
            "workers": 0,
        }
    )
    with contextlib.ExitStack() as stack:
        script = make_supply(profile, stack, private=tmp_path / "keys").cluster.job_script()
        files = dict(re.findall(r"--tls-(ca-file|cert|key) (\S+)", script))
        assert {Path(path).parent for path in files.values()} == {tmp_path / "keys"}
        assert Path(files["key"]).stat().st_mode & 0o077 == 0, "a key that others may read"
        assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    assert list((tmp_path / "keys").iterdir()) == [], "keys outlive their cluster"
    for line in ("#SBATCH -p night", "#SBATCH -t 04:00:00", "#SBATCH --requeue", "module load"):
        assert line in script
    for option in ("--nthreads 1", "--lifetime 220m", "--no-dashboard", "dask_worker tls://"):
        assert option in script
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE='0.95'" in script
    assert "PRIVATE" not in script


def test_exported_settings__are_read_as_the_settings() -> None:
    from psfscale.pipeline.workers.dask_settings import SETTINGS, exported

    lines = "\n".join(exported())
    read = "import json, sys, dask; print(json.dumps([dask.config.get(k) for k in sys.argv[1:]]))"
    command = [sys.executable, "-c", read, *SETTINGS]
    script = f"{lines}\nexec {shlex.join(command)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == list(SETTINGS.values())


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("tcp://127.0.0.1:8786", True),
        ("tcp://[::1]:8786", True),
        ("tcp://localhost:8786", True),
        ("tls://10.0.0.1:8786", True),
        ("wss://cluster.site:443", True),
        ("tcp://10.0.0.1:8786", False),
        ("tcp://0.0.0.0:8786", False),
        ("tcp://cluster.site:8786", False),
        ("ws://cluster.site:8786", False),
        ("ucx://10.0.0.1:8786", False),
    ],
)
def test_scheduler_on_a_network__needs_tls_or_consent_in_full_words(address, safe) -> None:
    from psfscale.pipeline.workers.security import require_safe_address

    profile = AddressProfile(kind="address", address=address)
    consent = {"anyone_on_the_network_may_run_code_as_me": True}
    require_safe_address(address, profile.model_copy(update=consent))
    if safe:
        require_safe_address(address, profile)
        return
    with pytest.raises(ConfigError, match="anyone on its network can run code as you"):
        require_safe_address(address, profile)


def test_scheduler_file__is_held_to_the_same_rule(tmp_path) -> None:
    from psfscale.pipeline.workers.connect import client_of

    path = tmp_path / "scheduler.json"
    profile = SchedulerFileProfile(kind="scheduler-file", path=path, patience=1)
    with pytest.raises(ConfigError, match="no scheduler file at"):
        client_of(profile, None)
    for content in ("", "[]", "{"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="is not the file of a Dask scheduler"):
            client_of(profile, None)
    path.write_text(json.dumps({"address": "tcp://10.0.0.1:8786"}))
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1:8786 speaks without TLS"):
        client_of(profile, None)
