"""Tracking: the outbox, and the process that ships it to MLflow.

This module is light: MLflow takes two seconds to import, so it is imported only in the shipping
process, which `Shipper` starts.

MLflow is a replica. When it is down, trials go on; `Shipper.finish` says how many records it
lacks, and a later `sync` ships them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.paths import Home, StudyPaths
from hpo.tracking import outbox

__all__ = [
    "Compared",
    "Shipped",
    "Shipper",
    "pending",
    "shipped_ensembles",
    "shipped_runs",
    "sync",
]

# Read by MLflow when it is imported. Trying again is for the shipping process, which does so
# without blocking and looks for what the failed try may have done.
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
# Where the user has not set another. A server that takes half a minute for an answer is not away.
MLFLOW_DEFAULTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


@dataclass(frozen=True)
class Compared:
    """What came out when MLflow was compared with what is on record (`hpo.tracking.verify`).

    Attributes:
        runs: Runs that were compared.
        values: Values that were: parameters, tags, points of metrics, states, times, files.
        different: How many of them differ, or are missing or too many in MLflow.
        differences: The first of these, in words.
        gone: Files that could not be compared, for they are gone from the study's folder.
    """

    runs: int
    values: int
    different: int
    differences: Sequence[str]
    gone: int


@dataclass(frozen=True)
class Shipped:
    """How far MLflow has been fed.

    Attributes:
        pending: Records that MLflow lacks.
        error: Why they could not be shipped (without credentials), or None.
        compared: What a comparison found, if one was asked for and made.
    """

    pending: int
    error: str | None = None
    compared: Compared | None = None


class Shipper:
    """The process that follows a study's outbox and feeds MLflow.

    It starts by importing MLflow, which takes two seconds, so make it while workers start; it does
    nothing before `follow`. It ends by itself when this process does.
    """

    def __init__(self) -> None:
        self._paths: StudyPaths | None = None
        self._process = subprocess.Popen(
            # -P: a module in the current folder must not pass for one of Python's or hpo's.
            [sys.executable, "-P", "-m", "hpo.tracking.mlflow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it has a log of its own once it knows the study
            env=MLFLOW_DEFAULTS | os.environ | MLFLOW_SETTINGS,
            start_new_session=True,  # Ctrl-C is for the orchestrator; this one drains and ends
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def follow(self, paths: StudyPaths, home: Home, uri: str, *, verify: bool = False) -> None:
        """Feed MLflow from the study's outbox from now on.

        Args:
            paths: The study's files. Its outbox need not exist yet.
            home: Where the embedded store lies.
            uri: MLflow's tracking URI; `Home.tracking_uri` is the embedded store.
            verify: Whether to compare what is there at the end.
        """
        self._paths = paths
        paths.root.mkdir(parents=True, exist_ok=True)
        # Over the pipe: a command line is visible to everyone, and the URI may hold a password.
        order = {
            "study": str(paths.root.resolve()),
            "home": str(home.root.resolve()),
            "uri": uri,
            "verify": verify,
        }
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: `finish` will say so
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def finish(self, timeout_s: float | None) -> Shipped:
        """Let the process ship what is left, and wait for its end.

        When MLflow cannot be reached it gives up after one try. After `timeout_s` (None: never)
        the process is ended; what it shipped by then counts.
        """
        assert self._paths is not None, "`follow` comes first"
        try:
            output, _ = self._process.communicate(timeout=timeout_s)  # closes its stdin
        except subprocess.TimeoutExpired:
            self.close()
            return Shipped(pending(self._paths), f"not done after {timeout_s:g} s")
        try:
            answer = json.loads(output)
            compared = answer["compared"] and Compared(**answer["compared"])
            return Shipped(answer["pending"], answer["error"], compared)
        except (ValueError, KeyError):
            error = f"the shipping process ended early; see {self._paths.ship_log}"
            return Shipped(pending(self._paths), error)

    def close(self) -> None:
        """End the process if it still runs, whatever it was doing."""
        if self.alive:
            self._process.kill()
            self._process.communicate()


def sync(paths: StudyPaths, home: Home, uri: str, *, verify: bool = False) -> Shipped:
    """Ship what MLflow lacks, and wait for it. Tries once.

    Args:
        verify: Whether to compare then what is in MLflow with what is on record.
    """
    shipper = Shipper()
    shipper.follow(paths, home, uri, verify=verify)
    return shipper.finish(timeout_s=None)


def pending(paths: StudyPaths) -> int:
    """How many records of the study MLflow lacks."""
    return outbox.count(paths.outbox, _read_shipped(paths.shipped).get("offset", 0))


def shipped_runs(paths: StudyPaths) -> dict[int, str]:
    """Trial number → MLflow run id, for the trials that have been shipped."""
    runs = _read_shipped(paths.shipped).get("runs", {})
    return {int(number): run_id for number, run_id in runs.items()}


def shipped_ensembles(paths: StudyPaths) -> dict[int, str]:
    """Number → MLflow run id, for the ensembles over trials that have been shipped."""
    runs = _read_shipped(paths.shipped).get("ensembles", {})
    return {int(number): run_id for number, run_id in runs.items()}


def _read_shipped(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found
