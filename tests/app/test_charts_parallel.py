"""Parallel coordinates: axes on [0, 1], and boxes that select trials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_tables import SEARCH, UP, trials
from hypothesis import given, settings
from hypothesis import strategies as st

from app.charts import parallel
from app.charts.axes import NOT_SET, Axis, parameter_axis
from app.words import words

W = words("en")
TRIALS = trials([0.1, 0.2, 0.3, 0.4, None], ["complete"] * 4 + ["failed"])
AXES = parallel.parallel_axes(TRIALS, SEARCH, UP)  # lr, optimizer, momentum, value


def box(x0: float, x1: float, y0: float, y1: float) -> dict[str, Any]:
    return {"xref": "x", "yref": "y", "x": [x0, x1], "y": [y0, y1]}


@pytest.mark.parametrize(
    ("spec", "values", "positions"),
    [
        ({"type": "float", "low": 0, "high": 4}, [0, 1, 4], [0, 0.25, 1]),
        ({"type": "float", "low": 0.01, "high": 1, "log": True}, [0.01, 0.1, 1], [0, 0.5, 1]),
        ({"type": "int", "low": 1, "high": 3}, [1, 2, 3], [0, 0.5, 1]),
        ({"type": "choice", "choices": [16, 32, 64]}, [64.0, 16.0, 32.0], [1, 0, 0.5]),
        ({"type": "choice", "choices": [None, True, "a"]}, ["a", True, "b"], [2 / 3, 1 / 3, 1]),
        ({"type": "choice", "choices": [[64], [64, 64]]}, ["[64, 64]", "[64]"], [1, 0]),
        ({"type": "float", "low": 1, "high": 1}, [1, 1], [0.5, 0.5]),
        ({}, [1, 3, 2], [0, 1, 0.5]),
        ({}, ["b", "a"], [1, 0]),
        (
            {"type": "float", "low": 0, "high": 1},
            [2.0, math.inf, math.nan],
            [1, math.nan, math.nan],
        ),
        ({"type": "float", "low": 0.1, "high": 1, "log": True}, [-1.0, 0.1], [math.nan, math.nan]),
    ],
)
def test_axes_put_values_on_the_unit_interval(
    spec: dict[str, Any], values: list[Any], positions: list[float]
) -> None:
    column = pd.Series(values)
    found = parameter_axis("p", {"p": spec}, column).positions(column)
    if spec.get("log") and min(values) < 0:  # then the axis is linear, and nothing is lost
        positions = [0, 1.1 / 2]
    np.testing.assert_allclose(found, positions)


@pytest.mark.parametrize(
    "axis",
    [
        Axis("p", "linear", 0, 1),
        Axis("p", "linear", -3, 1e9),
        Axis("p", "linear", 5, 5),
        Axis("p", "linear", 1e-12, 2e-12),
        Axis("p", "log", 1e-6, 1e-2),
        Axis("p", "log", 0.3, 0.4),
        Axis("p", "log", 1e-300, 1e300),
        Axis("p", "choice", choices=("a",)),
        Axis("p", "choice", choices=tuple(map(str, range(100)))),
    ],
)
def test_ticks_lie_on_the_axis_and_are_few(axis: Axis) -> None:
    places, texts = axis.ticks()
    assert 1 <= len(places) == len(texts) <= 12
    assert all(-0.01 <= place <= 1.01 for place in places)
    assert places == sorted(places)


def test_no_box_chooses_every_trial_that_has_a_value() -> None:
    assert parallel.brushed([], TRIALS, AXES) == [0, 1, 2, 3]


def test_a_box_constrains_the_axis_within_it_whichever_way_it_was_drawn() -> None:
    assert parallel.brushed([box(2.9, 3.1, 0.5, 1.1)], TRIALS, AXES) == [2, 3]
    assert parallel.brushed([box(3.1, 2.9, 1.1, 0.5)], TRIALS, AXES) == [2, 3]


def test_a_box_between_axes_constrains_nothing() -> None:
    assert parallel.brushed([box(0.2, 0.8, 0, 0.1)], TRIALS, AXES) == [0, 1, 2, 3]


def test_boxes_on_one_axis_add_and_between_axes_intersect() -> None:
    low, high = box(2.9, 3.1, -0.1, 0.1), box(2.9, 3.1, 0.9, 1.1)
    sgd = box(0.9, 1.1, -0.1, 0.1)
    assert parallel.brushed([low, high], TRIALS, AXES) == [0, 3]
    assert parallel.brushed([low, high, sgd], TRIALS, AXES) == [3]


def test_a_wide_box_constrains_every_axis_within_it() -> None:
    assert parallel.brushed([box(0.5, 3.5, 0.4, 1.0)], TRIALS, AXES) == []
    assert parallel.brushed([box(-0.5, 0.5, 0.9, 1.1)], TRIALS, AXES) == [0]


def test_what_was_not_set_can_be_chosen() -> None:
    chosen = parallel.brushed([box(1.9, 2.1, NOT_SET - 0.05, NOT_SET + 0.05)], TRIALS, AXES)
    assert chosen == [0, 2]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.data())
@settings(max_examples=15, deadline=None)
def test_a_box_around_a_point_chooses_its_trial(values: list[float], data: Any) -> None:
    table = trials(list(values))
    axes = parallel.parallel_axes(table, SEARCH, UP)
    fig = parallel.parallel(table, axes, UP, W).figure
    markers = fig.data[-1]
    place = data.draw(st.integers(0, len(markers.x) - 1))
    x, y = float(markers.x[place]), float(markers.y[place])
    chosen = parallel.brushed([box(x - 0.1, x + 0.1, y - 1e-4, y + 1e-4)], table, axes)
    assert int(markers.customdata[place]) in chosen


def test_lines_go_through_the_positions_of_each_trial_in_ranked_classes() -> None:
    table = trials([float(i) for i in range(20)])
    axes = parallel.parallel_axes(table, SEARCH, UP)
    fig = parallel.parallel(table, axes, UP, W).figure
    *classes, _ = fig.data
    assert sum(int(np.isnan(trace.x).sum()) for trace in classes) == 20  # a gap after each line
    best = classes[-1]
    assert best.name == "best 10 %: 18 … 19"
    np.testing.assert_allclose(best.y[3], 18 / 19, rtol=1e-6)
    assert classes[0].name == "worst 25 %: 0 … 4"
    down = [{"metric": "m", "goal": "minimize"}]
    assert parallel.parallel(table, axes, down, W).figure.data[-2].name == "best 10 %: 0 … 1"


def test_equal_values_are_one_class() -> None:
    table = trials([1.0] * 10)
    axes = parallel.parallel_axes(table, SEARCH, UP)
    assert len(parallel.parallel(table, axes, UP, W).figure.data) == 2


def test_trials_without_a_value_are_left_out_and_counted() -> None:
    chart = parallel.parallel(TRIALS, AXES, UP, W)
    assert 4 not in chart.figure.data[-1].customdata
    assert "Left out: 1" in chart.caption


def test_no_more_axes_than_can_be_told_apart() -> None:
    table = trials([1.0, 2.0]).assign(**{f"params.p{i}": [i, i + 1] for i in range(20)})
    assert len(parallel.parallel_axes(table, {}, UP)) == parallel.MOST_AXES + 1
    chosen = parallel.parallel_axes(table, {}, UP, ["p3", "no such", "p1"])
    assert [axis.path for axis in chosen] == ["p3", "p1", "val/accuracy"]


def test_a_value_far_off_does_not_flatten_the_others() -> None:
    values = [*np.linspace(0.1, 0.4, 20), 1e5]
    table = trials(values)
    axes = parallel.parallel_axes(table, SEARCH, UP)
    assert axes[-1].high < 1
    chart = parallel.parallel(table, axes, UP, words("en"))
    assert "at the end of their axis: 1." in chart.caption
    assert parallel.brushed([box(2.9, 3.1, 0.99, 1.1)], table, axes) == [20]
