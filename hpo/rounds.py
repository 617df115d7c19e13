"""The trials that a worker trains, and its rounds with the orchestrator.

What is promised here: metrics reach the orchestrator in epoch order, each once; the predictions
and weights kept are those of the best epoch among the recorded ones; after a crash a trial goes on
from its newest checkpoint of a recorded epoch; what goes wrong with one of several trials ends
that one.
"""

from __future__ import annotations

import math
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from hpo import checkpoints, claims, starting_weights
from hpo.fault_points import passing
from hpo.loaded import Data
from hpo.messages import (
    Assignment,
    Finished,
    Interrupt,
    Orders,
    Outcome,
    Quit,
    Report,
    Round,
    Setup,
)
from hpo.paths import StudyPaths, is_full, replacing
from hpo.resources import Meter
from trainers.contract import PARTS, Epoch, NonFinite, Predictions, StopTraining, Trial

if TYPE_CHECKING:
    from trainers.data import Dataset

# While the orchestrator records an epoch of a trial that trains alone, the next one may begin;
# this share of an epoch's time is spent waiting for the orders first. Long epochs so are never
# trained in vain, and short ones do not wait for the disk.
WAIT_SHARE = 0.05

# A checkpoint is written when this much training would be lost without it, but never so often
# that writing takes more than this share of the time.
CHECKPOINT_AFTER_S = 1.0
CHECKPOINT_SHARE = 0.01
CHECKPOINT_AT_LATEST_S = 120.0

DEAD_CHILD_S = 0.5  # within which it is known that a connection broke because its process died

WRITERS = 16  # files that are written at a time: the disk flushes many as fast as one


class MissingMetric(KeyError):
    """The trainer did not report the study's objective."""

    def __str__(self) -> str:
        return str(self.args[0])


class Line:
    """The connection to the orchestrator, read by a thread so that nothing waits in a full pipe.

    The thread also notices when the orchestrator is gone, whatever the trainer is doing, and
    then calls `on_lost`.

    Attributes:
        interrupted: Once the trials in training are to be interrupted.
        awaiting: A round was sent whose orders have not come yet.
    """

    def __init__(self, connection: Connection, on_lost: Any) -> None:
        self.interrupted = threading.Event()
        self.awaiting = False
        self._messages: queue.Queue[Any] = queue.Queue()
        self._connection = connection
        self._on_lost = on_lost
        threading.Thread(target=self._read, daemon=True, name="inbox").start()

    def send(self, message: Any) -> None:
        self.awaiting = isinstance(message, Round)
        self._connection.send(message)

    def get(self, timeout_s: float | None = None) -> Any:
        """The next message, or None when there is none within `timeout_s` (None: wait)."""
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(message, Orders):
            self.awaiting = False
        if isinstance(message, Quit):
            self._messages.put(message)  # whoever asks next is to know, too
        return message

    def close(self) -> None:
        self._connection.close()

    def _read(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Interrupt):
                    self.interrupted.set()
                else:
                    self._messages.put(message)
                if isinstance(message, Quit):
                    return
        except (EOFError, OSError):
            self._on_lost()
            self._messages.put(Quit())


@dataclass
class Worker:
    """What a worker has for all its trials.

    Attributes:
        checkpoint_s: What the last checkpoint took, whichever trial's it was.
    """

    setup: Setup
    line: Line
    data: Data
    meter: Meter
    checkpoint_s: float = 0.0


class AssignedTrial:
    """The `trainers.contract.Trial` that a trainer is given.

    Attributes:
        epoch: The last one that was trained.
        waits: Its state and its best are on the disk, and it is to train no further for now.
        began_s: When it was assigned (`time.monotonic`).
        artifacts: What else than its predictions is kept of it: name → file.
        logged: The ``params`` and ``tags`` that its program has logged: name → text.
    """

    def __init__(self, assignment: Assignment, worker: Worker, together: Together) -> None:
        self.number = assignment.number
        setup = worker.setup
        self.params = starting_weights.local(setup.trainer, assignment.params, setup.cache)
        self.device = setup.device
        self.seed = assignment.seed
        self.assignment = assignment
        self.epoch = 0
        self.waits = False
        self.began_s = self._saved_s = time.monotonic()
        self._data = worker.data
        self._trainer = setup.trainer
        self._together = together
        self._state: Mapping[str, Any] | None = None
        self._best_value: float | None = None
        self._best: Predictions | None = None
        self._model: Mapping[str, Any] | None = None
        self.artifacts: Mapping[str, str] = {}
        self.logged: Mapping[str, Mapping[str, str]] = {}

    @property
    def data(self) -> Dataset:
        return self._data.load(self.params["data"])

    def report(
        self, epoch: int, metrics: Mapping[str, float], predictions: Predictions | None = None
    ) -> None:
        saved, self._state = self._state, None
        state = None if saved is None else lambda: saved
        if self._together.report([Epoch(self, epoch, metrics, predictions, state)]):
            raise StopTraining("the trial is to end here")

    def save(self, state: Mapping[str, Any]) -> None:
        self._state = state

    def resume(self) -> dict[str, Any] | None:
        found = checkpoints.newest(self.assignment.folder, at_most=self.assignment.recorded)
        if found is None:
            return None
        self.epoch, content = found
        best = content["best"]
        if best is not None:
            self._best_value, self._model = best["value"], best.get("model")
            if "ids" in best:
                arrays = {k: v.numpy() for k, v in best.items() if k not in ("value", "model")}
                self._best = Predictions(**arrays)
        state: dict[str, Any] = content["state"]
        self._saved_s = time.monotonic()
        return state

    def take(self, said: Epoch) -> dict[str, float]:
        """Take in an epoch; its metrics.

        Raises:
            ValueError: It is not the next one.
            TypeError: Something that is no number was reported as a metric.
            MissingMetric, NonFinite: It cannot be judged.
        """
        if said.epoch != self.epoch + 1 or not isinstance(said.epoch, Integral):
            raise ValueError(
                f"epoch {self.epoch + 1} is to be reported next, not {said.epoch!r} "
                "(they are whole numbers that count from 1)"
            )
        self.epoch = int(said.epoch)
        of_objectives = tuple(f"/{metric}" for metric in self.assignment.metrics)
        values = {
            name: value
            for name, value in _numbers(said.metrics).items()
            if not name.startswith(PARTS) or name.endswith(of_objectives)
        }
        self._check(values)
        self._keep_if_best(values, said)
        return values

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state at the end of the last epoch, with what is kept of the best so far."""
        import torch

        best: dict[str, Any] | None = None
        if self._best_value is not None:
            best = {"value": self._best_value, "model": self._model}
            if self._best is not None:
                arrays = self._best.arrays()
                best |= {name: torch.from_numpy(array) for name, array in arrays.items()}
        content = {"state": dict(state), "best": best}
        checkpoints.write(self.assignment.folder, self.epoch, content, self._may_write)
        self._saved_s = time.monotonic()

    @property
    def is_to_wait(self) -> bool:
        """Whether the epoch just trained is news, and the last one that was ordered."""
        return self.assignment.recorded < self.epoch == self.assignment.until

    def put_down(self, state: Mapping[str, Any]) -> None:
        """Keep all that there is of it, so that it may leave here and go on elsewhere."""
        self.checkpoint(state)
        self.write_best()
        self.waits = True

    def go_on(self, until: int | None) -> None:
        """Train after having waited, up to the end of epoch `until`."""
        self.assignment, self.waits = replace(self.assignment, until=until), False

    def unsaved_s(self) -> float:
        """How long ago the state was last written, or the trial began."""
        return time.monotonic() - self._saved_s

    def write_best(self) -> dict[str, str]:
        """Write the best epoch's weights and predictions, if there are any; returns the artifacts.

        Weights are none: MLflow gets those of ensembles only.
        """
        if self._model is not None:
            kept = {"trainer": self._trainer, "trial": self.number, **self._model}
            path = self.assignment.folder / StudyPaths.MODEL
            checkpoints.save(path, kept, self._may_write)
        if self._best is None:
            return dict(self.artifacts)
        import numpy as np

        # Not in half precision: where a model is sure, the order of its scores would be lost.
        arrays: dict[str, Any] = {**self._best.arrays()}
        arrays["output"] = self._best.output.astype(np.float32)
        path = self.assignment.folder / StudyPaths.PREDICTIONS
        with replacing(path, check=self._may_write) as file:
            np.savez_compressed(file, **arrays)
        return {**self.artifacts, path.name: str(path)}

    def _may_write(self) -> None:
        """Raises `claims.Superseded` if another worker trains it by now, or it has ended."""
        if self.assignment.claim is not None:
            claims.check(self.assignment.claim, self.assignment.attempt)

    def _check(self, values: Mapping[str, float]) -> None:
        for metric in self.assignment.metrics:
            if metric not in values:
                reported = ", ".join(sorted(values)) or "nothing"
                raise MissingMetric(
                    f"the objective is {metric}, but the trainer reported only {reported}"
                )
        for name in (*self.assignment.metrics, "train/loss"):
            if name in values and not math.isfinite(values[name]):
                raise NonFinite(f"{name} is {values[name]} at epoch {self.epoch}")

    def _keep_if_best(self, values: Mapping[str, float], epoch: Epoch) -> None:
        value, said = values[self.assignment.metrics[0]], epoch.predictions
        if self._best_value is None or better(value, self._best_value, self.assignment.maximize):
            # Copied: they may be parts of what all trials that train together predicted, and
            # would keep the whole of it.
            kept = said and Predictions(**{k: v.copy() for k, v in said.arrays().items()})
            self._best_value, self._best = value, kept
            self._model = None
            if epoch.model is not None and self.assignment.keep_model:
                self._model = epoch.model()


class Together:
    """The `trainers.contract.Trials` that a trainer is given: one trial or several.

    Attributes:
        any_failed: An error ended one of them.
        ends: The worker ends with them (`hpo.messages.Round`).

    Args:
        assignments: What is to begin first.
    """

    def __init__(self, worker: Worker, assignments: Sequence[Assignment]) -> None:
        self.any_failed = self.ends = False
        self._worker = worker
        self._line = worker.line
        self._arrived = [AssignedTrial(each, worker, self) for each in assignments]
        self._going: dict[int, AssignedTrial] = {}  # begun, and not over
        self._over: dict[int, Finished] = {}  # not told yet
        self._next: Sequence[Assignment] = ()  # for when these are over
        self._began_s = time.monotonic()  # the epoch
        worker.meter.begin()
        if worker.setup.uses_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()

    def train(self, train: Any) -> None:
        """Call the trainer; what it raises ends its trials."""
        try:
            train(self)
        except (Exception, SystemExit) as error:
            self._break_off(_explained(error))

    def begin(self) -> Sequence[AssignedTrial]:
        arrived, self._arrived = self._arrived, []
        self._going |= {trial.number: trial for trial in arrived}
        return arrived

    def report(self, epochs: Sequence[Epoch]) -> set[int]:
        lanes, wall_s = len(epochs), time.monotonic() - self._began_s
        self._settle()
        patience_s = None if self._may_be_several() else WAIT_SHARE * wall_s
        reports = self._take(epochs, wall_s / lanes)
        passing("epoch-trained")
        if reports or self._over:
            self._send(reports)
            passing("epoch-sent")
        interrupted = self._line.interrupted.is_set()  # once: it may come at any moment
        self._checkpoint(epochs, force=interrupted)
        if any(trial.waits for trial in self._going.values()):
            patience_s = None
        self._settle(None if interrupted else patience_s)
        if interrupted:
            for trial in (*self._going.values(), *self._arrived):
                self._leave(trial, "interrupted")
            self._arrived = []
        elif self._over and self._going:  # what was stopped makes room for others at once
            self._send(())
            self._settle()
        self._began_s = time.monotonic()
        return {said.trial.number for said in epochs} - set(self._going)

    def finish(self, trial: Trial) -> None:
        self._settle()
        mine = self._going.get(trial.number)
        if mine is None:
            return
        if mine.epoch == 0:
            raise MissingMetric("the trainer returned without reporting an epoch")
        self._leave_together([mine], "complete")

    def fail(self, trial: Trial, error: Exception) -> None:
        if trial.number in self._going:
            self._leave(self._going[trial.number], "failed", error)

    def close(self) -> Sequence[Assignment]:
        """Tell what is over; returns what is to begin next, where that is known already."""
        if self._going or self._arrived:
            self._break_off(RuntimeError("the trainer returned before its trials were over"))
        if self._over:
            self._send(())
            passing("trial-over")
        return self._next

    def _break_off(self, error: BaseException) -> None:
        """The trainer raised `error`, nobody knows for which of its trials."""
        self._settle()
        trials = [*self._going.values(), *self._arrived]
        if len(trials) > 1:
            traceback.print_exception(error)  # in no trial's record, unless it fails again
        for trial in trials:
            self._leave(trial, "alone" if len(trials) > 1 else "failed", error)
        self._arrived = []

    def _may_be_several(self) -> bool:
        return any(trial.assignment.lanes > 1 for trial in self._going.values())

    def _take(self, epochs: Sequence[Epoch], seconds: float) -> list[Report]:
        """Take in the epochs of those that still go; what is to be told of them."""
        time_ms, resources = time.time_ns() // 1_000_000, self._worker.meter.sample()
        taken: list[tuple[AssignedTrial, Epoch, dict[str, float]]] = []
        for said in epochs:
            trial = self._going.get(said.trial.number)
            if trial is None:
                continue
            try:
                taken.append((trial, said, trial.take(said)))
            except Exception as error:
                self.fail(trial, error)
        self._put_down([(trial, said) for trial, said, _ in taken])
        reports = [
            Report(
                *(trial.number, trial.epoch, values, time_ms, seconds, resources),
                *(said.last, len(epochs), trial.waits, said.notes),
            )
            for trial, said, values in taken
            if trial.epoch > trial.assignment.recorded
        ]
        self._leave_together([trial for trial, said, _ in taken if said.last], "complete")
        return reports

    def _put_down(self, trials: Sequence[tuple[AssignedTrial, Epoch]]) -> None:
        """Have those wait that are where they are to; one that offers no state cannot."""
        states = {
            trial: said.state()
            for trial, said in trials
            if trial.is_to_wait and said.state is not None and not said.last
        }
        if not states:
            return
        with ThreadPoolExecutor(min(len(states), WRITERS)) as pool:
            writing = [pool.submit(trial.put_down, state) for trial, state in states.items()]
        passing("best-kept")
        for trial, written in zip(states, writing, strict=True):
            if (error := written.exception()) is not None:
                self._leave(trial, "failed", error)

    def _checkpoint(self, epochs: Sequence[Epoch], force: bool) -> None:
        """Write the checkpoints that are due, of those that still go."""
        all_s = len(epochs) * self._worker.checkpoint_s
        due_s = min(max(CHECKPOINT_AFTER_S, all_s / CHECKPOINT_SHARE), CHECKPOINT_AT_LATEST_S)
        for said in epochs:
            trial = self._going.get(said.trial.number)
            if trial is None or trial.waits or said.state is None:
                continue
            if force or trial.unsaved_s() >= due_s:
                began_s = time.monotonic()
                trial.checkpoint(said.state())
                self._worker.checkpoint_s = time.monotonic() - began_s
                passing("checkpoint-written")

    def _send(self, reports: Sequence[Report]) -> None:
        self._settle()
        finished, self._over = list(self._over.values()), {}
        self._line.send(Round(reports, finished, self.ends))

    def _settle(self, timeout_s: float | None = None) -> None:
        """Follow the orders that answer the last round; wait for them up to `timeout_s`."""
        if not self._line.awaiting:
            return
        orders = self._line.get(timeout_s)
        if orders is None:
            return
        if isinstance(orders, Quit):  # or the orchestrator is gone: nobody is to be told
            self._line.awaiting = False
            self._going, self._arrived, self._over = {}, [], {}
            return
        assert isinstance(orders, Orders), orders
        stopped = [self._going[number] for number in orders.stop if number in self._going]
        for trial in [each for each in self._going.values() if each.waits]:
            if trial.number in orders.until:
                trial.go_on(orders.until[trial.number])
            elif trial.number not in orders.stop:
                self._leave(trial, "paused")
        self._leave_together(stopped, "stop")
        if self._going or self._arrived:
            self._arrived += [AssignedTrial(each, self._worker, self) for each in orders.begin]
        else:
            self._next = orders.begin  # perhaps of another kind

    def _leave_together(self, trials: Sequence[AssignedTrial], outcome: Outcome) -> None:
        """Trials are over whose best is kept; that waits for the disk, once for all."""
        if not trials:
            return
        with ThreadPoolExecutor(min(len(trials), WRITERS)) as pool:
            writing = [pool.submit(trial.write_best) for trial in trials]
        passing("best-written")
        for trial, written in zip(trials, writing, strict=True):
            if (error := written.exception()) is None:
                self._leave(trial, outcome, artifacts=written.result())
            else:
                self._leave(trial, "failed", error)

    def _leave(
        self,
        trial: AssignedTrial,
        outcome: Outcome,
        error: BaseException | None = None,
        artifacts: Mapping[str, str] | None = None,
    ) -> None:
        """A trial is over, which the next round tells.

        A full disk is not the trial's fault: it is interrupted.
        """
        reason = "" if error is None else one_line(error)
        if is_full(error):
            outcome, reason = "interrupted", str(error)
        self.any_failed |= error is not None
        self._going.pop(trial.number, None)
        self._over[trial.number] = Finished(
            trial.number,
            outcome,
            time.monotonic() - trial.began_s,
            reason,
            None if error is None else "".join(traceback.format_exception(error)),
            _peak_memory_mb(self._worker.setup.uses_gpu),
            artifacts or {},
            trial.logged,
        )


class Alone(Together):
    """One trial, of a trainer that knows of no others."""

    def train(self, train: Any) -> None:
        (trial,) = self.begin()
        try:
            train(trial)
            self.finish(trial)
        except StopTraining as stop:
            if trial.number in self._going:
                error = RuntimeError("the trainer raised StopTraining itself")
                error.__cause__ = stop
                self._leave(trial, "failed", error)
        except (Exception, SystemExit) as error:
            self._leave(trial, "failed", _explained(error))

    def fail(self, trial: Trial, error: Exception) -> None:
        raise error  # in the trainer's own code, where it reported


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What was reported, by anybody's trainer: of Python's and NumPy's numbers.

    Raises:
        TypeError: Something else was.
    """
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise TypeError(
            f"metrics are to be reported as a dict of names and numbers; got {str(metrics)[:80]}"
        )
    for name, value in metrics.items():
        if not isinstance(value, Real):
            what = type(value).__name__
            hint = ": report its .item()" if what == "Tensor" else ""
            raise TypeError(f"{name} is to be reported as a number; it is of type {what}{hint}")
    return {name: float(value) for name, value in metrics.items()}


def _explained(error: BaseException) -> BaseException:
    """What is behind `error`.

    Where a process that loads data dies, its connections break first, and PyTorch says why a
    moment later: a signal handler of its raises that wherever this process is.
    """
    if isinstance(error, ConnectionError | EOFError):
        try:
            time.sleep(DEAD_CHILD_S)
        except RuntimeError as cause:
            return cause
    return error


def better(value: float, than: float, maximize: bool) -> bool:
    """Whether `value` beats `than`; equal is not better, so that the first of equals stays."""
    return value > than if maximize else value < than


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _peak_memory_mb(of_gpu: bool) -> float:
    if of_gpu:
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes on Linux
