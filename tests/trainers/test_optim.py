"""Optimizers give what torch's classes give, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainers import lanes
from trainers.optim import OPTIMIZERS, STACKED, Optimizer, groups
from trainers.options import Train

DECAY = 0.01


def made(of: nn.Module, name: str, **settings: Any) -> Optimizer:
    train = Train(optimizer=name, **{"weight_decay": DECAY, **settings}).model_dump(mode="json")
    return OPTIMIZERS[name].make(groups(of, train), train)


Again = Callable[[], torch.Tensor]


def steps(model: nn.Module, step: Callable[[Again], Any], count: int = 5) -> list[torch.Tensor]:
    """The parameters after some steps; `step` is given what computes loss and gradients."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        x = torch.randn(16, 4, generator=generator, dtype=torch.float32)

        def again(x: torch.Tensor = x) -> torch.Tensor:
            for parameter in model.parameters():
                parameter.grad = None
            with torch.enable_grad():
                loss: torch.Tensor = model(x).square().mean()
                loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        again()
        with torch.no_grad():
            step(again)
    return [parameter.detach().clone() for parameter in model.parameters()]


def by(optimizer: Optimizer, lr: float = 0.05) -> Callable[[Again], None]:
    return lambda again: optimizer.step(lr, 0.0, again)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def weights(of: nn.Module) -> list[torch.Tensor]:
    return [p for p in of.parameters() if p.ndim > 1]


def biases(of: nn.Module) -> list[torch.Tensor]:
    return [p for p in of.parameters() if p.ndim == 1]


L2 = {"weight_decay": DECAY}


@pytest.mark.parametrize(
    ("name", "changed", "kind", "reference"),
    [
        ("sgd", {}, torch.optim.SGD, {"momentum": 0.9, "fused": True} | L2),
        ("sgd", {"momentum": 0.0}, torch.optim.SGD, {"fused": True} | L2),
        (
            "sgd",
            {"nesterov": True, "weight_decay": 0.0},
            torch.optim.SGD,
            {"momentum": 0.9, "nesterov": True, "fused": True},
        ),
        ("sgd", {"momentum": 0.0, "nesterov": True}, torch.optim.SGD, {"fused": True} | L2),
        ("rmsprop", {}, torch.optim.RMSprop, {"momentum": 0.9} | L2),
        (
            "rmsprop",
            {"momentum": 0.0, "alpha": 0.9},
            torch.optim.RMSprop,
            {"alpha": 0.9} | L2,
        ),
        ("adagrad", {}, torch.optim.Adagrad, L2),
        ("adam", {}, torch.optim.Adam, {"fused": True} | L2),
        ("adam", {"beta1": 0.7, "beta2": 0.9}, torch.optim.Adam, {"betas": (0.7, 0.9)} | L2),
        ("adamw", {}, torch.optim.AdamW, {"fused": True} | L2),
        ("adamw", {"weight_decay": 0.0}, torch.optim.AdamW, {"weight_decay": 0.0, "fused": True}),
        ("nadam", {}, torch.optim.NAdam, L2),
        (
            "nadam",
            {"decoupled": True},
            torch.optim.NAdam,
            {"decoupled_weight_decay": True} | L2,
        ),
        ("radam", {}, torch.optim.RAdam, L2),
        (
            "radam",
            {"decoupled": True},
            torch.optim.RAdam,
            {"decoupled_weight_decay": True} | L2,
        ),
        ("adam", {"decoupled": True}, torch.optim.AdamW, L2),
        ("lbfgs", {"weight_decay": 0.0}, torch.optim.LBFGS, {"line_search_fn": "strong_wolfe"}),
    ],
)
def test_steps_equal_torch_s_class(
    name: str, changed: dict[str, Any], kind: Any, reference: dict[str, Any]
) -> None:
    ours, theirs = model(), model()
    other = kind(theirs.parameters(), lr=0.05, **reference)
    got = steps(ours, by(made(ours, name, **changed)))
    if name == "nadam":  # the type in which torch counts, and keeps its product
        torch.set_default_dtype(torch.float64)
    try:
        want = steps(theirs.to(torch.float32), other.step)
    finally:
        torch.set_default_dtype(torch.float32)
    exact = "fused" in reference or name not in ("adam",)
    for one, expected in zip(got, want, strict=True):
        torch.testing.assert_close(
            one, expected, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_from_its_state(name: str) -> None:
    whole, first, second = model(), model(), model()
    optimizer = made(whole, name)
    steps(whole, by(optimizer))
    want = steps(whole, by(optimizer))
    optimizer = made(first, name)
    steps(first, by(optimizer))
    second.load_state_dict(first.state_dict())
    resumed = made(second, name)
    resumed.load_state(optimizer.state())
    for got, wanted in zip(steps(second, by(resumed)), want, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_weights(name: str) -> None:
    plain, decayed = model(), model()
    for of, weight_decay in ((plain, 0.0), (decayed, 0.5)):
        optimizer = made(of, name, weight_decay=weight_decay)
        steps(of, by(optimizer), count=20)
    assert decayed[0].weight.norm() < 0.8 * plain[0].weight.norm()  # type: ignore[index]


def test_muon_updates_matrices_and_adamw_the_rest() -> None:
    ours, theirs = model(), model()
    others: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            weights(theirs),
            lr=0.05,
            momentum=0.9,
            weight_decay=DECAY,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(biases(theirs), lr=0.05, weight_decay=DECAY, fused=True),
    ]
    got = steps(ours, by(made(ours, "muon")))
    want = steps(theirs, lambda again: [other.step() for other in others])
    for one, expected in zip(got, want, strict=True):
        assert torch.equal(one, expected)


def test_muon_leaves_embeddings_to_adamw() -> None:
    of = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    train = Train(optimizer="muon").model_dump()
    hidden = [p.shape for group in groups(of, train) if group.hidden for p in group.parameters]
    assert hidden == [(3, 4)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_need_not_decay(name: str) -> None:
    """In groups, each with its own decay, as one gives them to torch."""
    ours = model()
    train = Train(optimizer=name, weight_decay=0.5, decay_on="weights").model_dump()
    own = groups(ours, train)
    assert [group.decays for group in own] == [True, False]
    optimizer = OPTIMIZERS[name].make(own, train)
    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = [p.detach().clone() for p in ours.parameters()]

    def again() -> torch.Tensor:  # a flat loss: only decay moves anything
        for parameter in ours.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return torch.zeros(())

    with torch.no_grad():
        optimizer.step(0.05, 0.0, again)
    for parameter, was in zip(ours.parameters(), before, strict=True):
        assert torch.equal(parameter, was) == (parameter.ndim == 1)


@pytest.mark.parametrize("name", STACKED)
def test_groups_have_learning_rates_of_their_own(name: str) -> None:
    factors = {"0.weight": 0.1, "0.bias": 0.1}
    both, slow, fast = model(), model(), model()
    train = Train(optimizer=name, weight_decay=DECAY).model_dump()
    optimizer = OPTIMIZERS[name].make(groups(both, train, factors), train)
    assert [group.lr for group in groups(both, train, factors)] == [0.1, 1.0]
    got = steps(both, by(optimizer), count=1)
    of_slow = steps(slow, by(made(slow, name), 0.005), count=1)
    of_fast = steps(fast, by(made(fast, name)), count=1)
    for place, one in enumerate(got):
        assert torch.equal(one, (of_slow if place < 2 else of_fast)[place])


def test_what_has_no_gradient_stays_and_learns_later() -> None:
    of = model()
    optimizer = made(of, "adamw")
    frozen = of[0].weight  # type: ignore[index]
    before = frozen.detach().clone()
    frozen.requires_grad_(False)
    steps(of, by(optimizer), count=2)
    assert torch.equal(frozen, before)
    frozen.requires_grad_(True)
    steps(of, by(optimizer), count=1)
    assert not torch.equal(frozen, before)


def test_lbfgs_solves_a_ridge_regression() -> None:
    """In the closed form: (X'X/n + λI)⁻¹ X'y/n, of a loss that is half the squared error."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(30, 1, generator=generator, dtype=torch.float64)
    of = nn.Linear(4, 1, bias=False).double()
    optimizer = made(of, "lbfgs", weight_decay=0.3)

    def again() -> torch.Tensor:
        of.zero_grad()
        with torch.enable_grad():
            loss: torch.Tensor = 0.5 * (of(x) - y).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with torch.no_grad():
        for _ in range(3):
            optimizer.step(1.0, 0.0, again)
    wanted = torch.linalg.solve(
        x.T @ x / 30 + 0.3 * torch.eye(4, dtype=torch.float64), x.T @ y / 30
    )
    torch.testing.assert_close(of.weight.detach().T, wanted, rtol=1e-4, atol=1e-5)


def test_every_stacked_optimizer_is_known_to_lanes() -> None:
    assert set(lanes.optim.OPTIMIZERS) == set(STACKED)
