"""How many lanes pay: a few steps of stacks of several sizes, timed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from trainers.data import Dataset
from trainers.lanes.layers import unsupported
from trainers.lanes.stack import Lane, Stack
from trainers.memory import is_out_of_memory
from trainers.models import build
from trainers.schedules import Constant

STEPS = 4  # of an epoch that is timed
ROUNDS = 3  # at least, of every size; more while there is time
MOST_ROUNDS = 20
BUDGET_S = 0.5  # for all rounds together
MOST_NUMBERS = 2**27  # parameters of a stack (0.5 GB; gradients and memory are two to three more)
MOST_S = 0.5  # that may be spent on a size
GAIN = 0.95  # a larger stack must take at most this share of a smaller one's time a lane


def lanes_that_pay(
    params: Mapping[str, Mapping[str, Any]], dataset: Dataset, device: str, most: int
) -> int:
    """How many trials like this one a worker should train together, at most `most`.

    The smallest number that is not clearly slower, a trial, than a larger one. All are timed in
    turn, several times, and the quickest time of each counts: what else the machine does slows
    some, but speeds none. It takes about half a second for a small model.

    Args:
        params: A trial's sections ``data``, ``model`` and ``train``.
        device: ``cpu`` or ``cuda``.
    """
    data = dataset.to(device)
    model = build({**params["model"], "weights": None}, data.shape, data.outputs)
    if most == 1 or (unsupported(model) and not params["train"]["vmap"]):
        return 1
    rows = STEPS * params["train"]["batch_size"]
    # A model each, of every fold of every repeat.
    alike = [split for split in data.splits if split.shape == data.shape]
    splits = [replace(split, train=split.train[:rows]) for split in alike]
    splits *= params["train"]["repeats"]
    numbers = len(splits) * sum(p.numel() for p in model.parameters())

    def stack(trials: int) -> Stack:
        return Stack(
            [
                Lane(model, split, params["train"], Constant(), (trial, fold))
                for trial in range(trials)
                for fold, split in enumerate(splits)
            ]
        )

    stacks: dict[int, Stack] = {}
    seconds: dict[int, float] = {}  # a trial's, at best
    without_gain = 0
    for trials in [1, *_sizes(most)]:
        best_s = min(seconds.values(), default=0.0)
        if trials * numbers > MOST_NUMBERS or best_s * trials * (ROUNDS + 1) > MOST_S:
            break
        try:
            stacks[trials] = stack(trials)
            _epoch_s(stacks[trials], device)  # what is made at the first one is made
            seconds[trials] = _epoch_s(stacks[trials], device) / trials
        except RuntimeError as error:
            if is_out_of_memory(error):
                stacks.pop(trials, None)
                break
            raise
        without_gain = 0 if not best_s or seconds[trials] < GAIN * best_s else without_gain + 1
        if without_gain > 2:
            break
    if not seconds:
        return 1  # one is too much already
    began = time.perf_counter()
    for done in range(MOST_ROUNDS):
        if done >= ROUNDS and time.perf_counter() - began > BUDGET_S:
            break
        for trials, one in stacks.items():
            seconds[trials] = min(seconds[trials], _epoch_s(one, device) / trials)
    best_s = min(seconds.values())
    return next(trials for trials, own_s in seconds.items() if GAIN * own_s <= best_s)


def _epoch_s(stack: Stack, device: str) -> float:
    began = time.perf_counter()
    stack.train()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _sizes(most: int) -> list[int]:
    """2, 4, 8, … and `most`."""
    return [*(2**power for power in range(1, 11) if 2**power < most), most]
