"""Which rows train, validate and test: seeded, stratified by class, disjoint.

The test rows depend on the labels, the test share and the seed only: whatever else changes, they
stay the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError

Rows = NDArray[np.int64]

TEST_STREAM, VALIDATION_STREAM, FOLD_STREAM = range(3)


@dataclass(frozen=True)
class Partition:
    """Rows by what they are for, each ascending.

    Attributes:
        search: All but the test rows.
        test: Never looked at by the search.
        folds: (train, validation) pairs; one, or one a fold.
    """

    search: Rows
    test: Rows
    folds: tuple[tuple[Rows, Rows], ...]

    def without(self, rows: Rows) -> Partition:
        """The same parts, less `rows`."""
        if len(rows) == 0:
            return self
        folds = tuple((np.setdiff1d(a, rows), np.setdiff1d(b, rows)) for a, b in self.folds)
        return Partition(np.setdiff1d(self.search, rows), np.setdiff1d(self.test, rows), folds)


def partition(
    labels: NDArray[Any] | None,
    rows: int,
    section: Any,
    validation: Rows | None = None,
    test: Rows | None = None,
) -> Partition:
    """Split rows 0 … `rows` - 1.

    Args:
        labels: (rows,) int64 classes to keep the shares of, or None.
        section: With `validation`, `test`, `folds`, `split_seed` (`trainers.options`).
        validation, test: Rows that the source itself sets aside, or None.

    Raises:
        DataError: A part would be empty, or there are more folds than rows (of a class).
    """
    free = np.arange(rows, dtype=np.int64)  # what the source does not set aside
    for aside in (validation, test):
        free = free if aside is None else np.setdiff1d(free, aside)
    share_of = len(free)
    if test is None:
        seed = (section.split_seed, TEST_STREAM)
        test = _draw(free, labels, section.test * share_of, seed)
        free = np.setdiff1d(free, test)
    search = np.setdiff1d(np.arange(rows, dtype=np.int64), test)
    if section.folds is not None:
        return Partition(search, test, _folds(search, labels, section.folds, section.split_seed))
    if validation is None:
        seed = (section.split_seed, VALIDATION_STREAM)
        validation = _draw(free, labels, section.validation * share_of, seed)
    train = np.setdiff1d(search, validation)
    if len(validation) == 0 or len(train) == 0:
        empty = "validate on" if len(validation) == 0 else "train on"
        raise DataError(
            "data.validation",
            f"splitting {rows} rows leaves none to {empty}",
            "change validation and test, or add data",
        )
    if labels is not None and len(np.unique(labels[validation])) < 2:
        raise DataError(
            "data.validation",
            f"all {len(validation)} validation rows are of one class",
            "a larger share, or folds",
        )
    return Partition(search, test, ((train, validation),))


def _draw(rows: Rows, labels: NDArray[Any] | None, count: float, seed: tuple[int, int]) -> Rows:
    """About `count` of `rows`, the same share of each class, but never a whole class."""
    random = np.random.default_rng(seed)
    if labels is None:
        return np.sort(random.permutation(rows)[: round(count)])
    numbers, sizes = np.unique(labels[rows], return_counts=True)
    quotas = sizes * count / max(1, len(rows))
    take = np.floor(quotas).astype(np.int64)
    # What rounding down left over goes to the classes that lost most by it.
    most_lost = np.argsort(take - quotas, kind="stable")
    take[most_lost[: round(count) - take.sum()]] += 1
    drawn = [
        random.permutation(rows[labels[rows] == number])[: min(some, size - 1)]
        for number, size, some in zip(numbers, sizes, take, strict=True)
    ]
    return np.sort(np.concatenate([rows[:0], *drawn]))


def _folds(
    rows: Rows, labels: NDArray[Any] | None, folds: int, seed: int
) -> tuple[tuple[Rows, Rows], ...]:
    """Each row validates in one fold; rows of a class are dealt out evenly."""
    if folds > len(rows):
        raise DataError("data.folds", f"there are only {len(rows)} rows for {folds} folds")
    random = np.random.default_rng((seed, FOLD_STREAM))
    order = random.permutation(rows)
    if labels is not None:
        _, counts = np.unique(labels[rows], return_counts=True)
        if folds > counts.min():
            raise DataError(
                "data.folds",
                f"the smallest class has {counts.min()} rows outside the test split, "
                f"too few for {folds} folds",
                f"folds: {max(2, int(counts.min()))}, or add data",
            )
        order = order[np.argsort(labels[order], kind="stable")]
    dealt = [np.sort(order[fold::folds]) for fold in range(folds)]
    return tuple((np.setdiff1d(rows, part), part) for part in dealt)
