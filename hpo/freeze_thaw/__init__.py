"""`strategy: freeze-thaw`: trials are paused at some epochs, and those resumed that promise most.

Each decision: `curves` has what is on record as observations, `process` is a model of them,
`proposals` finds the best new configuration, and `index` compares it with the paused trials by
what an epoch more of each is worth. What else was tried: docs/decisions/0028-freeze-thaw.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from threadpoolctl import ThreadpoolController

from hpo.freeze_thaw.cube import Array, Cube
from hpo.freeze_thaw.curves import (
    Curves,
    Earlier,
    Paused,
    Seen,
    is_logarithmic,
    rungs,
    stage,
    standardized,
    telling,
)
from hpo.freeze_thaw.index import Stages, index, log_improvement
from hpo.freeze_thaw.process import FITTED_ROWS, Kernel, Posterior, Rows, fit
from hpo.freeze_thaw.proposals import new_trials, propose
from hpo.history import History, TrialHistory, seed_for
from hpo.spec import Parameter, Scalar
from hpo.strategy import New, Resume

FIRST = 8  # trials that fill the space evenly, before the model is asked
FEWEST = 4  # observations that a model is made of
GROWTH = 1.2  # a fit anew whenever there are so many times the observations
# At the beginning, for so many whole trials' epochs, the best promise of a paused trial is to be
# beaten as if it was kept: the search looks around before it trains to the end.
OPENING = 20
COMPLETION = 2  # for so many whole trials' epochs, one trial at least is trained to its end
MOST_EARLIER = 80  # trials of each earlier study: half of them its best, the others at random
CONSIDERED = 60  # paused trials, those of the best predicted final values


@dataclass(frozen=True)
class Model:
    """A fitted kernel, and whether it is for values on a log scale."""

    kernel: Kernel
    log: bool


class FreezeThaw:
    """The strategy of one study.

    Args:
        search: What is searched.
        length: A configuration's epochs.
        maximize: Whether more is better.
        seed: The study's.
        earlier: Whole trials of other studies.
        counts: Which epoch of a trial gives its value: the best, as in every study of hpo, or the
            last one so far, as in published tables.
    """

    def __init__(
        self,
        search: Mapping[str, Parameter],
        length: Callable[[Mapping[str, Scalar]], int],
        *,
        maximize: bool,
        seed: int,
        earlier: Sequence[Earlier] = (),
        counts: Literal["best", "last"] = "best",
    ) -> None:
        # Of such small matrices several threads make a slow business, and they would be taken
        # from the training.
        ThreadpoolController().select(internal_api="openblas").limit(limits=1)
        self._cube = Cube(search)
        self._curves = Curves(self._cube, length, maximize, counts)
        self._length = length
        self._seed = seed
        self._earlier = self._rows_of(earlier)
        self._first = self._cube.sobol(seed_for(seed, 0, "sobol"), 64)
        self._points: list[bytes] = []  # of the trials in the history, in its order
        self._fits: dict[int, Future[Model]] = {}
        self._fitting = ThreadPoolExecutor(1, thread_name_prefix="fit")

    # -- what the orchestrator asks

    def decide(self, history: History, pending: Sequence[TrialHistory]) -> New | Resume | None:
        """What to train next; None when no paused trial, and no configuration that is untried,
        can be trained to its end in what is left of the budget.

        It depends on the record and on `pending` alone: asked again after a restart, the answer
        is the same.
        """
        seen = self._curves.see(history, pending)
        budget = history.study["budget"] if history.study else {}
        epochs, trials = budget.get("epochs"), budget.get("trials")
        left = np.inf if epochs is None else epochs - seen.spent
        may_begin = trials is None or seen.begun < trials
        rng = np.random.default_rng(seed_for(self._seed, seen.decisions, "freeze-thaw"))
        known = self._tried(history, pending)
        if not self._knows_enough(seen):
            fresh = self._spread(seen, rng, known, left) if may_begin else None
            return fresh or self._most_advanced(seen, left)
        posterior, scores = self._posterior(seen, rng)
        paused = seen.paused[seen.paused.lengths - seen.paused.done <= left]
        promise = posterior.mean(paused.ends())
        paused, promise = _best(paused, promise, CONSIDERED)
        best = self._to_beat(seen, posterior, scores, promise)
        if len(paused) and seen.since >= COMPLETION * seen.length:
            return Resume(int(paused.numbers[0]), None)
        params = None
        if may_begin:
            leaders = self._leaders(posterior)

            def is_out(point: Array) -> bool:
                return point.tobytes() in known or self._length(self._cube.decode(point)) > left

            point = propose(self._cube, posterior, leaders, best, rng, is_out)
            params = None if point is None else self._cube.decode(point)
        if params is None and not len(paused):
            return None
        return self._choose(posterior, paused, params, best)

    def hopeless(self, history: History) -> list[int]:
        """Paused trials, those that are least likely to be the best one first."""
        seen = self._curves.see(history, ())
        if not self._knows_enough(seen):
            return [int(number) for number in seen.paused.numbers[::-1]]
        posterior, scores = self._posterior(seen, np.random.default_rng(0))
        mean, variance = posterior.at(seen.paused.ends())
        best = self._to_beat(seen, posterior, scores, mean)
        order = np.argsort(log_improvement(mean, np.sqrt(variance), best), kind="stable")
        return [int(number) for number in seen.paused.numbers[order]]

    def follow(self, history: History) -> None:
        """Begin the fit that a later decision will need, beside the training."""
        seen = self._curves.see(history, ())
        if self._knows_enough(seen):
            self._fit(seen)

    # -- inner parts

    def _tried(self, history: History, pending: Sequence[TrialHistory]) -> set[bytes]:
        """The points of all configurations so far."""
        for trial in itertools.islice(history.trials.values(), len(self._points), None):
            self._points.append(self._curves.curve(trial).point.tobytes())
        return {*self._points, *(self._curves.curve(each).point.tobytes() for each in pending)}

    def _knows_enough(self, seen: Seen) -> bool:
        """Whether there is something to make a model of."""
        if len(self._earlier[1]) >= FEWEST:
            return True
        return seen.begun >= FIRST and len(seen.scores) >= FEWEST

    def _spread(
        self, seen: Seen, rng: np.random.Generator, known: set[bytes], left: float
    ) -> New | None:
        """A configuration to begin with, when too little is known to choose."""
        points = [*self._first[seen.begun :], *self._cube.random(rng, 64)]
        for point in points:
            params = self._cube.decode(point)
            length = self._length(params)
            if point.tobytes() not in known and length <= left:
                return New(params, _until(rungs(length)[0], length))
        return None

    def _most_advanced(self, seen: Seen, left: float) -> Resume | None:
        """The best of the paused trials that fit in what is left, to its end; by what it has."""
        latest = {int(t): score for t, score in zip(seen.rows.trials, seen.scores, strict=True)}
        fits = seen.paused[seen.paused.lengths - seen.paused.done <= left]
        best = max(fits.numbers.tolist(), key=lambda each: latest.get(each, -np.inf), default=None)
        return None if best is None else Resume(best, None)

    def _posterior(self, seen: Seen, rng: np.random.Generator) -> tuple[Posterior, Array]:
        """What the model knows, trials in training taken as it expects them; and the values of
        the rows that it knows."""
        model = self._model(seen)
        values = standardized(seen.scores, model.log and bool(np.all(seen.scores < 0)))
        kept = telling(seen.rows, values, rng)
        rows, known = seen.rows[kept], values[kept]
        if len(self._earlier[1]):
            rows, known = rows.with_(self._earlier[0]), np.append(known, self._earlier[1])
        posterior = Posterior(model.kernel, rows, known)
        if len(seen.going):
            expected = posterior.mean(seen.going)
            posterior = Posterior(model.kernel, rows.with_(seen.going), np.append(known, expected))
        return posterior, values

    def _model(self, seen: Seen) -> Model:
        """The newest fit; while others train, an older one rather than to wait for it."""
        wanted = self._fit(seen)
        if not wanted.done() and len(seen.going):
            done = [each for each in self._fits.values() if each.done()]
            wanted = done[-1] if done else wanted
        return wanted.result()

    def _fit(self, seen: Seen) -> Future[Model]:
        """The fit on the first rows, as many as the schedule has up to what was known when the
        newest decision was made: with one worker it is made while that is followed.

        Each starts from the one before, so that all of them depend on the record alone.
        """
        known = int((seen.decided < seen.decisions - 1).sum())
        rows = 0 if len(self._earlier[1]) >= FEWEST else FEWEST
        fitting = self._fit_on(seen, rows, None)
        while (rows := max(rows + 1, int(rows * GROWTH))) <= known:
            fitting = self._fit_on(seen, rows, fitting)
        return fitting

    def _fit_on(self, seen: Seen, rows: int, before: Future[Model] | None) -> Future[Model]:
        if rows not in self._fits:
            self._fits[rows] = self._fitting.submit(
                self._fitted, seen.rows[:rows], seen.scores[:rows], before
            )
        return self._fits[rows]

    def _fitted(self, rows: Rows, scores: Array, before: Future[Model] | None) -> Model:
        log = is_logarithmic(scores)
        values = standardized(scores, log)
        if len(rows) > FITTED_ROWS:
            rng = np.random.default_rng(seed_for(self._seed, len(rows), "fit"))
            some = rng.permutation(len(rows))[:FITTED_ROWS]
            rows, values = rows[some], values[some]
        if len(self._earlier[1]):
            rows, values = rows.with_(self._earlier[0]), np.append(values, self._earlier[1])
        start = None if before is None else before.result().kernel  # it was submitted before
        return Model(fit(rows, values, self._cube.group, start), log)

    def _to_beat(self, seen: Seen, posterior: Posterior, values: Array, promise: Array) -> float:
        """The best final value, of those too that are being trained to their end."""
        final = values[seen.rows.stages >= 1]
        to_end = seen.going[seen.going.stages >= 1]
        best = max([*final, *posterior.mean(to_end)], default=-np.inf)
        if seen.spent < OPENING * seen.length or not np.isfinite(best):
            best = max([best, *promise])
        if not np.isfinite(best):  # of other studies, or of a stage before the end
            at = self._earlier[0].points if len(self._earlier[1]) else seen.rows.points
            best = posterior.mean(new_trials(at)).max()
        return float(best)

    def _leaders(self, posterior: Posterior) -> Array:
        """The configurations that the model knows, the most promising first."""
        _, first = np.unique(posterior.rows.trials, return_index=True)
        points = posterior.rows.points[first]
        order = np.argsort(-posterior.mean(new_trials(points)), kind="stable")
        return points[order]

    def _choose(
        self,
        posterior: Posterior,
        paused: Paused,
        params: Mapping[str, Scalar] | None,
        best: float,
    ) -> New | Resume:
        """The paused trial, or the new configuration, whose epochs are worth most."""
        trials, lengths, done = paused.ends(), paused.lengths, paused.done
        if params is not None:
            trials = trials.with_(new_trials(self._cube.encode(params)[None]))
            lengths, done = np.append(lengths, self._length(params)), np.append(done, 0)
        epochs = np.array([_padded(rungs(int(length))) for length in lengths])
        far = np.vectorize(stage)(epochs, lengths[:, None])
        worth, until = index(posterior, trials, Stages(epochs, far, done), best)
        first = int(np.argmax(worth))
        upto = _until(int(until[first]), int(lengths[first]))
        if first == len(paused):
            assert params is not None
            return New(params, upto)
        return Resume(int(paused.numbers[first]), upto)

    def _rows_of(self, earlier: Sequence[Earlier]) -> tuple[Rows, Array]:
        """Earlier studies' final values as observations, each study's of its own mean."""
        points = np.array([self._cube.encode(trial.params) for trial in earlier])
        studies = np.array([trial.study for trial in earlier], dtype=int)
        values = np.zeros(len(earlier))
        kept = np.zeros(len(earlier), dtype=bool)
        for study in np.unique(studies):
            of_study = np.flatnonzero(studies == study)
            scores = np.array([earlier[int(i)].score for i in of_study])
            values[of_study] = standardized(scores, is_logarithmic(scores))
            best_first = of_study[np.argsort(-scores, kind="stable")]
            rng = np.random.default_rng(seed_for(self._seed, int(study), "earlier"))
            others = rng.permutation(best_first[MOST_EARLIER // 2 :])[: MOST_EARLIER // 2]
            kept[best_first[: MOST_EARLIER // 2]] = kept[others] = True
        rows = Rows(
            points.reshape(len(earlier), self._cube.columns),
            np.ones(len(earlier)),
            -1_000_000 - np.arange(len(earlier)),
            studies,
        )
        return rows[kept], values[kept]


def _until(epoch: int, length: int) -> int | None:
    return None if epoch >= length else epoch


def _padded(stops: list[int]) -> list[int]:
    """As many as a trial of many epochs has."""
    return [stops[0]] * (4 - len(stops)) + stops


def _best(paused: Paused, promise: Array, most: int) -> tuple[Paused, Array]:
    order = np.argsort(-promise, kind="stable")[:most]
    return paused[order], promise[order]
