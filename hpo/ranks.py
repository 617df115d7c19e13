"""Pruning with several objectives: successive halving by non-dominated rank.

Optuna's pruners take one objective. Here, as in Syne Tune's multi-objective ASHA (Schmucker et
al., 2021, arXiv:2106.12639), a trial goes on from a rung if it is among the best 1/η of the trials
that reached the rung, ordered by the front of mutually non-dominated trials they lie in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# One in so many goes on from a rung, where the study file does not say: Optuna's defaults.
DEFAULT_ETA = {"successive_halving": 4, "hyperband": 3}


class RankHalving:
    """Decides at epochs ``min_resource · η^k``, k from `min_early_stopping_rate`.

    Hyperband's several first rungs are not distinguished: every trial meets all rungs.
    """

    def __init__(self, name: str, options: Mapping[str, Any], signs: Sequence[int]) -> None:
        """The pruner of a study file.

        Args:
            name, options: ``successive_halving`` or ``hyperband``, and the options of that name.
            signs: +1 for an objective to maximize, -1 for one to minimize.
        """
        self._signs = np.asarray(signs, dtype=float)
        self._eta = options.get("reduction_factor", DEFAULT_ETA[name])
        minimum = options.get("min_resource", 1)
        minimum = 1 if minimum == "auto" else minimum
        self._first = minimum * self._eta ** options.get("min_early_stopping_rate", 0)
        self._last = options.get("max_resource", "auto")
        self._least = options.get("bootstrap_count", 0)
        self._rungs: dict[int, dict[int, np.ndarray]] = {}

    def report(self, number: int, epoch: int, values: Sequence[float]) -> str | None:
        """Record an epoch; why the trial is to be pruned there, or None."""
        if not self._is_rung(epoch):
            return None
        rung = self._rungs.setdefault(epoch, {})
        rung[number] = np.asarray(values) * self._signs
        if len(rung) < self._least:
            return None
        fronts = non_dominated_fronts(np.stack(list(rung.values())))
        mine = fronts[list(rung).index(number)]
        better = int((fronts < mine).sum())
        if better < max(1, len(rung) // self._eta):
            return None
        return f"front {mine + 1} of {len(rung)} trials at epoch {epoch}"

    def _is_rung(self, epoch: int) -> bool:
        if self._last != "auto" and epoch > self._last:
            return False
        rung = self._first
        while rung < epoch:
            rung *= self._eta
        return bool(rung == epoch)


def non_dominated_fronts(points: np.ndarray) -> np.ndarray:
    """The front (0 is the best) of each point.

    Args:
        points: (N, M), more is better in each column.

    Returns:
        (N,) int.
    """
    better = np.greater(points[:, None], points[None])  # [i, j]: i better than j
    worse = np.less(points[:, None], points[None])
    dominates: np.ndarray = ~worse.any(axis=2) & better.any(axis=2)
    fronts = np.full(len(points), -1)
    front = 0
    while (left := fronts < 0).any():
        beaten = dominates[left][:, left].any(axis=0)
        fronts[np.flatnonzero(left)[~beaten]] = front
        front += 1
    return fronts
