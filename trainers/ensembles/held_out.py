"""Training rows that members do not train on, so that something can be fitted to their answers.

Nothing is fitted to validation rows: those are what the whole is judged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers import meta_learners
from trainers.data.splits import deal_groups
from trainers.ensembles.combining import as_arrays
from trainers.ensembles.members import Part
from trainers.metrics import Predicted
from trainers.seeds import generator

SHARE = 5  # every fifth training row is held out for weights
STREAM = 1_000_003  # sets these draws apart from members' own


def parts_of(ensemble: Mapping[str, Any]) -> tuple[str, int] | None:
    """The setting for which training rows are dealt to parts, and how many; None: they are not.

    Args:
        ensemble: The ``ensemble`` section.
    """
    if ensemble["method"] == "stacking":
        return "inner_folds", int(ensemble["inner_folds"])
    weighted = ensemble["method"] in ("bagging", "snapshot") and ensemble["combine"] == "weighted"
    return ("combine", SHARE) if weighted else None


def dealt(part: Part, parts: int) -> list[Tensor]:
    """The training rows in so many parts of equal size, with the classes' shares where there are
    any; ascending. Rows of a group are in one part, which are then about as large.

    Raises:
        ValueError: There are fewer rows, or groups.
    """
    train, target = part.split.train, part.split.target
    if len(train) < parts:
        raise ValueError(f"{len(train)} training rows cannot be dealt to {parts} parts")
    if part.split.groups is not None:
        return _dealt_groups(part, part.split.groups.numpy(), parts)
    random = generator(part.seed, part.fold, STREAM)
    order = train[torch.randperm(len(train), generator=random)]
    labels = target[order.to(target.device)].cpu()
    if labels.dtype == torch.int64:
        order = order[labels.argsort(stable=True)]
    return [order[at::parts].sort().values for at in range(parts)]


def _dealt_groups(part: Part, groups: NDArray[np.int64], parts: int) -> list[Tensor]:
    train, target = part.split.train.numpy(), part.split.target
    there = len(np.unique(groups[train]))
    if there < parts:
        raise ValueError(f"{there} groups of training rows cannot be dealt to {parts} parts")
    labels = target.cpu().numpy() if target.dtype == torch.int64 else None
    dealt = deal_groups(train, labels, groups, parts, (part.seed, part.fold, STREAM, 0))
    return [torch.from_numpy(rows) for rows in dealt]


def for_weights(part: Part) -> Tensor:
    """The rows held out where weights are to be fitted; else none."""
    if part.ensemble["combine"] != "weighted":
        return part.split.train[:0]
    return dealt(part, SHARE)[0]


def without(rows: Tensor, others: Tensor) -> Tensor:
    """`rows` that are not among `others`; ascending."""
    return rows[~torch.isin(rows, others)]


def fit_weights(said: Sequence[Predicted]) -> dict[str, Any]:
    """``weights`` of members by their answers to rows that none of them trained on.

    None is below 0, their sum is 1 (Breiman 1996, "Stacked regressions"; of classes Ting and
    Witten 1999). Even ones where an answer is not a number: that is the trial's to report.
    """
    outputs, target = as_arrays(said), said[0].target.cpu().numpy()
    if not np.isfinite(outputs).all():
        return {"weights": [1 / len(said)] * len(said)}
    return {"weights": meta_learners.non_negative(outputs, target).tolist()}
