"""Whether one run is better than another, or only larger: tests on the same validation rows.

Accuracies are tested by McNemar's test, the area under the ROC curve by DeLong's and average
precision likewise (`hpo.results.ranking`), everything else by the paired bootstrap, each against
one reference, and corrected for the number of comparisons (Holm). Differences have 95 % intervals
of their own, which are not corrected.

Not covered: how much a run would differ with another seed or split (`hpo.results.differences`
has the spread of repeated runs), and the search's own optimism: a reference that is the best of
many on these very rows looks better than it is; `Comparison.best_of` says of how many.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from hpo.results import intervals
from hpo.results.evaluation import sampled
from hpo.results.intervals import Floats, Z
from hpo.results.predicted import Predicted
from hpo.results.ranking import AREAS, Of, Shares, area_shares
from hpo.results.rows import by_id, is_finite, same_rows_key
from hpo.results.scores import Goal, gives, goal_of, score

if TYPE_CHECKING:
    from hpo.results.tables import StudyTables

ALPHA = 0.05
AREA_TESTS = {"roc_auc": "DeLong", "pr_auc": "jackknife"}
EXACT_BELOW = 25  # discordant rows: fewer, and McNemar's test is the exact one

Verdict = Literal["reference", "better", "worse", "cannot tell", "not comparable"]
Why = Literal["", "rows", "numbers", "metric"]
Kind = Literal["clear", "some", "cannot tell", "beaten", "alone", "nothing"]


@dataclass(frozen=True)
class Wins:
    """On how many rows two classifiers are right."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def table(self) -> list[list[int]]:
        """Rows: a is right, wrong; columns: b is right, wrong."""
        return [[self.both, self.only_a], [self.only_b, self.neither]]


@dataclass(frozen=True)
class Comparison:
    """Runs against one of them.

    Attributes:
        metric: What was compared, and `goal`: which way is better.
        reference: The run that the others are held against; None where no run has the metric.
        best_of: The reference was chosen as the best of so many runs on the very rows of the
            test, so it looks better than it is; None where it was named (see `of_its_study`).
        rows: How many rows the reference was judged on.
        table: In the order of the runs: ``run``; ``value``; ``difference`` to the reference (run −
            reference), ``low``, ``high``; ``p``, ``p_corrected``; ``verdict``: reference, better,
            worse, cannot tell, or not comparable; ``test``; ``why`` it is not comparable: rows
            (other rows, or other targets), numbers (an output that is not a number) or metric
            (not one of its task, or not defined on its rows).
    """

    metric: str
    goal: Goal
    reference: str | None
    best_of: int | None
    rows: int
    table: pd.DataFrame

    def runs(self, verdict: Verdict) -> tuple[str, ...]:
        """The runs with that verdict."""
        return tuple(self.table["run"][self.table["verdict"] == verdict])

    @property
    def kind(self) -> Kind:
        """The whole in a word: the reference is better than all (clear) or some of the others,
        cannot be told from any, is beaten by one, has none to be compared with (alone), or there
        is nothing to compare."""
        if self.reference is None:
            return "nothing"
        worse, unsure = self.runs("worse"), self.runs("cannot tell")
        if self.runs("better"):
            return "beaten"
        if worse:
            return "some" if unsure else "clear"
        return "cannot tell" if unsure else "alone"


@dataclass(frozen=True)
class _Difference:
    """Of a run and the reference: run − reference, its interval, p and the test's name."""

    value: float
    low: float
    high: float
    p: float
    test: str


def wins(a: Predicted, b: Predicted, metric: str = "accuracy") -> Wins:
    """Who is right where, of two classifiers on the same rows (in any order); of several labels
    a row is right if all of them are.

    Args:
        metric: The accuracy that says what is right: one of several, such as ``top5_accuracy``.
    """
    right_a, right_b = (score(p, metric).columns(by_id(p))[:, 0] > 0 for p in (a, b))
    both, only_a = int((right_a & right_b).sum()), int((right_a & ~right_b).sum())
    only_b = int((~right_a & right_b).sum())
    return Wins(both, only_a, only_b, len(right_a) - both - only_a - only_b)


def compare(
    runs: Mapping[str, Predicted],
    metric: str,
    reference: str | None = None,
    of: Of = "macro",
) -> Comparison:
    """Hold runs against one of them.

    Args:
        metric: As `hpo.results.scores` calls it.
        reference: One of the runs; by default the best of the largest group of runs that were
            judged on the same rows.
        of: For areas: of which class, or which average.

    Raises:
        ValueError: There is no such metric.
        KeyError: There is no such reference.
    """
    goal = goal_of(metric)
    ordered = {name: by_id(predicted) for name, predicted in runs.items()}
    judged = {name: _Judged(predicted, metric, of) for name, predicted in ordered.items()}
    valued = {name: run for name, run in judged.items() if not math.isnan(run.value)}
    keys = {name: same_rows_key(run.predicted) for name, run in valued.items()}
    best_of = None
    if reference is None and valued:
        (largest, best_of), *_ = Counter(keys.values()).most_common(1)
        group = {name: run.value for name, run in valued.items() if keys[name] == largest}
        reference = (max if goal == "maximize" else min)(group, key=group.__getitem__)
    if reference is not None and reference not in runs:
        raise KeyError(reference)
    differences = {
        name: _difference(run, valued[reference], metric)
        for name, run in valued.items()
        if reference in valued and name != reference and keys[name] == keys[reference]
    }
    rows = [
        _row(name, run, differences.get(name), name == reference, name in valued)
        for name, run in judged.items()
    ]
    table = _with_verdicts(pd.DataFrame(rows, columns=_COLUMNS), goal)
    count = len(runs[reference].ids) if reference is not None else 0
    return Comparison(metric, goal, reference, best_of, count, table)


def of_its_study(found: Comparison, tables: StudyTables, trial: int) -> Comparison:
    """The same, knowing which trial the reference is: the best trial of a study was chosen among
    all its complete ones, whichever of them are compared."""
    if len(tables.objective) != 1 or tables.best() != trial:
        return found
    return replace(found, best_of=max(found.best_of or 0, len(tables.complete())))


# -- one run, and two

_COLUMNS = ["run", "value", "difference", "low", "high", "p", "test", "verdict", "why"]


class _Judged:
    """A run's value of a metric, and what it takes to compare it with another's.

    Attributes:
        why: It has no value, in that case.
        samples: (RESAMPLES,) the value in each resample; unused for areas.
        shares: Of an area, what each row adds to its error; else None.
    """

    def __init__(self, predicted: Predicted, metric: str, of: Of) -> None:
        self.predicted = predicted
        self.why: Why = "metric" if is_finite(predicted) else "numbers"
        self.value, self.samples = math.nan, np.zeros(0)
        self.shares: Shares | None = None
        if not gives(predicted, metric):
            self.why = "metric"
        elif metric in AREAS:
            self.shares = area_shares(predicted, metric, of)
            self.value = self.shares.value
        else:
            values, samples = sampled(predicted, [metric])
            self.value, self.samples = values[metric], samples[metric]


def _difference(run: _Judged, reference: _Judged, metric: str) -> _Difference:
    if run.shares and reference.shares:
        return _of_areas(run.shares, reference.shares, metric)
    value, rows = run.value - reference.value, len(run.predicted.ids)
    samples = run.samples - reference.samples
    low, high = map(float, intervals.percentiles(samples, rows))
    if score(run.predicted, metric).is_share:
        p, test = mcnemar(wins(run.predicted, reference.predicted, metric))
    else:
        p, test = intervals.p_of(value, samples, rows), "paired bootstrap"
    return _Difference(value, low, high, p, test)


def mcnemar(counts: Wins) -> tuple[float, str]:
    """p that both are right equally often, and the test's name."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    exact = counts.only_a + counts.only_b < EXACT_BELOW
    p = float(test(counts.table, exact=exact, correction=True).pvalue)
    return p, f"McNemar {'exact' if exact else 'chi2'}"


def _of_areas(run: Shares, reference: Shares, metric: str) -> _Difference:
    """Where no row shows a variance (1 against ½), Hanley and McNeil's of two areas between."""
    from scipy.stats import norm

    value = run.value - reference.value
    error = math.sqrt(float(((run.rows - reference.rows) ** 2).sum()))
    if value != 0 and error == 0:
        between = (run.value + reference.value) / 2
        error = math.sqrt(2 * intervals.auc_variance(between, run.positives, run.negatives))
    p = float(2 * norm.sf(abs(value) / error)) if error > 0 else 1.0
    return _Difference(value, value - Z * error, value + Z * error, p, AREA_TESTS[metric])


def holm(p: Floats) -> Floats:
    """Corrected for as many tests as there are numbers; NaN stays.

    Holm (1979). Here and not from statsmodels, whose function collects Python's garbage in each
    call, a tenth of a second in a process as large as the app's.
    """
    corrected = np.full(len(p), math.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    remaining = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * remaining))
    return corrected


def _row(
    name: str, run: _Judged, difference: _Difference | None, is_reference: bool, has_value: bool
) -> tuple[object, ...]:
    nothing = (math.nan,) * 4
    if is_reference and has_value:
        return name, run.value, 0.0, *nothing[:3], "", "reference", ""
    if difference is None:
        why = "rows" if has_value else run.why
        return name, run.value, *nothing, "", "not comparable", why
    d = difference
    return name, run.value, d.value, d.low, d.high, d.p, d.test, "cannot tell", ""


def _with_verdicts(table: pd.DataFrame, goal: Goal) -> pd.DataFrame:
    p = holm(table["p"].to_numpy(np.float64))
    table.insert(6, "p_corrected", p)
    gain = table["difference"] * (1 if goal == "maximize" else -1)
    table.loc[p < ALPHA, "verdict"] = np.where(gain[p < ALPHA] > 0, "better", "worse")
    return table
