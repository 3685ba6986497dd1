"""What lies in deploy/ for others to start: manifests, the image, job scripts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
KUSTOMIZATION = DEPLOY / "kubernetes/kustomization.yaml"
MANIFESTS = sorted({*(DEPLOY / "kubernetes").glob("*.yaml")} - {KUSTOMIZATION})


def objects() -> list[dict]:
    return [o for path in MANIFESTS for o in yaml.safe_load_all(path.read_text())]


def pods() -> dict[str, dict]:
    """Pod templates by the name of what makes them."""
    found = {o["metadata"]["name"]: o.get("spec", {}).get("template") for o in objects()}
    return {name: template for name, template in found.items() if template}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest__is_what_kubernetes_takes(path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    version = validate.latest_version()
    for manifest in yaml.safe_load_all(path.read_text()):
        validate.validate(manifest, version, strict=True)
        wrong = {**manifest, "specs": {}}
        with pytest.raises(validate.ValidationError, match="specs"):
            validate.validate(wrong, version, strict=True)


def test_manifests__name_what_others_of_them_make() -> None:
    made = {(o["kind"], o["metadata"]["name"]) for o in objects()}
    (service,) = [o for o in objects() if o["kind"] == "Service"]
    profile = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())
    port = service["spec"]["ports"][0]["port"]
    address = f"tls://{service['metadata']['name']}:{port}"
    assert profile["address"] == address
    assert address in pods()["psfscale-worker"]["spec"]["containers"][0]["args"]
    scheduler = pods()["psfscale-scheduler"]
    assert service["spec"]["selector"] == scheduler["metadata"]["labels"]
    assert f"--port={port}" in scheduler["spec"]["containers"][0]["args"]
    for template in pods().values():
        spec = template["spec"]
        volumes = {v["name"]: v for v in spec["volumes"]}
        for mount in spec["containers"][0]["volumeMounts"]:
            assert mount["name"] in volumes
        if "data" in volumes:
            claim = volumes["data"]["persistentVolumeClaim"]["claimName"]
            assert ("PersistentVolumeClaim", claim) in made
        assert volumes["tls"]["secret"]["secretName"] == "psfscale-tls"
        tls = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "tls"]
        assert profile["tls_key"].startswith(tls[0]["mountPath"])


def test_manifests__let_nobody_else_reach_the_scheduler() -> None:
    (policy,) = [o for o in objects() if o["kind"] == "NetworkPolicy"]
    only = policy["spec"]["podSelector"]["matchLabels"]
    for template in pods().values():
        assert only.items() <= template["metadata"]["labels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert not template["spec"]["automountServiceAccountToken"]
    assert "--protocol=tls" in pods()["psfscale-scheduler"]["spec"]["containers"][0]["args"]
    assert "--nthreads=1" in pods()["psfscale-worker"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("name", sorted(pods()))
def test_pods__keep_to_pod_security_restricted(name) -> None:
    """The rules of the profile "restricted" of Kubernetes' Pod Security Standards."""
    spec = pods()[name]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    allowed = {"name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"}
    allowed |= {"persistentVolumeClaim", "projected", "secret"}
    assert {key for volume in spec["volumes"] for key in volume} <= allowed
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] != 0
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not {"privileged", "procMount"} & set(context)
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounts, "libraries write to HOME, which is /tmp"


def test_pods__that_serve_are_probed() -> None:
    for name in ("psfscale-scheduler", "psfscale-worker"):
        (container,) = pods()[name]["spec"]["containers"]
        port = container["livenessProbe"]["tcpSocket"]["port"]
        assert port == container["readinessProbe"]["tcpSocket"]["port"]
        assert any(arg.endswith(f"port={port}") for arg in container["args"])


def test_kustomization__names_every_manifest_but_the_run() -> None:
    content = yaml.safe_load(KUSTOMIZATION.read_text())
    assert set(content["resources"]) == {path.name for path in MANIFESTS} - {"run.yaml"}
    images = {c["image"] for t in pods().values() for c in t["spec"]["containers"]}
    (image,) = content["images"]
    assert images == {f"{image['name']}:{image['newTag']}"}


def test_image__has_a_base_that_cannot_move_and_a_home() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    bases = re.findall(r"^FROM (.+)$", text, flags=re.M)
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases)
    assert "HOME=/tmp" in text


def test_keys__enter_neither_the_image_nor_the_repository() -> None:
    root = DEPLOY.parent
    rules = (root / ".dockerignore").read_text().splitlines()
    assert "*" in rules, "what enters an image is listed"
    assert {"**/*.pem", "**/*.key", "deploy/tls"} <= set(rules[rules.index("!deploy") :])
    for name in ("deploy/tls/key.pem", "tls/ca-key.pem", "my.key"):
        ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=root, check=False)
        assert ignored.returncode in (0, 128), f"git would take {name}"  # 128: no repository


def test_image__copies_what_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+)$", text, flags=re.M)
    assert copied
    for line in copied:
        assert all((DEPLOY.parent / source).exists() for source in line.split()[:-1])


def slurm_driver(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    """The job script with a command in place of psfscale, and what that was called with."""
    stub = tmp_path / "psfscale"
    stub.write_text(
        "#!/bin/bash\n"
        'trap "echo stopped; exit 143" TERM\n'
        'echo "$@ threads=$OMP_NUM_THREADS" > "$SAID"\n'
        "while true; do sleep 0.05; done\n"
    )
    stub.chmod(0o755)
    said = tmp_path / "said"
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(said)}
    script = DEPLOY / "slurm/driver.sh"
    assert "#SBATCH --signal=B:TERM@120" in script.read_text()
    job = subprocess.Popen(["bash", str(script), *arguments], env=env, text=True)
    end = time.monotonic() + 20
    while not (said.exists() and said.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    return job, said


def test_slurm_driver__hands_the_signal_of_the_walltime_to_the_run(tmp_path) -> None:
    """Bash takes the place of no one: the run gets SIGTERM itself, and its exit code is Slurm's."""
    job, said = slurm_driver(tmp_path, "run.yaml", "output=x")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 143
    assert said.read_text() == "run run.yaml output=x --cluster slurm threads=1\n"


@pytest.mark.parametrize("own", [["--cluster", "site.yaml"], ["--cluster=site.yaml"]])
def test_slurm_driver__takes_a_cluster_of_its_user(tmp_path, own) -> None:
    job, said = slurm_driver(tmp_path, "run.yaml", *own)
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=20)
    assert said.read_text() == f"run run.yaml {' '.join(own)} threads=1\n"


def test_slurm_driver__waits_for_a_lease_where_it_was_requeued(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    job, said = slurm_driver(tmp_path, "run.yaml")
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=20)
    assert said.read_text() == "run run.yaml --wait-lease 600 --cluster slurm threads=1\n"
