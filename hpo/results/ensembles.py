"""Ensembles over a study's trials, as `hpo ensemble` recorded them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "ensemble": "Int64",
    "time": "datetime64[ms, UTC]",
    "method": "str",
    "calibrated": "bool",
    "members": "object",
    "metric": "str",
    "goal": "str",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "best_in_fold": "float64",
    "gain": "float64",
    "gain_low": "float64",
    "gain_high": "float64",
    "p": "float64",
    "verdict": "str",
    "run_id": "str",
}


def table(records: Iterable[Mapping[str, Any]], runs: Mapping[int, str]) -> pd.DataFrame:
    """A row for each: see `hpo.results.ensembles`.

    Args:
        runs: Ensemble → MLflow run id, as far as they are known.
    """
    import pandas as pd

    rows = []
    for record in records:
        best = record["against"][0]
        rows.append(
            {
                **{name: record[name] for name in ("ensemble", "method", "calibrated")},
                **{name: record[name] for name in ("metric", "goal")},
                **record["estimate"],
                **{name: best[name] for name in ("gain_low", "gain_high", "p", "verdict")},
                "time": pd.to_datetime(record["time_ms"], unit="ms", utc=True),
                "members": tuple(member["trial"] for member in record["members"]),
                "best_in_fold": best["value"],
                "gain": best["difference"],
                "run_id": runs.get(record["ensemble"]),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
