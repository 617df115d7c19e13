"""One orchestrator a study."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpo import lease
from hpo.errors import StudyLocked

HOLDER = """
import sys, time
from pathlib import Path
from hpo import lease
with lease.hold(Path(sys.argv[1]), "s"):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "held\n":
        process.communicate()
        raise AssertionError("the holder did not start")
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_row_19_a_second_holder_is_refused_with_the_first_one_s_pid(tmp_path: Path) -> None:
    process = start_holder(tmp_path / "lease")
    try:
        with (
            pytest.raises(StudyLocked, match=f"process {process.pid} on "),
            lease.hold(tmp_path / "lease", "s"),
        ):
            pass
        found = lease.owner(tmp_path / "lease")
        assert found is not None
        assert found["pid"] == process.pid
    finally:
        end(process)


def test_row_19_the_lease_of_a_killed_owner_is_free_at_once(tmp_path: Path) -> None:
    end(start_holder(tmp_path / "lease"))
    assert lease.owner(tmp_path / "lease") is None
    with lease.hold(tmp_path / "lease", "s"):
        found = lease.owner(tmp_path / "lease")
        assert found is not None
        assert found["pid"] == os.getpid()
    assert lease.owner(tmp_path / "lease") is None


def test_asking_for_the_owner_creates_nothing(tmp_path: Path) -> None:
    assert lease.owner(tmp_path / "s" / "lease") is None
    assert list(tmp_path.iterdir()) == []


def test_of_a_study_that_was_not_begun_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "studies" / "s" / "lease"
    with pytest.raises(ValueError, match="refused"), lease.hold(path, "s"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    with lease.hold(path, "s"):
        (path.parent / "outbox").touch()
    assert sorted(p.name for p in path.parent.iterdir()) == ["lease.lock", "outbox"]


def test_who_waits_for_a_study_that_is_not_begun_begins_it(tmp_path: Path) -> None:
    """Its lock is on a file that others find, too."""
    path, begun, end = tmp_path / "studies" / "s" / "lease", threading.Event(), threading.Event()

    def begin() -> None:
        with lease.hold(path, "s"):
            begun.set()
            assert end.wait(10)

    waits = threading.Thread(target=begin)
    with lease.hold(path, "s"):
        waits.start()
        time.sleep(0.2)
        assert not begun.is_set()
    try:
        assert begun.wait(10)
        assert lease.owner(path) is not None
    finally:
        end.set()
        waits.join()
    assert list(tmp_path.iterdir()) == []


def test_those_who_ask_at_the_same_time_are_no_owners(tmp_path: Path) -> None:
    with lease.hold(tmp_path / "lease", "s"):
        pass
    (tmp_path / "lease.lock").touch()
    with open(tmp_path / "lease.lock") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert lease.owner(tmp_path / "lease") is None
