"""Trials that hang, processes that are frozen, and two orchestrators on one study: for real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import pytest
from running import HPO, assert_whole, finish, start, wait_for_epochs, workers_of
from workbench import Workbench

from hpo import lease

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tables_made")]

# How a trial hangs, by its number. Each leaves the pids that must not outlive it.
HUNG = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"

def train(trial):
    trial.report(1, {"quality": 0.1 * trial.number})
    folder, pids = Path(trial.params["train"]["folder"]), [os.getpid()]
    if trial.number == 0:  # in C code that never gives the interpreter back
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        hang = lambda: ctypes.PyDLL(None).sleep(1000)
    elif trial.number == 1:  # with children that do not listen
        pids += [subprocess.Popen([sys.executable, "-S", "-c", DEAF]).pid for _ in range(2)]
        hang = lambda: time.sleep(1000)
    elif trial.number == 2:  # frozen
        hang = lambda: os.kill(os.getpid(), signal.SIGSTOP)
    else:
        return
    (folder / f"pids-{trial.number}").write_text(" ".join(map(str, pids)))
    hang()
"""


@pytest.fixture
def hung(bench: Workbench) -> Iterator[Callable[[], Sequence[psutil.Process]]]:
    """Has a study's trials hang; gives their processes that still run."""
    (bench.folder / "hung.py").write_text(HUNG)
    bench.file.write_text(bench.file.read_text().replace("told:train", "hung:train"))

    def running() -> Sequence[psutil.Process]:
        found = []
        for file in sorted(bench.folder.glob("pids-*")):
            for pid in file.read_text().split():
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(int(pid)))
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]

    yield running
    for process in running():
        process.kill()


def three_hung(bench: Workbench) -> Sequence[str]:
    folder = f"train.folder={bench.folder}"
    return ("--set", "workers=3", "--set", "budget.trials=4", "--set", folder)


def wait_for(reached: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + 60
    while not (found := reached()):
        assert time.monotonic() < deadline_s, "it does not come to that"
        time.sleep(0.02)
    return found


def test_row_16_hung_trials_are_ended_after_their_timeout_with_all_they_started(
    bench: Workbench, hung: Any
) -> None:
    began_s = time.monotonic()
    status = finish(bench, *three_hung(bench), "--set", "timeout=1s")
    assert status["trials"]["stopped"] == 3
    assert status["trials"]["complete"] == 1
    ends = {end["number"]: end for end in bench.records("end")}
    for number in (0, 1, 2):
        assert "timeout of 1 s, in the middle of an epoch" in ends[number]["reason"]
        assert ends[number]["last_epoch"] == 1  # what was acknowledged stays
    assert len(list(bench.folder.glob("pids-*"))) == 3
    assert hung() == []
    assert time.monotonic() - began_s < 60


def test_row_3_workers_that_hang_do_not_outlive_their_orchestrator(
    bench: Workbench, hung: Any
) -> None:
    process = start(bench, *three_hung(bench))
    wait_for(lambda: len(list(bench.folder.glob("pids-*"))) == 3)
    assert len(hung()) == 5
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(hung(), timeout=10)
    assert alive == []


def test_row_2_a_worker_killed_before_it_is_ready_is_started_again(bench: Workbench) -> None:
    process = start(bench, "--json")
    (worker,) = wait_for(lambda: workers_of(process))
    worker.kill()
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert json.loads(output)["trials"]["complete"] == 5
    assert_whole(bench, trials=5, epochs=4)
    assert {r["attempt"] for r in bench.records("trial")} == {1}  # none had begun


LOADER = """
import os, torch
from torch.utils.data import DataLoader, Dataset

class Rows(Dataset):
    def __init__(self, number):
        self.number = number
    def __len__(self):
        return 8
    def __getitem__(self, index):
        if self.number == 1 and index == 5:
            os._exit(3)
        return torch.tensor(float(index))

def train(trial):
    rows = DataLoader(Rows(trial.number), batch_size=2, num_workers=1)
    trial.report(1, {"quality": sum(float(batch.sum()) for batch in rows)})
"""


def test_row_15_a_process_that_loads_data_and_dies_fails_its_trial_with_the_cause(
    bench: Workbench,
) -> None:
    (bench.folder / "loader.py").write_text(LOADER)
    status = finish(bench, "--set", "trainer=loader:train", "--set", "budget.trials=3")
    assert status["trials"]["complete"] == 2
    (end,) = [end for end in bench.records("end") if end["state"] == "failed"]
    assert end["number"] == 1
    assert "DataLoader worker" in end["reason"]
    assert "exited unexpectedly" in end["reason"]


def test_row_1_a_worker_that_was_frozen_goes_on(bench: Workbench) -> None:
    process = start(bench, "--set", "train.epochs=8", "--set", "train.seconds=0.05", "--json")
    wait_for_epochs(bench, 5)
    (worker,) = workers_of(process)
    worker.suspend()
    time.sleep(2)
    worker.resume()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert_whole(bench, trials=5, epochs=8)
    assert {r["attempt"] for r in bench.records("trial")} == {1}


def another(bench: Workbench) -> subprocess.CompletedProcess[str]:
    command = [*HPO, "run", str(bench.file), "--home", str(bench.folder)]
    slow = ["--set", "executor=processes", "--set", "train.epochs=8", "--set", "train.seconds=0.1"]
    return subprocess.run([*command, *slow], capture_output=True, text=True, timeout=120)


def test_row_19_row_20_a_frozen_orchestrator_keeps_its_study_and_goes_on_when_it_wakes(
    bench: Workbench,
) -> None:
    slow = ("--set", "train.epochs=8", "--set", "train.seconds=0.1")
    process = start(bench, *slow, "--json")
    wait_for_epochs(bench, 5)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        before = bench.paths.outbox.read_bytes()
        refused = another(bench)
        after = bench.paths.outbox.read_bytes()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert_whole(bench, trials=5, epochs=8)
    assert refused.returncode == 2
    assert f"is being run by process {process.pid} on " in refused.stderr
    assert after == before
    assert lease.owner(bench.paths.lease) is None


def test_row_19_of_two_that_start_at_once_one_runs_the_study(bench: Workbench) -> None:
    slow = ("--set", "train.epochs=8", "--set", "train.seconds=0.1")
    both = [start(bench, *slow) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], errors
    assert "is being run by process" in errors[codes.index(2)]
    assert_whole(bench, trials=5, epochs=8)


def test_row_21_a_clock_that_is_set_forward_and_back_changes_nothing(
    bench: Workbench, another_bench: Callable[[], Workbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour forward when the study goes on, then two back."""
    real, shift_s = time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: real() + shift_s[0] * 10**9)
    bench.run(budget__trials=2)
    shift_s[0] = 3600
    bench.run(budget__trials=3)
    shift_s[0] = -3600
    bench.run()
    undisturbed = another_bench()
    monkeypatch.undo()
    undisturbed.run()
    assert [r["metrics"] for r in bench.records("epoch")] == [
        r["metrics"] for r in undisturbed.records("epoch")
    ]
    assert [end["state"] for end in bench.records("end")] == ["complete"] * 5
