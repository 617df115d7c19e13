"""How good an ensemble is on rows that had no part in making it: nested cross-validation.

Each fold of the validation rows is predicted by what was made of the other folds alone: which
trials are candidates, temperatures, weights, and which way to make it (that one by a second
cross-validation among those folds). The best trial alone, against which it is held, is chosen in
the same way. So the gain is that of the whole procedure, not the fitted one.

Varma and Simon (2006), "Bias in error estimation when using cross-validation for model selection".

Not covered: the trials themselves were chosen by the search on these rows, the ensemble's members
as well as the best trial; a test split would tell what that is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.ensemble.calibration import AS_IT_IS
from hpo.ensemble.criterion import Singles
from hpo.ensemble.fitting import Fitted, Variant, fit
from hpo.ensemble.library import FOLDS, Library
from hpo.results.intervals import Floats

ALL = frozenset(range(FOLDS))
SIZES = (1, 2, 3, 5, 8, 12, 20, 30, 50)


@dataclass(frozen=True)
class Nested:
    """What came out.

    Attributes:
        fitted: The ensemble, made of all rows.
        scores: The cross-validated metric of each way to make it, by fold: (variants, FOLDS).
        output: What was said of each row by an ensemble made without its fold.
        single: The same of the best trial alone; `calibrated_single` with its temperature.
        sizes: (members, output): the same of its heaviest members alone; a stack is made anew of
            so many of the best.
    """

    fitted: Fitted
    scores: Floats
    output: Singles
    single: Singles
    calibrated_single: Singles | None
    sizes: Sequence[tuple[int, Singles]]


def nested(
    library: Library,
    variants: Sequence[Variant],
    most: int,
    say: Callable[[str], None] = lambda text: None,
) -> Nested:
    """Make the ensemble, and say what it does for rows that it was not made of.

    Args:
        variants: Among which the best is chosen.
        most: So many of the best trials are candidates.
        say: Told what is being done.
    """
    fits = _Fits(library, variants, most, say)
    outer = [fits.chosen(ALL - {fold}) for fold in range(FOLDS)]
    scores = fits.scores(ALL)
    fitted = fits.of(fits.best(scores), ALL)
    singles = [library.single(sorted(ALL - {fold})) for fold in range(FOLDS)]
    return Nested(
        fitted,
        scores,
        _joined(library, outer),
        _alone(library, singles, calibrated=False),
        _alone(library, singles, calibrated=True) if fitted.variant.calibrated else None,
        fits.by_size(outer, fitted),
    )


class _Fits:
    """Ensembles by how and on which folds they were made, each made once."""

    def __init__(
        self,
        library: Library,
        variants: Sequence[Variant],
        most: int,
        say: Callable[[str], None],
    ) -> None:
        self._library, self._variants, self._most, self._say = library, variants, most, say
        self._known: dict[tuple[int, frozenset[int]], Fitted] = {}
        # Two folds at a time are left out, too, where there is something to choose.
        inner = FOLDS * (FOLDS - 1) // 2 if len(variants) > 1 else 0
        self._expected = len(variants) * (FOLDS + inner) + 1

    def of(self, variant: int, folds: frozenset[int]) -> Fitted:
        known = self._known.get((variant, folds))
        if known is None:
            known = fit(self._library, self._variants[variant], folds, self._most)
            self._known[variant, folds] = known
            self._say(f"{len(self._known)} of {self._expected} ensembles")
        return known

    def scores(self, folds: frozenset[int]) -> Floats:
        """(variants, folds) the metric on each of the folds, of what the other ones made."""
        found = np.empty((len(self._variants), len(folds)))
        for place, fold in enumerate(sorted(folds)):
            rows = self._library.rows({fold})
            for variant in range(len(self._variants)):
                fitted = self.of(variant, folds - {fold})
                found[variant, place] = self._library.score(
                    fitted.output(self._library, rows), rows
                )
        return found

    def best(self, scores: Floats) -> int:
        """The variant with the best mean; the first of equals, or where it cannot be said."""
        known = ~np.isnan(scores)  # there is no area of a fold without some class
        totals = np.where(known, scores, 0).sum(axis=1)
        means = self._library.sign * totals / np.maximum(known.sum(axis=1), 1)
        return int(np.argmin(np.where(known.any(axis=1), means, np.inf)))

    def chosen(self, folds: frozenset[int]) -> Fitted:
        """The best variant by these folds alone, made of them."""
        if len(self._variants) == 1:
            return self.of(0, folds)
        return self.of(self.best(self.scores(folds)), folds)

    def by_size(self, outer: Sequence[Fitted], fitted: Fitted) -> list[tuple[int, Singles]]:
        """What the ensembles of the folds come to with fewer members.

        Args:
            outer: Each made without its fold; another fold's may be made in another way.
            fitted: The one made of all rows: its way is meant, where one of them is a stack.
        """
        most = max(len(each.places) for each in outer)
        sizes = sorted({*(size for size in SIZES if size < most), most})
        if all(each.stack is None for each in outer):
            return [
                (size, _joined(self._library, [e.heaviest(size) for e in outer])) for size in sizes
            ]
        variant, found = fitted.variant, []
        for size in sizes:
            fewer = [fit(self._library, variant, ALL - {fold}, size) for fold in range(FOLDS)]
            found.append((size, _joined(self._library, fewer)))
        return found


def _joined(library: Library, outer: Sequence[Fitted]) -> Singles:
    """Each fold's rows as its ensemble has them."""
    found: Singles | None = None
    for fold, fitted in enumerate(outer):
        rows = library.rows({fold})
        output = fitted.output(library, rows)
        if found is None:
            found = np.empty((len(rows), *output.shape[1:]), np.float32)
        found[rows] = output
    assert found is not None
    return found


def _alone(library: Library, singles: Sequence[int], calibrated: bool) -> Singles:
    """Each fold's rows as the trial has them that is the best on the others."""
    found = library.output(singles[0]).copy()
    for fold, place in enumerate(singles):
        rows = library.rows({fold})
        losses = library.losses[place, sorted(ALL - {fold})].sum(axis=0)
        sharpness = int(losses.argmin()) if calibrated else AS_IT_IS
        found[rows] = library.output(place, sharpness, rows)
    return found
