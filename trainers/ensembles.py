"""Several models as one trial: who trains on what, and what they say together.

A trial's ``ensemble`` section says how its members come about:

* ``bagging`` (Breiman 1996): each member trains on a bootstrap sample of the training rows, from
  weights of its own; members are lanes.
* ``snapshot`` (Huang et al. 2017): one model, whose learning rate goes from high to low several
  times; at the end of each cycle a member is what the model says then. It costs one training.

How they are combined is fixed beforehand, so nothing is fitted to the validation rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from trainers.data import Split
from trainers.metrics import Estimates, Scores
from trainers.schedules import SCHEDULES, Schedule, restarted
from trainers.seeds import generator

Predicted = Scores | Estimates


def members(ensemble: Mapping[str, Any]) -> int:
    """How many models a trial trains side by side, a fold."""
    return int(ensemble["size"]) if ensemble["method"] == "bagging" else 1


def cycles(ensemble: Mapping[str, Any], epochs: int) -> int:
    """How many cycles its learning rate has: at most one an epoch."""
    return min(int(ensemble["size"]), epochs) if ensemble["method"] == "snapshot" else 1


def ends_a_cycle(ensemble: Mapping[str, Any], epoch: int, epochs: int) -> bool:
    """Whether a member is made at the end of `epoch` (1 for the first)."""
    count = cycles(ensemble, epochs)
    return epoch * count // epochs > (epoch - 1) * count // epochs


def schedule(ensemble: Mapping[str, Any], train: Mapping[str, Any]) -> Schedule:
    """The learning rate's: of a snapshot ensemble a cosine that begins anew in each cycle."""
    if ensemble["method"] == "snapshot":
        return restarted(SCHEDULES["cosine"], cycles(ensemble, train["epochs"]))
    return SCHEDULES[train["schedule"]]


def bootstrap(split: Split, ensemble: Mapping[str, Any], seed: Sequence[int]) -> Split:
    """The split with a sample of its training rows, some of them several times.

    What was learned from all of the training rows (mean, spread) stays as it is.

    Args:
        seed: Of this member.
    """
    count = len(split.train)
    wanted = max(1, round(float(ensemble["bootstrap_fraction"]) * count))
    random = generator(*seed, 0)
    if ensemble["replacement"]:
        chosen = torch.randint(count, (wanted,), generator=random)
    else:
        chosen = torch.randperm(count, generator=random)[:wanted]
    return replace(split, train=split.train[chosen.sort().values])


def combined(said: Sequence[Predicted], how: str) -> Predicted:
    """What members say together of the same rows.

    Args:
        said: A member each, of equal shapes.
        how: ``mean`` of the probabilities or values, ``logits`` (the mean of the logits), ``vote``
            (each row goes to the class that most members name, with the shares as probabilities;
            of values the median).
    """
    first = said[0]
    if isinstance(first, Estimates):
        outputs = torch.stack([one.output for one in said if isinstance(one, Estimates)])
        middle = outputs.median(0).values if how == "vote" else outputs.mean(0)
        return Estimates(middle, first.target, first.unit)
    scores = [one for one in said if isinstance(one, Scores)]
    if how == "logits":
        return Scores(torch.stack([one.logits for one in scores]).mean(0), first.target)
    if how == "vote":
        return Scores(_votes(scores).log(), first.target)
    shares = torch.stack([one.probabilities for one in scores]).mean(0)
    # As logits, of which the probabilities are these again; none is 0, lest a loss be infinite.
    return Scores(shares.clamp_(min=torch.finfo(shares.dtype).tiny).log(), first.target)


def _votes(scores: Sequence[Scores]) -> Tensor:
    """(N, C): the shares of the votes; one vote more is divided among all classes (Laplace)."""
    counts = _counts(scores)
    return (counts + 1 / counts.shape[-1]) / (len(scores) + 1)


def _counts(scores: Sequence[Scores]) -> Tensor:
    """(N, C): how many members name each class."""
    logits = torch.stack([one.logits for one in scores])
    return one_hot(logits.argmax(-1), logits.shape[-1]).sum(0).to(logits.dtype)


def disagreement(said: Sequence[Predicted]) -> float:
    """How much members differ, the mean over pairs of them.

    Of classifiers the share of rows on which two name different classes, in [0, 1]; of values the
    root of their mean squared difference, in units of the target's spread in training.
    """
    count = len(said)
    if count < 2:
        return 0.0
    scores = [one for one in said if isinstance(one, Scores)]
    if scores:
        named = _counts(scores).double()
        alike = (named * (named - 1)).sum(-1) / (count * (count - 1))
        return float(1 - alike.mean())
    estimates = [one for one in said if isinstance(one, Estimates)]
    outputs = torch.stack([one.output for one in estimates]).double()
    return float((2 * outputs.var(0).mean()).sqrt() / estimates[0].unit)
