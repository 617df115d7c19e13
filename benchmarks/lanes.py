"""Trials trained in lanes against the same trials one after another.

Measured in one run, in turn, medians; float32, one CPU thread. Both sides train the same shapes on
the same rows, batches and optimizer; only training is timed, no validation and no recording.

* lanes: `trainers.team`, as the built-in trainers use it; it compiles nothing;
* solo: a plain PyTorch loop on resident tensors, with PyTorch's fastest optimizer;
* DataLoader: the loop people write today, an item at a time as in PyTorch's tutorials; and one
  over a TensorDataset, which takes a batch at once;
* compiled: the solo loop's model through ``torch.compile`` (its compiling is not counted).

With ``--device cuda`` the same on a GPU, with several numbers of trials; of that there are no
goals. Lanes and solo have their data there; a DataLoader's batches are copied to it.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from measure import Figure, interleaved, report, say
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from trainers.data import Dataset, Split, load
from trainers.ensembles import begin
from trainers.ensembles.members import Part
from trainers.lanes import Lane
from trainers.lanes.measure import lanes_that_pay
from trainers.models import build
from trainers.registry import TRAINERS
from trainers.schedules import Constant
from trainers.team import Grouped

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


SGD, ADAMW = (
    params_of(*DIGITS, {"batch_size": 32, "optimizer": name, "lr": 0.01})
    for name in ("sgd", "adamw")
)
FOLDS = params_of(*CANCER, {"batch_size": 16, "optimizer": "sgd", "lr": 0.01})
CNN = params_of(*DIGITS[:2], {"name": "cnn", "channels": [16, 32]}, {"batch_size": 32})


def lanes_of(params: Params, data: Dataset, trials: int) -> list[Lane]:
    """All folds of so many trials."""
    lanes = []
    for trial in range(trials):
        for fold, split in enumerate(data.splits):
            model = build(params["model"], data.shape, data.outputs)
            lanes.append(Lane(model, split, params["train"], Constant(), (trial, fold)))
    return lanes


def together(lanes: Sequence[Lane], leave: Sequence[Lane] = ()) -> Epoch:
    """An epoch of a team, which some have left."""
    team = Grouped()
    team.add(lanes)
    team.train()  # what is made at the first step is made
    if leave:
        team.keep([lane for lane in lanes if lane not in leave])

    def epoch() -> float:
        began = time.perf_counter()
        team.train()
        wait()
        return time.perf_counter() - began

    return epoch


def wait() -> None:
    """Until the GPU, if there is one, is ready."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
    order = torch.randperm(len(target), device=target.device)
    for rows in torch.split(order, size):
        yield inputs[rows], target[rows]


class Images(TorchDataset[tuple[Tensor, Tensor]]):
    """As PyTorch's tutorials have it: torchvision transforms an image when it is asked for."""

    def __init__(self, split: Split) -> None:
        self._images = split.inputs[split.train].permute(0, 2, 3, 1).numpy()
        self._target = split.target[split.train]
        scale = [
            (own.flatten() / 255).tolist() for own in (split.mean, split.std) if own is not None
        ]
        self._transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*scale)])

    def __len__(self) -> int:
        return len(self._target)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self._transform(self._images[row]), self._target[row]


class Table(TorchDataset[tuple[Tensor, Tensor]]):
    """As PyTorch's tutorial on datasets has it: a row of a pandas table when it is asked for."""

    def __init__(self, split: Split) -> None:
        inputs, self._target = rows_of(split)
        self._table = pd.DataFrame(inputs.numpy())

    def __len__(self) -> int:
        return len(self._target)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(self._table.iloc[row].to_numpy()), self._target[row]


def loaded(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    dataset = Table(split) if split.mean is None else Images(split)
    yield from DataLoader(dataset, batch_size=size, shuffle=True)


def loaded_tensors(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from DataLoader(TensorDataset(*rows_of(split)), batch_size=size, shuffle=True)


def alone(
    params: Params,
    data: Dataset,
    feed: Callable[[Split, int], Iterator[tuple[Tensor, Tensor]]],
    compiled: bool = False,
    device: torch.device | None = None,
) -> Epoch:
    """An epoch of one trial, a plain loop for each fold.

    Args:
        device: Where the model is, if not where its data are.
    """
    device = device or data.target.device
    model = build(params["model"], data.shape, data.outputs).to(device)
    optimizer = optimizer_of(model, params["train"])
    run: Any = torch.compile(model) if compiled else model
    size = params["train"]["batch_size"]

    def epoch() -> float:
        began = time.perf_counter()
        model.train()
        for split in data.splits:
            for x, y in feed(split, size):
                loss = cross_entropy(run(x.to(device)), y.to(device))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        wait()
        return time.perf_counter() - began

    epoch()  # what is made at the first step is made; what is compiled is compiled
    return epoch


def against(
    name: str, params: Params, data: Dataset, trials: int, rounds: int, goals: Mapping[str, float]
) -> tuple[list[Figure], tuple[str, str]]:
    """So many trials in lanes, against one that is trained alone, by `goals`' kinds of loops.

    And against a DataLoader of tensors, for which there is no goal.
    """
    say(f"{name} …")
    sides: dict[str, Epoch] = {
        "solo": alone(params, data, batches),
        "a DataLoader loop": alone(params, data, loaded),
        "a DataLoader of tensors": alone(params, data, loaded_tensors),
    }
    if "solo compiled" in goals:
        sides["solo compiled"] = alone(params, data, batches, compiled=True)
    ours = together(lanes_of(params, data, trials))
    ours_s, *theirs_s = interleaved(rounds, ours, *sides.values())
    took_s = dict(zip(sides, theirs_s, strict=True))
    figures = [
        Figure(
            f"{name}, {trials} trials: {kind} / lanes",
            trials * took_s[kind] / ours_s,
            goal,
            at_most=False,
            ours=f"{ours_s * 1e3:.1f} ms",
            theirs=f"{trials} × {took_s[kind] * 1e3:.1f} ms",
        )
        for kind, goal in goals.items()
    ]
    kind = "a DataLoader of tensors"
    ratio = trials * took_s[kind] / ours_s
    return figures, (f"{name}, {trials} trials: {kind} / lanes", f"{ratio:.1f} ×")


def returned(params: Params, data: Dataset, rounds: int) -> Figure:
    """What the lanes that leave a stack of 64 give back."""
    lanes = lanes_of(params, data, 64)
    full, half = together(lanes_of(params, data, 64)), together(lanes, leave=lanes[1::2])
    full_s, half_s = interleaved(rounds, full, half)
    share = (full_s - half_s) / (full_s / 2)
    return Figure("of the share of 32 lanes that leave 64: given back", share, 0.8, at_most=False)


def bagging(params: Params, data: Dataset, rounds: int) -> Figure:
    """A bagging ensemble of 16, against one such model."""
    section = {"method": "bagging", "size": 16}
    ensemble = TRAINERS[DIGITS[0]].ensemble(**section).model_dump(mode="json")
    part = Part({**params, "ensemble": ensemble}, data, fold=0, seed=0)
    ours, one = together(begin(part, None).lanes), alone(params, data, batches)
    ours_s, one_s = interleaved(rounds, ours, one)
    name = "digits mlp, adamw: bagging of 16 / one of them solo"
    figures = f"{ours_s * 1e3:.1f} ms", f"{one_s * 1e3:.1f} ms"
    return Figure(name, ours_s / one_s, 3.0, ours=figures[0], theirs=figures[1])


def mixed(cache: Path, rounds: int) -> tuple[str, str]:
    """Trials of all sorts of batch sizes, against each of them alone."""
    sizes = [round(8 * 16 ** (number / 63)) for number in range(64)]
    of_each = [params_of(*DIGITS, {"batch_size": size}) for size in sizes]
    data = load(of_each[0]["data"], cache)
    ours = together([lane for params in of_each for lane in lanes_of(params, data, 1)])
    solo = [alone(params, data, batches) for params in of_each]
    ours_s, solo_s = interleaved(rounds, ours, lambda: sum(one() for one in solo))
    name = f"digits mlp, 64 trials of {len(set(sizes))} batch sizes, 8 to 128: solo / lanes"
    return name, f"{solo_s / ours_s:.1f} ×"


def never_slower(name: str, rounds: int, cache: Path) -> Figure:
    """What `lanes: auto` chooses, against `lanes: off`."""
    params = params_of(*MODELS[name])
    data = load(params["data"], cache)
    count = lanes_that_pay(params, data, "cpu", 64)
    one, several = (together(lanes_of(params, data, trials)) for trials in (1, count))
    one_s, several_s = interleaved(rounds, one, several)
    ours, theirs = f"{several_s * 1e3:.1f} ms", f"{count} × {one_s * 1e3:.1f} ms"
    name = f"{name}: off / auto ({count} lanes)"
    return Figure(name, count * one_s / several_s, 0.97, at_most=False, ours=ours, theirs=theirs)


def on_gpu(name: str, params: Params, data: Dataset, rounds: int) -> Iterator[tuple[str, str]]:
    """The same as `against`, for several numbers of trials."""
    say(f"{name} …")
    there = data.to("cuda")
    solo = alone(params, there, batches)
    loaders = {
        "a DataLoader loop": alone(params, data, loaded, device=there.target.device),
        "a DataLoader of tensors": alone(params, data, loaded_tensors, device=there.target.device),
    }
    loaders_s = interleaved(math.ceil(rounds / 4), *loaders.values())
    for trials in (1, 4, 16, 64):
        ours = together(lanes_of(params, there, trials))
        ours_s, solo_s = interleaved(rounds, ours, solo)
        took_s = {"solo": solo_s, **dict(zip(loaders, loaders_s, strict=True))}
        ratios = " / ".join(f"{trials * each_s / ours_s:.1f} ×" for each_s in took_s.values())
        yield f"{name}, {trials} trials in {ours_s * 1e3:.1f} ms: {', '.join(took_s)}", ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing compiled")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    quick = arguments.quick
    rounds = 5 if quick else 21
    torch.set_num_threads(1)
    if arguments.device == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            rows = [("device", torch.cuda.get_device_name()), ("torch", torch.__version__)]
            for name, params in (
                ("digits mlp, sgd", SGD),
                ("digits mlp, adamw", ADAMW),
                ("breast_cancer mlp, 5 folds", FOLDS),
                ("digits cnn", CNN),
            ):
                rows += on_gpu(name, params, load(params["data"], Path(folder)), rounds)
        report("lanes", rows, [])
        return
    compiles = not quick and shutil.which("g++") is not None
    compiled = {"solo compiled": 7.0} if compiles else {}
    figures: list[Figure] = []
    rows = [("threads", "1"), ("torch", torch.__version__)]
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        for name, params, trials, goals in (
            ("digits mlp, sgd", SGD, 64, {"solo": 16.0, "a DataLoader loop": 100.0, **compiled}),
            (
                "digits mlp, adamw",
                ADAMW,
                64,
                {"solo": 13.0, "a DataLoader loop": 100.0, **compiled},
            ),
            ("breast_cancer mlp, 5 folds", FOLDS, 16, {"solo": 4.0, "a DataLoader loop": 20.0}),
            ("digits cnn", CNN, 16, {"solo": 2.5, "a DataLoader loop": 5.0}),
        ):
            data = load(params["data"], cache)
            often = math.ceil(rounds / 4) if params is CNN else rounds
            found, row = against(name, params, data, trials, often, goals)
            figures += found
            rows.append(row)
        digits = load(ADAMW["data"], cache)
        figures += [returned(ADAMW, digits, rounds), bagging(ADAMW, digits, rounds)]
        rows.append(mixed(cache, math.ceil(rounds / 4)))
        for name in MODELS:
            say(f"auto: {name} …")
            figures.append(never_slower(name, math.ceil(rounds / 2), cache))
    report("lanes", rows, figures)


if __name__ == "__main__":
    main()
