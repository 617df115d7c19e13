"""Which rows train, validate and test: given, by time, or drawn; disjoint.

What is drawn is seeded and stratified by class. The test rows depend on the labels, the groups,
the test share and the seed only: whatever else changes, they stay the same rows. Rows of a group
are never on both sides of a split.
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

    def apart(self, copies: Rows) -> Partition:
        """The same parts, but no row trains or validates that has a copy which judges later.

        Args:
            copies: (rows,) of each row the first one that has the same content.
        """

        def new(rows: Rows, *later: Rows) -> Rows:
            return rows[~np.isin(copies[rows], copies[np.concatenate(later)])]

        folds = tuple((new(a, b, self.test), new(b, self.test)) for a, b in self.folds)
        return Partition(self.search, self.test, folds)


def partition(
    labels: NDArray[Any] | None,
    rows: int,
    section: Any,
    validation: Rows | None = None,
    test: Rows | None = None,
    groups: NDArray[np.int64] | None = None,
    times: NDArray[np.float64] | None = None,
    copies: Rows | None = None,
) -> Partition:
    """Split rows 0 … `rows` - 1.

    Args:
        labels: (rows,) int64 classes to keep the shares of, or None.
        section: With `validation`, `test`, `folds`, `fold_repeats`, `split_seed`, `duplicates`
            (`trainers.options`).
        validation, test: Rows that the source itself sets aside, or None.
        groups: (rows,) the number of each row's group, at least 0, or None: each is for itself.
        times: (rows,) when each row was: the later ones test and validate; None: they are drawn.
        copies: (rows,) of each row the first one that has the same content, itself if it is that;
            None: not looked at.

    Raises:
        DataError: A part would be empty or of one class, there are more folds than rows (of a
            class), groups or times, or a group is on both sides of what the source sets aside.
    """
    if groups is not None:
        _check_given(groups, validation, test)
    if section.duplicates != "together":
        copies = None
    if times is not None:
        found = _by_time(times, section)
    elif copies is not None and groups is None:
        found = _of_firsts(labels, section, validation, test, copies)
    else:
        # Copies on both sides of what is given are one group all the same: apart() parts them.
        joined = groups if groups is None or copies is None else _joined(groups, copies)
        found = _partition(labels, rows, section, validation, test, joined)
    if copies is not None:
        found = found.apart(copies)
    _check_parts(found, rows, labels, groups)
    return found


def _partition(
    labels: NDArray[Any] | None,
    rows: int,
    section: Any,
    validation: Rows | None,
    test: Rows | None,
    groups: NDArray[np.int64] | None,
) -> Partition:
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
    return Partition(search, test, ((np.setdiff1d(search, validation), validation),))


def _check_parts(
    parts: Partition,
    rows: int,
    labels: NDArray[Any] | None,
    groups: NDArray[np.int64] | None,
) -> None:
    """Refuse a fold without rows to train on, or without several classes to validate on."""
    for train, validation in parts.folds:
        if len(validation) == 0 or len(train) == 0:
            empty = "validate on" if len(validation) == 0 else "train on"
            raise DataError(
                "data.validation",
                f"splitting {rows} rows leaves none to {empty}",
                "change validation and test, or add data",
            )
        if labels is None or len(np.unique(labels[validation])) > 1:
            continue
        if len(parts.folds) == 1:
            raise DataError(
                "data.validation",
                f"all {len(validation)} validation rows are of one class",
                "a larger share, or folds",
            )
        raise DataError(
            "data.folds" if groups is None else "data.group",
            f"a fold's {len(validation)} rows are all of one class"
            + (": too few groups have another" if groups is not None else ""),
            "fewer folds",
        )


def _check_given(groups: NDArray[np.int64], validation: Rows | None, test: Rows | None) -> None:
    """Refuse groups that are on both sides of what the source itself sets aside."""
    side = np.zeros(len(groups), np.int64)
    for number, aside in enumerate((validation, test), 1):
        if aside is not None:
            side[aside] = number
    of_group = np.full(groups.max() + 1, -1)
    of_group[groups] = side  # of its last row
    torn = np.flatnonzero(side != of_group[groups])
    if len(torn):
        several = len(np.unique(groups[torn]))
        raise DataError(
            "data.group",
            f"{several} groups are on several sides of the given split, the first is that of row "
            f"{torn[0]}",
            "mend the split, or leave group out",
        )


def _joined(groups: NDArray[np.int64], copies: Rows) -> NDArray[np.int64]:
    """Groups of which those are one that share content."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = int(groups.max()) + 1
    edges = (np.ones(len(groups), np.int8), (groups, groups[copies]))
    _, joined = connected_components(coo_array(edges, shape=(count, count)), directed=False)
    return np.asarray(joined[groups], np.int64)


def _of_firsts(
    labels: NDArray[Any] | None,
    section: Any,
    validation: Rows | None,
    test: Rows | None,
    copies: Rows,
) -> Partition:
    """Only the first row of each content is drawn; its copies go where it goes."""
    side = np.zeros(len(copies), np.int64)  # given: a copy on another side is drawn for itself
    for number, aside in enumerate((validation, test), 1):
        if aside is not None:
            side[aside] = number
    _, firsts, unit = np.unique(3 * copies + side, return_index=True, return_inverse=True)
    given = [
        None if aside is None else np.flatnonzero(side[firsts] == number)
        for number, aside in enumerate((validation, test), 1)
    ]
    of_firsts = None if labels is None else labels[firsts]
    found = _partition(of_firsts, len(firsts), section, given[0], given[1], None)

    def all_of(part: Rows) -> Rows:
        return np.flatnonzero(np.isin(unit, part))

    folds = tuple((all_of(train), all_of(validated)) for train, validated in found.folds)
    return Partition(all_of(found.search), all_of(found.test), folds)


def _by_time(times: NDArray[np.float64], section: Any) -> Partition:
    """The latest rows test, those before validate; rows of equal time are on one side.

    Folds are expanding windows, as scikit-learn's TimeSeriesSplit has them.
    """
    order = np.argsort(times, kind="stable")
    test = round(len(order) - section.test * len(order))
    test = _start_of_tie(times[order], test) if section.test > 0 else len(order)
    search, later = order[:test], np.sort(order[test:])
    if section.folds is None:
        cuts = [_start_of_tie(times[search], round(test - section.validation * len(order)))]
    else:
        size = len(search) // (section.folds + 1)
        first = len(search) - section.folds * size
        starts = range(first, len(search), max(1, size))[: section.folds]
        cuts = [_start_of_tie(times[search], start) for start in starts]
        if 0 in cuts or len(set(cuts)) < section.folds:
            there = len(np.unique(times[search]))
            raise DataError(
                "data.folds",
                f"there are too few different times ({there}) outside the test split for "
                f"{section.folds} folds",
                "fewer folds, or a time that says more",
            )
    ends = [*cuts[1:], len(search)]
    folds = tuple(
        (np.sort(search[:start]), np.sort(search[start:end]))
        for start, end in zip(cuts, ends, strict=True)
    )
    return Partition(np.sort(search), later, folds)


def _start_of_tie(ordered: NDArray[np.float64], place: int) -> int:
    """The place of the first row with the time of the one at `place`."""
    return len(ordered) if place >= len(ordered) else int(np.searchsorted(ordered, ordered[place]))


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
            dealt = deal_groups(rows, labels, groups, section.folds, seed)
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


def deal_groups(
    rows: Rows,
    labels: NDArray[Any] | None,
    groups: NDArray[np.int64],
    folds: int,
    seed: tuple[int, ...],
) -> list[Rows]:
    """Whole groups are dealt out, so that folds have about as many rows, and rows of a class.

    Args:
        seed: Its last number is that of the repetition, 0 for the first.

    Raises:
        DataError: There are fewer groups.
    """
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
        warnings.simplefilter("ignore")  # of a class with few rows; `_checked` says what matters
        parts = [some[part] for _, part in dealer.split(some, labels[some], groups[some])]
    return [rows[np.isin(groups[rows], groups[part])] for part in parts]


def _state(seed: tuple[int, ...]) -> int:
    """A seed for scikit-learn."""
    return int(np.random.default_rng(seed).integers(2**32))
