"""In what runs differ: in parameters, in the rows they get wrong, and from one seed to another."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from hpo.results import intervals
from hpo.results.predicted import Predicted
from hpo.results.rows import by_id, chosen, class_names, finite, labelled, right, select
from hpo.results.scores import task_of
from hpo.spec.estimators import USED
from trainers.models import is_estimator

REPEATS = ("seed", "split_seed", "fold")  # settings that only tell repetitions apart


def differing(params: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The parameters in which runs differ: a row for each path, a column for each run.

    Args:
        params: Run → path → value.

    Returns:
        Values as they are, None where a run has none, or ignores it. In the order in which paths
        appear.
    """
    params = {run: _used(settings) for run, settings in params.items()}
    paths = dict.fromkeys(path for settings in params.values() for path in settings)
    rows = {path: [settings.get(path) for settings in params.values()] for path in paths}
    kept = {
        path: values
        for path, values in rows.items()
        if len({_identity(value) for value in values}) > 1
    }
    return pd.DataFrame(
        list(kept.values()), index=list(kept), columns=list(params), dtype=object
    ).rename_axis("param")


def _used(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without those of a network's training where there is none."""
    if not is_estimator(str(settings.get("model.name"))):
        return settings
    used = tuple(f"train.{name}" for name in USED)
    return {
        path: value
        for path, value in settings.items()
        if not path.startswith("train.") or path.startswith(used)
    }


def disagreements(a: Predicted, b: Predicted) -> pd.DataFrame:
    """The rows on which two runs disagree, of those that both predicted with a number.

    Returns:
        Of classifiers the rows whose classes differ: ``id``; ``target``, ``a``, ``b`` (names of
        classes); ``a_confidence``, ``b_confidence`` in [0, 1]; ``right``: a, b or neither. The
        rows on which both are sure come first. Of regressions every row: ``id``, ``target``,
        ``a``, ``b``, ``difference`` (a − b), ``right`` (the nearer one; neither where both are
        as near), the largest differences first. Of several labels the rows that are said to have
        other ones: ``id``; ``target``, ``a``, ``b`` (names of labels); ``right``, where all are.
        Empty where no row is in both, or where these
        rows have other targets in one, so that they are not the same rows at all.

    Raises:
        ValueError: They do not predict the same: one classes, the other values, say.
    """
    if task_of(a) != task_of(b):
        raise ValueError(f"a {task_of(a)} and a {task_of(b)} do not predict the same thing")
    a, b = _common(finite(a), finite(b))
    if a.is_multilabel:
        return _labels_differ(a, b)
    return _classes_differ(a, b) if a.is_classification else _values_differ(a, b)


def in_common(a: Predicted, b: Predicted) -> int:
    """How many rows both predicted with a number; none if the targets of these differ: equal ids
    are then of different data."""
    return len(_common(finite(a), finite(b))[0].ids)


def spread(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    """How a metric varies over runs with the same parameters, that is with the seed or fold.

    Args:
        trials: A row for each run, with a ``params.PATH`` column for every setting, not only
            those that were searched, and the metric's. Settings whose name is one of REPEATS are
            not looked at.

    Returns:
        A row for each group of two runs or more: the parameters, ``rows`` (the labels of the
        group's rows in `trials`), ``n``, ``mean``, ``sd``, ``low``, ``high`` (Student's t, 95 %).
    """
    params = [
        column
        for column in map(str, trials)
        if column.startswith("params.") and column.rpartition(".")[2] not in REPEATS
    ]
    groups: dict[tuple[Hashable, ...], list[int]] = {}
    known = trials[trials[metric].notna()]
    for place, values in enumerate(known[params].itertuples(index=False, name=None)):
        groups.setdefault(tuple(_identity(value) for value in values), []).append(place)
    rows = []
    for places in groups.values():
        if len(places) > 1:
            group = known.iloc[places]
            measured = group[metric].to_numpy(np.float64)
            mean = intervals.of_mean(measured)
            facts = (list(group.index), len(group), mean.value, float(measured.std(ddof=1)))
            rows.append((*group[params].iloc[0], *facts, mean.low, mean.high))
    return pd.DataFrame(rows, columns=[*params, "rows", "n", "mean", "sd", "low", "high"])


def _identity(value: Any) -> Hashable:
    """Equal for equal values: 1 and 1.0 are, 1 and True are not; so are all kinds of nothing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Mapping):
        return ("mapping", *sorted((str(key), _identity(v)) for key, v in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(_identity, value))
    return isinstance(value, bool), value


def _common(a: Predicted, b: Predicted) -> tuple[Predicted, Predicted]:
    """The rows of both, in the order of their ids; one with several predictions counts once."""
    a, b = by_id(a), by_id(b)
    _, in_a, in_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if not np.array_equal(a.target[in_a], b.target[in_b], equal_nan=a.target.dtype.kind == "f"):
        in_a = in_b = in_a[:0]
    return select(a, in_a), select(b, in_b)


def _classes_differ(a: Predicted, b: Predicted) -> pd.DataFrame:
    said_a, said_b = chosen(a), chosen(b)
    sure_a, sure_b = (p.output.max(axis=1, initial=0).astype(np.float64) for p in (a, b))
    names = np.array(class_names(a), object)
    names_b = np.array(class_names(b), object)
    table = pd.DataFrame(
        {
            "id": a.ids,
            "target": names[a.target],
            "a": names[said_a],
            "b": names_b[said_b],
            "a_confidence": sure_a,
            "b_confidence": sure_b,
            "right": _right(said_a == a.target, said_b == b.target),
        }
    )
    surest = np.argsort(-np.minimum(sure_a, sure_b), kind="stable")
    conflicts = surest[(said_a != said_b)[surest]]
    return table.take(conflicts).reset_index(drop=True)


def _labels_differ(a: Predicted, b: Predicted) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "id": a.ids,
            "target": _named(a, a.target),
            "a": _named(a, labelled(a)),
            "b": _named(a, labelled(b)),
            "right": _right(right(a), right(b)),
        }
    )
    conflicts = np.flatnonzero((labelled(a) != labelled(b)).any(axis=1))
    return table.take(conflicts).reset_index(drop=True)


def _named(predicted: Predicted, there: np.ndarray) -> list[str]:
    """Each row's labels, by their names."""
    names = np.array(class_names(predicted), object)
    return [", ".join(names[row]) for row in there.astype(bool)]


def _values_differ(a: Predicted, b: Predicted) -> pd.DataFrame:
    target = a.target.astype(np.float64)
    said_a, said_b = a.output.astype(np.float64), b.output.astype(np.float64)
    off_a, off_b = np.abs(said_a - target), np.abs(said_b - target)
    table = pd.DataFrame(
        {
            "id": a.ids,
            "target": target,
            "a": said_a,
            "b": said_b,
            "difference": said_a - said_b,
            "right": _right(off_a < off_b, off_b < off_a),
        }
    )
    largest = np.argsort(-np.abs(said_a - said_b), kind="stable")
    return table.take(largest).reset_index(drop=True)


def _right(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(a, "a", np.where(b, "b", "neither")).astype(object)
