"""Settings that a user can find: lists of them, and a schema for editors."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from psfscale.cli import app
from psfscale.models import SETTINGS
from psfscale.pipeline.runs.settings import run_schema

RUNS = sorted((Path(__file__).parents[3] / "catalogs/runs").glob("*.yaml"))


@pytest.mark.parametrize("name", [*SETTINGS, "deconvolve", "run"])
def test_settings__are_listed_with_default_and_meaning(name: str) -> None:
    out = CliRunner().invoke(app, ["settings", name]).output
    lines = out.splitlines()[2:]
    rows = [k for k, line in enumerate(lines) if not line.startswith(" ")]
    assert all(" = " in lines[k] and lines[k + 1].startswith("    ") for k in rows)
    names = {lines[k].partition(" = ")[0] for k in rows}
    assert names >= {"run": {"limits.unit_timeout"}, "rca": {"n_components"}}.get(name, set())


def test_settings__of_an_unknown_name_are_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(app, ["settings", "rac"])
    assert result.exit_code == 2
    assert "do you mean 'rca'?" in " ".join(result.output.split())


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_schema__takes_the_run_files_of_the_catalogue(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), run_schema())


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        ({"name": "rca", "settings": {"n_components": 3}}, None),
        ({"name": "rca", "settings": {"n_zernikes": 3}}, "n_zernikes"),
        ({"name": "wavediff", "settings": {"n_zernikes": 15}}, None),
        ({"name": "wavediff", "settings": {"optics": {"nonsense": 3}}}, "nonsense"),
        ({"name": "sprite", "settings": {"clip": "much"}}, "much"),
        ({"name": "psfex"}, "psfex"),
    ],
)
def test_schema__knows_the_settings_of_each_model(model: dict[str, object], wrong: str) -> None:
    schema = json.loads(CliRunner().invoke(app, ["config", "--schema"]).output)
    file = {"survey": "a.zarr", "output": "b.zarr", "model": model}
    said = [str(error) for error in jsonschema.Draft202012Validator(schema).iter_errors(file)]
    assert bool(said) == bool(wrong), said
    assert wrong is None or wrong in "".join(said)
