"""Ships a study's outbox to MLflow: ``python -m hpo.tracking.mlflow``, a process of its own.

Its orders come on stdin as a line of JSON, while it imports MLflow. While stdin is open it follows
the outbox; when stdin closes (the orchestrator is done, or dead) it ships what is left, prints a
`Shipped` as a line of JSON on stdout and ends.

What is promised: every record arrives, however this process, the orchestrator or MLflow is
killed, and none twice. ``shipped.json`` moves on only after MLflow has accepted; what was
accepted without that being written down is sent again, and `hpo.tracking.replica` makes that the
same as once. No password is printed.

A server may complete a request after the connection was given up, and a run then be there twice:
the second one is deleted when the shipping goes on, or at its end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from filelock import FileLock, Timeout

from hpo import lease
from hpo.paths import Home, StudyPaths
from hpo.tracking import Compared, Shipped, pending
from hpo.tracking.redact import RedactedStream, redact

if TYPE_CHECKING:
    from hpo.tracking.replica import Replica

POLL_S = 0.2
# Between two shipments: a batch of many records costs little more than one of few, so shipping
# takes at most this share of the time, until waiting is as long as MAX_WAIT_S.
SHIPPING_SHARE = 0.05
MIN_WAIT_S, MAX_WAIT_S = 1.0, 10.0
MAX_BACK_OFF_S = 30.0
LOCK_WAIT_S = 10.0  # for an earlier shipper of this study to end
NICENESS = 5
MAX_ERROR = 300

logger = logging.getLogger("hpo.tracking")


class Follower:
    """Ships until `closed` is set, and then what is left."""

    def __init__(
        self, paths: StudyPaths, home: Home, uri: str, closed: threading.Event, verify: bool
    ) -> None:
        self._paths, self._home, self._uri = paths, home, uri
        self._closed = closed
        self._verify = verify
        self._compared: Compared | None = None
        self._has_failed = False
        self._replica: Replica | None = None
        self._seen = -1  # size of the outbox when last shipped
        self._error: str | None = None

    def follow(self) -> Shipped:
        failures = 0
        while True:
            last = self._closed.is_set()  # what was written before is read below
            began_s = time.monotonic()
            self._try_to_ship(last)
            if last:
                return Shipped(pending(self._paths), self._error, self._compared)
            if self._error is None:
                failures, took_s = 0, time.monotonic() - began_s
                wait_s = min(max(took_s / SHIPPING_SHARE, MIN_WAIT_S), MAX_WAIT_S)
            else:
                failures += 1
                wait_s = min(2.0**failures, MAX_BACK_OFF_S)
            self._closed.wait(wait_s)
            while not self._closed.is_set() and self._size() == self._seen:
                self._closed.wait(POLL_S)

    def _try_to_ship(self, last: bool) -> None:
        size = self._size()
        if size == 0:
            return
        try:
            if self._replica is None:
                from hpo.tracking.replica import Replica

                # SQLAlchemy makes many small objects; looking for garbage among all that MLflow
                # imports each time took a sixth of the time.
                gc.freeze()
                gc.set_threshold(100_000, 20, 20)
                self._replica = Replica(self._paths, self._home, self._uri)
            self._replica.ship()
            if last and self._has_failed:  # what was given up may have been done all the same
                self._replica.remove_doubles()
            if last and lease.owner(self._paths.lease) is None:
                self._replica.interrupt()
                if self._verify:
                    self._compared = self._replica.compare()
        except Exception as error:  # whatever MLflow and its many libraries raise: try again later
            self._replica, self._seen, self._has_failed = None, -1, True
            self._tell(error)
        else:
            self._seen, self._error = size, None

    def _tell(self, error: Exception) -> None:
        text = f"MLflow at {redact(self._uri)} {_explain(error)}"
        if text != self._error:
            logger.error("%s", text)
        self._error = text

    def _size(self) -> int:
        try:
            return self._paths.outbox.stat().st_size
        except FileNotFoundError:
            return 0


def _explain(error: Exception) -> str:
    """What went wrong, in a line. MLflow wraps what the connection said in long texts."""
    from requests import exceptions

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, exceptions.Timeout):
            return "does not answer"
        if isinstance(cause, exceptions.ConnectionError):
            return "cannot be reached"
        cause = cause.__cause__ or cause.__context__
    text = " ".join(redact(str(error)).split())[:MAX_ERROR]
    return f"failed: {type(error).__name__}: {text}"


def _follow_alone(follower: Follower, paths: StudyPaths, closed: threading.Event) -> Shipped:
    """Follow while no other process ships this study."""
    lock = FileLock(paths.ship_lock)
    while True:
        last = closed.is_set()
        with contextlib.suppress(Timeout), lock.acquire(timeout=LOCK_WAIT_S if last else POLL_S):
            return follower.follow()
        if last:
            return Shipped(pending(paths), "another process is shipping this study")


def _watch(stdin: TextIO, closed: threading.Event) -> None:
    stdin.read()
    closed.set()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.nice(NICENESS)
    with contextlib.suppress(Exception):  # what is wrong with it is told when it is needed
        import hpo.tracking.replica  # noqa: F401
    line = sys.stdin.readline()
    if not line:
        return  # there is no study after all
    order = json.loads(line)
    paths = StudyPaths(Path(order["study"]))
    with open(paths.ship_log, "ab") as log:
        os.dup2(log.fileno(), 2)
    os.dup2(2, 1)  # whatever MLflow prints is for the log
    sys.stdout = sys.stderr = cast(TextIO, RedactedStream(sys.stderr))
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    closed = threading.Event()
    threading.Thread(target=_watch, args=(sys.stdin, closed), daemon=True).start()
    home = Home(Path(order["home"]))
    follower = Follower(paths, home, order["uri"], closed, order["verify"])
    answers.write(json.dumps(asdict(_follow_alone(follower, paths, closed))))
    answers.flush()
    os._exit(0)  # MLflow leaves threads behind


if __name__ == "__main__":
    main()
