"""What every method of ensembling works with: a part of a trial, and the members' protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from trainers import metrics
from trainers.data import Dataset, Split
from trainers.ensembles.combining import Fitted, like, raw
from trainers.lanes import Lane
from trainers.lanes.losses import balanced
from trainers.metrics import Estimates, Labels, Predicted, Scores
from trainers.models import build
from trainers.schedules import Plateau, Schedule, made
from trainers.seeds import seed_everything

# The methods whose members may have settings of their own.
DIFFERING = ("bagging", "boosting", "stacking")
# What of these belongs to the ``train`` section; the rest is the model's.
OF_TRAINING = ("lr", "weight_decay")

Weights = Mapping[str, Tensor]  # a module's state_dict


@dataclass(frozen=True)
class Measured:
    """What one model, or several together, said of validation rows, and its metrics."""

    predicted: Predicted
    values: Mapping[str, float]

    @classmethod
    def of(cls, predicted: Predicted) -> Measured:
        return cls(predicted, metrics.measure(predicted))


@dataclass(frozen=True)
class Part:
    """A fold of a repeat of a trial: what the members of one ensemble have in common.

    Attributes:
        params: The trial's sections.
        fold: Which split of `data`.
        seed: Of the repeat.
    """

    params: Mapping[str, Mapping[str, Any]]
    data: Dataset
    fold: int
    seed: int

    @property
    def split(self) -> Split:
        return self.data.splits[self.fold]

    @property
    def ensemble(self) -> Mapping[str, Any]:
        return self.params["ensemble"]

    @property
    def epochs(self) -> int:
        """Of the whole trial."""
        return int(self.params["train"]["epochs"])

    def seed_of(self, number: int) -> tuple[int, ...]:
        """A lane's; the first lane's is that of a model alone."""
        return (self.seed, self.fold, number) if number else (self.seed, self.fold)

    def section(self, member: int) -> Mapping[str, Any]:
        """Its ``model`` section."""
        own = self._own(member).items()
        changed = {name: value for name, value in own if name not in OF_TRAINING}
        return {**self.params["model"], **changed}

    def lane(
        self,
        number: int,
        member: int | None = None,
        split: Split | None = None,
        schedule: Schedule | None = None,
        epochs: int | None = None,
    ) -> Lane:
        """A model that is to be trained.

        Args:
            number: Makes the seed: 0 for the first lane of the part.
            member: Whose settings it has, if not those of the member `number`.
            split: What it trains on, if not on all training rows.
            schedule, epochs: If not the trial's own.
        """
        member = number if member is None else member
        model, seed = self.section(member), self.seed_of(number)
        own = {name: v for name, v in self._own(member).items() if name in OF_TRAINING}
        options = {**self.params["train"], **own}
        if epochs is not None:
            options["epochs"] = epochs
        seed_everything(*seed, 0)
        split = split or self.split
        built = build(model, split.shape, self.data.outputs, split.encoding)
        weighted = options["class_weights"] == "balanced" and self.data.classes is not None
        return Lane(
            built,
            split,
            options,
            schedule or made(options),
            seed,
            class_weights=balanced(split, self.data.outputs) if weighted else None,
            plateau=Plateau.of(options, metrics.maximize) if schedule is None else None,
        )

    def training(self, rows: Tensor) -> Split:
        """The split with fewer rows to train on, or with some of them several times.

        What was learned from all of the training rows (mean, spread, encoding) stays as it is.
        """
        return replace(self.split, train=rows)

    def _own(self, member: int) -> Mapping[str, Any]:
        """What a member's settings change; members take them in turn."""
        of_each = self.ensemble["members"]
        if not of_each or self.ensemble["method"] not in DIFFERING:
            return {}
        own = of_each[member % len(of_each)]
        return {name: value for name, value in own.items() if value is not None}


@dataclass(frozen=True)
class Kept:
    """A member that is trained no further.

    Attributes:
        said: Of the validation rows.
        held_out: Of the rows that the combination is fitted to, where it is.
        weights: What it said it with.
    """

    said: Measured
    weights: Weights
    held_out: Predicted | None = None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "said": raw([self.said.predicted])[0].clone(),
            "held_out": None if self.held_out is None else raw([self.held_out])[0].clone(),
            "weights": dict(self.weights),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], split: Split, held_out: Tensor | None = None) -> Kept:
        """What `state` was made of."""
        said = Measured.of(_again(state["said"], split, split.validation))
        if held_out is None or state["held_out"] is None:
            return cls(said, state["weights"])
        return cls(said, state["weights"], _again(state["held_out"], split, held_out))


def _again(output: Tensor, split: Split, rows: Tensor) -> Predicted:
    target = split.target[rows.to(split.target.device)]
    empty: Predicted
    if target.dtype == torch.int64:
        empty = Scores(output, target)
    elif target.dtype == torch.bool:
        empty = Labels(output, target)
    else:
        empty = Estimates(output, target, split.target_std)
    return like(empty, output.to(target.device))


@dataclass(frozen=True)
class Predictor:
    """A member as it predicts new rows: its ``model`` section, and its weights or its lane."""

    section: Mapping[str, Any]
    source: Lane | Weights


@dataclass(frozen=True)
class Together:
    """What the members of a part say at the end of an epoch.

    Attributes:
        said: Of the validation rows.
        predictors: Who said it, in the order that the combination knows them.
        how, fitted: The combination (`combined`); None: there is one member.
        members: What counts as a single model, to be compared with the whole; empty of one.
        estimates: Further metrics by their full names, e.g. ``oob/loss``.
    """

    said: Measured
    predictors: Sequence[Predictor]
    how: str | None = None
    fitted: Fitted | None = None
    members: Sequence[Measured] = ()
    estimates: Mapping[str, float] = field(default_factory=dict)


# What a lane validates with, copied.
WeightsOf = Callable[[Lane], Weights]


class Members(Protocol):
    """How the members of one part come about."""

    @property
    def lanes(self) -> Sequence[Lane]:
        """What is to be trained in the next epoch; `together` may change it."""

    def asked(self, epoch: int) -> Mapping[Lane, Tensor]:
        """Which training rows what lanes are to be asked about at the end of `epoch`.

        Only rows by whose answers something is fitted or estimated; none cost nothing.
        """

    def together(
        self,
        epoch: int,
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
        weights: WeightsOf,
    ) -> Together:
        """The end of an epoch: what members say, and who is trained in the next one.

        Args:
            epoch: 1 for the first.
            answers: Of the rows that `asked` named.
        """

    def state(self) -> dict[str, Any]:
        """For a checkpoint, beside the lanes' own; a method is begun again with it."""


class Single:
    """One model."""

    def __init__(self, part: Part, _: Mapping[str, Any] | None) -> None:
        self._part = part
        self.lanes = [part.lane(0)]

    def asked(self, epoch: int) -> Mapping[Lane, Tensor]:
        return {}

    def together(
        self,
        epoch: int,
        validated: Mapping[Lane, Measured],
        answers: Mapping[Lane, Predicted],
        weights: WeightsOf,
    ) -> Together:
        (lane,) = self.lanes
        return Together(validated[lane], [Predictor(self._part.section(0), lane)])

    def state(self) -> dict[str, Any]:
        return {}
