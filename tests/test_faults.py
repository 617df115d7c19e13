"""Processes are killed for real; the study completes all the same, every trial once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState
from running import HPO, assert_whole, finish, start, wait_for_epochs, workers_of
from workbench import Workbench

from hpo import requests

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tables_made")]

SLOW_EPOCHS = ("--set", "train.epochs=8", "--set", "train.seconds=0.05")


@pytest.mark.parametrize("after_epochs", [3, 30])
def test_row_3_a_study_whose_orchestrator_is_killed_completes_on_the_next_run(
    bench: Workbench, another_bench: Callable[[], Workbench], after_epochs: int
) -> None:
    killed = start(bench, *SLOW_EPOCHS)
    wait_for_epochs(bench, after_epochs)
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    _, alive = psutil.wait_procs(workers, timeout=15)
    assert alive == [], "workers outlive their orchestrator"
    status = finish(bench, *SLOW_EPOCHS)
    assert status["state"] == "complete"
    assert status["trials"]["complete"] == 5
    assert_whole(bench, trials=5, epochs=8)
    undisturbed = another_bench()
    undisturbed.run(train__epochs=8, train__seconds=0.05)
    assert [r["metrics"] for r in undisturbed.records("epoch")] == [
        r["metrics"]
        for r in sorted(bench.records("epoch"), key=lambda r: (r["number"], r["epoch"]))
    ]


def test_row_1_row_3_everything_killed_at_once_completes_on_the_next_run(bench: Workbench) -> None:
    options = (*SLOW_EPOCHS, "--set", "workers=2")
    killed = start(bench, *options)
    wait_for_epochs(bench, 10)
    family = [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]
    for process in family:
        process.kill()
    killed.communicate()
    psutil.wait_procs(family, timeout=15)
    finish(bench, *options)
    assert_whole(bench, trials=5, epochs=8)


def test_row_1_a_killed_worker_costs_its_trial_one_retry(bench: Workbench) -> None:
    told = json.dumps({"2:3": "kill once"})
    status = finish(bench, "--set", f"train.at={told}", "--set", f"train.folder={bench.folder}")
    assert status["trials"]["complete"] == 5
    assert_whole(bench, trials=5, epochs=4)
    assert [r["attempt"] for r in bench.records("trial") if r["number"] == 2] == [1, 2]


def test_row_1_a_trial_that_kills_its_worker_each_time_fails_and_the_study_goes_on(
    bench: Workbench,
) -> None:
    status = finish(bench, "--set", 'train.at={"2:3": kill}')
    assert status["trials"]["failed"] == 1
    assert status["trials"]["complete"] == 4
    end = next(end for end in bench.records("end") if end["number"] == 2)
    assert "SIGKILL" in end["reason"]
    assert end["reason"].endswith("(2 times)")


@pytest.mark.parametrize("killed_at", ["end-recorded:5", "study-ended:1"])
def test_row_4_killed_when_nothing_is_left_to_train_optuna_gets_the_last_end_all_the_same(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    monkeypatch.setenv("HPO_FAULT", f"{killed_at}:{bench.folder / 'died'}")
    killed = start(bench)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    finish(bench)
    assert [t.state for t in bench.optuna_trials()] == [TrialState.COMPLETE] * 5
    (end,) = bench.records("study_end")
    assert end["state"] == "complete"


def test_row_16_a_hung_trial_is_ended_after_its_timeout(bench: Workbench) -> None:
    status = finish(
        bench, "--set", 'train.at={"1:2": hang}', "--set", "timeout=2s", "--set", "budget.trials=3"
    )
    assert status["trials"] == {
        "complete": 2,
        "pruned": 0,
        "failed": 0,
        "stopped": 1,
        "running": 0,
        "paused": 0,
        "waiting": 0,
    }
    end = next(end for end in bench.records("end") if end["number"] == 1)
    assert "in the middle of an epoch" in end["reason"]
    assert end["last_epoch"] == 1


def test_row_5_a_signal_stops_the_study_at_an_epoch_s_end_and_it_can_go_on(
    bench: Workbench,
) -> None:
    process = start(bench, *SLOW_EPOCHS)
    wait_for_epochs(bench, 10)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    trials = bench.optuna_trials()
    assert not [t for t in trials if t.state == TrialState.RUNNING]
    assert bench.records("study_end")[-1]["state"] == "interrupted"
    finish(bench, *SLOW_EPOCHS)
    assert_whole(bench, trials=5, epochs=8)
    again = [r for r in bench.records("trial") if r["attempt"] == 2]
    assert len(again) == 1


def test_row_6_a_second_signal_ends_a_hung_trial_at_once(bench: Workbench) -> None:
    process = start(
        bench, "--set", 'train.at={"0:2": hang once}', "--set", f"train.folder={bench.folder}"
    )
    wait_for_epochs(bench, 1)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for the epoch's end
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    finish(bench, "--set", 'train.at={"0:2": hang once}', "--set", f"train.folder={bench.folder}")
    assert_whole(bench, trials=5, epochs=4)


def test_a_fresh_process_for_each_trial(bench: Workbench) -> None:
    (bench.folder / "pids.py").write_text(
        "import os\ndef train(trial):\n    trial.report(1, {'quality': float(os.getpid())})\n"
    )
    finish(
        bench,
        "--set",
        "trainer=pids:train",
        "--set",
        "fresh_process=true",
        "--set",
        "budget.trials=3",
    )
    assert len({r["metrics"]["quality"] for r in bench.records("epoch")}) == 3


def test_the_study_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    bench: Workbench, tmp_path: Path
) -> None:
    import resource

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [*HPO, "run", str(bench.file), "--home", str(bench.folder)]
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files)
    assert full.returncode == 1
    assert "File too large" in full.stderr
    finish(bench)
    assert_whole(bench, trials=5, epochs=4)


def test_row_7_an_interruption_is_no_retry(bench: Workbench) -> None:
    told = json.dumps({"0:7": "kill once"})
    options = (*SLOW_EPOCHS, "--set", f"train.at={told}", "--set", f"train.folder={bench.folder}")
    process = start(bench, *options)
    wait_for_epochs(bench, 2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    finish(bench, *options)
    assert_whole(bench, trials=5, epochs=8)
    assert [r["crashes"] for r in bench.records("trial") if r["number"] == 0] == [0, 0, 1]


def test_a_module_in_the_current_folder_does_not_pass_for_python_s(
    bench: Workbench, tmp_path: Path
) -> None:
    here = tmp_path / "downloaded"
    here.mkdir()
    for name in ("queue", "random", "trainers"):
        (here / f"{name}.py").write_text(f"open({str(here / 'ran')!r}, 'a').close()\n")
    hpo = Path(sys.executable).with_name("hpo")
    done = subprocess.run(
        [
            hpo,
            "run",
            str(bench.file),
            "--home",
            str(bench.folder),
            "--set",
            "executor=processes",
            "--set",
            "budget.trials=1",
        ],
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (here / "ran").exists()


def test_fast_failures_do_not_end_a_slow_trial_that_may_succeed(bench: Workbench) -> None:
    (bench.folder / "uneven.py").write_text(
        "import time\n"
        "def train(trial):\n"
        "    if trial.number != 1:\n"
        "        raise ValueError('diverged')\n"
        "    time.sleep(2)\n"
        "    trial.report(1, {'quality': 1.0})\n"
    )
    status = finish(bench, "--set", "trainer=uneven:train", "--set", "workers=2")
    assert status["trials"]["complete"] == 1
    assert status["trials"]["failed"] == 4


def stop(bench: Workbench, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HPO, "stop", "s", "--home", str(bench.folder), "--json", *options],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_another_process_stops_the_study_and_waits_for_its_end(bench: Workbench) -> None:
    # More trials than can be trained until the command has started, on any machine.
    process = start(bench, *SLOW_EPOCHS, "--set", "budget.trials=1000")
    wait_for_epochs(bench, 10)
    stopped = stop(bench)
    assert json.loads(stopped.stdout) == {"study": "s", "was_running": True, "stopped": True}
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert json.loads(stop(bench).stdout)["was_running"] is False
    begun = len({record["number"] for record in bench.records("trial")})
    finish(bench, *SLOW_EPOCHS, "--set", f"budget.trials={begun}")
    assert_whole(bench, trials=begun, epochs=8)


def test_another_process_ends_a_hung_trial_at_once(bench: Workbench) -> None:
    options = ("--set", 'train.at={"0:2": hang once}', "--set", f"train.folder={bench.folder}")
    process = start(bench, *options)
    wait_for_epochs(bench, 1)
    assert json.loads(stop(bench, "--now").stdout)["stopped"] is True
    process.communicate(timeout=20)
    assert process.returncode == 130
    finish(bench, *options)
    assert_whole(bench, trials=5, epochs=4)


# -- in lanes: a built-in trainer, for one's own trains one trial at a time

IN_LANES = """
study: s
trainer: tabular
data: {source: table.csv, target: y}
model: {name: mlp, hidden: [8]}
train: {epochs: 8, batch_size: 2}
search:
  train.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  train.weight_decay: {low: 1.0e-6, high: 1.0e-2, log: true}
sampler: random
executor: processes
workers: 1
lanes: 4
device: cpu
budget: {trials: 10}
tracking: {examples: 0}
"""


@pytest.fixture
def stacked(bench: Workbench) -> Workbench:
    """A study whose trials train four at a time."""
    draw = random.Random(0)
    rows = [[draw.gauss(0, 1) for _ in range(4)] for _ in range(300)]
    lines = [",".join([*(f"{x:.4f}" for x in row), "ab"[row[0] > row[1]]]) for row in rows]
    (bench.folder / "table.csv").write_text("\n".join(["p,q,r,s,y", *lines]) + "\n")
    bench.file.write_text(IN_LANES)
    return bench


def undisturbed(bench: Workbench, another_bench: Callable[[], Workbench]) -> Workbench:
    """The same study, run to its end at once."""
    other = another_bench()
    other.file.write_text(bench.file.read_text())
    shutil.copy(bench.folder / "table.csv", other.folder)
    other.run()
    return other


def curves(bench: Workbench) -> dict[tuple[int, int], dict[str, float]]:
    return {(r["number"], r["epoch"]): r["metrics"] for r in bench.records("epoch")}


@pytest.mark.parametrize(("killed", "after_epochs"), [("both", 5), ("orchestrator", 50)])
def test_row_1_row_3_lanes_whose_study_is_killed_complete_on_the_next_run(
    stacked: Workbench, another_bench: Callable[[], Workbench], after_epochs: int, killed: str
) -> None:
    process = start(stacked)
    wait_for_epochs(stacked, after_epochs)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = workers_of(process) if killed == "both" else []
    for each in (psutil.Process(process.pid), *workers):
        each.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == [], "workers outlive their orchestrator"
    finish(stacked)
    assert_whole(stacked, trials=10, epochs=8)
    other = undisturbed(stacked, another_bench)
    assert max(r.get("lanes", 1) for r in other.records("epoch")) == 4
    assert curves(stacked) == curves(other)  # a lane is itself, whatever trains beside it
    assert [t.params for t in stacked.optuna_trials()] == [t.params for t in other.optuna_trials()]


def test_row_1_a_killed_worker_costs_each_of_its_lanes_one_retry_alone(stacked: Workbench) -> None:
    process = start(stacked, "--json")
    wait_for_epochs(stacked, 14)
    (worker,) = workers_of(process)
    worker.kill()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert_whole(stacked, trials=10, epochs=8)
    begun = stacked.records("trial")
    again = [r["number"] for r in begun if r["attempt"] == 2]
    assert len(again) == 4
    assert again == sorted(again)
    assert [r["crashes"] for r in begun if r["attempt"] == 2] == [1] * 4
    alone = [
        r for r in stacked.records("epoch")
        if r["number"] in again and r["time_ms"] > min(
            b["time_ms"] for b in begun if b["attempt"] == 2
        )
    ]  # fmt: skip
    assert {r.get("lanes", 1) for r in alone} == {1}


def test_row_1_lanes_of_two_workers_survive_the_loss_of_both(stacked: Workbench) -> None:
    process = start(stacked, "--set", "workers=2", "--set", "budget.trials=16", "--json")
    wait_for_epochs(stacked, 20)
    for worker in workers_of(process):
        worker.kill()
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert_whole(stacked, trials=16, epochs=8)


def test_a_stop_ends_lanes_at_an_epoch_s_end_and_they_go_on(
    stacked: Workbench, another_bench: Callable[[], Workbench]
) -> None:
    # Of one row a step and many epochs: none of the first four is at its end before the request,
    # which is made from here and not by a command that has to start, is looked at.
    stacked.file.write_text(
        IN_LANES.replace("epochs: 8, batch_size: 2", "epochs: 12, batch_size: 1")
    )
    process = start(stacked)
    wait_for_epochs(stacked, 8)
    assert requests.stop(stacked.paths, now=False, say=lambda text: None) is True
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert not [t for t in stacked.optuna_trials() if t.state == TrialState.RUNNING]
    assert len(stacked.records("trial")) == 4
    assert stacked.records("end") == []
    finish(stacked)
    assert_whole(stacked, trials=10, epochs=12)
    again = [r for r in stacked.records("trial") if r["attempt"] == 2]
    assert {r["number"] for r in again} == {0, 1, 2, 3}
    assert {r["crashes"] for r in again} == {0}
    other = undisturbed(stacked, another_bench)
    assert curves(stacked) == curves(other)  # a lane is itself, whatever trains beside it
