"""An ensemble fitted on some folds, and what it says of any rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hpo.ensemble.criterion import Singles
from hpo.ensemble.library import Candidates, Library, Rows
from hpo.ensemble.methods import LEAST_WEIGHT, WEIGHING, Method
from hpo.results.intervals import Floats
from trainers import meta_learners
from trainers.meta_learners import Stack

STACKED = 6  # members of a stack, at most: the best ones


@dataclass(frozen=True)
class Variant:
    """A way to make an ensemble.

    Attributes:
        calibrated: Whether members are calibrated first, each by its own temperature.
        non_negative: Of a stack: one weight a member, none below 0.
    """

    method: Method
    calibrated: bool
    non_negative: bool = False


@dataclass(frozen=True)
class Fitted:
    """An ensemble.

    Attributes:
        places: (m,) its members, the heaviest first: places in the library.
        sharpness: (m,) of each: a place in `hpo.ensemble.calibration.SHARPNESS`.
        weights: (m,) ≥ 0, with the sum 1; of a stack with coefficients, shares of these.
        stack: Those coefficients, or None: the output is the weighted mean.
    """

    variant: Variant
    places: tuple[int, ...]
    sharpness: tuple[int, ...]
    weights: Floats
    stack: Stack | None = None

    def output(self, library: Library, rows: Rows) -> Singles:
        """(rows, C) or (rows,)"""
        if self.stack is not None:
            members = Candidates(self.places, self.sharpness)
            return self.stack.output(library.outputs(members, rows))
        total = 0.0
        for place, sharpness, weight in zip(
            self.places, self.sharpness, self.weights, strict=True
        ):
            total = total + weight * library.output(place, sharpness, rows)
        return np.asarray(total, np.float32)

    def heaviest(self, count: int) -> Fitted:
        """Its `count` heaviest members alone, in their proportion."""
        kept = self.weights[:count]
        return replace(
            self,
            places=self.places[:count],
            sharpness=self.sharpness[:count],
            weights=kept / kept.sum(),
        )


def fit(library: Library, variant: Variant, folds: frozenset[int], most: int) -> Fitted:
    """Choose members and weights on the rows of these folds; no other row is looked at.

    Args:
        most: So many of the best trials are candidates.
    """
    seed = sum(2**fold for fold in folds)  # the same folds, the same ensemble
    stacks = variant.method == "stack"
    most = min(most, STACKED) if stacks else most
    found = library.best(sorted(folds), most, variant.calibrated)
    rows = library.rows(folds)
    stack = None
    if stacks:
        outputs, target = library.outputs(found, rows), library.target[rows]
        if variant.non_negative:
            weights = meta_learners.non_negative(outputs, target)
        else:
            stack = meta_learners.stacked(outputs, target, seed)
            return Fitted(
                variant, found.places, found.sharpness, stack.weights(len(outputs)), stack
            )
    else:
        values = np.ascontiguousarray(library.values(found)[:, rows])
        values = values.reshape(len(values), -1)
        weights = WEIGHING[variant.method](values, library.criterion, seed)
    return _ordered(variant, found.places, found.sharpness, weights)


def _ordered(
    variant: Variant, places: tuple[int, ...], sharpness: tuple[int, ...], weights: Floats
) -> Fitted:
    """The heaviest first, without those that weigh next to nothing."""
    order = np.argsort(-weights, kind="stable")
    kept = [at for at in order if weights[at] >= min(LEAST_WEIGHT, weights.max())]
    shares = weights[kept] / weights[kept].sum()
    return Fitted(
        variant, tuple(places[at] for at in kept), tuple(sharpness[at] for at in kept), shares
    )
