"""Settings can be found: all are printed, and an unknown one is answered by the list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import psfscale
from psfscale.cli import app
from psfscale.config import load_config
from psfscale.deconvolve import DeconvolutionSettings
from psfscale.errors import ConfigError
from psfscale.models import SETTINGS
from psfscale.pipeline import resolved_config
from psfscale.survey import load_survey

TOY = Path(__file__).parents[3] / "catalogs" / "toy.yaml"


def run_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(f"survey: none.zarr\noutput: run.zarr\ninstrument: {TOY}\n{text}")
    return path


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_dump_config__prints_every_setting_and_is_a_run_file(tmp_path: Path, name: str) -> None:
    path = run_file(tmp_path, f"model: {{name: {name}}}\n")
    result = CliRunner().invoke(app, ["run", str(path), "--dump-config"])
    assert result.exit_code == 0, result.output
    whole = yaml.safe_load(result.output)
    assert whole["model"]["settings"].keys() == SETTINGS[name].model_fields.keys()
    assert whole["restore"]["settings"].keys() == DeconvolutionSettings.model_fields.keys()
    (tmp_path / "whole.yaml").write_text(result.output)
    again = resolved_config(load_config(tmp_path / "whole.yaml"))
    assert again == resolved_config(load_config(path))


def test_dump_config__takes_what_follows_the_survey(tmp_path: Path) -> None:
    text = "models: [{name: rca, settings: {n_components: 3}}, {name: sprite}]\n"
    config = resolved_config(load_config(run_file(tmp_path, text)))
    rca, sprite = (choice.settings for choice in config.models)
    assert rca["n_components"] == 3
    upsampling = load_survey(TOY).instrument.psf.upsampling
    assert rca["upsampling"] == sprite["upsampling"] == upsampling


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_fit__lists_the_settings_where_one_is_unknown(tmp_path: Path, name: str) -> None:
    known = list(SETTINGS[name].model_fields)
    words = ["fit", name, "none.npz", "-o", str(tmp_path / "m.zarr"), "--survey", str(TOY)]
    result = CliRunner().invoke(app, [*words, "--set", f"{known[-1]}x=3"])
    assert result.exit_code == 2
    out = " ".join(result.output.split())
    assert f"(do you mean '{known[-1]}'?); known: {known[-1]}, " in out
    assert all(setting in out for setting in known)


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: psfscale.RCA(n_componets=3), "n_components"),
        (lambda: psfscale.SPRITE(upsamplin=3), "upsampling"),
        (lambda: psfscale.deconvolve([[[1.0]]], [[1.0]], n_iterations=3), "n_iter"),
        (lambda: psfscale.deconvolve([[[1.0]]], [[1.0]], learnt={"fst": True}), "fast"),
    ],
)
def test_settings__of_python_are_listed_too(call: Any, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"do you mean '{near}'\?\); known: {near}, "):
        call()


def test_settings__are_finite_but_where_infinity_means_something() -> None:
    assert psfscale.SPRITE(threshold=float("inf")).settings.threshold == float("inf")
    with pytest.raises(ConfigError, match="threshold"):
        psfscale.SPRITE(threshold=float("nan"))
    with pytest.raises(ConfigError, match="band_limit: Input should be a finite number"):
        psfscale.SPRITE(band_limit=float("inf"))
