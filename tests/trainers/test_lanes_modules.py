"""Modules without a rule in lanes, by `torch.func.vmap`: as PyTorch has them, each for itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from recording_trial import RecordingTrial
from torch import Tensor, nn
from torch.nn import functional

from trainers.contract import DataError
from trainers.data import Split
from trainers.lanes import Lane, Stack, vmapped
from trainers.models import build
from trainers.options import ImageModel, TableModel, Train
from trainers.registry import stack_key
from trainers.schedules import Constant
from trainers.seeds import seed_everything

BATCH, ROWS = 8, 41


class Residual(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.BatchNorm1d(5), nn.Linear(5, 9), nn.Linear(9, 5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.dropout(self.first(self.norm(x)).relu()))


class Convolving(nn.Module):
    """No nn.Sequential: one layer as a whole."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.head(self.dropout((x + self.last(x)).mean((2, 3))))


def blocks(dropout: float) -> nn.Module:
    """Layers with a rule and layers without one; the last has one output."""
    middle = Residual(dropout), nn.ReLU(), nn.Dropout(dropout), Residual(dropout)
    return nn.Sequential(nn.Linear(6, 5), *middle, nn.Linear(5, 3))


def residual_mlp(dropout: float) -> nn.Module:
    return build(table("residual_mlp", width=5, blocks=2, dropout=dropout), (6,), 3)


def resnet(dropout: float) -> nn.Module:
    section = ImageModel(name="resnet", channels=(2, 4), blocks=1, dropout=dropout)
    return build(section.model_dump(mode="json"), (2, 5, 5), 3)


def embedding_mlp(dropout: float) -> nn.Module:
    return build(table("embedding_mlp", hidden=(9,), dropout=dropout), (6,), 3)


def table(name: str, **settings: Any) -> dict[str, Any]:
    return TableModel(name=name, **settings).model_dump(mode="json")


MODELS: dict[str, tuple[Callable[[float], nn.Module], tuple[int, ...]]] = {
    "blocks": (blocks, (6,)),
    "whole": (Convolving, (2, 5, 5)),
    "residual_mlp": (residual_mlp, (6,)),
    "resnet": (resnet, (2, 5, 5)),
    "embedding_mlp": (embedding_mlp, (6,)),
}
model = pytest.mark.parametrize("name", list(MODELS))


def split(shape: tuple[int, ...], dtype: torch.dtype) -> Split:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn((ROWS + 9, *shape), generator=random, dtype=torch.float64).to(dtype)
    target = inputs.flatten(1).mean(1).mul(8).round().clamp(-1, 1).long() + 1
    return Split(inputs, target, torch.arange(ROWS), torch.arange(ROWS, ROWS + 9))


def lanes(
    name: str, numbers: range, dropout: float = 0.0, dtype: torch.dtype = torch.float32
) -> list[Lane]:
    make, shape = MODELS[name]
    data, made = split(shape, dtype), []
    for number in numbers:
        seed_everything(number, 0, 0)
        options: dict[str, Any] = {
            "optimizer": "sgd",
            "vmap": True,
            "batch_size": BATCH,
            "epochs": 4,
            "lr": 0.01 * (1 + number % 3),
            "momentum": (0.0, 0.9)[number % 2],
        }
        sections = Train(**options).model_dump(mode="json")
        own = make(dropout * (1 + number % 2)).to(dtype)
        made.append(Lane(own, data, sections, Constant(), (number, 0)))
    return made


def trained(stack: Stack, epochs: int = 2) -> Stack:
    for _ in range(epochs):
        stack.train()
    return stack


def plainly(one: Lane, epochs: int = 2) -> dict[str, Tensor]:
    """By `torch.optim` on the module itself."""
    own, options = copy.deepcopy(one.model).train(), one.options
    sgd = torch.optim.SGD(own.parameters(), lr=options["lr"], momentum=options["momentum"])
    for done in range(epochs):
        one.done = done
        for rows in torch.split(one.order(), BATCH):
            sgd.zero_grad()
            output = own(one.split.inputs[rows])
            functional.cross_entropy(output, one.split.target[rows]).backward()
            sgd.step()
    one.done = 0
    return own.state_dict()


@model
def test_a_lane_equals_torch_optim_on_the_module(name: str) -> None:
    own = lanes(name, range(3), dtype=torch.float64)
    wanted = [plainly(one) for one in own]
    stack = trained(Stack(own))
    for one, expected in zip(own, wanted, strict=True):
        for key, value in stack.weights(one).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-10, atol=1e-12)


@model
def test_a_lane_is_itself_whoever_is_in_its_stack(name: str) -> None:
    """Alone to rounding errors: a product of one matrix is computed otherwise than of several."""

    def weights_of_2(numbers: range) -> dict[str, Tensor]:
        own = lanes(name, numbers, dropout=0.2)
        return trained(Stack(own)).weights(own[2 - numbers.start])

    expected = weights_of_2(range(2, 4))
    for numbers in (range(5), range(1, 3)):
        assert all(torch.equal(own, expected[key]) for key, own in weights_of_2(numbers).items())
    for key, value in weights_of_2(range(2, 3)).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)


@model
def test_dropout_drops_a_lane_s_own_share_and_only_in_training(name: str) -> None:
    kept = lanes(name, range(2))
    dropped = lanes(name, range(2), dropout=0.4)
    before = [Stack(some).validate()[0].predicted for some in (kept, dropped)]
    assert torch.equal(before[0].logits, before[1].logits)  # type: ignore[union-attr]
    after = [trained(Stack(some), 1).weights(some[0]) for some in (kept, dropped)]
    assert not all(torch.equal(own, after[1][key]) for key, own in after[0].items())


def test_a_stack_s_state_goes_on_where_it_was() -> None:
    own, again = lanes("blocks", range(3), 0.2), lanes("blocks", range(3), 0.2)
    stack, other = trained(Stack(own), 1), Stack(again)
    for one, same in zip(own, again, strict=True):
        other.load(same, stack.state(one))
        same.done = one.done
    expected = trained(stack, 1).weights(own[1])
    found = trained(other, 1).weights(again[1])
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_what_draws_at_random_by_itself_is_refused() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(x, 0.5, self.training)

    vmapped.check(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match="random"):
        vmapped.check(nn.Sequential(nn.Linear(3, 3), Drawing()), torch.zeros(2, 3))


def test_a_study_trains_a_torchvision_model_so(run: Callable[..., RecordingTrial]) -> None:
    data = {"source": "digits"}
    train = {"epochs": 1, "batch_size": 512, "vmap": True}
    trial = run("image_classifier", data, {"name": "shufflenet_v2_x0_5"}, train)
    assert stack_key("image_classifier", trial.params) is not None
    assert trial.epochs[1]["val/loss"] > 0
    with pytest.raises(DataError, match="efficientnet_b0 cannot be trained so: .*random") as error:
        run("image_classifier", data, {"name": "efficientnet_b0"}, train)
    assert error.value.key == "train.vmap"
