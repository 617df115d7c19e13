"""Optuna's journal file, written by one process and flushed in groups.

The file is the one that `optuna.storages.journal.JournalFileBackend` writes and reads (one JSON
object a line), so ``optuna-dashboard`` opens it. It differs in two ways, both safe because the
study's lease makes the orchestrator the only writer:

* A write is durable after `commit`, not at once: one flush to the disk serves all reports that
  arrived together (Optuna's own flushes on each call).
* A last line torn by a crash is cut on opening. Optuna's drops it on the first load, appends to
  it on the next write, and can then never load the file again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from hpo.errors import RecordsLost
from hpo.paths import flush_folder, room_for
from hpo.tracking.outbox import cut_torn_tail, what_to_do


class SingleWriterJournal(BaseJournalBackend):
    """An Optuna journal backend for a process that holds the study's lease."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = not path.exists()
        cut_torn_tail(path)
        self._file = open(path, "ab")  # noqa: SIM115 - open for the life of the study
        if self._new:
            flush_folder(path.parent)
        self._unread: list[dict[str, Any]] | None = None  # None until the file has been read
        self._count = 0  # logs delivered so far

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        if self._unread is None:
            self._unread = []
            self._file.flush()
            with open(self._path, "rb") as file:
                for line in file:
                    self._count += 1
                    yield self._log(line)
            return
        if log_number_from != self._count:
            raise RuntimeError(f"asked for log {log_number_from}, but {self._count} is the next")
        fresh, self._unread = self._unread, []
        self._count += len(fresh)
        yield from fresh

    def _log(self, line: bytes) -> dict[str, Any]:
        try:
            log: dict[str, Any] = json.loads(line)
        except ValueError:
            raise RecordsLost(
                f"{self._path}, line {self._count}: it is damaged; the disk or a program other "
                f"than hpo changed it. Nothing was changed.\n{what_to_do(self._path)}"
            ) from None
        return log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        assert self._unread is not None, "a JournalStorage reads before it writes"
        for log in logs:
            line = json.dumps(log, separators=(",", ":"))
            with room_for(self._path):  # a long line goes to the disk at once
                self._file.write(line.encode() + b"\n")
            self._unread.append(json.loads(line))  # as a reader of the file would see it

    def commit(self) -> None:
        """Make everything appended so far survive a crash of the machine.

        Raises:
            NoRoom: The disk has no room for it; another `commit` writes the rest.
        """
        with room_for(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        try:
            self.commit()
        finally:
            with contextlib.suppress(OSError):  # it tries once more to write the rest
                self._file.close()
                if self._new and not self._path.stat().st_size:  # the study was refused
                    self._path.unlink()
