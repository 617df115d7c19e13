"""Every directory and file that hpo writes, in one place.

A *home* is the folder in which ``mlruns/`` and ``studies/`` lie: the current one, or ``--home``.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeGuard

from hpo.errors import NoRoom

MOUNTS = Path("/proc/self/mounts")
# Where a lock, or memory that processes share through a file, cannot be relied on.
NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "afs", "fuse.sshfs")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk, the user's share of it, the file


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
    PREDICTIONS = "predictions.npz"  # beside it
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

    def claim(self, number: int) -> Path:
        """Which attempt of one trial may write into its folder (`hpo.claims`)."""
        return self.root / "claims" / str(number)

    def model(self, number: int) -> Path:
        """The weights of one trial's best epoch, if they are kept."""
        return self.trial(number) / self.MODEL

    def has(self, path: Path) -> bool:
        """Whether `path` is a file in the study's folder, and no link out of it.

        What somebody else has filled, a folder or its records, must not give away what lies
        beside it.
        """
        try:
            real, root = os.path.realpath(path), os.path.realpath(self.root)
        except ValueError:  # a NUL
            return False
        return os.path.isfile(real) and Path(real).is_relative_to(root)

    def ensemble(self, number: int) -> Path:
        """Predictions of one ensemble over trials."""
        return self.root / "ensembles" / str(number)


def is_address(text: object) -> TypeGuard[str]:
    """Whether a source of data is an address (``s3://…``), and no path or name."""
    return isinstance(text, str) and re.match(r"[a-z][a-z0-9+.-]*://", text, re.I) is not None


def fetched_data() -> Path:
    """Data from addresses (`hpo.fetched`), of all studies of this user on this machine.

    May be deleted while none runs.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return root / "hpo" / "data"


def network_file_system(folder: Path) -> str | None:
    """On which kind of network file system `folder` lies; None: on none that is known as one."""
    try:
        mounts = MOUNTS.read_text().splitlines()
    except OSError:  # not Linux
        return None
    real, deepest, found = folder.resolve(), 0, ""
    for mount in mounts:
        _, point, kind, *_ = mount.split(" ")
        path = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point))
        if real.is_relative_to(path) and len(path.parts) >= deepest:  # the later one covers it
            deepest, found = len(path.parts), kind
    return found if found in NETWORKED else None


@contextmanager
def room_for(path: Path, size: int | None = None) -> Iterator[None]:
    """Say which file it is that the disk has no room for.

    Args:
        size: Bytes that are to be written; None: not known.

    Raises:
        NoRoom: There is no room for `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        needs = "more room" if size is None else f"{size:,} bytes"
        free = shutil.disk_usage(next(p for p in path.parents if p.exists())).free
        raise NoRoom(
            f"{path} needs {needs}, and the disk has {free:,} bytes free ({error.strerror})"
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether it was a full disk that an error came from."""
    while error is not None:
        if isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def replacing(
    path: Path, size: int | None = None, check: Callable[[], None] = lambda: None
) -> Iterator[IO[bytes]]:
    """Write a file so that a reader, or a crash, sees the old one or the whole new one.

    Writes beside `path`, flushes to the disk, renames, and flushes the folder.

    Args:
        size: Bytes that are to be written, if that is known: for what `NoRoom` says.
        check: Raises what is raised in place of the file, if it is not to be written after all.

    Raises:
        NoRoom: The disk has no room for it; the old file, if any, is as it was.
    """
    with room_for(path, size):
        make_folder(path.parent)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(beside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            check()
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        flush_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those it lies in, so that their names survive a crash of the machine."""
    missing = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        flush_folder(each.parent)


def missing_folders(folder: Path) -> list[Path]:
    """Of a folder and those it lies in, what is not there yet; the innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, up to one with something in it."""
    with suppress(OSError):
        for each in folders:
            each.rmdir()


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
