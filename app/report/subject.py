"""What a report is about: a study, and its best trials, which are looked at closely."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from app.charts.fronts import front_table
from hpo.results import advice, evaluation, significance
from hpo.results.intervals import Estimate
from hpo.results.predicted import Predicted
from hpo.results.scores import metric_of, metric_or_first, task_of
from hpo.results.tables import StudyTables


@dataclass(frozen=True)
class Subject:
    """A study at one moment.

    Attributes:
        best: The trials that are looked at closely, the best first; with several objectives,
            those of the front. Empty before the first complete one.
        predicted: Of these, what they said of the validation split, as far as they kept it: run
            (``STUDY/NUMBER``) → predictions, all of the same task.
        packages: The versions of packages, a line each.
    """

    tables: StudyTables
    best: tuple[int, ...]
    predicted: Mapping[str, Predicted]
    packages: str

    @property
    def several(self) -> bool:
        """Whether there are several objectives, and so no one best trial."""
        return len(self.tables.objective) > 1

    @property
    def metric(self) -> str:
        """The first objective."""
        return self.tables.objective[0]["metric"] if self.tables.objective else "value"

    def name(self, trial: int) -> str:
        """As runs are called."""
        return f"{self.tables.key}/{trial}"

    @functools.cached_property
    def complete(self) -> pd.DataFrame:
        """The complete trials, the best first."""
        return self.tables.complete()

    @functools.cached_property
    def importances(self) -> advice.Importances | None:
        """See `hpo.results.advice`."""
        return advice.importances(self.tables)

    @functools.cached_property
    def suggestions(self) -> list[advice.Advice]:
        """What to try next."""
        return advice.advice(self.tables, self.importances, self.said_by_best)

    @property
    def said_by_best(self) -> Predicted | None:
        """The best trial's predictions, if it kept them."""
        return self.predicted.get(self.name(self.best[0])) if self.best else None

    @functools.cached_property
    def measured(self) -> Mapping[str, Estimate]:
        """The best trial's metrics as its predictions give them: the standard ones, and those
        that its trainer recorded; empty without any."""
        best = self.said_by_best
        if best is None:
            return {}
        recorded = [metric_of(name, best) for name in self.tables.metrics]
        further = [name for name in recorded if name is not None]
        table = evaluation.metrics(best, further).dropna(subset="value").set_index("metric")
        numbers = table[["value", "low", "high"]].to_numpy(np.float64)
        return {str(name): Estimate(*row) for name, row in zip(table.index, numbers, strict=True)}

    @functools.cached_property
    def comparison(self) -> significance.Comparison | None:
        """The best trial against the next ones; None where it, or all of these, kept no
        predictions that can be judged."""
        names = [self.name(trial) for trial in self.best]
        if self.several or len(self.predicted) < 2 or names[0] not in self.predicted:
            return None
        metric = metric_or_first(self.metric, self.predicted[names[0]])
        found = significance.compare(self.predicted, metric, names[0])
        if math.isnan(found.table["value"].iloc[0]):
            return None
        return significance.of_its_study(found, self.tables, self.best[0])


def subject(
    tables: StudyTables,
    best: int,
    predicted: Callable[[int], Predicted | None],
    packages: str | None = None,
) -> Subject:
    """Choose the trials and fetch what they said.

    Args:
        best: How many trials.
        predicted: Trial → its predictions, if it kept them.
        packages: Versions of packages, for when the tables do not have them.
    """
    chosen = _best(tables, best)
    found = {f"{tables.key}/{trial}": predicted(trial) for trial in chosen}
    kept = {run: said for run, said in found.items() if said is not None}
    tasks = [task_of(said) for said in kept.values()]
    known: Mapping[str, str] = tables.provenance.get("packages") or {}
    return Subject(
        tables,
        chosen,
        {run: said for run, said in kept.items() if task_of(said) == tasks[0]},
        "\n".join(f"{name}=={version}" for name, version in sorted(known.items()))
        or (packages or ""),
    )


def _best(tables: StudyTables, count: int) -> tuple[int, ...]:
    done = tables.complete().dropna(subset="value")
    if len(tables.objective) > 1:
        table = front_table(tables.trials, tables.objective)
        done = done[done["number"].isin(table["number"][table["front"]])]
    return tuple(int(number) for number in done["number"].head(count))
