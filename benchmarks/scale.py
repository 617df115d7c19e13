"""What a study costs on a cluster, and how many workers one orchestrator serves.

* ``ray``: trivial trials of 20 epochs on a local Ray cluster with two places, against Ray Tune
  with OptunaSearch on the same cluster. Of hpo from the first trial's begin until all of it is in
  the outbox, in Optuna and in MLflow; of Ray Tune the time in ``Tuner.fit``. What counts is what
  more trials take: the difference between two numbers of trials, so that no start is in it.
* ``workers``: an orchestrator on one core with 1,000 workers, each of which reports an epoch a
  second, of trials of 30 epochs. The workers are simulated, all in one process on another core:
  they say what workers say, when workers would. How long a report waits for its answer, which says
  that it is on record; and how long a worker has nothing to train between two trials. Random
  search, journal; MLflow, which is fed by a process of its own, is left out.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from load import percentile
from measure import Figure, report, say
from overhead import RAY, Hpo, script

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

EPOCHS = 30
TRIAL = """
study: scale
trainer: scale:none
train: {epochs: 30}
search:
  train.lr: {low: 1.0e-5, high: 1.0, log: true}
  train.momentum: {low: 0.0, high: 0.99}
objective: {metric: quality, goal: maximize}
sampler: random
device: cpu
"""


def on_ray(
    ours: Sequence[int], theirs: Sequence[int]
) -> tuple[list[tuple[str, str]], list[Figure]]:
    """A trial's time on both sides, from two numbers of trials of each."""
    import ray_cluster

    with ray_cluster.running(num_cpus=2) as cluster:
        hpo = Hpo(f"executor: {{name: ray, address: '{cluster.address}'}}\n")
        source = RAY.replace(
            "ray.init(num_cpus=2, include_dashboard=False", f"ray.init('{cluster.address}'"
        )
        ours_s = slope(ours, lambda trials: trials * hpo(trials))
        tune_s = slope(theirs, lambda trials: trials * script(source, trials))
    rows = [
        ("hpo, {} to {} trials".format(*ours), f"{1 / ours_s:.1f} trials/s"),
        ("Ray Tune + OptunaSearch, {} to {}".format(*theirs), f"{1 / tune_s:.2f} trials/s"),
    ]
    return rows, [Figure("trials a second, against Ray Tune", tune_s / ours_s, 10, at_most=False)]


def slope(counts: Sequence[int], seconds: Callable[[int], float]) -> float:
    """What one more trial takes, in seconds."""
    few, many = counts
    few_s = seconds(few)
    many_s = seconds(many)
    say(f"{few} trials in {few_s:.1f} s, {many} in {many_s:.1f} s")
    return (many_s - few_s) / (many - few)


def simulate(line: Connection, core: int, workers: int) -> None:
    """The process of all workers: a heap of when each has something to say."""
    from hpo.messages import Finished, Orders, Ready, Report, Round, Setup

    os.sched_setaffinity(0, {core})
    due: list[tuple[float, int, int, int, int]] = []  # when, worker, a tie-break, trial, epoch
    order = itertools.count()
    # Each worker's first trial is shorter, so that they are as far apart as they are later on.
    draw = random.Random(0)
    length = {worker: draw.randint(1, EPOCHS) for worker in range(workers)}
    sent: dict[int, float] = {}  # worker → when it told what was not answered yet
    idle: dict[int, float] = {}  # worker → since when it has nothing to train
    began: set[int] = set()
    waits_s: list[float] = []
    lags_s: list[float] = []
    while True:
        now = time.perf_counter()
        said = []
        while due and due[0][0] <= now:
            at, worker, _, trial, epoch = heapq.heappop(due)
            if worker in sent:  # it waits for its answer first
                heapq.heappush(due, (now + 0.01, worker, next(order), trial, epoch))
                continue
            metrics = {"quality": 1.0 / (1 + abs(trial % 97 - 48) + epoch)}
            facts = (metrics, time.time_ns() // 1_000_000, 1.0)
            last = epoch == length[worker]
            over = [Finished(trial, "complete", float(epoch))] if last else []
            said.append((worker, Round([Report(trial, epoch, *facts, last=last)], over)))
            sent[worker] = now
            if last:
                idle[worker], length[worker] = now, EPOCHS
            else:
                heapq.heappush(due, (at + 1.0, worker, next(order), trial, epoch + 1))
        if said:
            line.send(said)
        until_s = max(0.0, (due[0][0] if due else now + 0.01) - time.perf_counter())
        if not line.poll(min(until_s, 0.01)):
            continue
        for worker, message in line.recv():
            now = time.perf_counter()
            if message == "end":
                line.send((waits_s, lags_s))
                return
            if isinstance(message, Setup):
                line.send([(worker, Ready(None, "cpu"))])
            if not isinstance(message, Orders):
                continue
            if worker in sent:
                waits_s.append(now - sent.pop(worker))
            for trial in message.begin:
                began.add(worker)
                if worker in idle:
                    lag_s = now - idle.pop(worker)
                    lags_s += [lag_s] if len(began) == workers else []  # once all have begun
                heapq.heappush(due, (now + 1.0, worker, next(order), trial.number, 1))


class Simulated:
    """`hpo.executors.Executor` over the process that simulates all workers."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._outgoing: list[tuple[int, Any]] = []

    def slots(self, spec: Any, say: Callable[[str], None]) -> Any:
        from hpo.devices import Slot

        return [Slot("cpu", None, 1.0, 1)] * spec.workers

    def start(self, setup: Any) -> None:
        self._outgoing.append((setup.worker, setup))

    def send(self, worker: int, message: Any) -> None:
        self._outgoing.append((worker, message))

    def wait(self, timeout_s: float) -> Sequence[Any]:
        from hpo.executors import Event

        self._flush()
        events = []
        while self._line.poll(0 if events else timeout_s):
            events += [Event(worker, message) for worker, message in self._line.recv()]
        return events

    def kill(self, worker: int) -> None:
        raise AssertionError("nobody is to be killed here")

    def close(self) -> None: ...

    def measured(self) -> tuple[list[float], list[float]]:
        """How long reports waited for their answers, and workers for a trial, in seconds."""
        self._line.send([(0, "end")])
        while not isinstance(told := self._line.recv(), tuple):
            pass
        return told[0], told[1]

    def _flush(self) -> None:
        if self._outgoing:
            self._line.send(self._outgoing)
            self._outgoing = []


def with_workers(workers: int, trials: int) -> dict[str, float]:
    """One study; CPU seconds of its orchestrator, latencies in ms."""
    from hpo import launch, spec
    from hpo.paths import Home
    from hpo.progress import Silent

    first, *others = sorted(os.sched_getaffinity(0))
    ours, theirs = Pipe()
    simulator = Process(target=simulate, args=(theirs, (others or [first])[-1], workers))
    simulator.start()
    executor = Simulated(ours)
    launch._open_executor = lambda _: executor
    os.sched_setaffinity(0, {first})
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        file = Path(folder) / "study.yaml"
        file.write_text(f"{TRIAL}workers: {workers}\nbudget: {{trials: {trials}}}\n")
        with launch.opened(spec.load(file), home, Silent()) as orchestrator:
            began_s, cpu_s = time.perf_counter(), time.process_time()
            orchestrator.run()
            took_s = time.perf_counter() - began_s
            cpu_s = time.process_time() - cpu_s
            assert len(orchestrator.history.ended) == trials
    waits_s, lags_s = executor.measured()
    simulator.join()
    os.sched_setaffinity(0, {first, *others})
    return {
        "wait p50": percentile(waits_s, 50) * 1e3,
        "wait p99": percentile(waits_s, 99) * 1e3,
        "lag p50": percentile(lags_s, 50) * 1e3,
        "lag p95": percentile(lags_s, 95) * 1e3,
        "took": took_s,
        "cpu a report": cpu_s / len(waits_s) * 1e3,
        "cpu": 100 * cpu_s / took_s,
    }


def of_workers(counts: Sequence[int]) -> tuple[list[tuple[str, str]], list[Figure]]:
    rows = []
    for workers in counts:
        found = with_workers(workers, 2 * workers)
        say(f"{workers} workers: {found}")
        rows += [
            (
                f"{workers:,} workers: a report's answer, median / p99",
                f"{found['wait p50']:.1f} / {found['wait p99']:.1f} ms",
            ),
            (
                f"{workers:,} workers: between two trials, median / p95",
                f"{found['lag p50']:.1f} / {found['lag p95']:.1f} ms",
            ),
            (
                f"{workers:,} workers: the orchestrator's core",
                f"{found['cpu']:.0f} %, {found['cpu a report']:.2f} ms a report",
            ),
        ]
    return rows, [
        Figure(f"p99 of an answer, {workers:,} workers", found["wait p99"], 1000, "ms"),
        Figure(f"p95 between two trials, {workers:,} workers", found["lag p95"], 200, "ms"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["ray", "workers"])
    parser.add_argument("--workers", type=int, nargs="+", default=[250, 500, 1000])
    of_each = "two numbers of trials of"
    parser.add_argument("--trials", type=int, nargs=2, default=(30, 150), help=f"{of_each} hpo")
    parser.add_argument("--theirs", type=int, nargs=2, default=(6, 26), help=f"{of_each} Ray Tune")
    told = parser.parse_args()
    found = on_ray(told.trials, told.theirs) if told.part == "ray" else of_workers(told.workers)
    report(f"scale: {told.part}", *found)


if __name__ == "__main__":
    main()
