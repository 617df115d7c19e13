"""Training rows that members do not train on, so that something can be fitted to their answers.

Nothing is fitted to validation rows: those are what the whole is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers import meta_learners
from trainers.ensembles.combining import Predicted, as_arrays
from trainers.ensembles.members import Part
from trainers.seeds import generator

SHARE = 5  # every fifth training row is held out for weights
STREAM = 1_000_003  # sets these draws apart from members' own


def dealt(part: Part, parts: int) -> list[Tensor]:
    """The training rows in so many parts of equal size, with the classes' shares where there are
    any; ascending.

    Raises:
        ValueError: There are fewer rows.
    """
    train = part.split.train
    if len(train) < parts:
        raise ValueError(f"{len(train)} training rows cannot be dealt to {parts} parts")
    random = generator(part.seed, part.fold, STREAM)
    order = train[torch.randperm(len(train), generator=random)]
    labels = part.split.target[order.to(part.split.target.device)].cpu()
    if labels.dtype == torch.int64:
        order = order[labels.argsort(stable=True)]
    return [order[at::parts].sort().values for at in range(parts)]


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
