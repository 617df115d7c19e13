"""MLflow behind a bad line, and away (rows 9 and 10 of the fault matrix): every fault at every
request, and afterwards MLflow is equal to what is on record, each run there once."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FAULTS, FaultyProxy
from mlflow.exceptions import MlflowException

from hpo.tracking import MLFLOW_SETTINGS
from hpo.tracking.replica import CannotShip, Replica

# MLflow uses what SQLAlchemy and others deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.slow,
]

EVERY = int(os.environ.get("HPO_TEST_EVERY", "6"))  # of the requests, one in so many has a fault
HPO = [sys.executable, "-m", "hpo.cli"]
PATIENCE_S = 2


@pytest.fixture
def proxy(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the server. A request is given up after two seconds."""
    for name, value in MLFLOW_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE_S))
    with contextlib.closing(FaultyProxy(server.uri, late_s=PATIENCE_S + 0.3)) as running:
        yield running


def ship(written: Any, uri: str) -> tuple[Replica, int]:
    """Ship as the process does, but without waiting between tries; how many of them failed."""
    for failures in range(20):
        try:
            replica = Replica(written.paths, written.home, uri)
            replica.ship()
        except CannotShip:
            raise
        except (MlflowException, OSError):
            continue
        return replica, failures
    raise AssertionError("nothing arrives")


class Once:
    """A fault of the request at a place among those of interest.

    Attributes:
        hit: What was asked for there; None: there was no such request.
    """

    def __init__(self, fault: str, place: int, of_interest: str) -> None:
        self.hit: str | None = None
        self._fault, self._left, self._of_interest = fault, place, of_interest

    def __call__(self, asked: str) -> str:
        if self.hit is None and self._of_interest in asked:
            if self._left == 0:
                self.hit = asked
                return self._fault
            self._left -= 1
        return "ok"


def test_row_10_a_fault_at_any_request_leaves_every_run_once_and_equal(
    new_written: Any, proxy: FaultyProxy, server: Any
) -> None:
    def study(name: str) -> Any:
        written = new_written(name)
        written.paths = written.home.study(name)
        written.study(study=name, study_id=name)
        written.whole_trial(0)
        written.whole_trial(1, "failed", traceback="Traceback …\n")
        written.study_end()
        return written

    for fault in FAULTS:
        # A run that is made late is what would be there twice: those requests only.
        of_interest = "POST /api/2.0/mlflow/runs/create" if fault == "late" else ""
        every = 1 if fault == "late" else EVERY
        for bad in itertools.count(0, every):
            written = study(f"s{FAULTS.index(fault)}-{bad}")
            line = Once(fault, bad, of_interest)
            proxy.fault = line
            replica, failures = ship(written, proxy.uri)
            if line.hit is None:
                break  # there are no more requests
            assert failures >= 1, (fault, line.hit)
            proxy.wait_for_the_late()
            replica.remove_doubles()
            found = Replica(written.paths, written.home, server.uri).compare()
            assert found.differences == [], (fault, line.hit)
            assert found.runs == 3
        assert bad >= (3 if fault == "late" else 15), fault


def test_row_10_a_slow_server_gets_everything(
    new_written: Any, proxy: FaultyProxy, server: Any
) -> None:
    written = new_written("slow")
    written.study()
    written.whole_trial(0)
    written.study_end()
    proxy.delay_s = PATIENCE_S / 4
    replica, failures = ship(written, proxy.uri)
    assert failures == 0
    proxy.delay_s = 0
    assert replica.compare().differences == []


@pytest.fixture
def study_at(tmp_path: Path, server: Any) -> Callable[[str], Path]:
    """Writes a study whose MLflow is at an address."""

    def at(uri: str) -> Path:
        from workbench import Workbench

        folder = tmp_path / "home"
        folder.mkdir()
        bench = Workbench(folder)
        text = bench.file.read_text().replace("study: s", f"study: {tmp_path.name}")
        text = text.replace("executor: inline", "executor: processes")
        bench.file.write_text(text + f"tracking: {{uri: '{uri}'}}\n")
        return bench.file

    return at


def hpo(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HPO, *arguments, "--home", str(folder)], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("away", ["in the middle", "all the time"])
def test_row_9_a_study_goes_on_without_its_server_and_is_equal_afterwards(
    study_at: Any, server: Any, away: str
) -> None:
    file = study_at(server.uri)
    name = file.read_text().split()[1]
    if away == "all the time":
        server.stop()
    options = ["--set", "train.epochs=10", "--set", "train.seconds=0.05", "--json"]
    running = subprocess.Popen(
        [*HPO, "run", str(file), *options, "--home", str(file.parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if away == "in the middle":
            shipped = file.parent / "studies" / name / "shipped.json"
            deadline_s = time.monotonic() + 60
            while not shipped.is_file():
                assert time.monotonic() < deadline_s, "nothing arrives"
                time.sleep(0.05)
            server.stop()
        output, error = running.communicate(timeout=120)
        assert running.returncode == 0, error
        assert json.loads(output)["trials"]["complete"] == 5
        not_there = hpo("sync", name, "--verify", folder=file.parent)
        assert not_there.returncode == 1
        assert "cannot be reached" in not_there.stderr
    finally:
        running.kill()
        server.start()
    synced = hpo("sync", name, "--verify", "--json", folder=file.parent)
    found = json.loads(synced.stdout)
    assert synced.returncode == 0, synced.stdout
    assert found["pending"] == 0
    assert found["verified"]["differences"] == []
    assert found["verified"]["runs"] == 6
