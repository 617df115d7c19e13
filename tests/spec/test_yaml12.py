"""Reading YAML 1.2, and writing what reads back the same."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.spec import yaml12
from hpo.spec.yaml12 import Place, YamlError
from hpo.spec.yaml_text import dump

TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["no", "on", "1e-3", "017", "0x1F", "0o7", "~", "null", "", ".inf", "12:30", "1_000", "=",
     "<<", "2026-01-01", "- a", "a: b", "#", "!x", "&a", "*a", "'", '"', "\n", "\t", " a", "1."]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1e3", 1e3), ("1E-3", 1e-3), ("1e+3", 1e3), ("1.0e3", 1e3),
        ("1.0e-3", 1e-3), (".5", 0.5), ("5.", 5.0), ("-0.0", -0.0), ("+3", 3), ("-3", -3),
        ("017", 17), ("0o17", 15), ("0x1F", 31), (".inf", math.inf), ("-.INF", -math.inf),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("No", "No"),
        ("true", True), ("True", True), ("FALSE", False), ("tRue", "tRue"),
        ("~", None), ("null", None), ("Null", None), ("", None), ("nULL", "nULL"),
        ("12:30", "12:30"), ("1_000", "1_000"), ("2026-11-24", "2026-11-24"), ("0b1", "0b1"),
        ("1e", "1e"), ("e3", "e3"), (".", "."), ("+.inf", math.inf), ("=", "="), ("<<", "<<"),
        ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: Any) -> None:
    found = yaml12.read(f"k: {text}\n".encode()).value["k"] if text not in ("<<",) else text
    assert found == value
    assert type(found) is type(value)
    assert yaml12.read(f"k: '{text}'\n".encode()).value["k"] == text


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "0xffffffffffffffffffff", "9" * 5000, "1e400"]
)
def test_numbers_that_are_too_large_are_refused(text: str) -> None:
    with pytest.raises(YamlError, match="too large") as refused:
        yaml12.read(f"a:\n  - {text}\n".encode())
    assert refused.value.place == Place(2, 5)


def test_nan_is_one() -> None:
    assert math.isnan(yaml12.read(b"k: .nan").value["k"])


def test_every_value_and_key_has_its_place() -> None:
    document = yaml12.read("a: {b: [1, x]}\nc:\n  - d: 'é'\n  - 2\n".encode())
    assert document.value == {"a": {"b": [1, "x"]}, "c": [{"d": "é"}, 2]}
    assert document.values["a", "b", 1] == Place(1, 12)
    assert document.keys["a", "b"] == Place(1, 5)
    assert document.keys["c", 0, "d"] == Place(3, 5)
    assert document.values["c", 0, "d"] == Place(3, 8)
    assert document.values["c", 1] == Place(4, 5)


def test_aliases_are_copies() -> None:
    value = yaml12.read(b"a: &x [1, 2]\nb: *x\nc: *x\n").value
    assert value == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    assert value["a"] is not value["b"]


@given(VALUES)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    text = dump({"value": value})
    again = yaml12.read(text.encode()).value["value"]
    assert repr(again) == repr(value)  # 1 is not 1.0, nor true


@given(st.text() | st.text("[]{}:,-?&*!|>'\"%@` \n\t#ab1.<=", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):
        yaml12.read(text.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(YamlError):
        yaml12.read(data)
