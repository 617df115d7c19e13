"""What every storage keeps: the same study in each; and of databases, that their faults pass."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import postgres
import pytest
import sqlalchemy
from optuna.trial import TrialState
from workbench import Workbench

from hpo import database
from hpo.database import Database
from hpo.errors import HpoError, StorageLost, UserError
from hpo.history import History
from hpo.search import open_search

pytestmark = pytest.mark.slow

DATABASES = ["sqlite", "postgresql"]
SLOW_EPOCHS = {"train__epochs": 10, "train__seconds": 0.01, "budget__trials": 8}


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.server() as running:
        yield running


@pytest.fixture
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new storage, of the kind that the test asks for."""
    if request.param == "journal":
        return "journal"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/optuna.db"
    running: postgres.Server = request.getfixturevalue("server")
    return running.new_database()


def as_optuna_reads(bench: Workbench, address: str, study: str = "s") -> Any:
    if address == "journal":
        return bench.optuna_trials(study)
    storage = optuna.storages.RDBStorage(address)
    trials = optuna.load_study(storage=storage, study_name=study).trials
    storage.engine.dispose()
    return trials


def curves(bench: Workbench, study: str = "s") -> dict[tuple[int, int], float]:
    records = bench.records("epoch", study)
    found = {(r["number"], r["epoch"]): r["metrics"]["quality"] for r in records}
    assert len(found) == len(records), "an epoch was recorded twice"
    return found


def assert_whole(bench: Workbench, address: str, trials: int, study: str = "s") -> None:
    """Each trial once and complete, and Optuna knows what the outbox knows."""
    ends = bench.records("end", study)
    assert sorted(end["number"] for end in ends) == list(range(trials))
    known = as_optuna_reads(bench, address, study)
    assert [t.state for t in known] == [TrialState.COMPLETE] * trials
    reported = {(t.number, e): v for t in known for e, v in t.intermediate_values.items()}
    assert reported == curves(bench, study)
    assert {t.number: [t.value] for t in known} == {end["number"]: end["values"] for end in ends}


@pytest.mark.parametrize("address", ["journal", *DATABASES], indirect=True)
def test_a_study_is_the_same_in_every_storage(
    bench: Workbench, another_bench: Callable[[], Workbench], address: str
) -> None:
    options = {"pruner": "median", "train__epochs": 6, "sampler": "tpe"}
    bench.run(**options, storage=address)
    bench.run(**options, storage=address, budget__trials=13)
    other = another_bench()
    other.run(**options, budget__trials=13)
    assert curves(bench) == curves(other)
    states = [t.state for t in as_optuna_reads(bench, address)]
    assert states == [t.state for t in other.optuna_trials()]
    assert TrialState.PRUNED in states


SEARCH_SPACE = {
    "train.x": {"low": 0.0, "high": 1.0},
    "train.kind": ["a", "b"],
    "train.y": {"low": 1e-5, "high": 1.0, "log": True, "when": {"train.kind": "a"}},
}


def suggestions(bench: Workbench, address: str) -> list[tuple[int, Any]]:
    """Of a sampler that looks at the trials in training, too: five at a time."""
    sampler = {"name": "tpe", "n_startup_trials": 4}
    spec = bench.load(storage=address, sampler=sampler, search=SEARCH_SPACE, pruner="hyperband")
    bench.paths.root.mkdir(parents=True, exist_ok=True)
    search = open_search(spec, bench.paths, History(["quality"], maximize=True), 4)
    asked = []
    for _ in range(30):
        suggestion = search.ask()
        assert suggestion is not None
        asked.append(suggestion)
        if len(asked) % 5 == 0:
            for trial in asked[-5:-2]:
                for epoch in (1, 2):
                    search.report(trial.number, epoch, [trial.params["train.x"] * epoch])
                search.tell(trial.number, "complete", [trial.params["train.x"]], {})
    search.close()
    return [(trial.number, trial.params) for trial in asked]


@pytest.mark.parametrize("address", DATABASES, indirect=True)
def test_suggestions_while_others_train_are_the_same_in_every_storage(
    bench: Workbench, another_bench: Callable[[], Workbench], address: str
) -> None:
    assert suggestions(bench, address) == suggestions(another_bench(), "journal")


@contextlib.contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while a study runs; its errors are the test's."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert not errors, errors


def wait_for(what: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_epochs(bench: Workbench, count: int) -> bool:
    return bench.paths.outbox.is_file() and len(bench.records("epoch")) >= count


# -- row 24 of the fault matrix: PostgreSQL goes away


def test_row_24_connections_that_are_cut_are_made_again(
    bench: Workbench, server: postgres.Server
) -> None:
    address = server.new_database()
    over = threading.Event()

    def cut() -> None:
        wait_for(lambda: has_epochs(bench, 1))
        while not over.wait(0.05):
            server.cut_connections()

    with meanwhile(cut):
        bench.run(**SLOW_EPOCHS, storage=address)
        over.set()
    assert_whole(bench, address, trials=8)


def test_row_24_a_server_that_crashes_is_waited_for(
    bench: Workbench, server: postgres.Server
) -> None:
    address = server.new_database()

    def crash() -> None:
        wait_for(lambda: has_epochs(bench, 15))
        server.crash()
        time.sleep(3)
        server.start()

    with meanwhile(crash):
        bench.run(**SLOW_EPOCHS, storage=address)
    assert_whole(bench, address, trials=8)
    waits = [text for text in bench.said if "waiting for it" in text]
    assert len(waits) == 1
    assert sum("goes on after" in text for text in bench.said) == 1


def test_row_24_who_does_not_want_to_wait_loses_nothing(
    bench: Workbench, server: postgres.Server
) -> None:
    address = server.new_database()

    def crash() -> None:
        wait_for(lambda: has_epochs(bench, 15))
        server.crash()
        wait_for(lambda: any("waiting for it" in text for text in bench.said))
        os.kill(os.getpid(), signal.SIGINT)

    with meanwhile(crash), pytest.raises(StorageLost) as lost:
        bench.run(**SLOW_EPOCHS, storage=address)
    assert "run the same command" in str(lost.value)
    with pytest.raises(HpoError, match="cannot be opened"):  # at once: nobody knows it was right
        bench.run(**SLOW_EPOCHS, storage=address)
    server.start()
    bench.run(**SLOW_EPOCHS, storage=address)
    assert_whole(bench, address, trials=8)


def test_row_24_a_server_that_refuses_is_not_waited_for(
    bench: Workbench, server: postgres.Server
) -> None:
    server.execute("create role runner superuser login")
    address = server.new_database().replace("postgres@", "runner@")

    def refuse() -> None:
        wait_for(lambda: has_epochs(bench, 15))
        server.execute("alter role runner nologin")
        server.cut_connections()

    with meanwhile(refuse), pytest.raises(StorageLost, match="not permitted to log in"):
        bench.run(**SLOW_EPOCHS, storage=address)
    assert not any("waiting for it" in text for text in bench.said)
    server.execute("alter role runner login")
    bench.run(**SLOW_EPOCHS, storage=address)
    assert_whole(bench, address, trials=8)


def break_connections(
    monkeypatch: pytest.MonkeyPatch, every: int, most: float = math.inf
) -> Counter[str]:
    """Break connections between one in so many commits and its answer; counts how often."""
    broken: Counter[str] = Counter()

    def break_after(engine: sqlalchemy.Engine) -> None:
        commit, commits = engine.dialect.do_commit, itertools.count(1)

        def commit_then_break(connection: Any) -> None:
            commit(connection)
            if next(commits) % every == 0 and broken.total() < most:
                broken[engine.name] += 1
                raise engine.dialect.dbapi.OperationalError("database is locked")

        engine.dialect.do_commit = commit_then_break  # type: ignore[method-assign]

    opened = Database.__init__

    def open_and_break(self: Database, *args: Any) -> None:
        opened(self, *args)
        break_after(self.engine)

    monkeypatch.setattr(Database, "__init__", open_and_break)
    monkeypatch.setattr(database, "AGAIN_S", 0.0)
    monkeypatch.setattr("optuna.storages._rdb.storage.random.random", lambda: 0.0)
    return broken


@pytest.mark.parametrize("address", DATABASES, indirect=True)
def test_row_24_a_study_is_made_anew_once_although_answers_are_lost(
    bench: Workbench, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(storage=address, budget__trials=3)
    broken = break_connections(monkeypatch, every=2, most=30)  # it is begun anew after each
    wider = {"train.x": {"low": -1.0, "high": 2.0}}
    bench.run(storage=address, budget__trials=5, search=wider, accept_changes=True)
    assert broken.total() == 30
    monkeypatch.undo()
    ends = bench.records("end")
    finished = [t for t in as_optuna_reads(bench, address) if t.state != TrialState.WAITING]
    assert [t.number for t in finished] == list(range(5)) == [end["number"] for end in ends]
    assert [t.params for t in finished] == [r["params"] for r in bench.records("trial")]


@pytest.mark.parametrize("address", DATABASES, indirect=True)
@pytest.mark.parametrize("every", [2, 3, 7])
def test_row_24_what_was_done_before_its_answer_was_lost_is_not_done_twice(
    bench: Workbench, address: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = break_connections(monkeypatch, every)
    bench.run(storage=address, start_from=[{"train.x": 0.25}])
    assert broken.total() > 5
    monkeypatch.undo()
    # A known configuration that was named twice is answered from its twin's record. A trial that
    # was made twice waits, to be the next one.
    ends = bench.records("end")
    assert len([end for end in ends if "duplicate_of" not in end]) == 5
    known = as_optuna_reads(bench, address)
    assert TrialState.RUNNING not in {t.state for t in known}
    finished = [t.number for t in known if t.state != TrialState.WAITING]
    assert finished == sorted(end["number"] for end in ends) == list(range(len(ends)))
    reported = {(t.number, e): v for t in known for e, v in t.intermediate_values.items()}
    assert reported == curves(bench)
    assert known[0].params == {"train.x": 0.25}


# -- row 11: another program has locked a SQLite file


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, check_same_thread=False)) as holder:
        holder.execute("begin immediate")
        yield
        holder.rollback()


def test_row_11_a_locked_file_is_waited_for(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    file = bench.folder / "optuna.db"

    def hold() -> None:
        wait_for(lambda: has_epochs(bench, 5))
        with locked(file):
            wait_for(lambda: any("database is locked; waiting" in text for text in bench.said))

    with meanwhile(hold):
        bench.run(**SLOW_EPOCHS, storage=f"sqlite:///{file}")
    assert_whole(bench, f"sqlite:///{file}", trials=8)


def test_row_11_a_file_that_stays_locked_ends_the_study_in_one_line(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    monkeypatch.setattr(database, "LOCKED_S", 1.0)
    file, over = bench.folder / "optuna.db", threading.Event()

    def hold() -> None:
        wait_for(lambda: has_epochs(bench, 5))
        with locked(file):
            over.wait()

    with meanwhile(hold):
        with pytest.raises(StorageLost, match=r"optuna\.db: database is locked \(waited \d+ s\)"):
            bench.run(**SLOW_EPOCHS, storage=f"sqlite:///{file}")
        over.set()
    bench.run(**SLOW_EPOCHS, storage=f"sqlite:///{file}")
    assert_whole(bench, f"sqlite:///{file}", trials=8)


# -- who is let in


def test_a_password_comes_from_the_environment_or_a_service_file(
    bench: Workbench, server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "canary-of-ada-88e2"
    server.ask_for_password("ada", secret)
    address = server.new_database().replace("postgres@", "ada@")
    with pytest.raises(HpoError, match=r"no password supplied\nset PGPASSWORD") as refused:
        bench.run(storage=address)
    monkeypatch.setenv("PGPASSWORD", "not-the-one-of-ada")
    with pytest.raises(HpoError, match=r"authentication failed .*\nset PGPASSWORD") as wrong:
        bench.run(storage=address)
    assert "not-the-one-of-ada" not in f"{refused.value} {wrong.value}"
    monkeypatch.setenv("PGPASSWORD", secret)
    bench.run(storage=address)
    assert_whole(bench, address, trials=5)
    monkeypatch.delenv("PGPASSWORD")
    services, folder = bench.folder / "services.conf", address.partition("host=")[2]
    database = address.partition("@/")[2].partition("?")[0]
    services.write_text(f"[team]\nhost={folder}\ndbname={database}\nuser=ada\npassword={secret}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    bench.run(storage="postgresql:///?service=team", budget__trials=6)
    assert_whole(bench, "postgresql:///?service=team", trials=6)
    left = [path for path in bench.paths.root.rglob("*") if path.is_file()]
    assert not [path for path in left if secret.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("/study", "/nostudy"), r'database "nostudy\d+" does not exist\n`createdb nostudy\d+`'),
        (("postgres@", "bob@"), r'role "bob" does not exist\n`createuser bob`'),
    ],
)
def test_what_is_not_there_is_said_in_a_line_with_what_to_do(
    bench: Workbench, server: postgres.Server, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(HpoError, match=message):
        bench.run(storage=server.new_database().replace(*change))
    assert not bench.home.studies.exists()


# -- the tables


@pytest.mark.parametrize(
    ("version", "advice"),
    [("v99.0.0.a", "pip install -U optuna"), ("v1.3.0.a", "optuna storage upgrade")],
    ids=["newer", "older"],
)
@pytest.mark.parametrize("address", DATABASES, indirect=True)
def test_tables_of_another_optuna_are_refused_with_what_to_do(
    bench: Workbench, address: str, version: str, advice: str
) -> None:
    storage = optuna.storages.RDBStorage(address)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql(f"update alembic_version set version_num = '{version}'")
    storage.engine.dispose()
    with pytest.raises(UserError, match=advice):
        bench.run(storage=address)


@pytest.mark.parametrize("address", ["journal", *DATABASES], indirect=True)
def test_a_study_of_which_only_the_name_was_made_is_begun(bench: Workbench, address: str) -> None:
    """Killed at once: what makes a study one of hpo's is written after it."""
    if address == "journal":
        bench.paths.root.mkdir(parents=True)
        file = optuna.storages.journal.JournalFileBackend(str(bench.paths.journal))
        storage: Any = optuna.storages.JournalStorage(file)
    else:
        storage = optuna.storages.RDBStorage(address)
    optuna.create_study(storage=storage, study_name="s", direction="maximize")
    if address != "journal":
        storage.engine.dispose()
    bench.run(storage=address)
    assert_whole(bench, address, trials=5)


@pytest.mark.parametrize("address", DATABASES, indirect=True)
def test_several_studies_share_a_database_from_its_first_moment(
    another_bench: Callable[[], Workbench], address: str
) -> None:
    benches = {name: another_bench() for name in ("a", "b", "c")}
    start, errors = threading.Barrier(len(benches)), []

    def run(name: str) -> None:
        try:
            start.wait()
            benches[name].run(study=name, storage=address)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[name]) for name in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for name, bench in benches.items():
        assert_whole(bench, address, trials=5, study=name)
