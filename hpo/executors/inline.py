"""One worker as a thread of this process: for debuggers and for tests.

A trial that hangs cannot be killed here, and a crash takes the orchestrator along.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from hpo.executors import Event, Gone
from hpo.messages import Begin, Quit, Setup

if TYPE_CHECKING:
    from hpo.devices import Slot
    from hpo.errors import Problem
    from hpo.spec import StudySpec


class InlineExecutor:
    """`hpo.executors.Executor` with a thread for its only worker."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._number = 0

    def slots(self, spec: StudySpec, say: Callable[[str], None]) -> list[Slot] | Problem:
        from hpo import devices

        return devices.slots(spec)

    def start(self, setup: Setup) -> None:
        from hpo.worker import serve

        if self._connection is not None:
            raise ValueError("the inline executor has one worker")
        self._connection, theirs = Pipe()
        self._number = setup.worker

        self._thread = threading.Thread(
            target=lambda: serve(theirs, setup, on_lost=lambda: None),
            daemon=True,
            name="inline worker",
        )
        self._thread.start()

    def send(self, worker: int, message: Any) -> None:
        if self._connection is None or isinstance(message, Begin):
            return  # Begin would turn this process's own output into the worker's log
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        if self._connection is None or self._thread is None:
            threading.Event().wait(timeout_s)
            return []
        with contextlib.suppress(EOFError, OSError):
            if self._connection.poll(timeout_s):
                return [Event(self._number, self._connection.recv())]
            # Its end stays open as long as a thread of its own reads there.
            if self._thread.is_alive() or self._connection.poll():
                return []
        self.kill(self._number)
        return [Event(self._number, Gone("the worker's thread ended"))]

    def kill(self, worker: int) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self.send(self._number, Quit())
        if self._thread is not None:
            self._thread.join(timeout=5)
        self.kill(self._number)
