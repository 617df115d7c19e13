"""A Gaussian process over configurations and how far they were trained.

The covariance of two observations, of configurations x and x′ of trials i and i′ at the stages u
and u′ (1: trained to the end):

    E(u, u′) (level + own [i = i′]) + ρ M(x, x′) (shape + change E(u, u′)) + noise [the same one]

M is Matérn-5/2 with a length scale for each parameter, E is Matérn-3/2; ρ is 1 within a study,
`trust` between two. After Swersky, Snoek, Adams, "Freeze-Thaw Bayesian Optimization" (2014), which
has the idea; the kernel is another: what a configuration says of a curve's end, and how the
curves of all of them go, are learnt at once.

Parameters are the most probable ones under log-normal priors (`PRIORS`), which are wide but for
the length scales: those are long, so that a dozen trials give a direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from hpo.freeze_thaw.cube import Array

# name → (median, standard deviation of the logarithm, bounds)
PRIORS = {
    "level": (0.3, 1.5, (1e-3, 50.0)),
    "shape": (0.7, 1.0, (1e-2, 50.0)),
    "change": (0.3, 1.5, (1e-3, 50.0)),
    "own": (0.02, 1.5, (1e-5, 5.0)),
    "noise": (1e-3, 1.5, (1e-6, 1.0)),
    "reach": (0.5, 0.7, (0.03, 10.0)),  # E's length scale
    "trust": (0.8, 0.5, (0.01, 1.0)),
}
LENGTH = (3.0, 1.0, (0.15, 50.0))  # of each parameter
FITTED_ROWS = 200  # at most; a fit takes time with their cube
FIT_STEPS = 25
JITTER = 1e-8


@dataclass(frozen=True)
class Rows:
    """Observations.

    Attributes:
        points: (n, columns), from `Cube`.
        stages: (n,), u.
        trials: (n,), which trial each is of; no number but its own is a trial's that has none.
        studies: (n,), 0 for this study, others for earlier ones.
    """

    points: Array
    stages: Array
    trials: NDArray[np.int_]
    studies: NDArray[np.int_]

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, chosen: Any) -> Rows:
        return Rows(
            self.points[chosen], self.stages[chosen], self.trials[chosen], self.studies[chosen]
        )

    def with_(self, more: Rows) -> Rows:
        return Rows(
            np.concatenate([self.points, more.points]),
            np.concatenate([self.stages, more.stages]),
            np.concatenate([self.trials, more.trials]),
            np.concatenate([self.studies, more.studies]),
        )


@dataclass(frozen=True)
class Kernel:
    """The covariance, with its parameters in natural units.

    Attributes:
        lengths: (groups,), a parameter's length scale.
        group: (columns,), of which parameter a column is.
    """

    level: float
    shape: float
    change: float
    own: float
    noise: float
    reach: float
    trust: float
    lengths: Array
    group: NDArray[np.int_]

    def logarithms(self) -> Array:
        """Its parameters as they are fitted."""
        return np.log([*(getattr(self, name) for name in PRIORS), *self.lengths])

    @property
    def variance(self) -> float:
        """Of a value itself, without noise."""
        return self.level + self.own + self.shape + self.change

    def scaled(self, points: Array) -> Array:
        return points / self.lengths[self.group]

    def of_stages(self, one: Array, other: Array) -> Array:
        return _matern32(np.abs(one[:, None] - other[None]) / self.reach)

    def of_points(self, one: Array, other: Array) -> Array:
        """M of points that were `scaled`."""
        square = (one * one).sum(1)[:, None] + (other * other).sum(1)[None] - 2 * one @ other.T
        return _matern52(np.sqrt(np.maximum(square, 0.0)))

    def between(self, one: Rows, other: Rows) -> Array:
        """The covariance of values, shape (n, m)."""
        points = self.of_points(self.scaled(one.points), self.scaled(other.points))
        return self.joined(one, other, points, self.of_stages(one.stages, other.stages))

    def joined(self, one: Rows, other: Rows, points: Array, stages: Array) -> Array:
        """`between`, of the covariances of points and of stages."""
        same = one.trials[:, None] == other.trials[None]
        if other.studies.any() or one.studies.any():
            points = points * np.where(
                one.studies[:, None] == other.studies[None], 1.0, self.trust
            )
        of_stage, of_point = self.level + self.own * same, self.shape + self.change * stages
        covariance: Array = stages * of_stage + points * of_point
        return covariance


def fit(rows: Rows, values: Array, group: NDArray[np.int_], start: Kernel | None = None) -> Kernel:
    """The most probable kernel, by L-BFGS.

    Args:
        values: (n,), of about zero mean and unit variance.
        start: Where to search from; absent: the priors' medians.
    """
    groups = int(group[-1]) + 1 if len(group) else 0
    table = [*PRIORS.values(), *[LENGTH] * groups]
    center = np.log([median for median, _, _ in table])
    wide = np.array([deviation for _, deviation, _ in table])
    bounds = [tuple(np.log(ends)) for _, _, ends in table]
    loss = _Loss(rows, values, group, center, wide)
    begin = center if start is None else start.logarithms()
    found = minimize(
        loss, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": FIT_STEPS}
    )
    return _kernel(found.x, group)


@dataclass(frozen=True)
class Joint:
    """Of trials, (n,) each: the variance of an earlier value, mean and variance of the final one,
    and the covariance of the two."""

    earlier: Array
    mean: Array
    variance: Array
    shared: Array


class Posterior:
    """What the process knows given observations."""

    def __init__(self, kernel: Kernel, rows: Rows, values: Array) -> None:
        self.kernel = kernel
        self.rows = rows
        covariance = kernel.between(rows, rows)
        covariance[np.diag_indices(len(rows))] += kernel.noise
        self._lower = _factor(covariance)
        self._weights = cho_solve((self._lower, True), values, check_finite=False)
        self._scaled = kernel.scaled(rows.points)

    def mean(self, rows: Rows) -> Array:
        """The mean of the values of `rows`, (n,)."""
        mean: Array = self.kernel.between(rows, self.rows) @ self._weights
        return mean

    def at(self, rows: Rows) -> tuple[Array, Array]:
        """Mean and variance of the values of `rows`, each (n,)."""
        across = self.kernel.between(rows, self.rows)
        half = self._half(across)
        variance = self.kernel.variance - (half * half).sum(0)
        return across @ self._weights, np.maximum(variance, 1e-12)

    def joint(
        self, stages: Sequence[tuple[NDArray[np.int_], Array]], ends: Rows
    ) -> tuple[Array, Array, list[Joint]]:
        """Means and variances of trials' final values, and what values on the way say of them.

        Args:
            stages: Each the indices of some of the trials, and the stage of each of these.
            ends: (n,), the trials at stage 1.
        """
        kernel = self.kernel
        points = kernel.of_points(kernel.scaled(ends.points), self._scaled)

        def seen(rows: Rows, points: Array) -> tuple[Array, Array, Array]:
            of_stages = kernel.of_stages(rows.stages, self.rows.stages)
            across = kernel.joined(rows, self.rows, points, of_stages)
            half = self._half(across)
            variance = kernel.variance - (half * half).sum(0)
            return across @ self._weights, np.maximum(variance, 1e-12), half

        mean, variance, half = seen(ends, points)
        found = []
        for some, at in stages:
            rows = Rows(ends.points[some], at, ends.trials[some], ends.studies[some])
            _, earlier, half_earlier = seen(rows, points[some])
            near = _matern32((1.0 - at) / kernel.reach)
            prior = near * (kernel.level + kernel.own + kernel.change) + kernel.shape
            shared = prior - (half_earlier * half[:, some]).sum(0)
            found.append(Joint(earlier, mean[some], variance[some], shared))
        return mean, variance, found

    def slope_at_end(self, point: Array) -> tuple[float, float, Array, Array]:
        """Mean and variance of a new trial's final value, and their derivatives by its point."""
        kernel, rows = self.kernel, self.rows
        away = kernel.scaled(point) - self._scaled  # (n, columns)
        distance = np.sqrt((away * away).sum(1))
        root = np.sqrt(5.0) * distance
        fading = np.exp(-root)
        stages = _matern32(np.abs(1.0 - rows.stages) / kernel.reach)
        of_point = kernel.shape + kernel.change * stages
        of_point = of_point * np.where(rows.studies == 0, 1.0, kernel.trust)
        across = (1 + root + root * root / 3) * fading * of_point + kernel.level * stages
        outer = -(5 / 3) * (1 + root) * fading * of_point
        slopes = outer[:, None] * away / kernel.lengths[kernel.group]
        solved = cho_solve((self._lower, True), across, check_finite=False)
        variance = max(kernel.variance - float(solved @ across), 1e-12)
        return (
            float(across @ self._weights),
            variance,
            slopes.T @ self._weights,
            (-2 * slopes.T @ solved),
        )

    def _half(self, across: Array) -> Array:
        half: Array = solve_triangular(self._lower, across.T, lower=True, check_finite=False)
        return half


class _Loss:
    """Minus the log posterior of the kernel's parameters (their logarithms), with its gradient."""

    def __init__(
        self, rows: Rows, values: Array, group: NDArray[np.int_], center: Array, wide: Array
    ) -> None:
        self.values, self.center, self.wide = values, center, wide
        self.group = group
        groups = len(center) - len(PRIORS)
        square = (rows.points[:, None] - rows.points[None]) ** 2
        self.squares = (
            np.stack([square[:, :, group == g].sum(2) for g in range(groups)], axis=2)
            if groups
            else np.zeros((*square.shape[:2], 0))
        )
        self.stages = np.abs(rows.stages[:, None] - rows.stages[None])
        self.same = rows.trials[:, None] == rows.trials[None]
        self.other = rows.studies[:, None] != rows.studies[None]

    def __call__(self, logs: Array) -> tuple[float, Array]:
        kernel = _kernel(logs, self.group)
        root = np.sqrt(5.0) * np.sqrt(self.squares @ kernel.lengths**-2)
        fading = np.exp(-root)
        trust = np.where(self.other, kernel.trust, 1.0)
        points = (1 + root + root * root / 3) * fading * trust
        gone = np.sqrt(3.0) * self.stages / kernel.reach
        going = np.exp(-gone)
        stages = (1 + gone) * going
        of_point = kernel.shape + kernel.change * stages
        of_stage = kernel.level + kernel.own * self.same
        covariance = stages * of_stage + points * of_point
        covariance[np.diag_indices(len(covariance))] += kernel.noise + JITTER
        away = (logs - self.center) / self.wide
        try:
            lower = np.linalg.cholesky(covariance)
        except LinAlgError:
            return 1e10, np.zeros_like(logs)
        weights = cho_solve((lower, True), self.values, check_finite=False)
        inverse = cho_solve((lower, True), np.eye(len(lower)), check_finite=False)
        loss = 0.5 * self.values @ weights + np.log(np.diag(lower)).sum() + 0.5 * away @ away
        pull = 0.5 * (inverse - np.outer(weights, weights))  # the derivative by the covariance
        by_stages, by_points = pull * stages, pull * points
        by_both = by_stages * points
        steeper = gone * gone * going  # of stages by the logarithm of reach
        by_square = pull * trust * of_point * (5 / 3) * (1 + root) * fading
        slope = [
            kernel.level * by_stages.sum(),
            kernel.shape * by_points.sum(),
            kernel.change * by_both.sum(),
            kernel.own * by_stages[self.same].sum(),
            kernel.noise * np.trace(pull),
            (pull * steeper * (of_stage + kernel.change * points)).sum(),
            (by_points * of_point)[self.other].sum(),
            *(np.tensordot(by_square, self.squares, axes=([0, 1], [0, 1])) * kernel.lengths**-2),
        ]
        return float(loss), np.array(slope) + away / self.wide


def _factor(covariance: Array) -> Array:
    """The lower Cholesky factor, with as much on the diagonal as it needs to exist."""
    diagonal = np.diag_indices(len(covariance))
    jitter = JITTER
    while True:
        covariance[diagonal] += jitter
        try:
            lower: Array = cholesky(covariance, lower=True, check_finite=False)
        except LinAlgError:
            jitter *= 10
        else:
            return lower


def _kernel(logs: Array, group: NDArray[np.int_]) -> Kernel:
    named = dict(zip(PRIORS, np.exp(logs[: len(PRIORS)]).tolist(), strict=True))
    return Kernel(**named, lengths=np.exp(logs[len(PRIORS) :]), group=group)


def _matern32(distance: Array) -> Array:
    root = np.sqrt(3.0) * distance
    value: Array = (1 + root) * np.exp(-root)
    return value


def _matern52(distance: Array) -> Array:
    root = np.sqrt(5.0) * distance
    value: Array = (1 + root + root * root / 3) * np.exp(-root)
    return value
