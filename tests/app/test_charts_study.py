"""The charts of a study: what is drawn is what the tables say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_tables import DOWN, SEARCH, UP, epochs, spans, trials

from app.charts import endings, fronts, learning, parameters, progress, workers
from app.words import words

W = words("en")
STATES = ["complete", "pruned", "failed", "complete", "running", "complete"]


def named(fig: Any, name: str) -> Any:
    (trace,) = [trace for trace in fig.data if trace.name == name]
    return trace


# -- progress


def test_history_draws_each_trial_once_by_state() -> None:
    table = trials([0.5, 0.2, None, 0.7, 0.3, 0.6], STATES)
    fig = progress.history(table, UP, W).figure
    complete = named(fig, "complete")
    np.testing.assert_array_equal(complete.x, [0, 3, 5])
    np.testing.assert_allclose(complete.y, [0.5, 0.7, 0.6])
    np.testing.assert_array_equal(complete.customdata, [0, 3, 5])
    np.testing.assert_array_equal(named(fig, "pruned").customdata, [1])
    np.testing.assert_array_equal(named(fig, "running").customdata, [4])
    failed = named(fig, "no value")
    np.testing.assert_array_equal(failed.customdata, [2])
    assert failed.text == ("out of memory: 12 MB",)


@pytest.mark.parametrize(("objective", "best"), [(UP, [1, 1, 3]), (DOWN, [1, 1, 1])])
def test_best_so_far_is_of_complete_trials_only(
    objective: list[dict[str, str]], best: list[float]
) -> None:
    table = trials([1, 9 if objective is UP else -9, 3], ["complete", "pruned", "complete"])
    np.testing.assert_array_equal(progress.history_table(table, objective)["best_so_far"], best)


def test_history_over_time_follows_the_ends_and_over_trials_the_numbers() -> None:
    table = trials([1, 2, 3])
    table.loc[0, "ended"] += pd.Timedelta(1, "h")  # the first to begin ends last
    by_time = progress.history_table(table, UP, "time")
    assert list(by_time["number"]) == [1, 2, 0]
    assert list(by_time["best_so_far"]) == [2, 3, 3]
    assert list(progress.history_table(table, UP, "trial")["best_so_far"]) == [1, 2, 3]
    fig = progress.history(table, UP, W, "time").figure
    assert "(min)" in fig.layout.xaxis.title.text
    np.testing.assert_allclose(named(fig, "complete").x[-1], (3600 + 30) / 60)


def test_history_of_one_trial_and_of_equal_values() -> None:
    np.testing.assert_array_equal(
        named(progress.history(trials([2]), UP, W).figure, "complete").y, [2]
    )
    same = progress.history(trials([2] * 20), UP, W)
    assert same.caption == ""


def test_a_log_axis_says_what_it_hides() -> None:
    chart = progress.history(trials([0, -1, 0.1, 10]), UP, W, log=True)
    assert chart.figure.layout.yaxis.type == "log"
    assert "2 values" in chart.caption
    assert len(named(chart.figure, "complete").y) == 2
    assert len(chart.table) == 4


def test_history_of_infinite_and_missing_values_draws_the_rest() -> None:
    chart = progress.history(trials([math.inf, math.nan, 1]), UP, W)
    np.testing.assert_array_equal(named(chart.figure, "complete").customdata, [2])
    np.testing.assert_array_equal(named(chart.figure, "no value").customdata, [0, 1])


def test_a_diverged_trial_does_not_flatten_the_others() -> None:
    values = [*np.linspace(0.1, 0.2, 40), 1e9]
    chart = progress.history(trials(values), DOWN, W)
    assert chart.figure.layout.yaxis.range[1] < 1
    assert "Points far outside: 1;" in chart.caption


def test_each_objective_has_its_history() -> None:
    table = trials([1, 2]).assign(**{"value.a": [1.0, 2.0], "value.b": [5.0, 4.0]})
    objective = [{"metric": "a", "goal": "maximize"}, {"metric": "b", "goal": "minimize"}]
    found = progress.history_table(table, objective, index=1)
    assert list(found["value"]) == [5, 4]
    assert list(found["best_so_far"]) == [5, 4]


# -- learning


def test_bands_are_the_quantiles_over_the_trials_that_got_so_far() -> None:
    table = epochs(30)
    table = table[(table["trial"] < 10) | (table["epoch"] <= 5)]
    found = learning.bands_table(table, "val/accuracy").set_index("epoch")
    assert found.loc[5, "trials"] == 30
    assert found.loc[6, "trials"] == 10
    for epoch in (1, 6):
        values = table.loc[table["epoch"] == epoch, "val/accuracy"]
        expected = np.quantile(values, [0.1, 0.25, 0.5, 0.75, 0.9])
        names = ["p10", "p25", "median", "p75", "p90"]
        np.testing.assert_allclose(found.loc[epoch, names].astype(float), expected)


def test_the_best_trials_have_curves_of_their_own() -> None:
    table = epochs(8)
    chart = learning.learning_bands(table, trials([*range(8)]), UP, "val/accuracy", W, best=2)
    for trial in (7, 6):
        mine = table[table["trial"] == trial]
        trace = named(chart.figure, f"trial {trial}")
        np.testing.assert_allclose(trace.y, mine["val/accuracy"], rtol=1e-6)
        assert set(trace.customdata) == {trial}
    lowest = learning.learning_bands(table, trials([*range(8)]), DOWN, "val/accuracy", W, best=1)
    assert named(lowest.figure, "trial 0")


def test_at_most_200_other_curves_are_drawn_evenly_and_said_so() -> None:
    table = epochs(600, 3)
    chart = learning.learning_bands(table, trials([*range(600)]), UP, "val/accuracy", W, best=5)
    faint = chart.figure.data[0]
    shown = set(faint.customdata)
    assert len(shown) == 200
    assert {0, 594} <= shown  # the worst, and the best of the rest
    assert "200 of 595" in chart.caption
    ends = chart.figure.data[1]
    assert len(ends.x) == 200
    assert set(ends.customdata) == shown


def test_bands_leave_out_what_is_not_a_number() -> None:
    table = epochs(3)
    table.loc[table["trial"] == 0, "val/accuracy"] = math.inf
    table.loc[3, "val/accuracy"] = math.nan
    found = learning.bands_table(table, "val/accuracy")
    assert set(found["trials"]) == {2}
    assert np.isfinite(found.to_numpy(float)).all()


@pytest.mark.parametrize("count", [1, 3, 5, 6])
def test_a_study_of_few_trials_has_only_best_curves(count: int) -> None:
    chart = learning.learning_bands(epochs(count), trials([1.0] * count), UP, "val/accuracy", W)
    best = [trace for trace in chart.figure.data if trace.name.startswith("trial ")]
    assert len(best) == min(count, 5)


def test_a_trial_that_a_log_axis_cannot_show_is_left_out() -> None:
    table = epochs(9)
    table.loc[table["trial"] < 8, "val/loss"] = 0.0
    chart = learning.learning_bands(table, trials([1.0] * 9), UP, "val/loss", W, log=True)
    assert "80 values" in chart.caption


def test_bands_on_a_log_axis_say_what_they_hide() -> None:
    table = epochs(3)
    table.loc[0, "val/loss"] = -1.0
    chart = learning.learning_bands(table, trials([1, 2, 3]), UP, "val/loss", W, log=True)
    assert "1 values" in chart.caption
    for trace in chart.figure.data:
        assert not (np.asarray(trace.y, float) <= 0).any()


# -- parameters


def test_slices_draw_every_finished_trial_against_every_parameter() -> None:
    table = trials([0.1, 0.2, 0.3, None], ["complete", "complete", "pruned", "failed"])
    fig = parameters.slices(table, SEARCH, UP, W).figure
    lr, pruned = fig.data[:2]
    np.testing.assert_allclose(lr.x, [1, 2 / 3], atol=1e-6)  # log: 0.1, 0.01 of [1e-4, 0.1]
    np.testing.assert_allclose(lr.y, [0.1, 0.2])
    np.testing.assert_array_equal(pruned.customdata, [2])
    assert lr.text == ("0.1", "0.01")


def test_a_parameter_that_was_not_set_stands_apart_and_says_so() -> None:
    fig = parameters.slices(trials([1.0, 2.0]), SEARCH, UP, W, ["train.momentum"]).figure
    assert fig.data[0].text[0] == "not set"
    assert fig.data[0].x[0] < 0
    assert fig.layout.xaxis.ticktext[0] == "not set"


def test_contour_shows_a_trend_where_trials_are_and_nothing_elsewhere() -> None:
    side = np.linspace(0, 0.5, 12)
    x, y = (part.ravel() for part in np.meshgrid(side, side))
    table = trials([float(v) for v in x]).assign(**{"params.a": x, "params.b": y})
    search = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "ab"}
    surface = parameters.contour(table, search, UP, W, "a", "b").figure.data[0]
    z = np.asarray(surface.z)
    inside = np.asarray(surface.x) <= 0.5
    assert np.isfinite(z[np.ix_(inside, inside)]).all()
    assert np.isnan(z[-1, -1])
    row = z[3][inside]
    assert (np.diff(row) > 0).all()
    assert row[0] < 0.15
    assert row[-1] > 0.35


def test_contour_looks_at_pruned_trials_only_where_few_are_complete() -> None:
    search = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in "ab"}
    random = np.random.default_rng(0)
    for complete, drawn, caption in ((12, 12, "contour.caption"), (8, 20, "contour.with_pruned")):
        states = ["complete"] * complete + ["pruned"] * (20 - complete)
        table = trials([1.0] * 20, states).assign(
            **{"params.a": random.random(20), "params.b": random.random(20)}
        )
        chart = parameters.contour(table, search, UP, W, "a", "b")
        assert len(chart.figure.data[-1].x) == drawn
        assert chart.caption == W(caption)


def test_contour_of_choices_does_not_mix_them() -> None:
    x = np.tile(np.linspace(0, 1, 10), 2)
    kind = np.repeat(["a", "b"], 10)
    table = trials([1.0] * 10 + [5.0] * 10).assign(**{"params.x": x, "params.kind": kind})
    search = {"x": {"type": "float", "low": 0, "high": 1}, "kind": {"choices": ["a", "b", "c"]}}
    surface = parameters.contour(table, search, UP, W, "x", "kind").figure.data[0]
    np.testing.assert_allclose(surface.z[0], 1)
    np.testing.assert_allclose(surface.z[1], 5)
    assert np.isnan(surface.z[2]).all()


@pytest.mark.parametrize("values", [[1.0], [1.0] * 4, [0.1 * i for i in range(5)]])
def test_contour_of_too_few_trials_says_so(values: list[float]) -> None:
    chart = parameters.contour(trials(values), SEARCH, UP, W, "train.lr", "train.optimizer")
    assert chart.caption == W("contour.too_few")
    assert [trace.type for trace in chart.figure.data] == ["scatter"]


def test_importances_stand_in_order_with_their_caution() -> None:
    table = pd.DataFrame({"param": ["a", "b", "c"], "importance": [0.1, 0.7, 0.2]})
    chart = parameters.importances(table, W, "Only nine trials.")
    (bars,) = chart.figure.data
    np.testing.assert_allclose(bars.x, [0.1, 0.2, 0.7])
    assert chart.figure.layout.yaxis.ticktext == ("a", "c", "b")
    assert chart.caption == "Only nine trials."


# -- endings


def test_rungs_count_what_went_on_and_what_did_not() -> None:
    table = trials([1.0] * 6, ["pruned", "pruned", "failed", "pruned", "complete", "running"])
    table["last_epoch"] = pd.array([1, 1, 1, 3, 9, 2], dtype="Int64")
    found = endings.rungs_table(table)
    assert found.to_dict("records") == [
        {"epoch": 1, "reached": 6, "pruned": 2, "ended": 1, "went_on": 3},
        {"epoch": 3, "reached": 2, "pruned": 1, "ended": 0, "went_on": 1},
    ]
    fig = endings.rungs(table, W).figure
    np.testing.assert_array_equal(named(fig, "pruned here").y, [2, 1])


def test_failures_that_differ_in_numbers_only_are_one_cause() -> None:
    table = trials([None] * 4, ["failed"] * 4)
    table["reason"] = [
        "out of memory: 2.10 GiB at 0x7f3a",
        "out of memory: 4 GiB at 0x11\nTraceback: …",
        "loss is NaN",
        "",
    ]
    found = endings.failures_table(table)
    assert list(found["trials"]) == [2, 1, 1]
    assert list(found["cause"]) == ["out of memory: … GiB at …", "loss is NaN", "–"]
    assert found["numbers"][0] == "0, 1"
    assert list(endings.failures(table, W).figure.data[0].customdata) == [3, 2, 0]


def test_rare_causes_are_left_to_the_table() -> None:
    table = trials([None] * 20, ["failed"] * 20)
    table["reason"] = [f"cause {'abcdefghijklmnopqrst'[i]}" for i in range(20)]
    chart = endings.failures(table, W)
    assert len(chart.figure.data[0].x) == 12
    assert "Rarer causes, in the CSV: 8" in chart.caption
    assert len(chart.table) == 20


# -- fronts


@pytest.mark.parametrize("goals", [["minimize"] * 2, ["maximize", "minimize"], ["maximize"] * 3])
def test_the_front_has_exactly_what_no_other_beats(goals: list[str]) -> None:
    random = np.random.default_rng(0)
    values = random.integers(0, 6, (60, len(goals))).astype(float)
    signs = np.array([-1 if goal == "maximize" else 1 for goal in goals])
    costs = values * signs
    beaten = [
        any(all(o <= c) and any(o < c) for o, c in [(other, cost) for other in costs])
        for cost in costs
    ]
    found = fronts.on_front(values, [goal == "maximize" for goal in goals])
    np.testing.assert_array_equal(found, ~np.array(beaten))


def test_pareto_draws_complete_trials_and_says_how_many_are_on_the_front() -> None:
    table = trials([0.0] * 4, ["complete", "complete", "complete", "failed"])
    table = table.assign(**{"value.a": [1, 2, 3, 0], "value.b": [3.0, 3.0, 1.0, 0.0]})
    objective = [{"metric": name, "goal": "minimize"} for name in "ab"]
    chart = fronts.pareto(table, objective, W)
    np.testing.assert_array_equal(named(chart.figure, "Pareto front").customdata, [0, 2])
    np.testing.assert_array_equal(
        named(chart.figure, "dominated by another trial").customdata, [1]
    )
    assert "2 of 3" in chart.caption


def test_a_value_far_off_does_not_flatten_the_front() -> None:
    table = trials([0.0] * 30)
    usual = np.linspace(1, 2, 30)
    table = table.assign(**{"value.a": usual, "value.b": 3 - usual})
    table.loc[3, ["value.a", "value.b"]] = 1e6  # dominated
    table.loc[4, "value.b"] = 0.5  # the best
    objective = [{"metric": name, "goal": "minimize"} for name in "ab"]
    chart = fronts.pareto(table, objective, W)
    low, high = chart.figure.layout.yaxis.range
    assert low < 0.5
    assert high < 3
    assert "Points far outside: 1;" in chart.caption


def test_three_objectives_are_shown_in_pairs() -> None:
    table = trials([0.0] * 3).assign(**{f"value.{n}": [1.0, 2.0, 3.0] for n in "abc"})
    fig = fronts.pareto(table, [{"metric": n, "goal": "minimize"} for n in "abc"], W).figure
    assert {trace.xaxis for trace in fig.data} == {"x", "x2", "x3"}


# -- workers


def test_a_trial_that_is_not_over_ends_where_it_was_last_heard_of() -> None:
    """Its seconds do not tell: in lanes they are its share of the time."""
    table = trials([1, 2], ["complete", "running"])
    table.loc[1, "ended"] = pd.NaT
    heard = epochs(2)
    heard["time_ms"] = (
        table["started"][0].value // 10**6 + 500_000 + 1_000 * heard["epoch"].astype("int64")
    )
    found = progress.history_table(table, UP, "time", epochs=heard)
    assert list(found["elapsed_s"]) == [30, 510]


def test_trials_trained_together_lie_beside_each_other_in_a_row_of_bounded_height() -> None:
    together = spans(300, 1)
    together["start_ms"] = together["start_ms"].iloc[0] + together["trial"] // 100 * 10_000
    together["end_ms"] = together["start_ms"] + 9_000.0
    table = workers.timeline_table(together, 0)
    assert set(table["lanes"]) == {100}
    chart = workers.timeline(together.query("trial % 100 < 64"), 0, W)
    first = table.query("trial < 64")
    assert sorted(first["lane"]) == list(range(64))
    assert chart.figure.layout.height < 500
    places = np.concatenate([trace.y for trace in chart.figure.data])
    thick = np.concatenate([trace.width for trace in chart.figure.data])
    assert len(np.unique(places)) == 64
    assert np.diff(np.unique(places)).min() >= thick.max() * 0.999  # none covers another
    assert "64 in all" in chart.figure.data[0].text[0]


def test_a_lane_is_taken_again_when_it_is_free() -> None:
    table = workers.timeline_table(
        pd.DataFrame(
            {
                "worker": pd.array([0, 0, 0], dtype="Int64"),
                "trial": [0, 1, 2],
                "attempt": 1,
                "state": "complete",
                "start_ms": [0, 0, 4_000],
                "end_ms": [9_000.0, 4_000.0, 9_000.0],
            }
        ),
        0,
    )
    assert list(table["lane"]) == [0, 1, 1]
    assert list(table["lanes"]) == [2, 2, 2]


def test_idle_share_is_what_no_span_covers() -> None:
    table = workers.timeline_table(spans(9), 1_760_000_030_000)
    idle = workers.idle_shares(table)  # 30 s in all; worker 2 is still at its last span
    np.testing.assert_allclose(idle[[0, 1]], [3 / 30, 3 / 30])
    np.testing.assert_allclose(idle[2], 2 / 30)


def test_overlapping_spans_count_once() -> None:
    both = spans(2, 1)
    both["start_ms"] = both["start_ms"].iloc[0]
    both["end_ms"] = both["start_ms"] + 10_000.0
    assert workers.idle_shares(workers.timeline_table(both, 0))[0] == 0


def test_timeline_has_a_row_for_each_worker_and_a_trace_for_each_state() -> None:
    chart = workers.timeline(spans(30), 1_760_000_100_000, W)
    assert len(chart.figure.layout.yaxis.ticktext) == 3
    assert chart.figure.layout.yaxis.ticktext[-1].startswith("worker 0 · idle ")
    assert {t.name for t in chart.figure.data} == {"complete", "pruned", "running"}
    assert sum(len(t.x) for t in chart.figure.data) == 30
    complete = named(chart.figure, "complete")
    np.testing.assert_allclose(complete.x, 9)
    assert list(complete.base[:2]) == [0, 10]


def test_the_shortest_of_too_many_spans_are_left_out_and_that_is_said() -> None:
    chart = workers.timeline(spans(4_000), 1_760_014_000_000, W)
    assert sum(len(t.x) for t in chart.figure.data) == workers.MOST_BARS
    assert "1000" in chart.caption
    assert len(chart.table) == 4_000
