"""Trials of scikit-learn's estimators: fitted at once, and reported as one epoch.

So that a network is always compared with an honest baseline, on the same rows, by the same
metrics, with the same folds and repeats.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from trainers import metrics, registry, saved
from trainers.contract import DataError, Epoch, Trial
from trainers.data import Dataset, Split
from trainers.ensembles import Measured
from trainers.loop import Fitting, further, over_parts, seeds
from trainers.metrics import Predicted, predicted
from trainers.models import is_estimator
from trainers.models.estimators import Estimated, make
from trainers.seeds import mixed


def begin(trial: Trial) -> Fitting:
    """A trial of an estimator, or of a network."""
    named = is_estimator(trial.params["model"]["name"])
    return Estimating.begin(trial) if named else Fitting.begin(trial)


def check(params: Mapping[str, Mapping[str, Any]], dataset: Dataset) -> None:
    """Check that the estimator is for this data, with these settings.

    Raises:
        DataError: It is not.
    """
    if dataset.task == "multilabel":
        raise DataError("model.name", "an estimator has one target; here are several labels")
    make(params["model"], dataset.task == "classification")
    if params["ensemble"]["method"] != "none":
        raise DataError(
            "ensemble.method",
            f"{params['ensemble']['method']} is of networks; {params['model']['name']} is none",
            "when: {model.name: mlp}",
        )
    if costs := set(metrics.COSTS) & set(params["train"]["metrics"]):
        raise DataError("train.metrics", f"{min(costs)} is not known of scikit-learn's estimators")


class Estimating(Fitting):
    """A trial of an estimator: a `Fitting` without lanes, over after one epoch."""

    @classmethod
    def begin(cls, trial: Trial) -> Estimating:
        params = trial.params
        own = registry.own_metrics(params)
        return cls(trial, trial.data, (), None, further(params["train"]), own, None)

    @property
    def is_over(self) -> bool:
        return self.done >= 1

    def epoch(self, *of_lanes: Any) -> Epoch:
        """Fit one for each repeat and fold."""
        self.done = 1
        splits = [*self.data.splits] * self.repeats
        fitted = [
            self._fitted(split, mixed(seed, fold))
            for seed in seeds(self.trial)
            for fold, split in enumerate(self.data.splits)
        ]
        each = list(zip(fitted, splits, strict=True))
        trained = [_said(model, split, split.train) for model, split in each]
        validated = [_said(model, split, split.validation) for model, split in each]
        measured = over_parts(
            [metrics.measure(said) for said in trained],
            [self._values(Measured.of(said)) for said in validated],
            self.repeats,
        )
        return Epoch(
            self.trial,
            self.done,
            measured,
            self._predictions(validated),
            last=True,
            model=functools.partial(self._content, fitted),
        )

    def _fitted(self, split: Split, seed: int) -> Estimated:
        estimator = make(self.trial.params["model"], self.data.task == "classification", seed)
        inputs, target = split.batch(split.train)
        estimator.fit(inputs.numpy(), target.numpy())
        units = split.target_mean, split.target_std
        return Estimated(self.data.outputs, estimator, *units)

    def _content(self, fitted: Sequence[Estimated]) -> dict[str, Any]:
        folds = self.trial.params["data"]["folds"] or 1  # those of `_predictions`
        section = self.trial.params["model"]
        weights = [saved.Predictors([(section, each.state_dict())]) for each in fitted[:folds]]
        return saved.content(self.trial.params["data"], self.data, weights)


def _said(model: Estimated, split: Split, rows: Tensor) -> Predicted:
    inputs, target = split.batch(rows)
    return predicted(model(inputs), target, split.target_mean, split.target_std)
