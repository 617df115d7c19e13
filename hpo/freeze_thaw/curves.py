"""What is on record of the trials, as observations of a process."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpo.causes import DIVERGED
from hpo.freeze_thaw.cube import Array, Cube
from hpo.freeze_thaw.process import Rows
from hpo.history import History, TrialHistory
from hpo.spec import Scalar

PARTS = (1 / 8, 1 / 4, 1 / 2, 1)  # of a trial's epochs, at which it may be paused
BOTTOM = 2.0  # values so many times as far below the median as the best is above it are cut off
MOST_ROWS = 256  # that a decision is made on; a decision takes time with their cube
MOST_A_STAGE = 32  # the best ones, of each stage but the last
# Values are compared on a log scale where the best one is so many times smaller than the median.
SPAN = 3.0


def rungs(length: int) -> list[int]:
    """The epochs at which a trial of `length` may be paused, and its last: 6, 13, 26 and 52."""
    return sorted({max(1, round(part * length - 1e-9)) for part in PARTS})


def stage(epoch: int, length: int) -> float:
    """How far a trial is, on a log scale: 1 at its end, less by 0.17 for each half."""
    return float(1 + np.log(epoch / length) / 4)


@dataclass(frozen=True)
class Earlier:
    """A whole trial of another study; `score`: more is better."""

    params: Mapping[str, Scalar]
    score: float
    study: int


@dataclass
class Curve:
    """A trial.

    Attributes:
        scores: At its rungs so far the best value up to there; more is better.
    """

    point: Array
    length: int
    rungs: Sequence[int]
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Paused:
    """Paused trials: their numbers, points, epochs trained and lengths."""

    numbers: NDArray[np.int_]
    points: Array
    done: NDArray[np.int_]
    lengths: NDArray[np.int_]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: NDArray[Any]) -> Paused:
        return Paused(
            self.numbers[chosen], self.points[chosen], self.done[chosen], self.lengths[chosen]
        )

    def ends(self) -> Rows:
        """What the process is asked about them: their final values."""
        count = len(self)
        return Rows(self.points, np.ones(count), self.numbers, np.zeros(count, dtype=int))


@dataclass(frozen=True)
class Seen:
    """The state of a study.

    Attributes:
        rows: What was observed, in the order of the decisions that led to it.
        scores: The values there, (n,), more is better; -inf where a trial diverged.
        decided: Of each row, the index of that decision.
        going: What trials in training, and those to begin, are trained up to.
        paused: The trials that may be resumed.
        begun: Trials so far.
        decisions: So far.
        since: The epochs decided on since a trial was last to be trained to its end.
        spent: Epochs trained, and to be trained as decided.
        length: The longest trial's epochs.
    """

    rows: Rows
    scores: Array
    decided: NDArray[np.int_]
    going: Rows
    paused: Paused
    begun: int
    decisions: int
    since: int
    spent: int
    length: int


Observation = tuple[Array, float, int, float, int]  # point, stage, trial, score, decision


@dataclass(frozen=True)
class _Observations:
    """As in `Seen`."""

    rows: Rows
    scores: Array
    decided: NDArray[np.int_]

    def with_(self, more: _Observations) -> _Observations:
        if not len(more.scores):
            return self
        return _Observations(
            self.rows.with_(more.rows),
            np.concatenate([self.scores, more.scores]),
            np.concatenate([self.decided, more.decided]),
        )


class Curves:
    """The trials of a study, kept from one decision to the next.

    Args:
        length: A configuration's epochs.
        counts: Which epoch of a trial gives its value: the best, or the last one so far.
    """

    def __init__(
        self,
        cube: Cube,
        length: Callable[[Mapping[str, Scalar]], int],
        maximize: bool,
        counts: Literal["best", "last"] = "best",
    ) -> None:
        self._cube = cube
        self._length = length
        self._sign = 1.0 if maximize else -1.0
        self._counts = counts
        self._curves: dict[int, Curve] = {}
        self._longest = 1
        # Of the first decisions, of which nothing more will come: they are looked at once.
        self._done = 0
        self._since = 0
        self._marks: dict[int, tuple[int, int]] = {}
        self._known = self._observations([])

    def see(self, history: History, pending: Sequence[TrialHistory]) -> Seen:
        """What has been observed, and what is under way.

        Args:
            pending: Trials that are to begin, or to go on; not on record as such yet.
        """
        begin, decisions = self._done, history.decisions
        while self._done < len(decisions) and self._is_done(history, decisions[self._done]):
            self._done += 1
        told, self._since = self._walk(history, begin, self._done, self._marks, self._since)
        self._known = self._known.with_(self._observations(told))
        marks: MutableMapping[int, tuple[int, int]] = ChainMap({}, self._marks)
        told, since = self._walk(history, self._done, len(decisions), marks, self._since)
        known = self._known.with_(self._observations(told))

        new = {trial.number: trial for trial in pending}
        for trial in pending:
            since = self._counted(trial, trial.until, marks, since)
        running = [
            trial
            for trial in history.trials.values()
            if trial.end is None and not trial.paused and trial.number not in new
        ]
        going = [(trial, self.curve(trial)) for trial in [*running, *pending]]
        paused = [trial for trial in history.paused if trial.number not in new]
        ahead = sum(max(0, (t.until or c.length) - t.recorded) for t, c in going)
        return Seen(
            rows=known.rows,
            scores=known.scores,
            decided=known.decided,
            going=self._rows(
                [curve.point for _, curve in going],
                [stage(trial.until or curve.length, curve.length) for trial, curve in going],
                [trial.number for trial, _ in going],
            ),
            paused=self._paused(paused),
            begun=len(history.trials) + sum(number not in history.trials for number in new),
            decisions=len(decisions) + len(pending),
            since=since,
            spent=history.epochs + ahead,
            length=self._longest,
        )

    def curve(self, trial: TrialHistory) -> Curve:
        """A trial as it is now."""
        curve = self._curves.get(trial.number)
        if curve is None:
            length = self._length(trial.params)
            curve = Curve(self._cube.encode(trial.params), length, rungs(length))
            self._curves[trial.number] = curve
            self._longest = max(self._longest, length)
        while len(curve.scores) < len(curve.rungs):
            rung = curve.rungs[len(curve.scores)]
            if rung > trial.recorded:
                break
            scores = [self._sign * v[0] for e, v in trial.values.items() if e <= rung]
            curve.scores.append(max(scores) if self._counts == "best" else scores[-1])
        return curve

    def _is_done(self, history: History, decision: tuple[int, int | None]) -> bool:
        """Whether what was decided has happened, or will not any more.

        A trial that is where it was to pause may still stop early with that epoch.
        """
        number, until = decision
        trial = history.trials[number]
        if until is not None and trial.recorded == until and trial.until == until:
            return trial.paused or trial.end is not None
        return trial.end is not None or trial.recorded >= (until or self.curve(trial).length)

    def _walk(
        self,
        history: History,
        begin: int,
        end: int,
        marks: MutableMapping[int, tuple[int, int]],
        since: int,
    ) -> tuple[list[Observation], int]:
        """What decisions `begin` to `end` have led to; and `since` after them.

        Args:
            marks: Trial → how many of its rungs have been told, and until when it was to train;
                brought up to date.
        """
        told: list[Observation] = []
        for index in range(begin, end):
            number, until = history.decisions[index]
            trial = history.trials[number]
            curve, target = self.curve(trial), until or self.curve(trial).length
            first, _ = marks.get(number, (0, 0))
            last = min(len(curve.scores), sum(rung <= target for rung in curve.rungs))
            for rung in range(first, last):
                far = stage(curve.rungs[rung], curve.length)
                told.append((curve.point, far, number, curve.scores[rung], index))
            final = self._final(trial, target)
            if final is not None:
                told.append((curve.point, 1.0, number, final, index))
            since = self._counted(trial, until, marks, since)
            marks[number] = max(first, last), target
        return told, since

    def _counted(
        self,
        trial: TrialHistory,
        until: int | None,
        marks: MutableMapping[int, tuple[int, int]],
        since: int,
    ) -> int:
        """`since` after one more decision."""
        length = self.curve(trial).length
        target = until or length
        _, reached = marks.get(trial.number, (0, 0))
        return 0 if target == length else since + target - reached

    def _final(self, trial: TrialHistory, target: int) -> float | None:
        """The final score of a trial that ended by itself before its last epoch, or None."""
        if trial.end is None or trial.recorded > target or "duplicate_of" in trial.end:
            return None
        if trial.end["state"] == "complete":  # stopped early
            whole = trial.recorded >= self.curve(trial).length
            return None if whole else self._sign * float(trial.end["values"][0])
        diverged = trial.recorded < target and trial.end["reason"].startswith(DIVERGED)
        return -np.inf if diverged else None

    def _observations(self, told: Sequence[Observation]) -> _Observations:
        points, stages, numbers, scores, decided = (
            zip(*told, strict=True) if told else ((), (), (), (), ())
        )
        return _Observations(
            self._rows(points, stages, numbers),
            np.array(scores, dtype=float),
            np.array(decided, dtype=int),
        )

    def _rows(
        self, points: Sequence[Array], stages: Sequence[float], numbers: Sequence[int]
    ) -> Rows:
        return Rows(
            np.array(points, dtype=float).reshape(len(points), self._cube.columns),
            np.array(stages, dtype=float),
            np.array(numbers, dtype=int),
            np.zeros(len(points), dtype=int),
        )

    def _paused(self, trials: Sequence[TrialHistory]) -> Paused:
        curves = [self.curve(trial) for trial in trials]
        return Paused(
            np.array([trial.number for trial in trials], dtype=int),
            np.array([curve.point for curve in curves]).reshape(len(curves), self._cube.columns),
            np.array([trial.recorded for trial in trials], dtype=int),
            np.array([curve.length for curve in curves], dtype=int),
        )


def standardized(scores: Array, log: bool) -> Array:
    """Scores as a process takes them: the worst cut off, of zero mean and unit variance.

    Args:
        scores: (n,); -inf is as bad as the worst that is told apart.
        log: They are minus something above 0, and are compared by its logarithm.
    """
    if not len(scores):
        return scores
    if not np.isfinite(scores).any():
        return np.zeros(len(scores))
    scores = np.where(np.isfinite(scores), scores, np.nan)
    if log:
        scores = -np.log(-scores)
    top, middle = np.nanmax(scores), np.nanmedian(scores)
    floor = middle - BOTTOM * (top - middle)
    cut: Array = np.maximum(np.nan_to_num(scores, nan=floor), floor)
    values: Array = (cut - cut.mean()) / (cut.std() or 1.0)
    return values


def is_logarithmic(scores: Array) -> bool:
    """Whether scores are better compared on a log scale: errors that become a fraction."""
    finite = scores[np.isfinite(scores)]
    return bool(len(finite) and finite.max() < 0 and np.median(finite) < SPAN * finite.max())


def telling(rows: Rows, values: Array, rng: np.random.Generator) -> NDArray[np.int_]:
    """The rows that a decision is made on, where there are too many: all finals, the best of the
    other stages, and some at random."""
    count = len(rows)
    if count <= MOST_ROWS:
        return np.arange(count)
    last = rows.stages >= 1
    kept = last.copy()
    # Rungs of trials of different lengths differ a little; they are told apart by halves.
    depth = np.round((1 - rows.stages) * 4 / np.log(2)).astype(int)
    for each in np.unique(depth[~last]):
        of_stage = np.flatnonzero((depth == each) & ~last)
        kept[of_stage[np.argsort(-values[of_stage], kind="stable")[:MOST_A_STAGE]]] = True
    room = MOST_ROWS - int(kept.sum())
    if room < 0:
        dropped = np.flatnonzero(last)
        kept[dropped[np.argsort(values[dropped], kind="stable")[:-room]]] = False
    elif room > 0:
        kept[rng.permutation(np.flatnonzero(~kept))[:room]] = True
    return np.flatnonzero(kept)
