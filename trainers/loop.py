"""The loop that the built-in trainers share: epochs over resident tensors, checkpoints, reports.

A trial is a function of its parameters, its seed and its data: each epoch draws from a seed made
of the trial's, the fold and the epoch, so that a trial resumed after any epoch goes on exactly as
if it had not been interrupted, and trains alike whatever else is trained together with it.

Models whose layers can be stacked train as one program (`trainers.lanes`), a trial alone as a
stack of one; others in turn (`trainers.in_turn`).

With folds, and with repeats (models of other seeds), a trial's metrics are the means over all of
these; ``fold_std/…`` and ``repeat_std/…`` say how much they differ, ``fold/3/val/…`` what each is
worth. Predictions are those of the first repeat, and of the first of repeated partitions: the mean
of several would be that of an ensemble, of which the trial's value says nothing.

Metrics named ``train/…`` are of the outputs during the epoch, while the weights changed and with
dropout on: they cost no second pass.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from trainers import ensembles, metrics, numerics, registry, saved
from trainers.contract import Epoch, Predictions, Trial, Trials
from trainers.costs import Costs
from trainers.data import Dataset
from trainers.ensembles import Measured, Members, Part, Predictor, Together
from trainers.lanes import Lane, Said
from trainers.metrics import COSTS, Predicted, output
from trainers.own_metrics import OwnMetric
from trainers.parallel import world
from trainers.seeds import mixed
from trainers.team import Grouped, Team

Begin: TypeAlias = "Callable[[Trial], Fitting]"


def fit(trial: Trial, begin: Begin | None = None) -> None:
    """Train one trial, as `fit_together` does."""
    fit_together(_Alone(trial), begin)


def fit_together(trials: Trials, begin: Begin | None = None) -> None:
    """Train trials of one `trainers.registry.stack_key`; report the mean of each one's parts.

    Args:
        begin: Makes what is trained of a trial; None: `Fitting.begin`.
    """
    begin = begin or Fitting.begin
    team = Grouped()
    fitting: list[Fitting] = []
    while True:
        for trial in trials.begin():
            try:
                begun = begin(trial)
                team.add(begun.lanes)
                begun.load(team)
            except Exception as error:
                team.keep(_lanes(fitting))
                trials.fail(trial, error)
                continue
            if begun.is_over:
                trials.finish(trial)
            else:
                fitting.append(begun)
        if not fitting:
            return
        team.keep(_lanes(fitting))
        trained = _measured(team.train())
        fitting = _still_numbers(fitting, trained, trials)
        if not fitting:
            continue
        team.keep(_lanes(fitting))
        further = {name for fit in fitting for name in fit.further}
        validated = _measured(team.validate(), further, fitting[0].data.classes or ())
        _watch(validated)
        answers = _by_lane(team.answer(_asked(fitting)))
        epochs, going = [], []
        for fit in fitting:
            try:
                epochs.append(fit.epoch(team, trained, validated, answers))
                going.append(fit)
            except Exception as error:  # of a metric of the user's own
                trials.fail(fit.trial, error)
        leaving = trials.report(epochs) if epochs else ()
        fitting = [fit for fit in going if fit.trial.number not in leaving]
        team.keep(_lanes(fitting))


def _still_numbers(
    fitting: Sequence[Fitting], trained: Mapping[Lane, Measured], trials: Trials
) -> list[Fitting]:
    """Those whose losses are numbers; the others fail."""
    going = []
    for fit in fitting:
        lost = [lane for lane in fit.lanes if not math.isfinite(trained[lane].values["loss"])]
        if lost:
            trials.fail(fit.trial, numerics.diverged(lost[0], trained[lost[0]]))
        else:
            going.append(fit)
    return going


def _watch(validated: Mapping[Lane, Measured]) -> None:
    """Tell lanes whose learning rate depends on it what they have reached."""
    for lane, measured in validated.items():
        if lane.plateau is not None:
            lane.plateau.see(measured.values[lane.plateau.metric.removeprefix("val/")])


def _lanes(fitting: Sequence[Fitting]) -> list[Lane]:
    return [lane for fit in fitting for lane in fit.lanes]


def _asked(fitting: Sequence[Fitting]) -> dict[Lane, torch.Tensor]:
    """The training rows that lanes are asked about, see `trainers.ensembles.Members`."""
    return {
        lane: rows
        for fit in fitting
        for members in fit.parts
        for lane, rows in members.asked(fit.done + 1).items()
    }


def _measured(
    said: Sequence[Said], further: Collection[str] = (), classes: Sequence[str] = ()
) -> dict[Lane, Measured]:
    found = {}
    for of_some in said:
        measured = metrics.measure_each(of_some.predicted, further, classes)
        if (own := world()) is not None:
            measured = own.agreed(measured)  # what is decided by it is decided alike
        if of_some.grad_norm is not None:
            for values, norm in zip(measured, of_some.grad_norm.tolist(), strict=True):
                values["grad_norm"] = norm
        for place, (lane, values) in enumerate(zip(of_some.lanes, measured, strict=True)):
            found[lane] = Measured(of_some.predicted.lane(place), values)
    return found


def _by_lane(said: Sequence[Said]) -> dict[Lane, Predicted]:
    return {
        lane: of_some.predicted.lane(place)
        for of_some in said
        for place, lane in enumerate(of_some.lanes)
    }


@dataclass
class Fitting:
    """A trial that is being trained, and how far it is.

    Attributes:
        parts: The folds of its first repeat, then those of the second, …: a model each, or the
            members of an ensemble.
        further: What is reported of validation rows beside what always is (`metrics.FURTHER`).
        own: The user's own metrics.
        costs: Of a prediction, where they are asked for.
        done: Epochs.
    """

    trial: Trial
    data: Dataset
    parts: Sequence[Members]
    stopper: Stopper | None
    further: Sequence[str]
    own: Sequence[OwnMetric]
    costs: Costs | None
    done: int = 0
    _saved: Mapping[str, Any] | None = None
    _noted: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, trial: Trial) -> Fitting:
        """Make the models, those that an earlier attempt would have trained next."""
        data, params = trial.data.to(trial.device), trial.params
        numerics.set_up(params["train"], trial.device)
        state = trial.resume()
        there = state and state["epoch"]
        if (own := world()) is not None and own.agreed(there) != there:
            raise RuntimeError(f"device {own.rank} has another checkpoint: of epoch {there}")
        parts = [
            Part(params, data, fold, seed)
            for seed in seeds(trial)
            for fold in range(len(data.splits))
        ]
        states = [None] * len(parts) if state is None else state["parts"]
        early = params["train"]["early_stopping"]
        begun = cls(
            trial,
            data,
            [ensembles.begin(part, own) for part, own in zip(parts, states, strict=True)],
            Stopper(**early) if early else None,
            further(params["train"]),
            registry.own_metrics(params),
            Costs(data) if set(COSTS) & set(params["train"]["metrics"]) else None,
        )
        if state is not None:
            begun.done, begun._saved = state["epoch"], state
            if begun.stopper is not None:
                begun.stopper.best, begun.stopper.waited = state["stopper"]
        return begun

    @property
    def lanes(self) -> list[Lane]:
        """Those that are trained in the next epoch, of all parts."""
        return [lane for members in self.parts for lane in members.lanes]

    @property
    def repeats(self) -> int:
        return int(self.trial.params["train"]["repeats"])

    def load(self, team: Team) -> None:
        """Go on from what an earlier attempt saved, if there was one."""
        if self._saved is None:
            return
        for lane, own in zip(self.lanes, self._saved["lanes"], strict=True):
            team.load(lane, own)
            lane.done = own["done"]
            if lane.plateau is not None:
                lane.plateau.load(own["plateau"])
        self._saved = None

    @property
    def is_over(self) -> bool:
        """Whether no other epoch is to be trained."""
        stopped = self.stopper is not None and self.stopper.is_over
        return stopped or self.done >= self.trial.params["train"]["epochs"]

    def epoch(
        self,
        team: Team,
        trained: Mapping[Lane, Measured],
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
    ) -> Epoch:
        """What is to be said of the epoch that has just been trained."""
        self.done += 1
        lanes = self.lanes
        together = [
            members.together(self.done, validated, answers, team.weights) for members in self.parts
        ]
        team.add([lane for lane in self.lanes if lane not in lanes])
        validation = [self._values(part.said) for part in together]
        measured = {
            **over_parts([trained[lane].values for lane in lanes], validation, self.repeats),
            **_means([{**ensembles.judged(part), **part.estimates} for part in together]),
            **self._cost(together),
        }
        if self.stopper is not None:
            self.stopper.see(measured)
        notes = {name: text for lane in lanes for name, text in team.notes(lane).items()}
        news = dict(notes.items() - self._noted.items())
        self._noted |= notes
        return Epoch(
            self.trial,
            self.done,
            measured,
            self._predictions([part.said.predicted for part in together]),
            functools.partial(self._state, team),
            self.is_over,
            functools.partial(self._model, team, together),
            news,
        )

    def _values(self, said: Measured) -> dict[str, float]:
        """What is reported of a part's validation rows."""
        classes, values = self.data.classes or (), said.values
        names = metrics.measured(self.data.task, self.further, classes)
        if not values.keys() >= set(names):  # of several models together
            values = metrics.measure(said.predicted, self.further, classes)
        own = {metric.name: metric.of(said.predicted) for metric in self.own}
        return {name: values[name] for name in names} | own

    def _cost(self, together: Sequence[Together]) -> dict[str, float]:
        """Of what predicts as this epoch did, the mean over parts."""
        if self.costs is None:
            return {}
        sections = [[each.section for each in part.predictors] for part in together]
        found = _means([self.costs.of(of_part) for of_part in sections])
        asked = self.trial.params["train"]["metrics"]
        return {name: value for name, value in found.items() if name in asked}

    def _state(self, team: Team) -> dict[str, Any]:
        return {
            "epoch": self.done,
            "lanes": [
                {
                    **team.state(lane),
                    "done": lane.done,
                    "plateau": lane.plateau and lane.plateau.state(),
                }
                for lane in self.lanes
            ],
            "stopper": self.stopper and [self.stopper.best, self.stopper.waited],
            "parts": [members.state() for members in self.parts],
        }

    def _model(self, team: Team, together: Sequence[Together]) -> dict[str, Any]:
        """What predicts as this epoch did."""
        folds = self.trial.params["data"]["folds"] or 1  # those of `_predictions`
        weights = [
            saved.Predictors(
                [(each.section, _weights(team, each)) for each in part.predictors],
                part.how,
                part.fitted,
            )
            for part in together[:folds]
        ]
        return saved.content(self.trial.params["data"], self.data, weights)

    def _predictions(self, validated: Sequence[Predicted]) -> Predictions:
        """What each validation row was given, once, by a model that did not train on it."""
        folds = self.trial.params["data"]["folds"] or 1
        validated = validated[:folds]
        rows = torch.cat([split.validation for split in self.data.splits[:folds]])
        outputs = [output(said) for said in validated]
        groups = self.data.splits[0].groups  # the same in every split
        return Predictions(
            self.data.ids[rows].numpy(),
            torch.cat([said.target for said in validated]).cpu().numpy(),
            torch.cat(outputs).cpu().numpy(),
            None if groups is None else groups[rows].numpy(),
        )


def further(train: Mapping[str, Any]) -> list[str]:
    """The metrics that a ``train`` section asks for, by their rows in the table."""
    watched = metrics.asked(metrics.watched(train).values())
    listed = [name for name in train["metrics"] if name in metrics.FURTHER]
    return list(dict.fromkeys([*listed, *watched]))


def _weights(team: Team, predictor: Predictor) -> Mapping[str, torch.Tensor]:
    source = predictor.source
    return team.weights(source) if isinstance(source, Lane) else source


def seeds(trial: Trial) -> list[int]:
    """Of each repeat; the first one's is that of the trial without repeats."""
    repeats = range(1, trial.params["train"]["repeats"])
    return [trial.seed, *(mixed(trial.seed, repeat) for repeat in repeats)]


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


def over_parts(
    trained: Sequence[Mapping[str, float]],
    validated: Sequence[Mapping[str, float]],
    repeats: int,
) -> dict[str, float]:
    """What is reported of an epoch: means, how much parts differ, and what each is worth."""
    return {
        **_mean("train", trained),
        **_mean("val", validated),
        **_spread(validated, repeats),
        **_of_each(validated, repeats),
    }


def _mean(split: str, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over parts, under the names that are reported."""
    return {f"{split}/{name}": value for name, value in _means(measured).items()}


def _means(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each name the mean over those parts that know it."""
    names = dict.fromkeys(name for part in measured for name in part)
    known = {name: [part[name] for part in measured if name in part] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in known.items()}


def _spread(of_parts: Sequence[Mapping[str, float]], repeats: int) -> dict[str, float]:
    """How much each validation metric differs between folds (their means over the repeats) and
    between repeats (their means over the folds): standard deviations; of one there is none.
    """
    names = list(of_parts[0])
    values = np.array([list(part.values()) for part in of_parts]).reshape(repeats, -1, len(names))
    found: dict[str, float] = {}
    for kind, over in (("fold", values.mean(0)), ("repeat", values.mean(1))):
        if len(over) > 1:
            stds = over.std(0, ddof=1).tolist()
            found |= {f"{kind}_std/{name}": std for name, std in zip(names, stds, strict=True)}
    return found


def _of_each(of_parts: Sequence[Mapping[str, float]], repeats: int) -> dict[str, float]:
    """Every part's validation metrics, ``repeat/2/fold/3/val/…``; of a single part there are none.

    Numbers begin with 1; what there is only one of is not named.
    """
    folds = len(of_parts) // repeats
    if len(of_parts) == 1:
        return {}
    return {
        f"repeat/{place // folds + 1}/" * (repeats > 1)
        + f"fold/{place % folds + 1}/" * (folds > 1)
        + f"val/{name}": value
        for place, part in enumerate(of_parts)
        for name, value in part.items()
    }
