"""What was printed while a trial was in training: its part of the worker's log, in its folder.

Not covered: what C code has not flushed yet; the inline executor, which prints to the terminal.
"""

from __future__ import annotations

import re
from pathlib import Path

from hpo.paths import make_folder
from hpo.tracking.redact import redact

NAME = "log.txt"
MOST_BYTES = 64 * 1024  # the last ones are kept


def end_of(worker_log: Path) -> int:
    """How many bytes a worker has printed so far."""
    try:
        return worker_log.stat().st_size
    except OSError:
        return 0


def keep(worker_log: Path, start: int, folder: Path) -> None:
    """Add what a worker printed from byte `start` on to the trial's log, without passwords.

    Nothing happens if it printed nothing, or if there is no room for it: it is not worth a trial.

    Args:
        folder: The trial's; an earlier attempt may have left a log there.
    """
    end = end_of(worker_log)
    if end <= start:
        return
    try:
        with open(worker_log, "rb") as file:
            file.seek(max(start, end - MOST_BYTES))
            printed = file.read(end - file.tell())
        if end - start > MOST_BYTES:
            printed = _from_a_boundary(printed)
        path = folder / NAME
        before = path.read_bytes() if path.exists() else b""
        text = before + redact(printed.decode(errors="replace")).encode()
        if len(text) > MOST_BYTES:
            text = _from_a_boundary(text[-MOST_BYTES:])
        if text:
            make_folder(folder)
            path.write_bytes(text)
    except OSError:
        return


def _from_a_boundary(text: bytes) -> bytes:
    """`text` without its first, perhaps incomplete word: half a password looks like none."""
    found = re.search(rb"\s", text)
    return text[found.end() :] if found else b""
