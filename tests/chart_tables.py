"""Made-up tables for the charts, and every chart drawn from them under any name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from app.charts import (
    comparisons,
    confusion,
    curves,
    endings,
    errors,
    fronts,
    learning,
    parallel,
    parameters,
    probabilities,
    progress,
    thresholds,
    workers,
)
from app.charts.style import Chart
from app.words import Words
from hpo.results import differences, evaluation, ranking
from hpo.results.intervals import Estimate
from hpo.results.predicted import Predicted

START = pd.Timestamp("2026-01-01", tz="UTC")


def trials(values: list[float | None], states: list[str] | None = None) -> pd.DataFrame:
    """Trials of ten epochs, half a minute each, one after the other, with three parameters."""
    count = len(values)
    states = states or ["complete"] * count
    number = np.arange(count)
    started = START + pd.to_timedelta(number * 40, unit="s")
    return pd.DataFrame(
        {
            "number": pd.array(number, dtype="Int64"),
            "state": pd.Series(states, dtype="str"),
            "reason": ["out of memory: 12 MB" if s == "failed" else "" for s in states],
            "value": pd.Series(values, dtype="float64"),
            "best_epoch": pd.array([10] * count, dtype="Int64"),
            "last_epoch": pd.array([10] * count, dtype="Int64"),
            "seconds": np.full(count, 30.0),
            "started": started,
            "ended": started + pd.Timedelta(30, "s"),
            "params.train.lr": 10.0 ** -(number % 4 + 1),
            "params.train.optimizer": np.where(number % 2, "sgd", "adamw"),
            "params.train.momentum": np.where(number % 2, 0.5 + number / 100, np.nan),
        }
    )


SEARCH: dict[str, dict[str, Any]] = {
    "train.lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    "train.optimizer": {"type": "choice", "choices": ["sgd", "adamw"]},
    "train.momentum": {"type": "float", "low": 0.5, "high": 0.99},
}
UP = [{"metric": "val/accuracy", "goal": "maximize"}]
DOWN = [{"metric": "val/loss", "goal": "minimize"}]


def epochs(count: int, length: int = 10, metric: str = "accuracy", seed: int = 0) -> pd.DataFrame:
    """``train/`` and ``val/`` of a metric and of the loss, and what the machine did."""
    random = np.random.default_rng(seed)
    epoch = np.tile(np.arange(1, length + 1), count)
    noise = random.normal(0, 0.01, (3, count * length))
    learned = 1 - np.exp(-epoch / 5)
    return pd.DataFrame(
        {
            "trial": np.repeat(np.arange(count), length).astype(np.int32),
            "epoch": epoch.astype(np.int32),
            "time_ms": 1_760_000_000_000 + np.arange(count * length),
            "seconds": np.full(count * length, 1.5, np.float32),
            f"train/{metric}": learned + noise[0],
            f"val/{metric}": 0.9 * learned + noise[1],
            "val/loss": 1 - learned + np.abs(noise[2]),
            "system/memory_mb": 500.0 + epoch,
            "system/cpu_percent": 90.0 + noise[0],
        }
    )


def runs(
    count: int, length: int = 10, name: str = "study", metric: str = "accuracy"
) -> pd.DataFrame:
    table = epochs(count, length, metric)
    return table.assign(
        run=[f"{name}/{trial}" for trial in table["trial"]], samples=table["epoch"] * 1000
    )


def spans(count: int, workers_: int = 3) -> pd.DataFrame:
    """Spans of 9 s that begin every 10 s, in turn on each worker; the last one is open."""
    place = np.arange(count)
    start = 1_760_000_000_000 + (place // workers_) * 10_000
    table = pd.DataFrame(
        {
            "worker": pd.array(place % workers_, dtype="Int64"),
            "trial": place,
            "attempt": np.ones(count, np.int64),
            "start_ms": start,
            "end_ms": start + 9_000.0,
            "state": pd.Series(np.where(place % 3, "pruned", "complete"), dtype="str"),
        }
    )
    if count:
        table.loc[count - 1, ["end_ms", "state"]] = [np.nan, "running"]
    return table


@cache
def classified(rows: int = 120, classes: int = 3, seed: int = 0, name: str = "class") -> Predicted:
    random = np.random.default_rng(seed)
    target = np.random.default_rng(99).integers(0, classes, rows)
    scores = random.normal(0, 1, (rows, classes))
    scores[np.arange(rows), target] += 1.5
    output = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    names = tuple(f"{name}{i}" for i in range(classes))
    return Predicted(np.arange(rows), target, output.astype(np.float32), names)


def regressed(rows: int = 100, seed: int = 0) -> Predicted:
    random = np.random.default_rng(seed)
    target = np.random.default_rng(99).gamma(3, 40, rows)
    output = (target + random.normal(0, 10, rows)).astype(np.float32)
    return Predicted(np.arange(rows), target, output)


def seeds(name: str) -> pd.DataFrame:
    values = np.random.default_rng(0).normal(0.9, 0.01, 6)
    columns = {"params.lr": np.repeat([0.1, 0.2], 3), "params.seed": np.arange(6), name: values}
    return pd.DataFrame(columns, index=[f"{name}/{i}" for i in range(6)])


Draw = Callable[[Words, str], Chart]


def _named(name: str) -> Mapping[str, Predicted]:
    return {f"{name}/{i}": classified(seed=i, name=name) for i in range(2)}


def _trials(name: str) -> tuple[pd.DataFrame, dict[str, Any], list[dict[str, str]]]:
    """Trials whose metric, parameter, choices and reasons are all called so."""
    table = trials([0.1 * i for i in range(16)], ["complete", "pruned", "complete", "failed"] * 4)
    table["reason"] = name
    table[f"params.{name}"] = [f"{name}{i % 2}" for i in range(16)]
    return (
        table,
        SEARCH | {name: {"type": "choice", "choices": [f"{name}0"]}},
        [{"metric": name, "goal": "maximize"}],
    )


def _several(name: str, objectives: int) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    table, _, _ = _trials(name)
    table["state"] = "complete"
    names = [f"{name} {i}" for i in range(objectives)]
    for i, metric in enumerate(names):
        table[f"value.{metric}"] = np.random.default_rng(i).normal(size=len(table))
    return table, [{"metric": metric, "goal": "minimize"} for metric in names]


def _parallel(w: Words, name: str) -> Chart:
    table, search, objective = _trials(name)
    axes = parallel.parallel_axes(table, search, objective)
    return parallel.parallel(table, axes, objective, w)


def _of_trials(draw: Callable[..., Chart], *more: Any) -> Draw:
    def made(w: Words, name: str) -> Chart:
        table, search, objective = _trials(name)
        return draw(table, search, objective, w, *more)

    return made


def _history(w: Words, name: str, **options: Any) -> Chart:
    table, _, objective = _trials(name)
    return progress.history(table, objective, w, **options)


def _bands(w: Words, name: str) -> Chart:
    table, _, objective = _trials(name)
    return learning.learning_bands(epochs(16, metric=name), table, objective, f"val/{name}", w)


@cache
def _band() -> pd.DataFrame:
    return ranking.roc_band(classified(), 1)


def _roc(w: Words, name: str) -> Chart:
    named = _named(name)
    chart = thresholds.roc(
        {run: ranking.roc(p, 1) for run, p in named.items()},
        w,
        name,
        dict.fromkeys(named, Estimate(0.9, 0.8, 0.95)),
        {run: _band() for run in named},
    )
    there = evaluation.operating_points(named, 1, 0.4)
    chart.figure.add_traces(thresholds.points(there, list(named), "fpr", "tpr", w))
    return chart


def _precision_recall(w: Words, name: str) -> Chart:
    tables = {run: ranking.precision_recall(p, 1) for run, p in _named(name).items()}
    return thresholds.precision_recall(tables, w, name, chance=0.3)


def _per_run(draw: Callable[..., Chart], made: Callable[..., Any], *more: Any) -> Draw:
    return lambda w, name: draw({r: made(p) for r, p in _named(name).items()}, w, *more)


def _errors(draw: Callable[..., Chart]) -> Draw:
    table = evaluation.residuals(regressed())
    return lambda w, name: draw({f"{name}/{i}": table for i in range(2)}, w, name)


def _difference(w: Words, name: str) -> Chart:
    pairs = [(run, evaluation.confusion(p)) for run, p in _named(name).items()]
    return confusion.confusion_difference(*pairs, [f"{name}{i}" for i in range(3)], w)


def _confusions(w: Words, name: str) -> Chart:
    matrices = {run: evaluation.confusion(p) for run, p in _named(name).items()}
    return confusion.confusions(matrices, [f"{name}{i}" for i in range(3)], w)


def _intervals(w: Words, name: str) -> Chart:
    table = pd.DataFrame({"run": [f"{name}/1", f"{name}/2"], "value": [0.8, 0.9]})
    return comparisons.metric_intervals(table.assign(low=0.7, high=0.95), name, True, w)


def _seeds(w: Words, name: str) -> Chart:
    table = seeds(name)
    return comparisons.seed_spread(differences.spread(table, name), table[name], name, w)


CHARTS: Mapping[str, Draw] = {
    "history": _history,
    "history over time": lambda w, name: _history(w, name, by="time", log=True),
    "bands": _bands,
    "parallel": _parallel,
    "slices": _of_trials(parameters.slices),
    "contour": _of_trials(parameters.contour, "train.lr", "train.optimizer"),
    "contour of one name": lambda w, name: _of_trials(parameters.contour, "train.lr", name)(
        w, name
    ),
    "importances": lambda w, name: parameters.importances(
        pd.DataFrame({"param": [name, "x"], "importance": [0.7, 0.3]}), w, name
    ),
    "rungs": lambda w, name: endings.rungs(_trials(name)[0], w),
    "failures": lambda w, name: endings.failures(_trials(name)[0], w),
    "pareto of two": lambda w, name: fronts.pareto(*_several(name, 2), w),
    "pareto of three": lambda w, name: fronts.pareto(*_several(name, 3), w),
    "timeline": lambda w, name: workers.timeline(spans(9), 1_760_000_040_000, w),
    "overlay": lambda w, name: curves.overlay(runs(3, 10, name, name), name, w, smoothing=0.5),
    "overlay of many": lambda w, name: curves.overlay(runs(20, 10, name, name), name, w, "time"),
    "run": lambda w, name: curves.run_curves(epochs(1, metric=name), w, 4),
    "resources": lambda w, name: curves.resources(
        epochs(1).rename(columns={"system/memory_mb": f"system/{name}"}), w
    ),
    "roc": _roc,
    "precision recall": _precision_recall,
    "calibration": _per_run(probabilities.calibration, evaluation.calibration),
    "histograms": lambda w, name: probabilities.score_histograms(
        {run: evaluation.score_histogram(p, 1) for run, p in _named(name).items()}, w, name, 0.4
    ),
    "confusions": _confusions,
    "difference": _difference,
    "classes": lambda w, name: confusion.class_metrics(
        {run: evaluation.per_class(p) for run, p in _named(name).items()}, "f1", w
    ),
    "intervals": _intervals,
    "seeds": _seeds,
    "predicted and actual": _errors(errors.predicted_actual),
    "residuals": _errors(errors.residual_histogram),
}

NO_TRIALS = trials([])
NOTHING: Mapping[str, Callable[[Words], Chart]] = {
    "history": lambda w: progress.history(NO_TRIALS, UP, w),
    "bands": lambda w: learning.learning_bands(epochs(0), NO_TRIALS, UP, "val/accuracy", w),
    "bands of nothing known": lambda w: learning.learning_bands(
        epochs(2), trials([1, 2]), UP, "no such", w
    ),
    "parallel": lambda w: parallel.parallel(
        NO_TRIALS, parallel.parallel_axes(NO_TRIALS, SEARCH, UP), UP, w
    ),
    "slices": lambda w: parameters.slices(NO_TRIALS, SEARCH, UP, w),
    "contour": lambda w: parameters.contour(NO_TRIALS, SEARCH, UP, w, "train.lr", "no such"),
    "importances": lambda w: parameters.importances(
        pd.DataFrame(columns=["param", "importance"]), w
    ),
    "rungs": lambda w: endings.rungs(NO_TRIALS, w),
    "rungs without pruning": lambda w: endings.rungs(trials([1.0]), w),
    "failures": lambda w: endings.failures(NO_TRIALS, w),
    "pareto": lambda w: fronts.pareto(_several("m", 2)[0].iloc[:0], _several("m", 2)[1], w),
    "timeline": lambda w: workers.timeline(spans(0), 0, w),
    "overlay": lambda w: curves.overlay(runs(0), "accuracy", w),
    "overlay of nothing known": lambda w: curves.overlay(runs(2), "no such", w),
    "run": lambda w: curves.run_curves(epochs(0), w),
    "resources": lambda w: curves.resources(epochs(0), w),
    "roc": lambda w: thresholds.roc({}, w),
    "roc of one class": lambda w: thresholds.roc(
        {"a": pd.DataFrame(columns=["threshold", "fpr", "tpr"], dtype="float64")}, w
    ),
    "precision recall": lambda w: thresholds.precision_recall({}, w),
    "calibration": lambda w: probabilities.calibration({}, w),
    "histograms": lambda w: probabilities.score_histograms({}, w, "a"),
    "confusions": lambda w: confusion.confusions({}, [], w),
    "classes": lambda w: confusion.class_metrics({}, "f1", w),
    "intervals": lambda w: comparisons.metric_intervals(
        pd.DataFrame(columns=["run", "value", "low", "high"]), "accuracy", True, w
    ),
    "seeds": lambda w: comparisons.seed_spread(
        differences.spread(seeds("m").iloc[:1], "m"), pd.Series(dtype="float64"), "m", w
    ),
    "predicted and actual": lambda w: errors.predicted_actual({}, w),
    "residuals": lambda w: errors.residual_histogram({}, w),
}
