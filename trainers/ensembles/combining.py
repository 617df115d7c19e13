"""What members say together: a table of ways, each of which can be kept and used on new rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from trainers import meta_learners
from trainers.metrics import Estimates, Labels, Predicted, Scores, output

# What was fitted to training rows, by name: numbers and lists of them, as a file can keep them.
Fitted = Mapping[str, Any]


def combined(said: Sequence[Predicted], how: str, fitted: Fitted | None = None) -> Predicted:
    """What members say together of the same rows.

    Args:
        said: A member each, of equal shapes.
        how: A row of `COMBINATIONS`: ``mean`` of the probabilities or values, ``logits`` (the mean
            of the logits), ``vote`` (each row goes to the class that most members name, with the
            shares as probabilities; of values the median), ``weighted`` (the mean of
            probabilities or values with weights), ``sum`` (of what stages of gradient boosting
            add), ``weighted_vote`` (of SAMME), ``stacked`` (by what a meta-learner learned).
        fitted: What that way needs: ``weights`` (weighted, sum, weighted_vote: one a member),
            ``start`` and ``center`` (sum), ``bases``, ``coefficients``, ``intercept`` (stacked).
    """
    return COMBINATIONS[how](said, fitted or {})


def mean(said: Sequence[Predicted], _: Fitted) -> Predicted:
    return _weighted_mean(said, [1 / len(said)] * len(said))


def logits(said: Sequence[Predicted], fitted: Fitted) -> Predicted:
    if isinstance(said[0], Estimates):
        return mean(said, fitted)
    return like(said[0], raw(said).mean(0))


def vote(said: Sequence[Predicted], _: Fitted) -> Predicted:
    first = said[0]
    if isinstance(first, Estimates):
        return Estimates(raw(said).median(0).values, first.target, first.unit)
    if isinstance(first, Labels):
        shares = ((raw(said) >= 0).sum(0) + 0.5) / (len(said) + 1)  # there or not, likewise
        return Labels(shares.logit(), first.target)
    counts = _named(said).sum(0)
    # One vote more is divided among all classes (Laplace), lest a loss be infinite.
    shares = (counts + 1 / counts.shape[-1]) / (len(said) + 1)
    return Scores(shares.log(), first.target)


def weighted(said: Sequence[Predicted], fitted: Fitted) -> Predicted:
    return _weighted_mean(said, fitted["weights"])


def total(said: Sequence[Predicted], fitted: Fitted) -> Predicted:
    """``start`` + Σ weight · (output - ``center``): Friedman's additive expansion."""
    first, outputs = said[0], raw(said)
    start = torch.tensor(fitted["start"], dtype=outputs.dtype, device=outputs.device)
    added = _column(fitted["weights"], outputs) * (outputs - fitted["center"])
    return like(first, start + added.sum(0))


def weighted_vote(said: Sequence[Predicted], fitted: Fitted) -> Predicted:
    """The sum of the weights of those who name a class, as its logit.

    For the loss that SAMME makes small, the best probabilities are the softmax of these sums
    (Zhu et al. 2009, theorem 1 and lemma 1).
    """
    named = _named(said)
    return like(said[0], (_column(fitted["weights"], named) * named).sum(0))


def stacked(said: Sequence[Predicted], fitted: Fitted) -> Predicted:
    """A meta-learner's answer to what its bases say, each the mean of as many members."""
    bases = as_arrays(means(said, fitted["bases"]))
    stack = meta_learners.Stack(
        np.asarray(fitted["coefficients"]), np.asarray(fitted["intercept"])
    )
    answer = torch.from_numpy(stack.output(bases)).to(raw(said[:1]).device)
    return saying(said[0], answer, said[0].target)


COMBINATIONS: dict[str, Callable[[Sequence[Predicted], Fitted], Predicted]] = {
    "mean": mean,
    "logits": logits,
    "vote": vote,
    "weighted": weighted,
    "sum": total,
    "weighted_vote": weighted_vote,
    "stacked": stacked,
}


def means(said: Sequence[Predicted], groups: int) -> list[Predicted]:
    """The mean of each of so many groups of neighbours, equally large."""
    size = len(said) // groups
    return [mean(said[at : at + size], {}) for at in range(0, len(said), size)]


def as_arrays(said: Sequence[Predicted]) -> NDArray[np.float32]:
    """(m, n, C) probabilities or (m, n) values, as `trainers.meta_learners` take them."""
    return torch.stack([output(one) for one in said]).cpu().float().numpy()


def raw(said: Sequence[Predicted]) -> Tensor:
    """(m, n, C) logits, or (m, n) values."""
    return torch.stack([one.output if isinstance(one, Estimates) else one.logits for one in said])


def like(said: Predicted, raw: Tensor) -> Predicted:
    """`raw`, logits or values, as said of the same rows as `said`."""
    if isinstance(said, Estimates):
        return Estimates(raw, said.target, said.unit)
    return type(said)(raw, said.target)


def saying(said: Predicted, shares: Tensor, target: Tensor) -> Predicted:
    """Probabilities or values of rows with these targets, said as `said` is.

    Probabilities as logits, of which they are these again; none is 0, lest a loss be infinite.
    """
    if isinstance(said, Estimates):
        return Estimates(shares, target, said.unit)
    if isinstance(said, Labels):
        return Labels(shares.logit(torch.finfo(shares.dtype).eps), target)
    return Scores(shares.clamp_(min=torch.finfo(shares.dtype).tiny).log(), target)


def _weighted_mean(said: Sequence[Predicted], weights: Sequence[float]) -> Predicted:
    outputs = torch.stack([output(one) for one in said])
    return saying(said[0], (_column(weights, outputs) * outputs).sum(0), said[0].target)


def _named(said: Sequence[Predicted]) -> Tensor:
    """(m, n, C): 1 for the class that a member names."""
    outputs = raw(said)
    return one_hot(outputs.argmax(-1), outputs.shape[-1]).to(outputs.dtype)


def _column(weights: Sequence[float], outputs: Tensor) -> Tensor:
    """(m, 1, …), to weigh (m, …)."""
    column = torch.tensor(weights, dtype=outputs.dtype, device=outputs.device)
    return column.view(-1, *[1] * (outputs.dim() - 1))
