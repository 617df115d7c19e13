"""The metrics are scikit-learn's, and finite where scikit-learn has none."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from trainers.ensembles import combined
from trainers.metrics import (
    ALWAYS,
    BINS,
    CLASSIFICATION,
    FURTHER,
    METRICS,
    MULTILABEL,
    REGRESSION,
    TABLES,
    Estimates,
    Labels,
    Scores,
    asked,
    known,
    maximize,
    measure,
    measure_each,
    names,
    output,
    recordable,
)


def scores(rows: int, classes: int, seed: int, ties: bool = False) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[:classes] = torch.arange(classes)  # scikit-learn wants every class
    logits = torch.randn(rows, classes, generator=generator) * 2
    logits[torch.arange(rows), target] += 1
    return Scores(logits.round() if ties else logits, target)


def labels(rows: int, count: int, seed: int) -> Labels:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand((rows, count), generator=generator) < 0.3
    target[0], target[1] = True, False
    logits = torch.randn((rows, count), generator=generator) + 2 * target - 1
    return Labels((logits * 2).round() / 2, target)


def letters(count: int) -> list[str]:
    return [chr(ord("a") + number) for number in range(count)]


def counted(target: Any, predicted: Any, count: int) -> dict[str, float]:
    """What is of counts, of classes or of labels."""
    found = {}
    for name in ("precision", "recall", "f1"):
        function = getattr(sk, f"{name}_score")
        for mean in ("macro", "micro", "weighted"):
            found[f"{name}_{mean}"] = function(target, predicted, average=mean, zero_division=0)
        each = function(target, predicted, average=None, labels=range(count), zero_division=0)
        found |= {f"{name}/{letter}": e for letter, e in zip(letters(count), each, strict=True)}
    return found


def calibration_error(probabilities: Any, target: Any) -> float:
    """By the formula of Guo et al. 2017, one bin after the other."""
    sure, said, found = probabilities.max(1), probabilities.argmax(1), 0.0
    for number in range(BINS):
        here = (sure >= number / BINS) & ((sure < (number + 1) / BINS) | (number == BINS - 1))
        if here.any():
            gap = abs((said == target)[here].mean() - sure[here].mean())
            found += here.mean() * gap
    return float(found)


def expected(given: Scores) -> dict[str, float]:
    target = given.target.numpy()
    predicted = given.logits.argmax(1).numpy()
    probabilities = given.probabilities.double().numpy()
    classes = probabilities.shape[1]
    # One column at a time: roc_auc_score(multi_class="ovr") refuses float32 rows that do not sum
    # to 1 to the last bit.
    of_each = [(target == k, probabilities[:, k]) for k in range(classes)]
    of_each = of_each[1:] if classes == 2 else of_each
    numbers = np.arange(classes)
    truth = np.float64(target[:, None] == numbers)
    found = counted(target, predicted, classes) | {
        "loss": sk.log_loss(target, probabilities, labels=numbers),
        "log_loss": sk.log_loss(target, probabilities, labels=numbers),
        "accuracy": sk.accuracy_score(target, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(target, predicted),
        "mcc": sk.matthews_corrcoef(target, predicted),
        "roc_auc": np.mean([sk.roc_auc_score(*one) for one in of_each]),
        "pr_auc": np.mean([sk.average_precision_score(*one) for one in of_each]),
        "brier": ((probabilities - truth) ** 2).sum(1).mean() / (2 if classes == 2 else 1),
        "ece": calibration_error(probabilities, target),
    }
    if classes > 5:
        found["top5_accuracy"] = sk.top_k_accuracy_score(target, given.logits.numpy(), k=5)
    return found


@pytest.mark.parametrize(
    ("rows", "classes", "ties"),
    [(40, 2, False), (40, 2, True), (200, 3, False), (200, 3, True), (1079, 10, False)],
)
@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")
def test_classification_equals_scikit_learn(rows: int, classes: int, ties: bool) -> None:
    given = scores(rows, classes, seed=rows, ties=ties)
    found = measure(given, FURTHER, letters(classes))
    assert found == pytest.approx(expected(given), rel=1e-6)
    assert set(measure(given)) == {n for n, row in CLASSIFICATION.items() if row.always}


def test_brier_of_two_classes_is_scikit_learn_s() -> None:
    given = scores(50, 2, seed=0)
    want = sk.brier_score_loss(given.target.numpy(), given.probabilities[:, 1].numpy())
    assert measure(given, ["brier"])["brier"] == pytest.approx(want, rel=1e-6)


def test_labels_equal_scikit_learn() -> None:
    given = labels(150, 4, seed=0)
    target, said = given.target.numpy(), (given.logits >= 0).numpy()
    probabilities = given.probabilities.double().numpy()
    bce = np.mean([sk.log_loss(t, p) for t, p in zip(target.T, probabilities.T, strict=True)])
    want = counted(target, said, 4) | {
        "loss": bce,
        "log_loss": bce,
        "accuracy": sk.accuracy_score(target, said),
        "hamming_loss": sk.hamming_loss(target, said),
        "roc_auc": sk.roc_auc_score(target, probabilities),
        "pr_auc": sk.average_precision_score(target, probabilities),
        "brier": sk.mean_squared_error(target, probabilities),
    }
    assert measure(given, FURTHER, letters(4)) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("of", [scores, labels])
def test_lanes_are_measured_together_as_each_alone(of: Any) -> None:
    alone = [of(60, 7, seed=seed) for seed in range(3)]
    stack = type(alone[0])(*(torch.stack([getattr(a, n) for a in alone]) for n in vars(alone[0])))
    found = measure_each(stack, FURTHER, letters(7))
    for one, values in zip(alone, found, strict=True):
        assert values == pytest.approx(measure(one, FURTHER, letters(7)), rel=1e-12)
    assert len({values["mcc" if of is scores else "hamming_loss"] for values in found}) == 3


def test_lanes_of_values_are_measured_to_the_last_bit_as_each_alone() -> None:
    output, target = torch.randn((2, 3, 90), generator=torch.Generator().manual_seed(1))
    found = measure_each(Estimates(output, target, 1.0), FURTHER)
    for place, values in enumerate(found):
        alone = Estimates(output[place : place + 1], target[place : place + 1], 1.0)
        assert measure_each(alone, FURTHER) == [values]


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_areas_with_many_ties_equal_scikit_learn(rows: int, seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    target = torch.from_numpy(random.integers(0, 2, rows))
    target[:2] = torch.tensor([0, 1])
    value = torch.from_numpy(random.integers(0, levels, rows)).float()
    given = Scores(torch.stack([-value, value], 1), target)
    said = target.numpy(), given.probabilities[:, 1].numpy()
    found = measure(given, ["pr_auc"])
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(*said), abs=1e-12)
    assert found["pr_auc"] == pytest.approx(sk.average_precision_score(*said), abs=1e-12)


def test_a_class_missing_from_the_targets_is_left_out_of_the_means() -> None:
    given = scores(200, 4, seed=1)
    given.target[given.target == 3] = 0
    measured = measure(given, FURTHER, letters(4))
    columns = given.probabilities.numpy().T[:3]
    target = given.target.numpy()
    want = np.mean([sk.roc_auc_score(target == k, column) for k, column in enumerate(columns)])
    assert measured["roc_auc"] == pytest.approx(want)
    want = np.mean([sk.average_precision_score(target == k, c) for k, c in enumerate(columns)])
    assert measured["pr_auc"] == pytest.approx(want)
    predicted = given.logits.argmax(1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that is predicted and never the target
        want = {
            "balanced_accuracy": sk.balanced_accuracy_score(target, predicted),
            "recall_macro": sk.recall_score(target, predicted, average="macro"),
            "f1_macro": sk.f1_score(target, predicted, average="macro"),
        }
    assert {name: measured[name] for name in want} == pytest.approx(want)


def test_a_class_neither_targeted_nor_predicted_does_not_lower_f1() -> None:
    logits = torch.tensor([[5.0, 0, -9], [0, 5, -9], [5, 0, -9]])
    measured = measure(Scores(logits, torch.tensor([0, 1, 0])), FURTHER, letters(3))
    assert measured["f1_macro"] == 1.0
    assert all(math.isfinite(value) for value in measured.values())


def test_there_is_no_correlation_where_everything_is_said_to_be_of_one_class() -> None:
    logits = torch.tensor([[5.0, 0], [5, 0], [5, 0]])
    assert measure(Scores(logits, torch.tensor([0, 1, 0])), ["mcc"])["mcc"] == 0


def test_what_is_no_number_is_measured_all_the_same() -> None:
    """A model that diverged in a stack must not keep the others from being measured."""
    lost = scores(20, 7, seed=0)
    lost.logits[3] = math.nan
    assert math.isnan(measure(lost, FURTHER, letters(7))["ece"])
    lost_labels = labels(20, 3, seed=0)
    lost_labels.logits[3] = math.nan
    assert math.isnan(measure(lost_labels, FURTHER, letters(3))["brier"])


@pytest.mark.parametrize("spread", [0.0, 1.0, 1000.0])
def test_regression_equals_scikit_learn(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    target = 50 + spread * torch.randn(300, generator=generator)
    output = target + torch.randn(300, generator=generator)
    mse = sk.mean_squared_error(target.numpy(), output.numpy())
    assert measure(Estimates(output, target, unit=7.0), FURTHER) == pytest.approx(
        {
            "loss": mse / 49,
            "mse": mse,
            "rmse": sk.root_mean_squared_error(target.numpy(), output.numpy()),
            "mae": sk.mean_absolute_error(target.numpy(), output.numpy()),
            "mape": sk.mean_absolute_percentage_error(target.numpy(), output.numpy()),
            "r2": sk.r2_score(target.numpy(), output.numpy()),
        },
        rel=1e-5,
    )


# -- several models' labels together


def test_labels_of_several_models_are_combined_label_by_label() -> None:
    three = [labels(30, 4, seed=seed) for seed in range(3)]
    said = [Labels(own.logits, three[0].target) for own in three]
    probabilities = torch.stack([own.probabilities for own in said])
    mean, logits, vote = (combined(said, how) for how in ("mean", "logits", "vote"))
    torch.testing.assert_close(output(mean), probabilities.mean(0))
    expected = torch.stack([own.logits for own in said]).mean(0).sigmoid()
    torch.testing.assert_close(output(logits), expected)
    named = (probabilities >= 0.5).sum(0)
    torch.testing.assert_close(output(vote), (named + 0.5) / 4)
    weighted = combined(said, "weighted", {"weights": [0.0, 1.0, 0.0]})
    assert isinstance(weighted, Labels)
    torch.testing.assert_close(weighted.logits, said[1].logits, rtol=1e-4, atol=1e-5)


# -- names


def test_names_and_directions_cover_what_is_measured() -> None:
    always = [name for name in CLASSIFICATION if CLASSIFICATION[name].always]
    assert names("classification") == [
        f"{split}/{n}" for split in ("train", "val") for n in always
    ]
    assert [name for name in names("regression") if maximize(name)] == ["train/r2", "val/r2"]
    assert set(measure(Estimates(torch.ones(2), torch.arange(2.0), 1.0), FURTHER)) == set(
        REGRESSION
    )
    assert maximize("val/f1_macro")
    assert maximize("val/f1/cat")
    assert not maximize("val/loss")


def test_a_name_means_the_same_in_every_table() -> None:
    for table in (CLASSIFICATION, MULTILABEL, REGRESSION):
        for name, row in table.items():
            assert (row.maximize, row.always, row.each) == (
                METRICS[name].maximize,
                METRICS[name].always,
                METRICS[name].each,
            )
    assert {*ALWAYS, *FURTHER} == {name for table in TABLES.values() for name in table}


def test_what_is_known_is_what_can_be_measured() -> None:
    for count in (5, 6):
        given, classes = scores(30, count, seed=2), letters(count)
        found = known("classification", classes)
        of_validation = [name.removeprefix("val/") for name in found if name.startswith("val/")]
        assert sorted(of_validation) == sorted(measure(given, FURTHER, classes))
        assert ("val/top5_accuracy" in found) == (count > 5)


def test_a_class_has_a_name_that_can_be_recorded() -> None:
    classes = ["cat", "a/b", "a,b", "..", "", "x" * 300, "Käfer"]
    assert recordable(classes) == ["cat", *(f"class {n}" for n in range(1, 6)), "Käfer"]


def test_what_is_watched_is_asked_for_by_its_row() -> None:
    listed = ["val/f1/cat", "val/loss", "val/mcc", "val/f1/dog", "cost/parameters", "quality"]
    assert asked(listed) == ["f1", "mcc"]
