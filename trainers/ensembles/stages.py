"""Epochs that are divided among stages, of snapshots and of boosting: as equal as can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
