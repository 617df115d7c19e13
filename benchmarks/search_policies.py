"""What hpo's search is compared with, in terms of `hpo.strategy`. Not part of the package.

Samplers and stopping rules are Optuna's own. Successive halving with promotions (ASHA), BOHB's
model on top of it and the rule of one epoch are written here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from hpo.history import History, TrialHistory
from hpo.search import distribution
from hpo.spec import Parameter
from hpo.strategy import New, Resume

Space = Mapping[str, Parameter]


class _Peer:
    """Nothing is refitted, and no checkpoint lacks room."""

    def hopeless(self, history: History) -> list[int]:
        return []

    def follow(self, history: History) -> None:
        return


class Whole(_Peer):
    """Every trial is trained to its end."""

    def __init__(self, sampler: BaseSampler, search: Space) -> None:
        self._study = _study(sampler)
        self._space = _distributions(search)
        self._asked: list[optuna.Trial] = []
        self._told = 0

    def decide(self, history: History, pending: Sequence[TrialHistory]) -> New:
        for trial in history.ended[self._told :]:
            assert trial.end is not None
            self._study.tell(self._asked[trial.number], trial.end["values"][0])
        self._told = len(history.ended)
        self._asked.append(self._study.ask(self._space))
        return New(self._asked[-1].params, until=None)


class Stopping(_Peer):
    """One of Optuna's pruners looks at each trial after each epoch."""

    def __init__(
        self,
        sampler: BaseSampler,
        pruner: optuna.pruners.BasePruner,
        search: Space,
        epochs: int,
    ) -> None:
        self._study = _study(sampler, pruner)
        self._space = _distributions(search)
        self._epochs = epochs
        self._asked: dict[int, optuna.Trial] = {}  # that are not over
        self._seen: dict[int, int] = {}

    def decide(self, history: History, pending: Sequence[TrialHistory]) -> New | Resume:
        for number, trial in list(self._asked.items()):
            known = history.trials[number]
            if known.recorded == self._seen[number]:
                continue
            self._seen[number] = known.recorded
            trial.report(known.values[known.recorded][0], known.recorded)
            if known.end is not None:
                self._study.tell(self._asked.pop(number), known.end["values"][0])
            elif trial.should_prune():
                self._study.tell(self._asked.pop(number), state=TrialState.PRUNED)
            else:
                return Resume(number, self._next(known.recorded))
        trial = self._study.ask(self._space)
        self._asked[trial.number], self._seen[trial.number] = trial, 0
        return New(trial.params, self._next(0))

    def _next(self, epoch: int) -> int | None:
        return epoch + 1 if epoch + 1 < self._epochs else None


class Promoting(_Peer):
    """Asynchronous successive halving (Li et al. 2020): the best third of a rung goes on.

    Args:
        seed: Of what is drawn at random.
        least: The first rung's epoch.
        reduction: Of so many trials of a rung one goes on, and each rung is so many times the
            epochs of the one before.
        samplers: One for each rung; that of the highest rung with enough trials proposes two of
            three configurations, as in BOHB (Falkner et al. 2018). Without any, all are drawn at
            random (ASHA).
    """

    def __init__(
        self,
        search: Space,
        epochs: int,
        seed: int,
        least: int = 4,
        reduction: int = 3,
        samplers: Sequence[BaseSampler] = (),
    ) -> None:
        self._rungs = [least]
        while self._rungs[-1] * reduction < epochs:
            self._rungs.append(self._rungs[-1] * reduction)
        self._rungs.append(epochs)
        self._epochs, self._reduction = epochs, reduction
        self._space = _distributions(search)
        self._enough = len(search) + 2
        self._at_random = _study(optuna.samplers.RandomSampler(seed=seed))
        self._draw = random.Random(seed)
        self._models = [_study(sampler) for sampler in samplers]
        self._results: list[dict[int, float]] = [{} for _ in self._rungs]
        self._promoted: list[set[int]] = [set() for _ in self._rungs]

    def decide(self, history: History, pending: Sequence[TrialHistory]) -> New | Resume:
        self._learn(history)
        for rung in reversed(range(len(self._rungs) - 1)):
            results = self._results[rung]
            best = sorted(results, key=lambda number: (-results[number], number))
            for number in best[: len(results) // self._reduction]:
                if number not in self._promoted[rung]:
                    self._promoted[rung].add(number)
                    return Resume(number, self._until(rung + 1))
        return New(self._propose(), self._until(0))

    def _learn(self, history: History) -> None:
        for rung, epoch in enumerate(self._rungs):
            for number, trial in history.trials.items():
                if epoch not in trial.values or number in self._results[rung]:
                    continue
                self._results[rung][number] = trial.values[epoch][0]
                if self._models:
                    self._models[rung].add_trial(
                        optuna.trial.create_trial(
                            value=trial.values[epoch][0],
                            params=dict(trial.params),
                            distributions=self._space,
                        )
                    )

    def _propose(self) -> dict[str, Any]:
        study = self._at_random
        if self._models and self._draw.random() > 1 / 3:
            for results, model in zip(self._results, self._models, strict=True):
                if len(results) >= self._enough:
                    study = model
        trial = study.ask(self._space)
        study.tell(trial, state=TrialState.FAIL)  # only results of rungs count
        return trial.params

    def _until(self, rung: int) -> int | None:
        return self._rungs[rung] if self._rungs[rung] < self._epochs else None


class FirstEpochs(_Peer):
    """Of each 50 trials the three that are best after `first` epochs are trained to their end."""

    def __init__(self, search: Space, seed: int, first: int = 1, of: int = 50, best: int = 3):
        self._study = _study(optuna.samplers.RandomSampler(seed=seed))
        self._space = _distributions(search)
        self._first, self._of, self._best = first, of, best
        self._begun = 0
        self._waiting: list[int] = []
        self._judged = 0

    def decide(self, history: History, pending: Sequence[TrialHistory]) -> New | Resume | None:
        if self._begun == self._judged + self._of:
            batch = [history.trials[number] for number in range(self._judged, self._begun)]
            if not all(self._first in trial.values for trial in batch):
                return None  # another worker has not trained its first epochs yet
            batch.sort(key=lambda trial: -trial.values[self._first][0])
            self._waiting = [trial.number for trial in batch[: self._best]]
            self._judged = self._begun
        if self._waiting:
            return Resume(self._waiting.pop(0), None)
        self._begun += 1
        return New(self._study.ask(self._space).params, self._first)


def _study(sampler: BaseSampler, pruner: optuna.pruners.BasePruner | None = None) -> optuna.Study:
    # Hyperband deals trials to its brackets by the study's name.
    return optuna.create_study(
        study_name="search", direction="maximize", sampler=sampler, pruner=pruner
    )


def _distributions(search: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    return {name: distribution(parameter) for name, parameter in search.items()}
