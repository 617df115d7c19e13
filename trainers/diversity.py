"""How differently members err: of members that err alike, a mean gains nothing.

Kuncheva and Whitaker (2003), "Measures of diversity in classifier ensembles", over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.metrics import THRESHOLD

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Diversity:
    """Means over pairs of members; NaN of one member.

    Attributes:
        measures: Name → (m, m), NaN on the diagonal and where it is not defined.
    """

    measures: dict[str, Floats]

    def mean(self, measure: str) -> float:
        return _mean(self.measures[measure])

    def of(self, member: int, measure: str) -> float:
        """A member's mean over its pairs."""
        return _mean(self.measures[measure][member])


def diversity(outputs: Sequence[Singles], target: NDArray[Any]) -> Diversity:
    """Of members on the same rows.

    Of classifiers: ``disagreement``, the share of rows on which just one of two is right, in
    [0, 1]; ``double_fault``, on which both are wrong, in [0, 1]; ``q``, Yule's Q, in [-1, 1]: 1
    where they are right and wrong together, 0 where independently. With several labels a row is
    right if all of them are. Of regressions ``error_correlation``, Pearson's, in [-1, 1].
    """
    if outputs[0].ndim == 1:
        errors = np.stack([output - target for output in outputs]).astype(np.float64)
        away = errors - errors.mean(axis=1, keepdims=True)
        size = np.sqrt((away**2).sum(axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {"error_correlation": away @ away.T / np.outer(size, size)}
    else:
        right = np.stack([_right(output, target) for output in outputs])
        found = _of_right(right.astype(np.float64))
    for measure in found.values():
        np.fill_diagonal(measure, np.nan)
    return Diversity(found)


def _right(output: Singles, target: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,) which rows are right."""
    if target.ndim == 2:
        return np.asarray(((output >= THRESHOLD) == target).all(axis=1))
    return np.asarray(output.argmax(axis=1) == target)


def _of_right(right: Floats) -> dict[str, Floats]:
    rows = right.shape[1]
    both, neither = right @ right.T, (1 - right) @ (1 - right).T
    only_a = right @ (1 - right).T
    only_b = only_a.T
    product, cross = both * neither, only_a * only_b
    total = product + cross
    return {
        "disagreement": (only_a + only_b) / rows,
        "double_fault": neither / rows,
        "q": np.where(total > 0, (product - cross) / np.where(total > 0, total, 1), np.nan),
    }


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
