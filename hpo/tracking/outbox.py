"""The outbox: a study's write-ahead log, from which MLflow and `hpo.results` are fed.

A line a record: ``<CRC-32 of the JSON, 8 hex digits> <compact JSON>\\n``. NaN and infinities are
bare words (``NaN``, ``Infinity``), as Python's `json` writes and reads them, so that every float
comes back as it was.

What is promised: after `Outbox.commit` returns, every record appended before it survives a crash
of the machine. A last line torn by a crash was never acknowledged: readers stop before it, and
opening for writing cuts it. A damaged line elsewhere is skipped with a warning that names it by
those who only show what there is; a study does not go on with one (`read_whole`).

Not covered: two writers (the study's lease sees to that), and reading on another machine while
the file is being written over NFS.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from hpo.errors import RecordsLost
from hpo.paths import flush_folder, make_folder, room_for

_CRC_DIGITS = 8


class DamagedOutbox(UserWarning):
    """A line of the outbox does not match its checksum and was skipped."""


class Outbox:
    """The outbox, open for appending.

    Opening creates the file, or cuts a torn last line. The only writer is the process that holds
    the study's lease.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        make_folder(path.parent)
        new = not path.exists()
        cut_torn_tail(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - for the life of the study
        self._size = self._file.tell()  # of what is on the disk
        self._waiting: list[bytes] = []
        if new:
            flush_folder(path.parent)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record. It is acknowledged only when `commit` has returned.

        Raises:
            TypeError: A value has no JSON form; nothing was added.
        """
        self._waiting.append(encode(record))

    def commit(self) -> None:
        """Write all records appended so far to the disk, in one piece.

        Raises:
            NoRoom: The disk has no room for them. The file is as it was, and they wait for
                another `commit`.
        """
        if not self._waiting:
            return
        group = b"".join(self._waiting)
        with room_for(self._path, len(group)):
            try:
                written = 0
                while written < len(group):
                    written += self._file.write(group[written:])
                os.fsync(self._file.fileno())
            except BaseException:  # Ctrl-C, too: `close` writes them again
                self._file.truncate(self._size)
                raise
        self._size += len(group)
        self._waiting.clear()

    def close(self) -> None:
        """Commit and close. Closing twice is fine."""
        if not self._file.closed:
            with self._file:
                self.commit()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The records from byte `offset` on, in order.

    Args:
        path: The outbox. It may be growing.
        offset: Where a record starts: 0, or an offset that an earlier read gave.

    Yields:
        A record, and the offset just after it. Ends before an incomplete last line.

    Warns:
        DamagedOutbox: A complete line does not match its checksum; it is skipped.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            record = decode(line)
            if record is None:
                _warn_damaged(path, offset)
            offset += len(line)
            if record is not None:
                yield record, offset


def read_whole(path: Path) -> Iterator[dict[str, Any]]:
    """All records, for a study that is to go on with them.

    Raises:
        RecordsLost: A complete line does not match its checksum. Nothing was changed.
    """
    with open(path, "rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            record = decode(line)
            if record is None:
                raise RecordsLost(
                    f"{path}, line {number} (byte {offset:,}): the record is damaged; its "
                    "checksum does not match, so the disk or a program other than hpo changed "
                    "it. The study does not go on without what was acknowledged there, and "
                    f"nothing was changed.\n{what_to_do(path)}"
                )
            yield record
            offset += len(line)


def what_to_do(path: Path) -> str:
    """What is left to do when the outbox at `path` lacks what was acknowledged."""
    study = path.parent.name
    return (
        f"Put back a copy of {path.parent} if there is one. Else begin another study, which may "
        f"learn from this one: `--set study={study}-2 --set start_from=[{{study: {study}}}]`. "
        f"`hpo trials {study}` shows what can be read."
    )


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as a line of the outbox."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a complete line, or None when the line is damaged."""
    text = line[_CRC_DIGITS + 1 : -1]
    if line[: _CRC_DIGITS + 1] != b"%08x " % zlib.crc32(text):
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def count(path: Path, offset: int = 0) -> int:
    """How many complete lines follow byte `offset`; 0 when there is no file."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def cut_torn_tail(path: Path) -> None:
    """Cut what follows the last complete line. Creates the file when it is not there."""
    with open(path, "a+b") as file:
        size = position = file.tell()
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < size:
            file.truncate(position)
            os.fsync(file.fileno())


def _warn_damaged(path: Path, offset: int) -> None:
    warnings.warn(
        f"{path}: the record at byte {offset} is damaged (its checksum does not match) "
        "and was skipped; the disk or a program other than hpo changed it",
        DamagedOutbox,
        stacklevel=3,
    )
