"""A trial in this process, for tests of trainers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch

from trainers.contract import Predictions, StopTraining
from trainers.data import Dataset
from trainers.registry import TRAINERS


class RecordingTrial:
    """A `trainers.contract.Trial` that keeps what is reported and saved.

    Args:
        stop_after: The epoch at which `report` raises StopTraining, or None.
        saved: What an earlier attempt saved, as `saved` of its trial, or None.
    """

    number = 0

    def __init__(
        self,
        params: Mapping[str, Mapping[str, Any]],
        data: Dataset,
        seed: int = 0,
        device: str = "cpu",
        stop_after: int | None = None,
        saved: bytes | None = None,
    ) -> None:
        self.params = params
        self.data = data
        self.seed = seed
        self.device = device
        self.epochs: dict[int, dict[str, float]] = {}
        self.predictions: Predictions | None = None
        self.saved = saved
        self._stop_after = stop_after

    def report(
        self, epoch: int, metrics: Mapping[str, float], predictions: Predictions | None = None
    ) -> None:
        self.epochs[epoch] = dict(metrics)
        self.predictions = predictions
        if epoch == self._stop_after:
            raise StopTraining

    def save(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self.saved = buffer.getvalue()

    def resume(self) -> dict[str, Any] | None:
        if self.saved is None:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(self.saved), weights_only=True)
        return state

    @property
    def last(self) -> dict[str, float]:
        return self.epochs[max(self.epochs)]


def sections(
    trainer: str,
    data: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    ensemble: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """The sections with every default, as a study file's are."""
    built_in = TRAINERS[trainer]
    return {
        "data": built_in.data(**data).model_dump(mode="json"),
        "model": built_in.model(**(model or {})).model_dump(mode="json"),
        "train": built_in.train(**(train or {})).model_dump(mode="json"),
        "ensemble": built_in.ensemble(**(ensemble or {})).model_dump(mode="json"),
    }
