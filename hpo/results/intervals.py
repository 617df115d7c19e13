"""How far a number may be off: 95 % intervals, and the bootstrap that all runs share.

Every run with as many rows gets the same resamples, so that the difference of two runs in each
resample is their paired difference. They are drawn once, from a fixed seed.

Not covered: rows that depend on each other (several pictures of one patient); the intervals are
too narrow for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
Z = 1.959963984540054  # of a normal distribution, two-sided at LEVEL
RESAMPLES = 1000
GROUPS = 4096  # more rows than this are resampled in so many groups
BLOCK = 2_000_000  # numbers handled at a time


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; NaN where it cannot be said."""

    value: float
    low: float = math.nan
    high: float = math.nan


def wilson(hits: ArrayLike, of: ArrayLike) -> tuple[Floats, Floats]:
    """Wilson's interval of a proportion: low and high; NaN of nothing.

    Wilson (1927); it does not collapse where all, or none, are hits.
    """
    from statsmodels.stats.proportion import proportion_confint

    hits, of = np.asarray(hits, np.float64), np.asarray(of, np.float64)
    some = np.where(of > 0, of, 1.0)
    low, high = proportion_confint(np.where(of > 0, hits, 0.0), some, 1 - LEVEL, "wilson")
    return (
        np.where(of > 0, np.clip(low, 0, 1), math.nan),
        np.where(of > 0, np.clip(high, 0, 1), math.nan),
    )


def wilson_f1(hits: ArrayLike, missed: ArrayLike) -> tuple[Floats, Floats]:
    """The interval of the F1 score 2·hits / (2·hits + missed) of one class.

    Of the rows that are of the class or were said to be (`hits` + `missed`: false positives and
    false negatives), the share p of hits is a proportion; F1 = 2p / (1 + p) grows with it.
    """
    low, high = wilson(hits, np.asarray(hits) + np.asarray(missed))
    return 2 * low / (1 + low), 2 * high / (1 + high)


def of_mean(values: ArrayLike) -> Estimate:
    """The mean and Student's t interval; without interval of fewer than two values."""
    from scipy.special import stdtrit

    values = np.asarray(values, np.float64)
    if len(values) == 0:
        return Estimate(math.nan)
    mean = float(values.mean())
    if len(values) == 1:
        return Estimate(mean)
    reach = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2) * values.std(ddof=1))
    reach /= math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def within_0_1(value: float, error: float) -> Estimate:
    """The interval of a number in (0, 1) with a standard error, made on the logit scale."""
    if not 0 < value < 1 or not math.isfinite(error):
        return Estimate(value)
    middle, reach = math.log(value / (1 - value)), Z * error / (value * (1 - value))
    low, high = (
        1 / (1 + math.exp(-min(max(at, -700), 700))) for at in (middle - reach, middle + reach)
    )
    return Estimate(value, low, high)


def newcombe_auc(value: float, positives: int, negatives: int) -> Estimate:
    """The interval of an AUC that needs no variance to be seen, for perfect ones and few rows.

    Solves (value − θ)² = z² V(θ): Newcombe (2006), "Confidence intervals for an effect size
    measure based on the Mann–Whitney statistic, part 2", method 5. At least one positive and one
    negative.
    """
    from scipy.optimize import brentq

    def beyond(theta: float) -> float:
        return (value - theta) ** 2 - Z**2 * auc_variance(theta, positives, negatives)

    tiny = 1e-12
    low = brentq(beyond, tiny, value - tiny) if value > 1e-9 else 0.0
    high = brentq(beyond, value + tiny, 1 - tiny) if value < 1 - 1e-9 else 1.0
    return Estimate(value, low, high)


def auc_variance(theta: float, positives: int, negatives: int) -> float:
    """The variance of an area of `theta` for exponential scores: Hanley and McNeil (1982), with
    both sides of the mean size, as Newcombe has it."""
    more = (positives + negatives) / 2 - 1
    spread = 1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return theta * (1 - theta) * spread / (positives * negatives)


# -- the bootstrap


def resampled_means(columns: Floats) -> Floats:
    """The mean of each column in each resample of the rows.

    Args:
        columns: (n, k), n ≥ 1.

    Returns:
        (RESAMPLES, k). Where n > GROUPS, groups of rows are resampled instead of rows: the same
        spread for as much work as GROUPS rows are.
    """
    rows = len(columns)
    if rows <= GROUPS:
        return resampled_sums(columns) / rows
    group = group_of(rows)
    extended = (*columns.T, np.ones(rows))  # groups differ by a row in size
    sums = resampled_sums(np.stack([np.bincount(group, c, GROUPS) for c in extended], axis=1))
    return sums[:, :-1] / sums[:, -1:]


def resampled_sums(columns: NDArray[Any]) -> Floats:
    """The sum of each column in each resample: (RESAMPLES, k) of (n or GROUPS, k)."""
    counts, narrow = _counts(len(columns)), columns.astype(np.float32)
    step = max(1, BLOCK // len(columns))
    blocks = [counts[at : at + step].astype(np.float32) for at in range(0, RESAMPLES, step)]
    return np.concatenate([block @ narrow for block in blocks]).astype(np.float64)


def percentiles(samples: Floats, rows: int) -> tuple[Floats, Floats]:
    """The interval from resamples of `rows` rows: low and high, (k,) of (RESAMPLES, k).

    The percentiles are a little further out than 2.5 and 97.5, as much as Student's t is wider
    than the normal distribution at so few rows: Hesterberg (2015), "What teachers should know
    about the bootstrap", "expanded percentile intervals". Resamples without a value are left out.
    """
    if rows < 2 or np.isnan(samples).all():
        nothing = np.full(samples.shape[1:], math.nan)
        return nothing, nothing
    tail = _tail(rows)
    quantile = np.nanquantile if np.isnan(samples).any() else np.quantile
    low, high = quantile(samples, [tail, 1 - tail], axis=0)
    return low, high


def p_of(difference: float, samples: Floats, rows: int) -> float:
    """Two-sided p of a difference of zero, from its spread over resamples of `rows` rows.

    A thousand resamples cannot show the small tails that a correction for many comparisons asks
    about, so Student's t with the resamples' standard error stands in for them. Of a mean that is
    the paired t test.
    """
    from scipy.special import stdtr

    if rows < 2 or math.isnan(difference):
        return math.nan
    error = float(np.nanstd(samples)) * math.sqrt(rows / (rows - 1))
    if difference == 0 or error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(rows - 1, -abs(difference) / error))


def group_of(rows: int) -> NDArray[np.intp]:
    """(rows,): in which of at most GROUPS groups each row is resampled."""
    return np.arange(rows) % GROUPS


@lru_cache(maxsize=4)
def _counts(columns: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(columns)
    even = np.full(columns, 1 / columns)
    return random.multinomial(columns, even, RESAMPLES).astype(np.uint8)


@lru_cache(maxsize=64)
def _tail(rows: int) -> float:
    from scipy.special import ndtr, stdtrit

    return float(ndtr(math.sqrt(rows / (rows - 1)) * stdtrit(rows - 1, (1 - LEVEL) / 2)))
