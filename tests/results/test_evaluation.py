"""Metrics, counts and calibration are scikit-learn's, and their intervals hold the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import classifier, regression, said, shuffled, spoilt
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from hpo.results.evaluation import (
    calibration,
    confusion,
    measured,
    metrics,
    operating_points,
    per_class,
    residuals,
    sampled,
    score_histogram,
    value,
)
from hpo.results.predicted import Predicted
from hpo.results.scores import LEAST_PROBABILITY, STANDARD, gives, goal_of, metric_of, names_of
from trainers import metrics as trained

CASES = [classifier(), classifier(classes=2, skill=0.4, seed=1), classifier(60, 5, 0.5, seed=2)]


def bounds(predicted: Predicted, metric: str) -> tuple[float, float]:
    low, high = metrics(predicted, [metric]).set_index("metric").loc[metric, ["low", "high"]]
    return float(low), float(high)


# -- metrics


@pytest.mark.parametrize("predicted", CASES)
def test_classification_metrics_are_sklearn_s(predicted: Predicted) -> None:
    truth, output = predicted.target, predicted.output.astype(np.float64)
    chosen, count = output.argmax(1), output.shape[1]
    output /= output.sum(1, keepdims=True)
    labels = list(range(count))
    clipped = np.clip(output, LEAST_PROBABILITY, None)
    loss = -np.log(clipped[np.arange(len(truth)), truth]).mean()
    expected = {
        "accuracy": sk.accuracy_score(truth, chosen),
        "f1_macro": sk.f1_score(truth, chosen, average="macro"),
        "f1_weighted": sk.f1_score(truth, chosen, average="weighted"),
        "roc_auc": np.mean(
            [
                sk.roc_auc_score(truth == index, predicted.output[:, index])
                for index in ([1] if count == 2 else labels)
            ]
        ),
        "log_loss": loss,
        "brier": sk.brier_score_loss(truth, output[:, 1] if count == 2 else output, labels=labels),
    }
    found = metrics(predicted)
    assert tuple(found["metric"]) == STANDARD["classification"]
    assert dict(zip(found["metric"], found["value"], strict=True)) == pytest.approx(expected)
    assert (found["low"] < found["value"]).all()
    assert (found["value"] < found["high"]).all()


def test_log_loss_is_sklearn_s_where_no_probability_is_zero() -> None:
    predicted = classifier(skill=0.2)
    output = np.clip(predicted.output.astype(np.float64), 1e-4, None)
    output /= output.sum(1, keepdims=True)
    predicted = replace(predicted, output=output)  # float64, as scikit-learn is given them
    assert value(predicted, "log_loss") == pytest.approx(sk.log_loss(predicted.target, output))


def test_a_probability_of_zero_for_the_truth_costs_what_float32_hides() -> None:
    assert value(said([1, 0], [0.0, 0.0]), "log_loss") == pytest.approx(150 * math.log(2) / 2)


def test_rows_that_do_not_quite_sum_to_one_are_probabilities_all_the_same() -> None:
    predicted = CASES[0]
    scaled = replace(predicted, output=predicted.output * np.float32(0.5))
    for metric in ("log_loss", "brier"):
        assert value(scaled, metric) == pytest.approx(value(predicted, metric))


def test_regression_metrics_are_sklearn_s() -> None:
    predicted = regression()
    truth, output = predicted.target, predicted.output
    expected = {
        "rmse": sk.root_mean_squared_error(truth, output),
        "mae": sk.mean_absolute_error(truth, output),
        "r2": sk.r2_score(truth, output),
    }
    found = metrics(predicted)
    assert tuple(found["metric"]) == STANDARD["regression"]
    assert dict(zip(found["metric"], found["value"], strict=True)) == pytest.approx(expected)
    assert (found["low"] < found["value"]).all()
    assert (found["value"] < found["high"]).all()


def of_each_class(count: int) -> list[str]:
    return [f"{name}/class {k}" for name in ("precision", "recall", "f1") for k in range(count)]


@pytest.mark.parametrize("predicted", [*CASES, classifier(300, 7, 0.2, seed=3), regression()])
def test_predictions_give_all_that_trainers_report(predicted: Predicted) -> None:
    target, output = torch.from_numpy(predicted.target), torch.from_numpy(predicted.output)
    classes: tuple[str, ...] = predicted.classes or ()
    said: trained.Scores | trained.Estimates
    if classes:
        said = trained.Scores(output.clamp(min=1e-6).log(), target)
        predicted = replace(predicted, output=said.probabilities.numpy())
    else:
        said = trained.Estimates(output.double(), target, unit=1.0)
    reported = trained.measure(said, trained.FURTHER, classes)
    del reported["loss"]  # by another name: `test_recorded_names_are_found`
    names = [*names_of(predicted), *of_each_class(len(classes))]
    assert set(names) == set(reported)
    assert all(gives(predicted, name) for name in names)
    found = measured(predicted, names)
    values = {name: value(predicted, name) for name in names}
    assert values == pytest.approx(reported, abs=1e-6, rel=1e-6)
    assert {name: each.value for name, each in found.items()} == pytest.approx(values)
    for name, each in found.items():
        assert each.low < each.value < each.high, name


def test_a_metric_of_one_class_is_of_the_class_by_its_name() -> None:
    predicted = replace(CASES[0], classes=("cat", "dog", "a/b"))
    truth, chosen = predicted.target, predicted.output.argmax(1)
    expected = sk.recall_score(truth == 1, chosen == 1)
    assert value(predicted, "recall/dog") == pytest.approx(expected)
    assert value(predicted, "f1/a_b") == pytest.approx(sk.f1_score(truth == 2, chosen == 2))
    assert not gives(predicted, "f1/bird")
    assert not gives(regression(), "f1/cat")


def test_top_5_is_of_many_classes() -> None:
    assert not gives(classifier(classes=5), "top5_accuracy")
    many = classifier(300, 9, 0.0)
    expected = sk.top_k_accuracy_score(many.target, many.output, k=5, labels=range(9))
    assert value(many, "top5_accuracy") == pytest.approx(expected, abs=0.02)  # but for ties


def test_resamples_of_the_calibration_error_lie_around_it() -> None:
    predicted = classifier(400, 2, 0.5)
    values, samples = sampled(predicted, ["ece"])
    assert samples["ece"].mean() == pytest.approx(values["ece"], rel=0.02)
    assert samples["ece"].min() >= 0


def test_r2_of_targets_far_from_zero_is_exact() -> None:
    predicted = regression()
    far = replace(
        predicted, target=predicted.target + 1e6, output=predicted.output.astype(float) + 1e6
    )
    assert metrics(far)["value"].to_numpy() == pytest.approx(metrics(predicted)["value"], rel=1e-6)
    assert metrics(far)["low"].to_numpy() == pytest.approx(metrics(predicted)["low"], rel=1e-4)


def test_r2_of_targets_that_are_all_alike_cannot_be_said() -> None:
    alike = Predicted(np.arange(5), np.full(5, 3.3), np.linspace(3, 4, 5, dtype=np.float32))
    assert math.isnan(value(alike, "r2"))
    assert value(alike, "rmse") > 0


def test_the_interval_of_accuracy_is_wilson_s() -> None:
    predicted = CASES[0]
    right = int((predicted.output.argmax(1) == predicted.target).sum())
    expected = stats.binomtest(right, 200).proportion_ci(0.95, "wilson")
    assert bounds(predicted, "accuracy") == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("metric", ["f1_macro", "log_loss"])
def test_bootstrap_intervals_are_scipy_s(metric: str) -> None:
    predicted = CASES[0]

    def of_rows(rows: np.ndarray) -> float:
        again = replace(predicted, target=predicted.target[rows], output=predicted.output[rows])
        return sampled(again, [metric])[0][metric]

    expected = stats.bootstrap(
        (np.arange(200),),
        of_rows,
        vectorized=False,
        n_resamples=400,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = expected.high - expected.low
    assert bounds(predicted, metric) == pytest.approx(tuple(expected), abs=0.12 * width)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["f1_macro", "log_loss", "brier", "mcc", "ece"])
def test_bootstrap_intervals_hold_the_truth(metric: str) -> None:
    truth = value(classifier(200_000, 3, 0.7, data=999), metric)
    held = 0
    for seed in range(400):
        low, high = bounds(classifier(150, 3, 0.7, seed=seed, data=seed), metric)
        held += low <= truth <= high
    assert 0.92 < held / 400 < 0.98


def test_many_metrics_at_once_are_what_they_are_one_by_one() -> None:
    names = ["f1_macro", "log_loss"]
    values, samples = sampled(CASES[0], names)
    for name in names:
        alone_value, alone = sampled(CASES[0], [name])
        assert values[name] == pytest.approx(alone_value[name])
        assert samples[name] == pytest.approx(alone[name], rel=1e-5)


def test_an_output_that_is_no_number_takes_every_metric() -> None:
    for predicted in (spoilt(CASES[0]), spoilt(regression())):
        assert metrics(predicted)[["value", "low", "high"]].isna().all().all()


def test_a_perfect_run_has_no_interval_where_resampling_shows_nothing() -> None:
    found = metrics(said([0, 1] * 20, [0.0, 1.0] * 20)).set_index("metric")
    assert (found.loc[["accuracy", "f1_macro", "roc_auc"], "value"] == 1).all()
    assert 0.8 < found.loc["accuracy", "low"] < 1
    assert 0.8 < found.loc["roc_auc", "low"] < 1
    assert np.isnan(found.loc["f1_macro", "low"])


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_few_rows_have_metrics_as_far_as_there_are_any(rows: int) -> None:
    for predicted in (classifier(rows), regression(rows)):
        found = metrics(predicted)
        assert found["value"].isna().all() == (rows == 0)
        assert len(found) == len(STANDARD["classification" if predicted.classes else "regression"])


def test_a_single_class_has_accuracy_and_no_area() -> None:
    predicted = replace(CASES[0], target=CASES[0].target * 0)
    assert math.isnan(value(predicted, "roc_auc"))
    assert 0 < value(predicted, "accuracy") < 1


def test_recorded_names_are_found() -> None:
    one, other = CASES[0], regression()
    assert metric_of("val/f1_macro", one) == "f1_macro"
    assert metric_of("val/loss", one) == "log_loss"
    assert metric_of("val/f1/class 2", one) == "f1/class 2"
    assert metric_of("val/f1/class 3", one) is None
    assert metric_of("val/r2", one) is None
    assert metric_of("val/loss", other) == "rmse"
    assert metric_of("val/mse", other) == "mse"
    assert metric_of("quality", other) is None


def test_the_trainers_say_which_way_is_better() -> None:
    assert (goal_of("mcc"), goal_of("brier"), goal_of("f1/class 0")) == (
        "maximize",
        "minimize",
        "maximize",
    )
    with pytest.raises(ValueError, match="there are .*, mcc"):
        goal_of("quality")


# -- classes and thresholds


@pytest.mark.parametrize("predicted", CASES)
def test_confusion_is_sklearn_s(predicted: Predicted) -> None:
    expected = sk.confusion_matrix(predicted.target, predicted.output.argmax(1))
    assert (confusion(predicted) == expected).all()


def test_confusion_leaves_out_rows_without_numbers() -> None:
    assert confusion(spoilt(CASES[0])).sum() == 199


@pytest.mark.parametrize("predicted", CASES)
def test_the_table_of_classes_is_sklearn_s(predicted: Predicted) -> None:
    found = per_class(predicted)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        predicted.target, predicted.output.argmax(1)
    )
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert found[name].to_numpy() == pytest.approx(expected)
        assert (found[f"{name}_low"] <= found[name]).all()
        assert (found[name] <= found[f"{name}_high"]).all()
    assert list(found["support"]) == list(support)
    assert list(found["class"]) == list(predicted.classes or ())
    area = sk.roc_auc_score(predicted.target == 1, predicted.output[:, 1])
    assert found.loc[1, "auc"] == pytest.approx(area)


def test_a_class_that_is_nowhere_has_nothing_to_say() -> None:
    found = per_class(said([0, 0, 0], [0.1, 0.2, 0.3]))
    missing = found.loc[1].drop(["class", "support"])
    assert missing.isna().all()
    assert found.loc[1, "support"] == 0
    assert found.loc[0, "recall"] == 1
    assert found.loc[0, "recall_low"] < 0.6


def test_classes_of_a_run_with_an_output_that_is_no_number_have_no_metrics() -> None:
    found = per_class(spoilt(CASES[0]))
    assert found["support"].sum() == 199
    assert found.loc[:, "precision":].isna().all().all()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_an_operating_point_is_sklearn_s(threshold: float) -> None:
    predicted = CASES[0]
    truth = predicted.target == 2
    yes = predicted.output[:, 2] >= np.float32(threshold)
    found = operating_points({"": predicted}, 2, threshold).iloc[0]
    tn, fp, fn, tp = sk.confusion_matrix(truth, yes, labels=[False, True]).ravel()
    assert [found[name] for name in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]
    expected = {
        "tpr": sk.recall_score(truth, yes),
        "fpr": fp / (fp + tn),
        "precision": sk.precision_score(truth, yes, zero_division=math.nan),
        "recall": sk.recall_score(truth, yes),
        "f1": sk.f1_score(truth, yes),
        "accuracy": sk.accuracy_score(truth, yes),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)


def test_operating_points_of_many_runs_are_theirs() -> None:
    runs = {f"s/{seed}": classifier(seed=seed) for seed in range(3)}
    table = operating_points(runs, 1, 0.4).set_index("run")
    for name, predicted in runs.items():
        alone = operating_points({name: predicted}, 1, 0.4).set_index("run")
        pd.testing.assert_series_equal(table.loc[name], alone.loc[name])
    assert operating_points({}, 1, 0.4).empty


def test_a_point_at_which_nothing_is_said_has_no_precision() -> None:
    found = operating_points({"": said([0, 1], [0.1, 0.2])}, 1, 0.9).iloc[0]
    assert math.isnan(found["precision"])
    assert (found["recall"], found["f1"], found["accuracy"]) == (0, 0, 0.5)


# -- calibration


def test_calibration_is_sklearn_s() -> None:
    predicted = classifier(1000, 2, 0.3)
    right = predicted.output.argmax(1) == predicted.target
    confidence = predicted.output.max(1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=7)
    found = calibration(predicted, bins=7)
    assert found["accuracy"].to_numpy() == pytest.approx(accuracy)
    assert found["confidence"].to_numpy() == pytest.approx(mean)
    assert found["count"].sum() == 1000
    assert (found["low"] <= found["accuracy"]).all()
    assert (found["accuracy"] <= found["high"]).all()


def test_the_calibration_error_is_the_weighted_distance() -> None:
    sure = said([1, 1, 0, 0], [0.95, 0.95, 0.95, 0.35])
    expected = 0.75 * abs(0.95 - 2 / 3) + 0.25 * abs(0.65 - 1)
    assert value(sure, "ece") == pytest.approx(expected)
    assert math.isnan(value(spoilt(sure), "ece"))


def test_full_confidence_falls_into_the_last_bin() -> None:
    found = calibration(said([1, 0], [1.0, 0.0]))
    assert list(found["to"]) == [1.0]
    assert calibration(classifier(0)).empty


def test_a_histogram_counts_every_row_on_its_side() -> None:
    predicted = CASES[0]
    found = score_histogram(predicted, 1, bins=10)
    assert found["positives"].sum() == (predicted.target == 1).sum()
    assert found["negatives"].sum() == (predicted.target != 1).sum()
    top = (predicted.output[:, 1] >= 0.9) & (predicted.target == 1)
    assert found["positives"].iloc[-1] == top.sum()


# -- regression


def test_residuals_are_what_is_missing_to_the_target() -> None:
    predicted = spoilt(regression(), row=3)
    found = residuals(predicted)
    assert 3 not in set(found["id"])
    assert (found["output"] + found["residual"]).to_numpy() == pytest.approx(found["target"])


def test_nothing_depends_on_the_order_of_rows() -> None:
    predicted = CASES[0]
    pd.testing.assert_frame_equal(per_class(shuffled(predicted)), per_class(predicted))
    assert metrics(shuffled(predicted))["value"].to_numpy() == pytest.approx(
        metrics(predicted)["value"]
    )
