"""What can be trained in lanes: the settings that a stack knows, and those a lane has of its own.

Imports no torch, so that the orchestrator can ask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trainers import optim
from trainers.models import PADDED, STACKED

# Settings that lanes know only some values of: a trial with another one is trained in turn
# (`trainers.in_turn`), which knows all.
KNOWN: Mapping[str, Collection[Any]] = {
    "model.name": STACKED,
    "model.stochastic_depth": (None, 0.0),
    "train.optimizer": optim.STACKED,
    "train.swa": (None,),
    "train.batch_growth": (None,),
    "train.precision": ("float32",),
    "train.compile": ("off", "auto"),
    "train.freeze": (None,),
    "train.lr_backbone": (None,),
    "train.layer_decay": (1.0,),
}

# What trials that are trained together may differ in, beside the whole of ``ensemble``: a lane has
# its own.
PER_LANE = frozenset(
    {
        "model.dropout",
        "model.init",
        "train.epochs",
        "train.lr",
        "train.momentum",
        "train.nesterov",
        "train.weight_decay",
        "train.beta1",
        "train.beta2",
        "train.alpha",
        "train.l1",
        "train.clip_norm",
        "train.clip_value",
        "train.label_smoothing",
        "train.class_weights",
        "train.sampling",
        "train.focal_gamma",
        "train.huber_delta",
        "train.ema",
        "train.swa",
        "train.schedule",
        "train.warmup",
        "train.gamma",
        "train.step_epochs",
        "train.power",
        "train.cycle_epochs",
        "train.cycle_growth",
        "train.rise",
        "train.plateau",
        "train.early_stopping",
        "train.augment",
    }
)


def why_not(settings: Mapping[str, Any]) -> str | None:
    """Why a trial cannot be a lane, in words; None: it can.

    Args:
        settings: By their paths, ``train.lr``; those that are not given are not asked about.
    """
    for path, known in KNOWN.items():
        if path == "model.name" and settings.get("train.vmap"):
            continue
        by_itself = settings.get("model.name") in PADDED and not settings.get("train.vmap")
        if path == "train.swa" and by_itself:
            continue  # there are no statistics of batch norm to be estimated anew
        if path in settings and settings[path] not in known:
            return f"lanes have no rule for {path} {settings[path]}"
    return None
