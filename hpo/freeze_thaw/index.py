"""What an epoch more of a trial is worth.

`log_improvement` is the logarithm of the expected improvement, accurate where that is tiny
(Ament et al., "Unexpected Improvements to Expected Improvement for Bayesian Optimization", 2023).

`index` says where to spend epochs. To train a trial to its end costs c and gives its expected
improvement EI: so much an epoch. To look first at an earlier stage costs c₁, and only if what is
seen there, EI′, is worth the rest c₂ does one go on. The rate λ at which that breaks even,

    λ c₁ = E[max(0, EI′ − λ c₂)],

is what the epochs of a trial that may be left again are worth: the index of Gittins, for one look.
Of a trial's stages the best counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.special import erfc, erfcx

from hpo.freeze_thaw.cube import Array
from hpo.freeze_thaw.process import Joint, Posterior, Rows

NODES, _WEIGHTS = hermegauss(31)
WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
LOWEST, HIGHEST, HALVINGS = -60.0, 5.0, 20  # of ln λ


@dataclass(frozen=True)
class Stages:
    """Where trials may be stopped next.

    Attributes:
        epochs: (n, k), rising; the last is a trial's end.
        stages: (n, k), the same as the process's u.
        done: (n,), epochs trained so far.
    """

    epochs: NDArray[np.int_]
    stages: Array
    done: NDArray[np.int_]


def log_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """ln E[max(0, value − best)] of normal values."""
    z = (mean - best) / deviation
    with np.errstate(all="ignore"):
        near = z * 0.5 * erfc(-z / np.sqrt(2)) + np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
        far = np.minimum(z, -5.0)
        tail = np.log1p(np.sqrt(np.pi / 2) * far * erfcx(-far / np.sqrt(2)))
        tail -= 0.5 * far * far + 0.5 * np.log(2 * np.pi)
        found = np.where(z < -5, tail, np.log(np.maximum(near, 1e-300)))
    logarithm: Array = found + np.log(deviation)
    return logarithm


def index(
    posterior: Posterior, trials: Rows, next_stages: Stages, best: float
) -> tuple[Array, NDArray[np.int_]]:
    """ln λ of each trial, shape (n,), and up to which epoch it is to be trained for it.

    Args:
        trials: Of each, its end (stage 1).
        best: The value to beat.
    """
    epochs, done = next_stages.epochs, next_stages.done
    length = epochs[:, -1]
    looks = []  # each stage before the end, and the trials that have it before them
    for stage in range(epochs.shape[1] - 1):
        ahead = np.flatnonzero((epochs[:, stage] > done) & (epochs[:, stage] < length))
        looks.append((ahead, next_stages.stages[ahead, stage]))
    mean, variance, joints = posterior.joint(looks, trials)
    values = np.full(epochs.shape, -np.inf)
    whole = log_improvement(mean, np.sqrt(variance), best)
    values[:, -1] = whole - np.log(np.maximum(length - done, 1))
    for stage, ((ahead, _), joint) in enumerate(zip(looks, joints, strict=True)):
        if len(ahead):
            first = epochs[ahead, stage] - done[ahead]
            rest = length[ahead] - epochs[ahead, stage]
            values[ahead, stage] = _look(joint, posterior.kernel.noise, first, rest, best)
    chosen = values.argmax(axis=1)
    return values.max(axis=1), epochs[np.arange(len(done)), chosen]


def _look(
    joint: Joint, noise: float, first: NDArray[np.int_], rest: NDArray[np.int_], best: float
) -> Array:
    """ln λ of a look at a stage: by bisection, on a grid of what may be seen there."""
    told = np.abs(joint.shared) / np.sqrt(joint.earlier + noise)
    told = np.minimum(told, np.sqrt(joint.variance) * 0.9999)
    left = np.sqrt(np.maximum(joint.variance - told * told, 1e-12))
    means = joint.mean[:, None] + told[:, None] * NODES[None]
    improvement = np.exp(log_improvement(means, left[:, None], best))
    low, high = np.full(len(told), LOWEST), np.full(len(told), HIGHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rate = np.exp(middle)
        gain = (np.maximum(improvement - rate[:, None] * rest[:, None], 0.0) * WEIGHTS).sum(1)
        worth = gain > rate * first
        low, high = np.where(worth, middle, low), np.where(worth, high, middle)
    return low
