"""Columns of a table into numbers, by what the training rows hold.

Numbers: what is missing gets the median and, if training rows miss it too, a column that says so;
then mean 0 and standard deviation 1. Categories: a column each for the most frequent ones, one for
the rarer ones together, one for missing. A category that no training row has is 0 in all of them.
Columns that are the same in every training row are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trainers.contract import DataError

Column = NDArray[np.float64]

MOST_CATEGORIES = 64  # with a column of their own
FARTHEST = 1e6  # standard deviations from the mean: keeps float32, and a loss, finite


@dataclass(frozen=True)
class NumberColumn:
    """How a column of numbers is encoded."""

    name: str
    median: float
    mean: float
    std: float
    says_missing: bool

    @classmethod
    def fit(cls, name: str, values: Column) -> NumberColumn | None:
        """None if there is nothing to learn from it."""
        missing = np.isnan(values)
        if missing.all():
            return None
        median = float(np.median(values[~missing]))
        filled = np.where(missing, median, values)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = float(filled.mean()), float(filled.std())
        if not np.isfinite(mean + std):  # numbers near 1e308
            raise DataError("data.source", f"the numbers of column {name!r} are too large")
        if std == 0 and not missing.any():
            return None
        return cls(name, median, mean, std if std > 0 else 1.0, bool(missing.any()))

    @property
    def typical(self) -> float:
        """A value that it may have."""
        return self.median

    def encode(self, column: pd.Series[Any]) -> list[Column]:
        values = numbers(column)
        missing = np.isnan(values)
        filled = np.where(missing, self.median, values)
        with np.errstate(over="ignore"):
            scaled = ((filled - self.mean) / self.std).clip(-FARTHEST, FARTHEST)
        return [scaled, missing.astype(np.float64)] if self.says_missing else [scaled]


@dataclass(frozen=True)
class CategoryColumn:
    """How a column of categories is encoded."""

    name: str
    categories: tuple[str, ...]
    rare: frozenset[str]
    says_missing: bool

    @classmethod
    def fit(cls, name: str, column: pd.Series[Any]) -> CategoryColumn | None:
        """None if there is nothing to learn from it."""
        says_missing = bool(column.isna().any())
        counts = column.dropna().astype(str).value_counts()
        # By frequency, then by name: value_counts leaves the order of equals open.
        ordered = sorted(counts.index, key=lambda category: (-counts[category], category))
        if len(ordered) + says_missing < 2:
            return None
        frequent, rare = ordered[:MOST_CATEGORIES], ordered[MOST_CATEGORIES:]
        return cls(name, tuple(frequent), frozenset(rare), says_missing)

    @property
    def typical(self) -> str | None:
        """A value that it may have."""
        return next(iter(self.categories), None)

    def encode(self, column: pd.Series[Any]) -> list[Column]:
        missing = column.isna().to_numpy()
        text = column.astype(str).where(~missing).to_numpy(object)
        codes = pd.Index(self.categories, dtype=object).get_indexer(pd.Index(text, dtype=object))
        encoded = [(codes == code).astype(np.float64) for code in range(len(self.categories))]
        if self.rare:
            encoded.append(np.array([value in self.rare for value in text], np.float64))
        if self.says_missing:
            encoded.append(missing.astype(np.float64))
        return encoded


@dataclass(frozen=True)
class Encoding:
    """How a table is encoded, column by column."""

    columns: tuple[NumberColumn | CategoryColumn, ...]

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> Encoding:
        """Learn the encoding of training rows.

        Raises:
            DataError: Every column is the same in all rows.
        """
        columns: list[NumberColumn | CategoryColumn] = []
        for name in frame.columns:
            column = frame[name]
            fitted = (
                NumberColumn.fit(name, numbers(column))
                if is_number(column)
                else CategoryColumn.fit(name, column)
            )
            columns += [fitted] if fitted is not None else []
        if not columns:
            raise DataError("data.source", "every column is the same in all training rows")
        return cls(tuple(columns))

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """(rows, F) float32.

        Args:
            frame: With every column of the encoding, in any order; others are not looked at.
        """
        parts = [part for column in self.columns for part in column.encode(frame[column.name])]
        return np.stack(parts, axis=1).astype(np.float32)

    @property
    def text_columns(self) -> list[str]:
        """The columns of categories: what a file says there is to be read as text."""
        return [column.name for column in self.columns if isinstance(column, CategoryColumn)]

    def plain(self) -> list[dict[str, Any]]:
        """As numbers, strings, lists and dicts, of which `of` makes it again."""
        return [asdict(column) | _lists(column) for column in self.columns]

    @classmethod
    def of(cls, plain: Sequence[Mapping[str, Any]]) -> Encoding:
        """The encoding of what `plain` returned."""
        columns: list[NumberColumn | CategoryColumn] = []
        for column in plain:
            if "categories" in column:
                columns.append(
                    CategoryColumn(
                        column["name"],
                        tuple(column["categories"]),
                        frozenset(column["rare"]),
                        column["says_missing"],
                    )
                )
            else:
                columns.append(NumberColumn(**column))
        return cls(tuple(columns))


def _lists(column: NumberColumn | CategoryColumn) -> dict[str, list[str]]:
    """What of it JSON has no form for, as lists."""
    if isinstance(column, NumberColumn):
        return {}
    return {"categories": list(column.categories), "rare": sorted(column.rare)}


def is_number(column: pd.Series[Any]) -> bool:
    """Whether every value that is there is a number, true, false or a date."""
    types = pd.api.types
    if types.is_numeric_dtype(column) or types.is_datetime64_any_dtype(column):
        return True
    if types.is_timedelta64_dtype(column) or _holds_dates(column):
        return True
    present = column.dropna()
    if len(present) == 0 or isinstance(column.dtype, pd.CategoricalDtype):
        return len(present) == 0
    return not np.isnan(numbers(present)).any()


def _holds_dates(column: pd.Series[Any]) -> bool:
    """Whether it holds dates without a time, as Parquet has them."""
    return column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) == "date"


def numbers(column: pd.Series[Any]) -> Column:
    """Values as float64; NaN for what is missing, infinite or no number. Dates in seconds."""
    types = pd.api.types
    if _holds_dates(column):
        column = pd.to_datetime(column)
    if types.is_datetime64_any_dtype(column):
        seconds = (column.dt.tz_localize(None) if column.dt.tz else column) - pd.Timestamp(0)
        values = seconds.dt.total_seconds().to_numpy(np.float64, na_value=np.nan)
    elif types.is_timedelta64_dtype(column):
        values = column.dt.total_seconds().to_numpy(np.float64, na_value=np.nan)
    elif types.is_numeric_dtype(column):  # true and false too
        values = column.to_numpy(np.float64, na_value=np.nan)
    else:
        as_numbers = column.map({True: 1.0, False: 0.0, "True": 1.0, "False": 0.0}).astype(object)
        text = column.where(as_numbers.isna(), as_numbers)
        values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)
