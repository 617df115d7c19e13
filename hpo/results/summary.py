"""A study in one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.results.tables import STATES, StudyTables

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = (
    "key",
    "name",
    "state",
    "source",
    *STATES,
    "metric",
    "goal",
    "best_trial",
    "best_value",
    "best_so_far",
    "used",
    "started",
    "updated",
)
SPARKLINE = 60  # points


def unreadable(key: str, source: str, why: str) -> dict[str, Any]:
    """The row of a study that cannot be read."""
    row = dict.fromkeys(SUMMARY) | dict.fromkeys(STATES, 0)
    said = {"key": key, "name": key, "state": "unreadable", "source": source, "metric": why}
    return row | said | {"goal": "", "best_so_far": [], "used": float("nan")}


def summary(tables: StudyTables) -> dict[str, Any]:
    """A row of `hpo.results.Catalog.studies`; times in milliseconds."""
    counts = tables.trials["state"].value_counts()
    best = tables.best() if len(tables.objective) == 1 else None
    values = best_so_far(tables)["best"]
    return {
        "key": tables.key,
        "name": tables.name,
        "state": tables.state,
        "source": tables.source,
        **{state: int(counts.get(state, 0)) for state in STATES},
        "metric": ", ".join(o["metric"] for o in tables.objective),
        "goal": ", ".join(o["goal"] for o in tables.objective),
        "best_trial": best,
        "best_value": float(values.iloc[-1]) if best is not None and len(values) else None,
        "best_so_far": thinned(list(values)),
        "used": used(tables),
        "started": tables.started_ms,
        "updated": tables.updated_ms,
    }


def best_so_far(tables: StudyTables) -> pd.DataFrame:
    """The complete trials in the order in which they ended, and the best up to each: ``trial``,
    ``ended``, ``value``, ``best``.
    """
    done = tables.trials[tables.trials["state"] == "complete"]
    done = done.dropna(subset="value").sort_values("ended", kind="stable")
    found = done[["number", "ended", "value"]].rename(columns={"number": "trial"})
    best = found["value"].cummax() if tables.maximize else found["value"].cummin()
    return found.assign(best=best).reset_index(drop=True)


def used(tables: StudyTables) -> float:
    """The largest share used of any limit of the budget, in [0, 1]; NaN without a limit."""
    budget, trials = tables.budget, tables.trials
    shares = []
    if budget.get("trials"):
        same = trials["reason"].astype("str").str.startswith("same configuration")
        over = trials["state"].isin(("complete", "pruned", "failed", "stopped")) & ~same
        shares.append(over.sum() / budget["trials"])
    if budget.get("epochs"):
        shares.append(len(tables.epochs) / budget["epochs"])
    if budget.get("wall_s"):
        shares.append(busy_s(tables) / budget["wall_s"])
    if budget.get("device_hours"):
        shares.append(trials["seconds"].sum() / 3600 / budget["device_hours"])
    return float(min(1.0, max(shares))) if shares else float("nan")


def thinned(values: list[float]) -> list[float]:
    """At most `SPARKLINE` of them, evenly, the last included."""
    if len(values) <= SPARKLINE:
        return values
    step = (len(values) - 1) / (SPARKLINE - 1)
    return [values[round(index * step)] for index in range(SPARKLINE)]


def busy_s(tables: StudyTables) -> float:
    """Seconds in which any worker trained, over all sessions."""
    spans = tables.spans.sort_values("start_ms")
    if spans.empty:
        return 0.0
    ends = spans["end_ms"].fillna(tables.updated_ms)
    reached = ends.cummax().shift(fill_value=0)
    return float((ends - spans["start_ms"].clip(lower=reached)).clip(lower=0).sum() / 1000)
