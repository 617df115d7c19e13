"""The loop that the built-in trainers share: epochs over resident tensors, checkpoints, reports.

A trial is a function of its parameters, its seed and its data: each epoch draws from a seed made
of the trial's, the fold and the epoch, so that a trial resumed after any epoch goes on exactly as
if it had not been interrupted, and trains alike whatever else is trained together with it.

Models whose layers can be stacked train as one program (`trainers.lanes`), a trial alone as a
stack of one; others in turn (`trainers.in_turn`).

With folds a trial's metrics are the means over them, and ``fold_std/…`` says how much they differ.
Metrics named ``train/…`` are of the outputs during the epoch, while the weights changed and with
dropout on: they cost no second pass.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from trainers import ensembles, metrics
from trainers.contract import Epoch, Predictions, Trial, Trials
from trainers.data import Dataset, Split
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Said, Stack
from trainers.lanes.layers import unsupported
from trainers.metrics import Estimates, Scores
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
    """What one lane said of its rows, and its metrics."""

    predicted: Scores | Estimates
    values: Mapping[str, float]


def _measured(said: Sequence[Said]) -> dict[Lane, Measured]:
    return {
        lane: Measured(of_some.predicted.lane(place), values)
        for of_some in said
        for place, (lane, values) in enumerate(
            zip(of_some.lanes, metrics.measure_each(of_some.predicted), strict=True)
        )
    }


@dataclass
class Fitting:
    """A trial that is being trained, and how far it is.

    Attributes:
        members: A lane each, of each fold.
        snapshots: What was said at the ends of earlier cycles of the learning rate, of each fold.
        done: Epochs.
    """

    trial: Trial
    data: Dataset
    members: Sequence[Sequence[Lane]]
    stopper: Stopper | None
    snapshots: Sequence[list[Measured]]
    done: int = 0

    @classmethod
    def begin(cls, trial: Trial) -> Fitting:
        """Make the models."""
        data, options = trial.data.to(trial.device), trial.params["train"]
        if trial.device != "cpu":
            torch.backends.cudnn.deterministic = True  # the same seed gives the same metrics
        members = [
            [_lane(trial, data, fold, member) for member in range(_count(trial))]
            for fold in range(len(data.splits))
        ]
        stopper = Stopper(**options["early_stopping"]) if options["early_stopping"] else None
        return cls(trial, data, members, stopper, [[] for _ in data.splits])

    @property
    def lanes(self) -> list[Lane]:
        """Those of all folds."""
        return [lane for of_fold in self.members for lane in of_fold]

    @property
    def is_ensemble(self) -> bool:
        return bool(self.trial.params["ensemble"]["method"] != "none")

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
        self.snapshots = [
            [_restored(split, output) for output in of_fold]
            for split, of_fold in zip(self.data.splits, state["snapshots"], strict=True)
        ]

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
        if self.is_ensemble:
            together, of_all = self._together(validated)
        else:
            together = [validated[lane] for lane in self.lanes]
            of_all = {}
        measured = {
            **_mean("train", [trained[lane].values for lane in self.lanes]),
            **_mean("val", [of_fold.values for of_fold in together]),
            **_spread([of_fold.values for of_fold in together]),
            **of_all,
        }
        if self.stopper is not None:
            self.stopper.see(measured)
        predictions = self._predictions([of_fold.predicted for of_fold in together])
        return Epoch(
            self.trial,
            self.done,
            measured,
            predictions,
            functools.partial(self._state, team),
            self.is_over,
        )

    def _together(
        self, validated: Mapping[Lane, Measured]
    ) -> tuple[list[Measured], dict[str, float]]:
        """What the members say together, of each fold; and how they are by themselves."""
        ensemble, epochs = self.trial.params["ensemble"], self.trial.params["train"]["epochs"]
        together, differ, alone = [], [], []
        for of_fold, before in zip(self.members, self.snapshots, strict=True):
            everyone = [*before, *(validated[lane] for lane in of_fold)]
            said = [member.predicted for member in everyone]
            predicted = ensembles.combined(said, ensemble["combine"])
            together.append(Measured(predicted, metrics.measure(predicted)))
            differ.append(ensembles.disagreement(said))
            of_cycles = ensemble["method"] == "snapshot"
            if of_cycles and ensembles.ends_a_cycle(ensemble, self.done, epochs):
                before.append(everyone[-1])
            alone += [member.values for member in everyone]
        differ_by = math.fsum(differ) / len(differ)
        return together, {**_mean("member", alone), "member/disagreement": differ_by}

    def _state(self, team: Team) -> dict[str, Any]:
        return {
            "epoch": self.done,
            "lanes": [team.state(lane) for lane in self.lanes],
            "stopper": self.stopper and [self.stopper.best, self.stopper.waited],
            "snapshots": [
                [_raw(member.predicted) for member in of_fold] for of_fold in self.snapshots
            ],
        }

    def _predictions(self, validated: Sequence[Scores | Estimates]) -> Predictions:
        """What each validation row was given, by the model that did not train on it."""
        rows = torch.cat([split.validation for split in self.data.splits])
        outputs = [
            said.probabilities if isinstance(said, Scores) else said.output for said in validated
        ]
        return Predictions(
            self.data.ids[rows].numpy(),
            torch.cat([said.target for said in validated]).cpu().numpy(),
            torch.cat(outputs).cpu().numpy(),
        )


def _count(trial: Trial) -> int:
    return ensembles.members(trial.params["ensemble"])


def _lane(trial: Trial, data: Dataset, fold: int, member: int) -> Lane:
    """A member's model, rows and seed; the first member's seed is that of a model alone."""
    ensemble, options, model = (trial.params[name] for name in ("ensemble", "train", "model"))
    seed = (trial.seed, fold, member) if member else (trial.seed, fold)
    seed_everything(*seed, 0)
    built = build(model, data.shape, data.outputs)
    split = data.splits[fold]
    if ensemble["method"] == "bagging":
        split = ensembles.bootstrap(split, ensemble, seed)
    schedule = ensembles.schedule(ensemble, options)
    return Lane(built, split, options, model.get("dropout", 0.0), schedule, seed)


def _raw(said: Scores | Estimates) -> torch.Tensor:
    return (said.logits if isinstance(said, Scores) else said.output).clone()


def _restored(split: Split, output: torch.Tensor) -> Measured:
    target = split.target[split.validation.to(split.target.device)]
    predicted: Scores | Estimates
    if target.dtype == torch.int64:
        predicted = Scores(output.to(target.device), target)
    else:
        predicted = Estimates(output.to(target.device), target, split.target_std)
    return Measured(predicted, metrics.measure(predicted))


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


def _spread(of_folds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The standard deviation over folds, of each validation metric; of one fold there is none."""
    if len(of_folds) == 1:
        return {}
    return {
        f"fold_std/{name}": _stdev([of_fold[name] for of_fold in of_folds]) for name in of_folds[0]
    }


def _stdev(values: Sequence[float]) -> float:
    # statistics.stdev is exact, which takes a hundred times as long, and raises for NaN.
    return float(np.std(values, ddof=1))
