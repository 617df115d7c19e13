"""When a study is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpo import devices
from hpo.history import History
from hpo.spec import StudySpec


def trials_done(spec: StudySpec, history: History, also: int = 0) -> str | None:
    """Whether the budget's trials have all been begun, in words, or None.

    Args:
        also: Trials that have been asked for but not begun.
    """
    trials = spec.budget.trials
    if trials is None or history.counted + also < trials:
        return None
    return "the trial is done" if trials == 1 else f"all {trials} trials are done"


def with_asked_trials(spec: StudySpec, history: History) -> StudySpec:
    """The study with the trials that were asked for on an earlier command line, if it has fewer.

    What this command line says counts as it is.
    """
    asked, trials = history.asked_trials, spec.budget.trials
    if spec.trials_asked or asked is None or trials is None or trials >= asked:
        return spec
    return spec.with_trials(asked)


def more_trials(budget: Mapping[str, Any], begun: int, more: int) -> int:
    """How many trials `more` than the budget's are; than those begun, where it has no such limit.

    Args:
        budget: As it is on record.
    """
    trials: int | None = budget["trials"]
    return (begun if trials is None else trials) + more


def limit_reached(spec: StudySpec, history: History, spent_s: float) -> str | None:
    """Which limit of the budget ends the study now, in words, or None.

    Args:
        spent_s: Wall time over all sessions.
    """
    budget, best = spec.budget, history.best
    if budget.wall_s is not None and spent_s >= budget.wall_s:
        return f"the wall time of {budget.wall_s:g} s is used"
    share = spec.gpus_per_trial if spec.device != "cpu" and devices.gpus() else 1.0
    if budget.epochs is not None and history.epochs >= budget.epochs:
        return f"{budget.epochs:,} epochs are trained"
    if budget.device_hours is not None and history.train_s * share / 3600 >= budget.device_hours:
        return f"{budget.device_hours:g} device-hours are used"
    if best is None:
        return None
    if budget.target is not None:
        gain = best.value - budget.target
        if gain >= 0 if spec.objective[0].maximize else gain <= 0:
            return f"trial {best.number} reached the target of {budget.target:g}"
    if budget.patience is not None and history.since_best >= budget.patience:
        return f"{history.since_best} trials without improvement on trial {best.number}"
    return None


def whole_trials(spec: StudySpec) -> int | None:
    """The most trials that a study can train to their ends, by its trials and its epochs."""
    budget, epochs = spec.budget, most_epochs(spec)
    limits = [] if budget.trials is None else [budget.trials]
    if budget.epochs is not None and epochs is not None:
        limits.append(math.ceil(budget.epochs / epochs))
    return min(limits, default=None)


def most_epochs(spec: StudySpec) -> int | None:
    """The most epochs that a trial of this study can train, if its file says."""
    searched = spec.search.get("train.epochs")
    if searched is None:
        epochs = spec.config({})["train"].get("epochs")
    else:
        choices = getattr(searched, "choices", None)
        epochs = max(choices) if choices else getattr(searched, "high", None)
    return epochs if isinstance(epochs, int) else None
