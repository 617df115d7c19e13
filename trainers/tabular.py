"""Classes or values from the columns of a table: the trainer `tabular`."""

from __future__ import annotations

from torch import nn

from trainers.contract import Trial
from trainers.data import Dataset
from trainers.loop import fit
from trainers.models import build


def train(trial: Trial) -> None:
    """Train a model on encoded columns; cross-entropy for classes, squared error for values."""

    def model(data: Dataset) -> nn.Module:
        return build(trial.params["model"], data.shape, data.outputs)

    fit(trial, model)
