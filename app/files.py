"""Files that a page offers."""

from __future__ import annotations

import pandas as pd
from pandas.api.types import is_object_dtype

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv(table: pd.DataFrame) -> str:
    """A table as CSV that a spreadsheet may open.

    Names in it can be anybody's, and a spreadsheet runs a text that begins like a formula: such a
    text has an apostrophe before it. Numbers are as they are.
    """
    shown = table.rename(columns=_inert)
    for at, kind in enumerate(shown.dtypes):
        if isinstance(kind, pd.CategoricalDtype | pd.StringDtype) or is_object_dtype(kind):
            texts = shown.iloc[:, at].map(_inert, na_action="ignore")
            shown.isetitem(at, texts.to_numpy(object))
    return str(shown.to_csv(index=False))


def _inert(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
