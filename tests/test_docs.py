"""README and docs say what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from psfscale.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.torch
def test_schema_page__is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.exit_code == 0
    assert (ROOT / "docs/schema.md").read_text() == printed.stdout, "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page__names_commands_and_options_that_exist(page: Path) -> None:
    import typer

    group = typer.main.get_command(app)
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    for line in re.findall(r"^psfscale (.*)$", text, flags=re.MULTILINE):
        words = shlex.split(line, comments=True)
        if words[0].startswith("-"):
            continue
        assert words[0] in group.commands, line
        known = {opt for param in group.commands[words[0]].params for opt in param.opts}
        known |= {"--help", "-h"}
        assert {w.partition("=")[0] for w in words if w.startswith("-")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page__links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_readme_run_file__is_valid(tmp_path: Path) -> None:
    from psfscale.config import load_config

    (text,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "run.yaml").write_text(text)
    config = load_config(tmp_path / "run.yaml")
    assert config.output == tmp_path / yaml.safe_load(text)["output"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "catalogs/runs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_run_files__of_the_catalogue_are_valid(path: Path) -> None:
    from psfscale.config import load_config
    from psfscale.models.fitted import FittedModel
    from psfscale.survey import load_survey

    config = load_config(path)
    instrument = load_survey(ROOT / "catalogs/toy.yaml").instrument
    assert all(FittedModel.of(choice, instrument).settings for choice in config.fitted)


@pytest.mark.torch
def test_readme_python__runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:15, :15] - 7
    image = 2000 * np.exp(-(x**2 + y**2) / 4) + rng.normal(0, 1, (60, 15, 15))
    place = rng.uniform(0, 500, (2, 60))
    np.savez(tmp_path / "stars.npz", image=image, x=place[0], y=place[1], sigma=np.ones(60))
    np.savez(tmp_path / "at.npz", x=[10.0, 250.0], y=[400.0, 250.0])
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(blocks(ROOT / "README.md", "python")[0], names)  # the README's own three lines
    psf = np.asarray(names["psf"])
    assert psf.shape == (2, 126, 126)
    np.testing.assert_allclose(psf.sum(axis=(1, 2)), 1, rtol=1e-4)
