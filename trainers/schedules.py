"""Learning rate schedules: a table of functions of how far training has come.

A schedule maps progress in [0, 1) (steps done / all steps) to a factor of the learning rate in
[0, 1]. It keeps no state, so a resumed trial is on it at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0: torch's CosineAnnealingLR, stepped at each batch."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine}
