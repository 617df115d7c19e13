"""Tables of trials for people and for scripts: what the ``hpo`` command prints of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hpo.tracking.redact import printable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

WIDE = 100_000  # columns of characters: a pipe has no edge at which to cut
LEAST_REASON = 16  # characters of a reason that are worth a column


def best_first(table: pd.DataFrame, objective: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Complete trials first, each group by the first objective's value, as its goal has it."""
    minimize = objective[0]["goal"] == "minimize"
    ranked = table.assign(_open=table["state"] != "complete")
    ranked = ranked.sort_values(["_open", "value"], ascending=[True, minimize], kind="stable")
    return ranked.drop(columns="_open")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, for JSON: nothing rounded, times as ISO 8601, None where nothing is."""
    rows = _without_na(table).to_dict("records")
    return [{str(column): plain(value) for column, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """As JSON can say it: NaN and infinities have no JSON, so they become None."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value


def number(value: Any) -> str:
    """Four digits of a float; nothing for what is missing."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the columns that a person looks for, as many as there is room for.

    Columns that would not fit are named below instead, so that no row is broken or cut.
    """
    from rich.table import Table

    if table.empty:
        console.print("no trials", style="dim")
        return
    if not console.is_terminal:
        console.width = WIDE
    cells = _cells(table)
    reasons = cells.pop("reason", None)
    fitting, left = {}, console.width
    for title, column in cells.items():
        left -= max(map(len, (title, *column))) + 2
        if left < 0:
            break
        fitting[title] = column
    if reasons and left > LEAST_REASON:
        fitting["reason"] = [_cut(reason, left - 2) for reason in reasons]
    printed = Table(box=None, padding=(0, 1), header_style="bold")
    for title, column in fitting.items():
        words = title in ("state", "reason") or any(c and not _is_number(c) for c in column)
        printed.add_column(title, justify="left" if words else "right", no_wrap=True)
    for row in zip(*fitting.values(), strict=True):
        printed.add_row(*row)
    console.print(printed)
    missing = [title for title in cells if title not in fitting]
    if missing:
        console.print(f" no room for {', '.join(missing)}; --csv has them", style="dim")


def _cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """Title → cells, in the order in which they matter; without columns that are empty."""
    several = [column for column in map(str, table) if column.startswith("value.")]
    params = [column for column in map(str, table) if column.startswith("params.")]
    titles = {"number": "trial", "state": "state"}
    titles |= {column: column.removeprefix("value.") for column in several} or {"value": "value"}
    titles |= {"best_epoch": "epoch", "seconds": "seconds"}
    titles |= {column: column.removeprefix("params.").removeprefix("train.") for column in params}
    titles |= {"reason": "reason"}
    table = _without_na(table)
    found = {
        title: [printable(number(value)) for value in table[column]]
        for column, title in titles.items()
        if column in table
    }
    return {title: column for title, column in found.items() if any(column)}


def _without_na(table: pd.DataFrame) -> pd.DataFrame:
    """Python's own values, and None where pandas has one of its three kinds of nothing."""
    return table.astype(object).where(table.notna(), None)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
