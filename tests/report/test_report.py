from __future__ import annotations

import builtins
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from synthetic_run import STATUS, synthetic_run
from synthetic_tables import synthetic_tables

from psfscale.attributes import enumeration_attributes
from psfscale.errors import RunError
from psfscale.report import write_report
from psfscale.report.choices import choice_rows, gather_choices
from psfscale.report.data import gather_components, gather_stacks, gather_stars, shown_exposures
from psfscale.report.galaxies import gather_restored
from psfscale.report.numbers import beyond_noise, number
from psfscale.report.tallies import on_one_ccd


def told(tree: Any, **tables: Any) -> dict[str, Any]:
    """What the page is given beside the trees."""
    return {"summary": tree["summary"].to_dataset(), "tables": tables}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    tree, survey = synthetic_run()
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(tree, survey=survey, **told(tree), status=STATUS, output=path)
    return path.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags that are open at the end, ids, and addresses that a browser would follow."""

    VOID = ("meta", "br", "img", "link", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    return found


def test_report__is_whole_and_needs_nothing_else(page: str) -> None:
    found = outline(page)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    outside = [a for a in found.addresses if not a.startswith(("#", "data:image/png;base64,"))]
    assert outside == []
    assert re.findall(r"url\((?!#)", page) == []
    for target in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page):
        assert "".join(target) in found.ids


def test_report__names_every_failure_and_escapes_its_message(page: str) -> None:
    assert '<td>visit-77</td><td class="n">43</td>' in page
    assert "FitError" in page
    assert "12 stars &lt;script&gt;alert(&#39;no&#39;)&lt;/script&gt; &amp; too few" in page
    assert "<script" not in page
    assert "1 CCD failure" in page


def test_report__shows_each_plate_with_its_numbers(page: str) -> None:
    tree, _ = synthetic_run()
    summary = tree["summary"].to_dataset()
    for name in ("histograms", "residual-maps", "shape-maps", "stack", "mosaic", "components",
                 "trends"):  # fmt: skip
        assert f'id="caption-{name}"' in page, name
    assert f"n = {int(summary['n_measured'])} reserved stars" in page
    assert number(float(summary["model_rel_rmse"])) in page
    assert number(float(summary["mean_star_rel_rmse"])) in page
    flagged = int((tree["stars"]["flags"].values != 0).sum())
    assert f'MOMENTS_FAILED_DATA</code></td><td class="n">{flagged}<' in page
    assert "&#34;seed&#34;: 0" in page
    assert "0123abcd" in page


def test_report__ink_of_the_figures_is_the_pages(page: str) -> None:
    assert "#010203" not in page
    assert page.count("currentColor") > 20


@pytest.mark.parametrize(
    "size",
    [
        {"exposures": 1, "ccds": 1, "layout": False},
        {"exposures": 1, "ccds": 1, "stars": 2},
        {"exposures": 5, "ccds": 4, "stars": 130},
    ],
)
def test_report__works_from_one_ccd_to_many(size: dict[str, Any], tmp_path: Path) -> None:
    tree, survey = synthetic_run(**size)
    path = tmp_path / "report.html"
    write_report(tree, survey=survey, **told(tree), status={}, output=path)
    page = path.read_text(encoding="utf-8")
    assert outline(page).open == []
    assert ("CCD x [pixel]" in page) == (not size.get("layout", True))
    assert "No reserved star" not in page


def test_report__of_a_run_without_metrics_says_so(tmp_path: Path) -> None:
    tree, survey = synthetic_run()
    for name, value in tree["summary"].to_dataset().items():
        tree["summary"][name] = value * 0 if value.dtype.kind == "i" else value * np.nan
    path = tmp_path / "report.html"
    write_report(tree, survey=survey, **told(tree), status={"finished": False}, output=path)
    page = path.read_text(encoding="utf-8")
    assert "No reserved star has been measured yet" in page
    assert "not finished" in page
    assert "<svg" not in page


def test_report__says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name=name.partition(".")[0])
        return real(name, *rest, **more)

    for name in [n for n in sys.modules if n.startswith("psfscale.report.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    tree, survey = synthetic_run()
    with pytest.raises(RunError, match=r"needs matplotlib.*pip install 'psfscale\[report\]'"):
        write_report(tree, survey=survey, **told(tree), status={}, output=tmp_path / "report.html")


def test_gather_stars__residuals_are_of_reserved_stars_alone() -> None:
    tree, survey = synthetic_run()
    stars = gather_stars(tree, survey)
    assert stars.unit == "mm"
    residual = stars.residual("e1")
    assert np.isnan(residual[~stars.columns["reserved"]]).all()
    assert np.isfinite(residual).sum() == int(tree["summary"]["n_measured"])
    # R² is divided by the model's: the synthetic scatter is 1.5 % of it.
    assert 0.01 < np.nanstd(stars.residual("R2")) < 0.02


def test_gather_stacks__ccds_weigh_as_their_stars() -> None:
    tree, _ = synthetic_run(exposures=4)
    stacks = gather_stacks(tree)
    ccds = tree["ccds"].dataset
    by_hand = np.average(
        ccds["mean_residual"].values[:3, 1], axis=0, weights=ccds["n_reserved"].values[:3, 1]
    )
    np.testing.assert_allclose(stacks.residual[1], by_hand, rtol=1e-12)
    star, _ = stacks.overall()
    assert star.sum() / stacks.samples**2 == pytest.approx(1)


def test_gather_components__are_those_in_use() -> None:
    tree, _ = synthetic_run()
    found = gather_components(tree)
    assert found is not None
    assert found.images.shape == (3, 63, 63)
    assert found.model == "rca"
    assert gather_components(tree.drop_nodes("models")) is None


def with_galaxies(tree: xr.DataTree, survey: xr.DataTree, *, n: int = 30) -> None:
    """Give both trees galaxies, of which the second CCD of the first exposure has 20 restored."""
    here, rng = (tree.sizes["exposure"], tree.sizes["ccd"], n), np.random.default_rng(5)
    at = ("exposure", "ccd", "galaxy")
    snr = rng.uniform(5, 100, here)
    image = np.broadcast_to(snr[..., None, None], (*here, 9, 9)) + rng.normal(0, 1, (*here, 9, 9))
    survey["galaxies"] = xr.Dataset(
        {"image": ((*at, "stamp_y", "stamp_x"), image), "snr": (at, snr)}
    )
    flux = np.full(here, np.nan)
    flux[0, 1, :20] = 1.0
    fine = ((*at, "restored_y", "restored_x"), np.kron(image, np.ones((2, 2))))
    tree["galaxies"] = xr.Dataset(
        {"restored_flux": (at, flux), "restored": fine, "restored_error": fine}
    )


def test_gather_restored__shows_galaxies_of_all_brightness_of_a_ccd_that_has_some() -> None:
    tree, survey = synthetic_run()
    assert gather_restored(tree, survey) is None
    with_galaxies(tree, survey)
    found = gather_restored(tree, survey)
    assert found is not None
    assert (found.exposure, found.ccd, found.n) == ("exp0000", 2, 20)
    assert (np.diff(found.snr) > 0).all()
    assert found.restored.shape == (8, 18, 18)
    np.testing.assert_allclose(found.seen.mean(axis=(1, 2)), found.snr, atol=0.6)
    known = survey["galaxies"].dataset["snr"].values[0, 1, :20]
    assert known.min() < found.snr[0] < np.quantile(known, 0.25)
    assert np.quantile(known, 0.75) < found.snr[-1] < known.max()


def test_page__shows_restored_galaxies_where_there_are_any(page: str, tmp_path: Path) -> None:
    assert 'id="restored"' not in page
    tree, survey = synthetic_run()
    with_galaxies(tree, survey)
    path = tmp_path / "report.html"
    write_report(tree, survey=survey, **told(tree), status=STATUS, output=path)
    caption = path.read_text(encoding="utf-8").split('id="caption-restored"')[1]
    assert "exposure exp0000, CCD 2, at even ranks" in " ".join(
        caption.split("</figcaption>")[0].split()
    )


def test_shown_exposures__are_bounded_and_spread() -> None:
    assert shown_exposures(3) == [0, 1, 2]
    many = shown_exposures(10_000)
    assert len(many) == len(set(many)) == 64
    assert (many[0], many[-1]) == (0, 9999)


@pytest.mark.parametrize(
    ("value", "text"), [(0.2, "0.200"), (-0.01234, "−0.0123"), (float("nan"), "–"), (123.4, "123")]
)
def test_number__keeps_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_beyond_noise__takes_the_noise_out_in_quadrature() -> None:
    assert beyond_noise(0.5, 0.3) == pytest.approx(0.4)
    assert beyond_noise(0.3, 0.5) == 0
    assert np.isnan(beyond_noise(float("nan"), 0.1))


@pytest.fixture(scope="module")
def tallied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run that is tallied."""
    tree, survey = synthetic_run()
    path = tmp_path_factory.mktemp("tallied") / "report.html"
    rest = told(tree, **synthetic_tables())
    write_report(tree, survey=survey, **rest, status=STATUS, output=path)
    return path.read_text(encoding="utf-8")


PLATES = ("field", "ccd-map", "by-magnitude", "by-colour", "by-ccd", "rho", "galaxies")


def test_page__shows_the_tables_where_there_are_any(page: str, tallied: str) -> None:
    for name in PLATES:
        assert f'id="{name}"' in tallied
        assert f'id="{name}"' not in page
    assert 'id="residual-maps"' in page
    assert 'id="residual-maps"' not in tallied  # the map of all stars takes its place
    found = outline(tallied)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    assert "n = 960 reserved stars of all exposures" in tallied
    assert "Restored galaxies in numbers" in tallied
    assert "Restored galaxies in numbers" not in page


def test_map__of_ccds_on_one_another_holds_all_their_stars() -> None:
    table = synthetic_tables(rho=False)["stars/over_ccd"]
    together, each = on_one_ccd(table), table.sel(quantity="R2_residual")
    one = together.sel(quantity="R2_residual")
    assert int(one["n"].sum()) == int(each["n"].sum()) == 960
    total = float((each["mean"] * each["n"]).sum())
    assert float((one["mean"] * one["n"]).sum()) == pytest.approx(total, rel=1e-9)


def test_page__tells_of_restored_galaxies_what_the_tables_say(tallied: str) -> None:
    table = synthetic_tables(rho=False)["galaxies/overall"]
    size = table.sel(quantity="R2")
    weighted = number(float(size["flux_weighted_mean"]))
    row = tallied[tallied.index("R2 of the restored galaxy") :].split("</tr>")[0]
    assert f'<td class="n">{weighted}</td>' in row
    assert f'<td class="n">{int(size["n"]):,}</td>' in row
    flagged = int(table["n_flagged"].sel(flag="MOMENTS_FAILED_DATA"))
    assert f'MOMENTS_FAILED_DATA</code></td><td class="n">{flagged}</td>' in tallied


def test_page__says_what_units_took_and_where(page: str) -> None:
    row = page[page.index("<h3>What the units took</h3>") :].split("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)", row) == [
        "fit", "2", "3", "3.2 s", "6.0 s", "90 %", "20.0 stars", "512 MiB",
    ]  # fmt: skip
    hosts = page[page.index("<h3>Where they ran</h3>") :].split("</table>")[0]
    assert "node-7" in hosts
    assert "cpu, H100" in hosts


def test_page__says_which_model_stands_where(tmp_path: Path) -> None:
    tree, survey = synthetic_run(exposures=4, ccds=3)
    ccds = tree["ccds"].to_dataset()
    at = ("exposure", "ccd")
    codes = np.array([[1, 1, 3], [1, 3, 3], [3, 0, 3], [0, 0, 0]], np.uint8)
    ccds["model"] = (at, codes, enumeration_attributes({"rca": 1, "sprite": 2, "wavediff": 3}))
    ccds["score_rca"] = (at, np.where(codes > 0, 1.25, np.nan))
    ccds["score_sprite"] = (at, np.full(codes.shape, np.nan))
    ccds["score_wavediff"] = (at, np.where(codes == 3, 1.125, np.where(codes, 1.5, np.nan)))
    tree["ccds"].dataset = ccds
    choices = gather_choices(tree)
    assert choices.names == ("rca", "wavediff")
    np.testing.assert_allclose(choices.of_ccds(), [[2 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1]])
    rows = [(r.model, r.n, r.share, r.score, r.where_chosen) for r in choice_rows(choices)]
    assert rows == [("rca", "3", "38 %", "1.25", "1.25"), ("wavediff", "5", "62 %", "1.12", "1.12")]
    path = tmp_path / "report.html"
    write_report(tree, survey=survey, **told(tree), status=STATUS, output=path)
    page = path.read_text(encoding="utf-8")
    assert 'id="choices"' in page
    assert "n = 8 CCDs of all exposures" in page
    assert '<tr><td>wavediff</td><td class="n">5</td>' in page
    assert "sprite" not in page


def test_page__of_one_model_has_no_choices(page: str) -> None:
    assert 'id="choices"' not in page
    assert 'id="choice-numbers"' not in page


def test_components__are_those_of_the_model_that_stands() -> None:
    tree, _ = synthetic_run(exposures=1, ccds=1)
    ccds = tree["ccds"].to_dataset()
    codes = np.array([[2]], np.uint8)
    ccds["model"] = (("exposure", "ccd"), codes, enumeration_attributes({"rca": 1, "sprite": 2}))
    tree["ccds"].dataset = ccds
    tree["models/sprite"] = tree["models/rca"].copy()
    assert gather_components(tree).model == "sprite"
    ccds["model"] = (("exposure", "ccd"), np.array([[1]], np.uint8), ccds["model"].attrs)
    tree["ccds"].dataset = ccds
    assert gather_components(tree).model == "rca"
