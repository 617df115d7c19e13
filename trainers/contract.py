"""What a trainer sees of a trial. A trainer knows nothing of Optuna or MLflow.

A trainer is a function ``train(trial)``::

    def train(trial):
        model = build(trial.params["model"])
        state = trial.resume()
        if state is not None:
            model.load_state_dict(state["model"])
        first = 1 if state is None else state["epoch"] + 1
        for epoch in range(first, trial.params["train"]["epochs"] + 1):
            ...
            trial.save({"epoch": epoch, "model": model.state_dict()})
            trial.report(epoch, {"train/loss": 0.3, "val/accuracy": 0.9})

`save` before `report`: it offers the state at the end of the epoch; whether it is written then is
decided in `report`, by how much training would be lost without it. `report` returns to go on, or
raises `StopTraining` to end the trial; let it pass.

A trainer that can train several trials as one program, in lanes, has a second function
``train_together(trials)``, whose trials all have the same `trainers.registry.stack_key`::

    def train_together(trials):
        lanes = []
        while True:
            lanes += [Lane(trial) for trial in trials.begin()]
            if not lanes:
                return
            train_an_epoch(lanes)
            leaving = trials.report([lane.epoch() for lane in lanes])
            lanes = [lane for lane in lanes if lane.trial.number not in leaving]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from trainers.data import Dataset


# What begins the name of a metric of one of the models that a trial is the mean of, of a fold or a
# seed: ``fold/3/val/loss``, ``repeat/2/val/loss``, ``repeat/2/fold/3/val/loss``.
PARTS = ("fold/", "repeat/")


class StopTraining(BaseException):
    """Raised by `Trial.report` when the trial is to end now (pruned, stopped, interrupted).

    A BaseException, so that a trainer's own ``except Exception`` does not swallow it.
    """


class DataError(ValueError):
    """The data cannot be used as the study file says.

    Attributes:
        key: Where in the study file to look, e.g. ``data.source``.
        hint: What to try instead, or None.
    """

    def __init__(self, key: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The hint that names the closest of the known names; None: none is close."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else None


class NonFinite(ArithmeticError):
    """A loss or the objective is NaN or infinite."""


@dataclass(frozen=True)
class Predictions:
    """What the model says of the validation split, kept for the best epoch.

    Attributes:
        ids: (N,) int64, row numbers in the source (its order before splitting).
        target: (N,) int64 class indices, (N, L) bool labels, or float32 values for regression.
        output: (N, C) or (N, L) float32 probabilities, or (N,) float32 values for regression.
        groups: (N,) int64, of each row the number of its group; None: each row is for itself.
    """

    ids: np.ndarray
    target: np.ndarray
    output: np.ndarray
    groups: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Those that there are, by name."""
        return {name: array for name, array in vars(self).items() if array is not None}


class Trial(Protocol):
    """One configuration to train.

    Attributes:
        number: The trial's number in its study.
        params: The study file's ``data``, ``model`` and ``train`` sections, with this trial's
            values in place: ``trial.params["train"]["lr"]``.
        device: ``"cpu"`` or ``"cuda"`` (the one device this worker may use).
        seed: In [0, 2**32). Seed everything random with it and the trial can be trained again
            to the same metrics.
    """

    number: int
    params: Mapping[str, Mapping[str, Any]]
    device: str
    seed: int

    @property
    def data(self) -> Dataset:
        """The data of ``params["data"]``, split; loaded once per worker. Never the test split.

        ``data.splits[0].batch(rows)`` gives tensors, ``data.arrays(rows)`` NumPy arrays, of the
        rows ``data.train`` or ``data.validation``.
        """

    def report(
        self, epoch: int, metrics: Mapping[str, float], predictions: Predictions | None = None
    ) -> None:
        """Record an epoch.

        Args:
            epoch: 1 for the first, then one more each time.
            metrics: Name → value; the study's objective must be among them. Those of `PARTS` are
                recorded of the objectives only.
            predictions: On the validation split; those of the best epoch are kept.

        Raises:
            StopTraining: The trial is to end here.
        """

    def save(self, state: Mapping[str, Any]) -> None:
        """Offer the state at the end of this epoch as a checkpoint; call it before `report`.

        Args:
            state: Tensors, numbers, strings, and dicts and lists of these (what ``torch.load``
                accepts with ``weights_only=True``). Not copied: it may refer to live tensors.
        """

    def resume(self) -> dict[str, Any] | None:
        """The state last saved by an earlier attempt at this trial, or None."""


@dataclass(frozen=True)
class Epoch:
    """What is to be said of one trial at the end of an epoch.

    Attributes:
        epoch, metrics, predictions: As for `Trial.report`.
        state: Gives what `Trial.save` takes; called only when a checkpoint is written.
        last: The trial is complete with this epoch.
        notes: What is to be said of how it is trained, where that is news: ``{"micro_batch": "16
            of 64 rows at a time"}`` becomes the tag ``hpo.micro_batch`` of its run.
        model: Gives a copy of what predicts as this epoch did (`trainers.saved`); called only when
            the epoch is the best so far, and before the next one is trained.
    """

    trial: Trial
    epoch: int
    metrics: Mapping[str, float]
    predictions: Predictions | None = None
    state: Callable[[], Mapping[str, Any]] | None = None
    last: bool = False
    model: Callable[[], Mapping[str, Any]] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


class Trials(Protocol):
    """Trials that one worker trains together. Their own `report` and `save` are not used."""

    def begin(self) -> Sequence[Trial]:
        """Those that are to begin now, each for the first or, after a crash, a further time.

        At first one or more; later what has come to take free places, often none.
        """

    def report(self, epochs: Sequence[Epoch]) -> Collection[int]:
        """Record an epoch of each trial.

        Returns:
            The numbers of the trials that are to be trained no further: those whose last epoch
            this was, and those that are pruned, stopped, interrupted, or failed.
        """

    def finish(self, trial: Trial) -> None:
        """End a trial as complete without another epoch: it was resumed after its last one."""

    def fail(self, trial: Trial, error: Exception) -> None:
        """End a trial that cannot be trained; the others go on."""


class Trainer(Protocol):
    """A function that trains one trial."""

    def __call__(self, trial: Trial, /) -> None: ...


class TogetherTrainer(Protocol):
    """A function that trains trials together until none is left."""

    def __call__(self, trials: Trials, /) -> None: ...
