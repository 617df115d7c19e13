"""What cannot be trained over several devices (`trainers.parallel`), by how it would be.

Imports no torch, so that a study file can be checked without.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# What each rank would have to ask the others for, in the midst of a step.
_NEVER: Mapping[str, Collection[Any]] = {"train.compile": ("on",), "train.vmap": (True,)}
UNKNOWN: Mapping[str, Mapping[str, Collection[Any]]] = {
    "ddp": _NEVER,
    # These look at whole matrices, or at all numbers at once, of which a rank has a part.
    "fsdp": {**_NEVER, "train.optimizer": ("muon", "lbfgs"), "train.precision": ("fp16",)},
    # A stage sees neither the loss of a batch nor what another stage has.
    "pipeline": {**_NEVER, "train.optimizer": ("lbfgs",), "train.precision": ("fp16",)},
}
# Settings that a way knows no value of but the one that is off.
OFF_ONLY: Mapping[str, Collection[str]] = {
    "ddp": (),
    "fsdp": (),
    "pipeline": ("train.swa", "train.freeze"),
}


def why_not(how: str, path: str, value: Any) -> str | None:
    """Why a value of a setting cannot be trained with, in words; None: it can be."""
    if value in UNKNOWN[how].get(path, ()) or (path in OFF_ONLY[how] and value is not None):
        return f"{value} cannot be trained with gpus_per_trial above 1 and parallel: {how}"
    return None
