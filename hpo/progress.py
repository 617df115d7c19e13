"""What the orchestrator tells whoever watches a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class WorkerProgress:
    """What one worker does now.

    Attributes:
        trial: The first of its trials.
        epoch: The last one on record, of the trial that is least far.
        epochs: How many the trials are to train at most, if the study file says.
        value: The first objective's best value among the trials' last epochs, or None before the
            first.
        lanes: How many trials it trains together.
        furthest: As `epoch`, of the trial that is furthest.
        node: The name of its machine, where workers live on several.
    """

    worker: int
    state: Literal["starting", "idle", "measuring", "training"]
    trial: int | None = None
    epoch: int = 0
    epochs: int | None = None
    value: float | None = None
    lanes: int = 1
    furthest: int = 0
    node: str | None = None


@dataclass(frozen=True)
class Progress:
    """A study at one moment.

    Attributes:
        counts: Ended trials by state.
        paused: Trials that may be resumed.
        total: The budget in trials, or None.
        best: (trial, value, epoch) by the first objective, or None.
        elapsed_s: Since this run began.
        left_s: A guess at the time to the end, or None while there is no ground for one.
    """

    study: str
    metric: str
    counts: Mapping[str, int]
    total: int | None
    best: tuple[int, float, int] | None
    elapsed_s: float
    left_s: float | None
    workers: Sequence[WorkerProgress]
    paused: int = 0


class View(Protocol):
    """Somebody who watches a study."""

    def say(self, text: str) -> None:
        """Something happened that is worth a line."""

    def show(self, progress: Progress) -> None:
        """How things stand; called a few times a second."""


class Silent:
    """A `View` that shows nothing."""

    def say(self, text: str) -> None: ...

    def show(self, progress: Progress) -> None: ...
