"""Splits are disjoint, complete, stratified, seeded; the test rows hold still."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from sklearn.model_selection import TimeSeriesSplit

from trainers.contract import DataError
from trainers.data.cleaning import first_of
from trainers.data.splits import Partition, partition
from trainers.options import TableData


def section(**options: Any) -> TableData:
    return TableData(source="t.csv", **options)


def labels(*counts: int) -> np.ndarray:
    ordered = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(ordered)


def same(a: Partition, b: Partition) -> bool:
    parts = [[p.search, p.test, *(part for fold in p.folds for part in fold)] for p in (a, b)]
    return all(np.array_equal(one, other) for one, other in zip(*parts, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(10, 60), min_size=2, max_size=6),
    st.floats(0.1, 0.4),
    st.floats(0.0, 0.4),
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(2, 3),
)
def test_every_row_is_in_one_part(
    counts: list[int], validation: float, test: float, seed: int, folds: int | None
) -> None:
    of = labels(*counts)
    parts = partition(
        of, len(of), section(validation=validation, test=test, split_seed=seed, folds=folds)
    )
    for train, validated in parts.folds:
        together = np.sort(np.concatenate([train, validated, parts.test]))
        assert np.array_equal(together, np.arange(len(of)))
        assert np.array_equal(np.unique(of[train]), np.unique(of))
    if folds is not None:
        validated_once = np.sort(np.concatenate([fold[1] for fold in parts.folds]))
        assert np.array_equal(validated_once, parts.search)


def test_shares_hold_in_every_class() -> None:
    of = labels(500, 300, 50)
    parts = partition(of, len(of), section(validation=0.2, test=0.1))
    ((train, validation),) = parts.folds
    for part, share in ((train, 0.7), (validation, 0.2), (parts.test, 0.1)):
        assert np.bincount(of[part]) == pytest.approx(share * np.array([500, 300, 50]), abs=1)
        assert len(part) == pytest.approx(share * 850, abs=1)


def test_folds_are_stratified_and_even() -> None:
    of = labels(100, 40)
    parts = partition(of, len(of), section(test=0.0, folds=5))
    assert [np.bincount(of[fold[1]]).tolist() for fold in parts.folds] == [[20, 8]] * 5


def test_folds_drawn_again_divide_anew_and_begin_with_those_drawn_once() -> None:
    of = labels(60, 30)
    once = partition(of, 90, section(folds=3))
    again = partition(of, 90, section(folds=3, fold_repeats=4))
    assert len(again.folds) == 12
    assert same(once, Partition(again.search, again.test, again.folds[:3]))
    for first in range(0, 12, 3):
        parts = [validated for _, validated in again.folds[first : first + 3]]
        assert np.array_equal(np.sort(np.concatenate(parts)), again.search)
        assert [np.bincount(of[part]).tolist() for part in parts] == [[16, 8]] * 3
    assert len({tuple(validated) for _, validated in again.folds}) == 12


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=16, max_size=40),
    st.booleans(),
    st.none() | st.integers(2, 4),
    st.integers(0, 2**32 - 1),
)
def test_groups_are_never_on_both_sides(
    sizes: list[int], classes: bool, folds: int | None, seed: int
) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    of = groups % 2 if classes else None
    wanted = section(folds=folds, fold_repeats=2 if folds else 1, split_seed=seed)
    try:
        parts = partition(of, len(groups), wanted, groups=groups)
    except DataError as error:
        if not classes or "rows are of one class" not in str(error):
            raise
        reject()  # few groups may leave one class to validate on
    assert len(parts.folds) == (2 * folds if folds else 1)
    for train, validated in parts.folds:
        sides = [set(groups[rows].tolist()) for rows in (train, validated, parts.test)]
        assert all(sides)
        assert sum(map(len, sides)) == len(set().union(*sides))
        together = np.sort(np.concatenate([train, validated, parts.test]))
        assert np.array_equal(together, np.arange(len(groups)))


def test_parts_of_whole_groups_have_their_share_of_each_class() -> None:
    random = np.random.default_rng(1)
    groups = random.permutation(np.repeat(np.arange(60), random.integers(2, 30, 60)))
    of = (groups % 5 == 0).astype(np.int64)  # all rows of a group alike
    one = partition(of, len(of), section(validation=0.25, test=0.2), groups=groups)
    ((_, validated),) = one.folds
    for part, share in ((one.test, 0.2), (validated, 0.25)):
        assert np.bincount(of[part]) / np.bincount(of) == pytest.approx(share, abs=0.06)
    several = partition(of, len(of), section(folds=4, fold_repeats=2), groups=groups)
    assert np.array_equal(several.test, one.test)
    assert len({tuple(part) for _, part in several.folds}) == 8
    for _, part in several.folds:
        assert np.bincount(of[part]) / np.bincount(of[several.search]) == pytest.approx(
            0.25, abs=0.1
        )


def test_one_group_with_another_class_is_too_few_for_folds() -> None:
    groups = np.repeat(np.arange(10), 6)
    of = (groups == 3).astype(np.int64)
    with pytest.raises(DataError, match="all of one class") as caught:
        partition(of, 60, section(test=0.0, folds=3), groups=groups)
    assert caught.value.key == "data.group"


def test_the_seed_decides() -> None:
    of = labels(40, 40)
    first = partition(of, 80, section(split_seed=1))
    assert same(first, partition(of, 80, section(split_seed=1)))
    assert not same(first, partition(of, 80, section(split_seed=2)))


@pytest.mark.parametrize("of", [labels(60, 60), None])
def test_test_rows_stay_whatever_else_changes(of: np.ndarray | None) -> None:
    usual = partition(of, 120, section()).test
    for changed in ({"validation": 0.4}, {"folds": 3}, {"folds": 3, "fold_repeats": 2}):
        assert np.array_equal(partition(of, 120, section(**changed)).test, usual)


def test_a_class_of_one_row_is_trained_on() -> None:
    of = labels(50, 50, 1)
    ((train, _),) = partition(of, 101, section(validation=0.4, test=0.4)).folds
    assert 2 in of[train]


@pytest.mark.parametrize(
    ("of", "rows", "options", "key", "words"),
    [
        (None, 2, {}, "data.validation", "none to validate on"),
        (labels(1, 1), 2, {}, "data.validation", "none to validate on"),
        (labels(3, 3), 6, {"validation": 0.2}, "data.validation", "one class"),
        (labels(50, 3), 53, {"test": 0.0, "folds": 5}, "data.folds", "smallest class has 3"),
        (None, 4, {"test": 0.0, "folds": 5}, "data.folds", "only 4 rows"),
    ],
)
def test_too_few_rows_are_refused(
    of: np.ndarray | None, rows: int, options: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        partition(of, rows, section(**options))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "wrong",
    [
        {"validation": 0.6, "test": 0.4},
        {"validation": 0.0},
        {"test": 1.0},
        {"test": -0.1},
        {"folds": 1},
        {"fold_repeats": 2},
        {"time": "t", "split": "s"},
        {"time": "t", "group": "g"},
        {"time": "t", "folds": 3, "fold_repeats": 2},
    ],
)
def test_shares_that_leave_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"validation|test|folds|choose one"):
        section(**wrong)


# -- by time


def test_the_latest_rows_test_then_those_before_validate() -> None:
    times = np.random.default_rng(0).permutation(100).astype(float)
    parts = partition(None, 100, section(validation=0.2, test=0.1), times=times)
    ((train, validation),) = parts.folds
    assert [len(rows) for rows in (train, validation, parts.test)] == [70, 20, 10]
    assert times[train].max() < times[validation].min()
    assert times[validation].max() < times[parts.test].min()
    assert np.array_equal(parts.search, np.sort(np.concatenate([train, validation])))
    assert len(partition(None, 100, section(test=0.0), times=times).test) == 0


@pytest.mark.parametrize("folds", [None, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_rows_of_equal_time_are_on_one_side(seed: int, folds: int | None) -> None:
    times = np.random.default_rng(seed).integers(0, 30, 80).astype(float)
    parts = partition(None, 80, section(folds=folds), times=times)
    for train, validation in parts.folds:
        assert times[train].max() < times[validation].min()
        assert times[validation].max() < times[parts.test].min()
    validated = np.concatenate([validation for _, validation in parts.folds])
    assert len(np.unique(validated)) == len(validated)
    assert times[validated].max() == times[parts.search].max()


@pytest.mark.parametrize(
    ("options", "key", "words"),
    [
        ({"folds": 3}, "data.folds", "too few different times \\(2\\) outside the test split"),
        ({"validation": 0.5}, "data.validation", "leaves none to train on"),
    ],
)
def test_too_few_times_are_refused(options: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        partition(None, 30, section(**options), times=np.repeat([1.0, 2, 3], 10))
    assert caught.value.key == key


def test_folds_by_time_are_scikit_learn_s() -> None:
    times = np.arange(83, dtype=float)
    parts = partition(None, 83, section(test=0.0, folds=5), times=times)
    expected = TimeSeriesSplit(5).split(times)
    for (train, validation), (their_train, theirs) in zip(parts.folds, expected, strict=True):
        assert np.array_equal(train, their_train)
        assert np.array_equal(validation, theirs)


# -- given


def test_groups_on_both_sides_of_what_is_given_are_refused() -> None:
    groups, given_rows = np.repeat(np.arange(10), 3), np.arange(24, 30)
    parts = partition(None, 30, section(), test=given_rows, groups=groups)
    assert np.array_equal(parts.test, given_rows)
    with pytest.raises(DataError, match="1 groups are on several sides .* row 24") as caught:
        partition(None, 30, section(), test=given_rows[1:], groups=groups)
    assert caught.value.key == "data.group"


# -- copies


@pytest.mark.parametrize("how", ["drawn", "folds", "groups", "times", "given"])
@pytest.mark.parametrize("seed", range(4))
def test_copies_are_never_on_both_sides(seed: int, how: str) -> None:
    random = np.random.default_rng(seed)
    rows = 120
    content = random.integers(0, 90, rows)
    source: dict[str, Any] = {}
    if how == "groups":
        source["groups"] = np.arange(rows) // 2
    if how == "times":
        source["times"] = random.random(rows)
    if how == "given":
        source["test"] = np.sort(random.permutation(rows)[: rows // 4])
    wanted = section(
        duplicates="together", split_seed=seed, folds=3 if how in ("folds", "times") else None
    )
    parts = partition(None, rows, wanted, copies=first_of(content), **source)
    for train, validation in parts.folds:
        sides = [set(content[some].tolist()) for some in (train, validation, parts.test)]
        assert sum(map(len, sides)) == len(set().union(*sides))
        assert all(sides)
        if how in ("drawn", "folds", "groups"):  # nothing is left out
            assert len(train) + len(validation) + len(parts.test) == rows
        if how == "groups":
            sides = [set((some // 2).tolist()) for some in (train, validation, parts.test)]
            assert sum(map(len, sides)) == len(set().union(*sides))


def test_without_copies_keeping_them_together_changes_nothing() -> None:
    of = labels(60, 40)
    plain = partition(of, 100, section())
    assert same(plain, partition(of, 100, section(duplicates="together"), copies=np.arange(100)))
    some = first_of(np.arange(100) // 2)
    assert same(plain, partition(of, 100, section(), copies=some))
