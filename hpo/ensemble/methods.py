"""Ways to weigh members. Each sees the fitting rows only.

VALUES are (m, n): what `hpo.ensemble.criterion` makes of m members and n rows, the best member
first. Weights are (m,), none below 0, with the sum 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpo.ensemble.criterion import Criterion, Singles
from hpo.results.intervals import Floats

Method = Literal["greedy", "cma", "stack", "top"]

STEPS = 50  # members that greedy selection takes, counting repetitions
BAGS = 10
BAG_SHARE = 0.75  # of the members that a bag may choose from
LEAST_OF_A_BAG = 5
ENOUGH_ROWS = 4000  # so many are hardly overfitted, and bags gain nothing
BATCH = 32  # members that are scored at a time
ROUNDING = 1e-6  # of a gain in float32
CMA_MEMBERS = 25
CMA_GENERATIONS = 150
CMA_SPREAD = 0.3  # of the first generation; an even weight is 1
LEAST_WEIGHT = 0.01  # what weighs less is left out


def top(values: Singles, criterion: Criterion, seed: int) -> Floats:
    """The plain mean of the first k, for the k that is best."""
    total, losses = np.zeros(values.shape[1]), np.empty(len(values))
    for place, member in enumerate(values):
        total += member
        losses[place] = criterion.of((total / (place + 1)).astype(np.float32)[None])[0]
    best = int(losses.argmin()) + 1
    return np.asarray(np.where(np.arange(len(values)) < best, 1 / best, 0.0))


def greedy(values: Singles, criterion: Criterion, seed: int) -> Floats:
    """Greedy selection with replacement, bagged.

    Caruana et al. (2004), "Ensemble selection from libraries of models": the member that makes
    the mean best joins, again and again; several times, each from a random part of the members,
    and the means of all are averaged. With ENOUGH_ROWS once, from all.
    """
    random = np.random.default_rng(seed)
    count = len(values)
    size = min(count, max(LEAST_OF_A_BAG, math.ceil(BAG_SHARE * count)))
    if size == count or values.shape[1] >= ENOUGH_ROWS:
        return selected(values, criterion)
    bags = [np.sort(random.choice(count, size, replace=False)) for _ in range(BAGS)]
    weights = np.zeros(count)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the interpreter's lock
        found = pool.map(lambda bag: selected(values, criterion, bag), bags)
        for bag, shares in zip(bags, found, strict=True):
            weights[bag] += shares
    return np.asarray(weights / weights.sum())


def selected(
    values: Singles, criterion: Criterion, among: NDArray[np.intp] | None = None
) -> Floats:
    """One greedy selection of `among` (all by default), up to the size that was best.

    What is taken at each step is the best of all members, as if each had been scored. A member
    whose last known gain is below the best of now is not, where gains can only shrink as others
    join: Minoux (1978), "Accelerated greedy algorithms for maximizing submodular set functions".
    """
    members = np.arange(len(values)) if among is None else among
    total = np.zeros(values.shape[1], np.float32)
    bounds = np.full(len(members), math.inf)  # on the gain of each member
    chosen, losses = [], []
    for count in range(STEPS):
        before = float(criterion.of(total[None] / np.float32(count))[0]) if count else 0.0
        best, gain, at = -1, -math.inf, 0
        order = np.argsort(-bounds, kind="stable")
        while at < len(order) and bounds[order[at]] > gain - ROUNDING:
            batch = order[at : at + BATCH]
            after = criterion.with_each(total, values[members[batch]], count)
            gains = criterion.gain(before, after, count)
            if gains.max() > gain:
                best, gain = int(batch[gains.argmax()]), float(gains.max())
            if count and criterion.gains_shrink:
                bounds[batch] = gains
            at += BATCH
        chosen.append(best)
        total += values[members[best]]
        losses.append(float(criterion.of(total[None] / np.float32(count + 1))[0]))
    size = int(np.argmin(losses)) + 1
    return np.asarray(np.bincount(chosen[:size], minlength=len(members)) / size)


def cma(values: Singles, criterion: Criterion, seed: int) -> Floats:
    """Weights by CMA-ES, negative ones cut to 0 and all normalized.

    Purucker and Beel (2023), "CMA-ES for post hoc ensembling in AutoML: a great success and
    salvageable failure". Starts from an even mean; the best that was seen counts, each member
    alone and the start among it.
    """
    from cmaes import CMA

    count = min(len(values), CMA_MEMBERS)
    values = values[:count]
    alone = criterion.of(values)
    best, least = np.eye(count)[int(alone.argmin())], float(alone.min())
    if count == 1:
        return np.asarray(best)
    search = CMA(mean=np.ones(count), sigma=CMA_SPREAD, seed=seed)
    raw = [np.ones(count)]  # the start, for the first look
    for _ in range(CMA_GENERATIONS):
        weights = [_normalized(each) for each in raw]
        losses = criterion.of(np.asarray(weights, np.float32) @ values)
        if losses.min() < least:
            best, least = weights[int(losses.argmin())], float(losses.min())
        if len(raw) > 1:
            search.tell([(w, float(loss)) for w, loss in zip(raw, losses, strict=True)])
        if search.should_stop():
            break
        raw = [search.ask() for _ in range(search.population_size)]
    return np.asarray(best)


def _normalized(weights: Floats) -> Floats:
    """Negative ones cut; an even mean of nothing."""
    cut = np.maximum(weights, 0)
    total = cut.sum()
    return cut / total if total > 0 else np.full(len(cut), 1 / len(cut))


WEIGHING: Mapping[str, Callable[[Singles, Criterion, int], Floats]] = {
    "greedy": greedy,
    "cma": cma,
    "top": top,
}
