"""Classes or values from the columns of a table: the trainer `tabular`."""

from __future__ import annotations

from trainers import estimators
from trainers.contract import Trial, Trials
from trainers.loop import fit, fit_together


def train(trial: Trial) -> None:
    """Train a model on encoded columns; cross-entropy for classes, squared error for values."""
    fit(trial, estimators.begin)


def train_together(trials: Trials) -> None:
    """The same of several trials that differ only in what a lane has of its own."""
    fit_together(trials, estimators.begin)
