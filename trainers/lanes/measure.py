"""How many lanes pay: a few steps of stacks of several sizes, timed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from trainers.data import Dataset
from trainers.lanes.layers import unsupported
from trainers.lanes.stack import Lane, Stack, is_out_of_memory
from trainers.models import build
from trainers.schedules import SCHEDULES

STEPS = 4  # of an epoch that is timed
ROUNDS = 3
MOST_NUMBERS = 2**27  # parameters of a stack (0.5 GB; gradients and memory are two to three more)
MOST_S = 1.0  # that may be spent on a size
GAIN = 0.95  # a larger stack must take at most this share of a smaller one's time a lane


def lanes_that_pay(
    params: Mapping[str, Mapping[str, Any]], dataset: Dataset, device: str, most: int
) -> int:
    """How many trials like this one a worker should train together, at most `most`.

    The smallest number that is not clearly slower, a trial, than a larger one. It takes some
    hundredths of a second for a small model.

    Args:
        params: A trial's sections ``data``, ``model`` and ``train``.
        device: ``cpu`` or ``cuda``.
    """
    data = dataset.to(device)
    folds = len(data.splits)
    model = build({**params["model"], "weights": None}, data.shape, data.outputs)
    if most == 1 or unsupported(model):
        return 1
    rows = STEPS * params["train"]["batch_size"]
    splits = [replace(split, train=split.train[:rows]) for split in data.splits]
    dropout = params["model"].get("dropout", 0.0)

    def seconds(trials: int) -> float:
        """For an epoch of one trial, with all its folds, among so many."""
        stack = Stack(
            [
                Lane(model, split, params["train"], dropout, SCHEDULES["constant"], (trial, fold))
                for trial in range(trials)
                for fold, split in enumerate(splits)
            ]
        )
        took = []
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            stack.train()
            if device == "cuda":
                torch.cuda.synchronize()
            took.append(time.perf_counter() - began)
        return median(took[1:]) / trials

    best, best_s, without_gain = 1, seconds(1), 0
    for trials in _sizes(most):
        expected_s = best_s * trials * (ROUNDS + 1)
        parameters = trials * folds * sum(p.numel() for p in model.parameters())
        if parameters > MOST_NUMBERS or expected_s > MOST_S or without_gain == 2:
            break
        try:
            own_s = seconds(trials)
        except RuntimeError as error:
            if is_out_of_memory(error):
                break
            raise
        if own_s < GAIN * best_s:
            best, best_s, without_gain = trials, own_s, 0
        else:
            without_gain += 1
    return best


def _sizes(most: int) -> list[int]:
    """2, 4, 8, … and `most`."""
    return [*(2**power for power in range(1, 11) if 2**power < most), most]
