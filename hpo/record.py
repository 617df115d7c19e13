"""Writing the study's outbox, and keeping its history in step.

One method a kind of line; `hpo.history` and `hpo.study_log` read them. What is appended is on the
disk after `commit`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.history import History, TrialHistory, seed_for
from hpo.messages import Finished, Ready, Report
from hpo.paths import StudyPaths, replacing
from hpo.spec import StudySpec
from hpo.tracking import provenance
from hpo.tracking.outbox import Outbox


@dataclass(frozen=True)
class Record:
    """The outbox of a study that is running, and what it says so far."""

    spec: StudySpec
    paths: StudyPaths
    history: History
    outbox: Outbox

    def study(self, sampler: str, workers: int, device: str, ready: Ready) -> None:
        """What is run, on what, and by which code: at each start."""
        spec = self.spec
        self._append(
            "study",
            study=spec.study,
            study_id=(self.history.study or {}).get("study_id") or uuid.uuid4().hex,
            file=spec.resolved(),
            identity=spec.identity(),
            objective=[{"metric": o.metric, "goal": o.goal} for o in spec.objective],
            budget=spec.budget.model_dump(),
            sampler=sampler,
            pruner=spec.pruner.name,
            workers=workers,
            device=device,
            device_name=ready.device_name,
            dataset=ready.dataset,
            provenance=provenance.collect(spec.folder),
        )
        self.commit()
        with replacing(self.paths.resolved) as file:
            file.write(spec.resolved().encode())

    def trial(self, trial: TrialHistory, worker: int | None) -> None:
        """An assignment; the first one begins the trial."""
        self.history.trials[trial.number] = trial
        self._append(
            "trial",
            number=trial.number,
            params=dict(trial.params),
            config=flat(self.spec.config(trial.params)),
            seed=seed_for(self.spec.seed, trial.number, "train"),
            worker=worker,
            attempt=trial.attempts + 1,
        )

    def epoch(self, report: Report) -> None:
        """An epoch, with the time at which the worker finished it."""
        self._append(
            "epoch",
            time_ms=report.time_ms,
            number=report.number,
            epoch=report.epoch,
            seconds=report.seconds,
            metrics=dict(report.metrics),
        )

    def end(
        self,
        trial: TrialHistory,
        state: str,
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
        artifacts = finished.artifacts if finished else {}
        self._append(
            "end",
            number=trial.number,
            state=state,
            reason=reason,
            values=values,
            best_epoch=epoch,
            last_epoch=trial.recorded,
            last_values=list(trial.values[trial.recorded]) if trial.values else None,
            epochs_trained=len(trial.values),
            seconds=trial.train_s,
            peak_memory_mb=finished.peak_memory_mb if finished else None,
            traceback=finished.traceback if finished else None,
            artifacts={
                name: str(Path(path).relative_to(self.paths.root))
                for name, path in artifacts.items()
            },
            **({} if duplicate_of is None else {"duplicate_of": duplicate_of}),
        )
        self.commit()
        assert trial.end is not None
        return trial.end

    def study_end(self, state: str, reason: str) -> None:
        """How this run of the study ended."""
        self._append("study_end", state=state, reason=reason)
        self.commit()

    def commit(self) -> None:
        """Flush what was appended to the disk."""
        self.outbox.commit()

    def _append(self, kind: str, time_ms: int | None = None, **facts: Any) -> None:
        now_ms = time.time_ns() // 1_000_000
        line = {"kind": kind, "time_ms": now_ms if time_ms is None else time_ms, **facts}
        self.outbox.append(line)
        self.history.add(line)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"train": {"lr": 0.1}}`` → ``{"train.lr": 0.1}``; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
