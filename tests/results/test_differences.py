"""What differs between runs is shown, and nothing else."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import classifier, regression, said, shuffled, spoilt
from scipy import stats

from hpo.results.differences import differing, disagreements, in_common, spread

# -- parameters


def test_only_parameters_that_differ_are_shown() -> None:
    found = differing(
        {
            "s/0": {"train.lr": 0.1, "train.epochs": 5, "model.name": "mlp"},
            "s/1": {"train.lr": 0.2, "train.epochs": 5.0, "model.name": "mlp"},
            "t/0": {
                "train.lr": 0.1,
                "train.epochs": 5,
                "train.momentum": 0.9,
                "model.name": "mlp",
            },
        }
    )
    assert list(found.index) == ["train.lr", "train.momentum"]
    assert found.loc["train.lr"].to_list() == [0.1, 0.2, 0.1]
    assert found.loc["train.momentum"].to_list() == [None, None, 0.9]
    assert list(found) == ["s/0", "s/1", "t/0"]


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        (1, True, True),
        (1, 1.0, False),
        (None, math.nan, False),
        ([64, 32], (64, 32), False),
        ([64, 32], [32, 64], True),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, False),
        ({"a": 1}, {"a": 2}, True),
        ("1", 1, True),
        (np.int64(3), 3, False),
    ],
)
def test_values_are_told_apart(one: object, other: object, differ: bool) -> None:
    assert (len(differing({"a": {"x": one}, "b": {"x": other}})) == 1) == differ


def test_what_an_estimator_ignores_is_no_difference() -> None:
    network = {"model.name": "mlp", "train.lr": 0.1, "train.repeats": 1}
    tree = {"model.name": "sklearn.tree.DecisionTreeClassifier", "train.lr": 0.3}
    found = differing({"a": network, "b": {**tree, "train.repeats": 2}, "c": tree})
    assert list(found.index) == ["model.name", "train.lr", "train.repeats"]
    assert found.loc["train.lr"].to_list() == [0.1, None, None]
    assert found.loc["train.repeats"].to_list() == [1, 2, None]


def test_one_run_or_none_differs_in_nothing() -> None:
    assert differing({"a": {"x": 1}}).empty
    assert differing({}).empty


# -- rows


def test_the_surest_disagreements_come_first() -> None:
    a = said([0, 1, 1, 0, 1], [0.9, 0.6, 0.9, 0.2, 0.9])
    b = said([0, 1, 1, 0, 1], [0.05, 0.1, 0.8, 0.45, 0.45])
    found = disagreements(a, b)
    assert list(found["id"]) == [0, 1, 4]
    assert list(found["right"]) == ["b", "a", "a"]
    assert found["a_confidence"].to_list() == pytest.approx([0.9, 0.6, 0.9])
    assert found["b_confidence"].to_list() == pytest.approx([0.95, 0.9, 0.55])
    assert list(found["a"]) == ["1", "1", "1"]


def test_classes_are_named_and_rows_are_found_by_their_ids() -> None:
    a, b = classifier(), classifier(seed=1)
    found = disagreements(a, shuffled(b))
    said_a, said_b = a.output.argmax(1), b.output.argmax(1)
    assert set(found["id"]) == set(a.ids[said_a != said_b])
    for line in found.itertuples():
        place = list(a.ids).index(line.id)
        assert line.target == f"class {a.target[place]}"
        assert (line.a, line.b) == (f"class {said_a[place]}", f"class {said_b[place]}")
    neither = (said_a != said_b) & (said_a != a.target) & (said_b != a.target)
    assert (found["right"] == "neither").sum() == neither.sum()


def test_the_largest_differences_of_regressions_come_first() -> None:
    a, b = regression(), regression(error=3, seed=1)
    found = disagreements(a, shuffled(b))
    difference = (a.output - b.output).astype(float)
    assert found["difference"].to_list() == pytest.approx(
        difference[np.argsort(-np.abs(difference))].tolist(), abs=1e-4
    )
    nearer = np.abs(a.output - a.target) < np.abs(b.output - b.target)
    assert (found["right"] == "a").sum() == nearer.sum()


def test_only_rows_that_both_predicted_can_disagree() -> None:
    a, b = classifier(), classifier(seed=1)
    first = disagreements(a, b)["id"].iloc[0]
    place = int(np.flatnonzero(a.ids == first)[0])
    assert first not in set(disagreements(spoilt(a, place), b)["id"])
    assert disagreements(a, replace(b, ids=b.ids + 1)).empty
    assert list(disagreements(a, replace(b, ids=b.ids + 1)))[:2] == ["id", "target"]


def test_rows_of_other_data_have_nothing_in_common() -> None:
    a, b = classifier(), classifier(seed=1, data=1)
    assert in_common(a, b) == 0
    assert disagreements(a, b).empty
    assert in_common(a, shuffled(classifier(seed=1))) == len(a.ids)


def test_a_classifier_and_a_regression_are_not_held_against_each_other() -> None:
    with pytest.raises(ValueError, match="regression"):
        disagreements(classifier(), regression())


# -- seeds


def trials(*rows: tuple[float | None, str, int, float]) -> pd.DataFrame:
    table = pd.DataFrame(
        rows, columns=["params.train.lr", "params.model.name", "params.train.seed", "val/f1"]
    )
    return table.assign(number=range(len(table)))


def test_runs_with_the_same_parameters_are_one_group() -> None:
    found = spread(
        trials(
            (0.1, "mlp", 1, 0.90),
            (0.1, "mlp", 2, 0.94),
            (0.1, "cnn", 1, 0.99),
            (0.1, "mlp", 3, 0.95),
            (None, "cnn", 1, 0.7),
            (None, "cnn", 2, 0.8),
            (0.1, "mlp", 4, math.nan),
        ),
        "val/f1",
    )
    values = [0.90, 0.94, 0.95]
    assert found["n"].to_list() == [3, 2]
    assert found["rows"].to_list() == [[0, 1, 3], [4, 5]]
    assert found.loc[0, ["mean", "sd"]].to_list() == pytest.approx(
        [np.mean(values), np.std(values, ddof=1)]
    )
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert found.loc[0, ["low", "high"]].to_list() == pytest.approx(list(expected))
    assert found.loc[0, "params.model.name"] == "mlp"


def test_without_repetitions_there_is_no_spread() -> None:
    found = spread(trials((0.1, "mlp", 1, 0.9), (0.2, "mlp", 1, 0.8)), "val/f1")
    assert found.empty
    assert {"n", "mean", "sd", "low", "high"} <= set(found)
