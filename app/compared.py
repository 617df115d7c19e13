"""The runs that are compared, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from app import address
from app.parts import catalog, made
from hpo.results import UserError
from hpo.results.predicted import Predicted
from hpo.results.tables import StudyTables


@dataclass(frozen=True)
class Compared:
    """Runs and their studies.

    Attributes:
        names: ``STUDY/NUMBER`` of each run, in the order of the address.
        runs: The same as (study, trial).
        studies: By key.
        missing: Runs in the address that are not (any more) there.
        version: Names all of this; see `app.parts.made`.
    """

    names: tuple[str, ...]
    runs: tuple[address.Run, ...]
    studies: Mapping[str, StudyTables]
    missing: tuple[str, ...]
    version: tuple[Any, ...]

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
        """The epochs of all runs, with ``run`` and ``samples`` (seen so far)."""
        parts = []
        for key, tables in self.studies.items():
            mine = [trial for study, trial in self.runs if study == key]
            part = tables.epochs[tables.epochs["trial"].isin(mine)]
            part = part.assign(run=f"{key}/" + part["trial"].astype("str"))
            rows = tables.dataset.get("train")
            parts.append(part.assign(samples=part["epoch"] * rows) if rows else part)
        return pd.concat(parts, ignore_index=True)

    def configs(self) -> dict[str, Mapping[str, Any]]:
        """Every setting of each run."""
        return {
            name: self.studies[key].configs.get(trial, {})
            for name, (key, trial) in zip(self.names, self.runs, strict=True)
        }


def compared(runs: Sequence[address.Run]) -> Compared | None:
    """Gather them; None if there is not one."""
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
    version = (*there, *((t.source, t.key, t.version) for t in studies.values()))
    return Compared(
        names=tuple(map(address.name, there)),
        runs=tuple(there),
        studies=studies,
        missing=tuple(map(address.name, missing)),
        version=version,
    )


def predictions(found: Compared) -> dict[str, Predicted]:
    """Run → what it said of the validation split, of those that kept it."""
    kept = {
        name: predicted
        for name, run in zip(found.names, found.runs, strict=True)
        if (predicted := predictions_of(found.studies[run[0]], run[1])) is not None
    }
    kinds = [p.is_classification for p in kept.values()]
    return {n: p for n, p in kept.items() if p.is_classification == kinds[0]}


def predictions_of(tables: StudyTables, trial: int) -> Predicted | None:
    """A trial's predictions, if they can be read; while it trains they may change."""
    row = tables.trials[tables.trials["number"] == trial].iloc[0]
    ended = None if pd.isna(row["ended"]) else row["ended"].value
    try:
        return made(
            lambda: catalog().predicted(tables.key, trial),
            *("predictions", tables.source, tables.key, trial, ended),
        )
    except UserError:  # not kept, so that it is tried again
        return None
