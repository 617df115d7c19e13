"""Table and text files that somebody has spoilt: read as they were meant, or told in one line."""

from __future__ import annotations

import datetime
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from trainers.contract import DataError
from trainers.data import Dataset, load
from trainers.data.tables import MOST_COLUMNS, batches

ROWS = [f"{(row * 7) % 40}.5,{'ab'[row % 2]}" for row in range(40)]
GOOD = "x,y\n" + "\n".join(ROWS) + "\n"


def read(folder: Path, content: bytes, name: str = "t.csv", **options: Any) -> Dataset:
    (folder / name).write_bytes(content)
    return load({"source": str(folder / name), "target": "y", **options}, folder / "cache")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace("\n", "\r").encode(),
        GOOD.replace(",", "\t").encode(),
        GOOD.replace(",", ";").encode(),
        GOOD.replace("\n", ",\n").encode(),  # a comma ends each line
        "".join(f'"{a}","{b}"\n' for a, b in (line.split(",") for line in GOOD.split())).encode(),
        GOOD.rstrip("\n").encode(),
        GOOD.replace("\n", "\n\n").encode(),
    ],
    ids=["bom", "crlf", "cr", "tabs", "semicolons", "commas", "quotes", "no end", "empty lines"],
)
def test_other_ways_to_write_a_table_are_read_alike(tmp_path: Path, content: bytes) -> None:
    good, other = read(tmp_path, GOOD.encode()), read(tmp_path, content)
    assert np.array_equal(good.inputs, other.inputs)
    assert np.array_equal(good.target, other.target)


@pytest.mark.parametrize(
    ("content", "key", "words", "hint"),
    [
        (GOOD.encode("utf-16"), "source", "the character NUL in line 1", "UTF-8"),
        (GOOD.encode("utf-16-be"), "source", "the character NUL in line 1", "UTF-8"),
        ((GOOD + "1,caf\xe9\n").encode("latin-1"), "source", "not UTF-8 text", "UTF-8"),
        (GOOD.replace("7.5", "7\0.5").encode(), "source", "the character NUL in line 3", ""),
        (bytes(range(256)) * 9, "source", "the character NUL in line 1", ""),
        (GOOD.replace(",", "|").encode(), "target", "no column 'y'", "commas, semicolons or tabs"),
        (GOOD.replace(",", " ").encode(), "target", "no column 'y'", "commas, semicolons or tabs"),
        (GOOD.replace("x,y", "y,y").encode(), "source", "two columns 'y'", "its own name"),
        (
            GOOD.replace("\n", "\n1,", 40).encode(),
            "source",
            "more values in a row than names in its first line",
            "name every column",
        ),
        ((GOOD + "1,2,3\n").encode(), "source", "Expected 2 fields in line 42, saw 3", ""),
        ((GOOD + "1\n").encode(), "target", "1 rows have no value in 'y'", "fill"),
        ((GOOD + '"1,a\n').encode(), "source", "EOF inside string starting at row 41", ""),
        (f"# mine\n{GOOD}".encode(), "source", "more values in a row than names", ""),
        (b"x,y\n1,a,\n2,b,3\n", "source", "more values in a row than names", ""),
        (b"", "source", "No columns", ""),
        (b"\n\n\n", "source", "No columns", ""),
        (b"x,y\n", "source", "has no rows", ""),
        (b"x,y\n1,a\n", "target", "every row is of one class", ""),
        (b"x,y\n1,a\n2,b\n", "validation", "splitting 2 rows leaves none", ""),
        (GOOD.replace("\n", "e308\n", 1).replace(".5,", "e307,").encode(), "target", "no col", ""),
        (
            "\n".join([",".join(["y", *map(str, range(MOST_COLUMNS))])] * 2).encode(),
            "source",
            "50,001 columns; at most 50,000",
            "",
        ),
    ],
)
def test_a_spoilt_csv_file_is_told(
    tmp_path: Path, content: bytes, key: str, words: str, hint: str
) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, content)
    assert refused.value.key == f"data.{key}"
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert hint in str(refused.value.hint)


@pytest.mark.parametrize(
    "content",
    [
        GOOD.encode("utf-16"),
        GOOD.replace("x,y", "y,y").encode(),
        b"x,y\n1,a,\n2,b,3\n",
    ],
)
def test_new_rows_are_read_as_carefully(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "new.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"NUL|two columns|more values"):
        list(batches(tmp_path / "new.csv", ["x"], [], 10))


def test_numbers_among_which_are_others_say_what_is_missing(tmp_path: Path) -> None:
    odd = ["nan,a", "inf,b", "-Infinity,a", "NULL,b"]
    data = read(tmp_path, "\n".join(["x,y", *ROWS, *odd]).encode())
    assert data.inputs.isfinite().all()
    assert data.summary["shape"] == [2]  # the number, and whether it is missing
    assert data.summary["report"]["missing"] == {"x": 2}


# -- Parquet

DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(row) for row in range(40)]
COLUMNS: dict[str, Any] = {
    "days": DAYS,
    "times": pa.array([*map(pd.Timestamp, DAYS)], pa.timestamp("us", "Asia/Tokyo")),
    "spans": pd.to_timedelta(np.arange(40), unit="h"),
    "decimals": [Decimal(row) / 4 for row in range(40)],
    "large": np.arange(40, dtype=np.uint64) * 2**58,
    "small": np.arange(40).astype(np.float16),
    "nullable": pd.array([*range(40)], dtype="Int64"),
}


def as_parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    y = ["a", "b"] * 20
    arrays = {name: pa.array(values) for name, values in {**columns, "y": y}.items()}
    parquet.write_table(pa.table(arrays), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("name", COLUMNS)
def test_numbers_and_dates_of_every_type_are_numbers(tmp_path: Path, name: str) -> None:
    data = read(tmp_path, as_parquet(x=COLUMNS[name]), "t.parquet")
    x = np.arange(40.0)[data.ids]
    x = (x - x[data.train].mean()) / x[data.train].std()
    assert data.summary["shape"] == [1]
    assert np.allclose(data.inputs[:, 0], x, atol=1e-5)


def test_a_damaged_parquet_file_is_told_or_read(tmp_path: Path) -> None:
    whole = as_parquet(x=np.arange(40.0), z=["p", "q"] * 20)
    told = 0
    for at in range(0, len(whole), len(whole) // 40):
        for spoilt in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            try:
                read(tmp_path, spoilt, "t.parquet")
            except DataError:
                told += 1
    assert told > 40


def test_a_parquet_file_that_says_it_is_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    """Rows that are alike take next to no space: a small file may hold any number of them."""
    rows = 777

    def varint(number: int) -> bytes:
        number, found = number * 2, b""  # zigzag, as the footer has them
        while number > 127:
            found += bytes([number % 128 + 128])
            number //= 128
        return found + bytes([number])

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"x": [1] * rows, "y": ["a"] * rows}), sink)
    content = bytes(sink.getvalue())
    size = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - size : -8].replace(varint(rows), varint(10**12))
    bomb = content[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(DataError, match=r"would take 16,000 GB .*\(1,000,000,000,000 rows of 2"):
        read(tmp_path, bomb, "t.parquet")


def test_a_parquet_file_with_two_columns_of_a_name_is_refused(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_arrays([pa.array([1])] * 3, names=["x", "x", "y"]), sink)
    with pytest.raises(DataError, match="two columns 'x'"):
        read(tmp_path, bytes(sink.getvalue()), "t.parquet")


# -- texts


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        ("caf\xe9".encode("latin-1"), "not UTF-8 in line 1"),
        ("words\n".encode("utf-16"), "not UTF-8 in line 1"),
        ("words\n".encode("utf-16-le"), "the character NUL in line 1"),
        (b"words\nmore\0words", "the character NUL in line 2"),
    ],
)
def test_a_text_file_that_is_none_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    for name in "ab":
        (tmp_path / "texts" / name).mkdir(parents=True)
        for number in range(20):
            (tmp_path / "texts" / name / f"{number}.txt").write_text(f"some {name} words")
    (tmp_path / "texts" / "a" / "odd.txt").write_bytes(content)
    os.mkfifo(tmp_path / "texts" / "a" / "pipe.txt")
    section = {"source": str(tmp_path / "texts"), "tokenizer": "words"}
    with pytest.raises(DataError) as refused:
        load(section, tmp_path / "cache")
    assert f"2 of 42 texts cannot be used: a/odd.txt ({words})" in str(refused.value)
    assert "a/pipe.txt (not a regular file)" in str(refused.value)
    left = load({**section, "skip_bad": True}, tmp_path / "cache")
    assert left.summary["rows"] == 40
