"""Advice is given where trials say so, and not where a range or a unit does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import classifier, regression
from recorded import LOSS, Recorded, metrics

from hpo.results.advice import advice, importances
from hpo.results.catalog import Catalog
from hpo.results.evaluation import metrics as measured
from hpo.results.predicted import Predicted
from hpo.results.tables import StudyTables

EDGE = {"type": "float", "low": 0.0, "high": 1.0}


def studied(
    home: Path, xs: Sequence[float], values: list[float], space: dict[str, Any], **changed: Any
) -> StudyTables:
    """A study of one parameter, ``train.x``."""
    study = Recorded(home, search={"train.x": space}, **changed)
    for x, value in zip(xs, values, strict=True):
        number = study.begin(params={"train.x": x})
        study.epoch(number, 1, metrics(value) | {study.objective[0]["metric"]: value})
        study.end(number, values=[value], best_epoch=1, last_epoch=1, epochs_trained=1)
    study.over()
    return Catalog(home).study("digits")


def kinds(tables: StudyTables, best: Predicted | None = None) -> list[str]:
    return [one.kind for one in advice(tables, None, best)]


# -- failures


def test_failures_are_told_by_their_most_frequent_cause(tmp_path: Path) -> None:
    study = Recorded(tmp_path, search={"train.x": EDGE})
    twice = ["ValueError: no"] * 2  # word for word; the others differ in their numbers
    lost = [f"nan at epoch {epoch}, lr {lr}" for epoch, lr in ((3, 0.8), (1, 9), (2, 1e-05))]
    for reason in [*twice, *lost]:
        study.end(study.begin(params={"train.x": 0.5}), "failed", reason=reason)
    study.over()
    said = advice(Catalog(tmp_path).study("digits"), None, None)
    (found,) = [one for one in said if one.kind == "failing"]
    assert found.facts == {"share": 1.0, "count": 5, "reason": "nan at epoch 3, lr 0.8"}


# -- edges


def test_a_range_whose_end_holds_the_best_is_to_be_widened(tmp_path: Path) -> None:
    xs = list(np.linspace(0, 1, 50))
    (found,) = advice(studied(tmp_path, xs, xs, EDGE), None, None)
    assert (found.kind, found.facts["side"], found.facts["bound"]) == ("edge", "high", 1.0)
    assert found.facts["share"] >= 0.6


def test_where_all_trials_lie_at_the_end_the_best_say_nothing(tmp_path: Path) -> None:
    xs = [0.5] * 10 + [1.0] * 40
    values = [0.5 + 0.001 * i for i in range(50)]
    assert kinds(studied(tmp_path, xs, values, EDGE)) == []


@pytest.mark.parametrize(("high", "expected"), [(4, []), (40, ["edge"])])
def test_a_range_of_few_steps_has_no_edge(high: int, expected: list[str], tmp_path: Path) -> None:
    xs = [*np.linspace(1, high - 1, 42).round(), *[high] * 8]
    values = [0.5 + 0.001 * i for i in range(50)]
    space = {"type": "int", "low": 1, "high": high}
    assert kinds(studied(tmp_path, list(map(int, xs)), values, space)) == expected


# -- noise


def test_the_best_are_tied_if_they_differ_by_less_than_chance(tmp_path: Path) -> None:
    predicted = classifier()
    value = float(measured(predicted).set_index("metric").loc["accuracy", "value"])
    values = [value - 1e-4 * i for i in range(6)]
    tables = studied(tmp_path, [0.5] * 6, values, EDGE)
    assert kinds(tables, predicted) == ["noise"]


def test_a_loss_in_other_units_than_the_predictions_has_no_noise(tmp_path: Path) -> None:
    """A regression's loss is of standardized targets, the error of predictions is not."""
    values = [0.3 + 1e-4 * i for i in range(6)]
    tables = studied(tmp_path, [0.5] * 6, values, EDGE, objective=[LOSS])
    assert kinds(tables, regression(error=3.0)) == []


# -- importances


def test_trials_of_a_choice_that_was_taken_out_do_not_count(tmp_path: Path) -> None:
    study = Recorded(tmp_path, search={"train.x": EDGE, "train.how": {"choices": ["a", "b"]}})
    for number in range(12):
        params = {"train.x": number / 12, "train.how": ["a", "b", "gone"][number % 3]}
        trial = study.begin(params=params)
        study.end(trial, values=[number / 12], best_epoch=1, last_epoch=1, epochs_trained=1)
    study.over()
    found = importances(Catalog(tmp_path).study("digits"))
    assert found is not None
    assert found.trials == 8
    assert set(found.table["param"]) == {"train.x", "train.how"}
