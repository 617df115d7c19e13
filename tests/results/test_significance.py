"""Runs are told apart as statsmodels and DeLong do, no more often than they may be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from made_up import classifier, regression, said, shuffled, spoilt
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from hpo.results.predicted import Predicted
from hpo.results.ranking import area_shares
from hpo.results.significance import Comparison, Wins, compare, holm, mcnemar, wins


def runs_of(*skills: float, rows: int = 300, classes: int = 3) -> dict[str, Predicted]:
    return {
        f"s/{number}": classifier(rows, classes, skill, seed=number)
        for number, skill in enumerate(skills)
    }


def row(comparison: Comparison, run: str) -> dict[str, object]:
    return dict(comparison.table.set_index("run").loc[run])


FIVE = runs_of(2.0, 1.9, 1.2, 1.0, 0.2)


# -- tests


def test_wins_are_counted_by_row_whatever_their_order() -> None:
    a, b = FIVE["s/0"], FIVE["s/3"]
    right = [p.output.argmax(1) == p.target for p in (a, b)]
    expected = Wins(
        *(int((x & y).sum()) for x in (right[0], ~right[0]) for y in (right[1], ~right[1]))
    )
    assert wins(a, b) == Wins(expected.both, expected.only_a, expected.only_b, expected.neither)
    assert wins(shuffled(a), b) == wins(a, b)


@pytest.mark.parametrize("counts", [Wins(50, 9, 2, 5), Wins(50, 30, 11, 5), Wins(9, 0, 0, 1)])
def test_mcnemar_is_statsmodels_s(counts: Wins) -> None:
    p, test = mcnemar(counts)
    few = counts.only_a + counts.only_b < 25
    assert p == pytest.approx(statsmodels_mcnemar(counts.table, exact=few).pvalue)
    assert test == ("McNemar exact" if few else "McNemar chi2")
    if few and counts.only_a:
        expected = stats.binomtest(counts.only_a, counts.only_a + counts.only_b).pvalue
        assert p == pytest.approx(expected)


def test_accuracy_is_compared_by_mcnemar_and_corrected_by_holm() -> None:
    found = compare(FIVE, "accuracy", "s/0")
    others = [name for name in FIVE if name != "s/0"]
    p = [mcnemar(wins(FIVE[name], FIVE["s/0"]))[0] for name in others]
    table = found.table.set_index("run").loc[others]
    assert table["p"].to_list() == pytest.approx(p)
    assert table["p_corrected"].to_list() == pytest.approx(multipletests(p, method="holm")[1])
    assert (table["verdict"] == "worse").to_list() == [c < 0.05 for c in table["p_corrected"]]


def test_the_correction_is_statsmodels_s() -> None:
    p = np.array([0.04, 0.001, 0.03, 0.6, 0.03])
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    with_nothing = holm(np.array([math.nan, 0.04, math.nan]))
    assert with_nothing == pytest.approx([math.nan, 0.04, math.nan], nan_ok=True)
    assert len(holm(np.zeros(0))) == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_one_class_s_area_is_compared_by_delong(classes: int) -> None:
    runs = runs_of(0.8, 0.5, classes=classes)
    found = row(compare(runs, "roc_auc", "s/0", of=1), "s/1")
    a, b = runs["s/1"], runs["s/0"]
    won = []
    for run in (a, b):
        x, y = run.output[run.target == 1, 1], run.output[run.target != 1, 1]
        pairs = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
        won.append((pairs.mean(1), pairs.mean(0)))
    m, n = len(won[0][0]), len(won[0][1])
    variance = np.var(won[0][0] - won[1][0], ddof=1) / m
    variance += np.var(won[0][1] - won[1][1], ddof=1) / n
    difference = won[0][0].mean() - won[1][0].mean()
    assert found["difference"] == pytest.approx(difference)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(difference) / variance**0.5))
    assert found["test"] == "DeLong"
    low, high = found["low"], found["high"]
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, difference, variance**0.5))


def test_the_mean_of_a_loss_is_compared_as_by_the_paired_t_test() -> None:
    a, b = FIVE["s/0"], FIVE["s/1"]
    found = row(compare({"a": a, "b": b}, "log_loss", "b"), "a")
    loss = []
    for run in (a, b):
        output = run.output.astype(float)
        output /= output.sum(1, keepdims=True)
        loss.append(-np.log(np.maximum(output[np.arange(300), run.target], 2.0**-25)))
    expected = stats.ttest_rel(*loss)
    interval = expected.confidence_interval(0.95)
    assert found["test"] == "paired bootstrap"
    assert found["p"] == pytest.approx(expected.pvalue, abs=0.02)
    width = interval.high - interval.low
    assert found["low"] == pytest.approx(interval.low, abs=0.08 * width)
    assert found["high"] == pytest.approx(interval.high, abs=0.08 * width)


@pytest.mark.parametrize(
    "metric", ["accuracy", "f1_macro", "roc_auc", "log_loss", "pr_auc", "mcc", "ece", "f1/class 1"]
)
def test_runs_that_are_as_good_are_rarely_told_apart(metric: str) -> None:
    told = 0
    for seed in range(200):
        a = classifier(120, 3, 0.7, seed=seed, data=seed)
        b = classifier(120, 3, 0.7, seed=1000 + seed, data=seed)
        told += row(compare({"a": a, "b": b}, metric, "a"), "b")["verdict"] != "cannot tell"
    assert told / 200 < 0.09


@pytest.mark.parametrize(
    "metric", ["accuracy", "f1_macro", "roc_auc", "log_loss", "brier", "pr_auc", "f1/class 1"]
)
def test_a_run_that_is_much_better_is_told_apart(metric: str) -> None:
    found = compare({"good": FIVE["s/0"], "bad": FIVE["s/4"]}, metric)
    assert found.reference == "good"
    assert row(found, "bad")["verdict"] == "worse"
    turned = compare({"good": FIVE["s/0"], "bad": FIVE["s/4"]}, metric, "bad")
    assert row(turned, "good")["verdict"] == "better"
    assert turned.kind == "beaten"


def test_the_test_of_an_accuracy_is_mcnemar_s_of_its_own_rows() -> None:
    runs = {f"s/{n}": classifier(300, 8, skill, seed=n) for n, skill in enumerate((0.2, 0.0))}
    a, b = (
        (p.output > p.output[np.arange(300), p.target][:, None]).sum(1) < 5 for p in runs.values()
    )
    found = row(compare(runs, "top5_accuracy", "s/0"), "s/1")
    counts = Wins(*(int((x & y).sum()) for x in (a, ~a) for y in (b, ~b)))
    assert (found["p"], found["test"]) == mcnemar(counts)
    assert found["difference"] == pytest.approx(b.mean() - a.mean())


def test_regressions_are_compared() -> None:
    runs = {"s/0": regression(error=1.0), "s/1": regression(error=2.0, seed=1)}
    for metric in ("rmse", "mae", "r2"):
        found = compare(runs, metric)
        assert found.reference == "s/0"
        assert row(found, "s/1")["verdict"] == "worse"
    assert row(compare(runs, "rmse"), "s/1")["difference"] > 0.7


# -- the reference


def test_the_best_is_the_reference_and_it_is_said_of_how_many() -> None:
    found = compare(FIVE, "accuracy")
    assert (found.reference, found.best_of, found.rows) == ("s/0", 5, 300)
    assert row(found, "s/0")["verdict"] == "reference"
    assert compare(FIVE, "accuracy", "s/1").best_of is None
    loss = compare(FIVE, "log_loss")
    assert loss.table.set_index("run")["value"].idxmin() == loss.reference


def test_verdicts_in_a_word() -> None:
    assert compare(FIVE, "accuracy").kind == "some"
    assert compare({"a": FIVE["s/0"], "b": FIVE["s/4"]}, "accuracy").kind == "clear"
    assert compare({"a": FIVE["s/0"], "b": FIVE["s/0"]}, "accuracy").kind == "cannot tell"
    assert compare({"a": FIVE["s/0"]}, "accuracy").kind == "alone"
    assert compare({}, "accuracy").kind == "nothing"
    assert compare(FIVE, "accuracy").runs("reference") == ("s/0",)


def test_the_same_run_twice_is_the_same() -> None:
    for metric in ("accuracy", "f1_macro", "roc_auc"):
        found = row(compare({"a": FIVE["s/0"], "b": shuffled(FIVE["s/0"])}, metric, "a"), "b")
        assert found["difference"] == pytest.approx(0, abs=1e-12)
        assert found["p"] == pytest.approx(1)
        assert found["verdict"] == "cannot tell"


def test_the_order_of_rows_changes_nothing() -> None:
    mixed = {name: shuffled(run, seed) for seed, (name, run) in enumerate(FIVE.items())}
    for metric in ("accuracy", "f1_macro", "roc_auc"):
        expected, found = compare(FIVE, metric).table, compare(mixed, metric).table
        assert found["verdict"].equals(expected["verdict"])
        assert found["p"].to_numpy() == pytest.approx(expected["p"], nan_ok=True)


# -- what cannot be compared


def test_other_rows_are_not_comparable() -> None:
    a = FIVE["s/0"]
    others = {
        "disjoint": replace(a, ids=a.ids + 1),
        "fewer": replace(a, ids=a.ids[:-1], target=a.target[:-1], output=a.output[:-1]),
        "targets": replace(a, target=(a.target + 1) % 3),
    }
    found = compare({"a": a, "b": FIVE["s/1"], **others}, "accuracy")
    for name in others:
        assert (row(found, name)["verdict"], row(found, name)["why"]) == ("not comparable", "rows")
    assert found.runs("not comparable") == tuple(others)
    assert (found.reference, found.best_of) == ("a", 2)
    assert row(found, "b")["p"] == row(found, "b")["p_corrected"]  # the only one that was made


def test_the_reference_is_of_the_largest_group_with_the_same_rows() -> None:
    strange = replace(FIVE["s/0"], ids=FIVE["s/0"].ids + 1)
    found = compare({"x": strange, "b": FIVE["s/3"], "c": FIVE["s/4"]}, "accuracy")
    assert found.reference == "b"


def test_a_run_without_numbers_is_not_comparable() -> None:
    found = compare({"a": FIVE["s/0"], "b": spoilt(FIVE["s/1"])}, "roc_auc")
    assert (row(found, "b")["verdict"], row(found, "b")["why"]) == ("not comparable", "numbers")
    named = compare({"a": FIVE["s/0"], "b": spoilt(FIVE["s/1"])}, "roc_auc", "b")
    assert named.reference == "b"
    assert set(named.table["verdict"]) == {"not comparable"}


def test_a_metric_of_the_other_task_or_that_is_not_defined_is_said() -> None:
    found = compare({"a": FIVE["s/0"], "b": regression()}, "accuracy")
    assert (row(found, "b")["verdict"], row(found, "b")["why"]) == ("not comparable", "metric")
    single = replace(FIVE["s/0"], target=FIVE["s/0"].target * 0)
    assert set(compare({"a": single, "b": single}, "roc_auc").table["why"]) == {"metric"}
    assert compare({"a": single}, "roc_auc").reference is None


def test_perfect_and_constant_scores_are_told_apart() -> None:
    target = [0] * 30 + [1] * 30
    runs = {
        "perfect": said(target, [0.1] * 30 + [0.9] * 30),
        "constant": said(target, [0.5] * 60),
        "too": said(target, [0.2] * 30 + [0.8] * 30),
    }
    assert area_shares(runs["perfect"], "roc_auc", 1).error == 0
    found = compare(runs, "roc_auc", "perfect")
    assert row(found, "constant")["verdict"] == "worse"
    assert row(found, "too")["verdict"] == "cannot tell"
    three = {
        name: said([0, 0, 0, 1, 1, 1], [0.1] * 3 + [score] * 3)
        for name, score in (("a", 0.9), ("b", 0.1))
    }
    assert row(compare(three, "roc_auc", "a"), "b")["verdict"] == "cannot tell"  # of six rows


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_few_rows_are_never_a_proof(rows: int) -> None:
    runs = {"a": classifier(rows, 2, 3.0), "b": classifier(rows, 2, 0.0, seed=1)}
    for metric in ("accuracy", "f1_macro", "brier"):
        found = row(compare(runs, metric, "a"), "b")
        assert found["verdict"] in ("cannot tell", "not comparable")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no metric 'speed'; there are accuracy"):
        compare(FIVE, "speed")
    with pytest.raises(KeyError, match="s/9"):
        compare(FIVE, "accuracy", "s/9")
