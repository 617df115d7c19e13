"""Ensembles in the study's record: a line of its outbox each, under the study's lease."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from hpo import lease
from hpo.ensemble.building import Built
from hpo.errors import StudyLocked
from hpo.paths import Home, StudyPaths, replacing
from hpo.results.study_log import StudyLog
from hpo.tracking.outbox import Outbox


def refuse_if_running(study: str, paths: StudyPaths) -> None:
    """Before long work whose result could not be written.

    Raises:
        StudyLocked: Another process runs the study.
    """
    owner = lease.owner(paths.lease)
    if owner is not None:
        raise StudyLocked(lease.locked_message(study, owner))


def record(built: Built, home: Home) -> int:
    """Keep an ensemble and what it said of each validation row; on the disk when this returns.

    Returns:
        Its number among the study's ensembles, from 0.

    Raises:
        StudyLocked: Another process runs the study.
    """
    paths, facts = home.study(built.study), built.facts()
    members = [member["trial"] for member in facts["members"]]
    with lease.hold(paths.lease, built.study):
        known = StudyLog.read(paths, home.results_cache).ensembles
        number = max(known, default=-1) + 1
        artifacts = _keep(built, paths, number)
        lacking = [trial for trial in members if not paths.model(trial).is_file()]
        with Outbox(paths.outbox) as outbox:  # committed as it closes
            outbox.append(
                {
                    "kind": "ensemble",
                    "time_ms": time.time_ns() // 1_000_000,
                    "ensemble": number,
                    **facts,
                    "without_weights": lacking,
                    "artifacts": artifacts,
                }
            )
    return number


def _keep(built: Built, paths: StudyPaths, number: int) -> dict[str, str]:
    """Write its files; their names → their places in the study's folder."""
    predicted, stack = built.predicted, built.fitted.stack
    files: dict[str, dict[str, Any]] = {
        "predictions.npz": {
            "ids": predicted.ids,
            "target": predicted.target,
            "output": predicted.output,
        }
    }
    if predicted.groups is not None:
        files["predictions.npz"]["groups"] = predicted.groups
    if stack is not None:
        files["stack.npz"] = {"coefficients": stack.coefficients, "intercept": stack.intercept}
    artifacts = {}
    for name, arrays in files.items():
        path = paths.ensemble(number) / name
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)
        artifacts[name] = str(path.relative_to(paths.root))
    return artifacts
