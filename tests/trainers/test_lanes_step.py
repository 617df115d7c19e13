"""A step of a stack: weights of classes, and AdamW of long rows by PyTorch's own kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recording_trial import sections
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional

from trainers.data import Split, load
from trainers.ensembles.members import Part
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack, optim
from trainers.lanes.losses import Terms, balanced, cross_entropy
from trainers.options import Train
from trainers.registry import stack_key
from trainers.schedules import Constant, made
from trainers.seeds import seed_everything
from trainers.team import Grouped, Team

FEATURES, CLASSES = 7, 3
LONG = 96  # hidden units of a model whose rows are long
DIGITS = {"source": "digits"}


def split(rows: int = 45) -> Split:
    """Of its classes some have few rows."""
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn((rows + 20, FEATURES), generator=random)
    target = (inputs[:, 0] + 0.5 * inputs[:, 1]).mul(2).round().clamp(-1, 1).long() + 1
    return Split(inputs, target, torch.arange(rows), torch.arange(rows, rows + 20))


def lane(number: int, data: Split, hidden: int = 12, double: bool = False, **train: Any) -> Lane:
    seed_everything(number, 0, 0)
    model: nn.Module = nn.Sequential(
        nn.Linear(FEATURES, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, CLASSES),
    )
    options = Train(**{"batch_size": 8, **train}).model_dump()
    return Lane(
        model.double() if double else model,
        data,
        options,
        made(options),
        (number, 0),
        class_weights=balanced(data, CLASSES) if options["class_weights"] == "balanced" else None,
    )


def weights(stack: Any, one: Lane) -> Tensor:
    return torch.cat([value.reshape(-1) for value in stack.weights(one).values()])


def trained(team: Team, epochs: int = 3) -> Team:
    for _ in range(epochs):
        team.train()
    return team


# -- weights of classes


def test_balanced_weights_are_scikit_learn_s() -> None:
    target = torch.tensor([0, 0, 0, 1, 3, 3, 2, 2, 2, 2])
    one = Split(target[:, None].float(), target, torch.tensor([0, 0, 1, 3, 4, 5]), torch.arange(2))
    there = np.array([0, 1, 3])  # of class 2 no row is trained on
    rows = target[one.train].numpy()
    expected = compute_class_weight("balanced", classes=there, y=rows)
    found = balanced(one, 5)
    assert found[there].tolist() == pytest.approx(expected)
    assert found[[2, 4]].tolist() == [0, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_weighted_loss_has_torch_s_gradient(smoothing: float) -> None:
    output = torch.randn(2, CLASSES, 9, dtype=torch.float64, requires_grad=True)
    target = torch.randint(CLASSES, (2, 9))
    of_classes = torch.tensor([[0.5, 2.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    target[0] %= 2
    loss = sum(
        functional.cross_entropy(output[n].T, target[n], of_classes[n], label_smoothing=smoothing)
        for n in (0, 1)
    )
    (expected,) = torch.autograd.grad(loss, output)  # type: ignore[arg-type]
    column = torch.full((2, 1, 1), smoothing, dtype=torch.float64) if smoothing else None
    with torch.no_grad():
        found = cross_entropy(output, target, Terms(column, of_classes.unsqueeze(2)))
        without = cross_entropy(output, target, Terms(column))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(found[1], without[1])  # so a lane without them is the same beside others


def test_lanes_with_weights_of_classes_train_as_in_turn() -> None:
    data = split()
    data = replace(data, inputs=data.inputs.double())
    settings: list[dict[str, Any]] = [
        {"class_weights": "balanced", "lr": 0.02},
        {},
        {"class_weights": "balanced", "label_smoothing": 0.2},
    ]
    together, in_turn = (
        [lane(n, data, double=True, **own) for n, own in enumerate(settings)] for _ in range(2)
    )
    for one in (together[2], in_turn[2]):
        one.row_weights = torch.linspace(0.5, 1.5, len(data.inputs), dtype=torch.float64)
    stack, turn = trained(Stack(together)), trained(InTurn(in_turn))
    plain = lane(0, data, double=True, lr=0.02)
    unweighted = weights(trained(Stack([plain])), plain)
    for one, other in zip(together, in_turn, strict=True):
        torch.testing.assert_close(weights(stack, one), weights(turn, other), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(weights(stack, together[0]), unweighted, atol=1e-4)


def test_each_fold_s_classes_are_weighted_by_its_own_rows(tmp_path: Path) -> None:
    section = {"source": "wine", "folds": 3}
    params = sections("tabular", section, {}, {"class_weights": "balanced"})
    data = load(params["data"], tmp_path)
    for fold, own in enumerate(data.splits):
        rows = own.target[own.train[:-9]].numpy()
        expected = compute_class_weight("balanced", classes=np.arange(3), y=rows)
        part = Part(params, data, fold, seed=0)
        found = part.lane(0, split=part.training(own.train[:-9])).class_weights
        assert found is not None
        assert found.tolist() == pytest.approx(expected)


# -- the same in any stack


@pytest.mark.parametrize("hidden", [12, LONG])
def test_a_lane_is_bitwise_the_same_beside_weighted_ones(hidden: int) -> None:
    data = split()

    def some() -> list[Lane]:
        return [
            lane(
                n,
                data,
                hidden,
                lr=0.001 * (1 + n % 5),
                beta2=(0.999, 0.95)[n % 3 == 1],
                weight_decay=(0.0, 0.1)[n % 4 == 1],
                label_smoothing=(0.0, 0.1)[n // 4 % 2],
                class_weights=("none", "balanced")[n % 2],
            )
            for n in range(64)
        ]

    for chosen in (4, 5):
        found = []
        for size in (1, 2, 16, 64):
            lanes = some()
            own = [one for one in lanes if one is not lanes[chosen]][: size - 1]
            found.append(weights(trained(Stack([*own, lanes[chosen]])), lanes[chosen]))
        assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_of_long_rows_is_that_of_short_ones(
    monkeypatch: pytest.MonkeyPatch, decay: float
) -> None:
    data = split()

    def lanes() -> list[Lane]:
        return [
            lane(n, data, LONG, double=True, lr=0.001 * (1 + n), beta1=0.8, weight_decay=decay * n)
            for n in range(3)
        ]

    calls, kernel = list[int](), torch._fused_adamw_

    def counted(parameters: Any, *rest: Any, **settings: Any) -> None:
        calls.append(parameters[0].numel())
        kernel(parameters, *rest, **settings)

    monkeypatch.setattr(torch, "_fused_adamw_", counted)
    stack = trained(Stack(own := lanes()))
    assert isinstance(stack, Stack)
    assert len(calls) == 3 * 3 * own[0].steps  # a step, a lane, an epoch
    assert set(calls) == {stack.parameters.shape[1]}
    monkeypatch.setattr(optim, "LONG_ROW", 10**9)
    short = trained(Stack(lanes()))
    assert isinstance(short, Stack)
    torch.testing.assert_close(stack.parameters, short.parameters, rtol=1e-10, atol=1e-12)


# -- batch sizes


def of_sizes(*sizes: int, double: bool = False, **train: Any) -> list[Lane]:
    data = split()
    if double:
        data = replace(data, inputs=data.inputs.double())
    options = {"label_smoothing": 0.1, "l1": 0.001, "ema": 0.5, "clip_norm": 1.0, **train}
    return [lane(n, data, batch_size=b, double=double, **options) for n, b in enumerate(sizes)]


SIZES = (16, 9, 12, 16, 15, 8, 3, 7, 64, 45)  # of 45 rows


def test_lanes_of_several_batch_sizes_are_each_as_alone() -> None:
    together = Grouped()
    together.add(mixed := of_sizes(*SIZES))
    assert {one.width for one in mixed} == {8, 16, 64}
    trained(together, 2)
    last = together.train()
    for one, alone in zip(mixed, of_sizes(*SIZES), strict=True):
        stack = trained(Stack([alone]), 2)
        (own,) = stack.train()
        (among,) = [said for said in last if one in said.lanes]
        assert torch.equal(weights(together, one), weights(stack, alone))
        expected: Any = own.predicted.lane(0)
        found: Any = among.predicted.lane(among.lanes.index(one))
        assert torch.equal(found.target, expected.target)
        assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_padded_batch_trains_as_in_turn(optimizer: str) -> None:
    sizes, options = (9, 12, 16), {"optimizer": optimizer, "schedule": "cosine"}
    stack = trained(Stack(padded := of_sizes(*sizes, double=True, **options)))
    turn = trained(InTurn(plain := of_sizes(*sizes, double=True, **options)))
    for one, other in zip(padded, plain, strict=True):
        torch.testing.assert_close(weights(stack, one), weights(turn, other), rtol=1e-9, atol=1e-9)


def test_batch_sizes_that_are_padded_alike_share_a_stack() -> None:
    def key(size: int) -> str | None:
        params = sections("tabular", {"source": "wine"}, {}, {"batch_size": size})
        return stack_key("tabular", params)

    assert key(17) == key(32) != key(33)
    assert len({key(size) for size in (8, 16, 128, 129, 130)}) == 5
    assert key(1) == key(8)
    cnns = [
        sections("image_classifier", DIGITS, {"name": "cnn"}, {"batch_size": b}) for b in (17, 32)
    ]
    assert len({stack_key("image_classifier", params) for params in cnns}) == 2


def test_what_is_not_of_a_lane_s_batch_is_not_counted_where_rows_depend_on_one_another() -> None:
    (weighted,) = of_sizes(9, class_weights="balanced")
    assert weighted.width == 9
    data = split()
    norm = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
    options = Train(batch_size=9).model_dump()
    assert Lane(norm, data, options, Constant(), (0, 0)).width == 9
    assert lane(0, data, hidden=256, batch_size=9).width == 9  # large: each row has its price
    assert lane(0, data, batch_size=129).width == 129
