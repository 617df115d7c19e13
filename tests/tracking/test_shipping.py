"""The shipping process: follows, drains, survives, and never loses or doubles anything."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from hpo import lease, tracking

# MLflow uses what SQLAlchemy and others deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.slow,
]

DEAD = "http://ann:s3cret@127.0.0.1:9"  # the discard port: nobody answers


def start(written: Any, uri: str | None = None) -> tracking.Shipper:
    shipper = tracking.Shipper()
    shipper.follow(written.paths, written.home, uri or written.home.tracking_uri)
    return shipper


def sync(written: Any, uri: str | None = None) -> tracking.Shipped:
    return tracking.sync(written.paths, written.home, uri or written.home.tracking_uri)


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, "timed out"
        time.sleep(0.02)


def run_count(mlflow: Any) -> int:
    with contextlib.suppress(Exception):  # the tables may be in the making
        return len(mlflow.runs()[1])
    return 0


def test_what_is_written_while_it_follows_arrives(written: Any, mlflow_of: Any) -> None:
    with lease.hold(written.paths.lease, "s"):
        shipper = start(written)
        written.study()
        written.trial(0)
        written.epoch(0, 1)
        wait_until(lambda: tracking.pending(written.paths) == 0)
        _, trials = mlflow_of(written).runs()
        assert trials[0].info.status == "RUNNING"
        assert tracking.shipped_runs(written.paths) == {0: trials[0].info.run_id}
        for epoch in (2, 3):
            written.epoch(0, epoch)
        written.end(0)
        written.whole_trial(1)
        written.study_end()
        assert shipper.finish(timeout_s=60) == tracking.Shipped(pending=0, error=None)
    mlflow_of(written).assert_complete(written.paths)
    assert not shipper.alive


def test_killed_again_and_again_everything_arrives_once(written: Any, mlflow_of: Any) -> None:
    written.study()
    for number in range(120):
        written.whole_trial(number)
    written.study_end()
    found = mlflow_of(written)
    for seen in (1, 40, 80):
        shipper = start(written)
        wait_until(lambda seen=seen: run_count(found) >= seen)
        assert tracking.pending(written.paths) > 0
        shipper._process.kill()
        shipper._process.communicate()
    assert sync(written).pending == 0
    found.assert_complete(written.paths)
    assert len(found.runs()[1]) == 120


def test_when_the_orchestrator_is_killed_the_rest_is_shipped(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.whole_trial(0)
    written.trial(1)
    code = (
        "import os, sys, signal; from pathlib import Path; from hpo.paths import Home;"
        "from hpo.tracking import Shipper; home = Home(Path(sys.argv[1])); "
        "Shipper().follow(home.study('s'), home, home.tracking_uri); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(written.home.root)])
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: tracking.pending(written.paths) == 0)
    found = mlflow_of(written)
    wait_until(lambda: found.runs()[0].info.status == "KILLED")
    assert found.runs()[1][1].info.status == "KILLED"  # nobody trains it


def test_a_store_that_is_down_leaves_all_pending_and_a_later_sync_ships_it(
    written: Any, mlflow_of: Any
) -> None:
    written.study()
    written.whole_trial(0)
    shipper = start(written, DEAD)
    began_s = time.monotonic()
    shipped = shipper.finish(timeout_s=60)
    assert time.monotonic() - began_s < 20
    assert shipped.pending == 6
    assert shipped.error == "MLflow at http://***@127.0.0.1:9 cannot be reached"
    assert sync(written).pending == 0
    mlflow_of(written).assert_complete(written.paths)


def test_no_password_is_written_anywhere(written: Any) -> None:
    written.study()
    shipper = start(written, DEAD)
    command = " ".join(psutil.Process(shipper._process.pid).cmdline())
    shipped = shipper.finish(timeout_s=60)
    files = [file for file in written.home.root.rglob("*") if file.is_file()]
    assert written.paths.ship_log in files
    assert written.paths.ship_log.read_text()
    everything = command + str(shipped) + "".join(f.read_text(errors="replace") for f in files)
    assert "s3cret" not in everything


def test_an_end_that_comes_too_late_counts_what_is_missing(written: Any) -> None:
    written.study()
    shipped = start(written).finish(timeout_s=0.01)
    assert shipped.pending == 1
    assert shipped.error == "not done after 0.01 s"


def test_one_process_ships_a_study_and_another_waits_for_it(written: Any, mlflow_of: Any) -> None:
    with lease.hold(written.paths.lease, "s"):
        written.study()
        first = start(written)
        wait_until(lambda: tracking.pending(written.paths) == 0)
        second = start(written)
        written.whole_trial(0)
        assert first.finish(timeout_s=60).pending == 0
        written.whole_trial(1)
        assert second.finish(timeout_s=60) == tracking.Shipped(pending=0, error=None)
    mlflow_of(written).assert_complete(written.paths)


def test_two_new_studies_can_make_the_embedded_store_at_once(
    new_written: Any, mlflow_of: Any
) -> None:
    one, other = new_written("home"), new_written("home")
    other.paths = one.home.study("other")
    shippers = []
    for written in (one, other):
        written.study()
        written.whole_trial(0)
        shippers.append(start(written))
    for shipper in shippers:
        assert shipper.finish(timeout_s=60) == tracking.Shipped(pending=0, error=None)
    mlflow_of(one).assert_complete(one.paths)


def test_a_deleted_store_is_filled_again(new_written: Any, mlflow_of: Any) -> None:
    written = new_written("home")
    written.study()
    written.whole_trial(0)
    assert sync(written).pending == 0
    for file in written.home.mlruns.glob("mlflow.db*"):
        file.unlink()
    written.whole_trial(1)
    assert sync(written).pending == 0
    mlflow_of(written).assert_complete(written.paths)


def test_the_process_is_nice_and_idle_while_nothing_happens(written: Any) -> None:
    with lease.hold(written.paths.lease, "s"):
        written.study()
        shipper = start(written)
        wait_until(lambda: tracking.pending(written.paths) == 0)
        process = psutil.Process(shipper._process.pid)
        assert process.nice() > psutil.Process().nice()
        time.sleep(0.5)
        before_s = sum(process.cpu_times()[:2])
        time.sleep(2)
        assert sum(process.cpu_times()[:2]) - before_s < 0.1
        shipper.finish(timeout_s=60)


def test_mlflows_own_pages_show_the_embedded_store(
    written: Any, mlflow_of: Any, served: Any
) -> None:
    written.study()
    written.whole_trial(0, "failed", traceback="Traceback …")
    written.study_end()
    sync(written)
    found = mlflow_of(served(written.home.tracking_uri).uri)  # a plain `mlflow server`
    found.assert_complete(written.paths)
    parent, trials = found.runs()
    assert found.artifacts(parent)["study.yaml"].read_text() == "study: s\n"
    assert found.artifacts(trials[0])["traceback.txt"].read_text() == "Traceback …"


def test_everything_arrives_at_a_server(written: Any, mlflow_of: Any, server: Any) -> None:
    written.study()
    folder = written.paths.trial(0)
    folder.mkdir(parents=True)
    (folder / "predictions.npz").write_bytes(b"as they are")
    written.trial(0)
    for epoch in (1, 2, 3):
        written.epoch(0, epoch, **{"val/auc": float("nan")} if epoch == 2 else {})
    written.end(0, artifacts={"predictions.npz": "trials/0/predictions.npz"})
    written.whole_trial(1, "failed")
    written.study_end()
    assert sync(written, server.uri) == tracking.Shipped(pending=0, error=None)
    found = mlflow_of(server.uri)
    parent, trials = found.runs()
    rows = found.history(trials[0])
    assert [r[2] for r in rows if r[0] == "val/auc" and r[1] != r[1]] == [2]
    assert found.artifacts(trials[0])["predictions.npz"].read_bytes() == b"as they are"
    assert (trials[0].info.status, trials[1].info.status) == ("FINISHED", "FAILED")
    assert parent.inputs.dataset_inputs[0].dataset.name == "digits"

    written.paths.shipped.unlink()
    assert sync(written, server.uri).pending == 0
    assert found.history(found.runs()[1][1]) == found.history(trials[1])
    assert len(found.runs()[1]) == 2


def test_a_server_that_goes_away_and_comes_back_gets_everything(
    written: Any, mlflow_of: Any, server: Any
) -> None:
    written.paths = written.home.study("s2")
    with lease.hold(written.paths.lease, "s2"):
        written.study(study="s2", study_id="6" * 32)
        shipper = start(written, server.uri)
        wait_until(lambda: tracking.pending(written.paths) == 0)
        server.stop()
        for number in range(10):
            written.whole_trial(number)
        wait_until(lambda: "cannot be reached" in written.paths.ship_log.read_text())
        assert tracking.pending(written.paths) == 50
        assert shipper.alive
        server.start()
        wait_until(lambda: tracking.pending(written.paths) == 0)
        written.study_end()
        assert shipper.finish(timeout_s=60) == tracking.Shipped(pending=0, error=None)
    mlflow_of(server.uri).assert_complete(written.paths, "s2")


def test_importing_tracking_imports_no_mlflow() -> None:
    code = (
        "import sys, hpo.tracking, hpo.tracking.outbox, hpo.tracking.provenance;"
        "heavy = {'mlflow', 'pandas', 'numpy', 'torch', 'sqlalchemy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
