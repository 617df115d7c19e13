"""Optimizers and schedules give what torch's classes give, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainers.optim import OPTIMIZERS
from trainers.schedules import SCHEDULES

TRAIN = {"beta1": 0.9, "beta2": 0.999, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01}


def steps(model: nn.Module, step: Any, count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        x = torch.randn(16, 4, generator=generator)
        for parameter in model.parameters():
            parameter.grad = None
        model(x).square().mean().backward()
        with torch.no_grad():
            step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("name", "changed", "reference"),
    [
        ("sgd", {}, {"momentum": 0.9, "weight_decay": 0.01}),
        ("sgd", {"momentum": 0.0}, {"weight_decay": 0.01}),
        (
            "sgd",
            {"nesterov": True, "weight_decay": 0.0},
            {"momentum": 0.9, "nesterov": True},
        ),
        ("sgd", {"momentum": 0.0, "nesterov": True}, {"weight_decay": 0.01}),
        ("adamw", {}, {"weight_decay": 0.01}),
        ("adamw", {"weight_decay": 0.0}, {"weight_decay": 0.0}),
    ],
)
def test_steps_equal_torch_s_class(
    name: str, changed: dict[str, Any], reference: dict[str, Any]
) -> None:
    ours, theirs = model(), model()
    optimizer = OPTIMIZERS[name](ours.parameters(), {**TRAIN, **changed})
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    other = kind(theirs.parameters(), lr=0.05, fused=True, **reference)
    for got, want in zip(
        steps(ours, lambda: optimizer.step(0.05)), steps(theirs, other.step), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_state(name: str) -> None:
    whole, first, second = model(), model(), model()
    optimizer = OPTIMIZERS[name](whole.parameters(), TRAIN)
    steps(whole, lambda: optimizer.step(0.05))
    want = steps(whole, lambda: optimizer.step(0.05))
    optimizer = OPTIMIZERS[name](first.parameters(), TRAIN)
    steps(first, lambda: optimizer.step(0.05))
    second.load_state_dict(first.state_dict())
    resumed = OPTIMIZERS[name](second.parameters(), TRAIN)
    resumed.load_state(optimizer.state())
    for got, wanted in zip(steps(second, lambda: resumed.step(0.05)), want, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_weights(name: str) -> None:
    plain, decayed = model(), model()
    for of, weight_decay in ((plain, 0.0), (decayed, 0.5)):
        optimizer = OPTIMIZERS[name](of.parameters(), {**TRAIN, "weight_decay": weight_decay})
        steps(of, lambda optimizer=optimizer: optimizer.step(0.05), count=20)
    assert decayed[0].weight.norm() < 0.8 * plain[0].weight.norm()  # type: ignore[index]


def test_cosine_is_torch_s() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert 0.3 * SCHEDULES["cosine"](step / 20) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_every_schedule_starts_at_the_learning_rate() -> None:
    assert {schedule(0.0) for schedule in SCHEDULES.values()} == {1.0}
