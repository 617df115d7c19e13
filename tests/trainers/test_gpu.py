"""On a GPU: the same results each time, and data that does not fit stays in main memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import trainers.data.dataset
import trainers.memory
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


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halves_learn_the_same_each_time_and_resume(run: Any, precision: str) -> None:
    train = {**TRAIN, "precision": precision, "tf32": True}
    whole = run(*DIGITS, CNN, train, device="cuda")
    first = run(*DIGITS, CNN, train, device="cuda", stop_after=2)
    second = run(*DIGITS, CNN, train, device="cuda", saved=first.saved)
    assert {**first.epochs, **second.epochs} == whole.epochs
    assert whole.last["val/accuracy"] > 0.9


def test_deterministic_algorithms_are_enough_for_a_cnn(run: Any) -> None:
    train = {**TRAIN, "deterministic": True}
    first = run(*DIGITS, CNN, train, device="cuda")
    assert run(*DIGITS, CNN, train, device="cuda").epochs == first.epochs
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_a_compiled_model_learns(run: Any) -> None:
    trial = run(*DIGITS, CNN, {**TRAIN, "compile": "on"}, device="cuda")
    assert trial.last["val/accuracy"] > 0.9


def test_a_batch_larger_than_the_memory_is_learned_from_in_parts(run: Any) -> None:
    """As resnet18 in turn, of whose activations all rows take more than is allowed."""
    train = {"epochs": 1, "batch_size": 1024}
    model = {"name": "resnet18"}
    run(*DIGITS, model, {**train, "batch_size": 8}, device="cuda")  # what else is needed is there
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    used = torch.cuda.memory_reserved()
    whole = run(*DIGITS, model, train, device="cuda")
    needed = torch.cuda.max_memory_reserved() - used
    trainers.memory._known.clear()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((used + 0.6 * needed) / total)
    try:
        parts = run(*DIGITS, model, train, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainers.memory._known  # it was short
    assert parts.last["train/loss"] == pytest.approx(whole.last["train/loss"], rel=0.2)
