"""Images into classes: the trainer `image_classifier`."""

from __future__ import annotations

from torch import nn

from trainers.contract import Trial
from trainers.data import Dataset
from trainers.loop import fit
from trainers.models import build


def train(trial: Trial) -> None:
    """Train the model named by ``model.name`` on images."""

    def model(data: Dataset) -> nn.Module:
        return build(trial.params["model"], data.shape, data.outputs)

    fit(trial, model)
