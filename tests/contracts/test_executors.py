"""What every executor keeps: messages in order, every ending said once, nothing left running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray_cluster

from hpo.executors import Executor, Gone, open_executor, processes
from hpo.executors.processes import GUARD, ProcessExecutor
from hpo.messages import (
    Assignment,
    Finished,
    Interrupt,
    Orders,
    Ready,
    Refused,
    Report,
    Round,
    Setup,
)

TRAINER = """
import os, subprocess, time

def train(trial):
    options = trial.params["train"]
    state = trial.resume()
    first = 1 if state is None else state["epoch"] + 1
    for epoch in range(first, options["epochs"] + 1):
        if options.get("fail_at") == epoch:
            raise ValueError("as told")
        if options.get("die_at") == epoch:
            os.kill(os.getpid(), 9)
        if options.get("fork"):
            if os.fork() == 0:  # holds the worker's end of the connection open
                time.sleep(60)
            os.kill(os.getpid(), 9)
        if options.get("child"):
            open(options["child"], "w").write(str(subprocess.Popen(["sleep", "60"]).pid))
            time.sleep(60)
        time.sleep(options.get("seconds", 0))
        trial.save({"epoch": epoch})
        trial.report(epoch, {"loss": 1 / epoch, "first": first})
"""


slow = pytest.mark.slow  # a worker, which imports torch


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    with ray_cluster.running() as cluster:
        yield cluster.address


@pytest.fixture(
    params=["inline", *(pytest.param(name, marks=slow) for name in ("processes", "ray"))]
)
def executor(request: pytest.FixtureRequest, setup: Setup) -> Iterator[Executor]:
    options = {}
    if request.param == "ray":
        options = {"address": request.getfixturevalue("ray_address")}
    executor = open_executor(request.param, options, code=setup.folder)
    yield executor
    executor.close()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "obedient.py").write_text(TRAINER)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    return Setup(
        worker=0,
        trainer="obedient:train",
        folder=tmp_path,
        params={"data": {}, "model": {}, "train": {}},
        variants=[],
        cache=tmp_path / "cache",
        device="cpu",
        gpu=None,
        threads=1,
        memory_share=1.0,
    )


def orders(folder: Path, recorded: int = 0, **train: Any) -> Orders:
    return Orders(begin=[assignment(folder, recorded, **train)])


def assignment(folder: Path, recorded: int = 0, number: int = 7, **train: Any) -> Assignment:
    return Assignment(
        number=number,
        params={"data": {}, "model": {}, "train": {"epochs": 3, **train}},
        seed=1,
        attempt=1,
        recorded=recorded,
        folder=folder / "trial",
        metrics=["loss"],
        maximize=False,
    )


def started(executor: Executor, setup: Setup) -> Executor:
    executor.start(setup)
    assert isinstance(next_message(executor), Ready)
    return executor


def next_message(executor: Executor, timeout_s: float = 30) -> Any:
    """Messages one by one, the parts of a round too; they come in batches."""
    queue = executor.__dict__.setdefault("_test_queue", [])
    deadline = time.monotonic() + timeout_s
    while not queue:
        assert time.monotonic() < deadline, "no message"
        for event in executor.wait(0.1):
            message = event.message
            of_round = [*message.reports, *message.finished] if isinstance(message, Round) else []
            queue.extend(of_round or [message])
    return queue.pop(0)


def test_reports_come_in_order_and_then_the_end(executor: Executor, setup: Setup) -> None:
    started(executor, setup).send(0, orders(setup.folder))
    for epoch in (1, 2, 3):
        report = next_message(executor)
        assert isinstance(report, Report)
        assert (report.number, report.epoch, report.metrics["loss"]) == (7, epoch, 1 / epoch)
        executor.send(0, Orders())
    finished = next_message(executor)
    assert isinstance(finished, Finished)
    assert (finished.number, finished.outcome) == (7, "complete")


def test_a_trial_told_to_stop_ends_there(executor: Executor, setup: Setup) -> None:
    started(executor, setup).send(0, orders(setup.folder, epochs=1000, seconds=0.01))
    assert isinstance(next_message(executor), Report)
    executor.send(0, Orders(stop=[7]))
    rest = [next_message(executor)]
    while not isinstance(rest[-1], Finished):
        rest.append(next_message(executor))
    assert rest[-1].outcome == "stop"
    assert len(rest) <= 2  # the next epoch may have begun, no more


def test_a_trainer_s_exception_is_told_and_the_worker_goes_on(
    executor: Executor, setup: Setup
) -> None:
    started(executor, setup).send(0, orders(setup.folder, fail_at=1))
    finished = next_message(executor)
    assert (finished.outcome, finished.reason) == ("failed", "ValueError: as told")
    assert "obedient.py" in finished.traceback
    executor.send(0, orders(setup.folder, epochs=1))
    assert isinstance(next_message(executor), Report)


def test_an_interrupted_trial_goes_on_after_its_last_epoch(
    executor: Executor, setup: Setup
) -> None:
    started(executor, setup).send(0, orders(setup.folder, epochs=50, seconds=0.05))
    first = next_message(executor)
    executor.send(0, Interrupt())
    executor.send(0, Orders())
    message, recorded = first, first.epoch
    while not isinstance(message, Finished):
        message = next_message(executor)
        if isinstance(message, Report):
            recorded = message.epoch
            executor.send(0, Orders())
    assert message.outcome == "interrupted"
    executor.kill(0)
    started(executor, setup).send(0, orders(setup.folder, recorded=recorded, epochs=recorded + 1))
    again = next_message(executor)
    assert again.epoch == recorded + 1
    assert again.metrics["first"] == recorded + 1  # from its checkpoint, not from the start


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ("nowhere:train", "nowhere"),
        ("obedient:trian", "train"),
        ("broken:train", "ZeroDivisionError"),
    ],
)
def test_a_trainer_that_cannot_be_had_is_refused(
    executor: Executor, setup: Setup, trainer: str, message: str
) -> None:
    executor.start(replace(setup, trainer=trainer))
    refused = next_message(executor)
    assert isinstance(refused, Refused)
    assert refused.key == "trainer"
    assert message in refused.message + (refused.hint or "")


def test_a_killed_worker_is_not_reported_gone_and_can_be_started_again(
    executor: Executor, setup: Setup
) -> None:
    started(executor, setup)
    executor.kill(0)
    assert list(executor.wait(0.2)) == []
    started(executor, setup)


# -- processes only


def test_a_worker_that_dies_is_gone_once_with_its_signal(setup: Setup) -> None:
    executor = open_executor("processes")
    try:
        started(executor, setup).send(0, orders(setup.folder, die_at=2))
        assert isinstance(next_message(executor), Report)
        executor.send(0, Orders())
        gone = next_message(executor)
        assert isinstance(gone, Gone)
        assert "SIGKILL" in gone.reason
        assert list(executor.wait(0.2)) == []
    finally:
        executor.close()


@slow
def test_killing_a_worker_takes_what_it_started_along(setup: Setup) -> None:
    executor = open_executor("processes")
    try:
        pid_file = setup.folder / "child.pid"
        started(executor, setup).send(0, orders(setup.folder, child=str(pid_file)))
        child = wait_for_pid(pid_file)
        executor.kill(0)
        wait_until_gone(child)
    finally:
        executor.close()


@slow
def test_a_worker_ends_when_the_orchestrator_is_gone(setup: Setup) -> None:
    executor = open_executor("processes")
    started(executor, setup).send(0, orders(setup.folder, seconds=60))
    (worker,) = executor._workers.values()  # type: ignore[attr-defined]
    worker.connection.close()  # as when this process dies
    worker.process.wait(timeout=10)
    worker.guard.communicate(b"\n")
    worker.output.close()
    executor._workers.clear()  # type: ignore[attr-defined]


def wait_for_pid(file: Path) -> int:
    deadline = time.monotonic() + 10
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return int(file.read_text())


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.05)


@slow
def test_the_signal_of_a_terminal_does_not_reach_workers(setup: Setup) -> None:
    executor = open_executor("processes")
    try:
        started(executor, setup)
        (worker,) = executor._workers.values()  # type: ignore[attr-defined]
        assert os.getpgid(worker.process.pid) != os.getpgid(0)
        worker.process.send_signal(signal.SIGINT)
        executor.send(0, orders(setup.folder, epochs=1))
        assert isinstance(next_message(executor), Report)
    finally:
        executor.close()


@slow
def test_a_dead_worker_is_noticed_while_its_child_lives(setup: Setup) -> None:
    executor = open_executor("processes")
    try:
        started(executor, setup).send(0, orders(setup.folder, fork=True))
        gone = next_message(executor, timeout_s=5)
        assert isinstance(gone, Gone)
        assert "SIGKILL" in gone.reason
    finally:
        executor.close()


def test_a_worker_frozen_amid_a_message_keeps_nobody_waiting() -> None:
    executor = ProcessExecutor()
    sending = "import sys; from multiprocessing.connection import Connection as C\n"
    sending += "line = C(int(sys.argv[1])); line.send(['x' * 10_000_000]); line.recv()"
    executor.command = (sys.executable, "-c", sending)
    with contextlib.closing(executor):
        executor.start(Setup(0, "", Path(), {}, [], Path(), "cpu", None, 1, 1.0))
        worker = executor._workers[0]
        assert worker.connection.poll(30)
        os.kill(worker.process.pid, signal.SIGSTOP)
        began_s = time.monotonic()
        assert executor.wait(0.1) == []
        assert time.monotonic() - began_s < 5
        os.kill(worker.process.pid, signal.SIGCONT)
        assert next_message(executor) == ["x" * 10_000_000]


OVER_TWO = Setup(0, "", Path(), {}, [], Path(), "cpu", None, 1, 1.0, devices=2)


@pytest.mark.parametrize("missing", ["worker", "guard"])
def test_of_a_worker_that_cannot_be_started_nothing_stays_open(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    executor, nothing = ProcessExecutor(), (str(tmp_path / "none"),)
    executor.command = ("/bin/sh", "-c", "sleep 60")
    if missing == "worker":
        executor.command = nothing
    else:
        monkeypatch.setattr(processes, "GUARD", nothing)
    here = psutil.Process()
    before = here.num_fds(), here.children()
    with pytest.raises(FileNotFoundError):
        executor.start(OVER_TWO)
    assert (here.num_fds(), here.children()) == before
    assert not list(tmp_path.iterdir())


def test_where_ranks_meet_goes_with_their_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    executor = ProcessExecutor()
    executor.command = ("/bin/sh", "-c", "sleep 60")
    executor.start(OVER_TWO)
    assert len(list(tmp_path.iterdir())) == 1
    executor.kill(0)
    assert not list(tmp_path.iterdir())


def test_where_ranks_meet_goes_when_the_guard_has_killed(tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.touch()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as worker:
        guard = [*GUARD, str(worker.pid), str(meeting)]
        subprocess.run(guard, stdin=subprocess.DEVNULL, check=True)
    assert worker.returncode == -signal.SIGKILL
    assert not meeting.exists()
