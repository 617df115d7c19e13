"""What outputs that were made fold by fold are worth, and whether one is better than another.

Metrics are of all rows together. Areas under curves are of each fold, averaged: another
model made each fold's scores, and these are not on one scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hpo.ensemble.criterion import Singles
from hpo.ensemble.library import FOLDS, Library
from hpo.results.evaluation import measured
from hpo.results.intervals import Floats, Z, within_0_1
from hpo.results.ranking import AREAS, area_shares
from hpo.results.significance import ALPHA, AREA_TESTS, compare
from hpo.tables import records

Facts = dict[str, Any]


def estimate(library: Library, output: Singles) -> Facts:
    """``value``, ``low`` and ``high`` of the metric; NaN where it cannot be said."""
    if library.metric in AREAS:
        value, shares = _area(library, output)
        found = within_0_1(value, _error(shares))
    else:
        found = measured(library.predicted(output), [library.metric])[library.metric]
    return {"value": found.value, "low": found.low, "high": found.high}


def gain(library: Library, output: Singles, other: Singles) -> Facts:
    """An output against another one, on the same rows.

    Returns:
        ``difference`` (output − other), ``gain_low``, ``gain_high``, ``p``, ``verdict`` (better,
        worse or cannot tell) and ``test``, as `hpo.results.significance.compare` has them.
    """
    if library.metric in AREAS:
        return _area_gain(library, output, other)
    runs = {"output": library.predicted(output), "other": library.predicted(other)}
    table = compare(runs, library.metric, "other").table
    row = records(table[table["run"] == "output"])[0]
    names = {"difference": "difference", "gain_low": "low", "gain_high": "high", "p": "p"}
    return {
        **{name: _number(row[column]) for name, column in names.items()},
        "verdict": row["verdict"],
        "test": row["test"],
    }


def _area(library: Library, output: Singles) -> tuple[float, Floats]:
    """The mean over folds, and each row's share of its error; folds without both are left out."""
    areas, shares = [], np.zeros(len(output))
    for fold in range(FOLDS):
        rows = library.rows({fold})
        found = area_shares(library.predicted(output[rows], rows), library.metric, "macro")
        if not math.isnan(found.value):
            areas.append(found.value)
            shares[rows] = found.rows
    if not areas:
        return math.nan, shares
    return float(np.mean(areas)), shares / len(areas)


def _area_gain(library: Library, output: Singles, other: Singles) -> Facts:
    """The test of areas, of the mean over folds."""
    from scipy.stats import norm

    (value, shares), (against, other_shares) = _area(library, output), _area(library, other)
    difference, error = value - against, _error(shares - other_shares)
    p = float(2 * norm.sf(abs(difference) / error)) if error > 0 else 1.0
    verdict = "cannot tell"
    if p < ALPHA:
        verdict = "better" if difference > 0 else "worse"
    return {
        "difference": difference,
        "gain_low": difference - Z * error,
        "gain_high": difference + Z * error,
        "p": p,
        "verdict": verdict,
        "test": AREA_TESTS[library.metric],
    }


def _error(shares: Floats) -> float:
    return float(np.sqrt((shares**2).sum()))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
