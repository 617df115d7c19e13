"""A worker's whole life: import the trainer, load the data, train trial after trial.

Started as ``python -m hpo.worker FD`` by the processes executor, or as a thread by the inline
one; either way it has one connection to the orchestrator and opens no store.

What is promised here: metrics reach the orchestrator in epoch order, each once; the predictions
kept are those of the best epoch among the recorded ones; after a crash the trial goes on from its
newest checkpoint of a recorded epoch. The process ends when the orchestrator does.
"""

from __future__ import annotations

import gc
import math
import os
import queue
import resource
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import checkpoints, examples
from hpo.messages import (
    Assignment,
    Begin,
    Decision,
    Finished,
    Interrupt,
    Outcome,
    Quit,
    Ready,
    Refused,
    Report,
    Setup,
)
from hpo.paths import replacing
from hpo.resources import Meter
from trainers.contract import DataError, Predictions, StopTraining

if TYPE_CHECKING:
    from trainers.data import Dataset

# While the orchestrator records an epoch, the next one may begin; this share of an epoch's time
# is spent waiting for the decision first. Long epochs so are never trained in vain, and short
# ones do not wait for the disk.
WAIT_SHARE = 0.05

# A checkpoint is written when this much training would be lost without it, but never so often
# that writing takes more than this share of the time.
CHECKPOINT_AFTER_S = 1.0
CHECKPOINT_SHARE = 0.01
CHECKPOINT_AT_LATEST_S = 120.0


class NonFinite(ArithmeticError):
    """A loss or the objective is NaN or infinite."""


class MissingMetric(KeyError):
    """The trainer did not report the study's objective."""

    def __str__(self) -> str:
        return str(self.args[0])


class Inbox:
    """What the orchestrator sends, read by a thread so that nothing waits in a full pipe.

    The thread also notices when the orchestrator is gone, whatever the trainer is doing, and
    then calls `on_lost`.
    """

    def __init__(self, connection: Connection, on_lost: Any) -> None:
        self.interrupted = threading.Event()
        self._messages: queue.Queue[Any] = queue.Queue()
        self._connection = connection
        self._on_lost = on_lost
        threading.Thread(target=self._read, daemon=True, name="inbox").start()

    def get(self, timeout_s: float | None = None) -> Any:
        """The next message, or None when there is none within `timeout_s` (None: wait)."""
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(message, Quit):
            self._messages.put(message)  # whoever asks next is to know, too
        return message

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
class Pace:
    """What the last checkpoint of this worker took, in seconds, whichever trial's it was."""

    last_s: float = 0.0


class AssignedTrial:
    """The `trainers.contract.Trial` that a trainer is given."""

    def __init__(
        self,
        assignment: Assignment,
        setup: Setup,
        connection: Connection,
        inbox: Inbox,
        data: Data,
        pace: Pace,
        meter: Meter,
    ) -> None:
        self.number = assignment.number
        self.params = assignment.params
        self.device = setup.device
        self.seed = assignment.seed
        self.ended_as: Outcome = "complete"
        self._assignment = assignment
        self._connection = connection
        self._inbox = inbox
        self._data = data
        self._pace = pace
        self._meter = meter
        meter.begin()
        self._state: Mapping[str, Any] | None = None
        self._best_value: float | None = None
        self._best: Predictions | None = None
        self._undecided: int | None = None  # the epoch sent last, while its decision is awaited
        self._epoch = 0
        self._epoch_began = time.monotonic()
        self._saved_at = time.monotonic()

    @property
    def data(self) -> Dataset:
        return self._data.load(self.params["data"])

    def report(
        self, epoch: int, metrics: Mapping[str, float], predictions: Predictions | None = None
    ) -> None:
        seconds = time.monotonic() - self._epoch_began
        if epoch != self._epoch + 1:
            raise ValueError(
                f"epoch {self._epoch + 1} is to be reported next, not {epoch} (they count from 1)"
            )
        self._epoch = epoch
        if self._undecided is not None:
            self._await_decision(timeout_s=None)
        values = {name: float(value) for name, value in metrics.items()}
        self._check(epoch, values)
        self._keep_if_best(values, predictions)
        if epoch > self._assignment.recorded:
            time_ms, resources = time.time_ns() // 1_000_000, self._meter.sample()
            self._connection.send(Report(self.number, epoch, values, time_ms, seconds, resources))
            self._undecided = epoch
        interrupted = self._inbox.interrupted.is_set()  # once: it may come at any moment
        self._checkpoint(epoch, force=interrupted)
        if interrupted:
            if self._undecided is not None:
                self._await_decision(timeout_s=None)
            self.ended_as = "interrupted"
            raise StopTraining("interrupted")
        if self._undecided is not None:
            self._await_decision(timeout_s=WAIT_SHARE * seconds)
        self._epoch_began = time.monotonic()

    def save(self, state: Mapping[str, Any]) -> None:
        self._state = state

    def resume(self) -> dict[str, Any] | None:
        found = checkpoints.newest(self._assignment.folder, at_most=self._assignment.recorded)
        if found is None:
            return None
        self._epoch, content = found
        best = content["best"]
        if best is not None:
            self._best_value = best["value"]
            if "ids" in best:
                self._best = Predictions(*(best[k].numpy() for k in ("ids", "target", "output")))
        state: dict[str, Any] = content["state"]
        self._saved_at = self._epoch_began = time.monotonic()
        return state

    def close(self) -> dict[str, str]:
        """Wait for the last decision and write the predictions; returns the artifacts."""
        if self._undecided is not None:
            self._await_decision(timeout_s=None)
        return self.write_predictions()

    def write_predictions(self) -> dict[str, str]:
        """Write the best epoch's predictions, if the trainer gave any."""
        if self._best is None:
            return {}
        import numpy as np

        # Not in half precision: where a model is sure, the order of its scores would be lost.
        output = self._best.output.astype(np.float32)
        path = self._assignment.folder / "predictions.npz"
        with replacing(path) as file:
            np.savez_compressed(file, ids=self._best.ids, target=self._best.target, output=output)
        return {"predictions.npz": str(path)}

    def _check(self, epoch: int, values: Mapping[str, float]) -> None:
        for metric in self._assignment.metrics:
            if metric not in values:
                raise MissingMetric(
                    f"the objective is {metric}, but the trainer reported only "
                    f"{', '.join(sorted(values))}"
                )
        for name in (*self._assignment.metrics, "train/loss"):
            if name in values and not math.isfinite(values[name]):
                raise NonFinite(f"{name} is {values[name]} at epoch {epoch}")

    def _keep_if_best(self, values: Mapping[str, float], predictions: Predictions | None) -> None:
        value = values[self._assignment.metrics[0]]
        if self._best_value is None or better(value, self._best_value, self._assignment.maximize):
            self._best_value, self._best = value, predictions

    def _checkpoint(self, epoch: int, force: bool) -> None:
        state, self._state = self._state, None
        began = time.monotonic()
        due_s = max(CHECKPOINT_AFTER_S, self._pace.last_s / CHECKPOINT_SHARE)
        due_s = min(due_s, CHECKPOINT_AT_LATEST_S)
        if state is None or not (force or began - self._saved_at >= due_s):
            return
        import torch

        best: dict[str, Any] | None = None
        if self._best_value is not None:
            best = {"value": self._best_value}
            if self._best is not None:
                best |= {
                    "ids": torch.from_numpy(self._best.ids),
                    "target": torch.from_numpy(self._best.target),
                    "output": torch.from_numpy(self._best.output),
                }
        checkpoints.write(self._assignment.folder, epoch, {"state": dict(state), "best": best})
        self._saved_at = time.monotonic()
        self._pace.last_s = self._saved_at - began

    def _await_decision(self, timeout_s: float | None) -> None:
        message = self._inbox.get(timeout_s)
        if message is None:
            return
        if isinstance(message, Quit):
            self.ended_as = "stop"
            raise StopTraining("the orchestrator is gone")
        assert isinstance(message, Decision), message
        assert (message.number, message.epoch) == (self.number, self._undecided), message
        self._undecided = None
        if not message.go_on:
            self.ended_as = "stop"
            raise StopTraining("the search decided to end this trial")


def better(value: float, than: float, maximize: bool) -> bool:
    """Whether `value` beats `than`; equal is not better, so that the first of equals stays."""
    return value > than if maximize else value < than


class Data:
    """Loads each ``data`` section once; keeps the last two (``data`` may be searched)."""

    def __init__(self, setup: Setup) -> None:
        self._cache = setup.cache
        self._examples = setup.examples
        self._keeping: threading.Thread | None = None
        self._loaded: dict[str, Dataset] = {}

    def load(self, section: Mapping[str, Any]) -> Dataset:
        from trainers.data import load

        key = repr(sorted(section.items()))
        count = self._examples[0] if self._examples else 0
        found = self._loaded.pop(key, None) or load(section, self._cache, count)
        self._loaded[key] = found  # the newest last
        while len(self._loaded) > 2:
            del self._loaded[next(iter(self._loaded))]
        return found

    def keep_examples(self, section: Mapping[str, Any]) -> None:
        """Begin to write some rows for people to look at, if that is still to be done."""
        if self._examples is None:
            return
        count, path = self._examples
        if not path.exists():  # else this worker has done so, before it died
            self._keeping = examples.keep(self.load(section), count, path)
        self._examples = None

    def close(self) -> None:
        """Wait for what is being written."""
        if self._keeping is not None:
            self._keeping.join()


def serve(connection: Connection, setup: Setup, on_lost: Any) -> None:
    """Answer the orchestrator until it says `Quit` or is gone."""
    inbox = Inbox(connection, on_lost)
    data, pace, meter = Data(setup), Pace(), Meter(setup.device)
    try:
        train, ready = _prepare(setup, data)
    except DataError as error:
        connection.send(Refused(error.key, str(error), error.hint))
        return
    except Exception as error:  # the user's module may raise anything when imported
        connection.send(Refused("trainer", _user_frames(error)))
        return
    gc.collect()
    gc.freeze()  # torch's own objects are here to stay: collecting after a trial is quick then
    connection.send(ready)
    while not isinstance(message := inbox.get(), Quit):
        if isinstance(message, Begin):
            _redirect_output(message.log)
        elif isinstance(message, Assignment):
            data.keep_examples(setup.params["data"])
            finished = _train(message, setup, train, connection, inbox, data, pace, meter)
            connection.send(finished)
            if finished.outcome == "failed" and setup.device == "cuda" and _device_is_lost():
                connection.close()  # every later trial here would fail: a new worker is needed
                return
            gc.collect()  # a trial's tensors must not weigh on the next one
    data.close()


def _prepare(setup: Setup, data: Data) -> tuple[Any, Ready]:
    import torch

    from trainers.registry import TRAINERS, prepare, resolve

    torch.set_num_threads(setup.threads)
    device_name = "cpu"
    if setup.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(setup.memory_share)
        device_name = torch.cuda.get_device_name()
    train = resolve(setup.trainer, setup.folder)
    if setup.trainer not in TRAINERS:
        return train, Ready(None, device_name)  # the user's function loads its own data
    dataset = data.load(setup.params["data"])
    for params in (setup.params, *setup.variants):
        prepare(setup.trainer, params, dataset)
    return train, Ready(dataset.summary, device_name)


def _train(
    assignment: Assignment,
    setup: Setup,
    train: Any,
    connection: Connection,
    inbox: Inbox,
    data: Data,
    pace: Pace,
    meter: Meter,
) -> Finished:
    """Train one trial and map every way it can end to a `Finished`."""
    began = time.monotonic()
    trial = AssignedTrial(assignment, setup, connection, inbox, data, pace, meter)
    reason, trace, artifacts = "", None, {}
    if setup.device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    try:
        try:
            train(trial)
            if trial._epoch == 0:
                raise MissingMetric("the trainer returned without reporting an epoch")
            artifacts = trial.close()
        except StopTraining as stop:
            if trial.ended_as == "complete":
                raise RuntimeError("the trainer raised StopTraining itself") from stop
            artifacts = trial.write_predictions() if trial.ended_as == "stop" else {}
    except (Exception, SystemExit) as error:
        trial.ended_as = "failed"
        reason = _one_line(error)
        trace = traceback.format_exc()
    return Finished(
        assignment.number,
        trial.ended_as,
        time.monotonic() - began,
        reason,
        trace,
        _peak_memory_mb(setup.device),
        artifacts,
    )


def _device_is_lost() -> bool:
    """Whether the CUDA context is broken for good, as after a device-side assertion."""
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _user_frames(error: BaseException) -> str:
    """The error and where in the user's own code it came from, without hpo's frames."""
    here = Path(__file__).resolve().parent.parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).resolve().is_relative_to(here / "hpo")
        and not Path(frame.filename).resolve().is_relative_to(here / "trainers")
        and "importlib" not in frame.filename
    ]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{_one_line(error)}{place}"


def _peak_memory_mb(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes on Linux


def _redirect_output(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def main() -> None:
    """The worker process: its connection is the file descriptor in ``argv[1]``."""
    import signal

    # Ctrl-C reaches the whole terminal; only the orchestrator decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    setup = connection.recv()
    # A signal, because the trainer may be deep in a call that knows nothing of stopping; to the
    # group, because it may have started processes of its own.
    serve(connection, setup, on_lost=lambda: os.killpg(0, signal.SIGKILL))


if __name__ == "__main__":
    main()
