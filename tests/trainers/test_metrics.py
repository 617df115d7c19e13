"""The metrics are scikit-learn's, and finite where scikit-learn has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from trainers.metrics import (
    CLASSIFICATION,
    REGRESSION,
    Estimates,
    Scores,
    maximize,
    measure,
    names,
)


def scores(rows: int, classes: int, seed: int, ties: bool = False) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[:classes] = torch.arange(classes)  # scikit-learn wants every class
    logits = torch.randn(rows, classes, generator=generator) * 2
    logits[torch.arange(rows), target] += 1
    return Scores(logits.round() if ties else logits, target)


def expected(given: Scores) -> dict[str, float]:
    target = given.target.numpy()
    predicted = given.logits.argmax(1).numpy()
    probabilities = given.probabilities.numpy()
    binary = probabilities.shape[1] == 2
    score = probabilities[:, 1] if binary else probabilities
    # One column at a time: roc_auc_score(multi_class="ovr") refuses float32 rows that do not sum
    # to 1 to the last bit.
    auc = (
        sk.roc_auc_score(target, score)
        if binary
        else np.mean([sk.roc_auc_score(target == k, c) for k, c in enumerate(score.T)])
    )
    return {
        "loss": sk.log_loss(target, np.float64(probabilities), labels=range(len(probabilities.T))),
        "accuracy": sk.accuracy_score(target, predicted),
        "f1_macro": sk.f1_score(target, predicted, average="macro"),
        "f1_weighted": sk.f1_score(target, predicted, average="weighted"),
        "roc_auc": float(auc),
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("rows", "classes"), [(40, 2), (200, 3), (1079, 10)])
@pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")
def test_classification_equals_scikit_learn(rows: int, classes: int, ties: bool) -> None:
    given = scores(rows, classes, seed=rows, ties=ties)
    assert measure(given) == pytest.approx(expected(given), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_roc_auc_with_many_ties_equals_scikit_learn(rows: int, seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    target = torch.from_numpy(random.integers(0, 2, rows))
    target[:2] = torch.tensor([0, 1])
    value = torch.from_numpy(random.integers(0, levels, rows)).float()
    given = Scores(torch.stack([-value, value], 1), target)
    want = sk.roc_auc_score(target.numpy(), given.probabilities[:, 1].numpy())
    assert measure(given)["roc_auc"] == pytest.approx(want, abs=1e-12)


def test_a_class_missing_from_the_targets_is_left_out_of_the_means() -> None:
    given = scores(200, 4, seed=1)
    given.target[given.target == 3] = 0
    measured = measure(given)
    columns = given.probabilities.numpy().T[:3]
    target = given.target.numpy()
    want = np.mean([sk.roc_auc_score(target == k, column) for k, column in enumerate(columns)])
    assert measured["roc_auc"] == pytest.approx(want)
    predicted = given.logits.argmax(1).numpy()
    assert measured["f1_macro"] == pytest.approx(sk.f1_score(target, predicted, average="macro"))


def test_a_class_neither_targeted_nor_predicted_does_not_lower_f1() -> None:
    logits = torch.tensor([[5.0, 0, -9], [0, 5, -9], [5, 0, -9]])
    measured = measure(Scores(logits, torch.tensor([0, 1, 0])))
    assert measured["f1_macro"] == 1.0
    assert all(math.isfinite(value) for value in measured.values())


@pytest.mark.parametrize("spread", [0.0, 1.0, 1000.0])
def test_regression_equals_scikit_learn(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    target = 50 + spread * torch.randn(300, generator=generator)
    output = target + torch.randn(300, generator=generator)
    mse = sk.mean_squared_error(target.numpy(), output.numpy())
    assert measure(Estimates(output, target, unit=7.0)) == pytest.approx(
        {
            "loss": mse / 49,
            "mse": mse,
            "mae": sk.mean_absolute_error(target.numpy(), output.numpy()),
            "r2": sk.r2_score(target.numpy(), output.numpy()),
        },
        rel=1e-5,
    )


def test_names_and_directions_cover_what_is_measured() -> None:
    assert names("classification") == [
        *(f"train/{name}" for name in CLASSIFICATION),
        *(f"val/{name}" for name in CLASSIFICATION),
    ]
    assert [name for name in names("regression") if maximize(name)] == ["train/r2", "val/r2"]
    assert set(measure(Estimates(torch.ones(2), torch.arange(2.0), 1.0))) == set(REGRESSION)
    assert maximize("val/f1_macro")
    assert not maximize("val/loss")
