from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from psfscale.errors import ConfigError, RunError
from psfscale.simulate import SimulateEvent, simulate
from psfscale.survey import Survey, load_survey

Tiny = Callable[..., Survey]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files__are_laid_out_as_documented(tiny: Tiny, tmp_path: Path) -> None:
    summary = simulate(tiny(), tmp_path / "out", ccds=2)
    assert list(contents(tmp_path / "out")) == [
        "catalogues/toy_000001_galaxies.fits",
        "catalogues/toy_000001_stars.fits",
        "catalogues/toy_000002_galaxies.fits",
        "catalogues/toy_000002_stars.fits",
        "images/toy_000001.fits",
        "images/toy_000002.fits",
        "survey.yaml",
        "truth/toy_000001.fits",
        "truth/toy_000002.fits",
    ]
    assert summary.exposures == ("toy_000001", "toy_000002")
    assert (summary.n_ccds, summary.n_stars, summary.n_galaxies) == (2, 16, 12)
    assert summary.n_bytes == sum(map(len, contents(tmp_path / "out").values()))
    assert "2 exposures of 2 CCDs, 16 stars, 12 galaxies" in str(summary)


def test_image_file__states_what_a_reader_needs(tiny: Tiny, tmp_path: Path) -> None:
    simulate(tiny(), tmp_path, exposures=1)
    with fits.open(tmp_path / "images/toy_000001.fits") as hdus:
        hdus.verify("exception")
        assert [(h.name, h.ver) for h in hdus[1:]] == [
            (name, ccd) for ccd in (1, 2, 3, 4) for name in ("SCI", "WHT", "MSK")
        ]
        primary, science, mask = hdus[0].header, hdus["SCI", 3], hdus["MSK", 3]
        assert primary["EXPOSURE"] == "toy_000001"
        assert primary["MJD-OBS"] == 60676
        assert primary["FILTER"] == "VIS"
        assert (primary["RA"], primary["DEC"], primary["EXPTIME"]) == (53.1, -28.1, 560.5)
        assert science.header["CCDNUM"] == 3
        assert science.header["BUNIT"] == "adu"
        assert science.header["GAIN"] == 3.48
        assert science.header["RDNOISE"] == 4.4
        assert science.header["SATURATE"] == pytest.approx(200000 / 3.48)
        assert science.header["SKY"] == pytest.approx(102 / 3.48)
        assert np.median(science.data) == pytest.approx(science.header["SKY"], abs=1)
        assert science.data.shape == (112, 128)
        assert mask.data.dtype == np.uint8
        bits = [mask.header[f"MSKBIT{i}"] for i in range(3)]
        assert bits == ["cosmic_ray", "dead_column", "saturated"]


def test_catalogue__agrees_with_the_wcs_of_the_image_and_with_the_truth(
    tiny: Tiny, tmp_path: Path
) -> None:
    simulate(tiny("simulate.catalogue.position_scatter.value=0"), tmp_path, exposures=1)
    for kind in ("stars", "galaxies"):
        catalogue = fits.getdata(tmp_path / f"catalogues/toy_000001_{kind}.fits", 1)
        assert len(np.unique(catalogue["ID"])) == len(catalogue)
        for ccd in (1, 2, 3, 4):
            header = fits.getheader(tmp_path / "images/toy_000001.fits", ("SCI", ccd))
            mine = catalogue[catalogue["CCD"] == ccd]
            truth = fits.getdata(tmp_path / "truth/toy_000001.fits", (kind.upper(), ccd))
            np.testing.assert_array_equal(mine["ID"], truth["ID"])
            np.testing.assert_allclose(mine["X"], truth["X"], rtol=0, atol=0.0005001)
            x, y = WCS(header).wcs_world2pix(truth["RA"], truth["DEC"], 1)
            np.testing.assert_allclose(x, truth["X"], atol=1e-5)
            np.testing.assert_allclose(y, truth["Y"], atol=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_sky__is_turned_from_exposure_to_exposure_and_truth_with_it(
    tiny: Tiny, tmp_path: Path, mirrored: bool
) -> None:
    simulate(tiny(f"simulate.pointing.mirrored={mirrored}"), tmp_path, exposures=2, ccds=1)
    for exposure, roll in ((1, 20.0), (2, 75.0)):
        header = fits.getheader(tmp_path / f"images/toy_00000{exposure}.fits", ("SCI", 1))
        wcs = galsim.AstropyWCS(wcs=WCS(header))
        local = wcs.local(galsim.PositionD(64, 56)).getMatrix()
        west, north = local[:, 1]  # along the pixels' y, which points to position angle `roll`
        assert np.degrees(np.arctan2(-west, north)) == pytest.approx(roll, abs=0.05)
        assert bool(np.linalg.det(local) < 0) == mirrored
        truth = fits.getdata(tmp_path / f"truth/toy_00000{exposure}.fits", ("GALAXIES", 1))
        e1, e2 = truth["E1"], truth["E2"]
        matrix = local @ np.stack([1 + e1, e2, e2, 1 - e1], -1).reshape(-1, 2, 2) @ local.T
        trace = matrix[:, 0, 0] + matrix[:, 1, 1]
        # The tangent plane is square to 2e-5 so near its centre.
        expected = (matrix[:, 0, 0] - matrix[:, 1, 1]) / trace, 2 * matrix[:, 0, 1] / trace
        np.testing.assert_allclose((truth["E1_SKY"], truth["E2_SKY"]), expected, atol=1e-4)
        assert np.abs(truth["E2_SKY"] - e2).max() > 0.01


def test_sky__is_one_over_the_focal_plane(tiny: Tiny, tmp_path: Path) -> None:
    """Focal-plane positions in mm and sky positions differ by the plate scale alone."""
    simulate(tiny("simulate.pointing.roll.value=0"), tmp_path, exposures=1)
    with fits.open(tmp_path / "truth/toy_000001.fits") as hdus:
        tables = [hdus["STARS", ccd].data for ccd in (1, 2, 3, 4)]
        ra, dec, x, y = (
            np.concatenate([table[key] for table in tables])
            for key in ("RA", "DEC", "FIELD_X", "FIELD_Y")
        )
    east = (ra - 53.1) * np.cos(np.deg2rad(dec)) * 3600
    north = (dec + 28.1) * 3600
    scale = 0.1 / 0.012  # arcsec a mm
    np.testing.assert_allclose(-east, x * scale, atol=0.01)
    np.testing.assert_allclose(north, y * scale, atol=0.01)


def test_truth_psfs__stand_beside_their_objects(tiny: Tiny, tmp_path: Path) -> None:
    simulate(tiny(), tmp_path, exposures=1)
    with fits.open(tmp_path / "truth/toy_000001.fits") as hdus:
        hdus.verify("exception")
        for kind, n in (("STARS", 4), ("GALAXIES", 3)):
            cube = hdus[f"PSF_{kind}", 2]
            assert cube.data.shape == (n, 31, 31)
            assert (cube.header["OVERSAMP"], cube.header["CENTRE"]) == (3, 15)
            np.testing.assert_allclose(cube.data.sum(axis=(1, 2)), 1, atol=1e-5)
            assert hdus[kind, 2].data["ZERNIKES"].shape == (n, 12)


def test_files__are_the_same_from_any_number_of_workers(tiny: Tiny, tmp_path: Path) -> None:
    survey = tiny()
    for workers in (1, 2):
        simulate(survey, tmp_path / str(workers), ccds=3, workers=workers)
    one, two = (contents(tmp_path / str(workers)) for workers in (1, 2))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_seed__changes_every_image(tiny: Tiny, tmp_path: Path) -> None:
    for seed in (1, 2):
        simulate(tiny(), tmp_path / str(seed), exposures=1, ccds=1, seed=seed)
    first, second = (fits.getdata(tmp_path / s / "images/toy_000001.fits", 1) for s in "12")
    assert (first != second).mean() > 0.9


def test_sizes__override_the_recipe_and_stand_in_the_survey_file(
    tiny: Tiny, tmp_path: Path
) -> None:
    survey = tiny()
    simulate(survey, tmp_path, exposures=1, ccds=1, stars=3, galaxies=0, seed=9)
    used = load_survey(tmp_path / "survey.yaml")
    assert used.simulate.size.model_dump() == {
        "exposures": 1, "ccds": 1, "stars": 3, "galaxies": 0,
    }  # fmt: skip
    assert used.simulate.seed == 9
    assert used.instrument == survey.instrument
    assert used.ingest == survey.ingest
    assert used.simulate.optics == survey.simulate.optics
    gain = used.instrument.detector.gain
    assert (gain.unit, gain.source) == ("electron / adu", survey.instrument.detector.gain.source)
    catalogue = fits.getdata(tmp_path / "catalogues/toy_000001_stars.fits", 1)
    assert len(catalogue) == 3
    with fits.open(tmp_path / "truth/toy_000001.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["STARS", "PSF_STARS", "GALAXIES"]


def test_survey_file__draws_the_same_survey_again(tiny: Tiny, tmp_path: Path) -> None:
    simulate(tiny(), tmp_path / "first", exposures=1, ccds=1)
    simulate(load_survey(tmp_path / "first/survey.yaml"), tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_observer__is_told_of_every_ccd_and_exposure(tiny: Tiny, tmp_path: Path) -> None:
    events: list[SimulateEvent] = []
    simulate(tiny(), tmp_path, ccds=2, observer=events.append)
    assert [(e.kind, e.exposure, e.ccd, e.done, e.total) for e in events] == [
        ("ccd", "toy_000001", 1, 1, 4),
        ("ccd", "toy_000001", 2, 2, 4),
        ("exposure", "toy_000001", None, 2, 4),
        ("ccd", "toy_000002", 1, 3, 4),
        ("ccd", "toy_000002", 2, 4, 4),
        ("exposure", "toy_000002", None, 4, 4),
    ]
    assert all(a.seconds <= b.seconds for a, b in pairwise(events))


def test_folder__that_holds_something_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match=r"is not an empty folder: replace .* with --overwrite"):
        simulate(tiny(), tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"ccds": 5}, "5 CCDs asked of a focal plane of 4"),
        ({"ccds": 0}, "ccds: Input should be greater than or equal to 1"),
        ({"exposures": 0}, "exposures: Input should be greater than or equal to 1"),
        ({"stars": -1}, "stars: Input should be greater than or equal to 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"stars": 200}, "no room for 200 stars"),
    ],
)
def test_size__out_of_range_is_a_clear_error_and_leaves_nothing(
    tiny: Tiny, tmp_path: Path, wrong: dict[str, int], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        simulate(tiny(), tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_error__of_a_worker_process_reaches_the_caller(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no room for 200 stars"):
        simulate(tiny(), tmp_path, stars=200, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_worker_process__that_dies_is_a_clear_error(tiny: Tiny, tmp_path: Path) -> None:
    def kill(event: SimulateEvent) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(RunError, match=r"a drawing process died .* Try fewer workers"):
        simulate(tiny(), tmp_path, exposures=20, workers=2, observer=kill)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_noiseless_pixels__are_refused(tiny: Tiny, tmp_path: Path) -> None:
    survey = tiny("simulate.sky.value=0", "instrument.detector.read_noise.value=0")
    with pytest.raises(ConfigError, match="sky and read noise are both 0"):
        simulate(survey, tmp_path)


def test_interruption__leaves_whole_exposures_alone(tiny: Tiny, tmp_path: Path) -> None:
    def interrupt(event: SimulateEvent) -> None:
        if event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tiny(), tmp_path, ccds=2, observer=interrupt)
    assert list(contents(tmp_path)) == [
        "catalogues/toy_000001_galaxies.fits",
        "catalogues/toy_000001_stars.fits",
        "images/toy_000001.fits",
        "survey.yaml",
        "truth/toy_000001.fits",
    ]
    with fits.open(tmp_path / "images/toy_000001.fits") as hdus:
        hdus.verify("exception")
