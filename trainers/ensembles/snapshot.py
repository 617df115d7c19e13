"""Snapshots: one training whose learning rate falls several times, a member at each low.

Huang et al. (2017), "Snapshot ensembles: train 1, get M for free". With `average` the mean of the
members' weights is a member more, which costs no training: Izmailov et al. (2018), "Averaging
weights leads to wider optima and better generalization" (SWA).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.ensembles import held_out, stages
from trainers.ensembles.combining import combined
from trainers.ensembles.members import (
    Kept,
    Measured,
    Part,
    Predictor,
    Together,
    Weights,
    WeightsOf,
)
from trainers.lanes import Lane
from trainers.metrics import Predicted, predicted
from trainers.schedules import Cosine

BATCH = 256  # rows at once


class Snapshot:
    """The members of one part: the ends of earlier cycles, and the model as it is."""

    def __init__(self, part: Part, state: Mapping[str, Any] | None) -> None:
        self._part = part
        self._held_out = held_out.for_weights(part)
        self._cycles = stages.count(part.ensemble, part.epochs)
        schedule = stages.Repeated(Cosine(), self._cycles, part.epochs)
        rows = held_out.without(part.split.train, self._held_out)
        split = part.training(rows) if len(self._held_out) else part.split
        self._lane = part.lane(0, split=split, schedule=schedule)
        self.lanes = [self._lane]
        self._earlier: list[Kept] = []
        self._average: Kept | None = None
        if state is not None:
            held = self._held_out if len(self._held_out) else None
            self._earlier = [Kept.of(each, part.split, held) for each in state["earlier"]]
            if state["average"] is not None:
                self._average = Kept.of(state["average"], part.split, held)

    def asked(self, epoch: int) -> Mapping[Lane, Tensor]:
        return {self._lane: self._held_out} if len(self._held_out) else {}

    def together(
        self,
        epoch: int,
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
        weights: WeightsOf,
    ) -> Together:
        now = Kept(validated[self._lane], {}, answers.get(self._lane))
        section = self._part.section(0)
        members = [*self._earlier, now]
        predictors = [Predictor(section, each.weights) for each in self._earlier]
        predictors.append(Predictor(section, self._lane))
        if stages.ends(self._cycles, epoch, self._part.epochs):
            self._earlier.append(Kept(now.said, weights(self._lane), now.held_out))
            if self._part.ensemble["average"] and len(self._earlier) > 1:
                self._average = self._averaged()
        if self._average is not None:
            members.append(self._average)
            predictors.append(Predictor(section, self._average.weights))
        how, fitted = self._part.ensemble["combine"], {}
        if how == "weighted":
            fitted = held_out.fit_weights([m.held_out for m in members if m.held_out is not None])
        said = combined([each.said.predicted for each in members], how, fitted)
        alone = [each.said for each in members]
        return Together(Measured.of(said), predictors, how, fitted, alone)

    def state(self) -> dict[str, Any]:
        return {
            "earlier": [each.state() for each in self._earlier],
            "average": self._average and self._average.state(),
        }

    def _averaged(self) -> Kept:
        """The member with the mean of the weights at the ends of all cycles so far."""
        weights = mean_weights([each.weights for each in self._earlier])
        validation = ask(self._lane, weights, self._part.split.validation)
        held = ask(self._lane, weights, self._held_out) if len(self._held_out) else None
        return Kept(Measured.of(validation), weights, held)


def mean_weights(of_each: Sequence[Weights]) -> dict[str, Tensor]:
    """Of every tensor the mean; of counters (of batch norm) the last."""
    return {
        name: torch.stack([weights[name] for weights in of_each]).mean(0)
        if last.is_floating_point()
        else last
        for name, last in of_each[-1].items()
    }


@torch.no_grad()
def ask(lane: Lane, weights: Weights, rows: Tensor) -> Predicted:
    """What the lane's model says of `rows` with other weights."""
    split, device = lane.split, lane.split.target.device
    model = copy.deepcopy(lane.model)
    model.load_state_dict(weights)
    model.to(device).eval()
    batches = [split.batch(some) for some in torch.split(rows, BATCH)]
    output = torch.cat([model(inputs) for inputs, _ in batches])
    target = torch.cat([of_some for _, of_some in batches])
    return predicted(output, target, split.target_mean, split.target_std)
