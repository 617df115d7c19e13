"""The outbox: what was acknowledged comes back; what a crash tore does not."""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.tracking import outbox
from hpo.tracking.outbox import DamagedOutbox, Outbox

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6)


def written(path: Path, count: int = 3) -> list[bytes]:
    """An outbox of `count` records ``{"n": 0}``, …; its lines."""
    with Outbox(path) as log:
        for n in range(count):
            log.append({"n": n})
    return path.read_bytes().splitlines(keepends=True)


def numbers(path: Path) -> list[int]:
    return [record["n"] for record, _ in outbox.read(path)]


@given(records)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_was_appended_is_read_back(tmp_path: Path, written: list[dict[str, object]]) -> None:
    path = tmp_path / "outbox"
    path.unlink(missing_ok=True)
    with Outbox(path) as log:
        for record in written:
            log.append(record)
    assert [record for record, _ in outbox.read(path)] == written


def test_nan_and_infinities_are_read_back_as_floats(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox") as log:
        log.append({"values": [math.nan, math.inf, -math.inf, 5e-324]})
    ((record, _),) = outbox.read(tmp_path / "outbox")
    assert math.isnan(record["values"][0])
    assert record["values"][1:] == [math.inf, -math.inf, 5e-324]


def test_committed_records_are_in_the_file_before_close(tmp_path: Path) -> None:
    log = Outbox(tmp_path / "outbox")
    log.append({"n": 0})
    log.commit()
    assert numbers(tmp_path / "outbox") == [0]
    log.close()
    log.close()


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_line_is_not_read_and_is_cut_on_opening(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "outbox"
    lines = written(path)
    path.write_bytes(b"".join(lines)[:-cut])
    assert numbers(path) == [0, 1]
    with Outbox(path) as log:
        log.append({"n": 9})
    assert numbers(path) == [0, 1, 9]


def test_a_file_with_only_a_torn_line_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    path.write_bytes(b"0" * 200_000)
    Outbox(path).close()
    assert path.read_bytes() == b""


def test_ctrl_c_in_a_commit_writes_no_record_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def interrupted(descriptor: int) -> None:
        flush(descriptor)
        raise KeyboardInterrupt

    path = tmp_path / "outbox.jsonl"
    with Outbox(path) as log:
        log.append({"n": 0})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                log.commit()
    assert numbers(path) == [0]


def test_any_flipped_bit_in_the_middle_loses_only_its_record_and_warns(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    lines = written(path)
    for bit in range(8 * (len(lines[1]) - 1)):  # all but the newline
        damaged = bytearray(lines[1])
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(lines[0] + bytes(damaged) + lines[2])
        with pytest.warns(DamagedOutbox, match=f"byte {len(lines[0])}"):
            assert numbers(path) == [0, 2]


def test_a_lost_newline_loses_the_two_records_it_joins(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    lines = written(path)
    path.write_bytes(lines[0][:-1] + b"\x0b" + lines[1] + lines[2])
    with pytest.warns(DamagedOutbox):
        assert numbers(path) == [2]


def test_reading_goes_on_from_any_offset_it_gave(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    written(path, 5)
    offsets = [after for _, after in outbox.read(path)]
    for done, offset in enumerate(offsets, start=1):
        assert [r["n"] for r, _ in outbox.read(path, offset)] == list(range(done, 5))
        assert outbox.count(path, offset) == 5 - done


def test_a_record_without_json_form_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    with Outbox(path) as log:
        log.append({"n": 0})
        with pytest.raises(TypeError):
            log.append({"n": object()})
        log.append({"n": 1})
    assert numbers(path) == [0, 1]


def test_lines_are_readable_without_hpo(tmp_path: Path) -> None:
    checksum, text = written(tmp_path / "outbox", 1)[0].decode().split(" ", 1)
    assert json.loads(text) == {"n": 0}
    assert len(checksum) == 8


def test_reading_an_undamaged_file_warns_of_nothing(tmp_path: Path) -> None:
    written(tmp_path / "outbox")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(tmp_path / "outbox") == [0, 1, 2]
