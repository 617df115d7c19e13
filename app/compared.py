"""The runs that are compared, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import address
from app.charts.curves import in_order
from app.parts import catalog, made_of_run
from hpo.results import UserError
from hpo.results.predicted import Predicted
from hpo.results.scores import metric_or_first, names_of
from hpo.results.tables import StudyTables

KEPT = "compared"  # the last one of a visitor
TWIN = "same configuration as trial"  # begins the reason of a trial that was not trained


@dataclass(frozen=True)
class Compared:
    """Runs and their studies.

    Attributes:
        names: ``STUDY/NUMBER`` of each run, in the order of the address.
        runs: The same as (study, trial).
        studies: By key.
        missing: Runs in the address that are not (any more) there.
        version: Names all of this, see `app.parts.made`: the runs, then each study's state.
    """

    names: tuple[str, ...]
    runs: tuple[address.Run, ...]
    studies: Mapping[str, StudyTables]
    missing: tuple[str, ...]
    version: tuple[Any, ...]

    @cached_property
    def predicted(self) -> Mapping[str, Predicted]:
        """Run → what it said of the validation split, of those that kept it."""
        found = {
            name: predictions_of(self.studies[key], trial)
            for name, (key, trial) in zip(self.names, self.runs, strict=True)
        }
        return {name: predicted for name, predicted in found.items() if predicted is not None}

    @property
    def objective(self) -> Mapping[str, str]:
        """The first objective of the first run's study."""
        return self.studies[self.runs[0][0]].objective[0]

    def trials(self) -> pd.DataFrame:
        """A row for each run, labelled by its name: what `StudyTables.trials` says of it."""
        parts = []
        for key, tables in self.studies.items():
            mine = [trial for study, trial in self.runs if study == key]
            part = tables.trials[tables.trials["number"].isin(mine)]
            parts.append(part.set_axis([f"{key}/{n}" for n in part["number"]], axis=0))
        return pd.concat(parts).loc[list(self.names)]

    def epochs(self) -> pd.DataFrame:
        """The epochs of all runs, with ``run`` and ``samples`` (seen so far), in order."""
        parts = []
        for key, tables in self.studies.items():
            mine = [trial for study, trial in self.runs if study == key]
            part = tables.epochs[tables.epochs["trial"].isin(mine)]
            part = part.assign(run=f"{key}/" + part["trial"].astype("str"))
            rows = tables.dataset.get("train")
            parts.append(part.assign(samples=part["epoch"] * rows) if rows else part)
        return in_order(pd.concat(parts, ignore_index=True))

    def repeats(self) -> pd.DataFrame:
        """What `hpo.results.differences.spread` takes: the complete runs with the first run's
        objective, their settings as columns, and ``value``. Trials that were not trained, because
        another had the same configuration, are not among them.
        """
        trials, configs = self.trials(), self.configs()
        rows = {}
        for name, (key, _) in zip(self.names, self.runs, strict=True):
            trial, tables = trials.loc[name].to_dict(), self.studies[key]
            if (
                trial["state"] == "complete"
                and not str(trial["reason"]).startswith(TWIN)
                and list(tables.objective[:1]) == [self.objective]
            ):
                settings = {f"params.{path}": value for path, value in configs[name].items()}
                data = {"params.data.fingerprint": tables.dataset.get("fingerprint")}
                rows[name] = settings | data | {"value": trial["value"]}
        columns = dict.fromkeys(column for row in rows.values() for column in row)
        return pd.DataFrame(
            {c: pd.Series([r.get(c) for r in rows.values()], rows, object) for c in columns}
            or {"value": pd.Series(dtype="float64")}
        )

    def configs(self) -> dict[str, Mapping[str, Any]]:
        """Every setting of each run."""
        return {
            name: self.studies[key].configs.get(trial, {})
            for name, (key, trial) in zip(self.names, self.runs, strict=True)
        }


def compared(runs: Sequence[address.Run]) -> Compared | None:
    """Gather them; None if there is not one. The same object as long as nothing has changed."""
    studies: dict[str, StudyTables] = {}
    there: list[address.Run] = []
    missing: list[address.Run] = []
    for key in dict.fromkeys(key for key, _ in runs):
        try:
            studies[key] = catalog().study(key)
        except Exception:  # unknown, or whatever MLflow raises: its runs are missing
            continue
    numbers = {key: set(tables.trials["number"]) for key, tables in studies.items()}
    for run in runs:
        (there if run[1] in numbers.get(run[0], ()) else missing).append(run)
    if not there:
        return None
    studies = {key: studies[key] for key in dict.fromkeys(key for key, _ in there)}
    version = (address.join(there), *((t.source, t.key, t.version) for t in studies.values()))
    found = Compared(
        names=tuple(map(address.name, there)),
        runs=tuple(there),
        studies=studies,
        missing=tuple(map(address.name, missing)),
        version=version,
    )
    before: Compared | None = st.session_state.get(KEPT)
    if before is not None and (before.version, before.missing) == (version, found.missing):
        return before  # with the predictions that it has found
    st.session_state[KEPT] = found
    return found


def predictions(found: Compared) -> dict[str, Predicted]:
    """Run → what it said of the validation split, of those that kept it and are not `unlike`."""
    return _by_kind(found)[0]


def metrics(found: Compared) -> list[str]:
    """What can be computed of the `predictions`: the objective first, or what is nearest to it."""
    one = next(iter(predictions(found).values()))
    first = metric_or_first(found.objective["metric"], one)
    return [first, *(name for name in names_of(one) if name != first)]


def unlike(found: Compared) -> tuple[str, ...]:
    """The runs that predict something else than the first: another task, or other classes."""
    return _by_kind(found)[1]


def _by_kind(found: Compared) -> tuple[dict[str, Predicted], tuple[str, ...]]:
    kept = found.predicted
    first = next(iter(kept.values()), None)
    alike = {n: p for n, p in kept.items() if first is not None and _are_alike(first, p)}
    return alike, tuple(name for name in kept if name not in alike)


def _are_alike(a: Predicted, b: Predicted) -> bool:
    """Whether they can be drawn together: the same task, and the same classes as far as known."""
    if (a.output.shape[1:], a.target.shape[1:]) != (b.output.shape[1:], b.target.shape[1:]):
        return False
    return not (a.classes and b.classes) or a.classes == b.classes


def predictions_of(tables: StudyTables, trial: int) -> Predicted | None:
    """A trial's predictions, if they can be read; while it trains they may change."""
    place = int(np.searchsorted(tables.trials["number"].to_numpy(np.int64), trial))
    ended = tables.trials["ended"].iloc[place].value
    try:
        return made_of_run(
            lambda: catalog().predicted(tables.key, trial),
            *("predictions", tables.source, tables.key, trial, ended),
        )
    except UserError:  # not kept, so that it is tried again
        return None
