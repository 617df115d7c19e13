"""Tables: how columns become numbers, which targets there are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trainers.contract import DataError
from trainers.data import Dataset, load
from trainers.data.encode import MOST_CATEGORIES, Encoding

ROWS = 100


def table(**columns: Any) -> pd.DataFrame:
    random = np.random.default_rng(0)
    usual = {"x": random.normal(5, 2, ROWS), "y": np.tile(["no", "yes"], ROWS // 2)}
    return pd.DataFrame({**usual, **columns})


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def write_and_load(frame: pd.DataFrame, suffix: str = "csv", **options: Any) -> Dataset:
        path = tmp_path / f"table.{suffix}"
        if suffix == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path)
        return load({"source": str(path), "target": "y", **options}, tmp_path / "cache")

    return write_and_load


def encode(train: Any, rows: Any) -> list[list[float]]:
    """`rows` of one column, encoded by what `train` holds."""
    encoding = Encoding.fit(pd.DataFrame({"c": pd.Series(train)}))
    encoded: list[list[float]] = encoding.encode(pd.DataFrame({"c": pd.Series(rows)})).tolist()
    return encoded


@pytest.mark.parametrize(
    ("source", "task", "classes", "shape"),
    [
        ("breast_cancer", "classification", ["benign", "malignant"], [30]),
        ("wine", "classification", ["class_0", "class_1", "class_2"], [13]),
        ("diabetes", "regression", None, [10]),
    ],
)
def test_built_in_tables(
    tmp_path: Path, source: str, task: str, classes: list[str] | None, shape: list[int]
) -> None:
    data = load({"source": source}, tmp_path)
    assert (data.task, data.summary["classes"]) == (task, classes)
    assert data.summary["shape"] == shape
    assert data.summary == json.loads(json.dumps(data.summary))
    assert f"val/{'f1_macro' if classes else 'r2'}" in data.summary["metrics"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_hold_what_was_written(read: Any, suffix: str) -> None:
    frame = table(color=["red", "green", "blue", "red"] * 25, flag=[True, False] * 50)
    data = read(frame, suffix)
    assert data.shape == (1 + 3 + 1,)
    target = frame["y"].to_numpy()[data.ids.numpy()]
    assert [data.classes[number] for number in data.target] == target.tolist()
    x = frame["x"].to_numpy()[data.ids.numpy()]
    assert np.corrcoef(x, data.inputs[:, 0])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_seen(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "t.csv"
    table(z=range(ROWS)).to_csv(path, index=False, sep=separator, encoding="utf-8-sig")
    assert load({"source": str(path), "target": "y"}, tmp_path).shape == (2,)


def test_numbers_are_standardized_by_the_training_rows(read: Any) -> None:
    data = read(table())
    train = data.inputs[data.train, 0].double()
    assert train.mean() == pytest.approx(0, abs=1e-6)
    assert train.std(correction=0) == pytest.approx(1, abs=1e-6)


def test_missing_numbers_get_the_median_and_a_column() -> None:
    encoded = encode([1.0, 3.0, None, 8.0], [None, 3.0, 8.0])
    assert encoded[0] == [encoded[1][0], 1.0]
    assert encoded[1][1] == encoded[2][1] == 0.0


def test_numbers_missing_only_outside_training_get_the_median() -> None:
    assert encode([1.0, 3.0, 8.0], [None, 3.0])[0] == encode([1.0, 3.0, 8.0], [3.0])[0]


def test_infinite_numbers_count_as_missing() -> None:
    assert encode([1.0, 3.0, np.inf], [np.inf, -np.inf])[0][1] == 1.0


def test_categories_have_a_column_each() -> None:
    assert encode(["b", "a", "b"], ["a", "b"]) == [[0.0, 1.0], [1.0, 0.0]]


def test_a_category_unseen_in_training_is_zero_everywhere() -> None:
    assert encode(["a", "b"], ["c", None]) == [[0.0, 0.0], [0.0, 0.0]]


def test_missing_categories_have_a_column() -> None:
    assert encode(["a", None], [None, "a", "c"]) == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]


def test_rare_categories_share_a_column() -> None:
    many = [f"c{number:03}" for number in range(MOST_CATEGORIES + 5)]
    encoded = np.array(encode(many * 2, many))
    assert encoded.shape == (MOST_CATEGORIES + 5, MOST_CATEGORIES + 1)
    assert encoded.sum(1).tolist() == [1.0] * len(many)
    assert encoded[:, -1].sum() == 5


@pytest.mark.parametrize(
    "values", [[True, False, True], ["True", "False", "True"], [True, False, None, True]]
)
def test_true_and_false_are_numbers(values: list[Any]) -> None:
    encoded = encode(values, values)
    assert encoded[0] == encoded[-1]
    assert encoded[0][0] > 0 > encoded[1][0]


def test_numbers_written_as_text_are_numbers() -> None:
    assert encode(["1", "3"], ["1", "2", "oops"]) == encode([1, 3], [1, 2, 2])


def test_dates_are_numbers() -> None:
    days = pd.to_datetime(["2026-01-01", "2026-01-03"])
    assert encode(days, [*days, pd.Timestamp("2026-01-02")]) == [[-1.0], [1.0], [0.0]]
    aware = days.tz_localize("Europe/Berlin")
    assert encode(aware, aware) == [[-1.0], [1.0]]


def test_an_outlier_stays_finite() -> None:
    assert np.isfinite(encode([0.0, 1e-100], [1e300])).all()


def test_columns_that_never_change_in_training_are_left_out(read: Any) -> None:
    frame = table(same=[1.5] * ROWS, word=["w"] * ROWS, empty=[None] * ROWS)
    assert read(frame).shape == (1,)


def test_ignored_columns_are_left_out(read: Any) -> None:
    frame = table(extra=range(ROWS))
    assert read(frame, ignore=["extra"]).shape == (1,)
    assert read(frame).shape == (2,)


def test_test_rows_never_enter(read: Any) -> None:
    frame = table(
        color=["red", "green"] * 50, number=[f"{value}" for value in range(ROWS)], n=range(ROWS)
    )
    frame["n"] = frame["n"].astype(float)
    before = read(frame)
    outside = np.setdiff1d(np.arange(ROWS), before.ids)
    assert len(outside) == 20
    poisoned = frame.copy()
    poisoned.loc[outside, "x"] = 1e9
    poisoned.loc[outside, "color"] = "poison"
    poisoned.loc[outside, "number"] = "no number"
    poisoned.loc[outside, "n"] = None
    after = read(poisoned)
    assert torch.equal(before.inputs, after.inputs)
    assert torch.equal(before.ids, after.ids)
    assert torch.equal(before.train, after.train)


def test_validation_rows_do_not_enter_the_encoding(read: Any) -> None:
    frame = table(color=["red", "green"] * 50)
    before = read(frame)
    rows = before.ids[before.validation].numpy()
    poisoned = frame.copy()
    poisoned.loc[rows, "x"] = 1e6
    poisoned.loc[rows, "color"] = "poison"
    after = read(poisoned)
    assert torch.equal(before.inputs[before.train], after.inputs[after.train])
    assert after.inputs[after.validation, 1:].abs().sum() == 0


def test_every_fold_is_encoded_by_its_own_training_rows(read: Any) -> None:
    data = read(table(), folds=4)
    for split in data.splits:
        assert split.inputs[split.train, 0].mean() == pytest.approx(0, abs=1e-6)
    assert not torch.equal(data.splits[0].inputs, data.splits[1].inputs)


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        (["b", "a"] * 50, "classification", ("a", "b")),
        ([True, False] * 50, "classification", ("False", "True")),
        ([10, 2] * 50, "classification", ("2", "10")),
        ([1.0, 0.0] * 50, "classification", ("0", "1")),
        (list(range(20)) * 5, "classification", tuple(str(n) for n in range(20))),
        (list(range(ROWS)), "regression", None),
        (np.linspace(0, 1, ROWS), "regression", None),
        ([0.5, 1.0] * 50, "regression", None),
    ],
)
def test_the_task_is_seen_in_the_target(
    read: Any, target: Any, task: str, classes: tuple[str, ...] | None
) -> None:
    data = read(table(y=target))
    assert (data.task, data.classes) == (task, classes)


def test_whole_numbers_can_be_a_regression(read: Any) -> None:
    data = read(table(y=[1, 5] * 50), task="regression")
    assert data.target.dtype == torch.float32
    assert data.target.unique().tolist() == [1.0, 5.0]


@pytest.mark.parametrize(
    ("columns", "options", "key", "words", "hint"),
    [
        ({}, {"target": None}, "data.target", "which column to predict; there are x, y", None),
        ({"price": range(ROWS)}, {"target": "prize"}, "data.target", "no column", "'price'"),
        ({"extra": range(ROWS)}, {"ignore": ["extr"]}, "data.ignore", "no column", "'extra'"),
        ({}, {"ignore": ["x"]}, "data.source", "no column but the target", None),
        ({"x": [1] * ROWS}, {}, "data.source", "the same in all training rows", None),
        ({"y": ["a"] * ROWS}, {}, "data.target", "every row is of one class, 'a'", None),
        ({"y": [*["a", "b"] * 49, None, None]}, {}, "data.target", "2 rows have no value", "fill"),
        ({"y": [*["1"] * 99, "x"]}, {"task": "regression"}, "data.target",
         "regression needs numbers; 'y' holds 'x' in row 99", "classification"),
        ({"y": [3.0] * ROWS}, {"task": "regression"}, "data.target", "same in every", None),
        ({"y": [0.5, 1.5] * 50}, {"task": "classification"}, "data.target", "fractions",
         "regression"),
        ({"y": [*[float(n) for n in range(99)], np.inf]}, {"task": "regression"}, "data.target",
         "inf in row 99", None),
        ({}, {"validation": 0.5, "test": 0.5}, "data", "must be below 1", None),
        ({}, {"folds": 1}, "data.folds", "greater than or equal to 2", None),
        ({}, {"folds": 50}, "data.folds", "smallest class has 40 rows", "folds: 40"),
        ({"y": [*["a"] * 98, "b", "b"]}, {"folds": 3}, "data.folds", "smallest class", None),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused(
    read: Any,
    columns: dict[str, Any],
    options: dict[str, Any],
    key: str,
    words: str,
    hint: str | None,
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(table(**columns), **options)
    assert caught.value.key == key
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "cannot be read as CSV: No columns"),
        ("t.csv", b"x,y\n", "has no rows"),
        ("t.csv", b"x,y\n1,2\n1,2,3,4\n", "cannot be read as CSV"),
        ("t.csv", b"x,y\n\xff\xfe,1\n", "is not UTF-8"),
        ("t.parquet", b"no parquet", "cannot be read as Parquet"),
        ("t.parquet", b"", "cannot be read as Parquet"),
        ("t.xlsx", b"", "expected a folder of images, or a .csv or .parquet file"),
    ],
)
def test_files_that_are_no_tables_are_refused(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        load({"source": str(tmp_path / name), "target": "y"}, tmp_path)
    assert caught.value.key == "data.source"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("tabel.csv", "table.csv"),
        ("breast_cancr", "breast_cancer"),
        ("no/file.csv", None),
        ("CIFAR10", "torchvision:NAME"),
    ],
)
def test_a_source_that_is_not_there_is_named(
    tmp_path: Path, source: str, hint: str | None
) -> None:
    (tmp_path / "table.csv").write_text("x,y\n")
    with pytest.raises(DataError, match=f"there is no .*{source}") as caught:
        load({"source": str(tmp_path / source)}, tmp_path)
    assert caught.value.key == "data.source"
    assert hint in str(caught.value.hint) if hint else caught.value.hint is None


def test_options_of_an_own_trainer_are_left_to_it(tmp_path: Path) -> None:
    assert load({"source": "wine", "flavour": "red"}, tmp_path).task == "classification"


@pytest.mark.parametrize(
    ("section", "trainer"),
    [({"source": "wine", "skip_bad": False}, "tabular"),
     ({"source": "digits", "target": None}, "image_classifier")],
)  # fmt: skip
def test_data_for_another_trainer_is_refused(
    tmp_path: Path, section: dict[str, Any], trainer: str
) -> None:
    with pytest.raises(DataError, match="for another trainer") as caught:
        load(section, tmp_path)
    assert caught.value.hint == f"trainer: {trainer}"


def test_a_section_without_a_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name of a data set, or a path"):
        load({}, tmp_path)


# -- splits that the table itself says


def test_splits_by_time_and_their_column_is_not_learned_from(read: Any) -> None:
    days = pd.date_range("2026-01-01", periods=ROWS).astype(str).to_numpy()
    order = np.random.default_rng(1).permutation(ROWS)
    data = read(table(day=days[order]), time="day", validation=0.3)
    assert data.shape == (1,)
    of_validation = days[order][data.ids[data.validation].numpy()]
    assert sorted(of_validation) == days[50:80].tolist()
    assert sorted(days[order][data.ids[data.train].numpy()]) == days[:50].tolist()
    windows = read(table(day=days[order]), time="day", folds=3).splits
    assert [len(split.train) for split in windows] == [20, 40, 60]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train ", "VALID", "Test")])
def test_given_splits_are_used(read: Any, names: tuple[str, ...]) -> None:
    part = np.random.default_rng(1).choice(names, ROWS, p=[0.6, 0.3, 0.1])
    data = read(table(part=part), split="part")
    assert data.shape == (1,)
    assert np.array_equal(data.ids[data.train], np.flatnonzero(part == names[0]))
    assert np.array_equal(data.ids[data.validation], np.flatnonzero(part == names[1]))
    assert data.summary["test"] == (part == names[2]).sum()


def test_what_a_given_split_does_not_name_is_drawn(read: Any) -> None:
    part = np.where(np.arange(ROWS) < 70, "train", "test")
    data = read(table(part=part), split="part", validation=0.2)
    assert [data.summary[side] for side in ("train", "validation", "test")] == [56, 14, 30]


@pytest.mark.parametrize(
    ("columns", "options", "key", "words"),
    [
        ({"s": ["train", "dev"] * 50}, {"split": "s"}, "data.split", "'dev' in row 1"),
        ({"s": ["val", "test"] * 50}, {"split": "s"}, "data.split", "says train of no row"),
        ({"s": ["train", None] * 50}, {"split": "s"}, "data.split", "50 rows have no value in"),
        ({}, {"split": "y"}, "data.split", "'y' is the target"),
        ({}, {"split": "parts"}, "data.split", "no column 'parts'"),
        ({"t": ["2026-01-01", "soon"] * 50}, {"time": "t"}, "data.time", "'soon' in row 1"),
        ({"t": [1.0, np.inf] * 50}, {"time": "t"}, "data.time", "neither dates nor numbers"),
        ({"t": [1.0, 2.0] * 50}, {"time": "t"}, "data.validation", "none to train on"),
        ({}, {"time": "x", "split": "y"}, "data", "choose one"),
        ({"g": [1, 2] * 50, "s": ["train"] * 99 + ["test"]}, {"group": "g", "split": "s"},
         "data.group", "1 groups are on several sides"),
    ],
)  # fmt: skip
def test_splits_that_cannot_be_are_refused(
    read: Any, columns: dict[str, Any], options: dict[str, Any], key: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(table(**columns), **options)
    assert caught.value.key == key


# -- the cleaning report


def test_what_is_odd_about_columns_is_said(read: Any) -> None:
    y = np.tile(["no", "yes"], ROWS // 2)
    some = np.where(np.arange(ROWS) % 3 == 0, None, 1.0)
    data = read(
        table(
            same=[7] * ROWS,
            some=some,
            code=np.where(y == "yes", "J", "N"),
            number=range(1000, 1000 + ROWS),
            name=[f"n{row}" for row in range(ROWS)],
            price=np.random.default_rng(0).permutation(ROWS * 1000)[:ROWS],
        )
    )
    said = data.summary["report"]
    assert said["constant"] == ["same"]
    assert said["missing"] == {"some": 34}
    assert set(said["suspicious"]) == {"code", "number", "name"}
    assert said["suspicious"]["code"] == "says the target"
    assert said["class_counts"] == {"train": [30, 30], "validation": [10, 10], "test": [10, 10]}


def test_a_target_in_other_units_is_suspicious(read: Any) -> None:
    x = np.random.default_rng(0).normal(5, 2, ROWS)
    frame = table(y=x * 3, x=x + 1, z=x + np.random.default_rng(1).normal(size=ROWS))
    said = read(frame).summary["report"]
    assert said["suspicious"] == {"x": "says the target"}
    assert said["class_counts"] is None


def test_equal_rows_are_counted_and_kept_together(read: Any) -> None:
    frame = table()
    frame = pd.concat([frame, frame.iloc[:40]])  # the index is not the row
    said = read(frame).summary["report"]["duplicates"]
    assert said["rows"] == 40
    assert sum(said["across"].values()) > 5
    first, second = (int(name.removeprefix("row ")) for name in said["examples"][0])
    assert abs(first - second) == ROWS
    together = read(frame, duplicates="together")
    assert not any(together.summary["report"]["duplicates"]["across"].values())
    sides = [set((together.ids[rows] % ROWS).tolist()) for rows in
             (together.train, together.validation)]  # fmt: skip
    assert not sides[0] & sides[1]
    with pytest.raises(DataError, match="have a copy on the other side") as caught:
        read(frame, duplicates="refuse")
    assert caught.value.key == "data.duplicates"
    frame["y"] = np.where(np.arange(len(frame)) < ROWS, frame["y"], "third")
    assert read(frame).summary["report"]["duplicates"]["rows"] == 0  # of another class


def test_folds_count_copies_of_what_each_validates(read: Any) -> None:
    frame = table(x=np.arange(ROWS) // 2, y=np.arange(ROWS) // 2 % 2)  # each row twice
    across = read(frame, folds=4, test=0.0).summary["report"]["duplicates"]["across"]
    together = read(frame, folds=4, test=0.0, duplicates="together")
    assert across["train/validation"] > 50
    assert across["train/test"] == across["validation/test"] == 0
    assert together.summary["report"]["duplicates"]["across"]["train/validation"] == 0


def test_columns_of_lists_are_refused(read: Any) -> None:
    frame = table(tags=[["a", "b"], ["c"]] * 50)
    with pytest.raises(DataError, match="'tags' holds lists, of which") as caught:
        read(frame, "parquet")
    assert "ignore" in str(caught.value.hint)
    assert read(frame, "parquet", ignore=["tags"]).shape == (1,)
