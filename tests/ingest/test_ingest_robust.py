"""One bad file among good ones, lacking CCDs, bounds, and places where a store is made."""

import json
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from ingest_samples import (
    catalogue,
    exposures,
    images_recipe,
    ldac_hdus,
    ldac_recipe,
    make_survey,
    stack_arrays,
    stack_recipe,
    stamps,
    star_table,
    stored,
    write_exposure,
    write_ldac,
)
from pydantic import ValidationError

from psfscale.errors import ConfigError, InputError, StoreError
from psfscale.ingest import ingest
from psfscale.ingest.formats.bounds import matched, require_memory


def one_of_three(tmp_path, spoil, **recipe):
    """Ingest three exposures, the second spoilt; return the summary and its only refusal."""
    files = [write_ldac(tmp_path / f"e{e}.fits", e, [1, 2]) for e in (1, 2, 3)]
    files[1] = spoil(files[1]) or files[1]
    summary = ingest(make_survey(ldac_recipe(**recipe)), files, tmp_path / "s.zarr")
    assert not summary.ok
    assert summary.exposures == ("1", "3")
    return summary.files_refused


def raw_card(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new.ljust(len(old))))


def test_bad_file__with_a_card_that_is_no_number_is_refused_and_the_others_go_on(tmp_path):
    def spoil(path):
        raw_card(path, b"MJD-OBS =             56569.25", b"MJD-OBS = 'yesterday'")

    refused = one_of_three(tmp_path, spoil)
    assert [item.exposure for item in refused] == ["2", "2"]
    assert "time: 'yesterday' is no number in d" in refused[0].reason


@pytest.mark.parametrize("value", [b"  56.25.1.2", b"= 1"])
def test_bad_file__with_a_card_that_cannot_be_parsed_is_refused(tmp_path, value):
    def spoil(path):
        raw_card(path, b"MJD-OBS =             56569.25", b"MJD-OBS = " + value)

    refused = one_of_three(tmp_path, spoil)
    assert "MJD-OBS" in refused[0].reason or "time" in refused[0].reason
    assert str(tmp_path / "e2.fits") in refused[0].reason


def test_bad_file__with_a_card_without_value_is_refused(tmp_path):
    def spoil(path):
        raw_card(path, b"MJD-OBS =             56569.25", b"MJD-OBS =")

    refused = one_of_three(tmp_path, spoil)
    assert "header card MJD-OBS for the time has no value" in refused[0].reason


def test_bad_file__with_another_name_or_without_a_column_is_refused(tmp_path):
    named = one_of_three(
        tmp_path, lambda path: path.rename(tmp_path / "other.fits"), filename=r"e\d\.fits"
    )
    assert [item.file.name for item in named] == ["other.fits"]
    assert "the file name does not match" in named[0].reason


def test_bad_file__without_a_column_is_refused(tmp_path):
    def spoil(path):
        raw_card(path, b"'SNR_WIN '", b"'SNR_WON '")

    refused = one_of_three(tmp_path, spoil)
    assert "has no column 'SNR_WIN'" in refused[0].reason


def test_bad_file__whose_stamps_have_a_wrong_tdim_is_refused(tmp_path):
    def spoil(path):
        raw_card(path, b"'(9, 9)  '", b"'(9,9,9) '")

    refused = one_of_three(tmp_path, spoil)
    assert "VIGNET" in refused[0].reason or "TDIM" in refused[0].reason


@pytest.mark.parametrize("word", ["a\nb", "a\x1b[31mb", "x" * 200])
def test_id__with_control_characters_or_without_end_is_refused(tmp_path, word):
    recipe = stack_recipe(exposure={"value": word})
    np.savez(tmp_path / "a.npz", **stack_arrays())
    with pytest.raises(InputError, match=r"the exposure id .* must be of at most 128 letters"):
        ingest(make_survey(recipe), [tmp_path / "a.npz"], tmp_path / "s.zarr")


def test_ldac__a_header_with_a_row_for_each_card_is_read(tmp_path):
    table, vignet = star_table(4, seed=1), stamps(4, seed=1)
    head, objects = ldac_hdus(7, 1, table, vignet)
    cards = np.ravel(head.data.field(0))
    column = fits.Column("Field Header Card", "80A", array=cards)
    rows = fits.BinTableHDU.from_columns([column], name="LDAC_IMHEAD")
    assert len(rows.data) == len(cards) > 1
    fits.HDUList([fits.PrimaryHDU(), rows, objects]).writeto(tmp_path / "rows.fits")
    fits.HDUList([fits.PrimaryHDU(), head, objects]).writeto(tmp_path / "blob.fits")
    found = []
    for name in ("rows", "blob"):
        ingest(make_survey(ldac_recipe()), [tmp_path / f"{name}.fits"], tmp_path / f"{name}.zarr")
        found.append(exposures(tmp_path / f"{name}.zarr"))
    assert found[0]["content"].values.tolist() == found[1]["content"].values.tolist() != [""]
    assert found[0]["time"].item() == 56569.25


@pytest.mark.parametrize("form", ["images", "ldac"])
def test_lacking__ccds_leave_the_exposure_incomplete_and_are_named(tmp_path, form):
    if form == "ldac":
        path, recipe = write_ldac(tmp_path / "e.fits", 5, [1, 3]), ldac_recipe()
    else:
        path, recipe = write_exposure(tmp_path, "5", [1, 3]), images_recipe()
    strict = recipe | {"ccds_may_be_absent": False}
    summary = ingest(make_survey(strict), [path], tmp_path / "s.zarr")
    assert (summary.ok, summary.incomplete) == (False, ("5",))
    assert "exposure 5: no file holds CCD 2 of the survey's 3 CCDs" in str(summary)
    assert exposures(tmp_path / "s.zarr")["complete"].values.tolist() == [0]
    for n, also in ((1, {"ccds_may_be_absent": True}), (0, {"skip_ccds": [2]})):
        summary = ingest(make_survey(strict | also), [path], tmp_path / f"{n}.zarr")
        assert (summary.ok, summary.n_absent) == (True, n)
        assert ("CCDs of the survey that no file holds: 1" in str(summary)) == bool(n)


def test_lacking__a_science_extension_of_another_name_is_missed(tmp_path):
    path = write_exposure(tmp_path, "e", [1, 2, 3])
    with fits.open(path, mode="update") as hdus:
        hdus["SCI", 2].name = "SCIENCE"
    strict = images_recipe(ccds_may_be_absent=False)
    summary = ingest(make_survey(strict), [path], tmp_path / "s.zarr")
    assert summary.incomplete == ("e",)
    assert "no file holds CCD 2" in summary.files_refused[0].reason


def test_lacking__rows_of_ccds_that_no_file_holds_are_counted(tmp_path):
    path = write_exposure(tmp_path, "e", [1, 2], table=catalogue([1, 2, 3], n=4))
    summary = ingest(make_survey(images_recipe()), [path], tmp_path / "s.zarr")
    assert [(item.n_off, item.n_rows) for item in summary.off_ccds] == [(4, 12)]
    assert "catalogue rows on no CCD of their exposure: 4" in str(summary)
    skipping = make_survey(images_recipe(skip_ccds=[3]))
    assert ingest(skipping, [path], tmp_path / "n.zarr").off_ccds == ()


def test_expression__that_runs_away_is_given_up_with_a_sentence():
    start, handler = time.monotonic(), signal.getsignal(signal.SIGALRM)
    with pytest.raises(ConfigError, match=r"expression '\(a\+\)\+\\\\\.fits' takes more than 2 s"):
        matched(r"(a+)+\.fits", "a" * 60, whole=True)
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGALRM) == handler
    assert matched(r"(a+)+\.fits", "aa.fits", whole=True) is not None


def test_stamps__larger_than_the_ccd_or_the_memory_are_refused(tmp_path):
    stars = images_recipe()["stars"] | {"stamp_size": [61, 9]}
    with pytest.raises(ValidationError, match=r"stars\.stamp_size \(61, 9\) \(y, x\) is larger"):
        make_survey(images_recipe(stars=stars))
    with pytest.raises(InputError, match=r"all the stamps need 1e\+09 GB, this machine has"):
        require_memory(10**18, "all the stamps")


def test_output__behind_a_link_is_made_where_the_link_points(tmp_path):
    survey, path = make_survey(ldac_recipe()), write_ldac(tmp_path / "a.fits", 7, [1])
    (tmp_path / "disk").mkdir()
    link = tmp_path / "s.zarr"
    link.symlink_to(tmp_path / "disk/survey.zarr")
    assert ingest(survey, [path], link).ok
    assert link.is_symlink()
    assert len(stored(tmp_path / "disk/survey.zarr")["id"]) == 5


def test_output__may_be_an_empty_folder(tmp_path):
    survey, path = make_survey(ldac_recipe()), write_ldac(tmp_path / "a.fits", 7, [1])
    (tmp_path / "s.zarr").mkdir()
    assert ingest(survey, [path], tmp_path / "s.zarr").ok


def test_repeat__of_a_finished_ingest_has_nothing_to_do(tmp_path):
    survey = make_survey(ldac_recipe())
    files = [write_ldac(tmp_path / f"e{e}.fits", e, [1]) for e in (1, 2)]
    ingest(survey, files, tmp_path / "s.zarr")
    before = exposures(tmp_path / "s.zarr")
    for append in (False, True):
        summary = ingest(survey, files, tmp_path / "s.zarr", append=append)
        assert summary.ok
        assert str(summary) == "nothing to do: all 2 exposures are in the store"
    assert before.identical(exposures(tmp_path / "s.zarr"))


def _ingest(folder, number, answers):
    path = Path(folder) / f"{number}.fits"
    try:
        ingest(make_survey(ldac_recipe()), [path], Path(folder) / "s.zarr")
        answers.put("written")
    except StoreError as error:
        answers.put(str(error))


def test_two__ingests_of_one_new_output_leave_one_whole_store(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    for number in (1, 2):
        write_ldac(tmp_path / f"{number}.fits", number, [1, 2, 3])
    workers = [context.Process(target=_ingest, args=(tmp_path, n, answers)) for n in (1, 2)]
    for worker in workers:
        worker.start()
    found = sorted(answers.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert found.count("written") == 1
    other = next(text for text in found if text != "written")
    assert "another ingest is writing" in other or "add to it with --append" in other
    assert exposures(tmp_path / "s.zarr")["complete"].values.tolist() == [1]
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")] == []


def test_refusals__of_other_exposures_stay_listed(tmp_path):
    survey, path = make_survey(ldac_recipe()), write_ldac(tmp_path / "a.fits", 7, [1])
    ingest(survey, [path], tmp_path / "s.zarr")
    listed = tmp_path / "s.zarr/.psfscale/refused.jsonl"
    line = {"file": "b", "exposure": "8", "ccd": 1, "id": 3, "reason": "all_masked"}
    listed.write_text((json.dumps(line) + "\n") * 3)
    more = write_ldac(tmp_path / "b.fits", 9, [1])
    ingest(survey, [more], tmp_path / "s.zarr", append=True)
    assert [json.loads(text) for text in listed.read_text().splitlines()] == [line] * 3


_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import psfscale.store.stores as layout
from ingest_samples import ldac_recipe, make_survey
from psfscale.ingest import ingest
import zarr
calls, real = [], zarr.Group.create_array
def create(*args, **options):
    calls.append(1)
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGINT)
    return real(*args, **options)
zarr.Group.create_array = create
ingest(make_survey(ldac_recipe()), [Path(sys.argv[3])], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("moment", [1, 7])
def test_interrupt__while_the_store_is_created_leaves_nothing_in_the_way(tmp_path, moment):
    path, store = write_ldac(tmp_path / "a.fits", 7, [1]), tmp_path / "s.zarr"
    command = [sys.executable, "-c", _INTERRUPTED, str(moment), str(store), str(path)]
    environment = {"PYTHONPATH": f"{Path(__file__).parent}:{':'.join(sys.path)}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert not store.exists()
    assert ingest(make_survey(ldac_recipe()), [path], store).ok


@pytest.mark.parametrize(
    ("kind", "plane", "seems"),
    [
        ("inverse_variance", 25.0, "variance"),
        ("inverse_variance", 5.0, "rms"),
        ("variance", 0.04, "inverse_variance"),
        ("variance", 5.0, "rms"),
        ("rms", 25.0, "variance"),
    ],
)
def test_weights__of_another_kind_than_stated_refuse_the_ccd(tmp_path, kind, plane, seems):
    weight = np.full((60, 80), plane, np.float32)  # the sky scatters by 5
    path = write_exposure(tmp_path, "e", [1, 2], weight=weight)
    recipe = images_recipe(weight={"extname": "WHT", "kind": kind})
    summary = ingest(make_survey(recipe), [path], tmp_path / "s.zarr")
    assert [item.ccd for item in summary.files_refused] == [1, 2]
    assert f"stated to be {kind}" in summary.files_refused[0].reason
    assert f"as if they were {seems}: state `kind: {seems}`" in summary.files_refused[0].reason
    trusted = images_recipe(weight={"extname": "WHT", "kind": kind, "trusted": True})
    assert ingest(make_survey(trusted), [path], tmp_path / "t.zarr").ok
