"""Studies as they are in an MLflow store: from any machine, without the study's own files.

Runs are found with MLflow's client; curves come from its bulk request, a metric of many runs at
once. Runs that are over are fetched once and kept in a file; asking again fetches what is new.

Not covered: values that MLflow's database cannot hold (infinities); runs that hpo did not make.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.rest_utils import http_request

from hpo.paths import replacing
from hpo.results import cached
from hpo.results.epochs import EpochColumns
from hpo.results.study_log import VERSIONS
from hpo.results.summary import SUMMARY, summary, thinned
from hpo.results.tables import (
    NOTES,
    OVER,
    STATES,
    StudyTables,
    search_space,
    span_table,
    trial_table,
)
from hpo.tracking.redact import redact
from hpo.tracking.runs import CONFIRMATION_FILE, ENSEMBLE_FILE

PAGE_RUNS = 1000
SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
WHOLE_S = 30.0  # between two looks at all runs, where some must have been missed
BULK_RUNS = 100  # MLflow's limit for one request
BULK_POINTS = 25_000  # likewise
CACHE = "study.arrow"
OF_THE_TRIAL = ("best_epoch", "duration_s", "peak_memory_mb")  # metrics that are no curves


class TrackedStudies:
    """The studies in the store at `uri`.

    Attributes:
        studies: By the id of the study's run.
    """

    def __init__(self, uri: str, cache: Path) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._uri = uri
        digest = hashlib.sha256(redact(uri).encode()).hexdigest()[:16]
        self._cache = cache / digest
        self.studies: dict[str, TrackedStudy] = {}

    def refresh(self) -> None:
        """Find the studies.

        Raises:
            Exception: Whatever MLflow raises; what is known stays.
        """
        experiments = {e.experiment_id: e.name for e in _all_experiments(self._client)}
        found: dict[str, TrackedStudy] = {}
        for run in _search(self._client, list(experiments), "tags.`hpo.kind` = 'study'"):
            run_id, name = run.info.run_id, experiments[run.info.experiment_id]
            if not SAFE_ID.fullmatch(run_id):
                continue  # it names a folder of the cache
            study = self.studies.get(run_id)
            if study is None:
                study = TrackedStudy(self._client, self._uri, self._cache, run, name)
            study.parent = run
            found[run_id] = study
        self.studies = found


class TrackedStudy:
    """One study in MLflow. Safe to use from several threads.

    Attributes:
        name: Its name, which others may have, too.
        key: What the catalogue calls it: `name` or `full_key`.
        parent: Its own run.
    """

    def __init__(
        self, client: MlflowClient, uri: str, cache: Path, parent: Run, name: str
    ) -> None:
        self.name = self.key = name
        self.parent = parent
        self._client = client
        self._uri = uri
        self._folder = cache / parent.info.run_id
        self._lock = threading.RLock()
        self._runs: dict[str, dict[str, Any]] = {}  # by id, as `_facts` has them
        self._has_curves: set[int] = set()  # trials whose epochs are those of `_runs`
        self._looked_s = -math.inf  # when all runs were looked at, on the monotonic clock
        self._epochs = EpochColumns()
        self._with_epochs: set[int] = set()  # trials that may have rows in it
        self._file: str | None = None
        self._version = 0
        self._tables: StudyTables | None = None
        self._tags_then: dict[str, str] = {}  # the parent's, when the tables were made
        self._best: tuple[str | None, list[float]] = (None, [])  # trial, values up to it
        self._read_cache()

    @property
    def study_id(self) -> str | None:
        return self._tag("hpo.study_id")

    @property
    def full_key(self) -> str:
        """A key that no other study has."""
        return f"{self.name}~{self.parent.info.run_id[:8]}"

    def tables(self, patience_s: float) -> StudyTables:
        with self._lock:
            until = time.monotonic() + patience_s
            changed = self._fetch_runs()
            changed |= self._fetch_curves(until)
            is_new = self._tables is None or self._tables.key != self.key
            if changed or is_new or self._tags_then != self.parent.data.tags:
                self._version = next(VERSIONS)
                self._tables = self._make_tables()
                self._tags_then = self.parent.data.tags
            assert self._tables is not None
            return self._tables

    def known(self) -> StudyTables | None:
        return self._tables

    def file(self, trial: int | None, name: str) -> Path | None:
        run_id, is_over = self.parent.info.run_id, True
        if trial is not None:
            run = self._run(trial)
            if run is None:
                return None
            run_id, is_over = run["run_id"], run["state"] in OVER
        kept = self._folder / run_id / name
        if not (
            SAFE_ID.fullmatch(run_id) and kept.resolve().is_relative_to(self._folder.resolve())
        ):
            return None  # a server's word for a path is not taken
        if not kept.is_file() and is_over:
            self._download(run_id, name, kept)
        return kept if kept.is_file() else None

    def files(self, trial: int) -> dict[str, int]:
        run = self._by_number().get(trial)
        found = self._client.list_artifacts(run["run_id"]) if run else []
        return {file.path: int(file.file_size or 0) for file in found if not file.is_dir}

    def text(self, trial: int | None, name: str) -> str | None:
        path = self.file(trial, name)
        return path.read_text(errors="replace") if path else None

    def ensembles(self) -> list[dict[str, Any]]:
        query = f"tags.`mlflow.parentRunId` = '{self.parent.info.run_id}'"
        found = {}
        for run in self._find(f"{query} and tags.`hpo.kind` = 'ensemble'"):
            run_id = run.info.run_id
            if not SAFE_ID.fullmatch(run_id) or run.info.end_time is None:
                continue
            kept = self._folder / run_id / ENSEMBLE_FILE
            if not kept.is_file():
                self._download(run_id, ENSEMBLE_FILE, kept)
            if kept.is_file():
                facts = json.loads(kept.read_bytes())
                found[facts["ensemble"]] = {**facts, "run_id": run_id}
        return [found[number] for number in sorted(found)]

    def confirmation(self) -> dict[str, Any] | None:
        when, run_id = self._tag("hpo.confirmed"), self.parent.info.run_id
        if not (when and when.isdecimal() and SAFE_ID.fullmatch(run_id)):
            return None
        kept = self._folder / run_id / f"{when}-{CONFIRMATION_FILE}"  # a later one is another file
        if not kept.is_file():
            self._download(run_id, CONFIRMATION_FILE, kept)
        return json.loads(kept.read_bytes()) if kept.is_file() else None

    def summary(self) -> dict[str, Any]:
        """From its trials if these have been looked at lately, else from its own run alone."""
        if self._tables is not None and self._tags_then == self.parent.data.tags:
            return summary(self._tables)
        counts = json.loads(self._tag("hpo.trials") or "{}")
        objective = self._objective()
        values = self._best_so_far(objective)
        best = self._tag("hpo.best_trial")
        budget = json.loads(self._tag("hpo.budget") or "{}")
        ended = sum(counts.get(state, 0) for state in OVER)
        info = self.parent.info
        row = {
            "key": self.key,
            "name": self.name,
            "state": self._tag("hpo.state") or "interrupted",
            "source": redact(self._uri),
            **{state: counts.get(state, 0) for state in STATES},
            "metric": ", ".join(o["metric"] for o in objective),
            "goal": ", ".join(o["goal"] for o in objective),
            "best_trial": None if best is None else int(best),
            "best_value": values[-1] if values else None,
            "best_so_far": thinned(values),
            "used": min(1.0, ended / budget["trials"]) if budget.get("trials") else float("nan"),
            "started": info.start_time,
            "updated": info.end_time or info.start_time,
        }
        assert tuple(row) == SUMMARY
        return row

    def pending(self) -> int:
        return 0

    # -- what is fetched

    def _fetch_runs(self) -> bool:
        """New runs, and those that were not over."""
        self.parent = self._client.get_run(self.parent.info.run_id)
        mine = f"tags.`mlflow.parentRunId` = '{self.parent.info.run_id}'"
        if not self._runs:
            self._looked_s = time.monotonic()
            return self._take(self._find(mine))
        newest_ms = max((run["ended"] or 0) for run in self._runs.values())
        running = list(self._find(f"{mine} and attributes.status = 'RUNNING'"))
        changed = self._take(
            [*self._find(f"{mine} and attributes.end_time >= {newest_ms}"), *running]
        )
        there = {run.info.run_id for run in running}
        # Runs arrive in the order in which they were begun, not in which they ended.
        late = [i for i, run in self._runs.items() if run["ended"] is None and i not in there]
        changed |= self._take([self._client.get_run(run_id) for run_id in late])
        counted = sum(json.loads(self._tag("hpo.trials") or "{}").values())
        is_due = time.monotonic() > self._looked_s + WHOLE_S
        if counted > len(self._by_number()) and is_due:
            self._looked_s = time.monotonic()
            changed |= self._take(self._find(mine))
        return changed

    def _find(self, query: str) -> Iterator[Run]:
        return _search(self._client, [self.parent.info.experiment_id], query)

    def _take(self, runs: Iterable[Run]) -> bool:
        """Keep what is said of these runs; returns whether any of it is new."""
        search, changed = self._search(), False
        for run in runs:
            facts = _facts(run, search)
            if facts is not None and self._runs.get(run.info.run_id) != facts:
                self._runs[run.info.run_id] = facts
                self._has_curves.discard(facts["number"])
                changed = True
        return changed

    def _by_number(self) -> dict[int, dict[str, Any]]:
        """Each trial's run. A repeated request may have made two: the one that is over counts,
        else the first.
        """
        found: dict[int, dict[str, Any]] = {}
        for run in sorted(
            self._runs.values(), key=lambda run: (run["ended"] is None, run["started"])
        ):
            found.setdefault(run["number"], run)
        return found

    def _fetch_curves(self, until: float) -> bool:
        """The epochs of runs that lack them, as far as there is time."""
        runs = self._by_number()
        lacking = [runs[number] for number in sorted(runs) if number not in self._has_curves]
        fetched: list[dict[str, Any]] = []
        while lacking and time.monotonic() < until:
            chunk, lacking = lacking[:BULK_RUNS], lacking[BULK_RUNS:]
            self._fetch_chunk(chunk)
            fetched += chunk
        if not lacking and any(run["state"] in OVER for run in fetched):
            self._write_cache()
        return bool(fetched)

    def _fetch_chunk(self, chunk: Sequence[Mapping[str, Any]]) -> None:
        numbers = {run["run_id"]: run["number"] for run in chunk}
        known = {name: at for at, name in enumerate(self._dataset().get("metrics", []))}
        names = sorted(
            {name for run in chunk for name in run["curves"]},
            key=lambda name: (known.get(name, len(known)), name),
        )
        points: dict[tuple[int, int], dict[str, float]] = {}
        times: dict[tuple[int, int], int] = {}
        for name in names:
            for run_id, step, time_ms, value in _history(self._client, list(numbers), name):
                at = (numbers[run_id], step)
                points.setdefault(at, {})[name] = value
                times[at] = time_ms
        before = set(numbers.values()) & self._with_epochs
        if before:
            self._epochs.drop(before)
        self._with_epochs |= set(numbers.values())
        began = {run["number"]: run["started"] for run in chunk}
        for trial, epoch in sorted(points):
            time_ms = times[trial, epoch]
            before_ms = times.get((trial, epoch - 1), began[trial])
            seconds = max(0, time_ms - before_ms) / 1000
            values = points[trial, epoch]
            ordered = {name: values[name] for name in names if name in values}
            self._epochs.add(trial, epoch, time_ms, seconds, ordered)
        self._has_curves |= set(numbers.values())

    def _run(self, trial: int) -> dict[str, Any] | None:
        """The facts of a trial, fetched if they are not known or not final."""
        for fetch in (False, True):
            if fetch:
                with self._lock:
                    self._fetch_runs()
            run = self._by_number().get(trial)
            if run is not None and (fetch or run["state"] in OVER):
                return run
        return None

    def _best_so_far(self, objective: Sequence[Mapping[str, str]]) -> list[float]:
        """The values of the trials that were the best when they ended; asked for when another
        is, and what was known before where MLflow cannot be read."""
        best = self._tag("hpo.best_trial")
        metric = f"best/{objective[0]['metric']}" if len(objective) == 1 else ""
        if best != self._best[0] and metric in self.parent.data.metrics:
            with contextlib.suppress(Exception):  # whatever MLflow and its libraries raise
                history = self._client.get_metric_history(self.parent.info.run_id, metric)
                ordered = sorted(history, key=lambda point: point.timestamp)
                self._best = best, [point.value for point in ordered]
        return self._best[1]

    def _download(self, run_id: str, name: str, to: Path) -> None:
        """Fetch an artifact, if there is one.

        Raises:
            Exception: Whatever MLflow raises if it cannot be reached.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent) as folder:
            try:
                found = mlflow.artifacts.download_artifacts(
                    run_id=run_id, artifact_path=name, dst_path=folder, tracking_uri=self._uri
                )
            except (MlflowException, OSError):  # the stores have no common way to say why
                if self._get(run_id, name, to):
                    return
                if any(file.path == name for file in self._client.list_artifacts(run_id)):
                    raise
                return
            Path(found).replace(to)

    def _get(self, run_id: str, name: str, to: Path) -> bool:
        """From the server itself: it can read folders of its own machine that nobody else can."""
        store = self._client._tracking_client.store
        if not isinstance(store, RestStore):
            return False
        answer = http_request(  # type: ignore[no-untyped-call]
            host_creds=store.get_host_creds(),
            endpoint="/get-artifact",
            method="GET",
            params={"run_uuid": run_id, "path": name},
        )
        if answer.status_code != 200:
            return False
        with replacing(to) as file:
            file.write(answer.content)
        return True

    # -- as tables

    def _make_tables(self) -> StudyTables:
        objective = self._objective()
        is_live = self._tag("hpo.state") == "running"
        by_number = self._by_number()
        runs = [by_number[number] for number in sorted(by_number)]
        rows = [
            {**run, "state": "waiting"} if run["state"] == "running" and not is_live else run
            for run in runs
        ]
        facts = [{k: v for k, v in row.items() if k not in NOT_IN_TRIALS} for row in rows]
        for row, fact in zip(rows, facts, strict=True):
            best = [row["best"].get(o["metric"]) for o in objective]
            fact["values"] = best if all(value is not None for value in best) else None
        return StudyTables(
            key=self.key,
            name=self.name,
            state=self._tag("hpo.state") or "interrupted",
            source=redact(self._uri),
            objective=objective,
            budget=json.loads(self._tag("hpo.budget") or "{}"),
            sampler=self._tag("hpo.sampler") or "",
            pruner=self._tag("hpo.pruner") or "",
            workers=int(self._tag("hpo.workers") or 1),
            device_name=self._tag("hpo.device") or "",
            dataset=self._dataset(),
            provenance=self._provenance(),
            file=self._study_file(),
            path=None,
            search=self._search(),
            started_ms=self.parent.info.start_time,
            updated_ms=max(
                self.parent.info.start_time,
                self.parent.info.end_time or 0,
                *(run["ended"] or 0 for run in runs),
            ),
            trials=trial_table(
                facts,
                objective,
                self._epochs.table(),
                {r["number"]: r["twin"] for r in runs if r["twin"] is not None},
            ),
            configs={run["number"]: run["config"] for run in runs},
            notes={run["number"]: run["notes"] for run in runs},
            epochs=self._epochs.table(),
            spans=span_table(span for row in rows for span in _spans(row)),
            missing_curves=sum(r["number"] not in self._has_curves for r in runs if r["ended"]),
            version=self._version,
        )

    def _objective(self) -> list[dict[str, str]]:
        said = (self._tag("hpo.objective") or "").split(", ")
        pairs = [text.split(" ", 1) for text in said if " " in text]
        return [{"metric": metric, "goal": goal} for goal, metric in pairs]

    def _dataset(self) -> dict[str, Any]:
        inputs = self.parent.inputs.dataset_inputs if self.parent.inputs else []
        found: dict[str, Any] = json.loads(inputs[-1].dataset.profile or "{}") if inputs else {}
        return found

    def _provenance(self) -> dict[str, Any]:
        commit = self._tag("mlflow.source.git.commit")
        if commit is None:
            return {}
        branch, dirty = self._tag("mlflow.source.git.branch"), self._tag("hpo.git_dirty")
        return {"git": {"commit": commit, "branch": branch, "dirty": dirty == "true"}}

    def _search(self) -> dict[str, dict[str, Any]]:
        return search_space(self._study_file())

    def _study_file(self) -> str:
        if self._file is None:
            path = self.file(None, "study.yaml")
            self._file = path.read_text() if path else None
        return self._file or ""

    def _tag(self, name: str) -> str | None:
        found: str | None = self.parent.data.tags.get(name)
        return found

    # -- kept between two starts

    def _read_cache(self) -> None:
        found = cached.read(self._folder / CACHE)
        if found is not None:
            epochs, kept = found
            self._runs = {run["run_id"]: run for run in kept["runs"]}
            self._has_curves = set(kept["has_curves"])
            self._epochs = EpochColumns(epochs)
            self._with_epochs = set(map(int, epochs["trial"].unique()))

    def _write_cache(self) -> None:
        kept = {"runs": list(self._runs.values()), "has_curves": sorted(self._has_curves)}
        with contextlib.suppress(OSError):  # a folder that is not ours to write
            cached.write(self._folder / CACHE, self._epochs.table(), kept)


# `_facts` that are no columns of the trials' table
NOT_IN_TRIALS = ("best", "config", "curves", "notes", "spans", "twin", "latest")


def explain(uri: str, error: Exception) -> str:
    """Why a store could not be read, in a line without credentials."""
    text = " ".join(redact(str(error)).split())[:200]
    return f"MLflow at {redact(uri)} cannot be read ({type(error).__name__}: {text})"


def _facts(run: Run, search: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """A trial's run as plain values; None: it is no trial's."""
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    if "hpo.trial" not in tags:
        return None
    state = tags.get("hpo.state", "running")
    if state not in (*OVER, "paused"):
        state = "waiting" if state == "interrupted" else "running"
    is_over = state in OVER
    config = {name: _value(text) for name, text in run.data.params.items()}
    best = {k.removeprefix("best/"): v for k, v in metrics.items() if k.startswith("best/")}
    epoch = metrics.get("best_epoch")
    return {
        "number": int(tags["hpo.trial"]),
        "state": state,
        "reason": tags.get("hpo.reason", "") if is_over else "",
        "best_epoch": int(epoch) if is_over and epoch is not None else None,
        "last_epoch": int(tags["hpo.last_epoch"]) if "hpo.last_epoch" in tags else None,
        "seconds": metrics.get("duration_s") if is_over else None,
        "peak_memory_mb": metrics.get("peak_memory_mb"),
        "worker": _whole(tags.get("hpo.worker")),
        "attempts": _whole(tags.get("hpo.attempts")),
        "seed": _whole(tags.get("hpo.seed")),
        "started": info.start_time,
        "ended": info.end_time if is_over else None,
        "run_id": info.run_id,
        **{
            f"params.{path}": setting(config, path)
            for path in search
            if _applies(path, search, config)
        },
        "best": best,
        "latest": "" if is_over else json.dumps(metrics, sort_keys=True),  # another: an epoch more
        "config": config,
        "curves": [k for k in metrics if not k.startswith("best/") and k not in OF_THE_TRIAL],
        "spans": json.loads(tags.get("hpo.spans", "[]")),
        "notes": {name: tags[f"hpo.{name}"] for name in NOTES if f"hpo.{name}" in tags},
        "twin": _whole(tags.get("hpo.duplicate_of")),
    }


def setting(config: Mapping[str, Any], path: str) -> Any:
    """What stands at a path: ``model.hidden.0`` is the first of the list ``model.hidden``."""
    if path in config:
        return config[path]
    above, _, index = path.rpartition(".")
    found = setting(config, above) if above and index.isdigit() else None
    return found[int(index)] if isinstance(found, list) and int(index) < len(found) else None


def _applies(
    path: str, search: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]
) -> bool:
    """Whether a searched path was set: it is there, and its conditions hold."""
    if setting(config, path) is None:
        return False
    for parent, wanted in (search[path].get("when") or {}).items():
        if setting(config, parent) not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
        if parent in search and not _applies(parent, search, config):
            return False
    return True


def _spans(row: Mapping[str, Any]) -> Iterator[tuple[int | None, int, int, int, Any, str]]:
    for worker, attempt, start_ms, end_ms, *paused in row["spans"][:-1]:
        state = "paused" if paused else "interrupted"
        yield worker, row["number"], attempt, start_ms, end_ms, state
    if row["worker"] is None:
        return
    start_ms, end_ms = row["spans"][-1][2:4] if row["spans"] else (row["started"], row["ended"])
    if row["state"] == "running":
        end_ms = None
    yield row["worker"], row["number"], row["attempts"], start_ms, end_ms, row["state"]


def _history(
    client: MlflowClient, run_ids: Sequence[str], metric: str
) -> Iterator[tuple[str, int, int, float]]:
    """Run id, step, time and value of every point of a metric of at most `BULK_RUNS` runs."""
    points = _bulk(client, run_ids, metric)
    if len(points) < BULK_POINTS:
        yield from points
    elif len(run_ids) > 1:  # it was cut
        middle = len(run_ids) // 2
        yield from _history(client, run_ids[:middle], metric)
        yield from _history(client, run_ids[middle:], metric)
    else:
        for point in client.get_metric_history(run_ids[0], metric):
            yield run_ids[0], point.step, point.timestamp, point.value


def _bulk(
    client: MlflowClient, run_ids: Sequence[str], metric: str
) -> list[tuple[str, int, int, float]]:
    """The request that MLflow's own pages make; its client has no method for it."""
    store = client._tracking_client.store
    if not isinstance(store, RestStore):
        found = store.get_metric_history_bulk(list(run_ids), metric, BULK_POINTS)
        return [(m.run_id, m.step, m.timestamp, m.value) for m in found]
    answer = http_request(  # type: ignore[no-untyped-call]
        host_creds=store.get_host_creds(),
        endpoint="/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        method="GET",
        params={"run_id": list(run_ids), "metric_key": metric, "max_results": BULK_POINTS},
    )
    if answer.status_code != 200:
        raise MlflowException(f"{answer.status_code}: {answer.text[:200]}")
    return [
        (m["run_id"], int(m.get("step", 0)), int(m["timestamp"]), float(m["value"]))
        for m in answer.json()["metrics"]
    ]


def _search(client: MlflowClient, experiments: list[str], query: str) -> Iterator[Run]:
    token = None
    while experiments:
        page = client.search_runs(
            experiments,
            query,
            max_results=PAGE_RUNS,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _all_experiments(client: MlflowClient) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_experiments(max_results=PAGE_RUNS, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _value(text: str) -> Any:
    """A parameter as it was: all but strings were written as JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _whole(text: str | None) -> int | None:
    return int(text) if text and text != "None" else None
