"""Studies on a Ray cluster: nodes that are lost, that are about to go and that are added."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray_cluster
from workbench import Workbench

from hpo import spec
from hpo.devices import Slot
from hpo.errors import HpoError, Problem, StudyFileError, UserError
from hpo.executors import Event, Gone, Leaving, open_executor
from hpo.executors.inline import InlineExecutor
from hpo.executors.ray import Here, _difference, _versions
from hpo.messages import Refused, Round, Setup
from hpo.spec import Named, StudySpec

slow = pytest.mark.slow  # nodes, and workers, which import torch
ONE = ray_cluster.NODE | {"num_cpus": 1}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.chdir(tmp_path)  # the folder that all nodes share
    return Workbench(tmp_path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that trains nothing; each test adds its nodes."""
    with ray_cluster.running(num_cpus=0) as cluster:
        yield cluster


@pytest.fixture
def nodes(cluster: Any) -> Iterator[Callable[[str], Any]]:
    added = {}

    def node(name: str) -> Any:
        if name not in added:
            added[name] = cluster.add_node(node_name=name, **ONE)
        return added[name]

    yield node
    for each in added.values():
        if each in cluster.list_all_nodes():
            cluster.remove_node(each, allow_graceful=False)
    cluster.wait_for_nodes()


def study(cluster: Any, workers: int, epochs: int = 8) -> dict[str, Any]:
    return {
        "executor": {"name": "ray", "address": cluster.address},
        "workers": workers,
        "budget__trials": 6,
        "train__epochs": epochs,
        "train__seconds": 0.3,
        "retries": 0,  # a node that is lost takes none
    }


@contextlib.contextmanager
def run_until(bench: Workbench, node: str, epochs: int, **study: Any) -> Iterator[None]:
    """Run a study; the body is met once a trial on a node has so many epochs on record."""
    with ThreadPoolExecutor(1) as pool:  # nodes can only be added in the main thread
        running = pool.submit(bench.run, **study)
        deadline_s = time.monotonic() + 60
        while not any(
            trial["node"] == node and epoch["number"] == trial["number"]
            for trial in records(bench, "trial")
            for epoch in records(bench, "epoch")
            if epoch["epoch"] >= epochs
        ):
            assert time.monotonic() < deadline_s, "nothing happens"
            assert not running.done(), running.result()
            time.sleep(0.05)
        yield
        running.result(timeout=120)


def records(bench: Workbench, kind: str) -> list[dict[str, Any]]:
    return bench.records(kind) if bench.paths.outbox.is_file() else []


def check_whole(bench: Workbench, trials: int = 6, epochs: int = 8) -> None:
    """Every trial ended once, complete, with every epoch on record once, as if left alone."""
    reported = [(r["number"], r["epoch"]) for r in bench.records("epoch")]
    assert sorted(reported) == [(n, e) for n in range(trials) for e in range(1, epochs + 1)]
    assert sorted(r["number"] for r in bench.records("end")) == list(range(trials))
    assert {r["state"] for r in bench.records("end")} == {"complete"}
    params = {r["number"]: r["params"] for r in bench.records("trial")}
    for record in bench.records("epoch"):
        x = params[record["number"]]["train.x"]
        quality = 1 - (x - 0.3) ** 2 - 0.01 * abs(record["epoch"] - epochs / 2)
        assert record["metrics"]["quality"] == quality
    assert not list(bench.paths.root.glob("trials/*/epoch-*.pt"))


@slow
def test_trials_of_a_lost_node_go_on_where_there_is_room(
    bench: Workbench, cluster: Any, nodes: Callable[[str], Any]
) -> None:
    lost = nodes("a")
    with run_until(bench, "a", 3, **study(cluster, workers=1)):
        cluster.remove_node(lost, allow_graceful=False)
        nodes("b")
    check_whole(bench)
    assert any("place on node a was lost" in line for line in bench.said)
    again = [r for r in bench.records("trial") if r["attempt"] == 2]
    assert [(r["node"], r["crashes"]) for r in again] == [("b", 0)]


@slow
def test_workers_come_with_nodes_and_leave_before_they_go(
    bench: Workbench, cluster: Any, nodes: Callable[[str], Any]
) -> None:
    from ray._raylet import GcsClient

    first = nodes("c")
    with run_until(bench, "c", 3, **study(cluster, workers=2)):
        late_ms = int(time.time() * 1000) + 600_000
        GcsClient(address=cluster.address).drain_node(first.node_id, 2, "preempted", late_ms)
        nodes("d")
    check_whole(bench)
    assert "the Ray cluster has room for 1 of 2 workers; the others wait for it" in bench.said
    assert any("node c is about to go" in line for line in bench.said)
    assert not any("was lost" in line for line in bench.said)
    assert bench.records("trial")[-1]["node"] == "d"


@slow
def test_kills_of_everything_leave_the_study_whole(
    bench: Workbench, cluster: Any, nodes: Callable[[str], Any]
) -> None:
    nodes("e")
    bench.file.write_text(
        bench.file.read_text().replace("executor: inline", "")
        + f"executor: {{name: ray, address: '{cluster.address}'}}\nretries: 100\n"
    )
    command = [sys.executable, "-m", "hpo.cli", "run", str(bench.file)]
    for told in ("train.seconds=0.2", "train.epochs=8", "budget.trials=6"):
        command += ["--set", told]

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for(epochs: int) -> None:
        deadline_s = time.monotonic() + 90
        while len(records(bench, "epoch")) < epochs:
            assert process.poll() is None, process.communicate()[1].decode()[-2000:]
            assert time.monotonic() < deadline_s, "nothing happens"
            time.sleep(0.05)

    process = started()
    for victim in ("worker", "orchestrator", "node"):
        wait_for(len(records(bench, "epoch")) + 5)
        if victim == "worker":
            for each in workers(bench.folder):
                each.kill()
        elif victim == "orchestrator":
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = started()
        else:
            cluster.remove_node(nodes("e"), allow_graceful=False)
            nodes("f")
    error = process.communicate(timeout=200)[1]
    assert process.returncode == 0, error.decode()[-2000:]
    check_whole(bench)
    assert not workers(bench.folder)


def workers(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        told = process.info
        if told["cwd"] == str(folder) and "hpo.worker" in (told["cmdline"] or ()):
            found.append(process)
    return found


@slow
def test_more_than_any_node_has_is_said(
    bench: Workbench, cluster: Any, nodes: Callable[[str], Any]
) -> None:
    nodes("g")
    executor = open_executor("ray", {"address": cluster.address, "cpus_per_trial": 64})
    try:
        problem = executor.slots(bench.load(), lambda _: None)
        assert isinstance(problem, Problem)
        assert "64 CPU" in problem.message
    finally:
        executor.close()


# -- without a cluster


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(HpoError, match="no Ray cluster answers at .*:1 "):
        open_executor("ray", {"address": "127.0.0.1:1"})


def test_a_cluster_that_asks_for_no_token_is_refused() -> None:
    import grpc

    class Anybody(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Anybody()])
    port = server.add_insecure_port("0.0.0.0:0")  # Ray asks at the address of the machine
    server.start()
    try:
        with pytest.raises(UserError, match="RAY_AUTH_MODE=token"):
            open_executor("ray", {"address": f"127.0.0.1:{port}"})
    finally:
        server.stop(None)


def test_ray_s_client_and_a_missing_ray_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="on a node of the cluster"):
        open_executor("ray", {"address": "ray://head:10001"})
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'hpo\[ray\]'"):
        open_executor("ray")


def test_what_a_node_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # which the check leaves for the folder
    mark = tmp_path / "mark"
    mark.touch()
    same = Here(str(tmp_path), str(mark), _versions(), code=False)
    assert _difference(same) is None
    others = {
        "it has torch .* (here 1.0)": same.versions | {"torch": "1.0"},
        "it has hpo .* (here another)": same.versions | {"hpo": "another"},
    }
    for expected, versions in others.items():
        refused = _difference(Here(same.folder, same.mark, versions, code=False))
        assert refused is not None
        assert expected.split(" .* ")[0] in refused.message
        assert expected.split(" .* ")[1] in refused.message
    refused = _difference(Here(str(tmp_path / "none"), same.mark, same.versions, code=False))
    assert refused is not None
    assert "it has no folder" in refused.message
    os.unlink(mark)
    refused = _difference(same)
    assert refused is not None
    assert "is another folder than here" in refused.message


@pytest.mark.parametrize(
    ("executor", "says"),
    [
        ("rai", "did you mean 'ray'"),
        ({"name": "ray", "adress": "auto"}, "did you mean 'address'"),
        ({"name": "ray", "cpus_per_trial": 0}, "executor.cpus_per_trial"),
        ({"name": "ray", "resources": {"spot": 0}}, "executor.resources.spot"),
        ({"name": "inline", "address": "auto"}, "executor.address"),
    ],
)
def test_mistakes_in_the_study_file_are_found(bench: Workbench, executor: Any, says: str) -> None:
    with pytest.raises(StudyFileError, match=says):
        bench.load(executor=executor)


def test_the_executor_is_written_with_its_options(bench: Workbench) -> None:
    options = {"cpus_per_trial": 2, "resources": {"spot": 1.0}}
    study = bench.load(executor={"name": "ray", **options})
    again = spec.loads(study.resolved().encode(), bench.file, recorded=True)
    assert again.executor == study.executor == Named(name="ray", options=options)


class Machine(InlineExecutor):
    """A machine that goes once its first trial has an epoch: with a warning, or without."""

    def __init__(self, warns: bool) -> None:
        super().__init__()
        self.warns, self.goes = warns, True

    def wait(self, timeout_s: float) -> list[Event]:
        events = list(super().wait(timeout_s))
        if self.goes and any(isinstance(event.message, Round) for event in events):
            self.goes = False
            if self.warns:
                return [*events, Event(0, Leaving("its machine is about to go"))]
            self.kill(0)
            return [Event(0, Gone("its machine was lost", of_machine=True))]
        return events


@pytest.mark.parametrize("warns", [True, False])
def test_a_machine_that_goes_takes_no_retry_and_loses_no_epoch(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, warns: bool
) -> None:
    monkeypatch.setattr("hpo.launch.open_executor", lambda *_: Machine(warns))
    bench.run(retries=0, budget__trials=2, train__epochs=3, train__seconds=0.05)
    check_whole(bench, trials=2, epochs=3)
    attempts = [(r["number"], r["attempt"], r["crashes"]) for r in bench.records("trial")]
    assert attempts == [(0, 1, 0), (0, 2, 0), (1, 1, 0)]
    said = "about to go" if warns else "was lost; it goes on from epoch 0"
    assert any(said in line for line in bench.said)


class OneCannotStart(InlineExecutor):
    """A second worker, which is refused."""

    def slots(self, spec: StudySpec, say: Callable[[str], None]) -> list[Slot] | Problem:
        return [Slot("cpu", None, 1.0, 1)] * 2

    def start(self, setup: Setup) -> None:
        if setup.worker == 0:
            super().start(setup)
        else:
            self.told: list[Event] = [Event(1, Refused("executor", "node b: it has torch 1"))]

    def send(self, worker: int, message: Any) -> None:
        if worker == 0:
            super().send(worker, message)

    def wait(self, timeout_s: float) -> list[Event]:
        events = list(super().wait(timeout_s))
        if not any(isinstance(event.message, Round) for event in events):
            return events  # the study does not run yet
        told, self.told = self.told, []
        return [*events, *told]

    def kill(self, worker: int) -> None:
        if worker == 0:
            super().kill(worker)


def test_a_node_that_differs_is_named_and_done_without(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = OneCannotStart()
    executor.told = []
    monkeypatch.setattr("hpo.launch.open_executor", lambda *_: executor)
    bench.run(budget__trials=2, train__epochs=2)
    check_whole(bench, trials=2, epochs=2)
    expected = "worker 1 cannot start: node b: it has torch 1; the study goes on without it"
    assert expected in bench.said
