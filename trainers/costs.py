"""What a prediction costs: parameters, and time on the trial's device."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainers.data import Dataset
from trainers.models import build

ROWS = 1000  # that are predicted at once, where there are as many
MOST_NUMBERS = 2**20  # of inputs at once
TIMES = 7


@dataclass(frozen=True)
class Cost:
    """Of one model.

    Attributes:
        parameters: Exact.
        inference_ms: Milliseconds for 1,000 rows that lie on the device, by the clock: no two
            measurements are equal.
    """

    parameters: int
    inference_ms: float


class Costs:
    """The costs of models on a trial's data, each measured once.

    Args:
        data: On the trial's device.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._known: dict[str, Cost] = {}

    def of(self, sections: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """``cost/parameters`` and ``cost/inference_ms`` of models that are asked in turn.

        Args:
            sections: The ``model`` section of each.
        """
        each = [self._of_one(section) for section in sections]
        return {
            "cost/parameters": float(sum(one.parameters for one in each)),
            "cost/inference_ms": sum(one.inference_ms for one in each),
        }

    def _of_one(self, section: Mapping[str, Any]) -> Cost:
        key = json.dumps(section, sort_keys=True)
        if key not in self._known:
            data = self._data
            section = {**section, "weights": None}
            model = build(section, data.shape, data.outputs, data.splits[0].encoding)
            parameters = sum(p.numel() for p in model.parameters())
            self._known[key] = Cost(parameters, inference_ms(model, self._data))
        return self._known[key]


@torch.no_grad()
def inference_ms(model: nn.Module, data: Dataset) -> float:
    """For 1,000 rows: the least of several times, for what else runs can only add to it."""
    device = data.target.device
    numbers = data.splits[0].row_numbers
    inputs, _ = data.splits[0].batch(data.train[: max(1, min(ROWS, MOST_NUMBERS // numbers))])
    model.to(device).eval()
    least_s = float("inf")
    for _ in range(TIMES):
        began_s = time.perf_counter()
        model(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        least_s = min(least_s, time.perf_counter() - began_s)
    return least_s * 1000 * 1000 / len(inputs)
