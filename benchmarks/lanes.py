"""Trials trained in lanes against the same trials one after another, on one CPU thread.

Measured in one run, in turn, medians; float32. Both sides train the same shapes on the same rows,
batches and optimizer; only training is timed, no validation and no recording.

* lanes: `trainers.lanes.Stack`;
* solo: a plain PyTorch loop on resident tensors, with PyTorch's fastest optimizer;
* DataLoader: the loop people write today;
* compiled: the solo loop's model through ``torch.compile`` (its compiling is not counted).
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from measure import Figure, interleaved, report, say
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from trainers.data import Dataset, Split, load
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack
from trainers.lanes.measure import lanes_that_pay
from trainers.models import build
from trainers.registry import TRAINERS
from trainers.schedules import SCHEDULES

Params = Mapping[str, Mapping[str, Any]]
Epoch = Callable[[], float]  # trains; returns its seconds

DIGITS = ("image_classifier", {"source": "digits"}, {"hidden": [64]})
CANCER = ("tabular", {"source": "breast_cancer", "folds": 5}, {"hidden": [128, 128]})
MODELS = {
    "digits, mlp 64": (*DIGITS, {"batch_size": 32, "optimizer": "adamw"}),
    "digits, mlp 256-256, dropout": (
        *DIGITS[:2],
        {"hidden": [256, 256], "dropout": 0.2},
        {"batch_size": 128, "optimizer": "sgd"},
    ),
    "breast_cancer, mlp 128-128": (*CANCER, {"batch_size": 16, "optimizer": "sgd"}),
    "digits, mlp 1024-1024": (*DIGITS[:2], {"hidden": [1024, 1024]}, {"batch_size": 64}),
    "digits, cnn 16-32": (*DIGITS[:2], {"name": "cnn", "channels": [16, 32]}, {}),
}


def params_of(trainer: str, data: Any, model: Any, train: Any) -> Params:
    built_in = TRAINERS[trainer]
    return {
        "data": built_in.data(**data).model_dump(mode="json"),
        "model": built_in.model(**model).model_dump(mode="json"),
        "train": built_in.train(**train).model_dump(mode="json"),
    }


def lanes_of(params: Params, data: Dataset, trials: int) -> list[Lane]:
    """All folds of so many trials."""
    lanes = []
    for trial in range(trials):
        for fold, split in enumerate(data.splits):
            model = build(params["model"], data.shape, data.outputs)
            dropout = params["model"].get("dropout", 0.0)
            lanes.append(
                Lane(model, split, params["train"], dropout, SCHEDULES["constant"], (trial, fold))
            )
    return lanes


def stacked(params: Params, data: Dataset, trials: int) -> Epoch:
    """An epoch of so many trials together."""
    lanes = lanes_of(params, data, trials)
    team = (InTurn if params["model"]["name"] == "cnn" else Stack)(lanes)

    def epoch() -> float:
        began = time.perf_counter()
        team.train()
        return time.perf_counter() - began

    return epoch


def optimizer_of(model: nn.Module, train: Mapping[str, Any]) -> torch.optim.Optimizer:
    if train["optimizer"] == "sgd":
        momentum = train["momentum"]
        return torch.optim.SGD(model.parameters(), lr=train["lr"], momentum=momentum, fused=True)
    return torch.optim.AdamW(model.parameters(), lr=train["lr"], weight_decay=0.0, fused=True)


def rows_of(split: Split) -> tuple[Tensor, Tensor]:
    return split.batch(split.train)


def batches(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """From resident tensors, in a new order."""
    inputs, target = rows_of(split)
    order = torch.randperm(len(target))
    for rows in order.split(size):
        yield inputs[rows], target[rows]


def loaded(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from DataLoader(TensorDataset(*rows_of(split)), batch_size=size, shuffle=True)


def alone(
    params: Params,
    data: Dataset,
    feed: Callable[[Split, int], Iterator[tuple[Tensor, Tensor]]],
    compiled: bool = False,
) -> Epoch:
    """An epoch of one trial, a plain loop for each fold."""
    model = build(params["model"], data.shape, data.outputs)
    optimizer = optimizer_of(model, params["train"])
    run: Any = torch.compile(model) if compiled else model
    size = params["train"]["batch_size"]

    def epoch() -> float:
        began = time.perf_counter()
        model.train()
        for split in data.splits:
            for x, y in feed(split, size):
                loss = cross_entropy(run(x), y)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return time.perf_counter() - began

    epoch()  # what is made at the first step is made; what is compiled is compiled
    return epoch


def against(
    name: str, params: Params, data: Dataset, trials: int, rounds: int, goals: Mapping[str, float]
) -> list[Figure]:
    """So many trials in lanes, against one that is trained alone, by `goals`' kinds of loops."""
    say(f"{name} …")
    sides: dict[str, Epoch] = {
        "solo": alone(params, data, batches),
        "a DataLoader loop": alone(params, data, loaded),
    }
    if "solo compiled" in goals:
        sides["solo compiled"] = alone(params, data, batches, compiled=True)
    chosen = {kind: sides[kind] for kind in goals}
    together = stacked(params, data, trials)
    together()
    ours_s, *theirs_s = interleaved(rounds, together, *chosen.values())
    return [
        Figure(
            f"{name}, {trials} trials: {kind} / lanes",
            trials * one_s / ours_s,
            goal,
            at_most=False,
            ours=f"{ours_s * 1e3:.1f} ms",
            theirs=f"{trials} × {one_s * 1e3:.1f} ms",
        )
        for (kind, goal), one_s in zip(goals.items(), theirs_s, strict=True)
    ]


def returned(params: Params, data: Dataset, rounds: int) -> Figure:
    """What the lanes that leave a stack of 64 give back."""
    full, half = stacked(params, data, 64), _half(params, data)
    full(), half()
    full_s, half_s = interleaved(rounds, full, half)
    share = (full_s - half_s) / (full_s / 2)
    return Figure("of the share of 32 lanes that leave 64: given back", share, 0.8, at_most=False)


def _half(params: Params, data: Dataset) -> Epoch:
    stack = Stack(lanes_of(params, data, 64))
    stack.train()
    stack.keep(stack.lanes[::2])

    def epoch() -> float:
        began = time.perf_counter()
        stack.train()
        return time.perf_counter() - began

    return epoch


def never_slower(name: str, rounds: int, cache: Path) -> Figure:
    """What `lanes: auto` chooses, against `lanes: off`."""
    params = params_of(*MODELS[name])
    data = load(params["data"], cache)
    count = lanes_that_pay(params, data, "cpu", 64)
    one, several = stacked(params, data, 1), stacked(params, data, count)
    one(), several()
    one_s, several_s = interleaved(rounds, one, several)
    ours, theirs = f"{several_s * 1e3:.1f} ms", f"{count} × {one_s * 1e3:.1f} ms"
    name = f"{name}: off / auto ({count} lanes)"
    return Figure(name, count * one_s / several_s, 0.97, at_most=False, ours=ours, theirs=theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing compiled")
    quick = parser.parse_args().quick
    rounds = 5 if quick else 21
    torch.set_num_threads(1)
    compiles = not quick and shutil.which("g++") is not None
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        for optimizer, goal in (("sgd", 16.0), ("adamw", 13.0)):
            params = params_of(*DIGITS, {"batch_size": 32, "optimizer": optimizer, "lr": 0.01})
            data = load(params["data"], cache)
            goals = {"solo": goal, "a DataLoader loop": 100.0}
            goals |= {"solo compiled": 7.0} if compiles else {}
            name = f"digits mlp, {optimizer}"
            figures += against(name, params, data, 64, rounds, goals)
        figures.append(returned(params, data, rounds))
        params = params_of(*CANCER, {"batch_size": 16, "optimizer": "sgd", "lr": 0.01})
        data = load(params["data"], cache)
        goals = {"solo": 4.0, "a DataLoader loop": 20.0}
        figures += against("breast_cancer mlp, 5 folds", params, data, 16, rounds, goals)
        params = params_of(*DIGITS[:2], {"name": "cnn", "channels": [16, 32]}, {"batch_size": 32})
        data = load(params["data"], cache)
        goals = {"solo": 2.5, "a DataLoader loop": 5.0}
        figures += against("digits cnn", params, data, 16, math.ceil(rounds / 4), goals)
        for name in MODELS:
            say(f"auto: {name} …")
            figures.append(never_slower(name, math.ceil(rounds / 2), cache))
    report("lanes", [("threads", "1"), ("torch", torch.__version__)], figures)


if __name__ == "__main__":
    main()
