"""Epochs that are divided among stages, of snapshots and of boosting: as equal as can be."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from trainers.schedules import Schedule


def count(ensemble: Mapping[str, Any], epochs: int) -> int:
    """How many stages there are: at most one an epoch."""
    return min(int(ensemble["size"]), epochs)


def ends(stages: int, epoch: int, epochs: int) -> bool:
    """Whether a stage ends with `epoch` (1 for the first)."""
    return epoch * stages // epochs > (epoch - 1) * stages // epochs


def length(stages: int, stage: int, epochs: int) -> int:
    """How many epochs a stage (0 for the first) has."""
    # The first epoch e with e · stages // epochs > stage ends it.
    return -(-(stage + 1) * epochs // stages) - -(-stage * epochs // stages)


@dataclass(frozen=True)
class Repeated(Schedule):
    """A schedule anew in each stage (of a cosine: Loshchilov and Hutter 2017)."""

    schedule: Schedule
    stages: int
    epochs: int

    def __call__(self, progress: float) -> float:
        epoch, begins = progress * self.epochs, self._begins
        # A stage's first step may lie below its beginning by a rounding.
        stage = min(bisect_right(begins, epoch + 1e-9), self.stages) - 1
        begin, end = begins[stage], begins[stage + 1]
        return self.schedule(max(0.0, (epoch - begin) / (end - begin)))

    @cached_property
    def _begins(self) -> list[int]:
        """Of each stage, and the end of the last one, in epochs."""
        lengths = [length(self.stages, stage, self.epochs) for stage in range(self.stages)]
        return [0, *accumulate(lengths)]
