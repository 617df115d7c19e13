"""Commands that serve (`hpo server`, `hpo ui`), started for tests as a user would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Served:
    """A command that is up.

    Attributes:
        said: The JSON object it printed.
        log: All else that it printed, so far.
    """

    process: subprocess.Popen[str]
    said: dict[str, Any]
    log: Path

    @property
    def url(self) -> str:
        return str(self.said["url"])

    @property
    def port(self) -> int:
        return int(self.url.split("/")[2].rpartition(":")[2])

    def processes(self) -> list[psutil.Process]:
        """The command and all that it started."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """No two alike."""
    with contextlib.ExitStack() as stack:
        local = ("127.0.0.1", 0)
        servers = [stack.enter_context(socket.create_server(local)) for _ in range(count)]
        return [int(server.getsockname()[1]) for server in servers]


@contextlib.contextmanager
def served(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    end: signal.Signals = signal.SIGTERM,
) -> Iterator[Served]:
    """``hpo ARGUMENTS --json`` while it is up; checks that nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with (
            open(log, "w") as errors,
            subprocess.Popen(
                [sys.executable, "-m", "hpo.cli", *map(str, arguments), "--json"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | (env or {}),
            ) as process,
        ):
            assert process.stdout is not None
            try:
                up = Served(process, _first_object(process, log), log)
            except BaseException:
                process.kill()  # else leaving the block waits for its end
                raise
            started = up.processes()
            try:
                yield up
                started = up.processes()
            finally:
                process.send_signal(end)
                process.wait(30)
                wait_for_the_end(started)
            assert process.stdout.read() == ""
        assert process.returncode == (-end if end == signal.SIGKILL else 0)


def _first_object(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            found: dict[str, Any] = json.loads("".join(lines))
            assert "error" not in found, found
            return found
    raise AssertionError(log.read_text())


def wait_for_the_end(processes: list[psutil.Process], timeout_s: float = 20) -> None:
    """Zombies count as ended: who should reap them may be slow or, in a container, absent."""
    until_s = time.monotonic() + timeout_s
    while any(_is_running(process) for process in processes):
        assert time.monotonic() < until_s, [p for p in processes if _is_running(p)]
        time.sleep(0.02)


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listening_at(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which they listen, without ports."""
    return {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
