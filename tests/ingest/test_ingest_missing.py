import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn
from ingest_samples import (
    COLUMNS,
    ROWS,
    SKY,
    catalogue,
    exposure_hdus,
    images_recipe,
    ldac_recipe,
    make_survey,
    stack_arrays,
    stack_recipe,
    stored,
    write_exposure,
    write_ldac,
)
from pyarrow import parquet

from psfscale.errors import InputError
from psfscale.ingest import Refusal, ingest

LOST = np.arange(6) < 2
SUFFIXES = (".fits", ".ecsv", ".csv", ".parquet")


def write_table(table, file):
    """The table in the format of the suffix, its masked values as that format's NULL."""
    if file.suffix == ".parquet":
        columns = {
            name: pa.array(np.ma.getdata(table[name]), mask=np.ma.getmaskarray(table[name]))
            for name in table.colnames
        }
        parquet.write_table(pa.table(columns), file)
    elif file.suffix == ".fits":
        table.write(file)  # masked integers get a TNULL, masked floats become NaN
    else:
        table.write(file, format=f"ascii{file.suffix}")


def taken(tmp_path, table, *, suffix=".fits", select=(), **columns):
    """Ids of the stars taken, and the summary, of a CCD with this catalogue."""
    path = write_exposure(tmp_path, "e", [1])
    write_table(table, tmp_path / f"t{suffix}")
    stars = images_recipe()["stars"]
    stars = stars | {"path": "{root}/t" + suffix, "select": list(select)}
    recipe = images_recipe(stars=stars | {"columns": stars["columns"] | columns})
    summary = ingest(make_survey(recipe, n_ccds=1), [path], tmp_path / "s.zarr")
    return stored(tmp_path / "s.zarr")["id"].values.tolist(), summary


def six(**masked):
    """Six stars; the first two lack the values of the columns named."""
    table = catalogue([1], n=6)
    for name, kind in masked.items():
        table[name] = MaskedColumn(np.asarray(table[name]).astype(kind), mask=LOST)
    return table


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "kind"), [("ID", "i4"), ("ID", "i8"), ("FLAGS", "i2"), ("FLUX", "f8")]
)
def test_null__in_a_mapped_column_leaves_the_row_out_and_is_counted(tmp_path, suffix, name, kind):
    ids, summary = taken(tmp_path, six(**{name: kind}), suffix=suffix)
    assert ids == [102, 103, 104, 105]
    assert summary.refused == {Refusal.NOT_SELECTED: 2}
    assert summary.missing == {name: 2}
    assert f"for want of a value (NULL, NaN, infinite): 2 in {name}" in str(summary)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_null__meets_no_cut(tmp_path, suffix):
    table = catalogue([1], n=6)
    table["NEAREST"] = MaskedColumn(np.full(6, 40, np.int32), mask=LOST)
    cuts = [{"column": "NEAREST", "minimum": 30}]
    ids, summary = taken(tmp_path, table, suffix=suffix, select=cuts)
    assert ids == [102, 103, 104, 105]
    assert summary.missing == {"NEAREST": 2}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_null__in_the_column_of_ccds_lies_on_none(tmp_path, suffix):
    ids, summary = taken(tmp_path, six(CCD="i4"), suffix=suffix)
    assert ids == [102, 103, 104, 105]
    assert summary.ok


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_null__positions_are_refused_as_such(tmp_path, suffix):
    ids, summary = taken(tmp_path, six(X="f8"), suffix=suffix)
    assert ids == [102, 103, 104, 105]
    assert summary.refused == {Refusal.NO_POSITION: 2}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_null__snr_and_sky_position_are_found_otherwise(tmp_path, suffix):
    ids, summary = taken(tmp_path, six(SNR="f8", RA="f8"), suffix=suffix)
    assert (len(ids), summary.missing) == (6, {})
    stars = stored(tmp_path / "s.zarr")
    assert np.isfinite(stars["snr"]).all()
    assert np.isfinite(stars["ra"]).all()


@pytest.mark.parametrize("name", ["FLUX", "SNR", "RA"])
def test_infinite__values_leave_the_row_out(tmp_path, name):
    table = catalogue([1], n=6)
    table[name][0], table[name][1] = np.inf, -np.inf
    ids, summary = taken(tmp_path, table)
    assert ids == [102, 103, 104, 105]
    assert summary.missing == {name: 2}


def test_null__of_unsigned_and_logical_columns_of_fits_is_seen(tmp_path):
    table = catalogue([1], n=6)
    number = np.arange(6, dtype=np.uint16)
    good = np.array([84, 84, 0, 70, 84, 84], np.int8)  # T, T, undefined, F, T, T
    columns = [
        fits.Column("NUMBER", "I", array=number, bzero=2**15, null=-(2**15) + 1),
        fits.Column("GOOD", "L", array=np.ones(6, bool)),
    ]
    hdu = fits.BinTableHDU.from_columns([*fits.BinTableHDU(table).columns, *columns])
    path = write_exposure(tmp_path, "e", [1])
    hdu.writeto(tmp_path / "t.fits")
    with fits.open(tmp_path / "t.fits", mode="update") as hdus:
        hdus[1].data.view(np.ndarray)["GOOD"][:] = good
        hdus[1].data._bulk = None
    stars = images_recipe()["stars"] | {
        "path": "{root}/t.fits",
        "select": [{"column": "NUMBER", "minimum": 0}, {"column": "GOOD", "equals": True}],
    }
    survey = make_survey(images_recipe(stars=stars), n_ccds=1)
    summary = ingest(survey, [path], tmp_path / "s.zarr")
    assert stored(tmp_path / "s.zarr")["id"].values.tolist() == [100, 104, 105]
    assert summary.missing == {"NUMBER": 1, "GOOD": 1}


def test_null__in_ldac_and_stacks_too(tmp_path):
    def edit(ccd, table, vignet):
        table["FLUX_AUTO"][1] = np.nan

    path = write_ldac(tmp_path / "a.fits", 7, [1], n=4, edit=edit)
    summary = ingest(make_survey(ldac_recipe(), n_ccds=1), [path], tmp_path / "l.zarr")
    assert stored(tmp_path / "l.zarr")["id"].values.tolist() == [1, 3, 4]
    assert summary.missing == {"FLUX_AUTO": 1}
    flux = np.array([1, 2, np.nan, 4, 5, 6.0])
    np.savez(tmp_path / "b.npz", **stack_arrays(flux=flux))
    stars = {"origin": 0, "columns": {"x": "x", "y": "y", "flux": {"name": "flux", "unit": "adu"}}}
    survey = make_survey(stack_recipe(stars=stars), n_ccds=1)
    summary = ingest(survey, [tmp_path / "b.npz"], tmp_path / "n.zarr")
    assert stored(tmp_path / "n.zarr")["id"].values.tolist() == [0, 1, 3, 4, 5]
    assert summary.missing == {"flux": 1}


def test_id__of_64_bits_keeps_every_digit(tmp_path):
    table = six()
    table["ID"] = MaskedColumn(np.arange(6) + 2**60 + 1, mask=LOST)
    ids, _ = taken(tmp_path, table, suffix=".parquet")
    assert ids == [2**60 + k for k in (3, 4, 5, 6)]


@pytest.mark.parametrize("found", [1e20, 2.5])
def test_id__that_is_no_integer_is_refused_by_name(tmp_path, found):
    table = six()
    table["ID"] = np.array([1, 2, 3, found, 5, 6])
    with pytest.raises(InputError, match=r"column 'ID' must hold whole numbers of 64 bits, found"):
        taken(tmp_path, table)


def with_columns():
    table = catalogue([1], n=6)
    table["CLASS"] = ["star", "star ", "gal", "", "qso", "star"]
    table["APER"] = np.arange(12.0).reshape(6, 2)
    return table


@pytest.mark.parametrize(
    ("cut", "ids"),
    [
        ({"column": "CLASS", "equals": "star"}, [100, 101, 105]),
        ({"column": "CLASS", "equals": ["gal", "qso"]}, [102, 104]),
        ({"column": "APER", "element": 1, "minimum": 6}, [103, 104, 105]),
        ({"column": "ID", "equals": [101, 103]}, [101, 103]),
    ],
)
def test_select__takes_words_and_elements_of_vectors(tmp_path, cut, ids):
    assert taken(tmp_path, with_columns(), select=[cut])[0] == ids


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ({"column": "CLASS", "minimum": 1}, r"'CLASS' holds words; select them by .*equals: WORD"),
        ({"column": "CLASS", "equals": 1}, r"'CLASS' holds words, which never equal 1"),
        ({"column": "ID", "equals": "a"}, r"'ID' holds numbers, which never equal 'a'"),
        ({"column": "APER", "minimum": 1}, r"'APER' holds 2 numbers a row; .*element: 0.* to 1"),
        ({"column": "APER", "element": 2}, r"'APER' holds cells of shape \(2,\): no element 2"),
        ({"column": "X", "element": 0}, r"'X' holds one value a row: no element 0"),
        ({"column": "X", "bits_clear": 1}, r"'X' must hold whole numbers"),
    ],
)
def test_select__asks_the_recipe_where_it_does_not_fit(tmp_path, cut, says):
    with pytest.raises(InputError, match=says):
        taken(tmp_path, with_columns(), select=[cut])


def test_select__lists_of_any_length_need_an_element(tmp_path):
    table = catalogue([1], n=3)
    lists = np.empty(3, object)
    lists[:] = [np.array([1.0]), np.array([1.0, 5.0]), np.array([1.0, 2.0, 3.0])]
    column = fits.Column("MANY", "PD()", array=lists)
    path = write_exposure(tmp_path, "e", [1])
    hdu = fits.BinTableHDU.from_columns([*fits.BinTableHDU(table).columns, column])
    hdu.writeto(tmp_path / "t.fits")

    def survey(**cut):
        stars = images_recipe()["stars"] | {"path": "{root}/t.fits"}
        cuts = [{"column": "MANY", "minimum": 0} | cut]
        return make_survey(images_recipe(stars=stars | {"select": cuts}), n_ccds=1)

    with pytest.raises(InputError, match=r"'MANY' holds lists of several numbers a row; state"):
        ingest(survey(), [path], tmp_path / "s.zarr")
    summary = ingest(survey(element=1), [path], tmp_path / "s.zarr")
    assert stored(tmp_path / "s.zarr")["id"].values.tolist() == [101, 102]
    assert summary.missing == {"MANY": 1}


@pytest.mark.parametrize("column", ["CLASS", "APER"])
def test_columns__of_words_or_vectors_are_refused_before_anything_is_written(tmp_path, column):
    with pytest.raises(InputError, match=f"column '{column}'"):
        taken(tmp_path, with_columns(), snr=column)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("kind", "blank"), [(np.int32, -1), (np.uint16, -(2**15)), (np.uint32, -(2**31))]
)
def test_blank__pixels_of_signed_and_unsigned_images_have_no_weight(
    tmp_path, compressed, kind, blank
):
    path = write_exposure(tmp_path, "e", [1])
    hdus = exposure_hdus("e", [1])
    data = np.rint(hdus[1].data).astype(kind)
    expected = data.astype(float)
    data[:, 40] = -1 if kind is np.int32 else 0
    image = fits.CompImageHDU if compressed else fits.ImageHDU
    science = image(data, header=hdus[1].header, name="SCI")
    science.ver = 1
    science.header["BLANK"] = blank
    fits.HDUList([hdus[0], science, *hdus[2:]]).writeto(path, overwrite=True)
    table = catalogue([1], n=1)
    table["X"], table["Y"] = 41.0, 31.0
    table.write(tmp_path / "catalogues/e_stars.fits", overwrite=True)
    ingest(make_survey(images_recipe(), n_ccds=1), [path], tmp_path / "s.zarr")
    star = stored(tmp_path / "s.zarr").isel(star=0)
    weight, pixels = star["weight"].values, star["image"].values
    assert (weight[:, 4] == 0).all()
    assert (pixels[:, 4] == 0).all()
    assert (np.delete(weight, 4, 1) > 0).all()
    cut = (expected[26:35, 36:45] - SKY) * 2
    np.testing.assert_allclose(np.delete(pixels, 4, 1), np.delete(cut, 4, 1), rtol=1e-6)


@pytest.mark.parametrize("plane", ["WHT", "MSK"])
def test_blank__of_weights_and_masks_masks_the_pixel(tmp_path, plane):
    path = write_exposure(tmp_path, "e", [1])
    hdus = exposure_hdus("e", [1])
    index = {"WHT": 2, "MSK": 3}[plane]
    data = np.full((ROWS, COLUMNS), 7 if plane == "WHT" else 0, np.uint16)
    data[30, 40] = 99
    other = fits.ImageHDU(data, header=hdus[index].header, name=plane, ver=1)
    other.header["BLANK"] = 99 - 2**15
    hdus[index] = other
    hdus.writeto(path, overwrite=True)
    table = catalogue([1], n=1)
    table["X"], table["Y"] = 41.0, 31.0
    table.write(tmp_path / "catalogues/e_stars.fits", overwrite=True)
    mask = {"extname": "MSK", "bits": 4}
    ingest(make_survey(images_recipe(mask=mask), n_ccds=1), [path], tmp_path / "s.zarr")
    weight = stored(tmp_path / "s.zarr")["weight"].values[0]
    assert np.argwhere(weight == 0).tolist() == [[4, 4]]
    if plane == "WHT":
        assert weight.max() == pytest.approx(7 / 4)
