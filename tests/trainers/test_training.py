"""The built-in trainers learn, repeat themselves exactly, and go on where they were stopped."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, mean_squared_error

from trainers.contract import DataError, NonFinite

DIGITS = ("image_classifier", {"source": "digits"})
FAST = {"epochs": 4, "optimizer": "sgd", "lr": 0.05, "batch_size": 32}


def test_an_mlp_learns_digits(run: Any) -> None:
    assert run(*DIGITS, {"hidden": [64]}, FAST).last["val/accuracy"] > 0.9


def test_a_cnn_learns_digits(run: Any) -> None:
    train = {"epochs": 4, "lr": 0.01, "batch_size": 64}
    trial = run(*DIGITS, {"name": "cnn", "channels": [16, 32]}, train)
    assert trial.last["val/accuracy"] > 0.9


def test_an_image_folder_is_learned(run: Any, image_folder: Any) -> None:
    folder = image_folder(each=20)
    model = {"name": "cnn", "channels": [8]}
    train = {"epochs": 12, "lr": 0.03, "batch_size": 8}
    trial = run("image_classifier", {"source": str(folder)}, model, train)
    assert trial.last["val/accuracy"] == 1.0


def test_breast_cancer_is_learned(run: Any) -> None:
    trial = run("tabular", {"source": "breast_cancer"}, {}, {"epochs": 10, "lr": 0.01})
    assert trial.last["val/roc_auc"] > 0.97
    assert trial.last["val/f1_macro"] > 0.9


def test_diabetes_is_learned(run: Any) -> None:
    trial = run("tabular", {"source": "diabetes"}, {"hidden": [32]}, {"epochs": 20, "lr": 0.005})
    assert trial.last["val/r2"] > 0.3


@pytest.mark.parametrize(
    ("source", "rows"), [("breast_cancer", 114), ("diabetes", 88), ("wine", 36)]
)
def test_what_is_reported_is_what_is_announced(run: Any, source: str, rows: int) -> None:
    trial = run("tabular", {"source": source}, {}, {"epochs": 2})
    assert list(trial.epochs) == [1, 2]
    for reported in trial.epochs.values():
        assert list(reported) == trial.data.summary["metrics"]
        assert all(math.isfinite(value) for value in reported.values())
    assert len(trial.predictions.ids) == rows


def test_predictions_are_of_the_validation_rows_and_give_the_metrics(run: Any) -> None:
    trial = run(*DIGITS, {}, FAST)
    data, said = trial.data, trial.predictions
    assert np.array_equal(said.ids, data.ids[data.validation].numpy())
    assert np.array_equal(said.target, data.target[data.validation].numpy())
    assert (said.ids.dtype, said.target.dtype, said.output.dtype) == ("int64", "int64", "float32")
    assert said.output.shape == (359, 10)
    assert accuracy_score(said.target, said.output.argmax(1)) == trial.last["val/accuracy"]
    probabilities = said.output / said.output.sum(1, keepdims=True)
    assert log_loss(said.target, probabilities) == pytest.approx(trial.last["val/loss"], rel=1e-5)


def test_regression_predictions_are_in_the_target_s_units(run: Any) -> None:
    trial = run("tabular", {"source": "diabetes"}, {}, {"epochs": 3})
    said = trial.predictions
    assert (said.target.dtype, said.output.dtype) == ("float32", "float32")
    assert 25 <= said.target.min() < said.target.max() <= 346
    mse = mean_squared_error(said.target, said.output)
    assert mse == pytest.approx(trial.last["val/mse"], rel=1e-5)
    unit = trial.data.splits[0].target_std
    assert mse / unit**2 == pytest.approx(trial.last["val/loss"], rel=1e-5)


VARIANTS = {
    "mlp": (*DIGITS, {"dropout": 0.2}, FAST),
    "nesterov": (*DIGITS, {}, {**FAST, "nesterov": True, "schedule": "cosine"}),
    "cnn": (*DIGITS, {"name": "cnn", "channels": [4, 8], "dropout": 0.3}, {"epochs": 4}),
    "folds": ("tabular", {"source": "wine", "folds": 3}, {"dropout": 0.1}, {"epochs": 4}),
    "stopping": (
        "tabular",
        {"source": "diabetes"},
        {"dropout": 0.1},
        {"epochs": 9, "lr": 0.1, "early_stopping": {"patience": 2}},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_seed_gives_the_same_metrics(run: Any, name: str) -> None:
    first = run(*VARIANTS[name], seed=5)
    torch.manual_seed(77)  # what else was drawn in this process does not matter
    assert run(*VARIANTS[name], seed=5).epochs == first.epochs
    assert run(*VARIANTS[name], seed=6).epochs != first.epochs


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_after_any_epoch_equals_uninterrupted(run: Any, name: str) -> None:
    whole = run(*VARIANTS[name], seed=5)
    for stop in range(1, max(whole.epochs) + 1):
        first = run(*VARIANTS[name], seed=5, stop_after=stop)
        second = run(*VARIANTS[name], seed=5, saved=first.saved)
        assert list(first.epochs) == list(range(1, stop + 1))
        assert {**first.epochs, **second.epochs} == whole.epochs
        assert len(second.epochs) == len(whole.epochs) - stop
        if second.epochs:
            assert np.array_equal(second.predictions.output, whole.predictions.output)


@pytest.mark.slow
def test_training_needs_no_compiler_and_no_scikit_learn(tmp_path: Path) -> None:
    """They would cost each worker seconds and a hundred megabytes at its start."""
    code = f"""
import sys
from pathlib import Path
from trainers.data import load
from trainers.registry import TRAINERS, prepare, resolve
built_in = TRAINERS["image_classifier"]
params = {{
    "data": built_in.data(source="digits").model_dump(),
    "model": built_in.model().model_dump(),
    "train": built_in.train(epochs=1).model_dump(),
    "ensemble": built_in.ensemble().model_dump(),
}}
class Trial:
    number, seed, device = 0, 0, "cpu"
    def report(self, *_): pass
    save = report
    def resume(self): pass
Trial.params, Trial.data = params, load(params["data"], Path({str(tmp_path)!r}))
prepare("image_classifier", params, Trial.data)
resolve("image_classifier", Path("."))(Trial())
print([m for m in ("torch._dynamo", "torchvision", "sklearn", "pandas") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_folds_report_the_mean_and_predict_out_of_fold(run: Any) -> None:
    trial = run("tabular", {"source": "wine", "folds": 3}, {}, {"epochs": 5, "lr": 0.01})
    data, said = trial.data, trial.predictions
    assert sorted(said.ids.tolist()) == data.ids.tolist()
    predicted = said.output.argmax(1) == said.target
    each = np.split(predicted, np.cumsum([len(split.validation) for split in data.splits])[:-1])
    assert trial.last["val/accuracy"] == pytest.approx(np.mean([part.mean() for part in each]))


def test_early_stopping_ends_a_trial_that_no_longer_improves(run: Any) -> None:
    # With this learning rate nothing improves after the first epoch.
    train = {"epochs": 50, "lr": 1e-12, "early_stopping": {"patience": 3, "min_delta": 1e-3}}
    assert list(run("tabular", {"source": "wine"}, {}, train).epochs) == [1, 2, 3, 4]


def test_early_stopping_watches_the_metric_it_is_told(run: Any) -> None:
    early = {"patience": 2, "metric": "val/accuracy", "min_delta": 1.0}  # never by so much
    train = {"epochs": 50, "early_stopping": early}
    assert list(run("tabular", {"source": "wine"}, {}, train).epochs) == [1, 2, 3]


def test_cosine_ends_with_small_steps(run: Any) -> None:
    train = {"epochs": 12, "lr": 0.02, "schedule": "cosine"}
    losses = [m["val/loss"] for m in run("tabular", {"source": "wine"}, {}, train).epochs.values()]
    changes = np.abs(np.diff(losses))
    assert changes[-1] < 0.05 * changes[0]


def test_weight_decay_holds_the_model_back(run: Any) -> None:
    losses = [
        run("tabular", {"source": "wine"}, {}, {"epochs": 15, "lr": 0.02, "weight_decay": decay})
        .last["train/loss"]
        for decay in (0.0, 5.0)
    ]  # fmt: skip
    assert losses[1] > 2 * losses[0]


@pytest.mark.parametrize("batch_size", [1, 5, 7, 54, 106])
def test_any_batch_size_up_to_the_training_rows_works(run: Any, batch_size: int) -> None:
    # 106 rows train: 5 and 7 leave a last batch of one row, 54 one of 52.
    train = {"epochs": 1, "batch_size": batch_size}
    assert math.isfinite(run("tabular", {"source": "wine"}, {}, train).last["train/loss"])


def test_a_last_batch_of_one_row_does_not_break_batch_norm(run: Any, image_folder: Any) -> None:
    folder = image_folder(each=5)  # 9 train
    model = {"name": "cnn", "channels": [4, 4, 4, 4]}
    run("image_classifier", {"source": str(folder)}, model, {"epochs": 1, "batch_size": 4})


def test_a_mixed_table_is_learned(run: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    color = random.choice(["red", "green", "blue"], 400)
    x = random.normal(size=400)
    frame = pd.DataFrame({"color": color, "x": x, "y": np.where((color == "red") ^ (x > 0), 1, 0)})
    frame.loc[random.random(400) < 0.05, "x"] = None
    frame.loc[random.random(400) < 0.05, "color"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = {"source": str(tmp_path / "t.csv"), "target": "y"}
    trial = run("tabular", data, {"hidden": [32]}, {"epochs": 30, "lr": 0.02})
    assert trial.last["val/accuracy"] > 0.85


def test_a_diverging_loss_fails_the_trial(run: Any) -> None:
    train = {"epochs": 3, "lr": 1000.0, "optimizer": "sgd"}
    with pytest.raises(NonFinite, match=r"at epoch 1, step \d, learning rate 1e\+03: try a"):
        run("tabular", {"source": "diabetes"}, {"hidden": [64, 64]}, train)


@pytest.mark.slow
def test_a_torchvision_model_learns_gray_images(run: Any) -> None:
    trial = run(*DIGITS, {"name": "resnet18"}, {"epochs": 2, "batch_size": 64})
    assert trial.last["val/accuracy"] > 0.6


@pytest.mark.parametrize(
    ("trainer", "data", "model", "train", "key", "words"),
    [
        ("image_classifier", {"source": "digits"}, {}, {"batch_size": 1080}, "train.batch_size",
         "at most 1079, the rows to train on; got 1080"),
        ("tabular", {"source": "wine", "folds": 3}, {}, {"batch_size": 95}, "train.batch_size",
         "at most 94"),
        ("tabular", {"source": "wine"}, {}, {"early_stopping": {"metric": "val/r2"}},
         "train.early_stopping.metric", "val/r2 is not reported for classification; there are"),
        ("image_classifier", {"source": "digits"}, {"name": "resnet19"}, {}, "model.name",
         "got 'resnet19'"),
        ("image_classifier", {"source": "digits"}, {"name": "alexnet"}, {}, "model.name",
         "cannot train on 2 × 1 × 8 × 8"),
        ("image_classifier", {"source": "digits"}, {"name": "vit_b_16"}, {}, "model.name",
         "indivisible"),
        ("image_classifier", {"source": "digits"}, {"weights": "/no/such.pt"}, {},
         "model.weights", "cannot be read"),
    ],
)  # fmt: skip
def test_what_would_fail_every_trial_is_found_before(
    run: Any,
    trainer: str,
    data: dict[str, Any],
    model: dict[str, Any],
    train: dict[str, Any],
    key: str,
    words: str,
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        run(trainer, data, model, train)
    assert caught.value.key == key


@pytest.mark.parametrize(("trainer", "source"), [("tabular", "digits")])
def test_a_trainer_refuses_data_of_another_kind(run: Any, trainer: str, source: str) -> None:
    with pytest.raises(DataError, match="for another trainer"):
        run(trainer, {"source": source})


def test_the_shipped_example_of_an_own_function_learns(run_own: Any) -> None:
    folder = Path(__file__).parents[2] / "studies"
    train = {"epochs": 3, "hidden": 32, "lr": 0.05}
    trial = run_own("own_function:train", folder, {"data": {"source": "digits"}, "train": train})
    assert list(trial.epochs) == [1, 2, 3]
    assert trial.last["val/accuracy"] > 0.9
