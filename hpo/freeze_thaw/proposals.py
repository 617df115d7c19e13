"""A new configuration: the one of the largest expected improvement, trained to its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr

from hpo.freeze_thaw.cube import Array, Cube
from hpo.freeze_thaw.index import log_improvement
from hpo.freeze_thaw.process import Posterior, Rows

DRAWN = 96  # points anywhere
LEADERS, AROUND = 6, 16  # points near to each of the most promising configurations
STEPS = (0.02, 0.3)  # how far, at least and at most
FINER = (0.05, 0.015)  # then nearer and nearer to the best ones found
FINER_LEADERS, FINER_AROUND = 5, 12
CLIMBS, CLIMB_LOOKS = 1, 10  # then by gradients, where numbers are searched


def new_trials(points: Array) -> Rows:
    """The ends of trials of this study that have not begun, at `points` (n, columns)."""
    count = len(points)
    nobody = -1 - np.arange(count)  # shares its own part with no trial
    return Rows(points, np.ones(count), nobody, np.zeros(count, dtype=int))


def propose(
    cube: Cube,
    posterior: Posterior,
    leaders: Array,
    best: float,
    rng: np.random.Generator,
    is_known: Callable[[Array], bool],
) -> Array | None:
    """The point (columns,) of the configuration to try next; None when all are known.

    Args:
        leaders: (n, columns), configurations that promise most so far, the best first.
        best: The value to beat.
        is_known: Whether there is a trial of the configuration at a point.
    """
    if cube.listed is not None:
        points = cube.listed
        values = _improvement(posterior, points, best)
    else:
        around = np.repeat(leaders[:LEADERS], AROUND, axis=0)
        least, most = np.log(STEPS)
        steps = np.exp(rng.uniform(least, most, size=(len(around), 1)))
        points = np.concatenate([cube.random(rng, DRAWN), cube.near(around, rng, steps)])
        values = _improvement(posterior, points, best)
        for step in FINER:
            top = points[np.argsort(-values)[:FINER_LEADERS]]
            more = cube.near(np.repeat(top, FINER_AROUND, axis=0), rng, step)
            points = np.concatenate([points, more])
            values = np.concatenate([values, _improvement(posterior, more, best)])
        if cube.is_moved.any():
            top = points[np.argsort(-values)[:CLIMBS]]
            more = cube.nearest(np.array([_climb(cube, posterior, each, best) for each in top]))
            points = np.concatenate([more, points])
            values = np.concatenate([_improvement(posterior, more, best), values])
    for i in np.argsort(-values, kind="stable"):
        if not is_known(points[i]):
            found: Array = points[i]
            return found
    return None


def _improvement(posterior: Posterior, points: Array, best: float) -> Array:
    mean, variance = posterior.at(new_trials(points))
    return log_improvement(mean, np.sqrt(variance), best)


def _climb(cube: Cube, posterior: Posterior, start: Array, best: float) -> Array:
    """The nearest maximum of the improvement; choices, and what does not exist, stay."""

    def loss(point: Array) -> tuple[float, Array]:
        mean, variance, by_mean, by_variance = posterior.slope_at_end(point)
        deviation = np.sqrt(variance)
        value = float(log_improvement(np.array(mean), np.array(deviation), best))
        z = (mean - best) / deviation
        by_value = np.exp(min(log_ndtr(z) - value, 50.0))
        by_deviation = np.exp(min(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - value, 50.0))
        return -value, -(by_value * by_mean + by_deviation * by_variance / (2 * deviation))

    ends = [
        (0.0, 1.0) if free else (at, at) for free, at in zip(cube.is_moved, start, strict=True)
    ]
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=ends, options={"maxfun": CLIMB_LOOKS}
    )
    climbed: Array = np.clip(found.x, 0.0, 1.0)
    return climbed
