"""When compiling pays, and that a compiled model learns the same."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from trainers import compiling
from trainers.compiling import COST_S, HOPED, Compiling, Known

CNN = ("image_classifier", {"source": "digits"}, {"name": "cnn", "channels": [4]})


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    compiling._known.clear()
    yield
    compiling._known.clear()


@pytest.mark.parametrize(
    ("known", "steps", "pays"),
    [
        (Known(), 10**9, False),  # how long a step takes is to be seen first
        (Known(plain_s=0.1), round(0.9 * COST_S / HOPED / 0.1), False),
        (Known(plain_s=0.1), round(1.1 * COST_S / HOPED / 0.1), True),
        (Known(plain_s=0.1, compiled_s=0.09), 1, True),  # the code is there
        (Known(plain_s=0.1, compiled_s=0.11), 10**9, False),
        (Known(plain_s=0.1, compiled_s=math.inf), 10**9, False),
    ],
)
def test_it_pays_where_it_gains_more_than_it_costs(known: Known, steps: int, pays: bool) -> None:
    assert known.pays(steps) == pays


def epoch(model: Compiling, steps_left: int = 10**9) -> bool:
    """Whether the steps of one were compiled."""
    model.begin(8, steps_left)
    for _ in range(3):
        used = model.step(lambda: model.model(8))
    model.end()
    return used is not model._plain


def test_auto_tries_once_and_stays_with_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter(range(10**6))
    monkeypatch.setattr("trainers.compiling.time.perf_counter", lambda: float(next(now_s)))
    made: list[nn.Module] = []

    def compiled(model: nn.Module) -> nn.Module:
        made.append(model)
        return nn.Identity()

    monkeypatch.setattr(compiling, "_compiled", compiled)
    first = Compiling(nn.Linear(2, 2), "auto", "kind")
    assert not epoch(first)  # is timed
    assert epoch(first)
    assert first.note.startswith("compiled, which took ")
    known = compiling._known["kind"]
    known.plain_s, known.compiled_s = 1.0, 0.9
    second = Compiling(nn.Linear(2, 2), "auto", "kind")
    assert epoch(second, 1)  # of the same kind: at once, as it is known to pay
    known.compiled_s = 1.1
    assert not epoch(second)
    assert not epoch(Compiling(nn.Linear(2, 2), "auto", "another kind"))
    assert len(made) == 2


class Broken(nn.Module):
    """What PyTorch makes where there is no compiler: it fails when it is first asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise TorchDynamoException("no compiler\nwas found")


@pytest.mark.parametrize("how", ["auto", "on"])
def test_what_cannot_be_compiled_is_trained_all_the_same_by_auto(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(compiling, "_compiled", lambda _: Broken())
    plain, x = nn.Linear(2, 2), torch.zeros(8, 2)
    model = Compiling(plain, how, "kind")
    compiling._known["kind"].plain_s = 1.0
    model.begin(8, 10**9)
    if how == "on":
        with pytest.raises(TorchDynamoException):
            model.step(lambda: model.model(8)(x))
        return
    assert torch.equal(model.step(lambda: model.model(8)(x)), plain(x))
    assert model.note == "not compiled: no compiler"
    assert not epoch(model)


def test_a_last_batch_of_fewer_rows_is_not_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "_compiled", lambda model: nn.Identity())
    model = Compiling(nn.Linear(2, 2), "on", "kind")
    assert epoch(model)
    model.begin(8, 1)
    assert model.model(3) is model._plain


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_model_learns_the_same_and_resumes(run: Any) -> None:
    train = {"epochs": 3, "batch_size": 64, "compile": "on", "ema": 0.9}
    whole = run(*CNN, train, seed=5)
    first = run(*CNN, train, seed=5, stop_after=2)
    second = run(*CNN, train, seed=5, saved=first.saved)
    assert {**first.epochs, **second.epochs} == whole.epochs
    plain = run(*CNN, {**train, "compile": "off", "precision": "float32"}, seed=5)
    assert whole.last["val/loss"] == pytest.approx(plain.last["val/loss"], rel=0.2)
