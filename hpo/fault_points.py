"""Narrow places, between a decision and its record or between two records, where tests kill hpo.

``HPO_FAULT=POINT:N:FILE`` in the environment: the first process that passes the point for the N-th
time creates the file, which must not be there, and kills itself with SIGKILL. Without the variable
passing a point costs a look-up.
"""

from __future__ import annotations

import os
import signal
from typing import Literal, get_args

OfOrchestrator = Literal[
    "study-recorded",  # nobody has looked at what is to go on
    "asked",  # Optuna has given a trial a number; nothing speaks of it
    "params-kept",  # its params are on the disk with Optuna; the outbox does not name it
    "begun",  # its beginning is on record; no worker knows
    "epochs-recorded",  # Optuna does not know them
    "epoch-told",  # Optuna, and perhaps the pruner has decided; that is not on record
    "verdicts-recorded",  # the worker is not told to stop
    "paused",  # trials that wait, in memory alone; nothing is decided
    "decided",  # what comes next; nothing of it is on record
    "pauses-recorded",  # and which of those go on; the worker knows nothing
    "made-room",  # trials whose checkpoints are to go are not ended
    "worker-lost",  # its trials are neither ended nor waiting
    "end-decided",  # not on record
    "end-recorded",  # Optuna does not know it
    "end-told",  # weights that are to go are still there
    "study-ended",  # on record; workers and lease are as they were
]
OfWorker = Literal[
    "loaded",  # the orchestrator waits
    "best-kept",  # and the state of a trial that is to wait; that it does is not told
    "epoch-trained",  # nobody knows
    "epoch-sent",  # no checkpoint of it
    "sha256-written",  # the checkpoint that it is of is not there
    "checkpoint-written",
    "best-written",  # its predictions; that it is over is not told
    "trial-over",  # which is told
]
OfShipper = Literal[
    "study-run-made",  # shipped.json does not name it
    "run-made",  # that of a trial, without its epochs
    "epochs-sent",
    "end-sent",
    "news-sent",  # shipped.json says nothing of it
    "shipped",
]
OfMigration = Literal[
    "copied",  # the study is in both storages, and on record in the old one
    "moved",  # on record in the new one; the old one still has it
]

# Of a study that runs.
POINTS = (*get_args(OfOrchestrator), *get_args(OfWorker), *get_args(OfShipper))

_passed = 0  # that which is wanted


def passing(point: OfOrchestrator | OfWorker | OfShipper | OfMigration) -> None:
    """Die here, if a test wants it."""
    global _passed
    wanted = os.environ.get("HPO_FAULT")
    if wanted is None or not wanted.startswith(f"{point}:"):
        return
    _passed += 1
    _, number, file = wanted.split(":", 2)
    if _passed == int(number) and not os.path.exists(file):
        open(file, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
