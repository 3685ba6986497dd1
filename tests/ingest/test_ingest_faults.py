import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from ingest_samples import (
    catalogue,
    exposures,
    images_recipe,
    ldac_recipe,
    make_survey,
    star_table,
    stored,
    write_exposure,
    write_ldac,
)
from zarr.storage import LocalStore

from psfscale.errors import InputError, StoreError
from psfscale.ingest import Refusal, ingest
from psfscale.store import shards
from psfscale.store.index import exposures_of
from psfscale.store.stores import open_tree


def lines(store):
    path = store / ".psfscale/refused.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def truncate(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return whole


def same(one, other):
    """Whether two stores hold the same arrays, exposure by exposure."""
    ours, theirs = open_tree(one), open_tree(other)
    for group in ("stars", "exposures"):
        a, b = (t[group].to_dataset().load() for t in (ours, theirs))
        order = [list(b["exposure"].values).index(i) for i in a["exposure"].values]
        xr.testing.assert_identical(a, b.isel(exposure=order))


@pytest.fixture
def files(tmp_path):
    return [write_ldac(tmp_path / f"e{e}.fits", e, [1, 2, 3]) for e in (1, 2, 3)]


class Stop:
    """An observer that interrupts after so many CCDs."""

    def __init__(self, after):
        self.left = after

    def __call__(self, event):
        if event.phase == "write":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 3, 4, 8])
def test_interrupt__the_same_call_ends_in_the_same_store(tmp_path, files, after):
    survey = make_survey(ldac_recipe())
    with pytest.raises(KeyboardInterrupt):
        ingest(survey, files, tmp_path / "s.zarr", observer=Stop(after))
    left = exposures(tmp_path / "s.zarr")
    assert left["complete"].values.tolist() == [int(e < (after - 1) // 3) for e in range(3)]
    summary = ingest(survey, files, tmp_path / "s.zarr")
    assert summary.ok
    assert summary.resumed == tuple(str(e) for e in (1, 2, 3) if e <= (after - 1) // 3)
    ingest(survey, files, tmp_path / "whole.zarr")
    same(tmp_path / "s.zarr", tmp_path / "whole.zarr")


def test_interrupt__refusals_are_not_listed_twice(tmp_path):
    def edit(ccd, table, vignet):
        vignet[0] = np.nan

    survey = make_survey(ldac_recipe())
    path = write_ldac(tmp_path / "a.fits", 7, [1, 2, 3], edit=edit)
    with pytest.raises(KeyboardInterrupt):
        ingest(survey, [path], tmp_path / "s.zarr", observer=Stop(2))
    torn = tmp_path / "s.zarr/.psfscale/refused.jsonl"
    torn.write_text(torn.read_text() + '{"file": "a.f')
    ingest(survey, [path], tmp_path / "s.zarr")
    assert [(line["ccd"], line["id"]) for line in lines(tmp_path / "s.zarr")] == [
        (1, 1), (2, 1), (3, 1),
    ]  # fmt: skip


def test_interrupt__a_store_cut_off_at_birth_is_made_anew(tmp_path, files, monkeypatch):
    survey = make_survey(ldac_recipe())

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("psfscale.ingest.store.write_owed", stop)
        with pytest.raises(KeyboardInterrupt):
            ingest(survey, files, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    assert ingest(survey, files, tmp_path / "s.zarr").ok
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")] == []


@pytest.mark.parametrize("moment", ["grow", "_write_ids"])
def test_interrupt__an_append_cut_off_while_making_room_is_resumed(
    tmp_path, files, monkeypatch, moment
):
    survey = make_survey(ldac_recipe())
    ingest(survey, files[:1], tmp_path / "s.zarr")
    import psfscale.ingest.store as target

    real = getattr(target, moment)

    def stop(*args):
        if moment == "grow" and len(args) == 1:
            return real(*args)  # what an earlier ingest left; the room comes after
        if moment == "grow":
            real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(target, moment, stop)
        with pytest.raises(KeyboardInterrupt):
            ingest(survey, files[1:], tmp_path / "s.zarr", append=True)
    assert exposures(tmp_path / "s.zarr")["complete"].values.tolist() == [1, 0, 0]
    assert ingest(survey, files[1:], tmp_path / "s.zarr", append=True).ok
    ingest(survey, files, tmp_path / "whole.zarr")
    same(tmp_path / "s.zarr", tmp_path / "whole.zarr")


_KILLED = """
import os, signal, sys
from pathlib import Path
import psfscale.ingest.writer as writer
from ingest_samples import ldac_recipe, make_survey
from psfscale.ingest import ingest

calls, real = [], writer.write_region

def write_region(*args):
    real(*args)
    calls.append(args)
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

writer.write_region = write_region
ingest(make_survey(ldac_recipe()), [Path(name) for name in sys.argv[3:]], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("writes", [19, 27])
def test_kill__in_the_middle_of_an_exposure_leaves_it_incomplete_and_is_resumed(
    tmp_path, files, writes
):
    # An exposure is 6 writes of stamps and 11 of columns: both kills fall into the second.
    store = tmp_path / "s.zarr"
    command = [sys.executable, "-c", _KILLED, str(writes), str(store), *map(str, files)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert exposures(store)["complete"].values.tolist() == [1, 0, 0]
    survey = make_survey(ldac_recipe())
    assert ingest(survey, files, store).resumed == ("1",)
    ingest(survey, files, tmp_path / "whole.zarr")
    same(store, tmp_path / "whole.zarr")


def test_append__grows_the_exposure_axis_and_keeps_what_is_there(tmp_path, files):
    survey = make_survey(ldac_recipe())
    ingest(survey, files[:1], tmp_path / "s.zarr")
    summary = ingest(survey, files[1:], tmp_path / "s.zarr", append=True)
    assert summary.exposures == ("2", "3")
    ingest(survey, files, tmp_path / "whole.zarr")
    same(tmp_path / "s.zarr", tmp_path / "whole.zarr")


def test_append__what_has_no_room_is_counted_listed_and_not_ok(tmp_path, files):
    survey = make_survey(ldac_recipe())
    ingest(survey, files, tmp_path / "s.zarr")
    large = write_ldac(tmp_path / "large.fits", 9, [2], n=20)
    summary = ingest(survey, [large], tmp_path / "s.zarr", append=True)
    assert not summary.ok
    assert summary.overflow == 4
    assert summary.exposures == ("9",)
    found = exposures(tmp_path / "s.zarr")
    assert found["n_stars"].values[3].tolist() == [0, 16, 0]
    assert found["n_refused"].values[3, 1, Refusal.OVERFLOW] == 4
    assert [line["id"] for line in lines(tmp_path / "s.zarr")] == [17, 18, 19, 20]


def test_append__a_complete_exposure_is_refused_before_anything_is_written(tmp_path, files):
    survey = make_survey(ldac_recipe())
    ingest(survey, files[:2], tmp_path / "s.zarr")
    before = exposures(tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"duplicate exposure: 2 \(1 in all\) stand complete"):
        ingest(survey, files[1:], tmp_path / "s.zarr", append=True)
    xr.testing.assert_identical(before, exposures(tmp_path / "s.zarr"))


def test_append__an_existing_store_is_only_touched_on_request(tmp_path, files):
    survey = make_survey(ldac_recipe())
    ingest(survey, files[:1], tmp_path / "s.zarr")
    with pytest.raises(StoreError, match=r"s\.zarr exists already; add to it with --append"):
        ingest(survey, files[1:], tmp_path / "s.zarr")
    assert exposures(tmp_path / "s.zarr").sizes["exposure"] == 1


def test_append__stamps_or_surveys_that_do_not_fit_are_refused(tmp_path, files):
    def smaller(ccd, table, vignet):
        return table, vignet[:, 1:-1, 1:-1]

    ingest(make_survey(ldac_recipe()), files[:1], tmp_path / "s.zarr")
    other = write_ldac(tmp_path / "o.fits", 5, [1], edit=smaller)
    with pytest.raises(
        InputError, match=r"have stamps of shape \(9, 9\), the files bring \(7, 7\)"
    ):
        ingest(make_survey(ldac_recipe()), [other], tmp_path / "s.zarr", append=True)
    with pytest.raises(InputError, match="is of survey 'sample', not 'other'"):
        ingest(
            make_survey(ldac_recipe(), name="other"), files[1:], tmp_path / "s.zarr", append=True
        )
    with pytest.raises(InputError, match=r"stamps differ in shape"):
        ingest(make_survey(ldac_recipe()), [files[1], other], tmp_path / "n.zarr")


def test_duplicate__one_ccd_in_two_files_stops_before_anything_is_written(tmp_path, files):
    again = write_ldac(tmp_path / "again.fits", 1, [3])
    with pytest.raises(
        InputError, match=r"CCD 3 of exposure 1 stands in .*e1\.fits and in .*again"
    ):
        ingest(make_survey(ldac_recipe()), [*files, again], tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"files are given twice: .*e1\.fits"):
        ingest(make_survey(ldac_recipe()), [files[0], files[0]], tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated__file_is_refused_the_others_go_on_and_a_repaired_one_completes(
    tmp_path, files, share
):
    survey = make_survey(ldac_recipe())
    parts = [write_ldac(tmp_path / f"p{ccd}.fits", 4, [ccd]) for ccd in (1, 2)]
    whole = truncate(parts[1], share)
    summary = ingest(survey, [*files, *parts], tmp_path / "s.zarr")
    assert not summary.ok
    (refused,) = summary.files_refused
    assert refused.file == parts[1]
    assert "truncated" in refused.reason
    assert [line["reason"] for line in lines(tmp_path / "s.zarr")] == [refused.reason]
    parts[1].write_bytes(whole)
    if share > 0.5:  # enough of it is left to tell its exposure, which is therefore not whole
        assert summary.exposures == ("1", "2", "3")
        assert summary.incomplete == ("4",)
        again = ingest(survey, [*files, *parts], tmp_path / "s.zarr")
        assert (again.ok, again.exposures, len(again.resumed)) == (True, ("4",), 3)
        assert lines(tmp_path / "s.zarr") == []
        ingest(survey, [*files, *parts], tmp_path / "whole.zarr")
        same(tmp_path / "s.zarr", tmp_path / "whole.zarr")


def test_truncated__exposure_redone_without_its_bad_file_forgets_the_first_attempt(tmp_path):
    survey = make_survey(images_recipe())
    path = write_exposure(tmp_path, "e", [1, 2, 3])
    with fits.open(path, mode="update") as hdus:
        hdus[7].data = hdus[7].data[:-1].copy()
    assert ingest(survey, [path], tmp_path / "s.zarr").incomplete == ("e",)
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "catalogues")
    path = write_exposure(tmp_path, "e", [2], table=catalogue([2]))
    assert ingest(survey, [path], tmp_path / "s.zarr").ok
    ingest(survey, [path], tmp_path / "fresh.zarr")
    same(tmp_path / "s.zarr", tmp_path / "fresh.zarr")


def test_truncated__compressed_data_found_while_reading_is_quarantined(tmp_path):
    path = write_exposure(tmp_path, "e", [1, 2], compressed=True)
    with fits.open(path) as hdus:
        info = hdus.fileinfo(4)
    raw = bytearray(path.read_bytes())
    end = info["datLoc"] + info["datSpan"]
    raw[info["datLoc"] + 480 : end] = b"\x55" * (end - info["datLoc"] - 480)
    path.write_bytes(bytes(raw))
    summary = ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")
    assert [(item.exposure, item.ccd) for item in summary.files_refused] == [("e", 2)]
    assert exposures(tmp_path / "s.zarr")["n_stars"].values.tolist() == [[4, 0, 0]]
    assert exposures(tmp_path / "s.zarr")["complete"].values.tolist() == [0]


def test_open_files__stay_few_and_are_opened_again(tmp_path, monkeypatch):
    survey, n = make_survey(images_recipe()), 3
    paths = [write_exposure(tmp_path, f"e{i}", [1, 2, 3]) for i in range(n)]
    ingest(survey, paths, tmp_path / "many.zarr")
    monkeypatch.setattr("psfscale.ingest.formats.fitsfile._OPEN_FILES", 1)
    ingest(survey, paths, tmp_path / "few.zarr")
    same(tmp_path / "many.zarr", tmp_path / "few.zarr")


def test_unreadable__file_is_refused_with_its_reason(tmp_path, files):
    junk = tmp_path / "junk.fits"
    junk.write_text("not a FITS file")
    summary = ingest(make_survey(ldac_recipe()), [junk, *files], tmp_path / "s.zarr")
    assert [item.file for item in summary.files_refused] == [junk]
    assert "cannot be read as FITS" in summary.files_refused[0].reason
    assert summary.exposures == ("1", "2", "3")
    with pytest.raises(InputError, match=r"can be ingested: .*junk\.fits cannot"):
        ingest(make_survey(ldac_recipe()), [junk], tmp_path / "n.zarr")


def test_missing__file_or_no_file_is_an_error(tmp_path, files):
    with pytest.raises(InputError, match=r"1 of 4 files do not exist: .*nowhere\.fits"):
        ingest(make_survey(ldac_recipe()), [*files, tmp_path / "nowhere.fits"], tmp_path / "s")
    with pytest.raises(InputError, match="no files to ingest"):
        ingest(make_survey(ldac_recipe()), [], tmp_path / "s")


def test_missing__catalogue_of_an_exposure_refuses_it(tmp_path):
    paths = [write_exposure(tmp_path, name, [1]) for name in ("a", "b")]
    (tmp_path / "catalogues/a_stars.fits").unlink()
    summary = ingest(make_survey(images_recipe()), paths, tmp_path / "s.zarr")
    assert summary.exposures == ("b",)
    assert "no catalogue at" in summary.files_refused[0].reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": "XPOS"}, r"e1\.fits has no column 'XPOS'; it has VIGNET, NUMBER, XWIN_IMAGE"),
        ({"flux": "FLUX_AUTO"}, r"e1\.fits: column 'FLUX_AUTO': the flux has no unit"),
        ({"flux": {"name": "FLUX_AUTO", "unit": "parrot"}}, "unit 'parrot' is unknown"),
        ({"ra": {"name": "SNR_WIN", "unit": "m"}, "dec": "SNR_WIN"}, "does not convert to 'deg'"),
    ],
)
def test_recipe__that_does_not_fit_names_file_and_columns_and_writes_nothing(
    tmp_path, files, changes, message
):
    recipe = ldac_recipe()
    recipe["stars"] = {"columns": recipe["stars"]["columns"] | changes}
    with pytest.raises(InputError, match=message):
        ingest(make_survey(recipe), files, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_recipe__stamp_column_must_exist_and_hold_stamps(tmp_path, files):
    stars = ldac_recipe()["stars"]
    for name, message in (("STAMP", "has no column 'STAMP'"), ("SNR_WIN", "cells of shape")):
        recipe = ldac_recipe(stars=stars | {"image": name})
        with pytest.raises(InputError, match=message):
            ingest(make_survey(recipe), files, tmp_path / "s.zarr")


def test_recipe__a_missing_card_refuses_the_file_and_names_it(tmp_path, files):
    recipe = ldac_recipe(gain={"card": ["GAIN", "GAINA"], "unit": "electron/adu"})
    good = write_ldac(tmp_path / "g.fits", 5, [1], GAINA=3.0)
    summary = ingest(make_survey(recipe), [files[0], good], tmp_path / "s.zarr")
    assert "no header card GAIN or GAINA for the gain" in summary.files_refused[0].reason
    assert summary.exposures == ("5",)


def test_ccd__that_the_survey_does_not_know_is_refused_unless_skipped(tmp_path):
    path = write_ldac(tmp_path / "a.fits", 7, [1, 63])
    summary = ingest(make_survey(ldac_recipe()), [path], tmp_path / "s.zarr")
    (refused,) = summary.files_refused
    assert (refused.exposure, refused.ccd) == ("7", 63)
    assert "CCD 63 is none of the survey's 1 to 3; list it under skip_ccds" in refused.reason
    assert exposures(tmp_path / "s.zarr")["complete"].values.tolist() == [0]
    skipping = ingest(make_survey(ldac_recipe(skip_ccds=[63])), [path], tmp_path / "k.zarr")
    assert skipping.ok
    assert exposures(tmp_path / "k.zarr")["complete"].values.tolist() == [1]


def test_ccd__that_only_the_catalogue_names_is_refused(tmp_path):
    path = write_exposure(tmp_path, "e", [1], table=catalogue([1, 9]))
    with pytest.raises(InputError, match=r"e_stars\.fits: CCD 9 is none of the survey's 1 to 3"):
        ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")


def test_ccd__without_stars_is_allowed_and_counted(tmp_path):
    def empty(ccd, table, vignet):
        return (star_table(0), vignet[:0]) if ccd == 2 else None

    path = write_ldac(tmp_path / "a.fits", 7, [1, 2], edit=empty)
    for sky_noise in ({"card": "SEXBKDEV", "unit": "adu"}, None):
        store = tmp_path / f"{sky_noise is None}.zarr"
        summary = ingest(make_survey(ldac_recipe(sky_noise=sky_noise)), [path], store)
        assert summary.ok
        assert summary.n_empty == 1
        assert exposures(store)["n_stars"].values.tolist() == [[5, 0, 0]]


def test_lock__keeps_a_second_ingest_out(tmp_path, files):
    survey = make_survey(ldac_recipe())
    seen = []

    def intrude(event):
        if event.phase == "write" and not seen:
            seen.append(event)
            with pytest.raises(StoreError, match="another ingest is writing to"):
                ingest(survey, files, tmp_path / "s.zarr", append=True)

    assert ingest(survey, files, tmp_path / "s.zarr", observer=intrude).ok
    assert seen


def test_events__tell_of_every_file_and_every_ccd_in_turn(tmp_path, files):
    events = []
    ingest(make_survey(ldac_recipe()), files, tmp_path / "s.zarr", observer=events.append)
    assert [(e.phase, e.done, e.total) for e in events] == [
        *(("scan", n, 3) for n in (1, 2, 3)), *(("write", n, 9) for n in range(1, 10)),
    ]  # fmt: skip
    last = events[-1]
    assert (last.exposure, last.ccd, last.file) == ("3", 3, files[2])
    assert (last.count.n_stars, last.count.taken, dict(last.count.refused)) == (5, 5, {})


def test_content__changes_with_the_pixels_and_not_with_the_company(tmp_path, files):
    def brighter(ccd, table, vignet):
        vignet[0, 0, 0] += 1

    survey = make_survey(ldac_recipe())
    ingest(survey, files, tmp_path / "a.zarr")
    large = write_ldac(tmp_path / "l.fits", 8, [1], n=40)
    ingest(survey, [large, files[0]], tmp_path / "b.zarr")
    other = write_ldac(tmp_path / "o.fits", 1, [1, 2, 3], edit=brighter)
    ingest(survey, [other], tmp_path / "c.zarr")
    a, b, c = (exposures(tmp_path / f"{n}.zarr")["content"].values for n in "abc")
    assert a[0] == b[1] != c[0]
    assert len(set(a)) == 3
    np.testing.assert_array_equal(
        stored(tmp_path / "a.zarr")["image"], stored(tmp_path / "b.zarr", exposure=1)["image"]
    )


class Killed(BaseException):
    """The process is dead; nothing of it reaches the disk any more."""


def test_append__killed_at_any_change_while_it_makes_room_is_resumed(tmp_path, files, monkeypatch):
    survey, real = make_survey(ldac_recipe()), LocalStore.set
    ingest(survey, files[:1], tmp_path / "first.zarr")
    ingest(survey, files, tmp_path / "whole.zarr")
    keys = []

    def counted(store, key, value):
        if len(keys) == moment:
            raise Killed
        keys.append(key)
        return real(store, key, value)

    moment = None
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", counted)
        shutil.copytree(tmp_path / "first.zarr", tmp_path / "story.zarr")
        ingest(survey, files[1:], tmp_path / "story.zarr", append=True)
    room = keys.index("exposure/zarr.json") + 4
    story = keys.copy()
    assert story.index("exposures/id/zarr.json") < story.index("exposure/zarr.json")
    for moment in (*range(0, room - 6, 9), *range(room - 6, room)):
        keys.clear()
        store = tmp_path / f"{moment}.zarr"
        shutil.copytree(tmp_path / "first.zarr", store)
        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "set", counted)
            with pytest.raises(Killed):
                ingest(survey, files[1:], store, append=True)
        assert exposures_of(store)[0] == "1"
        again = ingest(survey, files[1:], store, append=True)
        assert again.ok, story[moment]
        same(store, tmp_path / "whole.zarr")
        shutil.rmtree(store)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_disk__stops_ingest_and_the_same_call_goes_on(tmp_path, files, monkeypatch, number):
    survey, real = make_survey(ldac_recipe()), shards.replace_file

    def full(path, raw):
        if "stars/image/c.1." in str(path):
            raise OSError(number, os.strerror(number), str(path))
        real(path, raw)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "replace_file", full)
        with pytest.raises(StoreError, match=f"{os.strerror(number)}.*the same command goes on"):
            ingest(survey, files, tmp_path / "s.zarr")
    assert exposures(tmp_path / "s.zarr")["complete"].values.tolist() == [1, 0, 0]
    again = ingest(survey, files, tmp_path / "s.zarr")
    assert (again.ok, again.resumed) == (True, ("1",))
    ingest(survey, files, tmp_path / "whole.zarr")
    same(tmp_path / "s.zarr", tmp_path / "whole.zarr")
