"""Precision, TensorFloat-32 and determinism; gradients and losses that are no numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_trial import RecordingTrial, sections
from torch import Tensor, nn
from torch.nn import functional

import trainers.in_turn
from trainers.contract import Epoch, NonFinite, Trial
from trainers.data import Split, load
from trainers.ensembles import Measured
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack
from trainers.loop import fit_together, over_parts
from trainers.metrics import Scores
from trainers.numerics import Precision, diverged, first_lost, set_up
from trainers.options import Train
from trainers.schedules import made

DIABETES = ("tabular", {"source": "diabetes"}, {"hidden": [16]})
ROWS, BATCH = 24, 8


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def split(rows: int = ROWS) -> Split:
    random = torch.Generator().manual_seed(1)
    inputs = torch.randn((rows + 8, 5), generator=random)
    target = (inputs[:, 0] > 0).long()
    return Split(inputs, target, torch.arange(rows), torch.arange(rows, rows + 8))


def lane(data: Split, number: int = 0, **train: Any) -> Lane:
    torch.manual_seed(number)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    own = {"batch_size": BATCH, "optimizer": "sgd", "lr": 0.1, "momentum": 0.0, **train}
    options = Train(**own).model_dump(mode="json")
    return Lane(model, data, options, made(options), (number, 0))


# -- precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halves_learn_as_float32_does(run: Any, precision: str) -> None:
    train = {"epochs": 6, "lr": 0.01, "batch_size": 16}
    whole = run(*DIABETES, train).epochs
    half = run(*DIABETES, {**train, "precision": precision}).epochs
    assert half != whole  # it is not float32
    for epoch, measured in whole.items():
        assert half[epoch]["val/loss"] == pytest.approx(measured["val/loss"], rel=0.06)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_resumed_in_halves_equals_uninterrupted(run: Any, precision: str) -> None:
    train = {"epochs": 4, "precision": precision, "ema": 0.9}
    whole = run(*DIABETES, train, seed=5)
    first = run(*DIABETES, train, seed=5, stop_after=2)
    second = run(*DIABETES, train, seed=5, saved=first.saved)
    assert {**first.epochs, **second.epochs} == whole.epochs


def test_weights_and_what_is_validated_are_float32() -> None:
    team = InTurn([one := lane(split(), precision="bf16")])
    team.train()
    (said,) = team.validate()
    assert all(value.dtype == torch.float32 for value in team.weights(one).values())
    plain = one.model(one.split.batch(one.split.validation)[0])
    assert isinstance(said.predicted, Scores)
    assert torch.equal(said.predicted.logits[0], plain)  # what is kept predicts the same


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halved() -> None:
    precision = Precision("fp16", torch.device("cpu"))
    weight = torch.ones(1, requires_grad=True)
    made: list[Tensor | None] = []
    for scale in (65536.0, 32768.0):
        assert precision.state()["scale"] == scale
        weight.grad = None
        precision.backward((weight * 1e35).sum())  # times the scale: more than float32 holds
        precision.step([weight], lambda: made.append(weight.grad))
    assert not made
    weight.grad = None
    precision.backward((weight * 3.0).sum())
    precision.step([weight], lambda: made.append(weight.grad))
    assert made == [torch.tensor([3.0])]  # the gradient of the loss, not of the scaled one


# -- what PyTorch keeps for the whole process


def tf32() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_a_trial_leaves_nothing_to_the_next_one() -> None:
    train = Train().model_dump()
    set_up({**train, "deterministic": True, "tf32": True}, "cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert tf32() == (True, True)
    set_up({**train, "tf32": False}, "cuda")
    assert not torch.are_deterministic_algorithms_enabled()
    assert tf32() == (False, False)
    set_up(train, "cuda")  # as PyTorch does by itself
    assert tf32() == (False, True)


# -- gradients


@pytest.mark.parametrize("team", [Stack, InTurn])
def test_the_norm_is_the_mean_of_those_before_clipping(team: Any) -> None:
    data = split()
    first = lane(data, 1, grad_norm=True, clip_norm=0.01, l1=0.001, batch_size=ROWS)
    second = lane(data, 2, grad_norm=True, batch_size=ROWS)
    inputs, target = data.batch(data.train)
    expected = []
    for one in (first, second):
        loss = functional.cross_entropy(one.model(inputs), target)
        gradients = torch.autograd.grad(loss, list(one.model.parameters()))
        expected.append(nn.utils.get_total_norm(gradients).item())
    said = team([first, second]).train()
    norms = {
        one: norm for each in said for one, norm in zip(each.lanes, each.grad_norm, strict=True)
    }
    assert [norms[first].item(), norms[second].item()] == pytest.approx(expected, rel=1e-5)


def test_the_norm_is_reported_where_it_is_asked_for(run: Any) -> None:
    assert "train/grad_norm" not in run(*DIABETES, {"epochs": 1}).last
    for more in ({}, {"precision": "bf16"}):
        last = run(*DIABETES, {"epochs": 1, "grad_norm": True, **more}).last
        assert 0 < last["train/grad_norm"] < 100


# -- losses


def test_the_first_row_that_is_lost() -> None:
    output = torch.zeros(5, 2)
    assert first_lost(output) is None
    output[3, 1], output[4, 0] = math.inf, math.nan
    assert first_lost(output) == 3
    assert first_lost(output[:, 0]) == 4


def test_a_lost_loss_says_when_and_at_which_learning_rate() -> None:
    one = lane(split(), lr=0.8, schedule="cosine", epochs=4)
    one.done = 3
    output = torch.zeros(ROWS, 2)
    output[17] = math.nan  # of the third step
    said = Measured(Scores(output, torch.zeros(ROWS, dtype=torch.int64)), {"loss": math.nan})
    factor = (1 + math.cos(math.pi * (2 * 3 + 2) / (4 * 3))) / 2
    words = f"loss is nan at epoch 3, step 3, learning rate {0.8 * factor:.3g}: try a smaller"
    assert str(diverged(one, said)).startswith(words)
    one.done, output[0] = 1, math.inf
    assert "epoch 1, step 1, before anything was learned: look at the data" in str(
        diverged(one, said)
    )


def test_an_epoch_in_turn_ends_where_the_loss_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.in_turn, "CHUNK_NUMBERS", BATCH * 5)  # a batch at a time
    data = split()
    data.inputs[data.train] = math.nan
    (said,) = InTurn([lane(data)]).train()
    assert said.predicted.target.shape == (1, BATCH)


@pytest.mark.parametrize("more", [{}, {"precision": "bf16"}], ids=["lanes", "in turn"])
def test_a_trial_that_diverges_ends_alone(tmp_path: Path, more: dict[str, Any]) -> None:
    trials = []
    for number, lr in enumerate([0.01, 1000.0, 0.02]):
        train = {"epochs": 3, "lr": lr, "optimizer": "sgd", **more}
        params = sections(*DIABETES, train)
        trials.append(RecordingTrial(params, load(params["data"], tmp_path)))
        trials[-1].number = number
    recorded = Recorded(trials)
    fit_together(recorded)
    assert recorded.epochs[0] == recorded.epochs[2] == [1, 2, 3]
    ((number, error),) = recorded.failed.items()
    assert number == 1
    assert isinstance(error, NonFinite)
    assert re.match(r"loss is (nan|inf) at epoch \d, step \d+, learning rate 1e\+03: ", str(error))
    assert 1 not in recorded.epochs or max(recorded.epochs[1]) < 3


class Recorded:
    """`trainers.contract.Trials` that keeps what becomes of them."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._waiting = trials
        self.epochs: dict[int, list[int]] = {}
        self.failed: dict[int, Exception] = {}

    def begin(self) -> Sequence[Trial]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> list[int]:
        for said in epochs:
            self.epochs.setdefault(said.trial.number, []).append(said.epoch)
        return [said.trial.number for said in epochs if said.last]

    def finish(self, trial: Trial) -> None:
        raise AssertionError("none is resumed")

    def fail(self, trial: Trial, error: Exception) -> None:
        self.failed[trial.number] = error


def test_what_a_part_does_not_know_is_left_out_of_the_mean() -> None:
    """The gradients' length, where each step of an epoch was left out."""
    trained = [{"loss": 1.0, "grad_norm": 3.0}, {"loss": 2.0}]
    said = over_parts(trained, [{"loss": 1.0}, {"loss": 1.0}], repeats=1)
    assert (said["train/loss"], said["train/grad_norm"]) == (1.5, 3.0)
