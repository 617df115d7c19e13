"""The trials of a study that may become members: their predictions, and how good each is alone.

Of every trial sums over folds are kept; of whole outputs as many as fit in KEPT_BYTES, and the
others are read again when they are asked for.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.ensemble.calibration import AS_IT_IS, log_losses, sharpened
from hpo.ensemble.criterion import Criterion, Singles
from hpo.errors import UserError
from hpo.results.catalog import UNREADABLE
from hpo.results.evaluation import value
from hpo.results.intervals import Floats
from hpo.results.predicted import Predicted
from hpo.results.ranking import AREAS
from hpo.results.rows import by_id, is_finite
from hpo.results.scores import goal_of, score

FOLDS = 5
MOST_AREAS = 50
KEPT_BYTES = 600_000_000  # of outputs, in memory

Reader = Callable[[int], Predicted]
Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Candidates:
    """Members of a fit, the best first: places in the library, and their sharpness."""

    places: tuple[int, ...]
    sharpness: tuple[int, ...]


@dataclass
class Library:
    """The trials, on the same rows in the order of their ids.

    Attributes:
        trials: (M,) their numbers.
        ids, target, classes, groups: Of the rows, as in `Predicted`.
        fold: (n,) in which of FOLDS folds each row is; rows of a group are in one.
        metric: By which ensembles are judged.
        criterion: By which they are fitted.
        losses: (M, FOLDS, S) the criterion's sums over each fold, at each sharpness; one for a
            regression.
        sums: (M, FOLDS, k) what each fold adds to the metric; None for an area.
    """

    trials: tuple[int, ...]
    ids: NDArray[np.int64]
    target: NDArray[Any]
    classes: tuple[str, ...] | None
    groups: NDArray[np.int64] | None
    fold: NDArray[np.intp]
    metric: str
    criterion: Criterion
    losses: Floats
    sums: Floats | None
    read: Reader
    _outputs: dict[int, Singles]
    _values: dict[tuple[int, int], Singles] = field(default_factory=dict)

    @property
    def sizes(self) -> Floats:
        """(FOLDS,) rows in each."""
        return np.bincount(self.fold, minlength=FOLDS).astype(np.float64)

    @property
    def sign(self) -> int:
        """1 where less of the metric is better, else -1."""
        return -1 if goal_of(self.metric) == "maximize" else 1

    def rows(self, folds: Collection[int]) -> Rows:
        """(n,) whether a row is in these folds."""
        return np.isin(self.fold, list(folds))

    def best(self, folds: Collection[int], most: int, calibrated: bool) -> Candidates:
        """The candidates by their own loss on these folds, at the sharpness that is best there."""
        losses = self.losses[:, list(folds)].sum(axis=1)
        if calibrated:
            place = losses.argmin(axis=1)
        else:
            place = np.full(len(losses), min(AS_IT_IS, losses.shape[1] - 1))
        own = losses[np.arange(len(losses)), place]
        order = np.argsort(own, kind="stable")[:most]
        return Candidates(tuple(map(int, order)), tuple(int(place[at]) for at in order))

    def single(self, folds: Collection[int]) -> int:
        """The place of the best trial alone by the metric on these folds.

        An area is no sum over folds and takes long: it is looked for among the MOST_AREAS trials
        with the least loss on all rows.
        """
        if self.sums is not None:
            chosen = list(folds)
            means = self.sums[:, chosen].sum(axis=1) / self.sizes[chosen].sum()
            how = score(self.predicted(self.output(0)), self.metric)
            found = np.asarray(how.combine(means.T))
            return int(np.nanargmin(self.sign * found))
        rows = self.rows(folds)
        among = self.best(range(FOLDS), MOST_AREAS, calibrated=True).places
        worth = {place: self.score(self.output(place)[rows], rows) for place in among}
        return min(worth, key=lambda place: (self.sign * worth[place], place))

    def output(self, place: int, sharpness: int = AS_IT_IS, rows: Rows | None = None) -> Singles:
        """(rows, C) or (rows,) what a trial said of these rows, or of all."""
        output = self._outputs.get(place)
        if output is None:
            output = by_id(self.read(self.trials[place])).output
        if rows is not None:
            output = output[rows]
        if output.ndim == 1:
            return output
        return sharpened(output, sharpness, self.target.ndim == 2)

    def values(self, candidates: Candidates) -> Singles:
        """(m, n) or (m, n, L) the criterion's values; the same fits share them."""
        pairs = list(zip(candidates.places, candidates.sharpness, strict=True))
        for pair in pairs:
            if pair not in self._values:
                self._values[pair] = self.criterion.values(self.output(*pair), self.target)
        return np.stack([self._values[pair] for pair in pairs])

    def outputs(self, candidates: Candidates, rows: Rows) -> Singles:
        """(m, rows, C) or (m, rows)"""
        pairs = zip(candidates.places, candidates.sharpness, strict=True)
        return np.stack([self.output(*pair, rows) for pair in pairs])

    def predicted(self, output: Singles, rows: Rows | None = None) -> Predicted:
        """An output of some rows, or of all, as predictions."""
        where: Any = slice(None) if rows is None else rows
        groups = None if self.groups is None else self.groups[where]
        return Predicted(self.ids[where], self.target[where], output, self.classes, groups)

    def score(self, output: Singles, rows: Rows | None = None) -> float:
        """The metric of an output of some rows, or of all."""
        return value(self.predicted(output, rows), self.metric)


def open_library(
    trials: Sequence[int],
    read: Reader,
    metric: str,
    criterion: Criterion,
    say: Callable[[int], None] = lambda count: None,
) -> tuple[Library, Counter[str]]:
    """Read the predictions of trials on the same rows, and score each alone.

    Args:
        say: Told how many are done, now and then.

    Returns:
        The library, and why trials are not in it: reason → how many.

    Raises:
        UserError: There are fewer groups of rows than folds.
    """
    first = by_id(read(trials[0]))
    fold = folds_of(first.ids, first.target, first.groups)

    def look(trial: int) -> tuple[Singles, Floats, Floats | None] | str:
        try:
            predicted = by_id(read(trial))
        except UNREADABLE:
            return "have predictions that cannot be read"
        if predicted.output.shape != first.output.shape:
            return "predicted other classes"
        if not is_finite(predicted):
            return "predicted something that is not a number"
        output = predicted.output
        return output, _losses(predicted, fold, criterion), _sums(predicted, fold, metric)

    kept: dict[int, Singles] = {}
    found: dict[int, tuple[Floats, Floats | None]] = {}
    left_out: Counter[str] = Counter()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for done, (trial, each) in enumerate(zip(trials, pool.map(look, trials), strict=True), 1):
            if isinstance(each, str):
                left_out[each] += 1
            else:
                if (len(kept) + 1) * each[0].nbytes <= KEPT_BYTES:
                    kept[len(found)] = each[0]
                found[trial] = each[1:]
            say(done)
    sums = [each for _, each in found.values() if each is not None]
    library = Library(
        trials=tuple(found),
        ids=first.ids,
        target=first.target,
        classes=first.classes,
        groups=first.groups,
        fold=fold,
        metric=metric,
        criterion=criterion,
        losses=np.array([losses for losses, _ in found.values()]),
        sums=np.stack(sums) if sums else None,
        read=read,
        _outputs=kept,
    )
    return library, left_out


def rows_digest(path: Path) -> str:
    """Equal for two files of predictions of the same targets of the same rows, in any order."""
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        ids, target = arrays["ids"].astype(np.int64), arrays["target"].astype(np.float64)
    order = np.argsort(ids, kind="stable")
    digest = hashlib.sha256(ids[order].tobytes())
    digest.update(target[order].tobytes())
    return digest.hexdigest()


def folds_of(
    ids: NDArray[np.int64],
    target: NDArray[Any],
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> NDArray[np.intp]:
    """(n,) the fold of each row: as many of each class, set of labels, or range of values in all
    folds, as far as whole groups allow.

    Rows with the same id (predicted more than once) are in the same fold, and those of a group.
    """
    if groups is not None:
        return _folds_of_groups(target, groups, seed)
    random = np.random.default_rng(seed)
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    alike = target[first]
    if target.ndim == 2:
        alike = np.unique(alike, axis=0, return_inverse=True)[1]
    order = np.lexsort((random.random(len(first)), alike))
    rounds = -(-len(first) // FOLDS)
    shuffled = np.concatenate([random.permutation(FOLDS) for _ in range(rounds)])
    fold = np.empty(len(first), np.intp)
    fold[order] = shuffled[: len(first)]
    return fold[inverse]


def _folds_of_groups(
    target: NDArray[Any], groups: NDArray[np.int64], seed: int
) -> NDArray[np.intp]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    count = len(np.unique(groups))
    if count < FOLDS:
        raise UserError(
            f"the validation rows are of {count} groups; an ensemble that is made and judged on "
            f"different ones of them needs {FOLDS} or more: data with more groups, or data.folds"
        )
    has_classes = target.ndim == 1 and target.dtype.kind in "iu"
    balances = has_classes and np.bincount(target).max() >= FOLDS
    kind = StratifiedGroupKFold if balances else GroupKFold
    dealer = kind(FOLDS, shuffle=True, random_state=seed)
    fold = np.empty(len(groups), np.intp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class with few rows
        for number, (_, rows) in enumerate(dealer.split(groups, target, groups)):
            fold[rows] = number
    return fold


def _losses(predicted: Predicted, fold: NDArray[np.intp], criterion: Criterion) -> Floats:
    if predicted.has_probabilities:
        return log_losses(predicted.output, predicted.target, fold, FOLDS)
    values = criterion.values(predicted.output, predicted.target)
    sizes = np.bincount(fold, minlength=FOLDS)
    means = [criterion.of(values[None, fold == each])[0] for each in range(FOLDS)]
    return np.asarray(means * sizes)[:, None]


def _sums(predicted: Predicted, fold: NDArray[np.intp], metric: str) -> Floats | None:
    if metric in AREAS:
        return None
    columns = score(predicted, metric).columns(predicted)
    return np.stack([np.bincount(fold, column, FOLDS) for column in columns.T], axis=1)
