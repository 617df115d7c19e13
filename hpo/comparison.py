"""Runs side by side: which ones are meant, what is known of each, and whether they differ.

A run is written ``STUDY/NUMBER``. Everything comes from `hpo.results`; `hpo.comparison_words`
prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hpo import results
from hpo.errors import UserError
from hpo.tables import records

if TYPE_CHECKING:
    import pandas as pd

    from hpo.results import Predicted, StudyTables
    from hpo.results.catalog import Catalog
    from hpo.results.significance import Comparison


@dataclass(frozen=True)
class Run:
    """One of the runs that are compared.

    Attributes:
        trial: Its row of `hpo.results.trials`.
        predicted: None where its trainer reported no predictions.
        trouble: Why there are none that it did report, else None.
    """

    name: str
    study: StudyTables
    trial: Mapping[str, Any]
    predicted: Predicted | None
    trouble: str | None = None

    @property
    def number(self) -> int:
        return int(self.trial["number"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything it was trained with, by path."""
        return self.study.configs.get(self.number, {})

    @property
    def recorded(self) -> dict[str, float]:
        """The metrics at its best epoch, as its trainer reported them; the objective's first."""
        names = [o["metric"] for o in self.study.objective] + self.study.metrics
        found = {name: self.trial.get(name) for name in names}
        return {name: float(value) for name, value in found.items() if value == value is not None}

    @cached_property
    def measured(self) -> pd.DataFrame | None:
        """Metrics with intervals, from its predictions: see `hpo.results.evaluation.metrics`.
        Those that its trainer recorded of the validation rows are among them."""
        from hpo.results.evaluation import metrics
        from hpo.results.scores import gives

        if (said := self.predicted) is None:
            return None
        recorded = [name.removeprefix("val/") for name in self.recorded]
        return metrics(said, [name for name in recorded if gives(said, name)])


def studies_in(names: Sequence[str]) -> set[str]:
    """The studies of runs that are written as `find_runs` takes them."""
    found: list[str] = []
    for text in names:
        found.append(_parsed(text, found[-1] if found else None)[0])
    return set(found)


def find_runs(
    names: Sequence[str], catalog: Catalog, say: Callable[[str], None] = lambda text: None
) -> list[Run]:
    """The runs that are meant.

    Args:
        names: ``STUDY/NUMBER``; ``STUDY`` for its best trial; ``NUMBER`` in the study named
            before it. ``STUDY`` is a key of the catalogue, or a study file.
        say: Told what takes long.

    Raises:
        UnknownStudy: There is no such study.
        UserError: There is no such run, or there are fewer than two.
        HpoError: MLflow, where a study may be, cannot be read.
    """
    from hpo.results.whole import whole

    studies: dict[str, StudyTables] = {}
    found: dict[str, Run] = {}
    before: str | None = None
    for text in names:
        before, number = _parsed(text, before)
        if before not in studies:
            studies[before] = whole(catalog, before, say)
        run = _run(studies[before], number, catalog)
        found.setdefault(run.name, run)
    if len(found) < 2:
        raise UserError(
            f"only {next(iter(found), 'nothing')} to compare; name two runs or more, "
            "e.g. hpo compare quickstart/38 12"
        )
    return list(found.values())


def compared(runs: Sequence[Run], metric: str | None) -> Comparison | None:
    """The runs that have predictions against the best of them; None if fewer than two have.

    Args:
        metric: As a trainer or `hpo.results.scores` calls it; the first run's objective by
            default, or what is nearest to it.

    Raises:
        UserError: Predictions do not give that metric.
    """
    from hpo.results.scores import asked_metric
    from hpo.results.significance import compare, of_its_study

    judged = {run.name: run.predicted for run in runs if run.predicted is not None}
    if len(judged) < 2:
        return None
    objective, first = runs[0].study.objective[0]["metric"], next(iter(judged.values()))
    found = compare(judged, asked_metric(metric, objective, first))
    reference = next((run for run in runs if run.name == found.reference), None)
    return of_its_study(found, reference.study, reference.number) if reference else found


def differing_settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which the runs differ: path → a value for each run, None: it has none."""
    from hpo.results.differences import differing

    table = differing({run.name: run.settings for run in runs})
    return {str(path): list(row) for path, row in zip(table.index, table.to_numpy(), strict=True)}


def as_json(runs: Sequence[Run], comparison: Comparison | None) -> dict[str, Any]:
    """What ``hpo compare --json`` prints."""
    return {
        "runs": [
            {
                "run": run.name,
                "state": run.trial["state"],
                "metrics": run.recorded,
                "trouble": run.trouble,
                "measured": None if run.measured is None else records(run.measured),
            }
            for run in runs
        ],
        "differing": {
            path: {run.name: value for run, value in zip(runs, values, strict=True)}
            for path, values in differing_settings(runs).items()
        },
        "comparison": comparison
        and {
            "metric": comparison.metric,
            "goal": comparison.goal,
            "reference": comparison.reference,
            "best_of": comparison.best_of,
            "rows": comparison.rows,
            "kind": comparison.kind,
            "runs": records(comparison.table),
        },
    }


def _parsed(text: str, before: str | None) -> tuple[str, int | None]:
    """The study's name and the trial's number; None for its best."""
    study, slash, number = text.rpartition("/")
    if slash and number.isdecimal():
        return results.name_of(study), int(number)
    if text.isdecimal() and before is not None:
        return before, int(text)
    return results.name_of(text), None


def _run(study: StudyTables, number: int | None, catalog: Catalog) -> Run:
    if number is None:
        number = _best(study)
    rows = study.trials[study.trials["number"] == number]
    if rows.empty:
        there = f"0 to {study.trials['number'].max()}" if len(study.trials) else "none"
        raise UserError(f"study '{study.name}' has no trial {number}; there are {there}")
    trial = {str(column): value for column, value in rows.iloc[0].items()}
    predicted, trouble = None, None
    try:
        predicted = catalog.predicted(study.key, number)
    except UserError as error:
        trouble = str(error)
    return Run(f"{study.key}/{number}", study, trial, predicted, trouble)


def _best(study: StudyTables) -> int:
    if len(study.objective) > 1:
        raise UserError(
            f"study '{study.name}' has several objectives, so no best trial: "
            f"name one, e.g. {study.name}/0"
        )
    best = study.best()
    if best is None:
        raise UserError(f"study '{study.name}' has no complete trial yet")
    return best
