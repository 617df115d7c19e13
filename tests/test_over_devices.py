"""Trials over several devices, here processes on a CPU: the real command, and real faults."""

from __future__ import annotations

import json
import signal
from typing import Any

import numpy as np
import psutil
import pytest
from running import finish, start, wait_for_epochs, workers_of
from workbench import Workbench

from hpo import checkpoints, devices
from hpo.devices import Gpu, Slot
from hpo.errors import Problem, StudyFileError
from hpo.paths import StudyPaths

STUDY = """
study: s
trainer: image_classifier
data: {source: digits}
model: {name: mlp, hidden: [16], dropout: 0.2}
train: {epochs: 4, batch_size: 64, optimizer: sgd, metrics: ["told:told"]}
search: {train.lr: {low: 0.01, high: 0.2}}
sampler: random
pruner: none
workers: 1
device: cpu
gpus_per_trial: 2
budget: {trials: 2}
"""

# A metric of the user's own, which every rank computes. What the file says happens once.
TOLD = """
import os, signal, sys, time
from pathlib import Path
import torch.distributed as dist

WHAT = Path(__file__).with_name("told.txt")

def told(target, output):
    time.sleep(0.02)
    now = ("raise", "kill") if dist.is_initialized() else ("kill while it loads",)
    if "hpo.rank" in sys.orig_argv and WHAT.exists() and (word := WHAT.read_text()) in now:
        WHAT.unlink()
        if word == "raise":
            raise ValueError("as told")
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0
"""


def write(bench: Workbench) -> Workbench:
    bench.file.write_text(STUDY)
    (bench.folder / "told.py").write_text(TOLD)
    return bench


@pytest.fixture
def over_two(bench: Workbench, tables_made: None) -> Workbench:
    return write(bench)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a study's epochs measure where nothing happens."""
    bench = write(Workbench(tmp_path_factory.mktemp("undisturbed")))
    finish(bench)
    return measured(bench)


def measured(bench: Workbench) -> list[Any]:
    each = sorted(bench.records("epoch"), key=lambda r: (r["number"], r["epoch"]))
    return [(r["number"], r["epoch"], r["metrics"]) for r in each]


@pytest.mark.slow
def test_a_rank_or_a_worker_that_is_killed_costs_nothing_but_time(
    over_two: Workbench, undisturbed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(over_two.folder))
    (over_two.folder / "told.txt").write_text("kill")  # at the end of the first epoch
    running = start(over_two, "--set", "retries=3")
    wait_for_epochs(over_two, 3)
    assert not (over_two.folder / "told.txt").exists()
    (worker,) = workers_of(running)
    family = psutil.Process(running.pid).children(recursive=True)
    assert any("hpo.rank" in each.cmdline() for each in worker.children())
    worker.send_signal(signal.SIGKILL)
    _, error = running.communicate(timeout=120)
    assert running.returncode == 0, error
    assert not [each for each in family if each.is_running()]
    assert not list(over_two.folder.glob("hpo-*"))
    assert measured(over_two) == undisturbed
    assert {end["state"] for end in over_two.records("end")} == {"complete"}
    assert max(r["attempt"] for r in over_two.records("trial")) >= 2


@pytest.mark.slow
def test_what_another_rank_raises_fails_the_trial_and_the_study_goes_on(
    over_two: Workbench,
) -> None:
    (over_two.folder / "told.txt").write_text("raise")
    finish(over_two, "--set", "retries=0")
    failed, complete = sorted(over_two.records("end"), key=lambda end: end["number"])
    assert failed["state"] == "failed"
    assert "on device 1: ValueError: as told" in failed["reason"]
    assert complete["state"] == "complete"
    assert [r["attempt"] for r in over_two.records("trial")] == [1, 1]


@pytest.mark.slow
def test_stopped_it_goes_on_where_it_was(over_two: Workbench, undisturbed: list[Any]) -> None:
    (over_two.folder / "told.txt").write_text("kill while it loads")
    running = start(over_two)
    wait_for_epochs(over_two, 2)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert not (over_two.folder / "told.txt").exists()
    finish(over_two)
    assert measured(over_two) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp", "pipeline"])
def test_a_study_over_two_devices(over_two: Workbench, how: str) -> None:
    """One trial is lost, one is pruned, and the kept weights are those of the whole model."""
    first = json.dumps([{"train.weight_decay": decay} for decay in (1000.0, 0.0, 5.0)])
    search = json.dumps({"train.weight_decay": {"low": 0.0, "high": 1000.0}})
    options = (f"parallel={how}", f"start_from={first}", f"search={search}", "budget.trials=3")
    options += ("train.lr=0.1",)
    pruner = json.dumps({"name": "median", "n_startup_trials": 1, "n_warmup_steps": 0})
    each = [*options, f"pruner={pruner}", "train.epochs=3"]
    finish(over_two, *(word for option in each for word in ("--set", option)))
    ends = sorted(over_two.records("end"), key=lambda end: end["number"])
    assert [end["state"] for end in ends] == ["failed", "complete", "pruned"]
    assert "try a smaller learning rate" in ends[0]["reason"]
    assert [r["attempt"] for r in over_two.records("trial")] == [1, 1, 1]  # by the same worker
    notes = over_two.records("epoch")[0]["notes"]
    assert notes["parallel"] == f"{how} over 2 devices"
    _check_kept(over_two, trial=1)


def _check_kept(bench: Workbench, trial: int) -> None:
    """A trial's kept weights predict what it predicted."""
    import torch

    from trainers.data import load
    from trainers.models import build

    folder = bench.paths.trial(trial)
    (fold,) = checkpoints.read(folder / StudyPaths.MODEL)["folds"]
    (member,) = fold["members"]
    data = load(bench.load().config({})["data"], bench.home.data_cache)
    model = build(member["model"], data.shape, data.outputs).eval()
    model.load_state_dict(member["weights"])
    with np.load(folder / StudyPaths.PREDICTIONS) as file, torch.no_grad():
        rows = [data.ids.tolist().index(row) for row in file["ids"]]
        inputs, _ = data.splits[0].batch(torch.tensor(rows))
        np.testing.assert_allclose(model(inputs).softmax(1), file["output"], atol=1e-5)


# -- without a trial


def slots(bench: Workbench, **overrides: Any) -> list[Slot]:
    found = devices.slots(bench.load(executor="processes", **overrides))
    assert isinstance(found, list)
    return found


def test_a_worker_has_as_many_gpus_as_a_trial_takes(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    five = tuple(Gpu(f"GPU-{name}", "H100", 81559) for name in "abcde")
    monkeypatch.setattr(devices, "gpus", lambda: five)
    monkeypatch.setattr(devices, "cores", lambda: 16)
    two = slots(bench, device="auto", gpus_per_trial=2, workers="auto")
    assert two == [Slot("cuda", "GPU-a,GPU-b", 1.0, 4), Slot("cuda", "GPU-c,GPU-d", 1.0, 4)]
    found = devices.slots(bench.load(executor="processes", device="cuda", gpus_per_trial=6))
    assert isinstance(found, Problem)
    assert "takes 6 GPUs; this machine has 5" in found.message
    on_cpu = slots(bench, device="cpu", gpus_per_trial=4, workers="auto")
    assert on_cpu == [Slot("cpu", None, 1.0, 1)] * 4


@pytest.mark.parametrize(
    ("written", "key", "message"),
    [
        ("gpus_per_trial: 1.5", "gpus_per_trial", "a number ≤ 1, or a whole number up to 64"),
        ("gpus_per_trial: 1\nparallel: ddp", "parallel", "has no effect: a trial has 1 GPU"),
        ("gpus_per_trial: 128", "gpus_per_trial", "up to 64; got 128"),
        ("lanes: 8", "lanes", "has no effect: a trial takes 2 devices"),
        ("parallel: fsdp\ntrain: {optimizer: muon}", "train.optimizer", "muon cannot be trained"),
        ("train: {compile: 'on'}", "train.compile", "on cannot be trained"),
        ("parallel: pipeline\ntrain: {swa: 0.5}", "train.swa", "0.5 cannot be trained"),
        ("train: {batch_size: 1}", "train.batch_size", "a row for each device; got 1"),
        ("search: {train.batch_size: [1, 64]}", "search.train.batch_size", "got 1"),
        ("trainer: told:train\nparallel: ddp", "parallel", "uses its GPUs as it likes"),
        ("model: {name: sklearn.SVC}", "model.name", "is trained on one CPU"),
    ],
)
def test_what_does_not_go_together_is_said(
    over_two: Workbench, written: str, key: str, message: str
) -> None:
    given = [line.partition(":")[0] for line in written.splitlines()]
    rest = [line for line in STUDY.splitlines() if line.partition(":")[0] not in given]
    if "trainer" in given:
        rest = [line for line in rest if not line.startswith(("data", "model"))]
        rest.append("objective: {metric: quality, goal: maximize}")
    over_two.file.write_text("\n".join([*rest, written]))
    with pytest.raises(StudyFileError) as refused:
        over_two.load()
    found = [each for each in refused.value.problems if each.key == key]
    assert found, refused.value
    assert message in found[0].message
