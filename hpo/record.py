"""Writing the study's outbox, and keeping its history in step.

One method a kind of line; `hpo.history` and `hpo.study_log` read them. What is appended is on the
disk after `commit`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo import changes, trial_log
from hpo.history import History, State, TrialHistory, seed_for
from hpo.messages import Finished, Ready, Report, Setup
from hpo.paths import StudyPaths, replacing
from hpo.search import Search
from hpo.spec import StudySpec
from hpo.tracking import provenance
from hpo.tracking.outbox import Outbox
from hpo.tracking.redact import redact


@dataclass(frozen=True)
class Record:
    """The outbox of a study that is running, and what it says so far."""

    spec: StudySpec
    paths: StudyPaths
    history: History
    outbox: Outbox

    def study(self, search: Search, slots: Sequence[Setup], ready: Ready) -> None:
        """What is run, on what, and by which code: at each start.

        Args:
            slots: Of its workers.
        """
        spec = self.spec
        began_with = changes.began_with(self.history.study, spec)
        changed: dict[str, Any] = {"began_with": began_with} if began_with else {}
        self._append(
            "study",
            study=spec.study,
            study_id=search.study_id,
            folder=str(spec.folder),
            path=str(spec.file.absolute()),
            file=spec.resolved(),
            identity=spec.identity(),
            **changed,
            objective=[{"metric": o.metric, "goal": o.goal} for o in spec.objective],
            budget=spec.budget.model_dump(),
            sampler=search.sampler.name,
            pruner=search.pruner.name,
            workers=len(slots),
            threads=slots[0].threads,
            device=slots[0].device,
            device_name=ready.device_name,
            dataset=ready.dataset,
            provenance=provenance.collect(spec.folder),
        )
        self.commit()
        self._write_resolved(spec)

    def budget(self, spec: StudySpec, request: str | None = None) -> None:
        """The budget that somebody has asked for, of `spec`, which is else the same.

        Args:
            request: The request's name, if a running study was asked.
        """
        self._append("budget", budget=spec.budget.model_dump(), request=request)
        self.commit()
        self._write_resolved(spec)

    def trial(
        self,
        trial: TrialHistory,
        worker: int | None,
        until: int | None = None,
        node: str | None = None,
    ) -> None:
        """An assignment; the first one begins the trial.

        Args:
            node: The name of the worker's machine, where there are several.
            until: The epoch after which it is to pause; None: it trains to its end.
        """
        self.history.trials[trial.number] = trial
        more: dict[str, Any] = {} if until is None else {"until": until}
        if node is not None:
            more["node"] = node
        self._append(
            "trial",
            number=trial.number,
            params=dict(trial.params),
            config=flat(self.spec.config(trial.params)),
            seed=seed_for(self.spec.seed, trial.number, "train"),
            worker=worker,
            attempt=trial.attempts + 1,
            crashes=trial.crashes,
            **more,
        )

    def pause(self, trial: TrialHistory) -> None:
        """A trial has been trained as far as was decided."""
        self._append("pause", number=trial.number, epoch=trial.recorded)

    def until(self, number: int, until: int | None) -> None:
        """A trial goes on where it is, until the end of an epoch; None: to its end."""
        self._append("until", number=number, until=until)

    def verdict(self, number: int, state: State, reason: str) -> None:
        """How a trial that still trains is to end: kept, lest a crash let it train on."""
        self._append("verdict", number=number, state=state, reason=reason)

    def epoch(self, report: Report) -> None:
        """An epoch, with the time at which the worker finished it."""
        self._append(
            "epoch",
            time_ms=report.time_ms,
            number=report.number,
            epoch=report.epoch,
            seconds=report.seconds,
            metrics=dict(report.metrics),
            **({"lanes": report.lanes} if report.lanes > 1 else {}),
            **({"resources": dict(report.resources)} if report.resources else {}),
            **({"notes": dict(report.notes)} if report.notes else {}),
        )

    def end(
        self,
        trial: TrialHistory,
        state: State,
        reason: str,
        finished: Finished | None,
        duplicate_of: int | None = None,
    ) -> Mapping[str, Any]:
        """The end of a trial; its best epoch, or that of its twin, is its value."""
        epoch = trial.best_epoch(self.history.maximize)
        values = None if epoch is None else list(trial.values[epoch])
        twin = None if duplicate_of is None else self.history.trials.get(duplicate_of)
        if twin is not None and twin.end is not None:
            values, epoch = twin.end["values"], twin.end["best_epoch"]
        folder = self.paths.trial(trial.number)
        artifacts = dict(finished.artifacts) if finished else {}
        predictions = folder / StudyPaths.PREDICTIONS
        if trial.paused and predictions.is_file():  # kept when it was paused
            artifacts[predictions.name] = str(predictions)
        more: dict[str, Any] = {} if duplicate_of is None else {"duplicate_of": duplicate_of}
        if finished and finished.logged:
            more["logged"] = dict(finished.logged)
        if (folder / trial_log.NAME).is_file():
            artifacts[trial_log.NAME] = str(folder / trial_log.NAME)
        self._append(
            "end",
            number=trial.number,
            state=state,
            reason=redact(reason),
            values=values,
            best_epoch=epoch,
            last_epoch=trial.recorded,
            last_values=list(trial.values[trial.recorded]) if trial.values else None,
            epochs_trained=len(trial.values),
            # Of a trial without an epoch what its attempt took.
            seconds=trial.train_s or (finished.seconds if finished else 0.0),
            peak_memory_mb=finished.peak_memory_mb if finished else None,
            traceback=redact(finished.traceback) if finished and finished.traceback else None,
            artifacts={
                name: str(Path(path).relative_to(self.paths.root))
                for name, path in artifacts.items()
            },
            **more,
        )
        assert trial.end is not None
        return trial.end

    def study_end(self, state: str, reason: str) -> None:
        """How this run of the study ended."""
        self._append("study_end", state=state, reason=redact(reason))
        self.commit()

    def commit(self) -> None:
        """Flush what was appended to the disk."""
        self.outbox.commit()

    def _write_resolved(self, spec: StudySpec) -> None:
        with replacing(self.paths.resolved) as file:
            file.write(spec.resolved().encode())

    def _append(self, kind: str, time_ms: int | None = None, **facts: Any) -> None:
        now_ms = time.time_ns() // 1_000_000
        line = {"kind": kind, "time_ms": now_ms if time_ms is None else time_ms, **facts}
        self.history.add(line)  # first: what it cannot take in must not reach the disk
        self.outbox.append(line)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"lr": 0.1}}`` → ``{"train.lr": 0.1}``; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
