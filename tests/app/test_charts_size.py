"""Figures stay small: what a browser gets of a large study or of many runs."""

from __future__ import annotations

import time

import numpy as np
from chart_tables import SEARCH, UP, classified, epochs, runs, spans, trials

from app.charts import curves, learning, parallel, parameters, progress, style, thresholds, workers
from app.charts.style import Chart
from app.words import words
from hpo.results import evaluation, ranking

W = words("en")
RANDOM = np.random.default_rng(0)
THOUSAND = trials([float(v) for v in RANDOM.normal(size=1_000)])


def kilobytes(chart: Chart) -> float:
    return len(chart.json) / 1000


def test_curves_of_100_runs() -> None:
    table = runs(100, 50)
    assert kilobytes(curves.overlay(table, "accuracy", W)) < 400
    assert kilobytes(curves.overlay(table, "accuracy", W, smoothing=0.9)) < 400


def test_curves_of_100_runs_of_10_000_epochs() -> None:
    assert kilobytes(curves.overlay(runs(100, 2_000), "accuracy", W)) < 800


def test_learning_curves_of_1000_trials() -> None:
    assert kilobytes(learning.learning_bands(epochs(1_000, 50), THOUSAND, UP, "val/loss", W)) < 800


def test_roc_of_100_runs_with_their_operating_points() -> None:
    predicted = {f"study/{i}": classified(1_000, 2, i % 5) for i in range(100)}
    tables = {run: ranking.roc(p, 1) for run, p in predicted.items()}
    assert kilobytes(thresholds.roc(tables, W)) < 300
    there = evaluation.operating_points(predicted, 1, 0.5)
    markers = thresholds.points(there, list(predicted), "fpr", "tpr", W)
    assert len(style.written(markers)) < 50_000


def test_charts_of_1000_trials() -> None:
    axes = parallel.parallel_axes(THOUSAND, SEARCH, UP)
    assert kilobytes(progress.history(THOUSAND, UP, W)) < 60
    assert kilobytes(parallel.parallel(THOUSAND, axes, UP, W)) < 250
    assert kilobytes(parameters.slices(THOUSAND, SEARCH, UP, W)) < 250
    assert kilobytes(workers.timeline(spans(5_000, 8), 1_760_010_000_000, W)) < 250


def test_a_new_smoothing_of_100_runs_is_made_within_the_time_a_redraw_may_take() -> None:
    table = runs(100, 50)
    curves.overlay(table, "accuracy", W, smoothing=0.5)
    began = time.perf_counter()
    curves.overlay(table, "accuracy", W, smoothing=0.9).figure.to_json()
    assert time.perf_counter() - began < 1.0  # 0.06 s on two idle cores
