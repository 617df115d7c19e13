"""Epochs that are divided among stages, of snapshots and of boosting: as equal as can be."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
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


def repeated(schedule: Schedule, stages: int, epochs: int) -> Schedule:
    """`schedule` anew in each stage (of a cosine: Loshchilov and Hutter 2017)."""
    begins = [0]
    for stage in range(stages):
        begins.append(begins[-1] + length(stages, stage, epochs))

    def factor(progress: float) -> float:
        epoch = progress * epochs
        # A stage's first step may lie below its beginning by a rounding.
        stage = min(bisect_right(begins, epoch + 1e-9), stages) - 1
        begin, end = begins[stage], begins[stage + 1]
        return schedule(max(0.0, (epoch - begin) / (end - begin)))

    return factor
