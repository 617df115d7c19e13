"""The same studies on a Ray cluster of several nodes, in PostgreSQL; what is killed there."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import postgres
import psutil
import ray_cluster

NODES = 2  # of one CPU, so of one worker, each


@dataclass
class OnRay:
    """What a campaign on a cluster has more than one on this machine.

    Attributes:
        address: Of the database that all its studies are in.
        kills: What is killed, and how often of a hundred times. A ``place`` is the actor of a
            worker.
    """

    cluster: Any
    server: postgres.Server
    address: str
    kills: Mapping[str, int]

    @property
    def settings(self) -> str:
        """Lines of a study file."""
        return (
            f"executor: {{name: ray, address: '{self.cluster.address}'}}\n"
            f"storage: {self.address}\n"
        )

    def victims(
        self, orchestrator: subprocess.Popen[bytes], wanted: str, which: float
    ) -> list[psutil.Process]:
        """The processes to be killed or paused; `which` in [0, 1) chooses among several."""
        workers, places = _running("hpo.worker"), _running("ray::Place")
        found = [psutil.Process(orchestrator.pid)]
        if wanted == "all":
            return found + workers
        if wanted == "orchestrator":
            return found
        if wanted == "pause":
            raylets = _running("raylet/raylet")
            found += workers + places + raylets
        else:
            found = {
                "worker": workers,
                "place": places,
                "shipper": _running("hpo.tracking.mlflow"),
            }[wanted]
        return [found[int(which * len(found))]] if found else []

    def replace_a_node(self, which: float) -> None:
        """A node is lost, with all that runs there; another is added."""
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
        self.cluster.remove_node(nodes[int(which * len(nodes))], allow_graceful=False)
        self.cluster.add_node(**ray_cluster.NODE | {"num_cpus": 1})

    def restart_postgresql(self, away_s: float) -> None:
        self.server.crash()
        time.sleep(away_s)
        self.server.start()

    @staticmethod
    def left() -> list[str]:
        """What still runs of studies. The cluster itself does."""
        names = ("hpo.cli", "hpo.worker", "hpo.tracking.mlflow", "ray::Place")
        return [f"{each.name()} {each.pid}" for name in names for each in _running(name)]


@contextlib.contextmanager
def running() -> Iterator[OnRay]:
    kills = {"worker": 35, "place": 10, "node": 15, "orchestrator": 20, "all": 5}
    kills |= {"postgresql": 10, "shipper": 3, "pause": 2}
    with postgres.server() as server, ray_cluster.running(num_cpus=0) as cluster:
        for _ in range(NODES):
            cluster.add_node(**ray_cluster.NODE | {"num_cpus": 1})
        yield OnRay(cluster, server, server.new_database(), kills)


def _running(name: str) -> list[psutil.Process]:
    """Of this process's family, by a word that its command line has."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if any(word.endswith(name) or word.startswith(name) for word in process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)
