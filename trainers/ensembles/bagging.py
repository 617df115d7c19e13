"""Bagging: members on bootstrap samples of the training rows, trained side by side.

Breiman (1996), "Bagging predictors"; of columns Ho (1998), "The random subspace method". Each
member's weights are drawn anew, too. The rows that a member did not see judge it for free: the
*out-of-bag* estimate (Breiman 1996, "Out-of-bag estimation").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainers import metrics
from trainers.data import Split
from trainers.ensembles import held_out
from trainers.ensembles.combining import combined, like, raw, saying
from trainers.ensembles.members import Measured, Part, Predictor, Together, WeightsOf
from trainers.lanes import Lane
from trainers.metrics import Predicted, output
from trainers.seeds import generator

ROWS, COLUMNS = 1_000_033, 1_000_037  # set what is drawn apart from the order of an epoch


class Bagging:
    """The members of one part."""

    def __init__(self, part: Part, _: Mapping[str, Any] | None) -> None:
        self._part = part
        self._held_out = held_out.for_weights(part)
        self._pool = held_out.without(part.split.train, self._held_out)
        self.lanes = [self._lane(member) for member in range(int(part.ensemble["size"]))]
        self._unseen = {
            lane: held_out.without(self._pool, lane.split.train) for lane in self.lanes
        }

    def _lane(self, member: int) -> Lane:
        part, seed = self._part, self._part.seed_of(member)
        split = bootstrap(part.training(self._pool), part.ensemble, seed)
        lane = part.lane(member, split=split)
        seen = columns(part, seed)
        if seen is not None:
            # A weight of 0 whose input is 0 stays 0: the model itself forgets these columns.
            lane.split = replace(split, seen=seen.to(split.target.device))
            first = next(p for p in lane.model.parameters() if p.dim() == 2)
            first.data.mul_(seen)
        return lane

    def asked(self, epoch: int) -> Mapping[Lane, Tensor]:
        asked = {lane: torch.cat([rows, self._held_out]) for lane, rows in self._unseen.items()}
        return {lane: rows for lane, rows in asked.items() if len(rows)}

    def together(
        self,
        epoch: int,
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
        weights: WeightsOf,
    ) -> Together:
        members = [validated[lane] for lane in self.lanes]
        how, fitted, unseen = self._part.ensemble["combine"], {}, []
        for lane, rows in self._unseen.items():
            unseen.append((rows, part_of(answers[lane], 0, len(rows)) if len(rows) else None))
        if how == "weighted":
            count = len(self._held_out)
            fitted = held_out.fit_weights([tail(answers[lane], count) for lane in self.lanes])
        said = combined([each.predicted for each in members], how, fitted)
        estimate = out_of_bag(self._part.split, unseen)
        values = {} if estimate is None else metrics.measure(estimate)
        return Together(
            Measured.of(said),
            [Predictor(self._part.section(at), lane) for at, lane in enumerate(self.lanes)],
            how,
            fitted,
            members,
            {f"oob/{name}": value for name, value in values.items()},
        )

    def state(self) -> dict[str, Any]:
        return {}


def bootstrap(split: Split, ensemble: Mapping[str, Any], seed: Sequence[int]) -> Split:
    """The split with a sample of its training rows, some of them several times.

    Where rows are in groups, groups are drawn, and their rows go with them: else a row that is
    out of the bag would be judged by a member that knows its group.

    Args:
        seed: Of this member.
    """
    random, train = generator(*seed, ROWS), split.train
    if split.groups is None:
        chosen = _drawn(len(train), ensemble, random)
        return replace(split, train=train[chosen.sort().values])
    there, of_group = torch.unique(split.groups[train], return_inverse=True)
    times = torch.bincount(_drawn(len(there), ensemble, random), minlength=len(there))
    return replace(split, train=train.repeat_interleave(times[of_group]))


def _drawn(count: int, ensemble: Mapping[str, Any], random: torch.Generator) -> Tensor:
    """(n,) int64 numbers below `count`."""
    wanted = max(1, round(float(ensemble["bootstrap_fraction"]) * count))
    if ensemble["replacement"]:
        return torch.randint(count, (wanted,), generator=random)
    return torch.randperm(count, generator=random)[:wanted]


def columns(part: Part, seed: Sequence[int]) -> Tensor | None:
    """(F,) float32: 1 for the columns that a member sees, at least one; None: it sees all."""
    share = float(part.ensemble["feature_fraction"])
    if share == 1:
        return None
    (count,) = part.split.shape
    seen = torch.zeros(count)
    order = torch.randperm(count, generator=generator(*seed, COLUMNS))
    seen[order[: max(1, round(share * count))]] = 1.0
    return seen


def out_of_bag(
    split: Split, unseen: Sequence[tuple[Tensor, Predicted | None]]
) -> Predicted | None:
    """What members say of rows that they did not see, the mean over those; None: each saw all.

    Args:
        unseen: Of each member the rows, and what it says of them. Rows that all have seen are
            left out.
    """
    total, counts = None, torch.zeros(len(split.target))
    example = None
    for rows, said in unseen:
        if said is None:
            continue
        example = said
        own = output(said).cpu()
        total = own.new_zeros((len(counts), *own.shape[1:])) if total is None else total
        total[rows] += own
        counts[rows] += 1
    if total is None or example is None:
        return None
    judged = counts.nonzero().squeeze(1)
    means = total[judged] / counts[judged].view(-1, *[1] * (total.dim() - 1))
    target = split.target[judged.to(split.target.device)]
    return saying(example, means.to(target.device), target)


def part_of(said: Predicted, first: int, end: int) -> Predicted:
    """Of the rows `first` … `end`."""
    some = slice(first, end)
    return like(replace(said, target=said.target[some]), raw([said])[0][some])


def tail(said: Predicted, count: int) -> Predicted:
    """Of the last rows."""
    return part_of(said, len(said.target) - count, len(said.target))
