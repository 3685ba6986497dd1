from __future__ import annotations

import numpy as np
import pytest
import toy
from typer.testing import CliRunner

from psfscale.cli import app
from psfscale.errors import RunError, StoreError
from psfscale.pipeline import run, verify
from psfscale.pipeline.ledger.lease import Lease
from psfscale.store.stores import open_root


@pytest.fixture
def finished(survey):
    run(toy.make_config(survey), serial=True, observers=[])
    return survey / "run.zarr"


def test_verify__finds_nothing_wrong_with_a_good_run(finished) -> None:
    found = verify(finished)
    assert found.ok
    # fit: mean and its stars; psf: flags and 2 CCDs; metrics: stars and stamps
    assert (found.n_units, found.n_objects) == (6, 2 * (2 + 3 + 2))
    assert CliRunner().invoke(app, ["verify", str(finished)]).exit_code == 0


@pytest.mark.parametrize(
    ("file", "stage", "rerun"),
    [
        ("stars/fits/c.1.0.0.0", "fit", 3),
        ("stars/metrics/c.1.0.0.0", "metrics", 1),
        ("galaxies/psf/c.1.0.0.0.0", "psf", 1),
    ],
)
@pytest.mark.parametrize("lost", [True, False])
def test_verify__names_what_is_damaged_and_has_it_made_anew(
    survey, finished, file, stage, rerun, lost
) -> None:
    before = toy.run_arrays(finished)
    path = finished / file
    if lost:
        path.unlink()
    else:
        raw = bytearray(path.read_bytes())
        raw[5] ^= 1
        path.write_bytes(raw)
    result = CliRunner().invoke(app, ["verify", str(finished)])
    assert result.exit_code == 1
    assert f"{stage} of exposure 1: {path} is {'missing' if lost else 'damaged'}" in result.stdout
    assert not verify(finished, repair=True).ok
    summary = run(toy.make_config(survey), serial=True, observers=[])
    assert summary.n_units == rerun
    assert verify(finished).ok
    after = toy.run_arrays(finished)
    for name, values in before.items():
        assert (values == after[name]).all() or str(values) == str(after[name]), name


def test_verify__reports_stray_files_and_unreadable_arrays_of_the_driver(finished) -> None:
    (finished / "stars/fits/c.0.0.0.0.abc.partial").touch()
    (finished / "ccds/psf_R2/c.0.0").write_bytes(b"nonsense")
    said = str(verify(finished))
    assert "was left by a killed writer" in said
    assert "ccds/psf_R2/c.0.0 is damaged" in said
    (finished / ".psfscale/seal.zip").unlink()
    assert "ccds/psf_R2 cannot be read" in str(verify(finished))


def test_verify__refuses_arrays_with_more_than_one_writer(finished) -> None:
    root = open_root(finished, mode="r+")
    array = root["stars/fits"]
    root.create_array(
        "stars/fits",
        shape=array.shape,
        chunks=(2, *array.shape[1:]),
        dtype="f4",
        dimension_names=array.metadata.dimension_names,
        overwrite=True,
    )
    assert "stars/fits/zarr.json is damaged: it is not what was written" in str(verify(finished))
    (finished / ".psfscale/seal.zip").unlink()
    with pytest.raises(StoreError, match="which has more than one writer"):
        verify(finished)


def test_verify__repairs_nothing_under_a_running_driver(finished) -> None:
    (finished / "stars/fits/c.0.0.0.0").unlink()
    with Lease(finished), pytest.raises(RunError, match="held by another driver"):
        verify(finished, repair=True)


def swap(one, other) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        (("stars/fits/c.0.0.0.0", "stars/fits/c.1.0.0.0"), "fit"),
        (("galaxies/psf/c.0.0.0.0.0", "galaxies/psf/c.1.1.0.0.0"), "psf"),
    ],
)
def test_verify__finds_a_product_swapped_for_another_whole_one(
    survey, finished, files, stage
) -> None:
    before = toy.run_arrays(finished)
    swap(*(finished / file for file in files))
    found = verify(finished, repair=True)
    assert {damage.key for damage in found.damages} == {(stage, 0), (stage, 1)}
    for file, damage in zip(files, found.damages, strict=True):
        assert "not all is what the unit has written, though whole" in damage.reason
        assert file in damage.reason
    run(toy.make_config(survey), serial=True, observers=[])
    assert verify(finished).ok
    after = toy.run_arrays(finished)
    for file in files:
        name = file.split("/c")[0]
        np.testing.assert_array_equal(before[name], after[name])


def test_verify__knows_products_of_which_a_part_was_kept(survey) -> None:
    toy.spoil_ccd(survey / "survey.zarr", 1, 0, how="nan")
    path = survey / "run.zarr"
    run(toy.make_config(survey), serial=True, observers=[])
    assert verify(path).ok  # of the failed exposure by its marker, of the other by the books
    toy.mend_ccd(survey / "survey.zarr", 1, 0)
    run(toy.make_config(survey), serial=True, retry_failed=True, observers=[])
    assert verify(path).ok
    swap(path / "galaxies/psf/c.1.0.0.0.0", path / "galaxies/psf/c.1.1.0.0.0")
    assert [damage.key for damage in verify(path).damages] == [("psf", 1)]


def test_verify__asks_no_digest_of_units_that_left_none(finished) -> None:
    open_root(finished, mode="r+")["units/digest"][...] = 0
    (finished / ".psfscale/seal.zip").unlink()
    swap(finished / "stars/fits/c.0.0.0.0", finished / "stars/fits/c.1.0.0.0")
    assert verify(finished).ok
