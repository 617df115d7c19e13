"""On a GPU: the same results each time, and data that does not fit stays in main memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from recording_trial import sections
from torch import nn
from torch.nn import functional

import trainers.data.dataset
import trainers.memory
from trainers import metrics
from trainers.data import Dataset, load
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack, captured
from trainers.lanes.layers import Pass, batch_norm, layer_norm
from trainers.models import build
from trainers.numerics import set_up
from trainers.schedules import made
from trainers.seeds import seed_everything
from trainers.team import Team

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DIGITS = ("image_classifier", {"source": "digits"})
CNN = {"name": "cnn", "channels": [8, 16], "dropout": 0.2}
TRAIN = {"epochs": 4, "lr": 0.01, "batch_size": 64}


MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [64], "dropout": 0.2},
    "cnn": CNN,
    "resnet": {"name": "resnet", "channels": [8, 16], "blocks": 1},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(sections(*DIGITS)["data"], tmp_path_factory.mktemp("cache"))


def lanes(
    data: Dataset,
    numbers: range,
    model: Mapping[str, Any],
    double: bool = False,
    **train: Any,
) -> list[Lane]:
    """A lane for each number, each with a learning rate of its own."""
    params = sections(*DIGITS, model, {**TRAIN, **train})
    set_up(params["train"], data.target.device.type)
    found = []
    for number in numbers:
        seed_everything(number, 0)
        net = build(params["model"], data.shape, data.outputs)
        options = {**params["train"], "lr": 0.002 * (1 + number % 5)}
        split = data.splits[0]
        net = net.double() if double else net
        found.append(Lane(net, split, options, made(options), (number, 0)))
    return found


def trained(team: Callable[[list[Lane]], Team], own: list[Lane], epochs: int = 2) -> Team:
    made_of = team(own)
    for _ in range(epochs):
        made_of.train()
    return made_of


def weights(team: Team) -> dict[int, torch.Tensor]:
    """Of each lane, by its number."""
    return {
        lane.seed[0]: torch.cat([w.flatten().double() for w in team.weights(lane).values()])
        for lane in team.lanes
    }


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_lanes_learn_what_they_learn_on_a_cpu(
    digits: Dataset, model: dict[str, Any], optimizer: str
) -> None:
    """In float64, where rounding is far below what differs."""
    there = trained(Stack, lanes(digits.to("cuda"), range(3), model, True, optimizer=optimizer))
    here = trained(Stack, lanes(digits, range(3), model, True, optimizer=optimizer))
    expected = weights(here)
    for number, own in weights(there).items():
        torch.testing.assert_close(own, expected[number], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_model_in_turn_learns_what_it_learns_on_a_cpu(
    digits: Dataset, model: dict[str, Any]
) -> None:
    model = {**model, "dropout": 0.0}  # a GPU draws other units
    train = {"tf32": False, "optimizer": "sgd", "momentum": 0.0}
    there = trained(InTurn, lanes(digits.to("cuda"), range(1), model, **train), 1)
    here = trained(InTurn, lanes(digits, range(1), model, **train), 1)
    torch.testing.assert_close(weights(there)[0], weights(here)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "train",
    [
        {"optimizer": "sgd", "clip_norm": 0.5},
        {"optimizer": "adamw", "label_smoothing": 0.1, "batch_size": 32},
        {"optimizer": "adamw", "batch_size": 500, "ema": 0.9, "grad_norm": True},
    ],
    ids=["clipped", "smoothed", "large batches"],
)
def test_a_lane_is_the_same_in_every_stack(digits: Dataset, train: dict[str, Any]) -> None:
    data, model = digits.to("cuda"), {"hidden": [200, 50], "dropout": 0.2}
    expected = weights(trained(Stack, lanes(data, range(64), model, **train), 4))
    for count in (1, 2, 3, 16, 17):
        some = trained(Stack, lanes(data, range(count), model, **train), 4)
        for number, own in weights(some).items():
            assert torch.equal(own, expected[number]), (count, number)


def test_metrics_are_the_same_in_every_stack() -> None:
    random = torch.Generator("cuda").manual_seed(0)
    logits = torch.randn((64, 1079, 10), generator=random, device="cuda")
    target = torch.randint(10, (64, 1079), generator=random, device="cuda")
    further = list(metrics.TABLES["classification"])
    classes = [str(number) for number in range(10)]
    whole = metrics.measure_each(metrics.Scores(logits, target), further, classes)
    on_cpu = metrics.measure(metrics.Scores(logits[3].cpu(), target[3].cpu()), further, classes)
    assert whole[3] == pytest.approx(on_cpu, rel=1e-6)
    for count in (1, 2, 16):
        some = metrics.Scores(logits[:count], target[:count])
        assert metrics.measure_each(some, further, classes) == whole[:count]


def test_norms_are_the_same_in_every_stack() -> None:
    random = torch.Generator("cuda").manual_seed(0)
    x = torch.randn((64, 100, 16), generator=random, device="cuda")
    own = {"num_batches_tracked": torch.zeros(1, device="cuda")}
    torch.testing.assert_close(
        layer_norm(nn.LayerNorm(100), {}, x, Pass(True))[3].T,
        functional.layer_norm(x[3].T, (100,)),
    )
    for norm, module in ((layer_norm, nn.LayerNorm(100)), (batch_norm, nn.BatchNorm1d(100))):
        whole = norm(module, own, x, Pass(True))  # type: ignore[operator]
        for count in (1, 2, 16):
            some = norm(module, own, x[:count], Pass(True))  # type: ignore[operator]
            assert torch.equal(some, whole[:count])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_captured_steps_give_what_the_others_give(
    digits: Dataset, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, train = digits.to("cuda"), {"ema": 0.9, "augment": {"crop": 1, "mixup": 0.2}}
    monkeypatch.setattr(captured, "AFTER", 10**9)
    expected = weights(trained(Stack, lanes(data, range(4), model, **train), 3))
    monkeypatch.setattr(captured, "AFTER", 2)
    stack = Stack(lanes(data, range(4), model, **train))
    for _ in range(3):
        stack.train()
    assert captured.Graphs.possible
    assert stack._graphs._captured
    for number, own in weights(stack).items():
        assert torch.equal(own, expected[number])


def test_a_stack_that_does_not_fit_is_divided(digits: Dataset) -> None:
    data, wide = digits.to("cuda"), {"hidden": [16384]}
    whole = trained(Stack, lanes(data, range(8), wide, batch_size=1024), 1)
    expected = weights(whole)
    del whole
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    short = Stack(lanes(data, range(8), wide, batch_size=1024))
    torch.cuda.empty_cache()
    used, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((used + 600 * 2**20) / total)
    try:
        short.train()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert short._most < 8
    for number, own in weights(short).items():
        assert torch.equal(own, expected[number])


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


@pytest.mark.parametrize("method", ["bagging", "boosting", "stacking", "snapshot"])
def test_ensembles_learn_and_resume(run: Any, method: str) -> None:
    model, ensemble = {"hidden": [16]}, {"method": method, "size": 2}
    whole = run(*DIGITS, model, TRAIN, ensemble, device="cuda")
    first = run(*DIGITS, model, TRAIN, ensemble, device="cuda", stop_after=2)
    second = run(*DIGITS, model, TRAIN, ensemble, device="cuda", saved=first.saved)
    assert {**first.epochs, **second.epochs} == whole.epochs


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
