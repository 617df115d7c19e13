"""Compares a study in MLflow with its outbox, value by value: ``hpo sync STUDY --verify``.

Compared are all that hpo has sent: parameters, tags, every metric at every step with its time,
states and times of runs, the dataset, and the files by their sha256. What others have added to a
run is not looked at.

Not covered: ``mlflow.user`` (whoever sends is it), the model of an ensemble (it is made when it is
sent), files that are gone from the study's folder (they are counted), and MLflow's pages
(`hpo.tracking.runs.experiment_tags`).
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from hpo.paths import StudyPaths
from hpo.tables import plain
from hpo.tracking import Compared, outbox, runs
from hpo.tracking.progress import Record, StudyProgress, TrialProgress

MOST_SHOWN = 20
DIED = "the process that ran it ended"  # the reason of a study that could not tell its end
OF_SENDER = "mlflow.user"

Point = tuple[int, int, str]  # step, time in ms, value: NaN is then equal to itself


@dataclass
class Expected:
    """What a run must hold.

    Attributes:
        what: What messages call it.
        tags: key → the values that are right: those of one start of the study or another.
        points: metric → what must be there.
        allowed: metric → what may be there beside that.
        began_ms: When it may have begun: at one start of the study or another.
        ended_ms: When it ended, or None where that is not on record.
        files: Path → sha256, or None where there is nothing to compare with.
        optional: Files that may be missing.
        dataset: Name and digest, or None.
    """

    what: str
    status: str
    began_ms: set[int]
    ended_ms: int | None
    params: Mapping[str, str]
    tags: dict[str, set[str]] = field(default_factory=dict)
    points: dict[str, set[Point]] = field(default_factory=dict)
    allowed: dict[str, set[Point]] = field(default_factory=dict)
    files: dict[str, str | None] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    dataset: tuple[str, str] | None = None


class Comparison:
    """Compares runs with what they must hold, and counts."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.runs = self.values = self.gone = self.different = 0
        self.differences: list[str] = []

    def differ(self, text: str) -> None:
        """Note a difference."""
        self.different += 1
        if len(self.differences) < MOST_SHOWN:
            self.differences.append(runs.cut(text, 300))

    def run(self, expected: Expected, found: Sequence[Run]) -> None:
        """Compare a run, of which there must be one."""
        if len(found) != 1:
            ids = f" ({', '.join(run.info.run_id for run in found)})" if found else ""
            return self.differ(f"{expected.what}: {len(found)} runs in MLflow{ids}, 1 on record")
        (run,) = found
        self.runs += 1
        self._same(expected.what, "status", run.info.status, {expected.status})
        self._same(expected.what, "start time", run.info.start_time, expected.began_ms)
        if expected.ended_ms is not None:
            self._same(expected.what, "end time", run.info.end_time, {expected.ended_ms})
        for key, value in expected.params.items():
            self._same(expected.what, f"parameter {key}", run.data.params.get(key), {value})
        for key, right in expected.tags.items():
            self._same(expected.what, f"tag {key}", run.data.tags.get(key), right)
        if expected.dataset is not None:
            inputs = run.inputs.dataset_inputs if run.inputs else []
            used = {(each.dataset.name, each.dataset.digest) for each in inputs}
            self.values += 1
            if expected.dataset not in used:
                self.differ(f"{expected.what}: no dataset {' '.join(expected.dataset)} in MLflow")
        for metric, points in expected.points.items():
            self._points(expected, run, metric, points)
        self._files(expected, run.info.run_id)
        return None

    def _same(self, what: str, name: str, found: Any, right: set[Any]) -> None:
        self.values += 1
        if found not in right:
            recorded = " or ".join(repr(value) for value in sorted(right, key=repr))
            self.differ(f"{what}: {name} is {found!r} in MLflow, {recorded} on record")

    def _points(self, expected: Expected, run: Run, metric: str, points: set[Point]) -> None:
        history = self._client.get_metric_history(run.info.run_id, metric)
        found = {_point(row) for row in history}
        self.values += len(points)
        missing = points - found
        extra = found - points - expected.allowed.get(metric, set())
        for step in sorted({point[0] for point in missing | extra}):
            here = ", ".join(p[2] for p in sorted(found) if p[0] == step) or "missing"
            recorded = ", ".join(p[2] for p in sorted(points) if p[0] == step) or "nothing"
            times = " (at another time)" if here == recorded else ""
            self.differ(
                f"{expected.what}: metric {metric} at step {step} is {here} in MLflow, "
                f"{recorded} on record{times}"
            )

    def _files(self, expected: Expected, run_id: str) -> None:
        folders = {posixpath.dirname(path) for path in expected.files}
        there = {
            file.path
            for folder in folders
            for file in self._client.list_artifacts(run_id, folder or None)
        }
        for path, sha256 in expected.files.items():
            if sha256 is None:
                self.gone += 1
            elif path not in there:
                if path not in expected.optional:
                    self.values += 1
                    self.differ(f"{expected.what}: the file {path} is missing in MLflow")
            else:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(self._client.download_artifacts(run_id, path, folder))
                    found = _sha256(file.read_bytes())
                self._same(expected.what, f"sha256 of {path}", found, {sha256})


def compare(client: MlflowClient, found: Iterable[Run], paths: StudyPaths) -> Compared:
    """Compare MLflow with what is on record. The study must not be running.

    Args:
        found: All runs in MLflow that have the study's id.
        paths: The study's files.

    Raises:
        RecordsLost: The outbox is damaged.
    """
    by_kind: dict[str, list[Run]] = {}
    for run in found:
        by_kind.setdefault(_kind(run), []).append(run)
    parents = by_kind.get("study", [])
    parent = parents[0].info.run_id if parents else ""
    ids = {kind: those[0].info.run_id for kind, those in by_kind.items()}
    comparison = Comparison(client)
    for kind, expected in _expected(paths, parent, ids).items():
        comparison.run(expected, by_kind.pop(kind, []))
    for kind, others in by_kind.items():
        comparison.differ(f"{kind}: {len(others)} runs in MLflow, none on record")
    return Compared(
        comparison.runs,
        comparison.values,
        comparison.different,
        comparison.differences,
        comparison.gone,
    )


def _kind(run: Run) -> str:
    tags = run.data.tags
    if "hpo.trial" in tags:
        return f"trial {tags['hpo.trial']}"
    if "hpo.ensemble" in tags:
        return f"ensemble {tags['hpo.ensemble']}"
    return str(tags.get("hpo.kind", "a run of unknown kind"))


def _expected(paths: StudyPaths, parent: str, ids: Mapping[str, str]) -> dict[str, Expected]:
    """What each run must hold, by its kind as `_kind` says it."""
    progress = StudyProgress()
    starts: list[Record] = []
    confirmations: list[Record] = []
    for record in outbox.read_whole(paths.outbox):
        progress.add(record)
        if record["kind"] == "study":
            starts.append(record)
        elif record["kind"] == "confirmation":
            confirmations.append(record)
    found = {"study": _study(paths, progress, starts, confirmations, ids)}
    for trial in progress.news.values():
        found[f"trial {trial.number}"] = _trial(paths, trial, progress, starts, parent)
    trials = {
        trial.number: ids[f"trial {trial.number}"]
        for trial in progress.news.values()
        if f"trial {trial.number}" in ids
    }
    for ensemble in progress.ensembles:
        made = _ensemble(paths, ensemble, starts, parent, trials)
        found[f"ensemble {ensemble['ensemble']}"] = made
    return found


def _study(
    paths: StudyPaths,
    progress: StudyProgress,
    starts: Sequence[Record],
    confirmations: Sequence[Record],
    ids: Mapping[str, str],
) -> Expected:
    study, end = progress.study, progress.end
    assert study is not None  # the record that opens it is there, or nothing could be shipped
    state, reason = ("interrupted", DIED) if end is None else (end["state"], end["reason"])
    tags = {**runs.study_tags(study), "hpo.state": state, "hpo.reason": reason}
    if progress.news:
        tags["hpo.trials"] = json.dumps(progress.counts)
    if progress.improvements:
        best = progress.improvements[-1].number
        tags |= {"hpo.best_trial": str(best), "hpo.best_run": ids.get(f"trial {best}", "")}
    expected = Expected(
        what="the study",
        status=runs.STATUS[state],
        began_ms={start["time_ms"] for start in starts},
        ended_ms=None if end is None else end["time_ms"],
        params={param.key: param.value for param in runs.study_params(study)},
        tags=_right([tags]),
        points=_points([p for t in progress.improvements for p in runs.best_metrics(t)]),
    )
    if study["dataset"]:
        dataset = runs.dataset_input(study["dataset"]).dataset
        expected.dataset = (dataset.name, dataset.digest)
    for number, start in enumerate(starts):
        folder = f"restarts/{number}/" if number else ""
        for name, text in runs.study_files(start).items():
            expected.files[folder + name] = _sha256(text.encode())
            if start is not starts[-1]:  # started again before it was sent
                expected.optional.add(folder + name)
    if paths.has(paths.examples):
        expected.files[paths.examples.name] = _sha256(paths.examples.read_bytes())
    if confirmations:
        newest = confirmations[-1]
        text = json.dumps(plain(newest), indent=1)
        expected.files[runs.CONFIRMATION_FILE] = _sha256(text.encode())
        said = {"hpo.winner": str(newest["winner"]), "hpo.confirmed": str(newest["time_ms"])}
        expected.tags |= _right([said])
        expected.points |= _points(runs.confirmation_metrics(newest))
        expected.allowed = _points(
            [point for each in confirmations for point in runs.confirmation_metrics(each)]
        )
    return expected


def _trial(
    paths: StudyPaths,
    trial: TrialProgress,
    progress: StudyProgress,
    starts: Sequence[Record],
    parent: str,
) -> Expected:
    tags = _right([runs.trial_tags(trial, start, parent) for start in starts])
    state, end = "interrupted", trial.end
    if end is None:
        reason = DIED if progress.end is None else progress.end["reason"]
        tags |= {"hpo.state": {"paused" if trial.paused else state}, "hpo.reason": {reason}}
    else:
        state = end["state"]
    config = trial.assigned["config"] if trial.assigned else {}
    files = {} if end is None else _recorded_files(paths, end["artifacts"])
    if end is not None and end["traceback"]:
        files["traceback.txt"] = _sha256(end["traceback"].encode())
    return Expected(
        what=f"trial {trial.number}",
        status=runs.STATUS[state],
        began_ms={trial.began_ms},
        ended_ms=None if end is None else end["time_ms"],
        params={param.key: param.value for param in runs.params(config)},
        tags=tags,
        points=_points(runs.epoch_metrics(trial.epochs.values()) + runs.final_metrics(trial)),
        files=files,
    )


def _ensemble(
    paths: StudyPaths,
    ensemble: Record,
    starts: Sequence[Record],
    parent: str,
    trials: Mapping[int, str],
) -> Expected:
    facts = json.dumps(runs.ensemble_facts(ensemble, trials), indent=1)
    files = _recorded_files(paths, ensemble["artifacts"])
    return Expected(
        what=f"ensemble {ensemble['ensemble']}",
        status=runs.STATUS["complete"],
        began_ms={ensemble["time_ms"]},
        ended_ms=ensemble["time_ms"],
        params={p.key: p.value for p in runs.params(runs.ensemble_params(ensemble))},
        tags=_right([runs.ensemble_tags(ensemble, start, parent) for start in starts]),
        points=_points(runs.ensemble_metrics(ensemble)),
        files=files | {runs.ENSEMBLE_FILE: _sha256(facts.encode())},
    )


def _recorded_files(paths: StudyPaths, artifacts: Mapping[str, str]) -> dict[str, str | None]:
    """Name → sha256 of the file in the study's folder, or None where it is gone."""
    found: dict[str, str | None] = {}
    for name, path in artifacts.items():
        file = paths.root / path
        folder = posixpath.dirname(name)
        sent_as = posixpath.join(folder, file.name)
        found[sent_as] = _sha256(file.read_bytes()) if paths.has(file) else None
    return found


def _right(tags: Sequence[Mapping[str, str]]) -> dict[str, set[str]]:
    keys = {key for each in tags for key in each} - {OF_SENDER}
    return {key: {each[key] for each in tags if key in each} for key in keys}


def _points(metrics: Iterable[Metric]) -> dict[str, set[Point]]:
    found: dict[str, set[Point]] = {}
    for metric in metrics:
        found.setdefault(metric.key, set()).add(_point(metric))
    return found


def _point(metric: Metric) -> Point:
    value = float(metric.value)
    if math.isinf(value):  # MLflow's databases have no infinity
        value = math.copysign(sys.float_info.max, value)
    return metric.step, metric.timestamp, repr(value + 0.0)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
