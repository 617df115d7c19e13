"""Workers as the orchestrator sees them, and how many trials one of them may train at once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from hpo.budget import whole_trials
from hpo.errors import WorkerLost
from hpo.executors import Executor
from hpo.history import State, TrialHistory
from hpo.messages import Setup
from hpo.progress import WorkerProgress
from hpo.spec import StudySpec
from trainers.registry import stack_key

MOST_DEATHS = 3  # of a worker before it was ready
MOST_LANES = 64  # that `lanes: auto` uses: beyond, a stack costs what its trials cost in turn
REFILL_BELOW = 32  # lanes: above, a trial that leaves gives its time back to the others
ROUNDS_TO_LEARN = 4  # so often at least `lanes: auto` lets a sampler learn from all that train


@dataclass
class Training:
    """A trial on its seat.

    Attributes:
        epochs: How many it is to train, if the study file says.
        log_start: How much its worker had printed when it was assigned, in bytes.
        before_s: Seconds it had trained before that, on the clock.
        began_s: When it was assigned (`time.monotonic`).
        heard_s: When its last epoch came; None: it was said that none has come for long.
        stop: The state and reason with which it is to end, once that is decided.
    """

    trial: TrialHistory
    epochs: Any
    log_start: int
    before_s: float
    began_s: float = field(default_factory=time.monotonic)
    heard_s: float | None = field(default_factory=time.monotonic)
    stop: tuple[State, str] | None = None

    @property
    def wall_s(self) -> float:
        """For how long it has trained, by the clock."""
        return self.before_s + time.monotonic() - self.began_s


@dataclass
class Seat:
    """One worker, as the orchestrator sees it.

    Attributes:
        trainings: Its trials by number, in the order in which they began.
        pausing: Those that are paused, until it has told that they have left.
        kind: Of its trials (`Lanes.kind`).
        measuring: The kind of which it finds out how many pay.
        deaths: How often the worker ended before it was ready.
        leaving: It was told to end, and another is to take its place.
        node: The name of its machine, where workers live on several.
    """

    setup: Setup
    ready: bool = False
    trainings: dict[int, Training] = field(default_factory=dict)
    pausing: dict[int, Training] = field(default_factory=dict)
    kind: str | None = None
    measuring: str | None = None
    deaths: int = 0
    leaving: bool = False
    node: str | None = None

    @property
    def number(self) -> int:
        return self.setup.worker

    @property
    def is_open(self) -> bool:
        """Whether trials can be given to it."""
        return self.ready and not self.leaving and self.measuring is None and not self.pausing

    def progress(self, maximize: bool) -> WorkerProgress:
        """What it does now."""
        if not self.ready:
            return WorkerProgress(self.number, "starting")
        if not self.trainings:
            state: Literal["measuring", "idle"] = "measuring" if self.measuring else "idle"
            return WorkerProgress(self.number, state, node=self.node)
        going = list(self.trainings.values())
        recorded = [each.trial.recorded for each in going]
        values = [t.values[t.recorded][0] for t in (e.trial for e in going) if t.values]
        return WorkerProgress(
            self.number,
            "training",
            going[0].trial.number,
            min(recorded),
            max((each.epochs for each in going if each.epochs), default=None),
            (max if maximize else min)(values, default=None),
            lanes=len(going),
            furthest=max(recorded),
            node=self.node,
        )


def restart(executor: Executor, seat: Seat, reason: str) -> None:
    """Start a worker again that ended before it was ready.

    Raises:
        WorkerLost: It has done so too often.
    """
    seat.ready = False
    seat.deaths += 1
    if seat.deaths >= MOST_DEATHS:
        raise WorkerLost(
            f"worker {seat.number} ended {seat.deaths} times before it was ready: {reason}\n"
            "`hpo doctor` shows what this machine has."
        )
    executor.start(seat.setup)


@dataclass
class Lanes:
    """Which trials train together, and how many at most.

    A kind is what trials have in common that can train together. How many of a kind pay, a worker
    measures (`lanes: auto`); and there are never so many that a sampler which learns from results
    would suggest most of a study's trials without any.

    Attributes:
        seats: How many there are.
        learns: Whether the sampler uses the results of earlier trials.
        measured: Kind → the number that pays.
    """

    seats: int
    learns: bool
    measured: dict[str, int] = field(default_factory=dict)
    _kinds: dict[int, str | None] = field(default_factory=dict)  # by trial

    def kind(self, spec: StudySpec, trial: TrialHistory) -> str | None:
        """What can train together with a trial; None: nothing can, or nothing is to."""
        if trial.is_suspect:
            return None
        if trial.number not in self._kinds:
            self._kinds[trial.number] = stack_key(spec.trainer, spec.config(trial.params))
        return self._kinds[trial.number]

    def most(self, spec: StudySpec) -> int:
        """How many trials this study lets one worker train, of whatever kind."""
        if spec.lanes == "off" or spec.fresh_process or spec.devices > 1:
            return 1
        if spec.lanes != "auto":
            return spec.lanes
        trials = whole_trials(spec)
        if trials is None:
            return MOST_LANES
        rounds = ROUNDS_TO_LEARN if self.learns else 1
        return min(MOST_LANES, math.ceil(trials / (rounds * self.seats)))

    def limit(self, spec: StudySpec, kind: str | None) -> int | None:
        """How many trials of a kind may train together; None: that is to be measured."""
        most = self.most(spec)
        if kind is None or most == 1:
            return 1
        if spec.lanes != "auto":
            return most
        return min(most, self.measured[kind]) if kind in self.measured else None

    def room(self, spec: StudySpec, seat: Seat) -> int:
        """How many trials may join those that a seat trains."""
        lanes = min(self.limit(spec, seat.kind) or 1, REFILL_BELOW)
        return max(0, lanes - len(seat.trainings))


def in_training(seats: Iterable[Seat]) -> Iterator[Training]:
    """What all seats train."""
    return (each for seat in seats for each in seat.trainings.values())


def is_training(seats: Iterable[Seat]) -> bool:
    """Whether any of the seats trains something; of many that do, only the first is looked at."""
    return any(seat.trainings for seat in seats)
