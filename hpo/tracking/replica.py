"""A study in MLflow: one experiment, one run for the study, one nested run for each trial and for
each ensemble over trials.

Each call is idempotent, or looks first: runs are found by their tags before one is made, and
MLflow keeps one row for the same (metric, value, time, step).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import posixpath
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from sqlalchemy import make_url

from hpo.errors import HpoError
from hpo.fault_points import passing
from hpo.paths import Home, StudyPaths, replacing
from hpo.tables import plain
from hpo.tracking import Compared, outbox, runs
from hpo.tracking.progress import Record, StudyProgress, TrialProgress
from hpo.tracking.redact import redact
from hpo.tracking.stores import make_sqlite

BATCH_RECORDS = 5000  # between two writes of shipped.json
PAGE_RUNS = 1000
CLOCK_MARGIN_MS = 3_600_000

# MLflow says so of a request that can never work, as when a user has deleted the run.
REFUSED = {"INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"}
DATABASES = {"sqlite", "postgresql", "mysql", "mssql"}

logger = logging.getLogger("hpo.tracking")


class CannotShip(Exception):
    """MLflow cannot take the study as things are; the message says what to do."""


class Replica:
    """The study of `paths` at the tracking URI `uri`.

    Opening it connects, makes the experiment, and reads the outbox up to what was shipped, so
    that a trial's best epoch is known though its first epochs were shipped earlier. After any
    exception, open another: the state is then read anew.
    """

    def __init__(self, paths: StudyPaths, home: Home, uri: str) -> None:
        self._paths = paths
        self._store = redact(uri)
        self._client = _connect(home, uri)
        self._experiment_id = self._find_experiment(home, uri)
        self._study_id = _study_id(paths.outbox)
        self._parent: str | None = None
        self._runs: dict[int, str] = {}
        self._ensembles: dict[int, str] = {}
        self._offset = 0
        self._last_ms = 0  # time of the last record shipped that a run of the study wrote
        self._has_examples = False
        self.progress = StudyProgress()
        self._resume()

    def ship(self) -> None:
        """Ship all there is in the outbox."""
        while batch := list(
            itertools.islice(outbox.read(self._paths.outbox, self._offset), BATCH_RECORDS)
        ):
            for record, _ in batch:
                self.progress.add(record)
            self._ship_news()
            passing("news-sent")
            self.progress.shipped()
            self._last_ms = max([self._last_ms, *(_run_ms(record) for record, _ in batch)])
            self._offset = batch[-1][1]
            self._write_shipped()
            passing("shipped")
        self._ship_examples()

    def interrupt(self) -> None:
        """Say of a study whose orchestrator died that it is not running."""
        if self._parent is not None and self.progress.end is None:
            self._end_study("interrupted", "the process that ran it ended", self._last_ms)

    def remove_doubles(self) -> None:
        """Delete runs that are there twice: a server made them after it was given up."""
        self._find_runs(0)

    def compare(self) -> Compared:
        """Compare everything in MLflow with what is on record."""
        from hpo.tracking import verify

        return verify.compare(self._client, self._runs_of_study(), self._paths)

    # -- where we were

    def _find_experiment(self, home: Home, uri: str) -> str:
        name = self._paths.root.name
        found = self._experiment_by_name(name)
        if found is None:
            folder = (home.artifacts / name).as_uri() if _is_database(uri) else None
            return str(self._client.create_experiment(name, artifact_location=folder))
        if found.lifecycle_stage == "deleted":
            raise CannotShip(
                f"the experiment '{name}' was deleted there; restore it with "
                f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            )
        files = urlsplit(found.artifact_location)
        is_here = _is_database(uri) or Path(unquote(files.path)).exists()
        if files.scheme == "file" and not is_here:
            raise CannotShip(
                f"the files of the experiment '{name}' are in a folder of another machine, from "
                f"before there was a server; --set study={name}-2 makes a new one"
            )
        return str(found.experiment_id)

    def _experiment_by_name(self, name: str) -> Experiment | None:
        try:
            found: Experiment | None = self._client.get_experiment_by_name(name)
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            raise CannotShip(
                f"the experiment '{name}' there is somebody else's; ask its owner for EDIT, or "
                f"make your own with --set study={name}-2"
            ) from None
        return found

    def _resume(self) -> None:
        """Go on from ``shipped.json`` if it is of this outbox and this store."""
        shipped = self._read_shipped()
        if shipped:
            self._parent = shipped["parent_run"]
            self._runs = {int(number): run for number, run in shipped["runs"].items()}
            shipped_ensembles = shipped.get("ensembles", {})
            self._ensembles = {int(number): run for number, run in shipped_ensembles.items()}
            self._has_examples = shipped.get("examples", False)
            self._offset = self._read_until(shipped["offset"])
        next_record = next(outbox.read(self._paths.outbox, self._offset), None)
        if next_record is not None:
            first_ms = next_record[0]["time_ms"] if self._offset else CLOCK_MARGIN_MS
            self._find_runs(first_ms - CLOCK_MARGIN_MS)

    def _read_shipped(self) -> dict[str, Any]:
        try:
            shipped: dict[str, Any] = json.loads(self._paths.shipped.read_bytes())
        except (OSError, ValueError):
            return {}
        known = {"store": self._store, "study_id": self._study_id}
        if any(shipped.get(key) != value for key, value in known.items()):
            return {}
        try:
            self._client.get_run(shipped["parent_run"])
        except MlflowException as error:
            if error.error_code in REFUSED:
                return {}
            raise
        return shipped

    def _read_until(self, offset: int) -> int:
        """Take in what was shipped; `offset`, or 0 when no record ends there (any more)."""
        reached = 0
        for record, after in outbox.read(self._paths.outbox):
            if after > offset:
                break
            self.progress.add(record)
            reached, self._last_ms = after, max(self._last_ms, _run_ms(record))
        self.progress.shipped()
        if reached == offset:
            return offset
        logger.warning("shipped.json does not fit the outbox; everything is shipped again")
        self.progress = StudyProgress()
        return 0

    def _find_runs(self, since_ms: int) -> None:
        """Find runs that were made just before a crash, and are not in ``shipped.json``."""
        for run in list(self._runs_of_study(since_ms)):  # pages move up when a run is deleted
            tags, run_id = run.data.tags, run.info.run_id
            if "hpo.trial" in tags:
                known = self._runs.setdefault(int(tags["hpo.trial"]), run_id)
            elif "hpo.ensemble" in tags:
                known = self._ensembles.setdefault(int(tags["hpo.ensemble"]), run_id)
            elif tags.get("hpo.kind") == "study":
                known = self._parent = self._parent or run_id
            else:
                continue
            if known != run_id:
                logger.warning("run %s is there twice, as %s; deleted the former", run_id, known)
                self._client.delete_run(run_id)

    def _runs_of_study(self, since_ms: int = 0) -> Iterator[Run]:
        query = f"tags.`hpo.study_id` = '{self._study_id}'"
        if since_ms:
            query += f" and attributes.start_time >= {since_ms}"
        return self._search(query)

    def _search(self, query: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                query,
                max_results=PAGE_RUNS,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _write_shipped(self) -> None:
        shipped = {
            "offset": self._offset,
            "store": self._store,
            "study_id": self._study_id,
            "experiment_id": self._experiment_id,
            "parent_run": self._parent,
            "runs": self._runs,
            "ensembles": self._ensembles,
            "examples": self._has_examples,
        }
        with replacing(self._paths.shipped) as file:
            file.write(json.dumps(shipped).encode())

    # -- what is sent

    def _ship_news(self) -> None:
        progress = self.progress
        study = progress.study
        if study is None:
            raise CannotShip(f"the record that opens the study is damaged in {self._paths.outbox}")
        if progress.fresh_study or self._parent is None:
            self._ship_study(study)
        elif progress.fresh_budget:
            tags = {"hpo.budget": runs.study_tags(study)["hpo.budget"]}
            self._client.log_batch(self._parent, tags=runs.run_tags(tags))
        for trial in progress.news.values():
            self._ship_trial(trial, study)
        for trial in progress.improvements:
            self._ship_best(trial)
        if progress.news or progress.fresh_end or progress.fresh_study:
            assert self._parent is not None
            counts = {"hpo.trials": json.dumps(progress.counts)}
            self._client.log_batch(self._parent, tags=runs.run_tags(counts))
        if progress.fresh_end and progress.end is not None:
            end = progress.end
            self._end_study(end["state"], end["reason"], end["time_ms"])
        for ensemble in progress.ensembles:
            self._ship_ensemble(ensemble, study)
        if progress.confirmation is not None:
            self._ship_confirmation(progress.confirmation)

    def _ship_study(self, study: Record) -> None:
        tags = runs.study_tags(study)
        if self._parent is None:
            run = self._client.create_run(
                self._experiment_id, study["time_ms"], tags, run_name=study["study"]
            )
            self._parent = run.info.run_id
            passing("study-run-made")
        else:
            self._client.update_run(self._parent, status="RUNNING")
        parent = self._parent
        with self._may_be_refused("the study"):
            self._client.log_batch(
                parent, params=runs.study_params(study), tags=runs.run_tags(tags)
            )
        with self._may_be_refused("the view of the experiment"):
            for tag, value in runs.experiment_tags(study).items():
                self._client.set_experiment_tag(self._experiment_id, tag, value)
        if study["dataset"]:
            self._client.log_inputs(parent, [runs.dataset_input(study["dataset"])])
        folder = "" if self.progress.starts <= 1 else f"restarts/{self.progress.starts - 1}/"
        for name, text in runs.study_files(study).items():
            self._client.log_text(parent, text, folder + name)

    def _ship_examples(self) -> None:
        """Once; a worker writes them while the first trial is in training."""
        examples = self._paths.examples
        if self._has_examples or self._parent is None or not self._paths.has(examples):
            return
        with self._may_be_refused("the examples"):
            self._client.log_artifact(self._parent, str(examples))
        self._has_examples = True
        self._write_shipped()

    def _ship_trial(self, trial: TrialProgress, study: Record) -> None:
        assert self._parent is not None
        tags = runs.trial_tags(trial, study, self._parent)
        run_id = self._runs.get(trial.number)
        new = run_id is None
        if run_id is None:
            run = self._client.create_run(
                self._experiment_id, trial.began_ms, tags, run_name=f"trial {trial.number}"
            )
            run_id = self._runs[trial.number] = run.info.run_id
            passing("run-made")
        with self._may_be_refused(f"trial {trial.number}"):
            if trial.again and trial.end is None:
                self._client.update_run(run_id, status="RUNNING")
            params = trial.assigned["config"] if trial.assigned and (new or trial.first) else {}
            self._client.log_batch(
                run_id,
                metrics=runs.epoch_metrics(trial.fresh) + runs.final_metrics(trial),
                params=runs.params(params) + runs.own_params(trial),
                tags=[] if new else runs.run_tags(tags),
            )
            passing("epochs-sent")
            if trial.end is not None:
                self._ship_end(run_id, trial.end)

    def _ship_end(self, run_id: str, end: Record) -> None:
        self._ship_files(run_id, f"trial {end['number']}", end["artifacts"])
        if end["traceback"]:
            self._client.log_text(run_id, end["traceback"], "traceback.txt")
        self._client.set_terminated(run_id, runs.STATUS[end["state"]], end["time_ms"])
        passing("end-sent")

    def _ship_ensemble(self, ensemble: Record, study: Record) -> None:
        """A run of its own, with its members by their runs."""
        assert self._parent is not None
        number, time_ms = ensemble["ensemble"], ensemble["time_ms"]
        tags = runs.ensemble_tags(ensemble, study, self._parent)
        run_id = self._ensembles.get(number)
        if run_id is None:
            run = self._client.create_run(
                self._experiment_id, time_ms, tags, run_name=f"ensemble {number}"
            )
            run_id = self._ensembles[number] = run.info.run_id
        with self._may_be_refused(f"ensemble {number}"):
            self._client.log_batch(
                run_id,
                metrics=runs.ensemble_metrics(ensemble),
                params=runs.params(runs.ensemble_params(ensemble)),
                tags=runs.run_tags(tags),
            )
            facts = runs.ensemble_facts(ensemble, self._runs)
            self._client.log_text(run_id, json.dumps(facts, indent=1), runs.ENSEMBLE_FILE)
            self._ship_files(run_id, f"ensemble {number}", ensemble["artifacts"])
            if not ensemble.get("without_weights", True):
                self._ship_model(run_id, f"ensemble {number}", {**ensemble, **facts})
            self._client.set_terminated(run_id, runs.STATUS["complete"], time_ms)

    def _ship_confirmation(self, confirmation: Record) -> None:
        """What came out stands with the study's run."""
        assert self._parent is not None
        with self._may_be_refused("the confirmation"):
            text = json.dumps(plain(confirmation), indent=1)
            self._client.log_text(self._parent, text, runs.CONFIRMATION_FILE)
            tags = {
                "hpo.winner": str(confirmation["winner"]),
                "hpo.confirmed": str(confirmation["time_ms"]),  # last: the file is there then
            }
            self._client.log_batch(
                self._parent,
                metrics=runs.confirmation_metrics(confirmation),
                tags=runs.run_tags(tags),
            )

    def _ship_model(self, run_id: str, what: str, facts: Record) -> None:
        """A model that predicts, which anybody can load: ``runs:/RUN_ID/model``."""
        from hpo.predictor import recipe_of  # and so torch, of which other runs have no need
        from hpo.tracking import models

        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / runs.MODEL_FOLDER
            try:
                models.save(made, recipe_of(facts, self._paths), self._paths)
            except (FileNotFoundError, HpoError) as error:
                logger.warning("%s: there is no model of it: %s", what, error)
                return
            self._client.log_artifacts(run_id, str(made), runs.MODEL_FOLDER)

    def _ship_files(self, run_id: str, what: str, artifacts: Mapping[str, str]) -> None:
        for name, path in artifacts.items():
            file = self._paths.root / path
            if self._paths.has(file):
                self._client.log_artifact(run_id, str(file), posixpath.dirname(name) or None)
            else:
                logger.warning("%s: %s is not in its folder and was not shipped", what, file)

    def _ship_best(self, trial: TrialProgress) -> None:
        assert self._parent is not None
        tags = {"hpo.best_trial": str(trial.number), "hpo.best_run": self._runs[trial.number]}
        self._client.log_batch(
            self._parent, metrics=runs.best_metrics(trial), tags=runs.run_tags(tags)
        )

    def _end_study(self, state: str, reason: str, time_ms: int) -> None:
        """End the study's run, and those of trials that wait to go on or are paused."""
        assert self._parent is not None
        for number, trial in self.progress.open.items():
            if number in self._runs:
                as_it_is = "paused" if trial.paused else "interrupted"
                waiting = {"hpo.state": as_it_is, "hpo.reason": reason}
                with self._may_be_refused(f"trial {number}"):
                    self._end_run(self._runs[number], "interrupted", waiting, time_ms)
        self._end_run(self._parent, state, {"hpo.state": state, "hpo.reason": reason}, time_ms)

    def _end_run(self, run_id: str, state: str, tags: dict[str, str], time_ms: int) -> None:
        self._client.log_batch(run_id, tags=runs.run_tags(tags))
        self._client.set_terminated(run_id, runs.STATUS[state], time_ms)

    @contextlib.contextmanager
    def _may_be_refused(self, what: str) -> Iterator[None]:
        """Go on without what MLflow will never accept, as when a user has deleted the run."""
        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSED:
                raise
            logger.warning("%s: MLflow refuses it: %s", what, redact(error.message))


def _run_ms(record: Record) -> int:
    """The time of what happened while the study ran, else 0."""
    after = record["kind"] in ("ensemble", "confirmation", "storage")
    time_ms: int = 0 if after else record["time_ms"]
    return time_ms


def _connect(home: Home, uri: str) -> MlflowClient:
    """A client; a database is created, by one process at a time."""
    if not _is_database(uri):
        return MlflowClient(tracking_uri=uri)
    is_file = uri.startswith("sqlite")
    folder = Path(str(make_url(uri).database)).parent if is_file else home.mlruns
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # as `hpo server` does (`hpo.tracking.stores`)
        if is_file:
            make_sqlite(uri, logger.info)
        if uri == home.tracking_uri:
            _set_write_ahead_log(home.mlruns / "mlflow.db")
        client = MlflowClient(tracking_uri=uri)
        client.get_experiment_by_name("Default")  # creates the tables
    return client


def _set_write_ahead_log(database: Path) -> None:
    """Readers (MLflow's pages) then never block the writer. Kept in the file itself."""
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _is_database(uri: str) -> bool:
    return urlsplit(uri).scheme.split("+")[0] in DATABASES


def _study_id(path: Path) -> str:
    for record, _ in outbox.read(path):
        if record["kind"] == "study":
            study_id: str = record["study_id"]
            return study_id
    raise CannotShip(f"no record of a study in {path}")
