"""Texts into classes: the trainer `text_classifier`."""

from __future__ import annotations

from trainers.contract import Trial, Trials
from trainers.loop import fit, fit_together


def train(trial: Trial) -> None:
    """Train the model named by ``model.name`` on token ids."""
    fit(trial)


def train_together(trials: Trials) -> None:
    """Several trials; texts' models are trained in turn."""
    fit_together(trials)
