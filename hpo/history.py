"""What has happened in a study so far, read from its outbox.

The outbox is the study's write-ahead log: what stands there has happened, even where Optuna or
MLflow do not know it yet. The orchestrator starts from this and keeps it up to date.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hpo.tracking import outbox
from trainers.contract import PARTS

State = Literal["complete", "pruned", "failed", "stopped"]


@dataclass
class TrialHistory:
    """One trial.

    Attributes:
        number: The trial's number.
        attempts: How often it was assigned.
        crashes: How often its worker died; an interruption is none.
        broke_off: Something went wrong with trials that it was trained together with. Not kept
            over a restart.
        verdict: The state and reason with which it is to end, once that is decided.
        until: The epoch after which it is to pause; None: it trains to its end.
        targets: What `until` has been so far, in order.
        paused: It is neither in training nor over: a ``pause`` is the newest that happened to it.
        values: epoch → the objective's values at its end.
        folds: epoch → the first objective's value of each fold and repeat, by their name
            (``fold/3``). Forgotten when the trial ends, unless it is the best one.
        train_s: Seconds of training on record: its share, where others trained with it.
        wall_s: The same on the clock.
        end: The ``end`` record, or None while the trial is not over.
    """

    number: int
    params: Mapping[str, Any]
    attempts: int = 0
    crashes: int = 0
    broke_off: bool = False
    verdict: tuple[State, str] | None = None
    until: int | None = None
    targets: list[int | None] = field(default_factory=list)
    paused: bool = False
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)
    folds: dict[int, dict[str, float]] = field(default_factory=dict)
    train_s: float = 0.0
    wall_s: float = 0.0
    end: Mapping[str, Any] | None = None

    @property
    def recorded(self) -> int:
        """The last epoch on record; 0 for none."""
        return max(self.values, default=0)

    @property
    def is_suspect(self) -> bool:
        """Whether it may be to blame for what went wrong: it is not to take others along."""
        return self.crashes > 0 or self.broke_off

    def best_epoch(self, maximize: bool) -> int | None:
        """The first of the best epochs by the first objective, or None."""
        if not self.values:
            return None
        sign = -1 if maximize else 1
        return min(self.values, key=lambda epoch: (sign * self.values[epoch][0], epoch))


@dataclass(frozen=True)
class Best:
    """The best complete trial by the first objective; the first of equals."""

    number: int
    value: float
    epoch: int


@dataclass
class History:
    """All trials, and what has been spent.

    Attributes:
        metrics: The objectives' metrics.
        maximize: Whether more is better, of the first objective.
        study: The newest ``study`` record with the budget of now, or None for a new study.
        asked_trials: The budget of trials that was last asked for on a command line, or None.
        trials: Begun trials by number.
        decisions: Which trial was begun or went on, and until which epoch it was to be trained
            (None: its end), in order; a further attempt at the same is none.
        ended: Those that are over, in the order in which they ended.
        counted: Trials that count towards the budget: all but those answered from a twin's record.
        counts: How many of those are over, by state.
        best: By the first objective, or None.
        since_best: Complete and pruned trials since the best one; of the pruned ones none that was
            paused: it was left, not beaten.
        epochs: Epochs on record, over all trials.
        train_s: Seconds of training on record, over all trials.
        wall_s: Seconds in which an orchestrator ran, over all earlier sessions.
        members: Trials that a recorded ensemble is made of.
        complete: Whether the newest run came to the study's end, with all that follows from it.
        moved_to: The storage in which `hpo.migrate` has put it since its newest run, or None.
    """

    metrics: Sequence[str]
    maximize: bool
    study: Mapping[str, Any] | None = None
    asked_trials: int | None = None
    trials: dict[int, TrialHistory] = field(default_factory=dict)
    decisions: list[tuple[int, int | None]] = field(default_factory=list)
    ended: list[TrialHistory] = field(default_factory=list)
    counted: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    best: Best | None = None
    since_best: int = 0
    epochs: int = 0
    train_s: float = 0.0
    wall_s: float = 0.0
    members: set[int] = field(default_factory=set)
    complete: bool = False
    moved_to: str | None = None
    _session: tuple[int, int] | None = None  # first and newest time_ms of the running session

    @property
    def paused(self) -> list[TrialHistory]:
        """Trials that may be resumed, in the order in which they began."""
        return [trial for trial in self.trials.values() if trial.paused]

    @classmethod
    def read(cls, path: Path, metrics: Sequence[str], maximize: bool) -> History:
        """The history in the outbox at `path`; an empty one when there is no such file.

        Raises:
            RecordsLost: The outbox is damaged.
        """
        history = cls(metrics, maximize)
        if path.is_file():
            for record in outbox.read_whole(path):
                history.add(record)
        history._end_session()
        return history

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in one record of the outbox."""
        kind = record["kind"]
        if kind == "ensemble":  # made of trials, perhaps long after the last session
            self.members |= {member["trial"] for member in record.get("members", ())}
            return
        if kind == "confirmation":
            return
        if kind == "storage":
            self.moved_to = record["storage"]
            return
        if kind == "study":
            self._end_session()
            self.study, self.complete, self.moved_to = record, False, None
            self._session = (record["time_ms"], record["time_ms"])
        elif self._session:
            self._session = (self._session[0], max(self._session[1], record["time_ms"]))
        if kind == "trial":
            number = record["number"]
            trial = self.trials.setdefault(number, TrialHistory(number, record["params"]))
            self.counted += trial.attempts == 0
            trial.attempts, trial.crashes = record["attempt"], record["crashes"]
            self._train_until(trial, record.get("until"))
        elif kind == "until":
            self._train_until(self.trials[record["number"]], record["until"])
        elif kind == "pause":
            self.trials[record["number"]].paused = True
        elif kind == "budget":
            self.asked_trials = record["budget"]["trials"]
            if self.study is not None:
                self.study = {**self.study, "budget": record["budget"]}
        elif kind == "study_end":
            self.complete = record["state"] == "complete"
        elif kind == "verdict":
            self.trials[record["number"]].verdict = (record["state"], record["reason"])
        elif kind == "epoch":
            trial = self.trials[record["number"]]
            trial.values[record["epoch"]] = tuple(record["metrics"][m] for m in self.metrics)
            of_objective = f"/{self.metrics[0]}"
            folds = {
                name.removesuffix(of_objective): value
                for name, value in record["metrics"].items()
                if name.startswith(PARTS) and name.endswith(of_objective)
            }
            if folds:
                trial.folds[record["epoch"]] = folds
            trial.train_s += record["seconds"]
            trial.wall_s += record["seconds"] * record.get("lanes", 1)
            self.train_s += record["seconds"]
            self.epochs += 1
        elif kind == "end":
            before = self.best
            self._add_end(record)
            for number in {record["number"], *([before.number] if before else [])}:
                if self.best is None or number != self.best.number:
                    self.trials[number].folds.clear()

    def _train_until(self, trial: TrialHistory, until: int | None) -> None:
        trial.until, trial.paused = until, False
        if until not in trial.targets:
            trial.targets.append(until)
            self.decisions.append((trial.number, until))

    def _add_end(self, end: Mapping[str, Any]) -> None:
        trial = self.trials[end["number"]]
        was_paused = trial.paused
        trial.end, trial.paused = end, False
        self.ended.append(trial)
        if "duplicate_of" in end:
            self.counted -= 1
            return
        self.counts[end["state"]] += 1
        if end["state"] == "complete":
            found = Best(end["number"], end["values"][0], end["best_epoch"])
            if self.best is None or self._beats(found, self.best):
                self.best, self.since_best = found, 0
                return
        if end["state"] in ("complete", "pruned") and not was_paused:
            self.since_best += 1

    def _beats(self, one: Best, other: Best) -> bool:
        if one.value == other.value:
            return one.number < other.number
        return one.value > other.value if self.maximize else one.value < other.value

    def _end_session(self) -> None:
        if self._session:
            self.wall_s += (self._session[1] - self._session[0]) / 1e3
            self._session = None


def seed_for(seed: int, number: int, purpose: str) -> int:
    """A seed in [0, 2**32) for one purpose of one trial, independent of all others."""
    digest = hashlib.blake2b(f"{seed}/{number}/{purpose}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
