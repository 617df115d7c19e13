"""Colours that everyone can tell apart, text that stays text, numbers that stay small."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from app.charts import style
from app.charts.axes import as_text
from app.words import words

BACKGROUNDS = ("#ffffff", "#0e1117", "#171614")  # Streamlit's light and dark ones, old and new

# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(color: str) -> np.ndarray:
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """As WCAG 2 defines it."""
    high, low = sorted((linear(c) @ (0.2126, 0.7152, 0.0722) for c in (a, b)), reverse=True)
    return float((high + 0.05) / (low + 0.05))


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson (2020)."""
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    mixed = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return mixed @ np.cbrt(cones @ np.clip(rgb, 0, 1))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_colours_contrast_with_either_background(background: str) -> None:
    drawn = {*style.PALETTE, style.GREY, *(color for color, _ in style.STATES.values())}
    assert [c for c in drawn if contrast(c, background) < 3] == []


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_colour_blind_eyes(vision: str) -> None:
    seen = [oklab(VISION[vision] @ linear(color)) for color in style.PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.06


def test_56_runs_differ_in_colour_or_symbol_and_neighbours_in_both() -> None:
    looks = [style.look(i) for i in range(56)]
    assert len({(look.color, look.symbol) for look in looks}) == 56
    pairs = list(zip(looks, looks[1:], strict=False))
    assert all(a.color != b.color and a.symbol != b.symbol and a.dash != b.dash for a, b in pairs)


def test_states_differ_without_colour() -> None:
    symbols = [symbol for _, symbol in style.STATES.values()]
    assert len(set(symbols)) == len(symbols)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("cost in $", "cost in &#36;"),
        ("%{x}", "&#37;{x}"),
        ("50 %", "50 %"),
        (" many   spaces\nand lines ", "many spaces and lines"),
        ("\u202eabc\u200b\x07", "abc"),
        ("x" * 61, "x" * 59 + "…"),
        ("x" * 60, "x" * 60),
        (None, "None"),
        ("", ""),
    ],
)
def test_plain_text_has_no_meaning_to_plotly(text: object, shown: str) -> None:
    assert style.plain(text) == shown


def test_a_name_is_cut_before_it_is_escaped_so_that_no_entity_is_torn() -> None:
    assert style.plain("<" * 100) == "&lt;" * 59 + "…"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1234567, "0.1235"),
        (1e-5, "1e-05"),
        (32, "32"),
        (12_345, "12,345"),
        (True, "true"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        ("sgd", "sgd"),
        ([64, 64], "[64, 64]"),
    ],
)
def test_values_are_written_short(value: object, shown: str) -> None:
    assert style.compact(value) == shown


def test_the_same_choice_reads_the_same_as_int_and_as_float() -> None:
    assert as_text(32) == as_text(32.0) == as_text(np.float64(32)) == "32"
    assert as_text(True) == "true"


def test_floats_leave_out_what_cannot_be_drawn() -> None:
    values = style.floats([1, math.inf, -math.inf, math.nan, None, 1e300, "x", 2.5])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [1, *[math.nan] * 6, 2.5])
    missing = style.floats(pd.Series([1, pd.NA, 3], dtype="Int64"))
    np.testing.assert_array_equal(missing, [1, math.nan, 3])
    assert len(style.floats([])) == 0


def test_a_few_wild_values_do_not_decide_the_view() -> None:
    usual = np.linspace(0, 1, 100, dtype=np.float32)
    assert style.usual_range(usual) is None
    wild = np.append(usual, np.float32(1e6))
    low, high = style.usual_range(wild) or (math.nan, math.nan)
    assert low == 0
    assert 1 <= high < 1.5
    assert style.usual_range(np.full(50, 3, np.float32)) is None
    assert style.usual_range(wild[-5:]) is None  # too few to call one wild
    assert style.usual_range(np.full(50, np.nan, np.float32)) is None


@pytest.mark.parametrize(
    ("longest_s", "unit"),
    [(0, "s"), (179, "s"), (181, "min"), (4 * 3600, "h"), (4 * 86_400, "days")],
)
def test_time_has_a_unit_that_reads_well(longest_s: float, unit: str) -> None:
    seconds, key = style.duration_unit(longest_s)
    assert words("en")(key) == unit
    assert longest_s / seconds < 200


def test_a_long_title_is_wrapped_for_a_phone() -> None:
    fig = style.figure("a long title " * 20, "x", "y")
    rows = fig.layout.title.text.split("<br>")
    assert 2 <= len(rows) <= 4
    assert max(map(len, rows)) <= style.TITLE_WIDTH
    assert fig.layout.margin.t > style.figure("short", "x", "y").layout.margin.t


def test_captions_are_joined_without_gaps_in_chinese() -> None:
    assert style.said("One.", "", "Two.") == "One. Two."
    assert style.said("一。", "二。") == "一。二。"
