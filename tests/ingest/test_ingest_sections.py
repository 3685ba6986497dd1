"""A CCD read out by two amplifiers, against the same CCD read out by one."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from ingest_samples import (
    COLUMNS,
    GAIN,
    ROWS,
    STAMP,
    images_recipe,
    ldac_recipe,
    make_survey,
    stack_recipe,
    stored,
    tan_wcs,
    write_ldac,
)

from psfscale.arrays import ObjectFlag
from psfscale.errors import InputError
from psfscale.ingest import ingest

BORDER = 40
GAINS, BIASES, READ_NOISES = (2.0, 5.0), (300.0, 1000.0), (4.0, 7.0)
FULL = (20000.0, 30000.0)
"""ADU above the bias: 40000 and 150000 electrons."""
LEFT = np.arange(COLUMNS) < BORDER
SKY = 200.0


def by_amplifier(values):
    """(column,) the value of the amplifier that a column is read out by."""
    return np.where(LEFT, *values)


def electrons(seed=4):
    """(y, x) sky with its noise, a bright star on the border and two saturated ones."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    image = SKY + np.random.default_rng(seed).normal(0, 15, (ROWS, COLUMNS))
    image += 8000 * np.exp(-((x - 39.6) ** 2 + (y - 30.0) ** 2) / 8)
    image[12, 15], image[12, 60] = 45000, 145000
    return image


STARS = Table(
    {
        "ID": [1, 2, 3, 4],
        "X": [40.6, 16.0, 61.0, 66.2],
        "Y": [31.0, 13.0, 13.0, 41.7],
        "FLUX": [1000.0, 1000.0, 1000.0, 1000.0],
    }
)


def write(folder, image, weight, cards):
    header = tan_wcs(1)
    for name, value in ({"CCDNUM": 1, "SKY": 0.0} | cards).items():
        header[name] = value
    primary = fits.PrimaryHDU()
    primary.header["EXPOSURE"] = "e"
    planes = [
        fits.ImageHDU(plane.astype(np.float64), header=header, name=name)
        for name, plane in (("SCI", image), ("WHT", weight))
    ]
    folder.mkdir()
    fits.HDUList([primary, *planes]).writeto(folder / "e.fits")
    STARS.write(folder / "stars.fits")
    return folder / "e.fits"


AMPLIFIERS = {
    "SECA": "[1:40,1:60]", "SECB": "[80:41,60:1]", "GAINA": GAINS[0], "GAINB": GAINS[1],
    "BIASA": BIASES[0], "BIASB": BIASES[1], "RDNA": READ_NOISES[0], "RDNB": READ_NOISES[1],
    "SATA": FULL[0] + BIASES[0], "SATB": FULL[1] + BIASES[1],
}  # fmt: skip
SECTIONS = [
    {
        "region": {"card": f"SEC{name}"},
        "gain": {"card": f"GAIN{name}", "unit": "electron / adu"},
        "read_noise": {"card": f"RDN{name}", "unit": "electron"},
        "saturation": {"card": f"SAT{name}", "unit": "adu"},
        "bias": {"card": f"BIAS{name}", "unit": "adu"},
    }
    for name in "AB"
]


def recipe(**changes):
    columns = {"id": "ID", "x": "X", "y": "Y", "flux": {"name": "FLUX", "unit": "adu"}}
    stars = {"path": "{directory}/stars.fits", "stamp_size": STAMP, "columns": columns}
    keys = ("time", "filter", "mask", "saturation", "gain", "read_noise")
    base = {key: value for key, value in images_recipe().items() if key not in keys}
    level = {"value": SKY, "unit": "electron"}
    return base | {"stars": stars, "background": {"kind": "card", "level": level}} | changes


def both(tmp_path, *, weight="inverse_variance", **changes):
    """The stars of the CCD as two amplifiers and as one of 1 electron/ADU have it."""
    image, gain = electrons(), by_amplifier(GAINS)
    variance = np.broadcast_to(15.0**2 + by_amplifier(READ_NOISES) ** 2, image.shape)
    power = {"inverse_variance": -1, "variance": 1, "rms": 0.5}[weight]
    wht = {"weight": {"extname": "WHT", "kind": weight}} | changes
    two = write(
        tmp_path / "two",
        image / gain + by_amplifier(BIASES),
        (variance / gain**2) ** power,
        AMPLIFIERS,
    )
    one = write(tmp_path / "one", image, variance**power, {})
    unity = {"value": 1, "unit": "electron / adu"}
    for name, path, how in (("two", two, {"sections": SECTIONS}), ("one", one, {"gain": unity})):
        survey = make_survey(recipe(**wht, **how), n_ccds=1)
        assert ingest(survey, [path], tmp_path / f"{name}.zarr").ok
    return stored(tmp_path / "two.zarr"), stored(tmp_path / "one.zarr")


@pytest.mark.parametrize("weight", ["inverse_variance", "variance", "rms"])
def test_sections__give_each_pixel_its_own_gain_and_bias(tmp_path, weight):
    two, one = both(tmp_path, weight=weight)
    np.testing.assert_allclose(two["image"], one["image"], atol=0.02)
    clear = (two["weight"] > 0).values
    assert clear[0].all()
    np.testing.assert_allclose(two["weight"].values[clear], one["weight"].values[clear], rtol=1e-5)


def test_sections__saturate_each_at_its_own_level(tmp_path):
    two, one = both(tmp_path)
    full = (two["flags"].values & ObjectFlag.SATURATED) > 0
    assert full.tolist() == [False, True, False, False]
    assert np.argwhere((two["weight"] == 0).values).tolist() == [[1, 4, 4]]
    assert (one["flags"] == 0).all()


def test_sections__fluxes_follow_the_gain_at_the_object(tmp_path):
    two, _ = both(tmp_path)
    np.testing.assert_allclose(two["flux"], 1000 * np.array([5.0, 2.0, 5.0, 5.0]))


def test_sections__have_their_own_read_noise_where_noise_is_modelled(tmp_path):
    both(tmp_path, weight="rms")
    path = tmp_path / "two/e.fits"
    survey = make_survey(recipe(weight=None, sections=SECTIONS), n_ccds=1)
    ingest(survey, [path], tmp_path / "m.zarr")
    weight = stored(tmp_path / "m.zarr")["weight"].values[0]
    columns = np.arange(36, 45)
    expected = 1 / (SKY + by_amplifier(READ_NOISES)[columns] ** 2)
    np.testing.assert_allclose(weight, np.broadcast_to(expected, (STAMP, STAMP)), rtol=1e-6)


def test_sections__are_measured_each_by_itself_where_nothing_tells_the_noise(tmp_path):
    rng = np.random.default_rng(6)
    rms = by_amplifier((10.0, 40.0))
    image = rng.normal(0, 1, (ROWS, COLUMNS)) * rms
    path = write(
        tmp_path / "a", image / by_amplifier(GAINS) + by_amplifier(BIASES), image, AMPLIFIERS
    )
    survey = make_survey(
        recipe(weight=None, background={"kind": "subtracted"}, sections=SECTIONS), n_ccds=1
    )
    ingest(survey, [path], tmp_path / "s.zarr")
    noise = stored(tmp_path / "s.zarr")["weight"].values ** -0.5
    # Two cells of 2400 pixels each: 1.5 % standard error; four of them.
    np.testing.assert_allclose(noise[1], 10, rtol=0.06)
    np.testing.assert_allclose(noise[3], 40, rtol=0.06)
    assert noise[0, 0, 3] == pytest.approx(10, rel=0.06)
    assert noise[0, 0, 4] == pytest.approx(40, rel=0.06)


def stamps_of(image, table):
    rows = np.rint(np.asarray(table["Y"])).astype(int) - 1
    columns = np.rint(np.asarray(table["X"])).astype(int) - 1
    half = STAMP // 2
    return np.array(
        [
            image[r - half : r + half + 1, c - half : c + half + 1]
            for r, c in zip(rows, columns, strict=True)
        ]
    )


def test_sections__of_ldac_and_stacks_turn_each_pixel_of_a_stamp(tmp_path):
    image = electrons() - SKY
    raw = image / by_amplifier(GAINS) + by_amplifier(BIASES)
    truth, stamps = stamps_of(image, STARS), stamps_of(raw, STARS)

    def edit(ccd, table, vignet):
        positions = {"XWIN_IMAGE": np.asarray(STARS["X"]), "YWIN_IMAGE": np.asarray(STARS["Y"])}
        return table | positions, stamps.astype(np.float32)

    path = write_ldac(tmp_path / "a.fits", 7, [1], n=4, edit=edit, **AMPLIFIERS)
    noise = {"value": 3, "unit": "adu"}
    survey = make_survey(ldac_recipe(sections=SECTIONS, sky_noise=noise), n_ccds=1)
    ingest(survey, [path], tmp_path / "l.zarr")
    stars = stored(tmp_path / "l.zarr")
    np.testing.assert_allclose(stars["image"], truth, atol=0.02)
    assert (1 / stars["weight"].values[0, 0, 3:5]).tolist() == pytest.approx([36, 225])
    assert ((stars["flags"] & ObjectFlag.SATURATED) > 0).values.tolist() == [0, 1, 0, 0]
    weight = np.full(stamps.shape, 1 / 9)
    x, y = np.asarray(STARS["X"]) - 1, np.asarray(STARS["Y"]) - 1
    np.savez(tmp_path / "b.npz", image=stamps, weight=weight, x=x, y=y)
    given = [
        {"region": {"value": "[1:40,1:60]"}, "gain": {"value": 2, "unit": "electron/adu"},
         "bias": {"value": BIASES[0], "unit": "adu"}},
        {"region": {"value": "[41:80,1:60]"}, "gain": {"value": 5, "unit": "electron/adu"},
         "bias": {"value": BIASES[1], "unit": "adu"}},
    ]  # fmt: skip
    survey = make_survey(stack_recipe(sections=given, unit="adu"), n_ccds=1)
    ingest(survey, [tmp_path / "b.npz"], tmp_path / "n.zarr")
    stars = stored(tmp_path / "n.zarr")
    np.testing.assert_allclose(stars["image"], truth, atol=0.02)
    assert (1 / stars["weight"].values[0, 0, 3:5]).tolist() == pytest.approx([36, 225])


def test_sections__pixels_of_none_are_masked(tmp_path):
    path = write(tmp_path / "a", electrons(), np.ones((ROWS, COLUMNS)), {})
    one = [{"region": {"value": "[1:40,1:60]"}}]
    ingest(make_survey(recipe(sections=one), n_ccds=1), [path], tmp_path / "s.zarr")
    weight = stored(tmp_path / "s.zarr")["weight"].values[0]
    np.testing.assert_allclose(weight[:, :4], 1 / GAIN**2, rtol=1e-6)
    assert (weight[:, 4:] == 0).all()


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        (["[1:50,1:60]", "[41:80,1:60]"], "section 2 of the recipe overlaps another one"),
        (["[1:81,1:60]"], "reaches over the CCD of 80 columns and 60 rows"),
        (["[0:80,1:60]"], "reaches over the CCD"),
        (["left half"], r"'left half' is not of the form \[x1:x2,y1:y2\]"),
    ],
)
def test_sections__that_do_not_fit_the_ccd_are_refused(tmp_path, regions, says):
    path = write(tmp_path / "a", electrons(), np.ones((ROWS, COLUMNS)), {})
    sections = [{"region": {"value": text}} for text in regions]
    with pytest.raises(InputError, match=says):
        ingest(make_survey(recipe(sections=sections), n_ccds=1), [path], tmp_path / "s.zarr")


@pytest.mark.parametrize("gain", [0.0, -1.0])
def test_gain__that_is_not_positive_is_refused(tmp_path, gain):
    path = write(tmp_path / "a", electrons(), np.ones((ROWS, COLUMNS)), {"GAIN": gain})
    how = recipe(gain={"card": "GAIN", "unit": "electron / adu"})
    with pytest.raises(InputError, match=rf"gain is {gain} electron/adu, expected a positive"):
        ingest(make_survey(how, n_ccds=1), [path], tmp_path / "s.zarr")
