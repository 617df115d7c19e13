"""Intervals hold the truth as often as they say, also at the edges and of few rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpo.results import intervals
from hpo.results.intervals import (
    newcombe_auc,
    of_mean,
    p_of,
    percentiles,
    resampled_means,
    wilson,
    wilson_f1,
)


def test_wilson_is_scipy_s_and_says_nothing_of_nothing() -> None:
    low, high = wilson([0, 3, 10, 0], [10, 10, 10, 0])
    for place, hits in enumerate((0, 3, 10)):
        expected = stats.binomtest(hits, 10).proportion_ci(0.95, "wilson")
        assert (low[place], high[place]) == pytest.approx((expected.low, expected.high))
    assert np.isnan([low[3], high[3]]).all()


def test_the_interval_of_f1_holds_the_truth() -> None:
    """Counts of a class drawn from known rates: true positives, false ones, misses, the rest."""
    rates = np.array([0.12, 0.03, 0.05, 0.8])
    truth = 2 * rates[0] / (2 * rates[0] + rates[1] + rates[2])
    drawn = np.random.default_rng(0).multinomial(150, rates, 4000)
    low, high = wilson_f1(drawn[:, 0], drawn[:, 1] + drawn[:, 2])
    assert 0.93 < ((low <= truth) & (truth <= high)).mean() < 0.97


def test_the_interval_of_a_mean_is_student_s() -> None:
    values = [0.9, 0.93, 0.88, 0.95]
    found = of_mean(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert np.isnan([of_mean([1.0]).low, of_mean([]).value]).all()


def test_of_a_perfect_area_newcombe_s_interval_narrows_with_rows() -> None:
    lows = [newcombe_auc(1.0, rows, rows).low for rows in (1, 5, 20, 500)]
    assert lows == sorted(lows)
    assert lows[0] < 0.3
    assert lows[-1] > 0.99
    assert newcombe_auc(1.0, 5, 5).high == 1
    assert newcombe_auc(0.0, 5, 5).low == 0
    assert newcombe_auc(0.0, 5, 5).high == pytest.approx(1 - lows[1])


def test_newcombe_s_interval_of_an_area_that_he_gives() -> None:
    """The bounds solve his equation, with the variance written out anew."""
    found = newcombe_auc(0.7, 12, 20)
    for theta in (found.low, found.high):
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        same = (12 + 20) / 2 - 1  # Hanley and McNeil, with m - 1 and n - 1 both replaced by this
        variance = theta * (1 - theta) + same * (q1 - theta**2) + same * (q2 - theta**2)
        assert abs(0.7 - theta) == pytest.approx(1.959964 * np.sqrt(variance / (12 * 20)))


def test_resamples_have_the_spread_of_a_mean_and_are_always_the_same() -> None:
    column = np.random.default_rng(0).exponential(size=(300, 1))
    means = resampled_means(column)
    assert means.shape == (intervals.RESAMPLES, 1)
    assert means.mean() == pytest.approx(column.mean(), rel=0.02)
    assert means.std() == pytest.approx(column.std() / np.sqrt(300), rel=0.08)
    assert (resampled_means(column) == means).all()


def test_many_rows_are_resampled_in_groups_with_the_same_spread() -> None:
    rows = 3 * intervals.GROUPS + 5
    columns = np.random.default_rng(0).exponential(size=(rows, 2))
    means = resampled_means(columns)
    assert means.mean(0) == pytest.approx(columns.mean(0), rel=0.01)
    assert means.std(0) == pytest.approx(columns.std(0) / np.sqrt(rows), rel=0.08)


@pytest.mark.parametrize(("rows", "least"), [(5, 0.9), (12, 0.935), (100, 0.935)])
def test_the_interval_of_a_mean_of_few_rows_holds_the_truth(rows: int, least: float) -> None:
    samples = np.random.default_rng(0).normal(size=(rows, 3000))
    low, high = percentiles(resampled_means(samples), rows)
    assert least < ((low <= 0) & (high >= 0)).mean() < 0.965


def test_p_of_a_mean_is_the_paired_t_test_s() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(0.2, 1, 60), random.normal(0, 1, 60)
    found = p_of(float((a - b).mean()), resampled_means((a - b)[:, None])[:, 0], 60)
    assert found == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.1)


def test_small_p_are_told_apart_below_what_resamples_can_count() -> None:
    difference = np.random.default_rng(0).normal(0.7, 1, 200)
    samples = resampled_means(difference[:, None])[:, 0]
    assert p_of(float(difference.mean()), samples, 200) < 1e-8


def test_no_difference_at_all_has_p_one_and_one_row_has_none() -> None:
    assert p_of(0.0, np.zeros(1000), 50) == 1
    assert p_of(0.1, np.full(1000, 0.1), 50) == 0
    assert np.isnan(p_of(0.1, np.full(1000, 0.1), 1))
    assert np.isnan(percentiles(np.full(1000, 0.1), 1)).all()
