"""A study's outbox as an orchestrator would write it, and what MLflow must hold of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo.paths import Home, StudyPaths
from hpo.tracking import outbox
from hpo.tracking.outbox import Outbox

with warnings.catch_warnings():  # of MLflow's own imports
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient
    from mlflow.entities import Run

START_MS = 1_700_000_000_000
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "stopped": "KILLED", "failed": "FAILED"}


class Written:
    """Writes the outbox of a study named ``s``."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.paths: StudyPaths = home.study("s")
        self._clock = itertools.count(START_MS, 10)

    def write(self, kind: str, **fields: Any) -> None:
        with Outbox(self.paths.outbox) as log:
            log.append({"kind": kind, "time_ms": next(self._clock), **fields})

    def study(self, **changed: Any) -> None:
        fields: dict[str, Any] = {
            "study": "s",
            "study_id": "5" * 32,
            "file": "study: s\n",
            "folder": "/studies",
            "identity": {"trainer": "image_classifier", "train.epochs": 3},
            "objective": [{"metric": "val/f1", "goal": "maximize"}],
            "budget": {"trials": 10},
            "sampler": "tpe",
            "pruner": "none",
            "workers": 2,
            "device": "cpu",
            "device_name": "cpu",
            "dataset": {
                "source": "digits",
                "rows": 1797,
                "train": 1200,
                "fingerprint": "f" * 64,
            },
            "provenance": {
                "git": {"commit": "c" * 40, "branch": "main", "dirty": True, "diff": "--- a\n"},
                "packages": {"torch": "2.14.1"},
            },
        }
        self.write("study", **fields | changed)

    def trial(self, number: int, attempt: int = 1, **config: Any) -> None:
        config = {
            "model.name": "mlp",
            "train.lr": 0.1 / (number + 1),
            "train.nesterov": True,
        } | config
        params = {"train.lr": config["train.lr"]}
        self.write(
            "trial",
            number=number,
            params=params,
            config=config,
            seed=number,
            worker=number % 2,
            attempt=attempt,
        )

    def epoch(self, number: int, epoch: int, **metrics: float) -> None:
        values = {"train/loss": 1 / epoch, "val/f1": (number % 7) / 10 + epoch / 100}
        self.write("epoch", number=number, epoch=epoch, seconds=0.01, metrics=values | metrics)

    def end(self, number: int, state: str = "complete", **changed: Any) -> None:
        fields = {
            "reason": "",
            "values": [(number % 7) / 10 + 0.03],
            "best_epoch": 3,
            "last_epoch": 3,
            "seconds": 0.03,
            "peak_memory_mb": 100.0,
            "traceback": None,
            "artifacts": {},
            "epochs_trained": 3,
        }
        self.write("end", number=number, state=state, **fields | changed)

    def whole_trial(self, number: int, state: str = "complete", **changed: Any) -> None:
        self.trial(number)
        for epoch in (1, 2, 3):
            self.epoch(number, epoch)
        self.end(number, state, **changed)

    def study_end(self, state: str = "complete") -> None:
        self.write("study_end", state=state, reason="budget used")


@pytest.fixture
def written(tmp_path: Path, empty_store: Path) -> Written:
    """An outbox to write to, in a home with an empty embedded store."""
    home = Home(tmp_path / "a home")
    home.mlruns.mkdir(parents=True)
    shutil.copy(empty_store, home.mlruns / "mlflow.db")
    return Written(home)


@pytest.fixture
def new_written(tmp_path: Path) -> Callable[[str], Written]:
    """Makes an outbox in a home of the given name, with no store at all."""
    return lambda name: Written(Home(tmp_path / name))


@pytest.fixture(scope="session")
def mlflow_of() -> Callable[[Written | str], InMlflow]:
    """What a store holds, read by MLflow's own client."""
    return lambda place: InMlflow(place if isinstance(place, str) else place.home.tracking_uri)


class InMlflow:
    """A store, read by MLflow's own client."""

    def __init__(self, uri: str) -> None:
        self.client = MlflowClient(tracking_uri=uri)

    def runs(self) -> tuple[Run, dict[int, Run]]:
        return runs_of(self.client)

    def history(self, run: Run) -> list[tuple[str, float, int, int]]:
        return history(self.client, run)

    def assert_complete(self, paths: StudyPaths, name: str = "s") -> None:
        assert_complete(self.client, paths, name)

    def artifacts(self, run: Run) -> dict[str, Path]:
        """Name → file, downloaded."""
        folder = Path(tempfile.mkdtemp())
        self.client.download_artifacts(run.info.run_id, "", str(folder))
        return {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}


def runs_of(client: MlflowClient, name: str = "s") -> tuple[Run, dict[int, Run]]:
    """The study's run and the trials' by number; fails when a trial has two."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    parents, trials = [], {}
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=500, page_token=token)
        for run in page:
            if "hpo.trial" in run.data.tags:
                number = int(run.data.tags["hpo.trial"])
                assert number not in trials, f"two runs of trial {number}"
                trials[number] = run
            else:
                parents.append(run)
        token = page.token
        if not token:
            break
    assert len(parents) == 1
    return parents[0], trials


def history(client: MlflowClient, run: Run) -> list[tuple[str, float, int, int]]:
    """Every metric row of a run: name, value, step, time."""
    rows = []
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            rows.append((name, metric.value, metric.step, metric.timestamp))
    return sorted(rows, key=repr)


def assert_complete(client: MlflowClient, paths: StudyPaths, name: str) -> None:
    """Everything in the outbox is in MLflow, once."""
    parent, trials = runs_of(client, name)
    rows: dict[int, list[tuple[str, float, int, int]]] = {}
    ends: dict[int, dict[str, Any]] = {}
    for record, _after in outbox.read(paths.outbox):
        if record["kind"] == "trial":
            run = trials[record["number"]]
            rows.setdefault(record["number"], [])
            assert run.info.run_name == f"trial {record['number']}"
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.params == {
                key: value if isinstance(value, str) else json.dumps(value)
                for key, value in record["config"].items()
            }
        elif record["kind"] == "epoch":
            for name, value in record["metrics"].items():
                row = (name, value, record["epoch"], record["time_ms"])
                rows[record["number"]].append(row)
        elif record["kind"] == "end":
            ends[record["number"]] = record
    assert set(trials) == set(rows)
    for number, run in trials.items():
        shipped = history(client, run)
        facts = [row for row in shipped if row[0].startswith("best")]
        facts += [row for row in shipped if row[0] in ("duration_s", "peak_memory_mb")]
        assert [row for row in shipped if row not in facts] == sorted(rows[number], key=repr)
        if number in ends:
            end = ends[number]
            assert run.info.status == STATUS[end["state"]]
            assert run.info.end_time == end["time_ms"]
            assert run.data.tags["hpo.state"] == end["state"]
            assert len({row[0] for row in facts}) == len(facts)
            assert (
                run.data.metrics["best/val/f1"]
                == dict((row[2], row[1]) for row in rows[number] if row[0] == "val/f1")[
                    end["best_epoch"]
                ]
            )


class Server:
    """A real ``mlflow server`` on loopback that can be stopped and started again."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self._folder = folder
        self._store = store or f"sqlite:///{folder / 'server.db'}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self._store]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        # Its six more processes, for jobs of generative AI, would take longer than all else.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return
            time.sleep(0.1)
        raise TimeoutError((self._folder / "server.log").read_text())

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Starts a server on a store that is there."""
    servers = []

    def serve(store: str) -> Server:
        servers.append(Server(tmp_path, store))
        servers[-1].start()
        return servers[-1]

    yield serve
    for running in servers:
        running.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "server.db")
    running = Server(folder)
    running.start()
    yield running
    running.stop()
