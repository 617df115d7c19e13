"""A Ray cluster on this machine: each node a raylet of its own, as `ray start` begins one; and
studies on it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from workbench import Workbench

NODE = {"num_cpus": 2, "object_store_memory": 80 * 1024**2}
ONE = NODE | {"num_cpus": 1}


@contextlib.contextmanager
def running(**head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` that asks for a token, which this process has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "a" * 40)
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray._raylet import Config
        from ray.cluster_utils import Cluster

        Config.initialize("")  # what was read before, if Ray was imported already
        options = NODE | {"node_name": "head", "include_dashboard": False} | head
        cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=options)
        try:
            yield cluster
        finally:
            cluster.shutdown()


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


def workers(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        told = process.info
        if told["cwd"] == str(folder) and "hpo.worker" in (told["cmdline"] or ()):
            found.append(process)
    return found
