"""A real orchestrator on one core, with workers that one process on another core plays."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

EPOCH_S = 1.0
KNOWN_EPOCHS = 30  # of trials that are over before
WARM_S = 10.0  # after the last worker's first trial has begun
STUDY = """
study: scale
trainer: scale:none
search:
  train.lr: {low: 1.0e-5, high: 1.0, log: true}
  train.momentum: {low: 0.0, high: 0.99}
objective: {metric: quality, goal: maximize}
device: cpu
"""


@dataclass(frozen=True)
class Load:
    """What an orchestrator has to do.

    Attributes:
        epochs: Of a trial that is trained; each takes a second.
        known: Trials that are over before.
        seconds: For how long it is measured, once all workers train.
        flush_ms: What a flush to the disk takes beside what it takes here.
    """

    workers: int
    epochs: int = 30
    sampler: str = "random"
    known: int = 0
    seconds: float = 60.0
    flush_ms: float = 0.0


@dataclass(frozen=True)
class Found:
    """What was measured.

    Attributes:
        waits_ms: How long reports waited for the answer that says that they are on record.
        lags_ms: How long workers had nothing to train between two trials.
        cpu: Of the orchestrator's core, 1 is all of it.
        reports, assignments: A second.
        opened_s: Processor seconds that it took to open the study, with the known trials.
        memory_mb: How much the orchestrator's grew, from before the study was opened to the end.
        disk: Bytes that the known trials take, in the outbox and in Optuna's journal.
        fed_s: Processor seconds of the process that feeds MLflow with the known trials.
        store: Bytes of MLflow's database afterwards.
    """

    waits_ms: Sequence[float]
    lags_ms: Sequence[float]
    cpu: float
    reports: float
    assignments: float
    opened_s: float
    memory_mb: float
    disk: int
    fed_s: float = 0.0
    store: int = 0


def measured(load: Load, *, feed: bool = False) -> Found:
    """Run a study under a load until it was measured.

    Args:
        feed: Whether to feed MLflow with the known trials before; else it is left out, for it is
            fed by a process of its own.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise SystemExit("this takes two cores: one for the orchestrator, one for its workers")
    ours, theirs = Pipe()
    simulator = Process(target=_simulate, args=(theirs, others[-1], load), daemon=True)
    simulator.start()
    os.sched_setaffinity(0, {first})
    fsync = os.fsync
    try:
        with tempfile.TemporaryDirectory() as folder:
            _fill(Path(folder), load)
            fed_s, store = _feed(Path(folder)) if feed else (0.0, 0)
            os.fsync = _slower(fsync, load.flush_ms)  # type: ignore[assignment]
            return _measured(Path(folder), load, _Simulated(ours), fed_s, store)
    finally:
        os.fsync = fsync
        simulator.terminate()
        simulator.join()
        os.sched_setaffinity(0, {first, *others})


def _measured(folder: Path, load: Load, executor: _Simulated, fed_s: float, store: int) -> Found:
    from hpo import launch, spec
    from hpo.paths import Home
    from hpo.progress import Progress, Silent

    marks: list[tuple[float, float, int, int]] = []  # at the begin and at the end

    class Watch(Silent):
        """Takes the time once all workers have had a trial, and ends the study later."""

        begun_s: float | None = None

        def show(self, progress: Progress) -> None:
            now_s, history = time.perf_counter(), orchestrator.history
            if self.begun_s is None and history.counted >= load.known + load.workers:
                self.begun_s = now_s
            since_s = 0.0 if self.begun_s is None else now_s - self.begun_s
            if since_s > WARM_S + len(marks) * load.seconds:
                marks.append((now_s, time.process_time(), history.epochs, history.counted))
                if len(marks) == 2:
                    orchestrator.signals += [signal.SIGINT] * 2  # at once

    home, loaded = Home(folder), spec.load(_file(folder, load))
    paths = home.study("scale")
    disk = sum(p.stat().st_size for p in (paths.outbox, paths.journal) if p.exists())
    began_s, before = time.process_time(), psutil.Process().memory_info().rss
    with (
        patch.object(launch, "_open_executor", lambda _: executor),
        launch.opened(loaded, home, Watch()) as orchestrator,
    ):
        opened_s = time.process_time() - began_s
        orchestrator.run()
        memory_mb = (psutil.Process().memory_info().rss - before) / 1e6
    (from_s, cpu_from_s, reports, assigned), (to_s, cpu_to_s, reports_then, assigned_then) = marks
    took_s = to_s - from_s
    waits_s, lags_s = executor.told(from_s, to_s)
    return Found(
        [wait_s * 1e3 for wait_s in waits_s],
        [lag_s * 1e3 for lag_s in lags_s],
        (cpu_to_s - cpu_from_s) / took_s,
        (reports_then - reports) / took_s,
        (assigned_then - assigned) / took_s,
        opened_s,
        memory_mb,
        disk,
        fed_s,
        store,
    )


def _file(folder: Path, load: Load) -> Path:
    file = folder / "study.yaml"
    file.write_text(
        f"{STUDY}train: {{epochs: {load.epochs}}}\nworkers: {load.workers}\n"
        f"sampler: {load.sampler}\nbudget: {{trials: 1000000}}\n"
    )
    return file


def _metrics(trial: int, epoch: int) -> dict[str, float]:
    loss = 1 / epoch + abs(trial % 97 - 48) / 97
    return {"train/loss": loss, "val/loss": 1.1 * loss, "quality": 1 / (1 + loss)}


def _slower(fsync: Callable[[Any], None], more_ms: float) -> Callable[[Any], None]:
    def slower(file: Any) -> None:
        fsync(file)
        time.sleep(more_ms / 1e3)

    return slower if more_ms else fsync


# -- trials that are there already


def _fill(folder: Path, load: Load) -> None:
    """Put trials into the outbox and into Optuna, as if they had been trained."""
    if not load.known:
        return
    import optuna

    from hpo import launch, spec
    from hpo.history import TrialHistory
    from hpo.messages import Finished, Report
    from hpo.paths import Home
    from hpo.progress import Silent
    from hpo.search import ATTRIBUTE, distribution
    from hpo.storages import Journal

    home, loaded = Home(folder), spec.load(_file(folder, load))
    draw, ended = random.Random(0), []
    space = {path: distribution(parameter) for path, parameter in loaded.search.items()}
    with (
        patch.object(launch, "_open_executor", lambda _: _Nobody()),
        launch.opened(loaded, home, Silent()) as orchestrator,
    ):
        record = orchestrator.record
        for number in range(load.known):
            params = {
                "train.lr": 10 ** draw.uniform(-5, 0),
                "train.momentum": draw.uniform(0, 0.99),
            }
            trial = TrialHistory(number, params)
            record.trial(trial, worker=number % load.workers)
            curve = {epoch: _metrics(number, epoch) for epoch in range(1, KNOWN_EPOCHS + 1)}
            for epoch, metrics in curve.items():
                now_ms = time.time_ns() // 1_000_000
                record.epoch(Report(number, epoch, metrics, now_ms, EPOCH_S))
            end = record.end(trial, "complete", "", Finished(number, "complete", KNOWN_EPOCHS))
            ended.append(
                optuna.trial.create_trial(
                    params=params,
                    distributions=space,
                    values=end["values"],
                    intermediate_values={e: each["quality"] for e, each in curve.items()},
                    user_attrs={ATTRIBUTE: {"state": "complete", "last_epoch": KNOWN_EPOCHS}},
                )
            )
            if number % 1000 == 999:
                record.commit()
    storage = Journal(home.study("scale"))
    optuna.load_study(storage=storage, study_name="scale").add_trials(ended)
    storage.close()


def _feed(folder: Path) -> tuple[float, int]:
    from hpo.paths import Home
    from hpo.tracking import sync

    def used_s() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    home, began_s = Home(folder), used_s()
    shipped = sync(home.study("scale"), home, home.tracking_uri)
    assert not shipped.pending, shipped.error
    return used_s() - began_s, sum(path.stat().st_size for path in home.mlruns.glob("mlflow.db*"))


# -- workers


class _Nobody:
    """`hpo.executors.Executor`: workers that are ready, and do nothing."""

    def __init__(self) -> None:
        self._ready: list[Any] = []

    def slots(self, spec: Any, say: Callable[[str], None]) -> Any:
        from hpo.devices import Slot

        return [Slot("cpu", None, 1.0, 1)] * spec.workers

    def start(self, setup: Any) -> None:
        from hpo.executors import Event
        from hpo.messages import Ready

        self._ready.append(Event(setup.worker, Ready(None, "cpu")))

    def send(self, worker: int, message: Any) -> None: ...

    def wait(self, timeout_s: float) -> Sequence[Any]:
        ready, self._ready = self._ready, []
        return ready

    def kill(self, worker: int) -> None: ...

    def close(self) -> None: ...


class _Simulated(_Nobody):
    """The same over the process that plays them."""

    def __init__(self, line: Connection) -> None:
        super().__init__()
        self._line = line
        self._outgoing: list[tuple[int, Any]] = []

    def send(self, worker: int, message: Any) -> None:
        self._outgoing.append((worker, message))

    def wait(self, timeout_s: float) -> Sequence[Any]:
        from hpo.executors import Event

        if self._outgoing:
            self._line.send(self._outgoing)
            self._outgoing = []
        events = list(super().wait(0))
        while self._line.poll(0 if events else timeout_s):
            events += [Event(worker, message) for worker, message in self._line.recv()]
        return events

    def told(self, from_s: float, to_s: float) -> Iterator[list[float]]:
        """How long reports waited for their answers, and workers for a trial, in seconds.

        Args:
            from_s, to_s: Those count that ended between these (`time.perf_counter`).
        """
        self._line.send([(0, "end")])
        while not isinstance(told := self._line.recv(), tuple):
            pass
        return ([took_s for at_s, took_s in each if from_s <= at_s <= to_s] for each in told)


def _simulate(line: Connection, core: int, load: Load) -> None:
    """The process of all workers: a heap of when each has something to say."""
    from hpo.messages import Finished, Orders, Report, Round

    os.sched_setaffinity(0, {core})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    due: list[tuple[float, int, int, int, int]] = []  # when, a tie-break, worker, trial, epoch
    order = itertools.count()
    # Each worker's first trial is shorter, so that they are as far apart as they are later on.
    draw = random.Random(0)
    length = {worker: draw.randint(1, load.epochs) for worker in range(load.workers)}
    sent: dict[int, float] = {}  # worker → when it told what was not answered yet
    idle: dict[int, float] = {}  # worker → since when it has nothing to train
    waits: list[tuple[float, float]] = []  # when the answer came, and how long it took
    lags: list[tuple[float, float]] = []
    parent = os.getppid()
    while os.getppid() == parent:  # not killed
        now_s = time.perf_counter()
        said = []
        while due and due[0][0] <= now_s:
            at_s, _, worker, trial, epoch = heapq.heappop(due)
            if worker in sent:  # it waits for its answer first
                heapq.heappush(due, (now_s + 0.01, next(order), worker, trial, epoch))
                continue
            last = epoch == length[worker]
            now_ms = time.time_ns() // 1_000_000
            told = Report(trial, epoch, _metrics(trial, epoch), now_ms, EPOCH_S, last=last)
            over = [Finished(trial, "complete", epoch * EPOCH_S)] if last else []
            said.append((worker, Round([told], over)))
            sent[worker] = now_s
            if last:
                idle[worker], length[worker] = now_s, load.epochs
            else:
                heapq.heappush(due, (at_s + EPOCH_S, next(order), worker, trial, epoch + 1))
        if said:
            line.send(said)
        until_s = max(0.0, due[0][0] - time.perf_counter()) if due else 0.01
        if not line.poll(min(until_s, 0.01)):
            continue
        for worker, message in line.recv():
            now_s = time.perf_counter()
            if message == "end":
                line.send((waits, lags))
                return
            if not isinstance(message, Orders):
                continue
            if worker in sent:
                waits.append((now_s, now_s - sent.pop(worker)))
            for begun in message.begin:
                if worker in idle:
                    lags.append((now_s, now_s - idle.pop(worker)))
                first = (now_s + EPOCH_S, next(order), worker, begun.number, 1)
                heapq.heappush(due, first)
