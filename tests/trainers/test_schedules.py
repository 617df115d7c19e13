"""Schedules go where torch's schedulers go, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from trainers.options import Train
from trainers.schedules import SCHEDULES, OneCycle, Plateau, batch_size, made

EPOCHS, STEPS = 12, 5  # a training: epochs, and steps in each


def train(**settings: Any) -> dict[str, Any]:
    return Train(**{"epochs": EPOCHS, **settings}).model_dump(mode="json")


def ours(settings: dict[str, Any]) -> list[float]:
    schedule, steps = made(train(**settings)), EPOCHS * STEPS
    return [0.3 * schedule(step / steps) for step in range(steps)]


def optimizer(momentum: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3, momentum=momentum)


def torch_s(scheduler: Any, each_step: bool = True) -> list[float]:
    rates = []
    for step in range(EPOCHS * STEPS):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        if each_step or step % STEPS == STEPS - 1:
            scheduler.step()
    return rates


def close(one: list[float], other: list[float]) -> bool:
    return one == pytest.approx(other, rel=1e-9, abs=1e-15)


def test_the_step_schedule_is_torch_s() -> None:
    scheduler = lr_scheduler.StepLR(optimizer(), step_size=3, gamma=0.5)
    settings = {"schedule": "step", "step_epochs": 3, "gamma": 0.5}
    assert close(ours(settings), torch_s(scheduler, each_step=False))


def test_the_exponential_schedule_is_torch_s_at_the_epochs() -> None:
    scheduler = lr_scheduler.ExponentialLR(optimizer(), gamma=0.8)
    got = ours({"schedule": "exponential", "gamma": 0.8})
    assert close(got[::STEPS], torch_s(scheduler, each_step=False)[::STEPS])
    assert all(b < a for a, b in zip(got, got[1:], strict=False))


@pytest.mark.parametrize("power", [1.0, 2.5])
def test_the_polynomial_schedule_is_torch_s(power: float) -> None:
    scheduler = lr_scheduler.PolynomialLR(optimizer(), total_iters=EPOCHS * STEPS, power=power)
    assert close(ours({"schedule": "polynomial", "power": power}), torch_s(scheduler))


def test_the_cosine_is_torch_s() -> None:
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer(), T_max=EPOCHS * STEPS)
    assert close(ours({"schedule": "cosine"}), torch_s(scheduler))


@pytest.mark.parametrize(("first", "growth"), [(3, 1), (1, 2), (5, 3)])
def test_cosine_restarts_are_torch_s(first: int, growth: int) -> None:
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer(), T_0=first * STEPS, T_mult=growth
    )
    settings = {"schedule": "cosine_restarts", "cycle_epochs": first, "cycle_growth": growth}
    assert close(ours(settings), torch_s(scheduler))


@pytest.mark.parametrize("rise", [0.3, 0.5])
def test_one_cycle_is_torch_s(rise: float) -> None:
    steps, own = EPOCHS * STEPS, optimizer(momentum=0.9)
    # torch reaches the top a step before `pct_start`, and the end with the last step.
    scheduler = lr_scheduler.OneCycleLR(
        own,
        max_lr=0.3,
        total_steps=steps + 1,
        pct_start=(rise * steps + 1) / (steps + 1),
        base_momentum=0.8,
        max_momentum=0.9,
    )
    momenta, schedule = [], OneCycle(rise)
    for step in range(steps):
        momenta.append(own.param_groups[0]["momentum"])
        assert 0.3 * schedule(step / steps) == pytest.approx(scheduler.get_last_lr()[0])
        own.step()
        scheduler.step()
    assert close([0.9 + schedule.shift(step / steps) for step in range(steps)], momenta)


def test_a_warm_up_comes_before_any_schedule_as_in_torch() -> None:
    own, warm = optimizer(), 2 * STEPS
    scheduler = lr_scheduler.SequentialLR(
        own,
        [
            lr_scheduler.LinearLR(own, start_factor=0.01, total_iters=warm),
            lr_scheduler.CosineAnnealingLR(own, T_max=EPOCHS * STEPS - warm),
        ],
        milestones=[warm],
    )
    assert close(ours({"schedule": "cosine", "warmup": 2.0}), torch_s(scheduler))


def test_steps_count_from_the_end_of_the_warm_up() -> None:
    got = ours({"schedule": "step", "step_epochs": 3, "gamma": 0.5, "warmup": 2.0})
    falls = [step for step in range(1, len(got)) if got[step] < got[step - 1]]
    assert falls == [STEPS * 5, STEPS * 8, STEPS * 11]


@pytest.mark.parametrize("maximize", [False, True])
def test_plateau_is_torch_s(maximize: bool) -> None:
    values = [1.0, 0.8, 0.79, 0.7, 0.7, 0.75, 0.71, 0.3, 0.4, 0.5, 0.6, 0.2, 0.2, 0.2, 0.2, 0.2]
    metric = "val/accuracy" if maximize else "val/loss"
    own = train(
        schedule="plateau",
        gamma=0.5,
        plateau={"metric": metric, "patience": 2, "min_delta": 0.02},
    )
    plateau = Plateau.of(own, lambda name: name == "val/accuracy")
    assert plateau is not None
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer(),
        mode="max" if maximize else "min",
        factor=0.5,
        patience=2,
        threshold=0.02,
        threshold_mode="abs",
    )
    for value in [-value for value in values] if maximize else values:
        plateau.see(value)
        scheduler.step(value)
        assert 0.3 * plateau.factor == pytest.approx(scheduler.get_last_lr()[0])
    assert plateau.factor < 0.5  # it has fallen more than once


def test_a_plateau_goes_on_from_its_state() -> None:
    one = Plateau("val/loss", False, 1, 0.0, 0.1)
    for value in (1.0, 1.1, 1.2, 1.3):
        one.see(value)
    other = Plateau("val/loss", False, 1, 0.0, 0.1)
    other.load(one.state())
    assert other == one
    assert other.factor == 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_between_0_and_the_learning_rate(name: str) -> None:
    got = ours({"schedule": name})
    assert max(got) == pytest.approx(0.3)
    assert min(got) >= 0
    assert made(train(schedule=name)) == made(train(schedule=name))  # lanes share what is equal


def test_batches_grow_at_the_epochs() -> None:
    own = train(batch_size=8, batch_growth={"epochs": [3, 5], "factor": 4})
    assert [batch_size(own, epoch) for epoch in range(1, 7)] == [8, 8, 32, 32, 128, 128]
