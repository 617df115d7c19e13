"""The studies that can be shown: those that lie here, and those in an MLflow store.

A study that is in both is read here, where it is fresher. What was read is kept in memory and in
files that may be deleted at any time; asking again reads only what is new. Safe to use from
several threads.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

import pandas as pd

from hpo import lease
from hpo.errors import UnknownStudy, UserError
from hpo.paths import Home, StudyPaths
from hpo.results.predicted import Predicted, read_predictions
from hpo.results.study_log import VERSIONS, OutboxReplaced, StudyLog
from hpo.results.summary import SUMMARY, summary, unreadable
from hpo.results.tables import StudyTables, from_log
from hpo.tracking import pending, shipped_ensembles, shipped_runs
from hpo.tracking.redact import redact

if TYPE_CHECKING:
    from hpo.results.tracked import TrackedStudies

# Artifacts that may be asked for by name.
TEXTS = ("study.yaml", "git.diff", "versions.txt", "traceback.txt", "log.txt")
MOST_TEXT = 200_000  # characters, from the end
AGAIN_S = 10.0  # between two looks for studies in MLflow, and before a store that failed is asked
# Of files that are damaged.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class Source(Protocol):
    """One study, wherever it is kept. Safe to use from several threads."""

    key: str

    def tables(self, patience_s: float) -> StudyTables:
        """As it stands; curves are fetched for at most `patience_s`."""

    def known(self) -> StudyTables | None:
        """As it last stood, if that may be shown while its store cannot be read."""

    def file(self, trial: int | None, name: str) -> Path | None:
        """A local copy of an artifact of a trial or (None) of the study, if there is one."""

    def files(self, trial: int) -> dict[str, int]:
        """The artifacts of a trial, and how many bytes each has."""

    def text(self, trial: int | None, name: str) -> str | None:
        """The same of a text, read."""

    def ensembles(self) -> list[dict[str, Any]]:
        """What is recorded of each ensemble over its trials, the first one first."""

    def confirmation(self) -> dict[str, Any] | None:
        """How its winner did when it was confirmed, the last time."""

    def summary(self) -> dict[str, Any]:
        """A row of `Catalog.studies`."""

    def pending(self) -> int:
        """Records that MLflow lacks, as far as is known."""


class Catalog:
    """What `hpo ui` shows.

    Args:
        home: The folder in which ``studies/`` lies.
        uri: An MLflow tracking URI; None: the embedded store, if there is one.
    """

    def __init__(self, home: Path, uri: str | None = None) -> None:
        self._home = Home(home)
        self._uri = uri or self._embedded()
        self._here: dict[str, _Here] = {}
        self._tracked: TrackedStudies | None = None
        self._lock = threading.RLock()
        self._connecting = threading.Lock()
        self._ask_again_s = 0.0  # on the monotonic clock
        self.trouble: str | None = None  # why MLflow could not be read, or None

    def connect(self) -> None:
        """Look for studies in MLflow, too. Takes seconds the first time; `trouble` says what
        went wrong, and what was known before stays.
        """
        if self._uri is None:
            return
        from hpo.results.tracked import TrackedStudies

        try:
            with self._connecting:
                found = self._tracked or TrackedStudies(self._uri, self._home.results_cache)
                found.refresh()
                self._tracked = found  # now: who asks meanwhile waits, see `is_connected`
            self.trouble = None
        except Exception as error:  # whatever MLflow and its libraries raise
            self._tell(error)
        self._ask_again_s = time.monotonic() + AGAIN_S

    def connect_in_background(self) -> None:
        """Do so in a thread, unless that is being done or was, less than `AGAIN_S` ago."""
        with self._lock:
            if self._uri is None or time.monotonic() < self._ask_again_s:
                return
            self._ask_again_s = math.inf  # until it is done
        threading.Thread(target=self.connect, daemon=True, name="connect").start()

    @property
    def is_connected(self) -> bool:
        """Whether MLflow has been asked."""
        return self._uri is None or self._tracked is not None or self.trouble is not None

    def studies(self) -> pd.DataFrame:
        """A row for each study, the one that changed last first.

        Returns:
            ``key``, ``name``, ``state``, ``source``, a count for each state of a trial,
            ``metric``, ``goal``, ``best_trial``, ``best_value``, ``best_so_far`` (at most 60
            values), ``used`` (the share of its budget, in [0, 1], NaN without one), ``started``
            and ``updated`` (UTC).
        """
        rows = [self._summary(source) for source in self._sources().values()]
        table = pd.DataFrame(rows, columns=list(SUMMARY))
        for column in ("started", "updated"):
            table[column] = pd.to_datetime(table[column], unit="ms", utc=True)
        return table.sort_values("updated", ascending=False, ignore_index=True)

    def _summary(self, source: Source) -> dict[str, Any]:
        """A study that cannot be read does not hide the others."""
        try:
            return source.summary()
        except Exception as error:  # records of another version, a folder of another user, …
            where = "here" if isinstance(source, _Here) else redact(self._uri or "")
            return unreadable(source.key, where, f"{type(error).__name__}: {redact(str(error))}")

    def study(self, key: str, patience_s: float = 2.0) -> StudyTables:
        """A study as it stands.

        Args:
            patience_s: So long at most are curves fetched from MLflow; ask again for the rest
                (`StudyTables.missing_curves`).

        Raises:
            UnknownStudy: There is no such study.
        """
        source = self._source(key)
        known = source.known()
        if known is not None and self.trouble and time.monotonic() < self._ask_again_s:
            return known
        try:
            return source.tables(patience_s)
        except OutboxReplaced:
            with self._lock:
                self._here.pop(key, None)
            return self._source(key).tables(patience_s)
        except Exception as error:  # whatever MLflow and its libraries raise
            if known is None or isinstance(source, _Here):
                raise
            self._tell(error)
            self._ask_again_s = time.monotonic() + AGAIN_S
            return known

    def predicted(self, key: str, trial: int) -> Predicted | None:
        """What a trial said of the validation split, or None.

        Raises:
            UnknownStudy: There is no such study.
            UserError: It cannot be read, now or at all.
        """
        path = self._fetch(key, trial, "predictions.npz")
        if path is None:
            return None
        classes = self.study(key, 0).dataset.get("classes")
        try:
            return read_predictions(path, classes)
        except UNREADABLE as error:
            raise UserError(f"{key}/{trial}: its predictions cannot be read: {error}") from error

    def text(self, key: str, trial: int | None, name: str) -> str | None:
        """The end of a text that was kept of a trial or (None) of the study, or None.

        Raises:
            UnknownStudy: There is no such study.
            UserError: It cannot be read now.
        """
        assert name in TEXTS, name
        found = self._fetch(key, trial, name, text=True)
        return found and found[-MOST_TEXT:]

    def ensembles(self, key: str) -> list[dict[str, Any]]:
        """The ensembles over a study's trials, each as `hpo.results.ensemble` has it.

        Raises:
            UnknownStudy: There is no such study.
            UserError: They cannot be read now.
        """
        source = self._source(key)
        with self._readable(source, "the ensembles"):
            return source.ensembles()

    def confirmation(self, key: str) -> dict[str, Any] | None:
        """How the winner of a study did when it was confirmed, as `hpo.results.confirmation`.

        What is no number (NaN) may be None here.

        Raises:
            UnknownStudy: There is no such study.
            UserError: It cannot be read now.
        """
        source = self._source(key)
        with self._readable(source, "the confirmation"):
            return source.confirmation()

    def examples(self, key: str) -> pd.DataFrame | None:
        """The validation rows that were kept for looking at: ``id`` and what the row holds.

        Raises:
            UnknownStudy: There is no such study.
            UserError: They cannot be read, now or at all.
        """
        path = self._fetch(key, None, "examples.parquet")
        try:
            return None if path is None else pd.read_parquet(path)
        except UNREADABLE as error:
            raise UserError(f"{key}: its examples cannot be read: {error}") from error

    def artifacts(self, key: str, trial: int) -> dict[str, int]:
        """The files that were kept of a trial, and how many bytes each has.

        Raises:
            UnknownStudy: There is no such study.
            UserError: They cannot be listed now.
        """
        source = self._source(key)
        with self._readable(source, "the list of files"):
            return source.files(trial)

    def artifact(self, key: str, trial: int, name: str) -> bytes:
        """One of `artifacts`.

        Raises:
            UnknownStudy: There is no such study.
            UserError: It is none of them, or cannot be read now.
        """
        known = self.artifacts(key, trial)
        path = self._fetch(key, trial, name) if name in known else None
        if path is None:
            raise UserError(f"{key}/{trial} has no file {name}")
        return path.read_bytes()

    def pending(self, key: str) -> int:
        """How many records of a study MLflow lacks, as far as is known here."""
        return self._source(key).pending()

    @overload
    def _fetch(self, key: str, trial: int | None, name: str) -> Path | None: ...
    @overload
    def _fetch(
        self, key: str, trial: int | None, name: str, text: Literal[True]
    ) -> str | None: ...
    def _fetch(
        self, key: str, trial: int | None, name: str, text: bool = False
    ) -> Path | str | None:
        source = self._source(key)
        with self._readable(source, name):
            return source.text(trial, name) if text else source.file(trial, name)

    @contextlib.contextmanager
    def _readable(self, source: Source, what: str) -> Iterator[None]:
        """Whatever is raised when something of a study is read becomes a `UserError`."""
        try:
            yield
        except Exception as error:  # whatever MLflow and its libraries raise
            if isinstance(source, _Here):
                raise UserError(f"{what} of {source.key} cannot be read: {error}") from error
            self._tell(error)
            raise UserError(
                f"{what} of {source.key} cannot be read now: {self.trouble}"
            ) from error

    def _tell(self, error: Exception) -> None:
        from hpo.results.tracked import explain

        self.trouble = explain(self._uri or "", error)

    def _sources(self) -> dict[str, Source]:
        with self._lock:
            names = self._home.study_names()
            self._here = {name: self._here.get(name) or _Here(self._home, name) for name in names}
            found: dict[str, Source] = dict(self._here)
            here = {study.study_id for study in self._here.values()}
            for study in self._tracked.studies.values() if self._tracked else ():
                if study.study_id not in here:
                    study.key = study.full_key if study.name in found else study.name
                    found[study.key] = study
            return found

    def _source(self, key: str) -> Source:
        sources = self._sources()
        if key not in sources and not self.is_connected:
            self.connect()
            sources = self._sources()
        if key not in sources:
            raise UnknownStudy(f"there is no study '{key}'")
        return sources[key]

    def _embedded(self) -> str | None:
        exists = (self._home.mlruns / "mlflow.db").is_file()
        return self._home.tracking_uri if exists else None


class _Here:
    """A study whose outbox lies here."""

    def __init__(self, home: Home, name: str) -> None:
        self.key = name
        self._paths: StudyPaths = home.study(name)
        self._lock = threading.RLock()
        self._log = StudyLog.read(self._paths, home.results_cache)
        self._tables: StudyTables | None = None
        self._summary: tuple[int, dict[str, Any]] | None = None  # of these tables' version
        self._shipped = -1.0

    @property
    def study_id(self) -> str | None:
        return (self._log.study or {}).get("study_id")

    def tables(self, patience_s: float) -> StudyTables:
        with self._lock:
            changed = self._log.refresh()
            shipped = _modified(self._paths.shipped)
            if changed or self._tables is None or shipped != self._shipped:
                if shipped != self._shipped:
                    self._shipped, self._log.version = shipped, next(VERSIONS)
                owner = lease.owner(self._paths.lease) if self._log.live else None
                self._tables = from_log(self._log, shipped_runs(self._paths), owner)
            return self._tables

    def known(self) -> StudyTables | None:
        return None

    def file(self, trial: int | None, name: str) -> Path | None:
        folder = self._paths.root if trial is None else self._paths.trial(trial)
        return folder / name if self._paths.has(folder / name) else None

    def files(self, trial: int) -> dict[str, int]:
        folder = self._paths.trial(trial)
        found = sorted(folder.glob("*.*")) if folder.is_dir() else []
        return {path.name: path.stat().st_size for path in found if self.file(trial, path.name)}

    def text(self, trial: int | None, name: str) -> str | None:
        if trial is None and name in ("git.diff", "versions.txt"):
            return None  # in the tables' provenance
        if trial is not None and name == "traceback.txt":
            log = self._log.trials.get(trial)
            return log.end.get("traceback") if log and log.end else None
        return _read(self.file(trial, name))

    def ensembles(self) -> list[dict[str, Any]]:
        with self._lock:
            self._log.refresh()
            runs = shipped_ensembles(self._paths)
            return [
                {**record, "run_id": runs.get(number)}
                for number, record in self._log.ensembles.items()
            ]

    def confirmation(self) -> dict[str, Any] | None:
        with self._lock:
            self._log.refresh()
            return dict(self._log.confirmations[-1]) if self._log.confirmations else None

    def summary(self) -> dict[str, Any]:
        with self._lock:
            try:
                tables = self.tables(0)
            except OutboxReplaced:
                self._log, self._tables = StudyLog.read(self._paths), None
                tables = self.tables(0)
            if self._summary is None or self._summary[0] != tables.version:
                self._summary = (tables.version, summary(tables))
            return self._summary[1]

    def pending(self) -> int:
        return pending(self._paths)


def _read(path: Path | None) -> str | None:
    return path.read_text(errors="replace") if path else None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
