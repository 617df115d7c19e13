"""Every directory and file that hpo writes, in one place.

A *home* is the folder in which ``mlruns/`` and ``studies/`` lie: the current one, or ``--home``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Home:
    """The folder in which ``mlruns/`` and ``studies/`` lie."""

    root: Path

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def mlruns(self) -> Path:
        return self.root / "mlruns"

    @property
    def tracking_uri(self) -> str:
        """The embedded MLflow store, used when the study names no other."""
        return f"sqlite:///{(self.mlruns / 'mlflow.db').resolve()}"

    def tracking_address(self, named: str | None) -> str:
        """Where MLflow is: as the study names it, as ``MLFLOW_TRACKING_URI`` does, or here."""
        return named or os.environ.get("MLFLOW_TRACKING_URI") or self.tracking_uri

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow store keeps artifacts."""
        return (self.mlruns / "artifacts").resolve()

    @property
    def data_cache(self) -> Path:
        """Decoded data, shared by workers. May be deleted at any time."""
        return self.studies / ".cache"

    @property
    def results_cache(self) -> Path:
        """What was read of long studies. May be deleted at any time."""
        return self.data_cache / "results"

    def study(self, name: str) -> StudyPaths:
        return StudyPaths(self.studies / name)

    def study_names(self) -> list[str]:
        """The studies that have been run here, by name."""
        if not self.studies.is_dir():
            return []
        found = (p for p in self.studies.iterdir() if (p / StudyPaths.OUTBOX).is_file())
        return sorted(p.name for p in found)


@dataclass(frozen=True)
class StudyPaths:
    """What a run of one study leaves under ``studies/NAME/``."""

    OUTBOX = "outbox.log"
    MODEL = "model.pt"  # in a trial's folder
    root: Path

    @property
    def outbox(self) -> Path:
        """Everything acknowledged, in order: what MLflow is fed from."""
        return self.root / self.OUTBOX

    @property
    def shipped(self) -> Path:
        """How far MLflow has been fed, and the run id of each trial (JSON)."""
        return self.root / "shipped.json"

    @property
    def ship_lock(self) -> Path:
        return self.root / "ship.lock"

    @property
    def ship_log(self) -> Path:
        """What the process that feeds MLflow has to say."""
        return self.root / "ship.log"

    @property
    def journal(self) -> Path:
        """Optuna's journal: the truth about trials."""
        return self.root / "journal.log"

    @property
    def lease(self) -> Path:
        """Locked, and naming its owner, while an orchestrator runs this study."""
        return self.root / "lease"

    @property
    def requests(self) -> Path:
        """What others ask of the process that runs this study (`hpo.requests`)."""
        return self.root / "requests"

    @property
    def resolved(self) -> Path:
        """The study file as it was understood, every default written out (YAML)."""
        return self.root / "study.yaml"

    @property
    def examples(self) -> Path:
        """Some of the validation rows, to look at (`trainers.data.examples.table`)."""
        return self.root / "examples.parquet"

    def worker_log(self, worker: int) -> Path:
        """What worker `worker` printed."""
        return self.root / "workers" / f"{worker}.log"

    def trial(self, number: int) -> Path:
        """Checkpoints, predictions and weights of one trial."""
        return self.root / "trials" / str(number)

    def model(self, number: int) -> Path:
        """The weights of one trial's best epoch, if they are kept."""
        return self.trial(number) / self.MODEL

    def ensemble(self, number: int) -> Path:
        """Predictions of one ensemble over trials."""
        return self.root / "ensembles" / str(number)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file so that a reader, or a crash, sees the old one or the whole new one.

    Writes beside `path`, flushes to the disk, renames, and flushes the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
