"""Which rows an epoch takes, where it is not each of them once."""

from __future__ import annotations

import torch
from torch import Tensor


class Balanced:
    """Rows drawn with replacement so that each class comes as often as every other.

    Args:
        train: (n,) int64 rows to draw from.
        target: (N,) int64 classes of all rows.
    """

    def __init__(self, train: Tensor, target: Tensor) -> None:
        labels = target.cpu()[train]
        counts = torch.bincount(labels)
        self._counts = counts[counts > 0]
        self._starts = self._counts.cumsum(0) - self._counts
        self._rows = train[labels.argsort(stable=True)]  # class after class

    def draw(self, random: torch.Generator) -> Tensor:
        """(n,) int64"""
        count = len(self._rows)
        of_class = torch.randint(len(self._counts), (count,), generator=random)
        share = torch.rand(count, generator=random, dtype=torch.float64)
        places = (share * self._counts[of_class]).long()
        return self._rows[self._starts[of_class] + places]
