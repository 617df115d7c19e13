"""Trials that are trained on several ranks, in processes of their own, for tests of it."""

from __future__ import annotations

import contextlib
import multiprocessing
from pathlib import Path
from typing import Any

import torch
from recording_trial import RecordingTrial, sections

from trainers import loop, parallel
from trainers.contract import NonFinite
from trainers.data import load

MLP = {"name": "mlp", "hidden": [24], "dropout": 0.0}
CNN = {"name": "cnn", "channels": [4, 8], "dropout": 0.0}
# With larger steps, rounding errors grow to differences within three epochs.
SLOWLY = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.01}
SGD = {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05}
FEW = {"epochs": 2, "batch_size": 359}  # of 1,079 rows
# Of most batches a rank has more rows than another, of the last one it has none.
UNEVEN = {"batch_size": 77}

# Model, train.
ALIKE: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "ddp": [
        (MLP, {"epochs": 3, **UNEVEN, "clip_norm": 0.5, "grad_norm": True, "l1": 1e-4, **SGD}),
        (MLP, {"optimizer": "lbfgs", "lr": 1.0, "batch_size": 1079, "epochs": 1}),
        (CNN, {"swa": 0.3, "sampling": "balanced", **SLOWLY}),
        (CNN, {"augment": {"flip": True, "mixup": 0.4}, "class_weights": "balanced", **SLOWLY}),
    ],
    "fsdp": [
        (MLP, {**UNEVEN, "clip_norm": 0.5, "grad_norm": True, "l1": 1e-4, **SGD}),
        (MLP, {"optimizer": "adamw", "ema": 0.9, "decoupled": True}),
        (CNN, {"swa": 0.3, **SLOWLY}),
        (CNN, {"precision": "bf16", **SLOWLY}),
    ],
    "pipeline": [
        (MLP, {**UNEVEN, "clip_norm": 0.5, "grad_norm": True, "l1": 1e-4, **SGD}),
        (MLP, {"optimizer": "muon", "ema": 0.9, "class_weights": "balanced"}),
    ],
}
RANKS = {"ddp": 3, "fsdp": 2, "pipeline": 2}


def trial(model: dict[str, Any], train: dict[str, Any], folder: str, **own: Any) -> RecordingTrial:
    torch.set_num_threads(1)
    each = sections("image_classifier", {"source": "digits"}, model, FEW | train)
    return RecordingTrial(each, load(each["data"], Path(folder)), **own)


def found(one: RecordingTrial) -> dict[str, Any]:
    return {"epochs": one.epochs, "output": one.predictions and one.predictions.output}


def rank(number: int, how: parallel.world.How, folder: str, answers: Any) -> None:
    """Train each case; stop after an epoch, and go on; and one whose loss is lost."""
    try:
        answers.put((number, _of_rank(number, how, folder)))
    except BaseException as error:
        answers.put((number, error))
        raise


def _of_rank(number: int, how: Any, folder: str) -> list[Any]:
    parallel.join(parallel.World(number, RANKS[how], how), Path(folder) / "meeting", "cpu")
    said = []
    for model, train in ALIKE[how]:
        whole = trial(model, train, folder)
        loop.fit(whole)
        stopped = trial(model, train, folder, stop_after=1)
        with contextlib.suppress(BaseException):
            loop.fit(stopped)
        again = trial(model, train, folder, saved=stopped.saved)
        loop.fit(again)
        said.append((found(whole), found(again)))
    lost = trial(MLP, {**SGD, **UNEVEN, "lr": 1000.0, "weight_decay": 10.0}, folder)
    try:
        loop.fit(lost)
    except NonFinite as error:
        said.append(str(error))
    parallel.leave()
    return said


def every(how: str, folder: Path) -> list[list[Any]]:
    """What each rank found of each case, and how its lost trial ended."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=rank, args=(number, how, str(folder), answers), daemon=True)
        for number in range(RANKS[how])
    ]
    for process in processes:
        process.start()
    said = {}
    for _ in processes:
        number, answer = answers.get(timeout=120)
        if isinstance(answer, BaseException):
            raise answer
        said[number] = answer
    return [said[number] for number in range(RANKS[how])]
