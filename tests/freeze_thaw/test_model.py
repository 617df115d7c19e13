"""The process, its derivatives, and the index, against their definitions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from hpo.freeze_thaw import proposals
from hpo.freeze_thaw.cube import Cube
from hpo.freeze_thaw.index import Stages, index, log_improvement
from hpo.freeze_thaw.process import LENGTH, PRIORS, Kernel, Posterior, Rows, _kernel, _Loss, fit
from hpo.spec import Choice, Float

SEARCH: dict[str, Any] = {"a": Float(0, 1), "b": Choice(("x", "y", "z")), "c": Float(0, 1)}
CUBE = Cube(SEARCH)


def observed(count: int, seed: int = 0, studies: bool = False) -> tuple[Rows, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    rows = Rows(
        CUBE.random(rng, count),
        rng.uniform(0.4, 1.0, count),
        rng.integers(0, count // 2, count),
        rng.integers(0, 2, count) if studies else np.zeros(count, dtype=int),
    )
    values = np.sin(4 * rows.points[:, 0]) + rows.points[:, 1] + rows.stages
    return rows, values - values.mean()


def some_kernel(seed: int = 0) -> Kernel:
    logs = np.log([median for median, _, _ in [*PRIORS.values(), *[LENGTH] * 3]])
    kernel = _kernel(logs + np.random.default_rng(seed).normal(0, 0.3, len(logs)), CUBE.group)
    return replace(kernel, trust=0.7)


def slope(function: Callable[[Any], Any], at: Any) -> Any:
    steps = np.eye(len(at)) * 1e-6
    return np.array([(function(at + s) - function(at - s)) / 2e-6 for s in steps])


def test_the_likelihood_is_a_normal_density_and_its_gradient_is_right() -> None:
    rows, values = observed(14, studies=True)
    table = [*PRIORS.values(), *[LENGTH] * 3]
    center = np.log([median for median, _, _ in table])
    wide = np.array([deviation for _, deviation, _ in table])
    loss = _Loss(rows, values, CUBE.group, center, wide)
    logs = center + np.random.default_rng(3).normal(0, 0.4, len(center))
    kernel = _kernel(logs, CUBE.group)
    covariance = kernel.between(rows, rows) + (kernel.noise + 1e-8) * np.eye(14)
    density = multivariate_normal.logpdf(values, cov=covariance)
    prior = norm.logpdf(logs, center, wide).sum() - norm.logpdf(center, center, wide).sum()
    constant = -0.5 * 14 * np.log(2 * np.pi)
    assert loss(logs)[0] == pytest.approx(-(density - constant) - prior)
    np.testing.assert_allclose(
        loss(logs)[1], slope(lambda x: loss(x)[0], logs), rtol=1e-4, atol=1e-5
    )


def test_a_fit_finds_what_matters() -> None:
    rows, values = observed(60)
    kernel = fit(rows, values, CUBE.group)
    a, b, c = kernel.lengths
    assert c > 2 * max(a, b)  # the third parameter has no effect


def test_the_posterior_is_that_of_a_normal_distribution() -> None:
    rows, values = observed(10, studies=True)
    kernel = some_kernel()
    asked = Rows(
        CUBE.random(np.random.default_rng(9), 4),
        np.array([1.0, 0.7, 1.0, 0.5]),
        np.array([0, 1, 99, 98]),
        np.zeros(4, dtype=int),
    )
    posterior = Posterior(kernel, rows, values)
    inner = np.linalg.inv(kernel.between(rows, rows) + (kernel.noise + 1e-8) * np.eye(10))
    across = kernel.between(asked, rows)
    mean, variance = posterior.at(asked)
    np.testing.assert_allclose(mean, across @ inner @ values, atol=1e-9)
    np.testing.assert_allclose(posterior.mean(asked), mean)
    whole = kernel.between(asked, asked) - across @ inner @ across.T
    np.testing.assert_allclose(variance, np.diag(whole), atol=1e-9)
    ends = Rows(asked.points, np.ones(4), asked.trials, asked.studies)
    cross = kernel.between(asked, ends) - across @ inner @ kernel.between(ends, rows).T
    some = np.array([1, 3])
    last, spread, (joint,) = posterior.joint([(some, asked.stages[some])], ends)
    np.testing.assert_allclose((last, spread), posterior.at(ends))
    np.testing.assert_allclose(joint.shared, np.diag(cross)[some], atol=1e-9)
    np.testing.assert_allclose(joint.earlier, variance[some])
    np.testing.assert_allclose((joint.mean, joint.variance), (last[some], spread[some]))


def test_the_slopes_at_the_end_are_right() -> None:
    rows, values = observed(12, studies=True)
    posterior = Posterior(some_kernel(1), rows, values)
    point = np.array([0.3, 0.7, 0.0, 0.1, 0.6])
    mean, variance, by_mean, by_variance = posterior.slope_at_end(point)

    def at(place: Any) -> tuple[Any, Any]:
        return posterior.at(proposals.new_trials(place[None]))

    assert (mean, variance) == pytest.approx((at(point)[0][0], at(point)[1][0]))
    np.testing.assert_allclose(by_mean, slope(lambda p: at(p)[0][0], point), atol=1e-5)
    np.testing.assert_allclose(by_variance, slope(lambda p: at(p)[1][0], point), atol=1e-5)


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 1.0), (-2.0, 0.7), (-30.0, 1.5)])
def test_the_improvement_is_its_integral_and_far_away_too(mean: float, deviation: float) -> None:
    found = float(log_improvement(np.array(mean), np.array(deviation), 1.0))
    z = (mean - 1.0) / deviation
    # Scaled by the density at the threshold, which cancels what would underflow.
    integral, _ = quad(lambda t: t * np.exp(z * t - t * t / 2), 0, np.inf, epsabs=0)
    assert found == pytest.approx(np.log(integral) + norm.logpdf(z) + np.log(deviation), rel=1e-6)


def test_the_index_is_where_a_look_breaks_even() -> None:
    rows, values = observed(8)
    posterior = Posterior(some_kernel(2), rows, values)
    trials = proposals.new_trials(CUBE.random(np.random.default_rng(4), 3))
    stops = np.array([[10, 40]] * 3)
    stages = np.array([[0.65, 1.0]] * 3)
    worth, until = index(posterior, trials, Stages(stops, stages, np.zeros(3, dtype=int)), 0.8)
    mean, variance, (joint,) = posterior.joint([(np.arange(3), stages[:, 0])], trials)
    told = joint.shared / np.sqrt(joint.earlier + posterior.kernel.noise)
    left = np.sqrt(variance - told**2)
    draws = np.random.default_rng(5).normal(size=400_000)
    for i in range(3):
        rate = np.exp(worth[i])
        if until[i] == 40:  # straight to the end: what it brings, an epoch
            whole = np.exp(log_improvement(mean[i], np.sqrt(variance[i]), 0.8))
            assert rate == pytest.approx(whole / 40)
        else:
            after = np.exp(log_improvement(mean[i] + told[i] * draws, left[i], 0.8))
            gain = np.maximum(after - 30 * rate, 0).mean()
            assert gain == pytest.approx(rate * 10, rel=0.03)


def test_a_proposal_is_as_good_as_the_best_of_many_draws() -> None:
    rows, values = observed(16)
    posterior = Posterior(fit(rows, values, CUBE.group), rows, values)
    best = float(values.max())
    rng = np.random.default_rng(6)
    point = proposals.propose(CUBE, posterior, rows.points, best, rng, lambda _: False)
    assert point is not None
    draws = CUBE.random(np.random.default_rng(7), 20_000)
    improvement = proposals._improvement
    assert (
        improvement(posterior, point[None], best)[0]
        > improvement(posterior, draws, best).max() - 0.05
    )


def test_known_configurations_are_not_proposed() -> None:
    cube = Cube({"b": Choice(("x", "y", "z"))})
    rows = Rows(
        cube.random(np.random.default_rng(0), 4), np.ones(4), np.arange(4), np.zeros(4, int)
    )
    posterior = Posterior(fit(rows, np.arange(4.0), cube.group), rows, np.arange(4.0))
    tried = {cube.encode({"b": name}).tobytes() for name in ("x", "z")}
    rng = np.random.default_rng(0)

    def is_known(point: NDArray[np.float64]) -> bool:
        return point.tobytes() in tried

    point = proposals.propose(cube, posterior, rows.points, 3.0, rng, is_known)
    assert point is not None
    assert cube.decode(point) == {"b": "y"}
    tried.add(point.tobytes())
    assert proposals.propose(cube, posterior, rows.points, 3.0, rng, is_known) is None


def test_many_observations_of_one_configuration_are_taken() -> None:
    rows, values = observed(8)
    again = np.zeros(150, dtype=int)
    kernel = replace(some_kernel(), noise=1e-6, level=50.0, shape=50.0, change=50.0)
    posterior = Posterior(kernel, rows[again], values[again] + 1e-3)
    assert posterior.mean(rows[again[:1]]) == pytest.approx(values[:1] + 1e-3, abs=1e-3)
