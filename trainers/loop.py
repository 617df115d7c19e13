"""The loop that the built-in trainers share: epochs over resident tensors, checkpoints, reports.

A trial is a function of its parameters, its seed and its data: each epoch draws from a seed made
of the trial's, the fold and the epoch, so that a trial resumed after any epoch goes on exactly as
if it had not been interrupted, and trains alike whatever else is trained together with it.

Models whose layers can be stacked train as one program (`trainers.lanes`), a trial alone as a
stack of one; others in turn (`trainers.in_turn`).

Metrics named ``train/…`` are of the outputs during the epoch, while the weights changed and with
dropout on: they cost no second pass.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from trainers import metrics
from trainers.contract import Epoch, Predictions, Trial, Trials
from trainers.data import Dataset
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Said, Stack
from trainers.lanes.layers import unsupported
from trainers.metrics import Scores
from trainers.models import build
from trainers.seeds import seed_everything


class Team(Protocol):
    """Models that are trained side by side."""

    lanes: list[Lane]

    def add(self, lanes: Sequence[Lane]) -> None:
        """Let models in."""

    def keep(self, lanes: Sequence[Lane]) -> None:
        """Let all others go."""

    def train(self) -> Sequence[Said]:
        """An epoch of each; what it said of each batch just before learning from it."""

    def validate(self) -> Sequence[Said]:
        """What each says of its validation rows, in their order."""

    def state(self, lane: Lane) -> dict[str, Any]:
        """For a checkpoint."""

    def load(self, lane: Lane, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


def fit(trial: Trial) -> None:
    """Train one trial, as `fit_together` does."""
    fit_together(_Alone(trial))


def fit_together(trials: Trials) -> None:
    """Train trials of one `trainers.registry.stack_key`; report the mean of each one's folds."""
    team: Team | None = None
    fitting: list[Fitting] = []
    while True:
        for trial in trials.begin():
            try:
                begun = Fitting.begin(trial)
                team = _joined(team, begun.lanes)
                begun.resume(team)
            except Exception as error:
                if team is not None:
                    team.keep(_lanes(fitting))
                trials.fail(trial, error)
                continue
            if begun.is_over:
                trials.finish(trial)
            else:
                fitting.append(begun)
        if not fitting or team is None:
            return
        _leave_only(team, fitting)
        trained, validated = _measured(team.train()), _measured(team.validate())
        leaving = trials.report([fit.epoch(team, trained, validated) for fit in fitting])
        fitting = [fit for fit in fitting if fit.trial.number not in leaving]
        _leave_only(team, fitting)


def _joined(team: Team | None, lanes: Sequence[Lane]) -> Team:
    """The team with `lanes` in it; a new one if there is none, or nobody is in it."""
    if team is None or not team.lanes:
        return (InTurn if unsupported(lanes[0].model) else Stack)(lanes)
    team.add(lanes)
    return team


def _leave_only(team: Team, fitting: Sequence[Fitting]) -> None:
    lanes = _lanes(fitting)
    if len(lanes) < len(team.lanes):
        team.keep(lanes)


def _lanes(fitting: Sequence[Fitting]) -> list[Lane]:
    return [lane for fit in fitting for lane in fit.lanes]


@dataclass(frozen=True)
class Measured:
    """What one lane said.

    Attributes:
        values: Metric → value.
        output: (N, C) probabilities, or (N,) values.
        target: (N,)
    """

    values: Mapping[str, float]
    output: torch.Tensor
    target: torch.Tensor


def _measured(said: Sequence[Said]) -> dict[Lane, Measured]:
    found = {}
    for of_some in said:
        predicted = of_some.predicted
        output = predicted.probabilities if isinstance(predicted, Scores) else predicted.output
        for place, values in enumerate(metrics.measure_each(predicted)):
            lane = of_some.lanes[place]
            found[lane] = Measured(values, output[place], predicted.target[place])
    return found


@dataclass
class Fitting:
    """A trial that is being trained: a lane a fold, and how far it is.

    Attributes:
        done: Epochs.
    """

    trial: Trial
    data: Dataset
    lanes: Sequence[Lane]
    stopper: Stopper | None
    done: int = 0

    @classmethod
    def begin(cls, trial: Trial) -> Fitting:
        """Make the models."""
        data, options = trial.data.to(trial.device), trial.params["train"]
        if trial.device != "cpu":
            torch.backends.cudnn.deterministic = True  # the same seed gives the same metrics
        model, lanes = trial.params["model"], []
        for fold, split in enumerate(data.splits):
            seed_everything(trial.seed, fold, 0)
            built = build(model, data.shape, data.outputs)
            dropout = model.get("dropout", 0.0)
            lanes.append(Lane(built, split, options, dropout, (trial.seed, fold)))
        stopper = Stopper(**options["early_stopping"]) if options["early_stopping"] else None
        return cls(trial, data, lanes, stopper)

    def resume(self, team: Team) -> None:
        """Go on from what an earlier attempt saved, if there was one."""
        state = self.trial.resume()
        if state is None:
            return
        self.done = state["epoch"]
        for lane, saved in zip(self.lanes, state["lanes"], strict=True):
            team.load(lane, saved)
            lane.done = self.done
        if self.stopper is not None:
            self.stopper.best, self.stopper.waited = state["stopper"]

    @property
    def is_over(self) -> bool:
        """Whether no other epoch is to be trained."""
        stopped = self.stopper is not None and self.stopper.is_over
        return stopped or self.done >= self.trial.params["train"]["epochs"]

    def epoch(
        self, team: Team, trained: Mapping[Lane, Measured], validated: Mapping[Lane, Measured]
    ) -> Epoch:
        """What is to be said of the epoch that has just been trained."""
        self.done += 1
        measured = {
            **_mean("train", [trained[lane].values for lane in self.lanes]),
            **_mean("val", [validated[lane].values for lane in self.lanes]),
        }
        if self.stopper is not None:
            self.stopper.see(measured)
        predictions = self._predictions([validated[lane] for lane in self.lanes])

        def state() -> dict[str, Any]:
            return {
                "epoch": self.done,
                "lanes": [team.state(lane) for lane in self.lanes],
                "stopper": self.stopper and [self.stopper.best, self.stopper.waited],
            }

        return Epoch(self.trial, self.done, measured, predictions, state, self.is_over)

    def _predictions(self, validated: Sequence[Measured]) -> Predictions:
        """What each validation row was given, by the model that did not train on it."""
        rows = torch.cat([split.validation for split in self.data.splits])
        return Predictions(
            self.data.ids[rows].numpy(),
            torch.cat([of_fold.target for of_fold in validated]).cpu().numpy(),
            torch.cat([of_fold.output for of_fold in validated]).cpu().numpy(),
        )


class _Alone:
    """One trial as `Trials`, reported by its own methods."""

    def __init__(self, trial: Trial) -> None:
        self._waiting = [trial]

    def begin(self) -> Sequence[Trial]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> Collection[int]:
        (said,) = epochs
        if said.state is not None:
            said.trial.save(said.state())
        said.trial.report(said.epoch, said.metrics, said.predictions)
        return [said.trial.number] if said.last else []

    def finish(self, trial: Trial) -> None:
        pass

    def fail(self, trial: Trial, error: Exception) -> None:
        raise error


@dataclass
class Stopper:
    """Early stopping: over when `metric` has not improved for `patience` epochs."""

    patience: int
    min_delta: float
    metric: str
    best: float | None = None
    waited: int = 0

    @property
    def is_over(self) -> bool:
        return self.waited >= self.patience

    def see(self, measured: Mapping[str, float]) -> None:
        value = measured[self.metric]
        value = value if metrics.maximize(self.metric) else -value
        if self.best is None or value > self.best + self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1


def _mean(split: str, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over folds, under the names that are reported."""
    return {
        f"{split}/{name}": math.fsum(of_fold[name] for of_fold in measured) / len(measured)
        for name in measured[0]
    }
