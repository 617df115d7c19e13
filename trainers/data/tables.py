"""Tables: a CSV or Parquet file, or one of scikit-learn's, into numbers.

What is a number, what is missing and which categories there are is decided by the training rows;
the target alone is looked at in all rows, for its classes and to split by them.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from trainers import metrics
from trainers.contract import DataError, did_you_mean
from trainers.data import cleaning
from trainers.data import columns as column_facts
from trainers.data.dataset import Dataset, Split
from trainers.data.encode import Encoding, is_number, numbers
from trainers.data.examples import rows as rows_to_show
from trainers.data.folders import TEST, TRAIN, VALIDATION
from trainers.data.splits import Partition, Rows, partition
from trainers.metrics import Task
from trainers.options import TableData

# Whole numbers are classes when there are at most so many of them.
MOST_NUMBERED_CLASSES = 20
MOST_CLASSES = 1000
MOST_COLUMNS = 50_000  # each is looked at by itself
SHOWN = 10  # missing columns named in a message
SEPARATORS = ",;\t"


@dataclass(frozen=True)
class Target:
    """What to predict.

    Attributes:
        values: (rows,) int64 classes, (rows, L) bool labels, or (rows,) float32 values.
        classes: The names of the classes or labels; None for regression.
    """

    values: NDArray[Any]
    classes: list[str] | None

    @property
    def task(self) -> Task:
        if self.values.ndim == 2:
            return "multilabel"
        return "regression" if self.classes is None else "classification"

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """(rows,) the classes that rows are divided by; None of labels and values."""
        return self.values if self.task == "classification" else None

    @property
    def counts(self) -> list[int] | None:
        """How many rows each class or label has; None for regression."""
        if self.classes is None:
            return None
        counts = self.values.sum(0) if self.labels is None else np.bincount(self.values)
        return [int(count) for count in counts]

    def check_trained(self, train: Rows, key: str) -> None:
        """Check that there is something to learn of each class or label.

        Raises:
            DataError: Of `key`: a class has no row to train on, or all rows or none have a label.
        """
        if self.classes is None:
            return
        if self.labels is not None:
            for missing in np.setdiff1d(np.arange(len(self.classes)), self.labels[train]):
                raise DataError(key, f"class {self.classes[missing]!r} has no row to train on")
            return
        share = self.values[train].mean(0)
        for label in np.flatnonzero((share == 0) | (share == 1)):
            raise DataError(
                key, f"label {self.classes[label]!r} is the same in every row to train on"
            )


@dataclass(frozen=True)
class Opened:
    """A table, and what its section makes of it.

    Attributes:
        frame: As it is in the source.
        fingerprint: sha256 of the source's content.
        columns: Those that a model may see, of all rows.
        groups: (rows,) the number of each row's group, or None.
        copies: (rows,) of each row the first one that is equal, target included.
    """

    frame: pd.DataFrame
    fingerprint: str
    target: Target
    columns: pd.DataFrame
    parts: Partition
    groups: NDArray[np.int64] | None
    copies: Rows


def load(section: TableData, examples: int = 0) -> Dataset:
    """Columns as float32: standardized numbers and one-hot categories.

    Args:
        examples: How many rows are to be kept as they are in the source.

    Raises:
        DataError: The file cannot be read, a column is not there, or the target cannot be used.
    """
    table = opened(section)
    target, parts = table.target, table.parts
    columns = table.columns.iloc[parts.search]  # the test rows end here
    splits = tuple(_split(columns, table, *fold) for fold in parts.folds)
    for train, _ in parts.folds:
        target.check_trained(train, "data.target")
    summary = {
        "source": section.source,
        "task": target.task,
        "rows": len(table.frame),
        "train": len(splits[0].train),
        "validation": len(splits[0].validation),
        "test": len(parts.test),
        "classes": target.classes,
        "class_counts": target.counts,
        "shape": list(splits[0].inputs.shape[1:]),
        "fingerprint": table.fingerprint,
        "metrics": metrics.names(target.task),
        "skipped": [],
        "report": {
            **cleaning.report(parts, table.copies, section, target.labels, target.classes),
            **column_facts.report(table.columns, parts.search, target.values),
        },
    }
    classes = None if target.classes is None else tuple(target.classes)
    ids = torch.from_numpy(parts.search)
    shown = parts.search[rows_to_show(splits, examples)]
    originals = table.frame.iloc[shown].reset_index(drop=True) if examples else None
    return Dataset("table", target.task, classes, ids, splits, summary, originals)


def test_rows(section: TableData) -> tuple[Rows, NDArray[Any], pd.DataFrame]:
    """Of the test split: row numbers, targets and columns.

    Raises:
        DataError: As `load` does.
    """
    table = opened(section)
    test = table.parts.test
    return test, table.target.values[test], table.columns.iloc[test]


def opened(section: TableData, texts: str | None = None) -> Opened:
    """Read and check a table, and divide its rows.

    Args:
        texts: The one column that a model is to see, which is read as text; None: all others.

    Raises:
        DataError: As `load` does.
    """
    frame, fingerprint = _read(section.source, texts)
    targets = _targets(section, frame)
    if texts is not None:
        _check_column("data.text", texts, frame)
    for column in section.ignore:
        _check_column("data.ignore", column, frame)
    target = _target(frame, section)
    sides = {"group": section.group, "time": section.time, "split": section.split}
    for side, of_sides in sides.items():
        _check_side(f"data.{side}", of_sides, targets, frame)
    unseen = {*targets, *section.ignore, *sides.values()}
    columns = frame.drop(columns=[column for column in frame if column in unseen])
    if texts is not None:
        columns = frame[[texts]]
    if columns.shape[1] == 0:
        raise DataError("data.source", f"there is no column but the target {targets[-1]!r}")
    _check_plain(columns)
    groups = None if section.group is None else _groups(frame[section.group])
    times = None if section.time is None else _times(frame[section.time])
    validation, test = (None, None) if section.split is None else _given(frame[section.split])
    copies = cleaning.first_of(cleaning.contents(frame[[*columns, *targets]]))
    parts = partition(target.labels, len(frame), section, validation, test, groups, times, copies)
    return Opened(frame, fingerprint, target, columns, parts, groups, copies)


def _split(columns: pd.DataFrame, table: Opened, train: Rows, validation: Rows) -> Split:
    target, parts = table.target, table.parts
    train, validation = (np.searchsorted(parts.search, part) for part in (train, validation))
    encoding = Encoding.fit(columns.iloc[train])
    values = target.values[parts.search]
    mean, std = 0.0, 1.0
    if target.classes is None:
        mean, std = float(values[train].mean(dtype=np.float64)), float(values[train].std())
        if not std > 0:
            raise DataError("data.target", "the target is the same in every training row")
    return Split(
        torch.from_numpy(encoding.encode(columns)),
        torch.from_numpy(values),
        torch.from_numpy(train),
        torch.from_numpy(validation),
        target_mean=mean,
        target_std=std,
        encoding=encoding.plain(),
        groups=None if table.groups is None else torch.from_numpy(table.groups[parts.search]),
    )


def _read(source: str, texts: str | None) -> tuple[pd.DataFrame, str]:
    """The table, and the sha256 of its content.

    Args:
        texts: A column in which "NA", too, is a text.
    """
    if not Path(source).suffix:
        return _built_in(source)
    path = Path(source).expanduser()
    with _explained(path):
        with open(path, "rb") as file:
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
        _check_size(path)
        if _is_parquet(path):
            _check_names(path, _parquet_names(path))
            frame = pd.read_parquet(path)
        else:
            separator = _separator(path)
            with _whole_rows(path):
                frame = pd.read_csv(path, sep=separator, index_col=False, low_memory=False)
            if texts in frame.columns:
                only = pd.read_csv(
                    path,
                    sep=separator,
                    dtype="str",
                    keep_default_na=False,
                    usecols=[texts],
                    index_col=False,
                )
                frame[texts] = only[texts]
    frame.columns = [str(column) for column in frame.columns]
    if len(frame) == 0:
        raise DataError("data.source", f"{path} has no rows")
    return frame.reset_index(drop=True), fingerprint


def batches(
    path: Path, needed: Sequence[str], text: Collection[str], rows: int, na: bool = True
) -> Iterator[pd.DataFrame]:
    """A CSV or Parquet file, so many rows at a time.

    Args:
        needed: Columns that it must have.
        text: Columns that are read as text, whatever they look like.
        na: Whether a value is missing where a CSV file says "NA" or the like.

    Raises:
        DataError: It cannot be read, has no rows, or lacks a column.
    """
    count = 0
    with _explained(path):
        for frame in _parts(path, text, rows, na):
            frame.columns = [str(column) for column in frame.columns]
            check_columns(str(path), needed, list(frame.columns))
            count += len(frame)
            yield frame
    if count == 0:
        raise DataError("data.source", f"{path} has no rows")


def check_columns(what: str, needed: Sequence[str], there: Sequence[str]) -> None:
    """Raise DataError if `what` lacks a column that is needed."""
    missing = [name for name in needed if name not in set(there)]
    if not missing:
        return
    lines = []
    for name in missing[:SHOWN]:
        hint = did_you_mean(name, there)
        lines.append(f"{name!r}" + (f" ({hint})" if hint else ""))
    more = f", and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    raise DataError(
        "data.source",
        f"{what} lacks {len(missing)} of the {len(needed)} columns that the model needs: "
        f"{', '.join(lines)}{more}",
        f"it has {_listed(there)}",
    )


def _parts(path: Path, text: Collection[str], rows: int, na: bool) -> Iterator[pd.DataFrame]:
    if _is_parquet(path):
        from pyarrow.parquet import ParquetFile

        _check_names(path, _parquet_names(path))
        with ParquetFile(path) as file:
            for batch in file.iter_batches(rows):
                yield batch.to_pandas()
        return
    types = dict.fromkeys(text, "str")
    with pd.read_csv(
        path,
        sep=_separator(path),
        dtype=types,
        keep_default_na=na,
        chunksize=rows,
        index_col=False,
        low_memory=False,
    ) as reader:
        while True:
            with _whole_rows(path):
                frame = next(reader, None)
            if frame is None:
                return
            yield frame


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, as a DataError."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError("data.source", f"{path} cannot be read: {why}") from None
    except UnicodeDecodeError:
        raise DataError("data.source", f"{path} is not UTF-8 text", "save it as UTF-8") from None
    # What pandas, pyarrow and csv raise.
    except (ValueError, ArithmeticError, LookupError, MemoryError, csv.Error) as error:
        what = "Parquet" if _is_parquet(path) else "CSV"
        why = " ".join(str(error).split())[:200]
        raise DataError("data.source", f"{path} cannot be read as {what}: {why}") from None


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _separator(path: Path) -> str:
    """Comma, semicolon or tab: whichever the first line has most of.

    Raises:
        DataError: Of what pandas would read, but not as it was meant: NUL characters, too many
            columns, or two of one name.
    """
    if line := _line_of_nul(path):
        raise DataError(
            "data.source",
            f"{path} has the character NUL in line {line}",
            "is it UTF-16? Save it as UTF-8",
        )
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    separator = max(SEPARATORS, key=first.count)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator)
        header = next((row for row in rows if row), [])
    _check_names(path, [name for name in header if name])
    return separator


def _line_of_nul(path: Path) -> int | None:
    line = 1
    with open(path, "rb") as file:
        while some := file.read(1 << 20):
            at = some.find(0)
            if at >= 0:
                return line + some.count(b"\n", 0, at)
            line += some.count(b"\n")
    return None


@contextlib.contextmanager
def _whole_rows(path: Path) -> Iterator[None]:
    """Refuse rows that are longer than the header, of which pandas would leave the rest out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            yield
        except pd.errors.ParserWarning:
            raise DataError(
                "data.source",
                f"{path} has more values in a row than names in its first line",
                "name every column",
            ) from None


def _parquet_names(path: Path) -> list[str]:
    from pyarrow.parquet import read_schema

    return list(read_schema(path).names)


def _check_size(path: Path) -> None:
    """Refuse what would not fit into memory, by what the file says of itself."""
    needed, rows = path.stat().st_size, ""
    if _is_parquet(path):
        from pyarrow.parquet import read_metadata

        facts = read_metadata(path)
        stored = sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
        # Rows that are alike take no space in the file.
        needed = max(stored, 8 * facts.num_rows * facts.num_columns)
        rows = f" ({facts.num_rows:,} rows of {facts.num_columns:,} columns)"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise DataError(
            "data.source",
            f"{path} would take {needed / 1e9:,.0f} GB of memory{rows}; "
            f"this machine has {memory / 1e9:,.0f}",
        )


def _check_names(path: Path, names: Sequence[str]) -> None:
    if len(names) > MOST_COLUMNS:
        raise DataError(
            "data.source",
            f"{path} has {len(names):,} columns; at most {MOST_COLUMNS:,} can be used",
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            "data.source", f"{path} has two columns {twice[0]!r}", "give each its own name"
        )


def _built_in(name: str) -> tuple[pd.DataFrame, str]:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame: pd.DataFrame = bunch.frame.copy()
    fingerprint = hashlib.sha256(np.ascontiguousarray(frame.to_numpy(np.float64)).tobytes())
    if "target_names" in bunch:
        frame["target"] = [str(bunch.target_names[number]) for number in frame["target"]]
    return frame, fingerprint.hexdigest()


def _targets(section: TableData, frame: pd.DataFrame) -> Sequence[str]:
    """The column to predict, or those of the labels."""
    if section.target is None and not Path(section.source).suffix:
        return ["target"]
    if section.target is None:
        raise DataError(
            "data.target", "say which column to predict; there are " + _listed(frame.columns)
        )
    targets = [section.target] if isinstance(section.target, str) else section.target
    for place, name in enumerate(targets):
        _check_column("data.target", name, frame)
        if name in targets[:place]:
            raise DataError("data.target", f"{name!r} is there twice")
    return targets


def _check_column(key: str, name: str, frame: pd.DataFrame) -> None:
    if name not in frame.columns:
        hint = did_you_mean(name, frame.columns)
        if frame.shape[1] == 1:
            hint = "columns are separated by commas, semicolons or tabs"
        raise DataError(
            key, f"there is no column {name!r}; there are {_listed(frame.columns)}", hint
        )


def _check_plain(columns: pd.DataFrame) -> None:
    """Refuse columns of lists and the like, as Parquet may hold."""
    for name in columns:
        present = columns[name].dropna()
        if len(present) and isinstance(present.iloc[0], np.ndarray | list | dict):
            raise DataError(
                "data.source",
                f"column {name!r} holds lists, of which nothing can be learned",
                f"ignore: [{name}]",
            )


def _check_side(key: str, name: str | None, targets: Sequence[str], frame: pd.DataFrame) -> None:
    """Refuse a column that says on which side of a split a row is, and does not do so."""
    if name is None:
        return
    _check_column(key, name, frame)
    what = key.removeprefix("data.")
    if name in targets:
        raise DataError(key, f"{name!r} is the target; it cannot be the {what} as well")
    missing = np.flatnonzero(frame[name].isna())
    if len(missing):
        raise DataError(
            key,
            f"{len(missing)} rows have no value in {name!r}, the first is row {missing[0]}",
            "fill these rows in, or remove them",
        )


def _groups(column: pd.Series[Any]) -> NDArray[np.int64]:
    """The number of each row's group."""
    return pd.factorize(column)[0].astype(np.int64)


def _times(column: pd.Series[Any]) -> NDArray[np.float64]:
    """When each row was, as numbers."""
    dates = column
    if not is_number(column):
        dates = pd.to_datetime(column, errors="coerce", format="mixed", utc=True)
    times = numbers(dates)
    wrong = column[np.isnan(times)]
    if len(wrong):
        raise DataError(
            "data.time",
            f"{len(wrong)} rows of {column.name!r} are neither dates nor numbers, the first is "
            f"{wrong.iloc[0]!r} in row {wrong.index[0]}",
            "write dates as 2026-12-31",
        )
    return times


def _given(column: pd.Series[Any]) -> tuple[Rows | None, Rows | None]:
    """The rows that validate and those that test, as a column says; None: it names none.

    Raises:
        DataError: It says something else, or names none to train on.
    """
    said = column.astype(str).str.strip().str.lower()
    unknown = column[~said.isin([*TRAIN, *VALIDATION, *TEST])]
    if len(unknown):
        raise DataError(
            "data.split",
            f"expected train, val or test; {column.name!r} holds {unknown.iloc[0]!r} in row "
            f"{unknown.index[0]}",
        )
    train, validation, test = (
        np.flatnonzero(said.isin(names)) for names in (TRAIN, VALIDATION, TEST)
    )
    if len(train) == 0:
        raise DataError("data.split", f"{column.name!r} says train of no row")
    return (validation if len(validation) else None), (test if len(test) else None)


def _target(frame: pd.DataFrame, section: TableData) -> Target:
    names = _targets(section, frame)
    for name in names:
        missing = frame.index[frame[name].isna()]
        if len(missing):
            raise DataError(
                "data.target",
                f"{len(missing)} rows have no value in {name!r}, the first is row {missing[0]}",
                "fill these rows in, or remove them",
            )
    if isinstance(section.target, tuple):
        return _labels(frame[[*names]], section.task)
    return _values(frame[names[0]], section.task)


def _labels(columns: pd.DataFrame, task: str) -> Target:
    """Several columns that each say whether a row has the label."""
    if task != "auto":
        raise DataError("data.task", f"several targets are labels; got {task}", "task: auto")
    values = labels_in(columns)
    for row, label in np.argwhere(np.isnan(values)):
        raise DataError(
            "data.target",
            f"a label is 0 or 1, or true or false; {columns.columns[label]!r} holds "
            f"{columns.astype(object).iat[row, label]!r} in row {row}",
        )
    return Target(values.astype(bool), [*columns])


def labels_in(columns: pd.DataFrame) -> NDArray[np.float64]:
    """(rows, L) 0 or 1, NaN where a column says neither that nor true or false."""
    words = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    said = [columns[name].astype(str).str.strip().str.lower().map(words) for name in columns]
    return np.stack([each.to_numpy(np.float64, na_value=np.nan) for each in said], axis=1)


def _values(column: pd.Series[Any], task: str) -> Target:
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    values = column.to_numpy(np.float64) if numeric else None
    whole = values is None or bool(np.all(values == np.floor(values)))
    if task == "auto":
        few = values is None or (whole and len(np.unique(values)) <= MOST_NUMBERED_CLASSES)
        task = "classification" if few else "regression"
    if task == "classification":
        return _classes(column, whole)
    if values is None:
        number = pd.to_numeric(column, errors="coerce")
        row = number.index[number.isna()][0] if number.isna().any() else column.index[0]
        raise DataError(
            "data.target",
            f"regression needs numbers; {column.name!r} holds {column[row]!r} in row {row}",
            "task: classification",
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError("data.target", f"{column.name!r} is {values[row]} in row {row}")
    return Target(values.astype(np.float32), None)


def _classes(column: pd.Series[Any], whole: bool) -> Target:
    """Number the classes in their natural order."""
    if not whole:
        raise DataError(
            "data.target",
            f"{column.name!r} holds fractions; they are no classes",
            "task: regression",
        )
    if not pd.api.types.is_numeric_dtype(column):
        column = column.astype(str)
    distinct, numbers = np.unique(column.to_numpy(), return_inverse=True)
    names = [_class_name(value) for value in distinct]
    if len(names) < 2:
        raise DataError("data.target", f"every row is of one class, {names[0]!r}")
    if len(names) > MOST_CLASSES:
        raise DataError(
            "data.target",
            f"{column.name!r} has {len(names)} different values, too many for classes",
            "task: regression" if pd.api.types.is_numeric_dtype(column) else None,
        )
    return Target(numbers.astype(np.int64), names)


def _class_name(value: Any) -> str:
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if is_whole else str(value)


def known_targets(
    columns: pd.DataFrame, task: Task, classes: Sequence[str] | None
) -> NDArray[Any]:
    """Targets that a new table has.

    Args:
        columns: One, or one a label.
        classes: Their names, in the order of their numbers; None: values.

    Returns:
        (rows,) int64 classes, -1 where it is none of them; (rows, L) float64 labels, 0 or 1, or
        (rows,) float64 values, NaN where there is none.
    """
    if task == "multilabel":
        return labels_in(columns)
    column = columns.iloc[:, 0]
    if classes is None:
        return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers.get(_class_name(value), -1) for value in column], np.int64)


def _listed(names: Sequence[str] | pd.Index[str], most: int = 20) -> str:
    shown = ", ".join(str(name) for name in list(names)[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} columns)"
