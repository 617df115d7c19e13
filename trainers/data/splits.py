"""Which rows train, validate and test: seeded, stratified by class, disjoint.

The test rows depend on the labels, the groups, the test share and the seed only: whatever else
changes, they stay the same rows. Rows of a group are never on both sides of a split.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError

Rows = NDArray[np.int64]

TEST_STREAM, VALIDATION_STREAM, FOLD_STREAM = range(3)

GROUP_DRAWS = 100  # of whole groups, of which the most even one is taken
# Folds of whole groups are dealt by what is in the groups, largest first. So that folds that are
# drawn again are others, it is then looked at in this share of the rows.
LOOKED_AT = 0.8


@dataclass(frozen=True)
class Partition:
    """Rows by what they are for, each ascending.

    Attributes:
        search: All but the test rows.
        test: Never looked at by the search.
        folds: (train, validation) pairs; one, or one a fold, those of a repetition together.
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
    groups: NDArray[np.int64] | None = None,
) -> Partition:
    """Split rows 0 … `rows` - 1.

    Args:
        labels: (rows,) int64 classes to keep the shares of, or None.
        section: With `validation`, `test`, `folds`, `fold_repeats`, `split_seed`
            (`trainers.options`).
        validation, test: Rows that the source itself sets aside, or None.
        groups: (rows,) the number of each row's group, at least 0, or None: each is for itself.

    Raises:
        DataError: A part would be empty or of one class, or there are more folds than rows (of a
            class) or groups.
    """
    free = np.arange(rows, dtype=np.int64)  # what the source does not set aside
    for aside in (validation, test):
        free = free if aside is None else np.setdiff1d(free, aside)
    share_of = len(free)
    if test is None:
        seed = (section.split_seed, TEST_STREAM)
        test = _draw(free, labels, groups, section.test * share_of, seed)
        free = np.setdiff1d(free, test)
    search = np.setdiff1d(np.arange(rows, dtype=np.int64), test)
    if section.folds is not None:
        return Partition(search, test, _folds(search, labels, groups, section))
    if validation is None:
        seed = (section.split_seed, VALIDATION_STREAM)
        validation = _draw(free, labels, groups, section.validation * share_of, seed)
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


def _draw(
    rows: Rows,
    labels: NDArray[Any] | None,
    groups: NDArray[np.int64] | None,
    count: float,
    seed: tuple[int, ...],
) -> Rows:
    """About `count` of `rows`, the same share of each class, but never a whole class.

    Of whole groups as near to that as random draws come.
    """
    if groups is not None:
        return _draw_groups(rows, labels, groups, count / max(1, len(rows)), seed)
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


def _draw_groups(
    rows: Rows,
    labels: NDArray[Any] | None,
    groups: NDArray[np.int64],
    share: float,
    seed: tuple[int, ...],
) -> Rows:
    """Whole groups with about this share of the rows, and of each class."""
    from sklearn.model_selection import GroupShuffleSplit  # takes a second, so only here

    if share == 0:
        return rows[:0]
    there = len(np.unique(groups[rows]))
    if there < 2:
        raise DataError(
            "data.group", "there are too few groups: each split needs at least one of its own"
        )
    wanted_groups = min(max(1, round(share * there)), there - 1)
    draws = GroupShuffleSplit(GROUP_DRAWS, test_size=wanted_groups, random_state=_state(seed))
    classes = np.zeros(len(rows), np.int64) if labels is None else labels[rows]
    wanted = share * np.bincount(classes)

    def off(drawn: Rows) -> float:
        found = np.bincount(classes[drawn], minlength=len(wanted))
        return float(np.abs(found - wanted).sum())

    nearest: Rows = min((some for _, some in draws.split(rows, groups=groups[rows])), key=off)
    return rows[nearest]


def _folds(
    rows: Rows, labels: NDArray[Any] | None, groups: NDArray[np.int64] | None, section: Any
) -> tuple[tuple[Rows, Rows], ...]:
    """Each row validates in one fold of each repetition."""
    found: list[tuple[Rows, Rows]] = []
    for repetition in range(section.fold_repeats):
        seed = (section.split_seed, FOLD_STREAM, repetition)
        if groups is None:
            dealt = _deal(rows, labels, section.folds, seed)
        else:
            dealt = _deal_groups(rows, labels, groups, section.folds, seed)
        found += [(np.setdiff1d(rows, part), part) for part in dealt]
    return tuple(found)


def _deal(
    rows: Rows, labels: NDArray[Any] | None, folds: int, seed: tuple[int, ...]
) -> list[Rows]:
    """Rows of a class are dealt out evenly."""
    if folds > len(rows):
        raise DataError("data.folds", f"there are only {len(rows)} rows for {folds} folds")
    order = np.random.default_rng(seed).permutation(rows)
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
    return [np.sort(order[fold::folds]) for fold in range(folds)]


def _deal_groups(
    rows: Rows,
    labels: NDArray[Any] | None,
    groups: NDArray[np.int64],
    folds: int,
    seed: tuple[int, ...],
) -> list[Rows]:
    """Whole groups are dealt out, so that folds have about as many rows, and rows of a class."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    there, first = np.unique(groups[rows], return_index=True)
    if folds > len(there):
        raise DataError(
            "data.folds",
            f"there are only {len(there)} groups outside the test split for {folds} folds",
            f"folds: {len(there)}" if len(there) > 1 else "a column with more groups",
        )
    if labels is None:
        dealer = GroupKFold(folds, shuffle=True, random_state=_state(seed))
        return [rows[part] for _, part in dealer.split(rows, groups=groups[rows])]
    *_, repetition = seed
    looked_at = np.random.default_rng(seed).random(len(rows)) < (LOOKED_AT if repetition else 1)
    looked_at[first] = True  # no group is left out
    some = rows[looked_at]
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=_state(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class with few rows; what matters is checked below
        parts = [some[part] for _, part in dealer.split(some, labels[some], groups[some])]
    dealt = [rows[np.isin(groups[rows], groups[part])] for part in parts]
    for part in dealt:
        if len(np.unique(labels[part])) < 2:
            raise DataError(
                "data.group",
                f"a fold's {len(part)} rows are all of one class: too few groups have another",
                "fewer folds",
            )
    return dealt


def _state(seed: tuple[int, ...]) -> int:
    """A seed for scikit-learn."""
    return int(np.random.default_rng(seed).integers(2**32))
