"""One pass over a study's outbox: what `hpo.results` makes its tables of.

Damaged records are left out (`hpo.tracking.outbox` warns of them); what they said is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo import lease
from hpo.paths import StudyPaths
from hpo.tracking import outbox

Record = Mapping[str, Any]


@dataclass
class TrialLog:
    """One trial.

    Attributes:
        number: The trial's number.
        began: The first ``trial`` record.
        assigned: The newest one.
        session: Which start of the study it was last assigned in.
        epochs: While the trial is not over.
        end: The ``end`` record, or None.
        best: The record of the best epoch (so far), or None.
    """

    number: int
    began: Record
    assigned: Record
    session: int
    epochs: list[Record] = field(default_factory=list)
    end: Record | None = None
    best: Record | None = None


@dataclass
class StudyLog:
    """A study.

    Attributes:
        paths: Its files.
        study: The newest ``study`` record, or None (its line is damaged).
        end: The ``study_end`` record of the newest session, or None.
        sessions: How often the study was started.
        started_ms: When it was first started.
        updated_ms: When the last record was written.
        trials: By number.
        live: Whether an orchestrator runs it now.
    """

    paths: StudyPaths
    study: Record | None = None
    end: Record | None = None
    sessions: int = 0
    started_ms: int | None = None
    updated_ms: int | None = None
    trials: dict[int, TrialLog] = field(default_factory=dict)
    live: bool = False

    @classmethod
    def read(cls, paths: StudyPaths) -> StudyLog:
        log = cls(paths, live=lease.owner(paths.lease) is not None)
        for record, _ in outbox.read(paths.outbox):
            log._add(record)
        for trial in log.trials.values():
            if trial.end is None:
                trial.best = log._best_so_far(trial)
        return log

    @property
    def objective(self) -> list[dict[str, str]]:
        return list(self.study["objective"]) if self.study else []

    @property
    def dataset(self) -> Mapping[str, Any]:
        return (self.study or {}).get("dataset") or {}

    @property
    def state(self) -> str:
        """running, complete, stopped, failed or interrupted."""
        if self.live:
            return "running"
        return str(self.end["state"]) if self.end else "interrupted"

    def in_order(self) -> list[TrialLog]:
        return [self.trials[number] for number in sorted(self.trials)]

    def state_of(self, trial: TrialLog) -> str:
        """How it ended; running; or waiting to go on (or for an orchestrator)."""
        if trial.end is not None:
            return str(trial.end["state"])
        return "running" if self.live and trial.session == self.sessions else "waiting"

    def values_of(self, trial: TrialLog) -> list[float] | None:
        """The objectives at the best epoch (so far), or None."""
        if trial.end is not None:
            values: list[float] | None = trial.end["values"]
            return values
        if trial.best is None:
            return None
        return [trial.best["metrics"][objective["metric"]] for objective in self.objective]

    def front(self) -> list[TrialLog]:
        """The complete trials that no other beats: with one objective, the first of the best."""
        signs = [-1 if o["goal"] == "maximize" else 1 for o in self.objective]
        losses = {
            trial.number: [sign * v for sign, v in zip(signs, trial.end["values"], strict=True)]
            for trial in self.in_order()
            if signs and trial.end and trial.end["state"] == "complete"
        }
        if len(signs) == 1:
            best = min(losses, key=lambda number: losses[number], default=None)
            return [] if best is None else [self.trials[best]]
        return [
            self.trials[number]
            for number, loss in losses.items()
            if not any(_dominates(other, loss) for other in losses.values())
        ]

    def _add(self, record: Record) -> None:
        kind = record["kind"]
        self.updated_ms = record["time_ms"]
        if kind == "epoch":
            if record["number"] in self.trials:  # else its ``trial`` line is damaged
                self.trials[record["number"]].epochs.append(record)
        elif kind == "trial":
            number = record["number"]
            new = TrialLog(number, record, record, self.sessions)
            trial = self.trials.setdefault(number, new)
            trial.assigned, trial.session = record, self.sessions
        elif kind == "end":
            self._end(record)
        elif kind == "study":
            self.study, self.end = record, None
            self.sessions += 1
            self.started_ms = self.started_ms or record["time_ms"]
        elif kind == "study_end":
            self.end = record

    def _end(self, end: Record) -> None:
        trial = self.trials.get(end["number"])
        if trial is None:
            return
        trial.end = end
        trial.best = next((e for e in trial.epochs if e["epoch"] == end["best_epoch"]), None)
        twin = self.trials.get(end.get("duplicate_of", -1))
        if trial.best is None and twin is not None:
            trial.best = twin.best
        trial.epochs = []

    def _best_so_far(self, trial: TrialLog) -> Record | None:
        if not trial.epochs or not self.objective:
            return None
        metric = self.objective[0]["metric"]
        sign = -1 if self.objective[0]["goal"] == "maximize" else 1
        return min(trial.epochs, key=lambda epoch: sign * epoch["metrics"][metric])


def _dominates(one: list[float], other: list[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
