"""What is odd about a table's columns: missing values, no differences, giving the answer away.

What they tell of the target is looked for in rows outside the test split only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trainers.data.splits import Rows

SAME = 0.9999  # correlation with the target, from which a column is the target in other units
LOOKED_AT = 1000  # rows that tell most columns with too many values for a class each


def report(frame: pd.DataFrame, searched: Rows, target: NDArray[Any]) -> dict[str, Any]:
    """What is odd about the columns of a table, as JSON has it.

    Args:
        frame: Those that a model may see, of all rows.
        searched: The rows outside the test split.
        target: (N,) int64 classes or float32 values; of another shape: not looked at.

    Returns:
        ``missing``: column → rows without a value. ``constant``: columns with one value only.
        ``suspicious``: column → why; those that say the target, or identify the row.
    """
    missing = frame.isna().sum()
    seen = frame.iloc[searched]
    constant = [name for name in frame.columns if _is_constant(seen[name])]
    suspicious = {
        name: why
        for name in frame.columns
        if name not in constant and (why := _suspicion(seen[name], target[searched]))
    }
    return {
        "missing": {str(name): int(count) for name, count in missing[missing > 0].items()},
        "constant": constant,
        "suspicious": suspicious,
    }


def _is_constant(column: pd.Series[Any]) -> bool:
    some = column.head(LOOKED_AT)
    return some.nunique(dropna=False) < 2 and column.nunique(dropna=False) < 2


def _suspicion(column: pd.Series[Any], target: NDArray[Any]) -> str | None:
    """Why a column should perhaps not be learned from."""
    kind = column.to_numpy().dtype.kind
    if target.ndim == 1 and _says(column, target):
        return "says the target"
    if kind not in "iuOUT" or isinstance(column.dtype, pd.CategoricalDtype):
        return None
    if column.head(LOOKED_AT).astype(str).duplicated().any() or not column.is_unique:
        return None
    if kind in "iu" and int(column.max()) - int(column.min()) >= 2 * len(column):
        return None  # a measurement may well be another one in each row
    return "is another one in each row"


def _says(column: pd.Series[Any], target: NDArray[Any]) -> bool:
    """Whether it has one value a class; or goes along with the target, if that is a number."""
    if target.dtype.kind == "f":
        if not pd.api.types.is_numeric_dtype(column):
            return False
        values = column.to_numpy(np.float64, na_value=np.nan)
        there = np.isfinite(values)
        values, wanted = values[there], target[there].astype(np.float64)
        if len(values) < 3 or not values.std() > 0 or not wanted.std() > 0:
            return False
        return bool(abs(np.corrcoef(values, wanted)[0, 1]) > SAME)
    classes = len(np.unique(target))
    if len(pd.unique(column.head(LOOKED_AT).astype(str))) > classes:
        return False
    values, distinct = pd.factorize(column.astype(str))
    pairs = np.unique(values * (int(target.max()) + 1) + target)
    return len(distinct) == classes == len(pairs)
