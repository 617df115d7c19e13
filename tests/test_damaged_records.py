"""A study's records, damaged (row 18 of the fault matrix): it stops with a line that says where,
and leaves every file as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from workbench import Workbench

from hpo.errors import HpoError, RecordsLost
from hpo.tracking import outbox


@pytest.fixture
def finished(bench: Workbench) -> Workbench:
    """A study of three trials that may go on to more."""
    bench.run(budget__trials=3)
    return bench


def refused(bench: Workbench, error: type[HpoError] = RecordsLost) -> str:
    """What a run of four trials is refused with; it changes no record."""
    records = (bench.paths.outbox, bench.paths.journal)
    before = [file.read_bytes() for file in records]
    with pytest.raises(error) as refusal:
        bench.run(budget__trials=4)
    assert [file.read_bytes() for file in records] == before
    return str(refusal.value)


def flip(path: Path, line: int, place: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[line])
    damaged[place] ^= 1
    path.write_bytes(b"".join([*lines[:line], bytes(damaged), *lines[line + 1 :]]))


def test_row_18_a_flipped_bit_in_any_record_of_the_outbox_stops_the_study(
    finished: Workbench,
) -> None:
    path = finished.paths.outbox
    whole = path.read_bytes()
    for line, content in enumerate(whole.splitlines(keepends=True)):
        flip(path, line, len(content) // 2)
        said = refused(finished)
        assert f"{path}, line {line + 1} (byte" in said
        assert "start_from" in said
        path.write_bytes(whole)
    finished.run(budget__trials=4)


def test_row_18_an_outbox_that_was_cut_stops_the_study(finished: Workbench) -> None:
    path = finished.paths.outbox
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    kinds = [record["kind"] for record, _ in outbox.read(path)]
    last_told = max(i for i, kind in enumerate(kinds) if kind == "end")
    for kept in range(last_told + 1):
        for torn in (b"", lines[kept][:20]):
            path.write_bytes(b"".join(lines[:kept]) + torn)
            refused(finished, HpoError)
    path.write_bytes(whole)
    finished.run(budget__trials=4)


def test_row_18_an_outbox_that_lost_an_end_names_the_trial(finished: Workbench) -> None:
    path = finished.paths.outbox
    lines = path.read_bytes().splitlines(keepends=True)
    last_end = max(i for i, line in enumerate(lines) if b'"kind":"end"' in line)
    path.write_bytes(b"".join(lines[:last_end]))
    said = refused(finished)
    assert f"{path} lacks the end of what was acknowledged" in said
    assert "trial 2" in said


def test_row_18_a_flipped_bit_in_optunas_journal_never_passes_for_nothing(
    finished: Workbench,
) -> None:
    path = finished.paths.journal
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for line in range(len(lines)):
        flip(path, line, 0)  # no JSON any more
        said = refused(finished)
        assert f"{path}, line {line + 1}: it is damaged" in said
        path.write_bytes(whole)


def test_row_18_a_journal_that_was_cut_stops_the_study(finished: Workbench) -> None:
    path = finished.paths.journal
    lines = path.read_bytes().splitlines(keepends=True)
    asked = [i for i, line in enumerate(lines) if b'"op_code":4' in line]
    assert len(asked) == 3
    for kept in asked:
        path.write_bytes(b"".join(lines[:kept]))
        said = refused(finished)
        assert "Optuna's storage" in said
        assert "trial" in said


def test_row_18_another_study_s_records_are_refused(
    finished: Workbench, another_bench: Callable[[], Workbench]
) -> None:
    other = another_bench()
    other.run(budget__trials=3)
    finished.paths.outbox.write_bytes(other.paths.outbox.read_bytes())
    assert "whose record is not in" in refused(finished, HpoError)
