"""Workers that train nothing: a strategy against known curves. Not part of the installed package.

Every epoch takes one unit of time on every worker. A strategy sees of each trial what hpo's
orchestrator would know, and is asked whenever a worker is free.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.history import History
from hpo.strategy import New, Strategy

METRIC = "val/accuracy"


@dataclass
class Run:
    """What came of one search.

    Attributes:
        completions: When a trial had its last epoch, in epochs that the workers could have
            trained until then, and its value there.
        decisions_ms: Milliseconds of each decision.
        begun: Trials.
    """

    completions: list[tuple[float, float]] = field(default_factory=list)
    decisions_ms: list[float] = field(default_factory=list)
    begun: int = 0

    def best_at(self, spent: float) -> float | None:
        """The best fully trained trial's value at `spent` epochs, or None."""
        return max((value for cost, value in self.completions if cost <= spent), default=None)

    def reaches(self, target: float, budget: float) -> float:
        """The epochs, `budget` at most, until a fully trained trial was as good; or infinite."""
        return min(
            (
                cost
                for cost, value in self.completions
                if cost <= budget and value >= target - 1e-9
            ),
            default=float("inf"),
        )


def simulate(
    strategy: Strategy,
    curve: Callable[[Mapping[str, Any]], NDArray[np.float64]],
    epochs: int,
    budget: int,
    workers: int = 1,
) -> Run:
    """One search with `budget` new epochs.

    Args:
        curve: A configuration → its value after each epoch; larger is better.
        epochs: Of a whole trial.
    """
    history = History([METRIC], maximize=True)
    history.add({"kind": "study", "budget": {"trials": None, "epochs": budget}, "time_ms": 0})
    run = Run()
    curves: dict[int, NDArray[np.float64]] = {}
    training: list[tuple[int, int, int]] = []  # (time of its end, number, until)
    now = spent = 0
    while True:
        while len(training) < workers and spent < budget:
            began = time.perf_counter()
            decision = strategy.decide(history, ())
            run.decisions_ms.append((time.perf_counter() - began) * 1e3)
            if decision is None:
                break
            if isinstance(decision, New):
                number = len(history.trials)
                params = dict(decision.params)
                curves[number] = curve(params)
            else:
                number = decision.number
                params = dict(history.trials[number].params)
            until = decision.until if decision.until is not None else epochs
            trained = history.trials[number].recorded if number in history.trials else 0
            history.add(_begins(number, params, decision.until, now))
            heapq.heappush(training, (now + until - trained, number, until))
            spent += until - trained
            strategy.follow(history)
        if not training:
            break
        now, number, until = heapq.heappop(training)
        for epoch in range(history.trials[number].recorded + 1, until + 1):
            history.add(_epoch(number, epoch, float(curves[number][epoch - 1]), now))
        if until == epochs:
            value = float(curves[number][-1])
            run.completions.append((now * workers, value))
            history.add(_ends(number, value, epochs, now))
        else:
            history.add({"kind": "pause", "number": number, "epoch": until, "time_ms": now})
    run.begun = len(history.trials)
    return run


# -- what the orchestrator would record


def _begins(
    number: int, params: Mapping[str, Any], until: int | None, now: int
) -> dict[str, object]:
    return {
        "kind": "trial",
        "number": number,
        "params": params,
        "until": until,
        "attempt": 1,
        "crashes": 0,
        "worker": 0,
        "time_ms": now,
    }


def _epoch(number: int, epoch: int, value: float, now: int) -> dict[str, object]:
    return {
        "kind": "epoch",
        "number": number,
        "epoch": epoch,
        "metrics": {METRIC: value},
        "seconds": 1.0,
        "time_ms": now,
    }


def _ends(number: int, value: float, epochs: int, now: int) -> dict[str, object]:
    return {
        "kind": "end",
        "number": number,
        "state": "complete",
        "reason": "",
        "values": [value],
        "best_epoch": epochs,
        "time_ms": now,
    }
