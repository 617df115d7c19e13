"""One pass over a study's outbox, continued as it grows: what `hpo.results` makes its tables of.

Damaged records are left out (`hpo.tracking.outbox` warns of them); what they said is missing.
What was read of a long outbox is kept in a file, which may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo import lease
from hpo.paths import StudyPaths
from hpo.results import cached
from hpo.results.epochs import EpochColumns
from hpo.tracking import outbox

Record = Mapping[str, Any]

VERSIONS = itertools.count(1)
# A cache is written when it would spare reading so much, and so large a share of all.
CACHE_BYTES = 1_000_000
CACHE_SHARE = 0.25


@dataclass
class TrialLog:
    """One trial.

    Attributes:
        number: The trial's number.
        assignments: The ``trial`` records, one for each attempt.
        session: Which start of the study it was last assigned in.
        last_epochs_ms: For each attempt, when its last epoch ended, or else when it began.
        pauses: The attempts, from 0, that ended with a pause.
        end: The ``end`` record, or None.
        notes: How it was trained, where that is news: see `trainers.contract.Epoch`.
    """

    number: int
    assignments: list[Record]
    session: int
    last_epochs_ms: list[int]
    pauses: set[int] = field(default_factory=set)
    end: Record | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def assigned(self) -> Record:
        """The newest assignment."""
        return self.assignments[-1]


@dataclass
class StudyLog:
    """A study.

    Attributes:
        paths: Its files.
        cache: Where what was read is kept, or None.
        study: The newest ``study`` record, or None (its line is damaged).
        end: The ``study_end`` record of the newest session, or None.
        sessions: How often the study was started.
        started_ms: When it was first started.
        updated_ms: When the last record was written.
        trials: By number.
        ensembles: Their records, by number.
        confirmations: The records of its winner on the test split, the newest last.
        epochs: Of all trials.
        live: Whether an orchestrator runs it now.
        version: Changes with anything above; no two studies ever have the same.
    """

    paths: StudyPaths
    cache: Path | None = None
    study: Record | None = None
    end: Record | None = None
    sessions: int = 0
    started_ms: int | None = None
    updated_ms: int | None = None
    trials: dict[int, TrialLog] = field(default_factory=dict)
    ensembles: dict[int, Record] = field(default_factory=dict)
    confirmations: list[Record] = field(default_factory=list)
    epochs: EpochColumns = field(default_factory=EpochColumns)
    live: bool = False
    version: int = 0
    _first: str = ""  # see `_first_line`
    _offset: int = 0
    _cached: int = 0  # how far the cache goes
    _records: list[Record] = field(default_factory=list)  # all but epochs

    @classmethod
    def read(cls, paths: StudyPaths, cache: Path | None = None) -> StudyLog:
        """Everything there is.

        Args:
            cache: A folder for what was read of long outboxes.
        """
        log = cls(paths, cache / f"{paths.root.name}.arrow" if cache else None)
        log._first = log._first_line()
        log._read_cache()
        log.refresh()
        return log

    def refresh(self) -> bool:
        """Read what is new; returns whether there is anything.

        Raises:
            OutboxReplaced: It is another outbox now.
        """
        live = lease.owner(self.paths.lease) is not None
        before, was_live = self._offset, self.live
        is_shorter = self.paths.outbox.stat().st_size < self._offset
        if is_shorter or (self._offset and self._first_line() != self._first):
            raise OutboxReplaced  # another study under the same name
        for record, offset in outbox.read(self.paths.outbox, self._offset):
            self._add(record)
            self._offset = offset
        self.live = live
        changed = self._offset > before or live != was_live
        if changed:
            self.version = next(VERSIONS)
        if self._offset - self._cached > max(CACHE_BYTES, CACHE_SHARE * self._cached):
            with contextlib.suppress(OSError):  # a folder that is not ours to write
                self._write_cache()
        return changed

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
        """How it ended; running; paused; or waiting to go on (or for an orchestrator)."""
        if trial.end is not None:
            return str(trial.end["state"])
        if len(trial.assignments) - 1 in trial.pauses:
            return "paused"
        return "running" if self.live and trial.session == self.sessions else "waiting"

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
            self._add_epoch(record)
            return
        self._records.append(record)
        if kind == "trial":
            self._assign(record)
        elif kind in ("pause", "until"):
            self._pause(record["number"], kind == "pause")
        elif kind == "end":
            trial = self.trials.get(record["number"])
            if trial is not None:  # else its ``trial`` line is damaged
                trial.end = record
        elif kind == "study":
            self.study, self.end = record, None
            self.sessions += 1
            self.started_ms = self.started_ms or record["time_ms"]
        elif kind == "budget" and self.study is not None:
            self.study = {**self.study, "budget": record["budget"]}
        elif kind == "study_end":
            self.end = record
        elif kind == "ensemble":
            self.ensembles[record["ensemble"]] = record
        elif kind == "confirmation":
            self.confirmations.append(record)

    def _assign(self, record: Record) -> None:
        trial = self.trials.setdefault(
            record["number"], TrialLog(record["number"], [], self.sessions, [])
        )
        trial.assignments.append(record)
        trial.last_epochs_ms.append(record["time_ms"])
        trial.session = self.sessions

    def _pause(self, number: int, paused: bool) -> None:
        trial = self.trials.get(number)
        if trial is not None and paused:
            trial.pauses.add(len(trial.assignments) - 1)
        elif trial is not None:
            trial.pauses.discard(len(trial.assignments) - 1)

    def _add_epoch(self, record: Record) -> None:
        trial = self.trials.get(record["number"])
        if trial is None:
            return
        trial.last_epochs_ms[-1] = record["time_ms"]
        trial.notes |= record.get("notes", {})
        values = record["metrics"]
        if "resources" in record:
            values = values | record["resources"]
        self.epochs.add(
            trial.number, record["epoch"], record["time_ms"], record["seconds"], values
        )

    # -- the cache

    def _read_cache(self) -> None:
        found = cached.read(self.cache) if self.cache and self.cache.is_file() else None
        if found is None:
            return
        epochs, kept = found
        if kept["first"] != self._first or self.paths.outbox.stat().st_size < kept["offset"]:
            return
        for record in kept["records"]:
            self._add(record)
        for number, last_epochs_ms in kept["last_epochs_ms"].items():
            self.trials[int(number)].last_epochs_ms = last_epochs_ms
        for number, notes in kept["notes"].items():
            self.trials[int(number)].notes = notes
        self.epochs = EpochColumns(epochs)
        self.updated_ms = kept["updated_ms"]
        self._offset = self._cached = kept["offset"]

    def _write_cache(self) -> None:
        if self.cache is None:
            return
        kept = {
            "first": self._first,
            "offset": self._offset,
            "updated_ms": self.updated_ms,
            "records": self._records,
            "last_epochs_ms": {t.number: t.last_epochs_ms for t in self.trials.values()},
            "notes": {t.number: t.notes for t in self.trials.values() if t.notes},
        }
        cached.write(self.cache, self.epochs.table(), kept)
        self._cached = self._offset

    def _first_line(self) -> str:
        """The checksum of the first record, which tells one outbox from another."""
        with open(self.paths.outbox, "rb") as file:
            return file.read(8).decode("ascii", "replace")


class OutboxReplaced(Exception):
    """The outbox is not the one that was being read: read it anew."""


def _dominates(one: list[float], other: list[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
