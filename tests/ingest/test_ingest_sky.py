"""WCS of every kind that astropy reads, and what is said where there is none."""

import galsim
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from ingest_samples import (
    COLUMNS,
    ROWS,
    exposure_hdus,
    images_recipe,
    ldac_recipe,
    make_survey,
    stack_arrays,
    stack_recipe,
    stored,
    tan_wcs,
    write_exposure,
    write_ldac,
)

from psfscale.ingest import ingest
from psfscale.ingest.formats.wcs import CelestialWcs, NoWcsError, wcs_of
from psfscale.store.stores import open_tree

pytestmark = pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")  # of astropy alone
SHAPE = (ROWS, COLUMNS)


def _pixels(n=50):
    rng = np.random.default_rng(4)
    return rng.uniform(0, COLUMNS - 1, n), rng.uniform(0, ROWS - 1, n)


def _with(header, **cards):
    header = header.copy()
    for name, value in cards.items():
        header[name] = value
    return header


def _rotated(angle=30.0, *, flip=1.0, scale=0.1, **cards):
    header, a = tan_wcs(1), np.radians(angle)
    matrix = (
        scale / 3600 * np.array([[-np.cos(a), flip * np.sin(a)], [np.sin(a), flip * np.cos(a)]])
    )
    for i in range(2):
        for j in range(2):
            header[f"CD{i + 1}_{j + 1}"] = matrix[i, j]
    return _with(header, **cards)


def _sip(suffix="-SIP"):
    return _rotated(
        CTYPE1=f"RA---TAN{suffix}", CTYPE2=f"DEC--TAN{suffix}", A_ORDER=2, B_ORDER=3,
        A_2_0=2e-5, A_1_1=1e-5, B_0_2=-3e-5, B_0_3=1e-7,
    )  # fmt: skip


def _scamp(header):
    pv = {0: 0.0, 1: 1.0, 2: 0.0, 4: 1e-3, 5: 2e-3, 6: 1e-3}
    return _with(header, **{f"PV{i}_{j}": value for i in (1, 2) for j, value in pv.items()})


def _cdelt():
    header = _rotated()
    for name in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        del header[name]
    cards = {"CDELT1": -0.1 / 3600, "CDELT2": 0.1 / 3600}
    return _with(header, **cards, PC1_1=0.8, PC1_2=-0.6, PC2_1=0.6, PC2_2=0.8)


def _swapped():
    return _rotated(CTYPE1="DEC--TAN", CTYPE2="RA---TAN", CRVAL1=-5.0, CRVAL2=10.1)


HEADERS = {
    "CD": _rotated(),
    "PC and CDELT": _cdelt(),
    "SIP": _sip(),
    "SIP without its suffix": _sip(suffix=""),
    "SIP with PV left beside it": _scamp(_sip()),
    "TPV": _scamp(_rotated(CTYPE1="RA---TPV", CTYPE2="DEC--TPV")),
    "TAN with PV": _scamp(_rotated()),
    "axes swapped": _swapped(),
    "near the pole": _rotated(CRVAL2=89.999),
    "over the meridian": _rotated(CRVAL1=0.0),
}
FRAMES = {
    "galactic": (_rotated(CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN"), "galactic"),
    "ecliptic": (_rotated(CTYPE1="ELON-TAN", CTYPE2="ELAT-TAN"), "barycentricmeanecliptic"),
    "FK5 of another equinox": (_rotated(RADESYS="FK5", EQUINOX=1975.0), "fk5(1975)"),
    "FK4": (_rotated(RADESYS="FK4", EQUINOX=1950.0), "fk4"),
}


def _tables(header):
    """An HDU list whose image has lookup tables: CPDIS in both axes."""
    rng = np.random.default_rng(8)
    image = fits.ImageHDU(np.zeros(SHAPE, np.float32), header, name="SCI")
    hdus = [fits.PrimaryHDU(), image]
    head = image.header
    for axis in (1, 2):
        head[f"CPDIS{axis}"] = "Lookup"
        head[f"DP{axis}"] = f"EXTVER: {axis}"
        head[f"DP{axis}"] = "NAXES: 2"
        head[f"DP{axis}"] = "AXIS.1: 1"
        head[f"DP{axis}"] = "AXIS.2: 2"
        table = fits.ImageHDU(rng.normal(0, 0.3, (8, 9)).astype(np.float32), name="WCSDVARR")
        table.ver = axis
        for k, step in ((1, COLUMNS / 8), (2, ROWS / 7)):
            table.header[f"CRVAL{k}"], table.header[f"CRPIX{k}"] = 1.0, 1.0
            table.header[f"CDELT{k}"] = step
        hdus.append(table)
    return fits.HDUList(hdus)


def test_wcs__detector_lookup_tables_are_astropys():
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(header=tan_wcs(1), name="SCI")])
    rng = np.random.default_rng(9)
    for axis in (1, 2):
        table = fits.ImageHDU(rng.normal(0, 0.3, (8, 9)).astype(np.float32), name="D2IMARR")
        table.ver = axis
        for k, step in ((1, COLUMNS / 8), (2, ROWS / 7)):
            table.header[f"CRVAL{k}"], table.header[f"CRPIX{k}"] = 1.0, 1.0
            table.header[f"CDELT{k}"] = step
        head = hdus["SCI"].header
        head[f"D2IMDIS{axis}"] = "Lookup"
        for record in (f"EXTVER: {axis}", "NAXES: 2", "AXIS.1: 1", "AXIS.2: 2"):
            head[f"D2IM{axis}"] = record
        hdus.append(table)
    header = hdus["SCI"].header
    x, y = _pixels()
    theirs = WCS(header, hdus).all_pix2world(x, y, 0)
    bare = WCS(tan_wcs(1)).all_pix2world(x, y, 0)
    assert np.abs(np.subtract(theirs, bare)).max() > 1e-6, "the tables move positions"
    ours = CelestialWcs.from_header(header, hdus)
    np.testing.assert_allclose(ours.sky(x, y), theirs, rtol=0, atol=1e-10)
    with pytest.raises(NoWcsError, match="lookup tables"):
        CelestialWcs.from_header(header)


@pytest.mark.parametrize("kind", HEADERS)
def test_wcs__pixels_and_sky_are_astropys(kind):
    header, (x, y) = HEADERS[kind], _pixels()
    ours, theirs = CelestialWcs.from_header(header), WCS(header)
    ra, dec = ours.sky(x, y)
    world = theirs.all_pix2world(x, y, 0)
    np.testing.assert_array_equal((ra, dec), world if kind != "axes swapped" else world[::-1])
    there = theirs.all_world2pix(*world, 0, tolerance=1e-10, maxiter=100)
    np.testing.assert_allclose(ours.pixel(ra, dec, SHAPE), there, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.pixel(ra, dec, SHAPE), (x, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", FRAMES)
def test_wcs__other_frames_become_icrs(kind):
    header, frame = FRAMES[kind]
    (x, y), ours = _pixels(), CelestialWcs.from_header(header)
    lon, lat = WCS(header).all_pix2world(x, y, 0)
    options = {"frame": frame}
    if frame == "fk5(1975)":
        options = {"frame": "fk5", "equinox": "J1975"}
    elif frame == "fk4":
        options = {"frame": "fk4", "equinox": "B1950"}
    icrs = SkyCoord(lon, lat, unit="deg", **options).icrs
    ra, dec = ours.sky(x, y)
    assert icrs.separation(SkyCoord(ra, dec, unit="deg")).arcsec.max() < 1e-7
    assert SkyCoord(lon, lat, unit="deg").separation(icrs).arcsec.min() > 100
    np.testing.assert_allclose(ours.pixel(ra, dec, SHAPE), (x, y), rtol=0, atol=1e-6)


def test_wcs__lookup_tables_of_the_file_are_used():
    hdus, (x, y) = _tables(_sip()), _pixels()
    header = hdus["SCI"].header
    ours, theirs = wcs_of(header, hdus), WCS(header, hdus)
    expected = theirs.all_pix2world(x, y, 0)
    plain = CelestialWcs.from_header(_sip()).sky(x, y)
    assert np.abs(np.subtract(expected, plain)).max() > 0.1 * 0.1 / 3600  # tables do something
    np.testing.assert_array_equal(ours.sky(x, y), expected)
    np.testing.assert_allclose(ours.pixel(*expected, SHAPE), (x, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [*HEADERS, *FRAMES, "lookup tables"])
def test_wcs__its_text_gives_it_back(kind):
    hdus = _tables(_sip())
    if kind == "lookup tables":
        ours = CelestialWcs.from_header(hdus["SCI"].header, hdus)
    else:
        ours = CelestialWcs.from_header({**HEADERS, **{k: h for k, (h, _) in FRAMES.items()}}[kind])
    again = CelestialWcs.from_text(ours.text())
    x, y = _pixels()
    np.testing.assert_allclose(again.sky(x, y), ours.sky(x, y), rtol=0, atol=1e-12)
    assert again.text() == ours.text() or kind == "lookup tables"
    if kind != "lookup tables":
        header = fits.Header.fromstring(ours.text(), sep="\n")
        assert WCS(header).wcs.ctype[0] == ours.wcs.wcs.ctype[0]


@pytest.mark.parametrize("kind", ["CD", "SIP", "TPV", "axes swapped", "over the meridian"])
@pytest.mark.parametrize("flip", [1, -1])
def test_wcs__jacobian_is_galsims(kind, flip):
    header = HEADERS[kind].copy()
    header["CD1_2"], header["CD2_2"] = flip * header["CD1_2"], flip * header["CD2_2"]
    ours, (x, y) = CelestialWcs.from_header(header), _pixels(8)
    theirs = galsim.AstropyWCS(wcs=WCS(_unswapped(header)))
    expected = [
        theirs.local(galsim.PositionD(a + 1, b + 1)).getMatrix() for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ours.jacobian(x, y), expected, rtol=0, atol=0.1 * 1e-6)


def _unswapped(header):
    """GalSim wants right ascension first: the rows of a swapped header exchanged."""
    header = header.copy()
    if header["CTYPE1"].startswith("DEC"):
        for a, b in (("CTYPE1", "CTYPE2"), ("CRVAL1", "CRVAL2"), ("CD1_1", "CD2_1"),
                     ("CD1_2", "CD2_2")):  # fmt: skip
            header[a], header[b] = header[b], header[a]
    return header


def test_wcs__jacobian_holds_at_the_pole_where_right_ascensions_turn():
    x, y = _pixels()
    jacobian = CelestialWcs.from_header(HEADERS["near the pole"]).jacobian(x, y)
    square = jacobian @ jacobian.swapaxes(1, 2)  # a tangent plane at its centre only turns
    np.testing.assert_allclose(square, np.broadcast_to(0.01 * np.eye(2), square.shape), atol=1e-9)


def test_wcs__u_points_west_and_v_north():
    jacobian = CelestialWcs.from_header(tan_wcs(1)).jacobian(np.array([40.0]), np.array([30.0]))
    np.testing.assert_allclose(jacobian, [[[0.1, 0], [0, 0.1]]], atol=1e-7)  # east left, north up


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (fits.Header(), "no card CTYPE1"),
        (_with(fits.Header(), CTYPE1="LINEAR", CTYPE2="LINEAR"), "not celestial .*LINEAR"),
        (_with(tan_wcs(1), CTYPE2="LINEAR"), "cannot be read: .*[Uu]nmatched celestial axes"),
        (_with(tan_wcs(1), CTYPE1="HPLN-TAN", CTYPE2="HPLT-TAN"), "not fixed to the stars"),
        (_with(tan_wcs(1), CTYPE1="TLON-TAN", CTYPE2="TLAT-TAN"), "not fixed to the stars"),
        (
            _with(tan_wcs(1), CD1_1=1e-5, CD1_2=1e-5, CD2_1=1e-5, CD2_2=1e-5),
            "is singular",
        ),
        (_with(tan_wcs(1), CPDIS1="Lookup"), "lookup tables"),
    ],
)
def test_wcs__none_is_told_with_its_reason(header, why):
    with pytest.raises(NoWcsError, match=why):
        CelestialWcs.from_header(header)


def test_images__leftover_pv_and_lookup_tables_are_read_end_to_end(tmp_path):
    path = write_exposure(tmp_path, "a", [1])
    hdus, distorted = exposure_hdus("a", [1]), _tables(_scamp(_sip()))
    for name, value in distorted["SCI"].header.items():
        if name not in hdus["SCI"].header or name.startswith(("CTYPE", "CD", "DP")):
            hdus["SCI"].header[name] = value
    hdus.extend(distorted[2:])
    columns = {"id": "ID", "ccd": "CCD", "x": "X", "y": "Y"}
    survey = make_survey(images_recipe(stars=images_recipe()["stars"] | {"columns": columns}),
                         n_ccds=1)  # fmt: skip
    hdus.writeto(path, overwrite=True)
    summary = ingest(survey, [path], tmp_path / "s.zarr")
    assert "WCS" not in str(summary)
    stars = stored(tmp_path / "s.zarr")
    with fits.open(path) as written:
        expected = WCS(written["SCI"].header, written).all_pix2world(stars["x"], stars["y"], 0)
    np.testing.assert_allclose((stars["ra"], stars["dec"]), expected, rtol=0, atol=1e-10)


def _sky_recipe():
    columns = {"id": "ID", "ra": "RA", "dec": "DEC"}
    changes = {"positions": "sky", "columns": columns}
    return images_recipe(stars=images_recipe()["stars"] | changes)


def _sky_table(n, *, off=0, dec=0.0):
    """Rows on CCD 1, and `off` of them half a degree away."""
    x, y = np.random.default_rng(6).uniform(12, 45, (2, n))
    ra, dec_ = CelestialWcs.from_header(tan_wcs(1)).sky(x, y)
    ra, dec_ = ra.copy(), dec_ + dec
    ra[:off] += 0.5
    return Table({"ID": np.arange(n), "RA": ra, "DEC": dec_})


def test_images__rows_on_no_ccd_are_counted(tmp_path):
    survey = make_survey(_sky_recipe(), n_ccds=2)
    path = write_exposure(tmp_path, "a", [1, 2], table=_sky_table(20, off=3))
    summary = ingest(survey, [path], tmp_path / "s.zarr")
    assert summary.n_stars == 17
    assert [(item.n_off, item.n_rows) for item in summary.off_ccds] == [(3, 20)]
    assert "catalogue rows on no CCD of their exposure: 3" in str(summary)
    assert "most rows" not in str(summary)


def test_images__most_rows_on_no_ccd_ask_for_the_wcs(tmp_path):
    survey = make_survey(_sky_recipe(), n_ccds=2)
    path = write_exposure(tmp_path, "a", [1, 2], table=_sky_table(20, dec=0.3))
    summary = ingest(survey, [path], tmp_path / "s.zarr")
    assert summary.n_stars == 0
    assert "20 of 20 rows of a_stars.fits, exposure a" in str(summary)
    assert "the WCS or their coordinates are wrong" in str(summary)


def test_images__a_ccd_whose_objects_lie_outside_asks_for_the_wcs(tmp_path):
    recipe = _sky_recipe()
    recipe["stars"]["path"] = "{root}/catalogues/{exposure}_{ccd}.fits"
    survey = make_survey(recipe, n_ccds=1)
    path = write_exposure(tmp_path, "a", [1])
    _sky_table(20, off=15).write(tmp_path / "catalogues" / "a_1.fits")
    summary = ingest(survey, [path], tmp_path / "s.zarr")
    assert summary.n_stars == 5
    assert "most objects lie outside their CCD on 1 CCDs (first: 15 of 20 on CCD 1" in str(summary)


def test_images__positions_on_the_sky_without_a_wcs_are_refused_with_the_reason(tmp_path):
    survey = make_survey(_sky_recipe(), n_ccds=2)
    path = write_exposure(tmp_path, "a", [1, 2], table=_sky_table(20))
    with fits.open(path, mode="update") as hdus:
        hdus["SCI", 2].header["CTYPE1"] = "LINEAR"
    summary = ingest(survey, [path], tmp_path / "s.zarr")
    assert not summary.ok
    assert summary.incomplete == ("a",)
    reason = summary.files_refused[0].reason
    assert "positions: sky needs the WCS of HDU" in reason
    assert "nmatched celestial axes" in reason


def test_ldac__positions_without_a_wcs_are_counted_with_the_reason(tmp_path):
    survey = make_survey(ldac_recipe(), n_ccds=2)
    path = write_ldac(tmp_path / "a.fits", "1", [1, 2], n=5)
    summary = ingest(survey, [path], tmp_path / "s.zarr")
    assert [count.n_no_sky for count in summary.ccds] == [5, 5]
    assert "2 CCDs without a WCS: ra, dec of 10 objects are unknown" in str(summary)
    assert "no card CTYPE1" in str(summary)
    assert np.isnan(stored(tmp_path / "s.zarr")["ra"]).all()


def test_stack__no_wcs_is_told(tmp_path):
    np.savez(tmp_path / "a.npz", **stack_arrays())
    survey = make_survey(stack_recipe(), n_ccds=1)
    summary = ingest(survey, [tmp_path / "a.npz"], tmp_path / "s.zarr")
    assert "1 CCDs without a WCS: ra, dec of 6 objects are unknown" in str(summary)
    assert "files of this format have no header" in str(summary)


def test_store__keeps_the_wcs_of_every_ccd_and_the_jacobian_of_every_object(tmp_path):
    columns = {"id": "ID", "ccd": "CCD", "x": "X", "y": "Y"}
    recipe = images_recipe(stars=images_recipe()["stars"] | {"columns": columns})
    path = write_exposure(tmp_path, "a", [1, 3])
    turned = _rotated(flip=-1.0)
    with fits.open(path, mode="update") as hdus:
        for name in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
            hdus["SCI", 3].header[name] = turned[name]
    ingest(make_survey(recipe, n_ccds=3), [path], tmp_path / "s.zarr")
    text = open_tree(tmp_path / "s.zarr")["exposures"]["wcs"].values[0]
    assert text[1] == ""
    for ccd in (1, 3):
        stars = stored(tmp_path / "s.zarr", ccd=ccd - 1)
        wcs = WCS(fits.Header.fromstring(text[ccd - 1], sep="\n"))
        np.testing.assert_allclose(
            wcs.all_pix2world(stars["x"], stars["y"], 0), (stars["ra"], stars["dec"]), atol=1e-10
        )
        theirs = galsim.AstropyWCS(wcs=wcs)
        expected = [
            theirs.local(galsim.PositionD(x + 1, y + 1)).getMatrix()
            for x, y in zip(stars["x"], stars["y"], strict=True)
        ]
        np.testing.assert_allclose(stars["jacobian"], expected, atol=1e-7)  # float32 of 0.1
    assert np.linalg.det(stars["jacobian"]).max() < 0


def test_store__without_a_wcs_has_neither(tmp_path):
    np.savez(tmp_path / "a.npz", **stack_arrays())
    ingest(make_survey(stack_recipe(), n_ccds=1), [tmp_path / "a.npz"], tmp_path / "s.zarr")
    assert np.isnan(stored(tmp_path / "s.zarr")["jacobian"]).all()
    assert open_tree(tmp_path / "s.zarr")["exposures"]["wcs"].values.tolist() == [[""]]


def test_store__counts_rows_on_no_ccd(tmp_path):
    path = write_exposure(tmp_path, "a", [1, 2], table=_sky_table(20, off=3))
    ingest(make_survey(_sky_recipe(), n_ccds=2), [path], tmp_path / "s.zarr")
    assert open_tree(tmp_path / "s.zarr")["exposures"]["n_off_ccds"].values.tolist() == [3]


def test_store__another_wcs_is_other_content(tmp_path):
    digests = []
    for name, value in (("a", -0.1), ("b", 0.1)):
        (tmp_path / name).mkdir()
        path = write_exposure(tmp_path / name, "e", [1])
        with fits.open(path, mode="update") as hdus:
            hdus["SCI"].header["CD1_1"] = value / 3600
        ingest(make_survey(images_recipe(), n_ccds=1), [path], tmp_path / f"{name}.zarr")
        digests.append(open_tree(tmp_path / f"{name}.zarr")["exposures"]["content"].values[0])
    assert digests[0] != digests[1]


def test_images__pixels_of_another_size_than_the_instruments_are_told_of(tmp_path):
    path = write_exposure(tmp_path, "a", [1])
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header["CD1_1"] = -0.3 / 3600
    summary = ingest(make_survey(images_recipe(), n_ccds=1), [path], tmp_path / "s.zarr")
    assert "the WCS of 1 CCDs has pixels of another size than the instrument's" in str(summary)
    assert "(first: 1.732 times, CCD 1 of exposure a)" in str(summary)
