"""Images into classes: the trainer `image_classifier`."""

from __future__ import annotations

from trainers.contract import Trial, Trials
from trainers.loop import fit, fit_together


def train(trial: Trial) -> None:
    """Train the model named by ``model.name`` on images."""
    fit(trial)


def train_together(trials: Trials) -> None:
    """The same of several trials that differ only in what a lane has of its own."""
    fit_together(trials)
