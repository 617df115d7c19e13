"""Whatever happens in whatever order, the record of a study holds what was promised.

Hypothesis thinks of the order. The orchestrator, the search, the outbox and the storage are the
real ones; workers are made up, and the orchestrator's process dies by an exception, at any write,
with whatever it had not flushed. 200 orders in CI; ``HPO_ORDERS=2000`` tries so many, of 50 steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scripted import make_scripted
from workbench import Workbench

import hpo.orchestrator
from hpo.errors import StudyFailed
from hpo.executors import Event, Gone
from hpo.history import History
from hpo.messages import Assignment, Finished, Interrupt, Orders, Ready, Report, Round, Setup
from hpo.orchestrator import Orchestrator
from hpo.progress import Silent
from hpo.record import Record
from hpo.requests import Requests, Trials, send
from hpo.search import open_search
from hpo.seats import Seat
from hpo.spec import StudySpec
from hpo.tracking import outbox
from hpo.tracking.outbox import Outbox

pytestmark = pytest.mark.slow

ORDERS = int(os.environ.get("HPO_ORDERS", "200"))
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # no machine dies here: quicker
EPOCHS = 4
RETRIES = 1
SEATS = 2
SESSION = {"host": "here", "pid": 1, "started": 0.0}
SPACES = {
    "endless": {"train.x": {"low": 0.0, "high": 1.0}},
    "small": {"train.x": {"low": 0.0, "high": 1.0, "step": 0.25}, "train.y": ["a", "b"]},
}
STATES = {
    "complete": {TrialState.COMPLETE},
    "pruned": {TrialState.PRUNED},
    "failed": {TrialState.FAIL},
    "stopped": {TrialState.PRUNED, TrialState.FAIL},
}


class Killed(BaseException):
    """The orchestrator's process ends here."""


def quality(x: float, epoch: int) -> float:
    return 1 - (x - 0.3) ** 2 - 0.01 * abs(epoch - 2)


@dataclass
class Going:
    assignment: Assignment
    epoch: int  # the last one trained
    until: int | None


@dataclass
class Worker:
    """One that trains a trial at a time, as the orchestrator sees it.

    Attributes:
        saved: Trial → epochs of which there is a checkpoint.
    """

    saved: dict[int, set[int]]
    going: Going | None = None
    told: Sequence[Report] = ()  # in the round that is not answered yet
    awaits: bool = False
    interrupted: bool = False
    over: list[Finished] = field(default_factory=list)

    def leave(self, outcome: Any, reason: str = "") -> None:
        if self.going is not None:
            number = self.going.assignment.number
            self.over.append(Finished(number, outcome, 0.01, reason))
            self.going = None

    def round(self) -> Round | None:
        """An epoch of its trial, or how it ended."""
        if self.interrupted:
            self.leave("interrupted")
        elif self.going is not None and self.going.epoch == EPOCHS:
            self.leave("complete")
        reports = []
        if self.going is not None:
            self.going.epoch += 1
            number, epoch = self.going.assignment.number, self.going.epoch
            x = self.going.assignment.params["train"]["x"]
            if epoch > self.going.assignment.recorded:
                metrics, now_ms = {"quality": quality(x, epoch)}, time.time_ns() // 10**6
                waits = epoch == self.going.until != EPOCHS
                if waits:
                    self.saved.setdefault(number, set()).add(epoch)
                    folder = self.going.assignment.folder
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"epoch-{epoch}.pt").write_bytes(b"a state")
                reports.append(Report(number, epoch, metrics, now_ms, 0.01, waits=waits))
        finished, self.over = self.over, []
        if not reports and not finished:
            return None
        self.told, self.awaits = reports, True
        return Round(reports, finished)


class Workers:
    """`hpo.executors.Executor` whose workers do what the test says."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.workers: dict[int, Worker] = {}
        self.arrived: list[Event] = []

    def start(self, setup: Setup) -> None:
        self.workers[setup.worker] = Worker(self._machine.saved)
        self.arrived.append(Event(setup.worker, Ready(None, "cpu")))

    def send(self, worker: int, message: Any) -> None:
        found = self.workers.get(worker)
        if found is None:
            return
        if isinstance(message, Interrupt):
            found.interrupted = True
        if isinstance(message, Orders):
            self._machine.acknowledged |= {
                (each.number, each.epoch): each.metrics["quality"] for each in found.told
            }
            waited = any(each.waits for each in found.told)
            found.told, found.awaits = (), False
            if found.going is not None:
                number = found.going.assignment.number
                if number in message.stop:
                    found.leave("stop")
                elif number in message.until:
                    assert waited
                    found.going.until = message.until[number]
                elif waited:
                    found.leave("paused")
            for assignment in message.begin:
                assert found.going is None, "a worker trains one trial at a time"
                saved = self._machine.saved.get(assignment.number, set())
                begin = max((e for e in saved if e <= assignment.recorded), default=0)
                assert self._machine.orchestrator is not None
                trial = self._machine.orchestrator.history.trials[assignment.number]
                if assignment.recorded in trial.targets[:-1]:
                    assert begin == assignment.recorded, "a paused trial has lost its checkpoint"
                found.going = Going(assignment, begin, assignment.until)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def kill(self, worker: int) -> None:
        self.workers.pop(worker, None)
        self.arrived = [event for event in self.arrived if event.worker != worker]

    def close(self) -> None:
        self.workers = {}


class Clock:
    """Stands for `time` in the orchestrator: what it does in a turn is to depend on the order of
    things alone, not on how long a database took."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 0.011
        return self.now_s


CLOCK = Clock()


class Machine(RuleBasedStateMachine):
    """A study, and what is known of it for sure."""

    address: Callable[[Path], str]  # of a storage for a study in a folder

    # -- its sessions

    @initialize(
        space=st.sampled_from([*sorted(SPACES), "paused"]),
        pruner=st.sampled_from(["none", "median"]),
    )
    def begin(self, space: str, pruner: str) -> None:
        CLOCK.now_s = 0.0
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.bench = Workbench(Path(self.folder.name))
        self.storage = type(self).address(self.bench.folder)
        self.space = space
        methods: dict[str, Any] = {
            "pruner": pruner if pruner == "none" else {"name": pruner, "n_startup_trials": 2}
        }
        if space == "paused":
            text = self.bench.file.read_text().replace("sampler: random\n", "")
            self.bench.file.write_text(text)
            methods = {
                "strategy": {"name": "freeze-thaw", "max_paused": 2},
                "budget": {"trials": 5, "epochs": 1000},
            }
        self.spec: StudySpec = self.bench.load(
            storage=self.storage,
            search=SPACES["endless" if space == "paused" else space],
            train={"epochs": EPOCHS, "x": 0.5, "y": "a"},
            **methods,
            retries=RETRIES,
            timeout="1h",
            executor="processes",
            workers=SEATS,
        )
        self.budget = self.allowed = 5
        self.acknowledged: dict[tuple[int, int], float] = {}
        self.saved: dict[int, set[int]] = {}  # trial → epochs of which there is a checkpoint
        self.params: dict[int, Any] = {}
        self.ends: dict[int, Any] = {}
        self.completed = False
        self.fuse: int | None = None
        self.orchestrator: Orchestrator | None = None
        self.opened()

    def opened(self) -> None:
        """Begin a session, as `hpo.launch.opened` does."""
        paths, spec = self.bench.paths, self.spec.with_trials(self.budget)
        history = History.read(paths.outbox, ["quality"], maximize=True)
        self.allowed = max(self.budget, history.counted)
        self.outbox = Outbox(paths.outbox)
        self.search = open_search(spec, paths, history, EPOCHS)
        self.workers = Workers(self)
        seats = []
        for number in range(SEATS):
            nothing: dict[str, Any] = {"data": {}, "model": {}, "train": {}}
            setup = Setup(
                *(number, "told:train", paths.root, nothing, [], paths.root, "cpu", None, 1, 1.0)
            )
            self.workers.workers[number] = Worker(self.saved)
            seats.append(Seat(setup, ready=True))
        self.lay_fuse()
        with self.mortal():
            self.orchestrator = Orchestrator(
                spec,
                paths,
                Record(spec, paths, history, self.outbox),
                self.search,
                self.workers,
                seats,
                Silent(),
                Ready(None, "cpu"),
                Requests(paths, SESSION),
            )

    def lay_fuse(self) -> None:
        """Let the process die at a write, if `fuse` says at which."""

        def burning(write: Callable[..., Any]) -> Callable[..., Any]:
            def burn_and_write(*args: Any) -> Any:
                self.burn()
                result = write(*args)
                self.burn()
                return result

            return burn_and_write

        self.outbox.append = burning(self.outbox.append)  # type: ignore[method-assign]
        self.outbox.commit = burning(self.outbox.commit)  # type: ignore[method-assign]
        storage: Any = self.search._storage
        if self.storage == "journal":
            storage._file.append_logs = burning(storage._file.append_logs)
            storage._file.commit = burning(storage._file.commit)
        else:
            storage.engine.dialect.do_commit = burning(storage.engine.dialect.do_commit)

    def burn(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                raise Killed

    @contextlib.contextmanager
    def mortal(self) -> Iterator[None]:
        try:
            yield
        except Killed:
            self.die()
        except StudyFailed as failed:
            self.completed = True
            self.record_end(str(failed))
            self.close()

    def record_end(self, reason: str) -> None:
        assert self.orchestrator is not None
        with self.mortal():
            self.orchestrator.record.study_end("failed", reason)

    def die(self) -> None:
        """What was not flushed is lost; what is on the disk stays as it is."""
        files = [self.outbox._file]
        storage: Any = self.search._storage
        if self.storage == "journal":
            files.append(storage._file._file)
        with open(os.devnull, "wb") as nothing:
            for file in files:
                if not file.closed:
                    os.dup2(nothing.fileno(), file.fileno())
                    file.close()
        if self.storage != "journal":
            storage.engine.dispose()
        self.orchestrator = self.fuse = None
        self.check_outbox()

    def close(self) -> None:
        """End the session in good order."""
        if self.orchestrator is None:
            return
        with self.mortal():
            self.search.close()
            self.outbox.close()
            self.orchestrator = self.fuse = None
            self.check_outbox()
            self.check_storage()

    def turn(self) -> None:
        assert self.orchestrator is not None
        with self.mortal():
            if self.orchestrator._over():
                self.orchestrator._close_down()
                assert self.orchestrator.ending is not None
                self.completed = self.orchestrator.ending.state == "complete"
                if self.completed:
                    left = self.orchestrator.history.trials.values()
                    assert all(trial.end for trial in left), "begun, and never ended"
                self.close()
            else:
                self.orchestrator.ticked_s = -float("inf")
                self.orchestrator.turn()
                trials = self.orchestrator.spec.budget.trials
                assert trials is not None
                self.budget = trials
                self.allowed = max(self.allowed, trials)

    def worker(self, number: int) -> Worker | None:
        return self.workers.workers.get(number)

    # -- what can happen while it runs

    runs = precondition(lambda self: self.orchestrator is not None)
    seat = st.integers(0, SEATS - 1)

    @runs
    @rule(numbers=st.sampled_from([(0, 1), (1, 0), (0,), (1,)]), turns=st.integers(1, 12))
    def train(self, numbers: Sequence[int], turns: int) -> None:
        """Workers tell of an epoch, and the orchestrator goes on; a few times."""
        for _ in range(turns):
            for number in numbers:
                self.tell_only(number)
            if self.orchestrator is not None:
                self.turn()

    @runs
    @rule(number=seat)
    def tell_only(self, number: int) -> None:
        worker = self.worker(number)
        if worker is not None and not worker.awaits and (told := worker.round()):
            self.workers.arrived.append(Event(number, told))

    @runs
    @rule(number=seat)
    def checkpoint(self, number: int) -> None:
        worker = self.worker(number)
        if worker is not None and worker.going is not None and worker.going.epoch:
            assignment = worker.going.assignment
            self.saved.setdefault(assignment.number, set()).add(worker.going.epoch)

    @runs
    @rule(number=seat)
    def fail(self, number: int) -> None:
        """A trainer raises something."""
        worker = self.worker(number)
        if worker is not None and not worker.awaits:
            worker.leave("failed", f"ValueError: {'abcdefgh'[len(self.ends) % 8]}")

    @runs
    @rule(number=seat)
    def worker_dies(self, number: int) -> None:
        if self.workers.workers.pop(number, None):
            self.workers.arrived.append(Event(number, Gone("the worker died of SIGKILL")))

    @runs
    @rule(number=seat)
    def expire(self, number: int) -> None:
        """A trial ignores its timeout."""
        assert self.orchestrator is not None
        for training in self.orchestrator.seats[number].trainings.values():
            training.began_s -= 2 * 3600

    @runs
    @rule(sure=st.sampled_from([False, False, False, True]))
    def stop(self, sure: bool) -> None:
        assert self.orchestrator is not None
        if sure:  # a session that ends at once shows little
            self.orchestrator.signals.append(signal.SIGINT)

    @runs
    @rule(more=st.integers(1, 3))
    def ask_for_more(self, more: int) -> None:
        send(self.bench.paths, SESSION, Trials(more, more=True))

    @runs
    @rule(writes=st.integers(0, 40))
    def kill(self, writes: int) -> None:
        """At the next write, or some writes later."""
        self.fuse = writes

    # -- what can happen while it does not

    rests = precondition(lambda self: self.orchestrator is None)

    @rests
    @rule(
        change=st.integers(-3, 4),
        torn=st.none() | st.sampled_from(["outbox", "journal"]),
        length=st.integers(1, 40),
        writes=st.none() | st.integers(0, 12),
    )
    def resume(self, change: int, torn: str | None, length: int, writes: int | None) -> None:
        """With another budget; perhaps over a last line that was being written, and perhaps only
        to be killed again.
        """
        path = self.bench.paths.outbox if torn == "outbox" else self.bench.paths.journal
        if torn is not None and path.is_file():
            line = outbox.encode({"kind": "epoch", "number": 0, "epoch": 1, "metrics": {}})
            with open(path, "ab") as file:
                file.write(line[:length] if torn == "outbox" else line[9 : 9 + length])
        self.budget, self.fuse = max(1, self.budget + change), writes
        self.opened()

    # -- what always holds

    def check_outbox(self) -> None:
        records = [record for record, _ in outbox.read(self.bench.paths.outbox)]
        of = {
            kind: [r for r in records if r["kind"] == kind] for kind in ("trial", "epoch", "end")
        }
        begun = [r["number"] for r in of["trial"] if r["attempt"] == 1]
        assert len(begun) == len(set(begun)), "a number was given twice"
        assert {r["number"] for r in of["trial"]} == set(begun)
        for record in of["trial"]:
            before = self.params.setdefault(record["number"], record["params"])
            assert record["params"] == before, "a trial's parameters changed"
            assert record["crashes"] <= RETRIES
        twins = {r["number"] for r in of["end"] if "duplicate_of" in r}
        assert len(set(begun) - twins) <= self.allowed, "more trials than the budget has"
        epochs = {(r["number"], r["epoch"]): r["metrics"]["quality"] for r in of["epoch"]}
        assert len(epochs) == len(of["epoch"]), "an epoch was recorded twice"
        assert self.acknowledged.items() <= epochs.items(), "an acknowledged epoch is lost"
        for (number, epoch), value in epochs.items():
            assert value == quality(self.params[number].get("train.x"), epoch)
            assert epoch == 1 or (number, epoch - 1) in epochs, "a curve has a gap"
        ended = Counter(r["number"] for r in of["end"])
        assert all(count == 1 for count in ended.values()), "a trial ended twice"
        now = {r["number"]: r for r in of["end"]}
        assert self.ends.items() <= now.items(), "a finished trial changed"
        self.ends = now
        self.epochs = epochs

    def check_storage(self) -> None:
        """After a session that ended in good order."""
        trials = self.optuna_trials()
        assert [t.number for t in trials] == list(range(len(trials)))
        for trial in trials:
            assert trial.state != TrialState.RUNNING
            end = self.ends.get(trial.number)
            if end is None:
                assert trial.state == TrialState.WAITING, "finished in Optuna only"
            else:
                assert trial.state in STATES[end["state"]]
                if trial.value is not None:
                    assert [trial.value] == end["values"]
            known = {(trial.number, e): v for e, v in trial.intermediate_values.items()}
            assert known == {at: v for at, v in self.epochs.items() if at[0] == trial.number}
            if trial.number in self.params:
                assert trial.params == self.params[trial.number]

    def optuna_trials(self) -> list[optuna.trial.FrozenTrial]:
        if self.storage == "journal":
            file = JournalFileBackend(str(self.bench.paths.journal))
            storage: Any = optuna.storages.JournalStorage(file)
            return optuna.load_study(storage=storage, study_name="s").trials
        storage = optuna.storages.RDBStorage(self.storage)
        trials = optuna.load_study(storage=storage, study_name="s").trials
        storage.engine.dispose()
        return trials

    @invariant()
    def suggestions_depend_on_the_number_only(self) -> None:
        for number, params in getattr(self, "params", {}).items():
            if self.space == "endless":
                assert params["train.x"] == SUGGESTED[number]

    def teardown(self) -> None:
        """Undisturbed from here, it completes."""
        if not hasattr(self, "folder"):
            return
        try:
            self.fuse, self.completed = None, False
            for _ in range(2000):
                if self.orchestrator is None:
                    if self.completed:
                        break
                    self.opened()
                for number in range(SEATS):
                    self.tell_only(number)
                self.turn()
            assert self.completed, "it does not come to its end"
            assert sorted(self.params) == list(range(len(self.params))), "a number is missing"
        finally:
            if self.orchestrator is not None:
                self.die()
            self.folder.cleanup()


SUGGESTED: list[float] = []


@pytest.fixture(scope="module", autouse=True)
def scripted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpo.orchestrator, "make_strategy", make_scripted)
        patch.setattr(hpo.orchestrator, "time", CLOCK)
        yield


@pytest.fixture(scope="module", autouse=True)
def suggested(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What an undisturbed study of one worker tries."""
    bench = Workbench(tmp_path_factory.mktemp("undisturbed"))
    bench.run(budget__trials=100, train__epochs=1)
    SUGGESTED[:] = [r["params"]["train.x"] for r in bench.records("trial")]


@pytest.mark.parametrize(
    ("storage", "share"), [("journal", 0.8), ("sqlite", 0.1), ("postgresql", 0.1)]
)
def test_whatever_happens_the_record_holds(
    request: pytest.FixtureRequest, storage: str, share: float
) -> None:
    address: Callable[[Path], str] = {
        "journal": lambda _: "journal",
        "sqlite": lambda folder: f"sqlite:///{folder}/optuna.db",
        "postgresql": lambda _: request.getfixturevalue("database_server").new_database(),
    }[storage]

    class Stored(Machine):
        pass

    Stored.address = staticmethod(address)
    run_state_machine_as_test(
        Stored,
        settings=settings(
            max_examples=round(ORDERS * share),
            stateful_step_count=50,
            deadline=None,
            derandomize="HPO_ORDERS" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )
