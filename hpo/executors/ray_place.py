"""What runs on a node of a Ray cluster: a worker's place, and the check that it can work there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpo.executors import Gone, Leaving
from hpo.executors.processes import ProcessExecutor
from hpo.executors.ray_head import CODE
from hpo.messages import FromWorker, Refused, Setup

POLL_S = 1.0  # how often is looked where a worker was started
END_S = 0.5  # a place that was closed ends after so long
COMPARED = ("torch", "torchvision", "numpy", "optuna")  # Ray compares itself and Python
SHARED = "the folder that the study is run in has to be on all nodes, at the same path"


@dataclass(frozen=True)
class Here:
    """What a node must have in common with the process that runs the study.

    Attributes:
        folder: The current one there, which a worker is started in.
        mark: A file that was written there, absolute.
        versions: Package → version, None where it is missing; of hpo the sha256 of its files.
        code: Whether Ray brings the user's own code.
    """

    folder: str
    mark: str
    versions: Mapping[str, str | None]
    code: bool


class Unchecked(Exception):
    """Whether workers can run on a node could not be found out: its id, and why."""


class Place:
    """The actor: a worker's place on a node.

    Its two groups of methods run in a thread each, in the order in which they were called.
    """

    def __init__(self) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()
        self._processes = ProcessExecutor()
        self._code: Path | None = None
        self._refused: Refused | None = None
        self._unchecked: Unchecked | None = None
        self._number = 0

    def compare(self, here: Here) -> None:
        """Whether workers can run on this node, before any of their messages is read."""
        try:
            self._code = Path.cwd() / CODE if here.code else None
            self._refused = difference(here)
        except Exception as error:  # nobody waits for what this returns or raises
            self._unchecked = Unchecked(self._node, repr(error))

    def start(self, setup: Setup) -> None:
        if self._refused is not None or self._unchecked is not None:  # which `hear` says
            return
        folder = self._code or setup.folder
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES") if setup.device == "cuda" else None
        self._number = setup.worker
        try:
            self._processes.start(replace(setup, folder=folder, gpu=gpu))
        except Exception as error:
            self._refused = Refused("executor", f"no worker can be started there: {error!r}")

    def tell(self, message: Any) -> None:
        with contextlib.suppress(KeyError):  # it ends at this moment, which `hear` will say
            self._processes.send(self._number, message)

    def close(self) -> None:
        try:
            self._processes.close()
        finally:
            # Once this has returned, for a head that is lost cannot have it ended.
            threading.Timer(END_S, os._exit, [0]).start()

    def hear(self) -> tuple[str, list[FromWorker | Gone | Leaving]]:
        """The node's id, and what the worker sent since the last call; waits for it.

        Raises:
            Unchecked: No worker was started.
        """
        while True:
            if self._unchecked is not None:
                raise self._unchecked
            if self._refused is not None:
                return self._node, [self._refused]
            heard = [event.message for event in self._processes.wait(POLL_S)]
            if heard:
                return self._node, heard


def here(cache: Path, code: bool) -> Here:
    cache.mkdir(parents=True, exist_ok=True)
    mark = cache.absolute() / f".seen-{uuid.uuid4().hex[:8]}"
    mark.touch()
    return Here(os.getcwd(), str(mark), versions(), code)


def versions() -> dict[str, str | None]:
    files = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for package in ("hpo", "trainers"):
        for file in sorted((root / package).rglob("*.py")):
            files.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    found: dict[str, str | None] = {"hpo": files.hexdigest()[:8]}
    for package in COMPARED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def difference(here: Here) -> Refused | None:
    """Why a worker cannot run on this node."""
    own = versions()
    differing = [
        f"{package} {own[package]} (here {version})"
        if own.get(package)
        else f"no {package} (here {version})"
        for package, version in here.versions.items()
        if own.get(package) != version
    ]
    if differing:
        return Refused(
            "executor", f"it has {', '.join(differing)}", "install the same versions on all nodes"
        )
    try:
        os.chdir(here.folder)
    except OSError:
        return Refused("executor", f"it has no folder {here.folder}", SHARED)
    if not os.path.exists(here.mark):
        return Refused("executor", f"its {here.folder} is another folder than here", SHARED)
    return None
