"""Programs that serve: watched, and ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from served import free_port, wait_for_the_end

from hpo.errors import HpoError
from hpo.service import Service

# Serves a file of its own folder, and has a child that pays no heed to SIGTERM.
PROGRAM = """
import http.server, signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"])
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""

# A command like `hpo server`: says when it is up, ends when it is asked to.
PARENT = """
import contextlib, os, signal, sys
from pathlib import Path
from hpo.service import Service, asked_to_stop
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup it would be ignored
port = int(sys.argv[2])
with asked_to_stop() as asked:
    command = [sys.executable, "-c", sys.argv[1], str(port)]
    with contextlib.closing(Service("it", command, os.environ, Path.cwd())) as service:
        assert service.wait_until_up("127.0.0.1", port, "/", 20, asked)
        print("up", flush=True)
        service.wait(asked)
"""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_however_the_command_ends_nothing_it_started_is_left(
    port: int, tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, PROGRAM, str(port)], stdout=subprocess.PIPE, cwd=tmp_path
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        started = psutil.Process(parent.pid).children(recursive=True)
        assert len(started) == 3  # the keeper, the program, the program's child
        parent.send_signal(number)
        parent.wait(20)
        wait_for_the_end(started)
    by_itself = number in (signal.SIGINT, signal.SIGTERM)
    assert parent.returncode == (0 if by_itself else -number)


def start(folder: Path, program: str) -> Service:
    return Service("it", [sys.executable, "-c", program], os.environ, folder)


def test_what_dies_at_its_start_is_said_with_its_last_words(port: int, tmp_path: Path) -> None:
    service = start(
        tmp_path, "print('\\x1b[2Jno room at postgresql://me:secret@db/x'); raise SystemExit(3)"
    )
    with pytest.raises(HpoError, match="ended while it started") as error:
        service.wait_until_up("127.0.0.1", port, "/", 20, threading.Event())
    assert "no room at postgresql://***@db/x" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert not service.alive


def test_what_does_not_answer_is_ended(port: int, tmp_path: Path) -> None:
    service = start(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(HpoError, match="did not answer within 0.2 s"):
        service.wait_until_up("127.0.0.1", port, "/", 0.2, threading.Event())
    assert not service.alive


def test_asked_to_stop_it_is_not_waited_for(port: int, tmp_path: Path) -> None:
    asked = threading.Event()
    asked.set()
    service = start(tmp_path, "import time; time.sleep(600)")
    assert not service.wait_until_up("127.0.0.1", port, "/", 20, asked)
    service.close()
    assert not service.alive
