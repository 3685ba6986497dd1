from __future__ import annotations

import numpy as np
import pytest
from ingest_samples import ldac_recipe, make_survey, write_ldac
from typer.testing import CliRunner

from psfscale.cli import app
from psfscale.errors import InputError, StoreError
from psfscale.ingest import ingest, ingest_blocks
from psfscale.store.index import exposures_of, read_index
from psfscale.store.stores import open_root
from psfscale.survey.quantity import WITH_SOURCES

SURVEY = make_survey(ldac_recipe(), n_ccds=1)


def files(folder, numbers, n=4):
    return [write_ldac(folder / f"{k}.fits", k, [1], n=n) for k in numbers]


def held(index) -> list[list[str]]:
    return [exposures_of(block) for block in read_index(index)]


def bytes_of(store) -> dict[str, bytes]:
    arrays = (p for p in sorted(store.rglob("*")) if p.is_file() and ".psfscale" not in p.parts)
    return {str(p.relative_to(store)): p.read_bytes() for p in arrays}


def test_ingest_blocks__cuts_a_survey_into_stores_in_the_order_of_the_files(tmp_path) -> None:
    index = tmp_path / "survey.yaml"
    summary = ingest_blocks(SURVEY, files(tmp_path, range(5)), index, block_size=2)
    assert summary.ok
    assert summary.exposures == ("0", "1", "2", "3", "4")
    assert [block.name for block in read_index(index)] == [f"survey-{k:04}.zarr" for k in range(3)]
    assert held(index) == [["0", "1"], ["2", "3"], ["4"]]
    alone = tmp_path / "alone.zarr"
    ingest(SURVEY, [tmp_path / "2.fits", tmp_path / "3.fits"], alone)
    assert bytes_of(alone) == bytes_of(read_index(index)[1])


def test_ingest_blocks__appends_to_the_last_block_and_leaves_full_ones_alone(tmp_path) -> None:
    index = tmp_path / "survey.yaml"
    ingest_blocks(SURVEY, files(tmp_path, range(3)), index, block_size=2)
    first, second = read_index(index)
    before = bytes_of(first)
    digest = open_root(second)["exposures/content"][0]
    summary = ingest_blocks(SURVEY, files(tmp_path, range(3, 7)), index, append=True, block_size=2)
    assert summary.exposures == ("3", "4", "5", "6")
    assert held(index) == [["0", "1"], ["2", "3"], ["4", "5"], ["6"]]
    assert bytes_of(first) == before
    assert open_root(second)["exposures/content"][0] == digest


def test_ingest_blocks__opens_a_block_where_the_last_has_no_room_on_a_ccd(tmp_path) -> None:
    index = tmp_path / "survey.yaml"
    ingest_blocks(SURVEY, files(tmp_path, [0], n=4), index, block_size=10)
    rich = files(tmp_path, [1], n=40)
    summary = ingest_blocks(SURVEY, rich, index, append=True, block_size=10)
    assert summary.ok  # nothing overflowed
    assert held(index) == [["0"], ["1"]]
    assert open_root(read_index(index)[1])["exposures/n_stars"][0].tolist() == [40]


@pytest.mark.parametrize("dies_in", [1, 3, 4])
def test_ingest_blocks__goes_on_where_it_was_stopped(tmp_path, dies_in) -> None:
    given = files(tmp_path, range(5))
    whole = tmp_path / "whole.yaml"
    ingest_blocks(SURVEY, given, whole, block_size=2)
    index = tmp_path / "survey.yaml"
    seen = []

    def die(event) -> None:
        seen.append(event)
        if sum(e.phase == "write" for e in seen) == dies_in:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_blocks(SURVEY, given, index, block_size=2, observer=die)
    summary = ingest_blocks(SURVEY, given, index, block_size=2)
    assert sorted((*summary.exposures, *summary.resumed)) == ["0", "1", "2", "3", "4"]
    assert held(index) == held(whole)
    for one, other in zip(read_index(index), read_index(whole), strict=True):
        np.testing.assert_array_equal(
            open_root(one)["exposures/content"][:], open_root(other)["exposures/content"][:]
        )
        assert open_root(one)["exposures/complete"][:].all()


def test_ingest_blocks__redoes_an_exposure_whose_file_was_damaged(tmp_path) -> None:
    index, given = tmp_path / "survey.yaml", files(tmp_path, range(3))
    content = given[2].read_bytes()
    given[2].write_bytes(content[: len(content) // 2])
    assert not ingest_blocks(SURVEY, given, index, block_size=2).ok
    given[2].write_bytes(content)
    summary = ingest_blocks(SURVEY, given, index, block_size=2)
    assert summary.ok
    assert held(index) == [["0", "1"], ["2"]]


def test_ingest_blocks__refuses_what_stands_already(tmp_path) -> None:
    index, given = tmp_path / "survey.yaml", files(tmp_path, range(3))
    ingest_blocks(SURVEY, given[:2], index, block_size=1)
    with pytest.raises(StoreError, match=r"survey\.yaml exists already; add to it with --append"):
        ingest_blocks(SURVEY, given, index, block_size=1)
    with pytest.raises(InputError, match=r"duplicate exposure: 0, 1 \(2 in all\) stand complete"):
        ingest_blocks(SURVEY, given, index, append=True, block_size=1)
    for append in (False, True):
        summary = ingest_blocks(SURVEY, given[:2], index, append=append, block_size=1)
        assert str(summary) == "nothing to do: all 2 exposures are in the store"
    with pytest.raises(InputError, match=r"an index ends in \.yaml and a block holds exposures"):
        ingest_blocks(SURVEY, given, index, append=True, block_size=0)


def test_ingest__from_the_command_line_writes_an_index(tmp_path) -> None:
    import yaml

    survey = tmp_path / "sample.yaml"
    survey.write_text(yaml.safe_dump(SURVEY.model_dump(mode="json", context=WITH_SOURCES)))
    given = [str(path) for path in files(tmp_path, range(3))]
    index = tmp_path / "blocks" / "survey.yaml"
    done = CliRunner().invoke(
        app, ["ingest", str(survey), *given, "-o", str(index), "--block", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "3 exposures written" in done.stdout
    assert held(index) == [["0", "1"], ["2"]]
