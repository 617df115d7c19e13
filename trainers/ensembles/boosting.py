"""Boosting: members one after another, each for what those before it got wrong.

The trial's epochs are divided among the stages, so that an ensemble costs what a single model of
as many epochs does. Each stage is a new model, with a new optimizer, and goes through its own
learning rate schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.contract import DataError
from trainers.data import Dataset
from trainers.ensembles import stages
from trainers.ensembles.combining import combined, raw
from trainers.ensembles.members import (
    Kept,
    Measured,
    Members,
    Part,
    Predictor,
    Together,
    Weights,
    WeightsOf,
)
from trainers.lanes import Lane
from trainers.losses import chosen
from trainers.metrics import Estimates, Predicted


def begin(part: Part, state: Mapping[str, Any] | None) -> Members:
    """The members of one part, as the option ``boosting`` says."""
    method = Samme if part.ensemble["boosting"] == "samme" else Gradient
    return method(part, state)


class _Stages:
    """The stages of one part: those that are over, and the one that is trained."""

    def __init__(self, part: Part, state: Mapping[str, Any] | None) -> None:
        self.part = part
        self.count = stages.count(part.ensemble, part.epochs)
        self.shrinkage = float(part.ensemble["shrinkage"])
        kept = [] if state is None else state["earlier"]
        self.earlier = [Kept.of(each, part.split) for each in kept]

    def lane(self) -> Lane:
        """Of the stage that is to be trained."""
        stage = min(len(self.earlier), self.count - 1)
        return self.part.lane(stage, epochs=stages.length(self.count, stage, self.part.epochs))

    def ends(self, epoch: int) -> bool:
        return stages.ends(self.count, epoch, self.part.epochs)

    def is_last(self, epoch: int) -> bool:
        return epoch >= self.part.epochs

    def predictors(self, lane: Lane) -> list[Predictor]:
        sources: list[Lane | Weights] = [*(each.weights for each in self.earlier), lane]
        return [Predictor(self.part.section(at), source) for at, source in enumerate(sources)]

    def state(self) -> dict[str, Any]:
        return {"earlier": [each.state() for each in self.earlier]}


class Gradient:
    """Gradient boosting: Friedman (2001), "Greedy function approximation".

    A stage f is fitted to the loss of F + f, where F is the sum of the stages so far, each times
    the shrinkage ν; then ν · f joins F. Its first step is along the negative gradient of the loss
    at F, Friedman's pseudo-residuals; further ones follow the loss itself, where Friedman fits the
    residuals by least squares and then searches for a step's length. For squared errors both are
    the same: regression on the residuals. For classes it keeps the trial's own loss, label
    smoothing included, and needs no line search, for logits add up.

    F begins as the best constant: the logarithms of the classes' shares, the logits of the labels'
    shares, or the mean; the median where a loss counts errors by their size (`mae`, `huber`).
    """

    def __init__(self, part: Part, state: Mapping[str, Any] | None) -> None:
        self._stages = _Stages(part, state)
        self._start = start(part)
        # (N, outputs): F of the training rows, as the models put it out.
        device = part.split.target.device
        self._sum = self._first_sum() if state is None else state["sum"].to(device)
        earlier = [each.said.predicted for each in self._stages.earlier]
        self._sums = [
            Measured.of(self._together(earlier[: count + 1])) for count in range(len(earlier))
        ]
        self._begin()

    def _begin(self) -> None:
        self._lane = self._stages.lane()
        self._lane.offset = self._sum
        self.lanes = [self._lane]

    def asked(self, epoch: int) -> Mapping[Lane, Tensor]:
        """At a stage's end all training rows, that the next one knows what is missing."""
        if not self._stages.ends(epoch) or self._stages.is_last(epoch):
            return {}
        return {self._lane: self._stages.part.split.train}

    def together(
        self,
        epoch: int,
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
        weights: WeightsOf,
    ) -> Together:
        now, lane = validated[self._lane], self._lane
        said = [*(each.said.predicted for each in self._stages.earlier), now.predicted]
        whole = Measured.of(self._together(said))
        together = Together(
            whole,
            self._stages.predictors(lane),
            "sum",
            self._fitted(len(said)),
            [*self._sums] or [whole],  # as they are now: the next line may add the whole
        )
        if lane in answers:
            self._stages.earlier.append(Kept(now, weights(lane)))
            self._sums.append(whole)
            self._sum = self._sum.clone()
            train = self._stages.part.split.train.to(self._sum.device)
            self._sum[train] += self._stages.shrinkage * self._as_put_out(answers[lane])
            self._begin()
        return together

    def state(self) -> dict[str, Any]:
        return {**self._stages.state(), "sum": self._sum}

    def _first_sum(self) -> Tensor:
        split = self._stages.part.split
        first = torch.tensor(self._start, device=split.target.device)
        if self._stages.part.data.task == "regression":
            first = ((first - split.target_mean) / split.target_std).reshape(1)
        return first.expand(len(split.target), -1).clone()

    def _as_put_out(self, said: Predicted) -> Tensor:
        """(n, outputs)"""
        if isinstance(said, Estimates):
            split = self._stages.part.split
            return ((said.output - split.target_mean) / split.target_std).unsqueeze(1)
        return said.logits

    def _fitted(self, count: int) -> dict[str, Any]:
        return {
            "start": self._start,
            "center": self._stages.part.split.target_mean,
            "weights": [self._stages.shrinkage] * count,
        }

    def _together(self, said: list[Predicted]) -> Predicted:
        return combined(said, "sum", self._fitted(len(said)))


def start(part: Part) -> list[float] | float:
    """The best constant: logits of all classes or labels, or the mean or median of the target."""
    split = part.split
    target = split.target[split.train.to(split.target.device)]
    if part.data.task == "regression":
        by_size = chosen(part.params["train"], part.data.task) in ("mae", "huber")
        return float(target.double().quantile(0.5)) if by_size else split.target_mean
    if part.data.task == "multilabel":
        shares = (target.double().sum(0) + 1) / (len(target) + 2)  # Laplace
        logits: list[float] = shares.logit().tolist()
        return logits
    counts = torch.bincount(target, minlength=part.data.outputs).double() + 1  # Laplace
    logarithms: list[float] = (counts / counts.sum()).log().tolist()
    return logarithms


class Samme:
    """SAMME: Zhu et al. (2009), "Multi-class AdaBoost".

    A stage is a classifier that is trained on weighted rows; it votes with
    α = ν · (log((1 - e) / e) + log(C - 1)), where e is the weight of the rows that it gets wrong.
    These rows weigh exp(α) times as much for the next one. One that is no better than chance has
    no vote.
    """

    def __init__(self, part: Part, state: Mapping[str, Any] | None) -> None:
        check_classes(part.data)
        self._stages = _Stages(part, state)
        count = len(part.split.target)
        self._rows = torch.ones(count) if state is None else state["rows"]  # their weights
        self._votes: list[float] = [] if state is None else list(state["votes"])
        self._begin()

    def _begin(self) -> None:
        self._lane = self._stages.lane()
        self._lane.row_weights = self._rows.to(self._stages.part.split.target.device)
        self.lanes = [self._lane]

    def asked(self, epoch: int) -> Mapping[Lane, Tensor]:
        return {self._lane: self._stages.part.split.train}

    def together(
        self,
        epoch: int,
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
        weights: WeightsOf,
    ) -> Together:
        now, lane = validated[self._lane], self._lane
        train = self._stages.part.split.train
        wrong = is_wrong(answers[lane]).cpu()
        vote = self._stages.shrinkage * alpha(
            wrong, self._rows[train], self._stages.part.data.outputs
        )
        members = [*(each.said for each in self._stages.earlier), now]
        fitted = {"weights": [*self._votes, vote]}
        said = combined([each.predicted for each in members], "weighted_vote", fitted)
        together = Together(
            Measured.of(said), self._stages.predictors(lane), "weighted_vote", fitted, members
        )
        if self._stages.ends(epoch) and not self._stages.is_last(epoch):
            self._stages.earlier.append(Kept(now, weights(lane)))
            self._votes.append(vote)
            rows = self._rows.clone()
            rows[train] = reweighted(rows[train], wrong, vote)
            self._rows = rows
            self._begin()
        return together

    def state(self) -> dict[str, Any]:
        return {**self._stages.state(), "rows": self._rows, "votes": list(self._votes)}


def check_classes(data: Dataset) -> None:
    """Refuse SAMME where there is nothing to vote on.

    Raises:
        DataError: Rows do not have one class each.
    """
    if data.task != "classification":
        raise DataError(
            "ensemble.boosting",
            f"samme is for classification; this is a {data.task}",
            "boosting: gradient",
        )


def is_wrong(said: Predicted) -> Tensor:
    """(n,) bool"""
    return raw([said])[0].argmax(-1) != said.target


def alpha(wrong: Tensor, weights: Tensor, classes: int) -> float:
    """How much a classifier's vote counts, ≥ 0.

    Args:
        wrong: (n,) bool, of the training rows.
        weights: (n,) of these rows.
    """
    own = weights.double()
    error = float(own[wrong].sum() / own.sum())
    least = 0.5 / len(weights)  # lest a classifier without an error outshouts all others
    error = min(max(error, least), 1 - least)
    return max(0.0, math.log((1 - error) / error) + math.log(classes - 1))


def reweighted(weights: Tensor, wrong: Tensor, vote: float) -> Tensor:
    """(n,) the weights for the next stage, with the mean 1."""
    grown = torch.where(wrong, weights.double() * math.exp(vote), weights.double())
    return (grown / grown.mean()).to(weights.dtype)
