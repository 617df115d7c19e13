"""Tables: a CSV or Parquet file, or one of scikit-learn's, into numbers.

What is a number, what is missing and which categories there are is decided by the training rows;
the target alone is looked at in all rows, for its classes and to split by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from trainers import metrics
from trainers.contract import DataError
from trainers.data.dataset import Dataset, Split
from trainers.data.encode import Encoding
from trainers.data.examples import rows as rows_to_show
from trainers.data.splits import Partition, Rows, partition
from trainers.metrics import Task
from trainers.options import TableData

# Whole numbers are classes when there are at most so many of them.
MOST_NUMBERED_CLASSES = 20
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Target:
    """The column to predict.

    Attributes:
        values: (rows,) int64 classes, or float32 values.
        classes: The names of the classes; None for regression.
    """

    values: NDArray[Any]
    classes: list[str] | None

    @property
    def task(self) -> Task:
        return "regression" if self.classes is None else "classification"


def load(section: TableData, examples: int = 0) -> Dataset:
    """Columns as float32: standardized numbers and one-hot categories.

    Args:
        examples: How many rows are to be kept as they are in the source.

    Raises:
        DataError: The file cannot be read, a column is not there, or the target cannot be used.
    """
    frame, fingerprint = _read(section.source)
    name = _target_name(section, frame)
    for column in section.ignore:
        _check_column("data.ignore", column, frame)
    target = _target(frame[name], section.task)
    columns = frame.drop(columns=[name, *section.ignore])
    if columns.shape[1] == 0:
        raise DataError("data.source", f"there is no column but the target {name!r}")
    labels = None if target.classes is None else target.values
    parts = partition(labels, len(frame), section)
    columns = columns.iloc[parts.search]  # the test rows end here
    splits = tuple(_split(columns, target, parts, *fold) for fold in parts.folds)
    if target.classes is not None:
        for train, _ in parts.folds:
            for missing in np.setdiff1d(np.arange(len(target.classes)), target.values[train]):
                raise DataError(
                    "data.target", f"class {target.classes[missing]!r} has no row to train on"
                )
    summary = {
        "source": section.source,
        "task": target.task,
        "rows": len(frame),
        "train": len(splits[0].train),
        "validation": len(splits[0].validation),
        "test": len(parts.test),
        "classes": target.classes,
        "class_counts": None if labels is None else np.bincount(labels).tolist(),
        "shape": list(splits[0].inputs.shape[1:]),
        "fingerprint": fingerprint,
        "metrics": metrics.names(target.task),
        "skipped": [],
    }
    classes = None if target.classes is None else tuple(target.classes)
    ids = torch.from_numpy(parts.search)
    shown = parts.search[rows_to_show(splits, examples)]
    originals = frame.iloc[shown].reset_index(drop=True) if examples else None
    return Dataset("table", target.task, classes, ids, splits, summary, originals)


def _split(
    columns: pd.DataFrame, target: Target, parts: Partition, train: Rows, validation: Rows
) -> Split:
    train, validation = (np.searchsorted(parts.search, part) for part in (train, validation))
    inputs = Encoding.fit(columns.iloc[train]).encode(columns)
    values = target.values[parts.search]
    mean, std = 0.0, 1.0
    if target.classes is None:
        mean, std = float(values[train].mean(dtype=np.float64)), float(values[train].std())
        if not std > 0:
            raise DataError("data.target", "the target is the same in every training row")
    return Split(
        torch.from_numpy(inputs),
        torch.from_numpy(values),
        torch.from_numpy(train),
        torch.from_numpy(validation),
        target_mean=mean,
        target_std=std,
    )


def _read(source: str) -> tuple[pd.DataFrame, str]:
    """The table, and the sha256 of its content."""
    if not Path(source).suffix:
        return _built_in(source)
    path = Path(source).expanduser()
    try:
        with open(path, "rb") as file:
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep=_separator(path), low_memory=False)
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError("data.source", f"{path} cannot be read: {why}") from None
    except UnicodeDecodeError:
        raise DataError("data.source", f"{path} is not UTF-8 text", "save it as UTF-8") from None
    except (ValueError, ArithmeticError, LookupError) as error:  # what pandas and pyarrow raise
        what = "Parquet" if path.suffix.lower() == ".parquet" else "CSV"
        why = " ".join(str(error).split())[:200]
        raise DataError("data.source", f"{path} cannot be read as {what}: {why}") from None
    frame.columns = [str(column) for column in frame.columns]
    if len(frame) == 0:
        raise DataError("data.source", f"{path} has no rows")
    return frame.reset_index(drop=True), fingerprint


def _separator(path: Path) -> str:
    """Comma, semicolon or tab: whichever the first line has most of."""
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline()
    return max(",;\t", key=first.count)


def _built_in(name: str) -> tuple[pd.DataFrame, str]:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame: pd.DataFrame = bunch.frame.copy()
    fingerprint = hashlib.sha256(np.ascontiguousarray(frame.to_numpy(np.float64)).tobytes())
    if "target_names" in bunch:
        frame["target"] = [str(bunch.target_names[number]) for number in frame["target"]]
    return frame, fingerprint.hexdigest()


def _target_name(section: TableData, frame: pd.DataFrame) -> str:
    if section.target is None and not Path(section.source).suffix:
        return "target"
    if section.target is None:
        raise DataError(
            "data.target", "say which column to predict; there are " + _listed(frame.columns)
        )
    _check_column("data.target", section.target, frame)
    return section.target


def _check_column(key: str, name: str, frame: pd.DataFrame) -> None:
    if name not in frame.columns:
        close = get_close_matches(name, list(frame.columns), n=1)
        raise DataError(
            key,
            f"there is no column {name!r}; there are {_listed(frame.columns)}",
            f"did you mean {close[0]!r}?" if close else None,
        )


def _target(column: pd.Series[Any], task: str) -> Target:
    missing = column.index[column.isna()]
    if len(missing):
        raise DataError(
            "data.target",
            f"{len(missing)} rows have no value in {column.name!r}, the first is row {missing[0]}",
            "fill these rows in, or remove them",
        )
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
    names = [str(int(v)) if isinstance(v, np.floating) else str(v) for v in distinct]
    if len(names) < 2:
        raise DataError("data.target", f"every row is of one class, {names[0]!r}")
    if len(names) > MOST_CLASSES:
        raise DataError(
            "data.target",
            f"{column.name!r} has {len(names)} different values, too many for classes",
            "task: regression" if pd.api.types.is_numeric_dtype(column) else None,
        )
    return Target(numbers.astype(np.int64), names)


def _listed(names: Sequence[str] | pd.Index[str], most: int = 20) -> str:
    shown = ", ".join(str(name) for name in list(names)[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} columns)"
