"""One orchestrator a study: a file lock that dies with its owner.

The lock is the kernel's (`flock`), so a dead owner's lease is free at once, whatever killed it;
the file's text only says who to ask. Not covered: two machines on one PostgreSQL storage with
separate ``studies/`` folders.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hpo.errors import StudyLocked
from hpo.paths import make_folder, missing_folders, remove_empty, room_for


@contextmanager
def hold(path: Path, study: str) -> Iterator[dict[str, Any]]:
    """Hold the lease of `study` for the length of a ``with`` block.

    The study's folder is made, and is gone again if nothing was put into it.

    Yields:
        What `owner` says meanwhile: this session among all of the study.

    Raises:
        StudyLocked: Another process holds it; the message names its host and pid.
    """
    lock, made = _acquire(path, study)
    try:
        held = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        with room_for(path):
            path.write_text(json.dumps(held))
        yield held
    finally:
        path.unlink(missing_ok=True)
        if made:
            _leave_nothing(Path(lock.lock_file), made)
        lock.release()


def _acquire(path: Path, study: str) -> tuple[FileLock, list[Path]]:
    """The lock, which is held now, and the folders that were made for it."""
    lock, made = FileLock(path.with_suffix(".lock")), list[Path]()
    while True:
        made = missing_folders(path.parent) or made
        make_folder(path.parent)
        try:
            lock.acquire(timeout=2)  # `owner` takes it for a moment
        except FileNotFoundError:  # who held it has just removed the folder
            continue
        except Timeout:
            raise StudyLocked(locked_message(study, _read(path))) from None
        return lock, made


def _leave_nothing(lock_file: Path, made: Sequence[Path]) -> None:
    """Remove a lock that is held, and the folders made for it, where there is nothing else."""
    with suppress(OSError):
        if list(lock_file.parent.iterdir()) == [lock_file]:
            # Who waits for it finds that it has no name any more, and begins anew.
            lock_file.unlink()
            remove_empty(made)


def owner(path: Path) -> dict[str, Any] | None:
    """Who runs the study: ``{"host", "pid", "started"}`` (seconds since the epoch), or None.

    A lock shared with all who ask tells a live owner from a dead one's left-over file.
    """
    try:
        lock_file = os.open(path.with_suffix(".lock"), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path) or {"host": "unknown", "pid": None, "started": None}
    finally:
        os.close(lock_file)
    return None


def locked_message(study: str, holder: dict[str, Any] | None) -> str:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return (
        f"study '{study}' is being run by {who}.\n"
        f"Watch it with `hpo status {study}`, or stop it with `hpo stop {study}` "
        "and run this command again: it goes on where the other stopped."
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found
