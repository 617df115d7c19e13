"""The charts of runs: what is drawn is what the tables say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chart_tables import classified, epochs, regressed, runs, seeds

from app.charts import comparisons, confusion, curves, errors, lines, probabilities, thresholds
from app.charts.lines import Line
from app.words import words
from hpo.results import differences, evaluation, ranking
from hpo.results.intervals import Estimate

W = words("en")


def named(fig: Any, name: str) -> Any:
    (trace,) = [t for t in fig.data if t.name == name and t.showlegend is not False]
    return trace


def parted(trace: Any) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The lines in a trace of many, by the index of their run."""
    ends = np.flatnonzero(np.isnan(trace.x))
    starts = np.append(0, ends[:-1] + 1)
    return {
        int(trace.customdata[start][0]): (trace.x[start:end], trace.y[start:end])
        for start, end in zip(starts, ends, strict=True)
    }


# -- lines


def test_thinning_keeps_the_ends_and_the_peaks() -> None:
    x = np.arange(50_000, dtype=np.float32)
    y = np.random.default_rng(0).normal(size=len(x)).astype(np.float32)
    y[20_001], y[33_333] = 50, -50
    thin_x, thin_y = lines.thinned(x, y, 500)
    assert len(thin_x) <= 502
    assert {0, 20_001, 33_333, 49_999} <= set(thin_x.astype(int))
    assert (thin_y.min(), thin_y.max()) == (-50, 50)
    np.testing.assert_array_equal(y[thin_x.astype(int)], thin_y)  # points that were there


def test_a_short_line_is_left_as_it_is() -> None:
    x = np.array([1, 2, 3], np.float32)
    y = np.array([1, np.nan, 3], np.float32)
    thin_x, thin_y = lines.thinned(x, y, 3)
    np.testing.assert_array_equal(thin_x, x)
    np.testing.assert_array_equal(thin_y, y)


@pytest.mark.parametrize("weight", [0.3, 0.9, 0.99])
def test_smoothing_is_an_average_of_the_past_without_bias_to_the_start(weight: float) -> None:
    values = np.random.default_rng(0).normal(5, 1, 40)
    running, total, expected = 0.0, 0.0, []
    for value in values:
        running = weight * running + (1 - weight) * value
        total = weight * total + (1 - weight)
        expected.append(running / total)
    found = lines.smoothed(pd.DataFrame({"a": values}), weight)["a"]
    np.testing.assert_allclose(found, expected)
    assert found[0] == pytest.approx(values[0])


def test_smoothing_leaves_gaps_and_constants_alone() -> None:
    table = pd.DataFrame({"a": [1.0, math.nan, 1.0, 1.0], "b": [2.0, 4.0, math.nan, math.nan]})
    found = lines.smoothed(table, 0.5)
    np.testing.assert_allclose(found["a"], [1, math.nan, 1, 1])
    assert found["b"].isna().tolist() == [False, False, True, True]
    assert lines.smoothed(table, 0) is table


def test_a_long_name_keeps_its_number() -> None:
    assert lines.tail("s" * 80 + "/1234").endswith("/1234")
    assert len(lines.tail("s" * 80 + "/1234")) == 24
    assert lines.tail("short/1") == "short/1"


def test_points_of_a_log_axis_that_are_not_positive_are_counted() -> None:
    shown, hidden = lines.above_zero(np.array([-1, 0, math.nan, 2], np.float32))
    assert hidden == 2
    np.testing.assert_array_equal(shown, [math.nan] * 3 + [2])


# -- curves


def test_overlay_draws_validation_solid_and_training_dashed() -> None:
    table = runs(2)
    fig = curves.overlay(table, "accuracy", W).figure
    for index in range(2):
        mine = table[table["trial"] == index]
        pair = [t for t in fig.data if t.legendgroup == str(index)]
        dashed, solid = sorted(pair, key=lambda trace: trace.line.dash != "dash")
        np.testing.assert_allclose(dashed.y, mine["train/accuracy"], rtol=1e-6)
        np.testing.assert_allclose(solid.y, mine["val/accuracy"], rtol=1e-6)
        np.testing.assert_array_equal(solid.x, mine["epoch"])
        assert solid.line.dash == "solid"
        assert (dashed.showlegend, solid.name) == (False, f"study/{index}")
        assert set(solid.customdata) == {index}
    assert named(fig, "training").line.dash == "dash"
    assert named(fig, "validation").line.dash == "solid"


def test_runs_keep_their_looks_when_some_have_nothing_to_show() -> None:
    order = ["gone/1", "study/0", "study/1"]
    fig = curves.overlay(runs(2), "accuracy", W, runs=order).figure
    assert {t.customdata[0] for t in fig.data if t.customdata is not None} == {1, 2}


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ("epoch", np.arange(1, 11)),
        ("time", 1.5 * np.arange(1, 11)),
        ("samples", 1000 * np.arange(1, 11)),
    ],
)
def test_overlay_over_epochs_time_and_samples(over: curves.Over, expected: np.ndarray) -> None:
    fig = curves.overlay(runs(1), "accuracy", W, over).figure
    np.testing.assert_allclose(named(fig, "study/0").x, expected)


def test_overlay_over_samples_that_are_unknown_says_so() -> None:
    table = runs(1).drop(columns="samples")
    assert not curves.overlay(table, "accuracy", W, "samples").figure.data


@pytest.mark.parametrize("count", [13, 100, 200])
def test_many_runs_share_few_traces_and_lose_nothing(count: int) -> None:
    table = runs(count)
    chart = curves.overlay(table, "accuracy", W)
    drawn = [t for t in chart.figure.data if t.mode == "lines" and t.customdata is not None]
    assert len(drawn) <= 5
    solid = {i: xy for t in drawn if t.line.dash is None for i, xy in parted(t).items()}
    assert set(solid) == set(range(count))
    for index in (0, count - 1):
        mine = table[table["trial"] == index]
        np.testing.assert_allclose(solid[index][1], mine["val/accuracy"], rtol=1e-6)
    assert all("<b>study/%{customdata[1]}</b>" in trace.hovertemplate for trace in drawn)
    numbers = {int(number) for trace in drawn for number in trace.customdata[:, 1]}
    assert numbers == set(range(count))
    assert "hovering names them" in chart.caption


def test_of_many_runs_one_of_a_single_epoch_is_a_marker() -> None:
    table = runs(20)
    table = table[(table["trial"] != 7) | (table["epoch"] == 1)]
    fig = curves.overlay(table, "accuracy", W).figure
    (dots,) = [trace for trace in fig.data if trace.mode == "markers"]
    assert list(dots.customdata) == [7]
    np.testing.assert_array_equal(dots.x, 1)


def test_few_smoothed_runs_show_the_raw_curves_behind() -> None:
    table = runs(2)
    chart = curves.overlay(table, "accuracy", W, smoothing=0.9)
    raw = [trace for trace in chart.figure.data if trace.opacity == 0.3]
    assert len(raw) == 2
    np.testing.assert_allclose(raw[0].y, table["val/accuracy"][:10], rtol=1e-6)
    smooth = named(chart.figure, "study/0")
    expected = lines.smoothed(table[["val/accuracy"]][:10], 0.9)["val/accuracy"]
    np.testing.assert_allclose(smooth.y, expected, rtol=1e-6)
    assert "smoothed 0.9" in chart.figure.layout.title.text
    assert {"val", "val.smoothed", "train", "train.smoothed"} <= set(chart.table)


def test_overlay_on_log_axes_says_what_it_hides() -> None:
    table = runs(2)
    table.loc[0, "val/accuracy"] = -0.5
    table["train/accuracy"] = 1.0
    chart = curves.overlay(table, "accuracy", W, log_x=True, log_y=True)
    assert "1 values" in chart.caption
    assert (chart.figure.layout.xaxis.type, chart.figure.layout.yaxis.type) == ("log", "log")


def test_one_diverged_run_does_not_flatten_the_others() -> None:
    table = runs(12)
    table.loc[table["trial"] == 0, "val/loss"] *= 1e6
    chart = curves.overlay(table, "loss", W)
    assert 1 < chart.figure.layout.yaxis.range[1] < 10
    assert "far outside" in chart.caption


def test_a_steep_start_that_all_runs_share_stays_in_view() -> None:
    table = runs(12, 100)
    table["val/loss"] = np.where(table["epoch"] == 1, 100.0, 0.1 + table["trial"] / 1000)
    chart = curves.overlay(table, "loss", W)
    assert chart.figure.layout.yaxis.range is None
    assert chart.caption == ""


def test_a_metric_without_splits_is_drawn_too() -> None:
    table = runs(1).rename(columns={"val/accuracy": "score"}).drop(columns="train/accuracy")
    np.testing.assert_allclose(
        named(curves.overlay(table, "score", W).figure, "study/0").y, table["score"], rtol=1e-6
    )
    assert curves.metric_names(list(map(str, table))) == ["score", "loss"]


def test_long_curves_are_thinned_in_the_picture_but_not_in_the_table() -> None:
    chart = curves.overlay(runs(2, 20_000), "accuracy", W)
    assert all(len(t.x) <= 1_002 for t in chart.figure.data)
    assert len(chart.table) == 40_000


def test_one_run_shows_all_its_metrics_with_the_best_epoch() -> None:
    table = epochs(1)
    chart = curves.run_curves(table, W, best_epoch=7)
    headings = [a.text for a in chart.figure.layout.annotations]
    assert headings == ["accuracy", "loss"]
    assert [shape.x0 for shape in chart.figure.layout.shapes] == [7, 7]
    accuracy = [t for t in chart.figure.data if t.xaxis == "x" and t.name == "validation"]
    np.testing.assert_allclose(accuracy[0].y, table["val/accuracy"], rtol=1e-6)
    shown = [t.name for t in chart.figure.data if t.showlegend]
    assert sorted(shown) == ["training", "validation"]


def test_one_epoch_is_a_point() -> None:
    fig = curves.run_curves(epochs(1, 1), W).figure
    assert {trace.mode for trace in fig.data} == {"markers"}


def test_resources_have_their_units() -> None:
    fig = curves.resources(epochs(1), W).figure
    assert [a.text for a in fig.layout.annotations] == ["memory_mb (MB)", "cpu_percent (%)"]
    np.testing.assert_allclose(fig.data[0].y, 500 + np.arange(1, 11))
    np.testing.assert_allclose(fig.data[0].x, 1.5 * np.arange(1, 11))


# -- thresholds


def test_roc_draws_each_curve_with_its_area_and_the_chance_line() -> None:
    predicted = {f"s/{i}": classified(seed=i) for i in range(2)}
    tables = {run: ranking.roc(p, 1) for run, p in predicted.items()}
    areas = {"s/0": Estimate(0.91234, 0.85, 0.95), "s/1": Estimate(0.8)}
    chart = thresholds.roc(tables, W, "cat", areas)
    first = named(chart.figure, "s/0 · AUC 0.912 (0.850–0.950)")
    np.testing.assert_allclose(first.x, tables["s/0"]["fpr"], rtol=1e-6)
    np.testing.assert_allclose(first.y, tables["s/0"]["tpr"], rtol=1e-6)
    assert named(chart.figure, "s/1 · AUC 0.800")
    assert list(named(chart.figure, "chance").y) == [0, 1]
    assert "cat" in chart.figure.layout.title.text
    assert list(chart.table)[0] == "run"
    assert len(chart.table) == sum(map(len, tables.values()))


def test_bands_are_drawn_of_at_most_four_runs() -> None:
    table = ranking.roc(classified(), 1)
    band = table.assign(low=table["tpr"] - 0.1, high=table["tpr"] + 0.1)
    for count, drawn in ((4, 4), (5, 0)):
        names = [f"s/{i}" for i in range(count)]
        fig = thresholds.roc(
            dict.fromkeys(names, table), W, bands=dict.fromkeys(names, band)
        ).figure
        assert len([t for t in fig.data if t.fill == "toself"]) == drawn


def test_operating_points_lie_where_they_were_measured() -> None:
    predicted = {f"s/{i}": classified(seed=i) for i in range(2)}
    points = evaluation.operating_points(predicted, 1, 0.5)
    (marks,) = thresholds.points(points, list(predicted), "fpr", "tpr", W)
    np.testing.assert_allclose(marks["x"], points["fpr"], rtol=1e-6)
    np.testing.assert_allclose(marks["y"], points["tpr"], rtol=1e-6)
    assert list(marks["customdata"]) == [0, 1]
    assert thresholds.points(points, ["s/2"], "fpr", "tpr", W) == []


def test_precision_falls_as_steps_towards_chance() -> None:
    falls = {f"s/{i}": ranking.precision_recall(classified(seed=i), 1) for i in range(2)}
    fig = thresholds.precision_recall(falls, W, chance=0.25).figure
    assert list(named(fig, "chance").y) == [0.25, 0.25]
    assert named(fig, "s/0").line.shape == "vh"


# -- probabilities


def test_calibration_draws_the_bins_with_their_counts() -> None:
    bins = evaluation.calibration(classified())
    fig = probabilities.calibration({"s/0": bins}, W).figure
    curve, counts = (t for t in fig.data if t.name == "s/0" or t.yaxis == "y2")
    np.testing.assert_allclose(curve.x, bins["confidence"], rtol=1e-6)
    np.testing.assert_allclose(curve.y, bins["accuracy"], rtol=1e-6)
    np.testing.assert_allclose(curve.y + curve.error_y.array, bins["high"], rtol=1e-6)
    np.testing.assert_array_equal(counts.y, bins["count"])
    np.testing.assert_array_equal(curve.customdata, bins["count"])


def test_histograms_are_shares_of_each_group_with_the_counts_on_hover() -> None:
    table = evaluation.score_histogram(classified(), 1)
    fig = probabilities.score_histograms({"s/0": table}, W, "cat", 0.3).figure
    assert len(fig.data) == 2
    for trace, column in zip(fig.data, ("negatives", "positives"), strict=True):
        assert trace.y.sum() == pytest.approx(100, rel=1e-5)
        np.testing.assert_array_equal(trace.customdata, table[column])
    assert fig.layout.shapes[0].x0 == 0.3


# -- confusion


def test_a_confusion_matrix_shows_counts_and_shares_of_the_truth() -> None:
    counts = np.array([[8, 2], [0, 0]])
    chart = confusion.confusions({"s/0": counts}, ["a", "b"], W)
    cells, written = chart.figure.data
    np.testing.assert_array_equal(cells.z, [[80, 20], [0, 0]])
    assert [list(row) for row in cells.text] == [["8", "2"], ["", ""]]
    assert list(zip(written.x, written.y, written.text, strict=True))[:2] == [
        (0, 0, "8"),
        (1, 0, "2"),
    ]
    assert chart.table["count"].tolist() == [8, 2, 0, 0]
    assert chart.table["said"].tolist() == ["a", "b", "a", "b"]
    assert chart.figure.layout.yaxis.autorange == "reversed"


def test_of_very_many_classes_the_most_confused_are_shown() -> None:
    counts = np.eye(100, dtype=np.int64) * 10
    counts[70, 90] = 5
    chart = confusion.confusions({"s/0": counts}, [f"c{i}" for i in range(100)], W)
    names = chart.figure.layout.xaxis.ticktext
    assert len(names) == 40
    assert {"c70", "c90"} <= set(names)
    assert "left out: 60" in chart.caption
    assert len(chart.table) == 10_000


def test_four_matrices_at_most_are_drawn_and_the_rest_said() -> None:
    counts = np.eye(2, dtype=np.int64)
    chart = confusion.confusions({f"s/{i}": counts for i in range(6)}, ["a", "b"], W)
    assert sum(trace.type == "heatmap" for trace in chart.figure.data) == 4
    assert "Further runs, not drawn: 2" in chart.caption


def test_a_difference_is_blue_where_the_first_is_better() -> None:
    a, b = np.array([[9, 1], [3, 7]]), np.array([[8, 2], [1, 9]])
    cells, _ = confusion.confusion_difference(("a", a), ("b", b), ["x", "y"], W).figure.data
    np.testing.assert_array_equal(np.sign(cells.z), [[1, 1], [-1, -1]])
    assert [list(row) for row in cells.text] == [["+1", "-1"], ["+2", "-2"]]
    assert cells.zmin == -cells.zmax


def test_class_metrics_stand_beside_each_other_with_intervals() -> None:
    tables = {f"s/{i}": evaluation.per_class(classified(seed=i)) for i in range(2)}
    fig = confusion.class_metrics(tables, "recall", W).figure
    first, second = fig.data
    np.testing.assert_allclose(first.x, tables["s/0"]["recall"], rtol=1e-6)
    np.testing.assert_allclose(
        first.x - first.error_x.arrayminus, tables["s/0"]["recall_low"], rtol=1e-5
    )
    assert (first.y > second.y).all()
    assert fig.layout.yaxis.ticktext[::-1] == ("class0", "class1", "class2")


# -- comparisons


@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_run_is_on_top(maximize: bool) -> None:
    table = pd.DataFrame({"run": ["a", "b", "c"], "value": [0.2, 0.9, 0.5]})
    table = table.assign(low=table["value"] - 0.1, high=[0.3, 1.0, math.nan])
    chart = comparisons.metric_intervals(table, "accuracy", maximize, W)
    (dots,) = chart.figure.data
    order = ["a", "c", "b"] if maximize else ["b", "c", "a"]
    assert list(chart.figure.layout.yaxis.ticktext) == order
    assert [table["run"][i] for i in dots.customdata] == order
    np.testing.assert_allclose(dots.x - dots.error_x.arrayminus, dots.x - 0.1, rtol=1e-6)


def test_200_runs_fit_a_page_without_names_beside_them() -> None:
    table = pd.DataFrame({"run": [f"s/{i}" for i in range(200)], "value": np.arange(200) / 200})
    chart = comparisons.metric_intervals(table.assign(low=0.0, high=1.0), "accuracy", True, W)
    assert chart.figure.layout.height < 2_000
    assert not chart.figure.layout.yaxis.ticktext
    assert "hovering names them" in chart.caption


def test_runs_without_the_metric_are_left_out_and_counted() -> None:
    table = pd.DataFrame({"run": ["a", "b"], "value": [math.nan, 0.5]}).assign(low=0.4, high=0.6)
    chart = comparisons.metric_intervals(table, "accuracy", True, W)
    assert list(chart.figure.data[0].customdata) == [1]
    assert "Left out: 1" in chart.caption


def test_the_spread_over_seeds_shows_each_run_and_the_mean() -> None:
    table = seeds("m")
    spread = differences.spread(table, "m")
    fig = comparisons.seed_spread(spread, table["m"], "m", W).figure
    each = named(fig, "run")
    assert sorted(np.round(each.x, 5)) == sorted(np.round(table["m"].astype(np.float32), 5))
    mean = named(fig, "mean with its 95 % interval")
    np.testing.assert_allclose(sorted(mean.x), sorted(spread["mean"]), rtol=1e-6)
    assert {text.split(" ")[0] for text in fig.layout.yaxis.ticktext} == {"lr=0.1", "lr=0.2"}


# -- errors


def test_predictions_lie_over_the_truth() -> None:
    table = evaluation.residuals(regressed())
    fig = errors.predicted_actual({"s/0": table}, W, "price").figure
    diagonal, points = fig.data
    np.testing.assert_allclose(points.x, table["target"], rtol=1e-6)
    np.testing.assert_allclose(points.y, table["output"], rtol=1e-6)
    np.testing.assert_array_equal(points.customdata, table["id"])
    assert list(diagonal.x) == list(diagonal.y)


def test_of_very_many_rows_some_are_drawn_evenly_and_that_is_said() -> None:
    table = evaluation.residuals(regressed(20_001))
    chart = errors.predicted_actual({"s/0": table}, W)
    assert len(chart.figure.data[1].x) <= 4_000
    assert "Rows left out evenly" in chart.caption
    assert len(chart.table) == 20_001


def test_every_residual_is_in_the_histogram() -> None:
    table = evaluation.residuals(regressed(500))
    table.loc[0, "residual"] = 1e9
    chart = errors.residual_histogram({"s/0": table}, W)
    assert chart.figure.data[0].y.sum() == 500
    assert chart.table["s/0"].sum() == 500
    assert chart.figure.data[0].x.max() < 1e3
    assert chart.caption == W("errors.tails")


def test_equal_residuals_have_a_histogram_too() -> None:
    table = evaluation.residuals(regressed(5)).assign(residual=0.0)
    assert errors.residual_histogram({"s/0": table}, W).figure.data[0].y.sum() == 5


def test_a_line_of_one_point_and_of_equal_values_is_drawn() -> None:
    one = np.ones(1, np.float32)
    (trace,) = lines.traces([Line("s/0", 0, one, one)], [], 1)
    assert len(trace["x"]) == 1
    many = [Line(f"s/{i}", i, one, one) for i in range(20)]
    assert lines.traces(many, [], 20)[-1]["mode"] == "markers"


def test_hovering_names_runs_of_several_studies_and_runs_that_are_named_otherwise() -> None:
    names = [f"{study}/{number}" for study in ("a/b", "c") for number in range(10)] + ["odd name"]
    table = pd.concat([runs(1).assign(run=name) for name in names], ignore_index=True)
    fig = curves.overlay(table, "accuracy", W, runs=names).figure
    shown = set()
    for trace in fig.data:
        if trace.mode == "lines" and trace.customdata is not None:
            name = trace.hovertemplate.partition("<b>")[2].partition("</b>")[0]
            for index, number in trace.customdata:
                assert names[index] == name.replace("%{customdata[1]}", str(number))
                shown.add(names[index])
    assert shown == set(names)


def test_what_was_measured_in_few_epochs_is_drawn_and_joined() -> None:
    epochs = pd.DataFrame(
        {
            "trial": 0,
            "epoch": range(1, 7),
            "seconds": 1.0,
            "system/cpu_percent": [np.nan, 10, np.nan, np.nan, 30, np.nan],
            "system/memory_mb": [np.nan, np.nan, 5, np.nan, np.nan, np.nan],
        }
    )
    cpu, memory = curves.resources(epochs, words("en")).figure.data
    assert list(cpu.x) == [2, 5]
    assert list(cpu.y) == [10, 30]
    assert list(memory.y) == [5]
    assert "markers" in memory.mode
