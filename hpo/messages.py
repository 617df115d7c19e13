"""What an orchestrator and a worker say to each other, over a pipe.

Orchestrator → worker: `Begin`, then `Assignment` after `Assignment`, a `Decision` for each
`Report`, `Interrupt` to end early, `Quit`.
Worker → orchestrator: `Ready` or `Refused` once, then for each assignment `Report` after `Report`
and one `Finished`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["complete", "stop", "interrupted", "failed"]


@dataclass(frozen=True)
class Setup:
    """What a worker is started with.

    Attributes:
        worker: Its number, from 0.
        trainer: A built-in's name or ``module:function``.
        folder: The study file's folder, where ``module`` is looked for.
        variants: The same with each choice that is searched in ``model``, to be checked as well.
        cache: Where decoded data is shared.
        params: The study file's ``data``, ``model`` and ``train`` sections; the data is loaded,
            and the model built once, before the worker says `Ready`.
        device: ``"cpu"`` or ``"cuda"``.
        gpu: What ``CUDA_VISIBLE_DEVICES`` is set to, or None on the CPU.
        threads: CPU threads to train with.
        memory_share: Of the GPU's memory, in (0, 1].
        examples: How many rows of the data it is to keep, and in which file; it does so with its
            first trial, for then there is a study. None: it is not the one to do so.
    """

    worker: int
    trainer: str
    folder: Path
    params: Mapping[str, Mapping[str, Any]]
    variants: Sequence[Mapping[str, Mapping[str, Any]]]
    cache: Path
    device: str
    gpu: str | None
    threads: int
    memory_share: float
    examples: tuple[int, Path] | None = None


@dataclass(frozen=True)
class Begin:
    """The study exists now: print to its log from here on."""

    log: Path


@dataclass(frozen=True)
class Assignment:
    """A trial to train.

    Attributes:
        number: The trial's number.
        params: Sections ``data``, ``model``, ``train``.
        seed: In [0, 2**32).
        attempt: 1, or more after a crash.
        recorded: The last epoch that is on record (0: none); later ones are still to be reported.
        folder: For checkpoints and predictions.
        metrics: The objectives' metrics; the first decides the best epoch.
        maximize: Whether more is better, of the first.
    """

    number: int
    params: Mapping[str, Mapping[str, Any]]
    seed: int
    attempt: int
    recorded: int
    folder: Path
    metrics: Sequence[str]
    maximize: bool


@dataclass(frozen=True)
class Decision:
    """The report of `epoch` is on record; go on, or stop there."""

    number: int
    epoch: int
    go_on: bool


@dataclass(frozen=True)
class Interrupt:
    """Finish the epoch, write a checkpoint, and end the trial as interrupted."""


@dataclass(frozen=True)
class Quit:
    """No more trials."""


@dataclass(frozen=True)
class Ready:
    """The trainer is imported and the data loaded.

    Attributes:
        dataset: What was loaded (`trainers.data.Dataset.summary`), or None without data.
        device_name: E.g. ``NVIDIA H100`` or ``cpu``.
    """

    dataset: Mapping[str, Any] | None
    device_name: str


@dataclass(frozen=True)
class Refused:
    """The study cannot run as its file says: `key` is where to look in it."""

    key: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Report:
    """The metrics of one epoch.

    Attributes:
        time_ms: When the epoch ended, milliseconds since the epoch of the clock.
        seconds: What it took.
        resources: What the worker uses of its machine (`hpo.resources`), about once a second.
    """

    number: int
    epoch: int
    metrics: Mapping[str, float]
    time_ms: int
    seconds: float
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """An assignment is over.

    Attributes:
        outcome: ``stop`` after a decision not to go on, ``interrupted`` after an `Interrupt`.
        reason: Why it failed; empty otherwise.
        traceback: For ``failed``.
        seconds: Wall time of this attempt.
        peak_memory_mb: Allocated on the GPU during the trial; on a CPU the most that was resident
            in the process so far, earlier trials included.
        artifacts: Name → file, e.g. ``predictions.npz``.
    """

    number: int
    outcome: Outcome
    seconds: float
    reason: str = ""
    traceback: str | None = None
    peak_memory_mb: float | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)


FromWorker = Ready | Refused | Report | Finished
