"""Workers as processes on this machine, each the leader of its own process group.

A worker ends itself and its group when this process is gone. One that is frozen, or deep in C
code, cannot; so a shell waits beside each for the end of a pipe that only this process holds.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hpo.executors import Event, Gone
from hpo.messages import Begin, Quit, Setup

if TYPE_CHECKING:
    from hpo.devices import Slot
    from hpo.errors import Problem
    from hpo.spec import StudySpec

GRACE_S = 5.0  # between Quit and SIGKILL
# Kills the process group that it is given when its standard input ends without a line.
GUARD = ("/bin/sh", "-c", 'read -r _ || kill -s KILL -- "-$1"', "guard")


class _Incoming:
    """The messages of a connection, each once it is whole.

    `Connection.recv` waits for the rest of one whose sender was frozen in the midst of it, and
    nobody would look after the other workers. A message is its length in four bytes and itself, as
    `multiprocessing` sends what is less than 2 GiB.

    Attributes:
        ended: Nothing more will come.
    """

    def __init__(self, connection: Connection) -> None:
        self.ended = False
        self._connection = connection
        self._bytes = bytearray()

    def read(self) -> Sequence[Any]:
        """Those that are whole by now."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            try:
                while part := line.recv(1 << 20, socket.MSG_DONTWAIT):
                    self._bytes += part
                self.ended = True
            except BlockingIOError:
                pass
            except OSError:
                self.ended = True
        messages = []
        while len(self._bytes) >= 4:
            end = 4 + struct.unpack("!i", self._bytes[:4])[0]
            if len(self._bytes) < end:
                break
            messages.append(pickle.loads(self._bytes[4:end]))
            del self._bytes[:end]
        return messages


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]
    connection: Connection
    incoming: _Incoming
    output: IO[bytes]  # what it prints before it is told its log
    log: Path | None = None


class ProcessExecutor:
    """`hpo.executors.Executor` with one process a worker.

    Attributes:
        command: How one is started; its connection's file descriptor comes last.
    """

    # -P: a module in the current folder must not pass for one of Python's or hpo's.
    command: Sequence[str] = (sys.executable, "-P", "-m", "hpo.worker")

    def __init__(self) -> None:
        self._workers: dict[int, _Worker] = {}

    def slots(self, spec: StudySpec, say: Callable[[str], None]) -> list[Slot] | Problem:
        from hpo import devices

        return devices.slots(spec)

    def start(self, setup: Setup) -> None:
        ours, theirs = socket.socketpair()
        output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the worker lives
        process = subprocess.Popen(
            [*self.command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=worker_environment(setup),
            start_new_session=True,  # so that Ctrl-C passes it by, and `kill` takes its children
        )
        theirs.close()
        guard = subprocess.Popen(
            [*GUARD, str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        connection = Connection(ours.detach())
        self._workers[setup.worker] = _Worker(
            process, guard, connection, _Incoming(connection), output
        )
        self.send(setup.worker, setup)

    def send(self, worker: int, message: Any) -> None:
        if worker in self._workers:
            if isinstance(message, Begin):
                self._workers[worker].log = message.log
            with contextlib.suppress(OSError):  # gone: `wait` will say so
                self._workers[worker].connection.send(message)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        numbers = {w.connection: number for number, w in self._workers.items()}
        events: list[Event] = []
        for connection in wait(list(numbers), timeout_s):
            assert isinstance(connection, Connection)
            number = numbers[connection]
            incoming = self._workers[number].incoming
            events += [Event(number, message) for message in incoming.read()]
            if incoming.ended:
                events.append(Event(number, Gone(self._bury(number))))
        # A process that it started may hold the dead worker's end of the connection open.
        for number, worker in list(self._workers.items()):
            if worker.process.poll() is not None and not worker.connection.poll():
                events.append(Event(number, Gone(self._bury(number))))
        return events

    def kill(self, worker: int) -> None:
        if worker in self._workers:
            self._kill_group(self._workers[worker])
            self._bury(worker)

    def close(self) -> None:
        for number in self._workers:
            self.send(number, Quit())
        deadline_s = time.monotonic() + GRACE_S  # for all together
        for number in list(self._workers):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._workers[number].process.wait(max(0.0, deadline_s - time.monotonic()))
            self.kill(number)

    def _bury(self, number: int) -> str:
        """Forget a worker whose connection is closed; how it ended."""
        worker = self._workers.pop(number)
        worker.connection.close()
        code: int | None = None
        for _ in range(2):  # it may take a moment; if not, SIGKILL, which a stuck disk can delay
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = worker.process.wait(GRACE_S)
                break
            self._kill_group(worker)
        self._kill_group(worker)  # what it left running
        worker.guard.communicate(b"\n")
        with worker.output as output:
            if worker.log is not None:
                return f"{_ending(code)} (its log: {worker.log})"
            output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
            last = output.read().decode(errors="replace").strip()
        return _ending(code) + (f"; it last printed:\n{last}" if last else "")

    @staticmethod
    def _kill_group(worker: _Worker) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)


def worker_environment(setup: Setup) -> Mapping[str, str]:
    """This process's environment, with the worker's device and threads."""
    environment = dict(os.environ)
    environment |= {
        "OMP_NUM_THREADS": str(setup.threads),
        "MKL_NUM_THREADS": str(setup.threads),
        "CUDA_VISIBLE_DEVICES": setup.gpu or "",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS repeats its results only with this
        "PYTHONUNBUFFERED": "1",
    }
    return environment


def _ending(code: int | None) -> str:
    if code is None:
        return "the worker closed its connection and did not end"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (killed, perhaps for want of memory)" if code == -signal.SIGKILL else ""
        return f"the worker died of {name}{hint}"
    return f"the worker exited with status {code}"
