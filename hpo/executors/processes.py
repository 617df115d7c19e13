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
from dataclasses import dataclass, replace
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
# Kills the process group that it is given when its standard input ends without a line; then
# removes a file, if it is given one.
GUARD = (
    *("/bin/sh", "-c"),
    'read -r _ || kill -s KILL -- "-$1"; [ -z "$2" ] || rm -f -- "$2"',
    "guard",
)


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
        # What is opened is closed again if not all can be.
        with contextlib.ExitStack() as opened, theirs:
            connection = opened.enter_context(Connection(ours.detach()))
            output = opened.enter_context(tempfile.TemporaryFile())
            if setup.devices > 1:
                file, meeting = tempfile.mkstemp(prefix="hpo-")
                os.close(file)
                opened.callback(os.unlink, meeting)
                setup = replace(setup, meeting=Path(meeting))
            process = subprocess.Popen(
                [*self.command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=worker_environment(setup),
                # So that Ctrl-C passes it by, and `kill` takes its children.
                start_new_session=True,
            )
            opened.callback(process.wait)
            opened.callback(_kill_group, process)
            guard = subprocess.Popen(
                [*GUARD, str(process.pid), str(setup.meeting or "")],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            opened.pop_all()
        self._workers[setup.worker] = _Worker(
            process, guard, connection, _Incoming(connection), output
        )
        self.send(setup.worker, setup)

    def send(self, worker: int, message: Any) -> None:
        if (to := self._workers.get(worker)) is not None:
            if isinstance(message, Begin):
                to.log = message.log
            with contextlib.suppress(OSError):  # gone: `wait` will say so
                to.connection.send(message)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        numbers = {w.connection: number for number, w in list(self._workers.items())}
        events: list[Event] = []
        for connection in wait(list(numbers), timeout_s):
            assert isinstance(connection, Connection)
            number = numbers[connection]
            worker = self._workers.get(number)
            if worker is None:  # another thread killed it meanwhile
                continue
            events += [Event(number, message) for message in worker.incoming.read()]
            if worker.incoming.ended:
                events += self._gone(number)
        # A process that it started may hold the dead worker's end of the connection open.
        for number, worker in list(self._workers.items()):
            if worker.process.poll() is not None and not worker.connection.poll():
                events += self._gone(number)
        return events

    def kill(self, worker: int) -> None:
        killed = self._workers.pop(worker, None)
        if killed is not None:
            _kill_group(killed.process)
            _bury(killed)

    def close(self) -> None:
        workers = list(self._workers.items())
        for number, _ in workers:
            self.send(number, Quit())
        deadline_s = time.monotonic() + GRACE_S  # for all together
        for number, worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, deadline_s - time.monotonic()))
            self.kill(number)

    def _gone(self, number: int) -> Sequence[Event]:
        """That a worker has ended, unless another thread killed it."""
        worker = self._workers.pop(number, None)
        return [] if worker is None else [Event(number, Gone(_bury(worker)))]


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


def _bury(worker: _Worker) -> str:
    """Close what is open of a worker that is forgotten; how it ended."""
    worker.connection.close()
    code: int | None = None
    for _ in range(2):  # it may take a moment; if not, SIGKILL, which a stuck disk can delay
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = worker.process.wait(GRACE_S)
            break
        _kill_group(worker.process)
    _kill_group(worker.process)  # what it left running
    worker.guard.communicate(b"\n")
    with worker.output as output:
        if worker.log is not None:
            return f"{_ending(code)} (its log: {worker.log})"
        output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
        last = output.read().decode(errors="replace").strip()
    return _ending(code) + (f"; it last printed:\n{last}" if last else "")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int | None) -> str:
    if code is None:
        return "the worker closed its connection and did not end"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (killed, perhaps for want of memory)" if code == -signal.SIGKILL else ""
        return f"the worker died of {name}{hint}"
    return f"the worker exited with status {code}"
