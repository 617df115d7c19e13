"""The epochs of a study as columns: a row for each trial and epoch, a column for each metric."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

HEAD = ("trial", "epoch", "time_ms", "seconds")
Head = tuple[int, int, int, int, float]  # place in the order, trial, epoch, time_ms, seconds


@dataclass
class _Block:
    """Rows that report the same metrics, so that they need no names of their own."""

    heads: list[Head] = field(default_factory=list)
    values: list[tuple[float, ...]] = field(default_factory=list)


class EpochColumns:
    """Grows by rows, read as a table; what was read before is not made anew."""

    def __init__(self, start: pd.DataFrame | None = None) -> None:
        self._table = start
        self._fresh: dict[tuple[str, ...], _Block] = {}
        self._rows = 0

    def add(
        self, trial: int, epoch: int, time_ms: int, seconds: float, metrics: Mapping[str, float]
    ) -> None:
        """Append a row; `seconds` is what the epoch took."""
        names = tuple(metrics)
        block = self._fresh.get(names)
        if block is None:
            block = self._fresh[names] = _Block()
        block.heads.append((self._rows, trial, epoch, time_ms, seconds))
        block.values.append(tuple(metrics.values()))
        self._rows += 1

    def drop(self, trials: Collection[int]) -> None:
        """Forget the rows of these trials."""
        table = self.table()
        self._table = table[~table["trial"].isin(list(trials))].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """``trial`` and ``epoch`` (int32), ``time_ms`` (int64), ``seconds`` (float32), then a
        float64 column for each metric, NaN where it was not reported. In the order of `add`.
        """
        if self._table is not None and not self._fresh:
            return self._table
        import numpy as np
        import pandas as pd

        blocks = [_frame(names, block) for names, block in self._fresh.items()] or [
            _frame((), _Block())
        ]
        fresh = pd.concat(blocks, ignore_index=True) if len(blocks) > 1 else blocks[0]
        if len(blocks) > 1:
            places = [head[0] for block in self._fresh.values() for head in block.heads]
            fresh = fresh.iloc[np.argsort(places)].reset_index(drop=True)
        if self._table is None or self._table.empty:
            self._table = fresh
        else:
            self._table = pd.concat([self._table, fresh], ignore_index=True)
        self._fresh = {}
        return self._table


def at(table: pd.DataFrame, trials: NDArray[np.int64], epochs: NDArray[np.int64]) -> pd.DataFrame:
    """The rows of given trials and epochs, in that order; all NaN where there is no such row."""
    import numpy as np

    key = table["trial"].to_numpy().astype(np.int64) << 32 | table["epoch"].to_numpy()
    order = np.argsort(key, kind="stable")
    wanted = trials << 32 | epochs
    place = np.searchsorted(key, wanted, sorter=order)
    place[place == len(order)] = 0
    row = order[place] if len(order) else np.full(len(wanted), -1)
    if len(order):
        row = np.where(key[row] == wanted, row, -1)
    return table.reindex(row)


def _frame(names: tuple[str, ...], block: _Block) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    rows = len(block.heads)
    _, trial, epoch, time_ms, seconds = zip(*block.heads, strict=True) if rows else ((),) * 5
    columns = {
        "trial": np.array(trial, np.int32),
        "epoch": np.array(epoch, np.int32),
        "time_ms": np.array(time_ms, np.int64),
        "seconds": np.array(seconds, np.float32),
    }
    values = np.array(block.values, np.float64).reshape(rows, len(names))
    return pd.DataFrame(columns | dict(zip(names, values.T, strict=True)))
