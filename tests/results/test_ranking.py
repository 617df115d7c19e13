"""Curves and areas are scikit-learn's, and their intervals DeLong's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up import classifier, regression, said, shuffled, spoilt
from sklearn import metrics as sk
from sklearn.preprocessing import label_binarize

from hpo.results import intervals
from hpo.results.predicted import Predicted
from hpo.results.ranking import (
    POINTS,
    Of,
    area_shares,
    auc,
    average_precision,
    precision_recall,
    roc,
    roc_band,
)

CASES = [classifier(), classifier(classes=2, skill=0.4, seed=1), classifier(60, 5, 0.5, seed=2)]


def wanted(predicted: Predicted, of: Of) -> tuple[Any, Any]:
    """Truth and scores as scikit-learn takes them."""
    if isinstance(of, int):
        return predicted.target == of, predicted.output[:, of]
    count = predicted.output.shape[1]
    if count == 2:
        return predicted.target == 1, predicted.output[:, 1]
    return label_binarize(predicted.target, classes=range(count)), predicted.output


# -- curves


@pytest.mark.parametrize("predicted", CASES)
def test_the_roc_curve_is_sklearn_s(predicted: Predicted) -> None:
    fpr, tpr, threshold = sk.roc_curve(*wanted(predicted, 1))
    found = roc(predicted, 1)
    assert np.interp(fpr, found["fpr"], found["tpr"]) == pytest.approx(np.interp(fpr, fpr, tpr))
    assert set(found["threshold"]) <= set(threshold)
    assert sk.auc(found["fpr"], found["tpr"]) == pytest.approx(sk.auc(fpr, tpr))


def test_the_pooled_curves_are_sklearn_s() -> None:
    predicted = CASES[0]
    truth, scores = wanted(predicted, "micro")
    fpr, tpr, _ = sk.roc_curve(truth.ravel(), scores.ravel())
    found = roc(predicted, "micro")
    assert sk.auc(found["fpr"], found["tpr"]) == pytest.approx(sk.auc(fpr, tpr), abs=1e-3)


def test_the_macro_curve_is_the_mean_of_the_classes_curves() -> None:
    predicted = CASES[0]
    found = roc(predicted, "macro")
    inside = found[found["fpr"] > 0]
    curves = [sk.roc_curve(*wanted(predicted, index)) for index in range(3)]
    mean = np.mean([np.interp(inside["fpr"], fpr, tpr) for fpr, tpr, _ in curves], axis=0)
    assert inside["tpr"].to_numpy() == pytest.approx(mean)
    assert sk.auc(found["fpr"], found["tpr"]) == pytest.approx(
        auc(predicted, "macro").value, abs=5e-3
    )


@pytest.mark.parametrize("predicted", CASES)
def test_the_precision_recall_curve_is_sklearn_s(predicted: Predicted) -> None:
    found = precision_recall(predicted, 1)
    precision, recall, _ = sk.precision_recall_curve(*wanted(predicted, 1))
    expected = set(zip(recall.round(9), precision.round(9), strict=True))
    assert set(zip(found["recall"].round(9), found["precision"].round(9), strict=True)) <= expected
    assert (found["recall"].diff()[1:] >= 0).all()
    assert tuple(found.iloc[0][["recall", "precision"]]) == (0, 1)


def test_the_staircase_s_area_is_the_average_precision() -> None:
    for of in (0, "macro"):
        found = precision_recall(CASES[0], of)
        area = (found["recall"].diff()[1:] * found["precision"][1:]).sum()
        assert area == pytest.approx(average_precision(CASES[0], of).value, abs=5e-3)


@pytest.mark.parametrize("of", [2, "macro", "micro"])
def test_curves_of_many_rows_have_few_points_in_the_same_places(of: Of) -> None:
    predicted = classifier(5000, 4, 0.3)
    found = roc(predicted, of)
    assert len(found) <= POINTS
    assert tuple(found.iloc[0][["fpr", "tpr"]]) == (0, 0)
    assert tuple(found.iloc[-1][["fpr", "tpr"]]) == (1, 1)
    if of == 2:
        fpr, tpr, _ = sk.roc_curve(*wanted(predicted, of))
        assert np.abs(np.interp(fpr, found["fpr"], found["tpr"]) - tpr).max() < 0.01
    assert len(precision_recall(predicted, of)) <= POINTS


# -- areas


@pytest.mark.parametrize("predicted", CASES)
@pytest.mark.parametrize("of", [0, 1, "macro", "micro"])
def test_areas_are_sklearn_s(predicted: Predicted, of: Of) -> None:
    truth, scores = wanted(predicted, of)
    average = {} if isinstance(of, int) else {"average": of}
    assert auc(predicted, of).value == pytest.approx(sk.roc_auc_score(truth, scores, **average))
    expected = sk.average_precision_score(truth, scores, **average)
    assert average_precision(predicted, of).value == pytest.approx(expected)


def naive_delong(a: Predicted, b: Predicted, of: int) -> tuple[float, float, float]:
    """The variances of two areas and their covariance, from all pairs: DeLong et al., 1988."""
    positive = a.target == of
    placements = []
    for run in (a, b):
        x, y = run.output[positive, of], run.output[~positive, of]
        won = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
        placements.append((won.mean(axis=1), won.mean(axis=0)))
    (xa, ya), (xb, yb) = placements
    covariance = np.cov(xa, xb) / len(xa) + np.cov(ya, yb) / len(ya)
    return covariance[0, 0], covariance[1, 1], covariance[0, 1]


@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_variance_of_an_area_is_delong_s(classes: int, of: int) -> None:
    a, b = classifier(80, classes, 0.5, seed=1), classifier(80, classes, 0.8, seed=2)
    of_a, of_b, both = naive_delong(a, b, of)
    shares_a, shares_b = area_shares(a, "roc_auc", of), area_shares(b, "roc_auc", of)
    assert shares_a.error**2 == pytest.approx(of_a)
    assert shares_b.error**2 == pytest.approx(of_b)
    difference = ((shares_a.rows - shares_b.rows) ** 2).sum()
    assert difference == pytest.approx(of_a + of_b - 2 * both)


def test_the_delong_interval_is_on_the_logit_scale() -> None:
    predicted = CASES[1]
    found, error = auc(predicted, 1), area_shares(predicted, "roc_auc", 1).error
    value = found.value
    reach = 1.959964 * error / (value * (1 - value))
    logit = np.log(value / (1 - value))
    expected = 1 / (1 + np.exp(-(logit + np.array([-reach, reach]))))
    assert [found.low, found.high] == pytest.approx(expected)


@pytest.mark.parametrize("of", ["macro", "micro"])
@pytest.mark.parametrize("kind", ["roc", "precision"])
def test_intervals_of_averages_are_as_wide_as_the_bootstrap_s(of: Of, kind: str) -> None:
    predicted = classifier(300, 3, 0.6)
    score = sk.roc_auc_score if kind == "roc" else sk.average_precision_score
    random, values = np.random.default_rng(0), []
    for _ in range(300):
        rows = random.integers(0, 300, 300)
        again = replace(predicted, target=predicted.target[rows], output=predicted.output[rows])
        values.append(score(*wanted(again, of), average=of))
    found = (auc if kind == "roc" else average_precision)(predicted, of)
    bounds = np.percentile(values, [2.5, 97.5])
    assert found.high - found.low == pytest.approx(bounds[1] - bounds[0], rel=0.15)


@pytest.mark.parametrize("of", [1, "macro"])
@pytest.mark.parametrize("area", [auc, average_precision])
def test_intervals_of_areas_hold_the_truth(of: Of, area: Any) -> None:
    truth = area(classifier(200_000, 3, 0.7, data=999), of).value
    held = 0
    for seed in range(500):
        found = area(classifier(150, 3, 0.7, seed=seed, data=seed), of)
        held += found.low <= truth <= found.high
    assert 0.92 < held / 500 < 0.98


def test_a_perfect_area_still_has_an_interval() -> None:
    perfect = said([0] * 6 + [1] * 4, [0.1] * 6 + [0.9] * 4)
    found = auc(perfect, 1)
    assert (found.value, found.high) == (1, 1)
    assert 0.4 < found.low < 0.8
    precision = average_precision(perfect, 1)
    assert (precision.value, precision.low) == (1, pytest.approx(4 / (4 + 1.959964**2)))
    assert auc(said([0] * 6 + [1] * 4, [0.9] * 6 + [0.1] * 4), 1).value == 0


def test_constant_scores_rank_nothing() -> None:
    found = auc(said([0, 0, 1, 1, 1], [0.3] * 5), 1)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert len(roc(said([0, 0, 1], [0.3] * 3), 1)) == 2


def test_one_positive_has_a_wide_interval() -> None:
    found = auc(said([0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.9, 0.8]), 1)
    assert found.value == 0.75
    assert found.low < 0.3


def test_of_a_class_that_is_missing_there_is_no_curve_and_the_mean_is_over_the_others() -> None:
    predicted = classifier(90, 3)
    two = replace(predicted, target=predicted.target % 2)  # nothing of class 2
    assert np.isnan(auc(two, 2).value)
    assert np.isnan(average_precision(two, 2).value)
    assert roc(two, 2).empty
    assert precision_recall(two, 2).empty
    assert roc_band(two, 2).empty
    assert auc(two, "macro").value == pytest.approx((auc(two, 0).value + auc(two, 1).value) / 2)
    single = replace(predicted, target=predicted.target * 0)
    assert np.isnan(auc(single, "macro").value)
    assert roc(single, "macro").empty


def test_an_output_that_is_no_number_leaves_the_curve_and_takes_the_area() -> None:
    predicted = CASES[0]
    assert np.isnan(auc(spoilt(predicted), "macro").value)
    assert np.isnan(average_precision(spoilt(predicted), 1).value)
    rest = replace(
        predicted,
        ids=predicted.ids[1:],
        target=predicted.target[1:],
        output=predicted.output[1:],
    )
    assert roc(spoilt(predicted), 1).equals(roc(rest, 1))


def test_nothing_depends_on_the_order_of_rows() -> None:
    mixed = shuffled(CASES[0])
    assert auc(mixed, "macro").low == pytest.approx(auc(CASES[0], "macro").low)
    assert roc(mixed, 1).equals(roc(CASES[0], 1))


def test_a_regression_has_no_curve() -> None:
    with pytest.raises(ValueError, match="regression"):
        roc(regression(), 1)


# -- the band


@pytest.mark.parametrize("of", [1, "macro", "micro"])
def test_the_band_is_what_resampling_row_by_row_gives(of: Of) -> None:
    predicted = classifier(250, 3, 0.4)
    found = roc_band(predicted, of)
    random, heights = np.random.default_rng(1), []
    for _ in range(300):
        rows = random.integers(0, 250, 250)
        again = replace(predicted, target=predicted.target[rows], output=predicted.output[rows])
        curve = roc(again, of)
        heights.append(np.interp(found["fpr"], curve["fpr"], curve["tpr"]))
    low, high = np.percentile(heights, [2.5, 97.5], axis=0)
    inside = slice(3, -3)
    assert (found["low"] - low)[inside].abs().max() < 0.06
    assert (found["high"] - high)[inside].abs().max() < 0.06
    assert (found["low"] <= found["tpr"] + 1e-9).all()
    assert (found["tpr"] <= found["high"] + 1e-9).all()


def test_the_band_of_a_perfect_curve_has_a_width() -> None:
    found = roc_band(said([0] * 10 + [1] * 10, [0.1] * 10 + [0.9] * 10), 1)
    assert (found["tpr"] == 1).all()
    assert found["low"].max() < 0.8


def test_a_band_of_few_rows_with_a_rare_class_is_drawn() -> None:
    found = roc_band(said([0, 0, 0, 0, 0, 1], [0.1, 0.4, 0.2, 0.7, 0.3, 0.6]), 1)
    assert not found.isna().any().any()


def test_the_band_of_rows_in_groups_is_that_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = classifier(2000, 2, 0.3)
    by_row = roc_band(predicted, 1)
    monkeypatch.setattr(intervals, "GROUPS", 300)
    grouped = roc_band(predicted, 1)
    assert (grouped - by_row).abs().max().max() < 0.02
