"""On a GPU: the same results each time, and data that does not fit stays in main memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import trainers.data.dataset
from trainers.data import load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DIGITS = ("image_classifier", {"source": "digits"})
CNN = {"name": "cnn", "channels": [8, 16], "dropout": 0.2}
TRAIN = {"epochs": 4, "lr": 0.01, "batch_size": 64}


def test_data_moves_once(tmp_path: Path) -> None:
    data = load({"source": "digits"}, tmp_path)
    moved = data.to("cuda")
    assert moved.inputs.is_cuda
    assert data.to("cuda") is moved


def test_data_that_does_not_fit_stays_and_trains_the_same(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = run(*DIGITS, CNN, TRAIN, device="cuda")
    monkeypatch.setattr(trainers.data.dataset, "DEVICE_SHARE", 0.0)
    copied = run(*DIGITS, CNN, TRAIN, device="cuda")
    assert not copied.data.to("cuda").inputs.is_cuda
    assert copied.epochs == resident.epochs


@pytest.mark.parametrize("model", [{"dropout": 0.2}, CNN])
def test_the_same_seed_gives_the_same_metrics(run: Any, model: dict[str, Any]) -> None:
    first = run(*DIGITS, model, TRAIN, device="cuda", seed=3)
    assert run(*DIGITS, model, TRAIN, device="cuda", seed=3).epochs == first.epochs
    assert first.last["val/accuracy"] > 0.9


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_equals_uninterrupted(run: Any, optimizer: str) -> None:
    train = {**TRAIN, "optimizer": optimizer}
    whole = run(*DIGITS, CNN, train, device="cuda")
    first = run(*DIGITS, CNN, train, device="cuda", stop_after=2)
    second = run(*DIGITS, CNN, train, device="cuda", saved=first.saved)
    assert {**first.epochs, **second.epochs} == whole.epochs


def test_regression_on_a_gpu(run: Any) -> None:
    train = {"epochs": 20, "lr": 0.005}
    trial = run("tabular", {"source": "diabetes"}, {"hidden": [32]}, train, device="cuda")
    assert trial.last["val/r2"] > 0.3
