"""A study run by the real command, for tests that kill its processes; and what must hold then."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import psutil
from optuna.trial import TrialState
from workbench import Workbench

HPO = [sys.executable, "-m", "hpo.cli"]


def start(bench: Workbench, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *HPO,
            "run",
            str(bench.file),
            "--home",
            str(bench.folder),
            "--set",
            "executor=processes",
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(bench: Workbench, *options: str) -> dict[str, Any]:
    process = start(bench, *options, "--json")
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    status: dict[str, Any] = json.loads(output)
    return status


def wait_for_epochs(bench: Workbench, count: int) -> None:
    deadline = time.monotonic() + 60
    while not (bench.paths.outbox.is_file() and len(bench.records("epoch")) >= count):
        assert time.monotonic() < deadline, "no epochs"
        time.sleep(0.02)


def mlflow_curves(bench: Workbench) -> Counter[tuple[str, str, int, float]]:
    import sqlite3

    with sqlite3.connect(bench.home.mlruns / "mlflow.db") as store:
        rows = store.execute(
            "select t.value, m.key, m.step, m.value from metrics m "
            "join tags t on t.run_uuid = m.run_uuid and t.key = 'hpo.trial' "
            "where m.key in ('quality', 'cost') or m.key like 'train/%' or m.key like 'val/%'"
        ).fetchall()
    store.close()
    return Counter((number, key, step, value) for number, key, step, value in rows)


def assert_whole(bench: Workbench, trials: int, epochs: int) -> None:
    """Each trial once and complete, the three records alike, nothing left behind."""
    ends = bench.records("end")
    assert sorted(end["number"] for end in ends) == list(range(trials))
    assert {end["state"] for end in ends} == {"complete"}
    reported = [(r["number"], r["epoch"]) for r in bench.records("epoch")]
    assert sorted(reported) == [(n, e) for n in range(trials) for e in range(1, epochs + 1)]
    optuna_trials = bench.optuna_trials()
    assert [t.state for t in optuna_trials] == [TrialState.COMPLETE] * trials
    assert all(len(t.intermediate_values) == epochs for t in optuna_trials)
    in_outbox = Counter(
        (str(r["number"]), key, r["epoch"], value)
        for r in bench.records("epoch")
        for key, value in r["metrics"].items()
    )
    assert mlflow_curves(bench) == in_outbox


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "hpo.worker" in child.cmdline()]
