"""A program that serves until this process ends: started, watched, stopped with all it started.

It runs in a process group of its own under a keeper (``python -m hpo.service COMMAND…``), which
holds the other end of a pipe: when this process is gone, however it went, the keeper ends the
group. What the program prints is kept back until it is up, then goes to stderr, redacted.

Not covered: this process and the keeper killed at the same moment; programs that leave the group.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hpo.errors import HpoError
from hpo.tracking.redact import printable, redact

GRACE_S = 10.0  # between SIGTERM and SIGKILL
POLL_S = 0.1
LAST_LINES = 25


class Service:
    """The program, from its start on.

    Args:
        name: What messages call it.
        command: Its command line, which everybody on this machine can read.
        environment: All of its environment.
        folder: Its current folder.
        private: Whether the files that it makes are for this user only.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        private: bool = False,
    ) -> None:
        self._name = name
        self._up = threading.Event()
        self._closed = False
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._process = subprocess.Popen(
            # -P: a module in the current folder must not pass for one of Python's or hpo's.
            [sys.executable, "-P", "-m", "hpo.service", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            umask=0o077 if private else -1,
            start_new_session=True,  # Ctrl-C is for this process, which then stops it
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_up(
        self, host: str, port: int, path: str, timeout_s: float, asked: threading.Event
    ) -> bool:
        """Wait until ``http://host:port/path`` answers; False if `asked` to stop before that.

        Raises:
            HpoError: It ended, or did not answer in time. The message has its last lines.
        """
        until_s = time.monotonic() + timeout_s
        while not asked.wait(POLL_S):
            if not self.alive:
                raise HpoError(self._ended("ended while it started"))
            if _answers(host, port, path) and self.alive:
                self._up.set()
                return True
            if time.monotonic() > until_s:
                raise HpoError(self._ended(f"did not answer within {timeout_s:g} s"))
        return False

    def wait(self, asked: threading.Event) -> None:
        """Wait until somebody asks for its end.

        Raises:
            HpoError: It ended by itself. The message has its last lines.
        """
        while not asked.wait(POLL_S):
            if not self.alive:
                raise HpoError(self._ended("ended"))

    def close(self) -> None:
        """End it and all that it started: SIGTERM, and after `GRACE_S` SIGKILL."""
        if self._closed:
            return
        self._closed = True
        self._up.clear()  # what it prints while it ends interests nobody
        assert self._process.stdin is not None
        self._process.stdin.close()  # the keeper sees it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S + 1.0)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter
            os.killpg(self._process.pid, signal.SIGKILL)  # should the keeper be dead
        self._process.wait()
        self._reader.join(GRACE_S)

    def _ended(self, how: str) -> str:
        self.close()
        last = "\n".join(f"  {line}" for line in self._last)
        return f"{self._name} {how}." + (f" It last printed:\n{last}" if last else "")

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for raw in output:
                line = printable(redact(raw.decode(errors="replace").rstrip()))
                self._last.append(line)
                if self._up.is_set():
                    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, instead of what they do otherwise."""
    asked = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: asked.set()) for number in numbers]
    try:
        yield asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _answers(host: str, port: int, path: str) -> bool:
    """Whether a GET is answered with 200. No proxy is asked."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


def keep(command: Sequence[str]) -> None:
    """Run the command until it ends or stdin closes; then end the whole group, this one, too."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # they reach the whole group: wait for its end
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
    process.wait()
    os.killpg(0, signal.SIGKILL)


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    process.kill()


if __name__ == "__main__":
    keep(sys.argv[1:])
