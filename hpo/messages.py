"""What an orchestrator and a worker say to each other, over a pipe.

Orchestrator → worker: `Begin`, `Orders` with trials to begin, then `Orders` in answer to each
`Round`; `Interrupt` to end early, `Quit`. `Measure` asks a worker that has no trials.
Worker → orchestrator: `Ready` or `Refused` once, then `Round` after `Round`: an epoch of each
trial that it trains, and those that are over, of each trial one `Finished`. `Measured`.

A round is answered as a whole, and a worker that may train several trials waits for the answer.
So the order in which a worker's trials are reported, ended and begun does not depend on timing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["complete", "stop", "paused", "interrupted", "failed", "alone"]


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
        threads: CPU threads to train with, on each device.
        memory_share: Of the GPU's memory, in (0, 1].
        examples: How many rows of the data it is to keep, and in which file; it does so with its
            first trial, for then there is a study. None: it is not the one to do so.
        command: What is run for each trial, where the trainer is a command.
        devices: Over how many a built-in trainer trains each trial.
        parallel: How, if they are several (`trainers.parallel`).
        data_version: Of data at an address, the one that all workers use (`hpo.fetched`).
        meeting: Where those that train a trial over several devices find each other: an empty
            file, which goes when the worker does.
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
    command: tuple[str, ...] | None = None
    devices: int = 1
    parallel: Literal["ddp", "fsdp", "pipeline"] = "ddp"
    data_version: str | None = None
    meeting: Path | None = None

    @property
    def uses_gpu(self) -> bool:
        """Whether the worker itself does, not only a program that it starts."""
        return self.device == "cuda" and self.command is None


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
        lanes: At most so many trials train together with it, itself among them.
        keep_model: Whether the weights of its best epoch are to be kept.
        claim: What says whether this attempt may still write into the folder (`hpo.claims`);
            None: nobody else ever writes there.
        until: The epoch after which it waits, with its state on the disk, for what `Orders` say;
            None: it is trained to its end.
    """

    number: int
    params: Mapping[str, Mapping[str, Any]]
    seed: int
    attempt: int
    recorded: int
    folder: Path
    metrics: Sequence[str]
    maximize: bool
    lanes: int = 1
    keep_model: bool = False
    claim: Path | None = None
    until: int | None = None


@dataclass(frozen=True)
class Orders:
    """What a round told is on record; and what is to come of it.

    Attributes:
        stop: Numbers of the trials that are to end with the epoch that was reported.
        until: Trials that wait and are to go on → as `Assignment.until`. Others that wait are to
            be paused.
        begin: Into free places. All of them, and those in training, can be trained together.
    """

    stop: Collection[int] = ()
    until: Mapping[int, int | None] = field(default_factory=dict)
    begin: Sequence[Assignment] = ()


@dataclass(frozen=True)
class Measure:
    """Find out how many trials of such `params` it pays to train together, `most` at most."""

    params: Mapping[str, Mapping[str, Any]]
    most: int


@dataclass(frozen=True)
class Interrupt:
    """Finish the epoch, write checkpoints, and end all trials as interrupted."""


@dataclass(frozen=True)
class Quit:
    """No more trials."""


@dataclass(frozen=True)
class Loading:
    """What a worker waits for before it is ready, where that takes a while: a line for people."""

    text: str


@dataclass(frozen=True)
class Ready:
    """The trainer is imported and the data loaded.

    Attributes:
        dataset: What was loaded (`trainers.data.Dataset.summary`), or None without data.
        device_name: E.g. ``NVIDIA H100`` or ``cpu``.
        node: The name of its machine, where workers live on several.
    """

    dataset: Mapping[str, Any] | None
    device_name: str
    node: str | None = None


@dataclass(frozen=True)
class Refused:
    """The study cannot run as its file says: `key` is where to look in it."""

    key: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Measured:
    """The answer to `Measure`."""

    lanes: int


@dataclass(frozen=True)
class Report:
    """The metrics of one epoch of one trial.

    Attributes:
        time_ms: When the epoch ended, milliseconds since the epoch of the clock.
        seconds: This trial's share of the time that it took: of trials that train together each
            has the same, so that the sum over trials is the time that the device was used.
        resources: What the worker uses of its machine (`hpo.resources`), about once a second.
        last: The trial is complete with this epoch.
        lanes: How many trials trained together in this epoch.
        waits: It is at its `Assignment.until`, its state and its best are on the disk, and it
            trains no further before the answer.
        notes: As `trainers.contract.Epoch.notes`.
    """

    number: int
    epoch: int
    metrics: Mapping[str, float]
    time_ms: int
    seconds: float
    resources: Mapping[str, float] = field(default_factory=dict)
    last: bool = False
    lanes: int = 1
    waits: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def wall_s(self) -> float:
        """How long the epoch took on the clock."""
        return self.seconds * self.lanes


@dataclass(frozen=True)
class Finished:
    """An assignment is over.

    Attributes:
        outcome: ``stop`` when it was ordered, ``paused`` when it waited and was not told to go on,
            ``interrupted`` after an `Interrupt`, and, with a reason, when the disk is full;
            ``alone`` when something went wrong with trials that trained together, and this one
            may be innocent: it is to go on by itself.
        reason: What was raised; empty otherwise.
        traceback: The same, whole.
        seconds: Wall time of this attempt.
        peak_memory_mb: Allocated on the GPU during the trial, by all that trained with it; on a
            CPU the most that was resident in the process so far, earlier trials included.
        artifacts: Name → file, e.g. ``predictions.npz``.
        logged: The ``params`` and ``tags`` of its own that a command has logged: name → text.
    """

    number: int
    outcome: Outcome
    seconds: float
    reason: str = ""
    traceback: str | None = None
    peak_memory_mb: float | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)
    logged: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """What happened to a worker's trials since its last round; answered by `Orders`.

    Attributes:
        reports: In the order in which the trials began.
        ends: The worker ends, for later trials would fail here; another is to take its place.
    """

    reports: Sequence[Report] = ()
    finished: Sequence[Finished] = ()
    ends: bool = False


FromWorker = Loading | Ready | Refused | Measured | Round
