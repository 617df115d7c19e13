"""A Ray cluster whose head is lost, or whose network is, while a study runs there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgres
import psutil
import pytest
import ray_cluster
from ray_cluster import ONE, check_whole, records, run_until, workers
from workbench import Workbench

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tables_made", "in_its_folder")]

HEAD, NODE = "10.213.7.1", "10.213.7.2"  # the two ends of a cable
# So long, instead of most of a minute, a node may be silent.
IMPATIENT = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500}
IMPATIENT |= {"health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}

# As `workbench.TRAINER`; but the first attempt of trial 0 pauses before its fourth epoch until
# `wakes` is there. What becomes of it then is in `refused`, or in `wrote`.
CUT_OFF = """
import time
from pathlib import Path

import hpo.rounds
from hpo.claims import Superseded

hpo.rounds.CHECKPOINT_AFTER_S, hpo.rounds.CHECKPOINT_SHARE = 0.0, float("inf")

def train(trial):
    options, state = trial.params["train"], trial.resume()
    folder = Path(options["folder"])
    for epoch in range(1 if state is None else state["epoch"] + 1, options["epochs"] + 1):
        time.sleep(options["seconds"])
        waited = trial.number == 0 and epoch == 4 and not (folder / "waits").exists()
        if waited:
            (folder / "waits").touch()
            while not (folder / "wakes").exists():
                time.sleep(0.02)
        quality = 1 - (options["x"] - 0.3) ** 2 - 0.01 * abs(epoch - options["epochs"] / 2)
        trial.save({"epoch": epoch})
        try:
            trial.report(epoch, {"quality": quality})
        except Superseded as error:
            (folder / "refused").write_text(str(error))
            raise
        if waited:
            (folder / "wrote").touch()
"""


def test_row_2_row_5_row_6_row_7_row_20_on_a_cluster_in_postgresql(
    bench: Workbench, database_server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it is ready, frozen, and stopped in every way, in one study after another."""
    died = bench.folder / "died"
    monkeypatch.setenv("HPO_FAULT", f"loaded:1:{died}")  # which workers take from their node
    with ray_cluster.running(num_cpus=1) as cluster:
        bench.file.write_text(
            bench.file.read_text().replace(
                "inline", f"{{name: ray, address: '{cluster.address}'}}"
            )
            + f"storage: {database_server.new_database()}\nretries: 0\n"
        )
        command = [sys.executable, "-m", "hpo.cli", "run", str(bench.file)]
        for told in (
            *("train.seconds=0.1", "train.epochs=20", "budget.trials=3"),
            *('train.at={"1:3": "hang once"}', f"train.folder={bench.folder}"),
        ):
            command += ["--set", told]

        def ended_by(signals: Callable[[subprocess.Popen[str]], None]) -> int:
            begun = len(records(bench, "epoch"))
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            wait_for(lambda: len(records(bench, "epoch")) > begun)
            signals(process)
            error = process.communicate(timeout=90)[1]
            assert "Traceback" not in error
            wait_for(lambda: workers(bench.folder) == [], timeout_s=10)
            return process.returncode

        def twice(process: subprocess.Popen[str]) -> None:
            wait_for((bench.folder / "told-1-3").exists)
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            assert process.poll() is None  # it waits for the epoch's end
            process.send_signal(signal.SIGINT)

        def frozen(process: subprocess.Popen[str]) -> None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(1)
            process.send_signal(signal.SIGCONT)
            begun = len(records(bench, "epoch"))
            wait_for(lambda: len(records(bench, "epoch")) > begun)
            process.send_signal(signal.SIGTERM)

        assert ended_by(lambda process: process.send_signal(signal.SIGINT)) == 130
        assert died.exists()
        assert ended_by(twice) == 130
        assert ended_by(frozen) == 143
        assert ended_by(lambda _: None) == 0
    check_whole(bench, trials=3, epochs=20)
    assert [r["crashes"] for r in bench.records("trial")] == [0] * len(bench.records("trial"))


def test_row_28_a_head_that_is_started_anew_ends_the_study_and_the_same_command_goes_on(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.file.write_text(bench.file.read_text().replace("inline", "ray") + "retries: 0\n")
    command = [sys.executable, "-m", "hpo.cli", "run", str(bench.file)]
    for told in ("train.seconds=0.2", "train.epochs=8", "budget.trials=3"):
        command += ["--set", told]

    def started(cluster: Any) -> subprocess.Popen[str]:
        cluster.add_node(node_name="a", **ONE)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    with ray_cluster.running(num_cpus=0) as cluster:
        process = started(cluster)
        wait_for(lambda: len(records(bench, "epoch")) >= 3)
        cluster.head_node.kill_gcs_server(check_alive=False)
        time.sleep(2)
        cluster.head_node.start_gcs_server()
        error = process.communicate(timeout=30)[1]
        assert process.returncode == 1
        assert "Traceback" not in error
        *_, said, what_to_do = error.strip().splitlines()
        assert said.endswith("was started anew and knows nothing of its nodes")
        assert what_to_do.endswith("run the same command: it goes on from here.")
        assert workers(bench.folder) == []
        acknowledged = len(records(bench, "epoch"))

    with ray_cluster.running(num_cpus=0) as cluster:
        process = started(cluster)
        error = process.communicate(timeout=90)[1]
        assert process.returncode == 0, error
    check_whole(bench, trials=3)
    assert acknowledged < 3 * 8


def test_row_28_a_head_that_is_frozen_ends_the_study(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ray_cluster.running(num_cpus=1) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        bench.file.write_text(bench.file.read_text().replace("inline", "ray"))
        process = hurried(bench, "train.seconds=0.2", "train.epochs=99")
        wait_for(lambda: len(records(bench, "epoch")) >= 3)
        (head,) = cluster.head_node.all_processes["gcs_server"]
        head.process.send_signal(signal.SIGSTOP)
        try:
            error = process.communicate(timeout=60)[1]
        finally:
            head.process.send_signal(signal.SIGCONT)
        assert process.returncode == 1
        assert "Traceback" not in error
        assert error.strip().splitlines()[-2].endswith("has not answered for 3 s")
        wait_for(lambda: workers(bench.folder) == [], timeout_s=10)


HURRIED = """
from hpo import cli
from hpo.executors import ray, ray_head

ray.POLL_S, ray_head.ANSWER_S, ray.HEAD_AWAY_S = 0.2, 0.5, 3.0
cli.main()
"""


def hurried(bench: Workbench, *told: str) -> subprocess.Popen[str]:
    """`hpo run`, which waits for less than most of a minute for its cluster's head."""
    command = [sys.executable, "-c", HURRIED, "run", str(bench.file)]
    for each in told:
        command += ["--set", each]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, "nothing happens"
        time.sleep(0.05)


@contextlib.contextmanager
def network() -> Iterator[str]:
    """A network namespace, with a cable to the one that tests run in; its name."""
    name = f"hpo-{os.getpid()}"
    cable = f"hpo{os.getpid() % 100_000}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespace can be made here")
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "cable", "netns", name)
        ip("addr", "add", f"{HEAD}/30", "dev", cable)
        ip("link", "set", cable, "up")
        for told in (("addr", "add", f"{NODE}/30", "dev", "cable"), ("link", "set", "lo", "up")):
            ip("-n", name, *told)
        ip("-n", name, "link", "set", "cable", "up")
        yield name
    finally:
        ip("netns", "del", name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def node_in(network: str, cluster: Any) -> Iterator[psutil.Process]:
    """A node there, named ``far``: the process that has all of its processes."""
    ray = Path(sys.executable).with_name("ray")
    command = ["ip", "netns", "exec", network, str(ray), "start"]
    command += [f"--address={cluster.address}", f"--node-ip-address={NODE}"]
    command += ["--node-name=far", "--num-cpus=1", "--block"]
    command += [f"--object-store-memory={ONE['object_store_memory']}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(
            lambda: any(each["NodeName"] == "far" for each in cluster.global_state.node_table())
        )
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_row_27_a_node_that_was_cut_off_writes_nothing_more_of_what_goes_on_elsewhere(
    bench: Workbench,
) -> None:
    (bench.folder / "cut_off.py").write_text(CUT_OFF)
    away_s = float(os.environ.get("HPO_TEST_AWAY_S", "0"))  # longer, by hand
    with (
        network() as far,
        ray_cluster.running(num_cpus=0, node_ip_address=HEAD, _system_config=IMPATIENT) as cluster,
        node_in(far, cluster) as node,
    ):
        study = {
            "executor": {"name": "ray", "address": cluster.address},
            "trainer": "cut_off:train",
            "budget__trials": 2,
            "train__epochs": 8,
            "train__seconds": 0.1,
            "train__folder": str(bench.folder),
            "retries": 0,
        }
        with run_until(bench, "far", 3, **study):
            wait_for((bench.folder / "waits").exists)
            time.sleep(0.5)  # until it has its answer: one that waits for it writes nothing anyway
            began_s = time.monotonic()
            ip("-n", far, "link", "set", "cable", "down")
            cluster.add_node(node_name="near", **ONE)
            wait_for(lambda: any(r["node"] == "near" for r in records(bench, "trial")))
            (cut_off,) = [each for each in workers(bench.folder) if node in each.parents()]
            (bench.folder / "wakes").touch()
            wait_for((bench.folder / "refused").exists)
            time.sleep(max(0.0, away_s - (time.monotonic() - began_s)))
            ip("-n", far, "link", "set", "cable", "up")
        check_whole(bench, trials=2)
        wait_for(lambda: not cut_off.is_running(), timeout_s=90)
    assert "attempt 2" in (bench.folder / "refused").read_text()
    assert not (bench.folder / "wrote").exists()
    assert any("place on node far was lost" in line for line in bench.said)
    again = [r for r in bench.records("trial") if r["attempt"] == 2]
    assert [(r["node"], r["crashes"]) for r in again] == [("near", 0)]
