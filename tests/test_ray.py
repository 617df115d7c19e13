"""Studies on a Ray cluster: nodes that are lost, that are about to go and that are added."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray_cluster
from command import hpo
from ray_cluster import ONE, check_whole, run_until
from workbench import Workbench

from hpo import launch, spec
from hpo.devices import Slot
from hpo.errors import HpoError, Problem, StudyFileError, UserError
from hpo.executors import Event, Gone, Leaving, open_executor
from hpo.executors.inline import InlineExecutor
from hpo.executors.processes import ProcessExecutor
from hpo.executors.ray import MOST_CHECKS, _lost
from hpo.executors.ray_head import copy_code
from hpo.executors.ray_place import Here, Place, Unchecked, difference, versions
from hpo.messages import Loading, Refused, Round, Setup
from hpo.seats import MOST_DEATHS
from hpo.spec import Named, StudySpec

pytestmark = pytest.mark.usefixtures("in_its_folder")

slow = pytest.mark.slow  # nodes, and workers, which import torch
QUICKSTART = Path(__file__).parents[1] / "studies" / "quickstart.yaml"


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
            cluster.remove_node(each)  # it says that it goes: one that is killed has to be missed
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


@slow
def test_trials_of_a_lost_node_go_on_where_there_is_room(
    bench: Workbench, cluster: Any, nodes: Callable[[str], Any]
) -> None:
    lost = nodes("a")
    for name in ("cmd", "queue"):  # what Ray itself imports; the user's are no business of its
        (bench.folder / f"{name}.py").write_text(
            "raise SystemExit('not the one that was meant')\n"
        )
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
    # No trial was. (The place that waited for room may be, with the node that was about to go.)
    assert not [line for line in bench.said if line.startswith("trial") and "was lost" in line]
    assert bench.records("trial")[-1]["node"] == "d"


@slow
def test_why_no_worker_begins_is_said(
    bench: Workbench, cluster: Any, nodes: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    class Busy:
        def is_there(self) -> bool:
            return True

    nodes("full")
    monkeypatch.setattr("hpo.executors.ray.ROOM_S", 3.0)  # its nodes are looked at each second
    executor = open_executor("ray", {"address": cluster.address})
    try:
        busy = ray.remote(num_cpus=1)(Busy).remote()
        assert ray.get(busy.is_there.remote(), timeout=60)
        executor.start(
            Setup(0, "curve:train", bench.folder, {}, [], bench.folder, "cpu", None, 1, 1)
        )
        events: list[Event] = []
        while not events:
            events += executor.wait(1.0)
    finally:
        executor.close()
    text = "a worker takes 1 CPU, which no node has free now (`ray status`)"
    assert events == [Event(0, Loading(f"waiting for room on the Ray cluster: {text}"))]


@slow
def test_more_than_any_node_has_is_said(bench: Workbench, cluster: Any) -> None:
    executor = open_executor("ray", {"address": cluster.address, "cpus_per_trial": 64})
    try:
        problem = executor.slots(bench.load(), lambda _: None)
        assert isinstance(problem, Problem)
        assert "64 CPU" in problem.message
    finally:
        executor.close()


@slow
def test_a_node_that_cannot_be_checked_is_tried_again_and_then_refused(
    bench: Workbench, cluster: Any, nodes: Callable[[str], Any]
) -> None:
    nodes("h")
    executor = open_executor("ray", {"address": cluster.address})
    mark = bench.folder / "mark"
    mark.touch()
    executor._here = Here("\0", str(mark), versions(), code=False)  # no such path can be
    setup = Setup(0, "told:train", bench.folder, {}, [], bench.folder, "cpu", None, 1, 1.0)
    said: list[Any] = []
    try:
        for _ in range(MOST_CHECKS):
            executor.start(setup)
            (event,) = executor.wait(30)
            said.append(event.message)
    finally:
        executor.close()
    *gone, refused = said
    assert [each.of_machine for each in gone] == [True] * (MOST_CHECKS - 1)
    assert isinstance(refused, Refused)
    assert refused.message.startswith("node h: it cannot be checked: ValueError")


# -- without a cluster


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(HpoError, match="no Ray cluster answers at .*:1 "):
        open_executor("ray", {"address": "127.0.0.1:1"})


@pytest.mark.parametrize(
    ("asks", "says"),
    [(False, r"Start it anew with RAY_AUTH_MODE=token"), (True, "asks for another token")],
)
def test_a_cluster_that_asks_for_no_token_or_another_is_refused(asks: bool, says: str) -> None:
    import grpc

    def answer(request: bytes, context: Any) -> bytes:
        if asks:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "not this one")
        return b""

    class Head(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Head()])
    port = server.add_insecure_port("0.0.0.0:0")  # Ray asks at the address of the machine
    server.start()
    try:
        with pytest.raises(UserError, match=says):
            open_executor("ray", {"address": f"127.0.0.1:{port}"})
    finally:
        server.stop(None)


def test_only_python_files_travel(tmp_path: Path) -> None:
    code, brought = tmp_path / "code", tmp_path / "brought"
    travel = {"told.py", "mine/net.py", "mine/studies/a.py"}
    stay = {
        "id_rsa", "Makefile", "told.pyc", "rows.csv", "mine/LICENSE", ".secret.py", ".git/hook.py",
        "studies/s/a.py", "mlruns/a.py", "env/pyvenv.cfg", "env/lib/a.py",
        "conda/conda-meta/history", "conda/a.py",
    }  # fmt: skip
    for name in travel | stay:
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(name)
    copy_code(code, brought)
    found = {str(file.relative_to(brought)) for file in brought.rglob("*") if file.is_file()}
    assert found == travel


def test_code_travels_for_a_metric_of_one_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    brought: list[Path | None] = []
    monkeypatch.setattr("hpo.launch.open_executor", lambda *given: brought.append(given[2]))
    for metrics in (["f1"], ["f1", "own:mine"]):
        launch._open_executor(spec.load(QUICKSTART, {"train.metrics": metrics}))
    assert brought == [None, QUICKSTART.parent]


@slow
def test_looking_at_a_file_connects_to_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would get the token of who looks, and what it answers is unpickled."""
    monkeypatch.setattr("hpo.executors.processes.ProcessExecutor", InlineExecutor)  # quick
    arguments = ("validate", QUICKSTART, "--set", "executor={name: ray, address: '127.0.0.1:1'}")
    looked = hpo(*arguments, "--json")
    assert looked.code == 0, looked.err
    assert looked.json["data"]["rows"] > 0
    assert looked.json["not_imported"] == ["executor: ray"]
    assert "no Ray cluster answers" in hpo(*arguments, "--import").err


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
    same = Here(str(tmp_path), str(mark), versions(), code=False)
    assert difference(same) is None
    others = {
        "it has torch .* (here 1.0)": same.versions | {"torch": "1.0"},
        "it has hpo .* (here another)": same.versions | {"hpo": "another"},
    }
    for expected, found in others.items():
        refused = difference(Here(same.folder, same.mark, found, code=False))
        assert refused is not None
        assert expected.split(" .* ")[0] in refused.message
        assert expected.split(" .* ")[1] in refused.message
    refused = difference(Here(str(tmp_path / "none"), same.mark, same.versions, code=False))
    assert refused is not None
    assert "it has no folder" in refused.message
    os.unlink(mark)
    refused = difference(same)
    assert refused is not None
    assert "is another folder than here" in refused.message


def test_a_package_that_a_node_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here(os.getcwd(), "mark", versions(), code=False)
    monkeypatch.setattr("hpo.executors.ray_place.COMPARED", ("torch", "no-such-package"))
    assert versions()["no-such-package"] is None
    refused = difference(replace(here, versions={"no-such-package": "1.0"}))
    assert refused is not None
    assert refused.message == "it has no no-such-package (here 1.0)"


def test_what_fails_in_a_place_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for what `compare` and `start` return or raise."""
    import ray

    monkeypatch.chdir(tmp_path)
    context = SimpleNamespace(get_node_id=lambda: "a")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    here = Here(str(tmp_path), str(tmp_path), versions(), code=False)

    place = Place()
    place.compare(replace(here, folder="\0"))
    with pytest.raises(Unchecked, match="ValueError"):
        place.hear()
    place = Place()
    place.compare(here)
    monkeypatch.setattr(ProcessExecutor, "command", (str(tmp_path / "no-python"),))
    place.start(Setup(0, "told:train", tmp_path, {}, [], tmp_path, "cpu", None, 1, 1.0))
    assert "no worker can be started there: FileNotFoundError" in refusal(place)


def refusal(place: Place) -> str:
    (refused,) = place.hear()[1]
    assert isinstance(refused, Refused)
    return refused.message


def test_whose_fault_a_lost_place_is() -> None:
    from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

    # Ray 2.60's texts.
    guesses = "(1) The process is killed by SIGKILL by OOM killer due to high memory usage."
    full = "1 worker(s) were killed due to the node running low on memory."
    gone = RayActorError("id", f"The actor died unexpectedly. {guesses}")
    for node in ("a", None):
        assert _lost(0, node, gone).of_machine
        assert _lost(0, node, ActorDiedError()).of_machine
        assert not _lost(0, node, RayActorError("id", full)).of_machine
        assert not _lost(0, node, OutOfMemoryError("full")).of_machine
    assert not _lost(0, None, RayActorError("id", "no hpo", actor_init_failed=True)).of_machine
    assert not _lost(0, None, ImportError("no hpo")).of_machine


@pytest.mark.parametrize(
    ("executor", "says"),
    [
        ("rai", "did you mean 'ray'"),
        ({"name": "ray", "adress": "auto"}, "did you mean 'address'"),
        ({"name": "ray", "cpus_per_trial": 0}, "executor.cpus_per_trial"),
        ({"name": "ray", "resources": {"spot": 1e-5}}, "executor.resources.spot"),
        ({"name": "ray", "resources": {"CPU": 1}}, "cpus_per_trial.* says how many"),
        ({"name": "ray", "resources": {"memory": 1e6}}, "memory is Ray's own"),
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

    told: Sequence[Event] = ()

    def slots(self, spec: StudySpec, say: Callable[[str], None]) -> list[Slot] | Problem:
        return [Slot("cpu", None, 1.0, 1)] * 2

    def start(self, setup: Setup) -> None:
        if setup.worker == 0:
            super().start(setup)
        else:
            self.told = [Event(1, Refused("executor", "node b: it has torch 1"))]

    def send(self, worker: int, message: Any) -> None:
        if worker == 0:
            super().send(worker, message)

    def wait(self, timeout_s: float) -> list[Event]:
        events = list(super().wait(timeout_s))
        if not any(isinstance(event.message, Round) for event in events):
            return events  # the study does not run yet
        told, self.told = self.told, ()
        return [*events, *told]

    def kill(self, worker: int) -> None:
        if worker == 0:
            super().kill(worker)


class OneRestartsThen(OneCannotStart):
    """The second is refused while the first is being started anew."""

    def wait(self, timeout_s: float) -> list[Event]:
        events = super().wait(timeout_s)
        if any(isinstance(event.message, Refused) for event in events):
            self.kill(0)
            return [Event(0, Gone("its machine was lost", of_machine=True)), events[-1]]
        return events


class ManyMachinesGo(InlineExecutor):
    """They are lost before a worker there is ready, more often than a worker may die."""

    losses = MOST_DEATHS + 1

    def start(self, setup: Setup) -> None:
        if not self.losses:
            super().start(setup)

    def wait(self, timeout_s: float) -> list[Event]:
        if not self.losses:
            return list(super().wait(timeout_s))
        self.losses -= 1
        return [Event(0, Gone("its machine was lost", of_machine=True))]


def test_machines_that_go_before_a_worker_is_ready_are_no_deaths(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.launch.open_executor", lambda *_: ManyMachinesGo())
    bench.run(budget__trials=1, train__epochs=2)
    check_whole(bench, trials=1, epochs=2)
    assert "worker 0: its machine was lost; it is started anew" in bench.said


@pytest.mark.parametrize("kind", [OneCannotStart, OneRestartsThen])
def test_a_node_that_differs_is_named_and_done_without(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, kind: type[OneCannotStart]
) -> None:
    executor = kind()
    monkeypatch.setattr("hpo.launch.open_executor", lambda *_: executor)
    bench.run(budget__trials=2, train__epochs=2)
    check_whole(bench, trials=2, epochs=2)
    expected = "worker 1 cannot start: node b: it has torch 1; the study goes on without it"
    assert expected in bench.said
