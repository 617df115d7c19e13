"""What the outbox says, gathered for shipping: which trials have news, and what is known of them.

Records of a trial that is over are forgotten once shipped, so memory holds only open trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]


@dataclass
class TrialProgress:
    """One trial.

    Attributes:
        number: The trial's number.
        began_ms: Time of the first record.
        assigned: The newest ``trial`` record, or None (its line was damaged).
        epochs: epoch → its record.
        fresh: The epochs to be shipped.
        first: Whether the first assignment is among what is to be shipped.
        again: Whether a later assignment is: the trial goes on.
        spans: Who trained when: [worker, attempt, start_ms, end_ms] of each attempt, and a 1
            behind where it ended with a pause; an attempt that was paused or broken off ended
            with its last epoch, as far as is known.
        paused: Nothing happened to it after a pause, but perhaps its end.
        was_paused: It was at some time.
        end: The ``end`` record, or None.
    """

    number: int
    began_ms: int
    assigned: Record | None = None
    epochs: dict[int, Record] = field(default_factory=dict)
    fresh: list[Record] = field(default_factory=list)
    first: bool = False
    again: bool = False
    spans: list[list[int]] = field(default_factory=list)
    paused: bool = False
    was_paused: bool = False
    end: Record | None = None

    @property
    def best(self) -> Mapping[str, float]:
        """The metrics of the best epoch; none when there is none on record."""
        if self.end is None or self.end["best_epoch"] not in self.epochs:
            return {}
        metrics: Mapping[str, float] = self.epochs[self.end["best_epoch"]]["metrics"]
        return metrics


@dataclass
class StudyProgress:
    """A study.

    Attributes:
        study: The newest ``study`` record, with the budget of now.
        starts: How many there were.
        fresh_study: Whether it is to be shipped.
        fresh_budget: Whether its budget is, alone.
        end: The ``study_end`` record of the newest start, or None.
        fresh_end: Whether it is to be shipped.
        open: Trials without an end, by number.
        news: Trials with something to be shipped, by number.
        best: (value, number) of the best complete trial so far; None with several objectives.
        ended: How many trials ended in which state.
        improvements: Those trials among the news that were the best when they ended.
        ensembles: Records of ensembles over trials that are to be shipped.
        confirmation: The newest record of how the winner did on the test split, to be shipped.
    """

    study: Record | None = None
    starts: int = 0
    fresh_study: bool = False
    fresh_budget: bool = False
    end: Record | None = None
    fresh_end: bool = False
    open: dict[int, TrialProgress] = field(default_factory=dict)
    news: dict[int, TrialProgress] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    ended: Counter[str] = field(default_factory=Counter)
    improvements: list[TrialProgress] = field(default_factory=list)
    ensembles: list[Record] = field(default_factory=list)
    confirmation: Record | None = None

    def add(self, record: Record) -> None:
        """Take in a record of the outbox."""
        kind = record["kind"]
        if kind == "study":
            self.study, self.end, self.fresh_study = record, None, True
            self.starts += 1
        elif kind == "budget" and self.study is not None:
            self.study = {**self.study, "budget": record["budget"]}
            self.fresh_budget = True
        elif kind == "study_end":
            self.end, self.fresh_end = record, True
        elif kind in ("trial", "until", "epoch", "pause", "end"):
            self._add_to_trial(kind, record)
        elif kind == "ensemble":
            self.ensembles.append(record)
        elif kind == "confirmation":
            self.confirmation = record

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are in which state; those without an end count as running."""
        paused = sum(trial.paused for trial in self.open.values())
        going = {"running" if self.end is None else "waiting": len(self.open) - paused}
        still_open = {**going, "paused": paused}
        return {**self.ended, **{state: count for state, count in still_open.items() if count}}

    def shipped(self) -> None:
        """Forget what was news."""
        for trial in self.news.values():
            trial.fresh, trial.first, trial.again = [], False, False
        self.news, self.improvements, self.ensembles = {}, [], []
        self.confirmation = None
        self.fresh_study = self.fresh_budget = self.fresh_end = False

    def _add_to_trial(self, kind: str, record: Record) -> None:
        number = record["number"]
        trial = self.open.get(number) or self.news.get(number)
        if trial is None:
            trial = TrialProgress(number, record["time_ms"])
        self.open[number] = self.news[number] = trial
        if kind in ("pause", "until"):
            self._pause(trial, kind == "pause")
            return
        if kind == "trial":
            trial.assigned, trial.paused = record, False
            trial.first |= record["attempt"] == 1
            trial.again |= record["attempt"] > 1
            now_ms = record["time_ms"]
            trial.spans.append([record["worker"], record["attempt"], now_ms, now_ms])
            return
        if trial.spans and not trial.paused:
            trial.spans[-1][3] = record["time_ms"]
        if kind == "epoch":
            trial.epochs[record["epoch"]] = record
            trial.fresh.append(record)
        else:
            trial.end = record
            self.ended[record["state"]] += 1
            del self.open[number]
            self._compare(trial, record)

    @staticmethod
    def _pause(trial: TrialProgress, paused: bool) -> None:
        trial.paused = paused
        trial.was_paused |= paused
        if trial.spans:
            trial.spans[-1][4:] = [1] if paused else []

    def _compare(self, trial: TrialProgress, end: Record) -> None:
        objective = self.study["objective"] if self.study else []
        if len(objective) != 1 or end["state"] != "complete" or not trial.best:
            return
        value = end["values"][0]
        sign = -1 if objective[0]["goal"] == "maximize" else 1
        if self.best is None or (sign * value, trial.number) < (sign * self.best[0], self.best[1]):
            self.best = (value, trial.number)
            self.improvements.append(trial)
