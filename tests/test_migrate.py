"""A study moved between storages: nothing changes, and a crash loses nothing."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import postgres
import pytest
from command import hpo
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import NSGAIISampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from workbench import Workbench

from hpo import lease
from hpo.database import Database, open_database
from hpo.errors import HpoError, StudyLocked, UserError
from hpo.migrate import Content, _insert, _write_journal, migrate
from hpo.paths import StudyPaths
from hpo.storages import check_not_moved
from hpo.tracking.outbox import Outbox
from hpo.tracking.redact import for_screen

slow = pytest.mark.slow


@pytest.fixture
def address(request: pytest.FixtureRequest, bench: Workbench) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{bench.folder}/optuna.db"
    running: postgres.Server = request.getfixturevalue("database_server")
    return running.new_database()


@contextlib.contextmanager
def as_optuna_has_it(address: str, bench: Workbench) -> Iterator[optuna.Study]:
    if address == "journal":
        journal = JournalFileBackend(str(bench.paths.journal))
        yield optuna.load_study(storage=JournalStorage(journal), study_name="s")
        return
    storage = RDBStorage(address)
    try:
        yield optuna.load_study(storage=storage, study_name="s")
    finally:
        storage.engine.dispose()


def fields(address: str, bench: Workbench) -> list[dict[str, Any]]:
    """Every field of every trial, but for its id; and those of the study."""
    with as_optuna_has_it(address, bench) as study:
        found = [{k: v for k, v in vars(t).items() if k != "_trial_id"} for t in study.trials]
        attributes = study._storage.get_study_system_attrs(study._study_id)
        of_study = {"of": study.directions, "user": study.user_attrs, "system": attributes}
    return [*found, of_study]


# -- nothing changes


@slow
@pytest.mark.parametrize("address", ["sqlite", "postgresql"], indirect=True)
def test_a_study_goes_on_in_another_storage_and_back_as_if_it_had_stayed(
    bench: Workbench, another_bench: Callable[[], Workbench], address: str
) -> None:
    stays, options = another_bench(), {"sampler": "tpe", "pruner": "median"}
    options |= {"train__at": {"4:2": "interrupt once"}, "train__folder": str(bench.folder)}
    assert bench.run(**options).state == "interrupted"
    for to, trials in ((address, 9), ("journal", 13)):
        before = fields("journal" if to == address else address, bench)
        done = migrate("s", to, bench.home, print)
        assert (done.now, done.trials) == (to, len(before) - 1)
        assert fields(to, bench) == before
        bench.run(**options, storage=to, budget__trials=trials)
    stays.run(**options, budget__trials=13)
    known = [(t.params, t.values) for t in bench.optuna_trials()]
    assert known == [(t.params, t.values) for t in stays.optuna_trials()]
    left = RDBStorage(address)
    assert left.get_all_studies() == []
    left.engine.dispose()


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
NUMBERS = st.floats() | st.sampled_from([-0.0, 5e-324, float("inf"), float("nan")])
VALUES = st.none() | st.booleans() | st.lists(NUMBERS) | TEXT
ATTRIBUTES = st.dictionaries(TEXT, VALUES, max_size=3)
TIMES = st.datetimes(datetime.datetime(2020, 1, 1), datetime.datetime(2040, 1, 1)).map(
    lambda time: time.replace(fold=0)  # of an hour that a clock shows twice the first one
)
PARAMETERS = {
    "train.lr": (FloatDistribution(1e-9, 1.0, log=True), st.floats(1e-9, 1.0)),
    "train.step": (FloatDistribution(0, 1, step=0.1), st.just(0.1 * 3)),
    "model.width": (IntDistribution(1, 512, log=True), st.integers(1, 512)),
    "model.kind": (CategoricalDistribution(["a", 1, 0.5, True, None]), st.sampled_from([1, None])),
}


@st.composite
def trials(draw: st.DrawFn) -> FrozenTrial:
    state = draw(st.sampled_from(TrialState))
    names = draw(st.lists(st.sampled_from(sorted(PARAMETERS)), unique=True))
    values = draw(st.lists(st.floats(allow_nan=False), min_size=2, max_size=2))
    return FrozenTrial(
        number=0,
        state=state,
        value=None,
        values=values if state == TrialState.COMPLETE else None,
        datetime_start=None if state == TrialState.WAITING else draw(TIMES),
        datetime_complete=draw(TIMES) if state.is_finished() else None,
        params={name: draw(PARAMETERS[name][1]) for name in names},
        distributions={name: PARAMETERS[name][0] for name in names},
        user_attrs=draw(ATTRIBUTES),
        system_attrs=draw(ATTRIBUTES),
        intermediate_values=draw(st.dictionaries(st.integers(0, 999), NUMBERS, max_size=5)),
        trial_id=0,
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """With another study, which has taken the first ids."""
    file = tmp_path_factory.mktemp("database") / "optuna.db"
    database = open_database(f"sqlite:///{file}", print, lambda: False)
    database.create_new_trial(database.create_new_study([StudyDirection.MINIMIZE], "another"))
    yield database
    database.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(trials(), max_size=4), ATTRIBUTES)
def test_whatever_optuna_keeps_is_read_as_it_was_written(
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[FrozenTrial],
    attributes: dict[str, Any],
) -> None:
    for number, trial in enumerate(drawn):
        trial.number = trial._trial_id = number
    directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    parents = {"nsga2:parent:1": [trial.number for trial in drawn]}
    wanted = Content(directions, attributes, {**attributes, **parents}, drawn)
    paths = StudyPaths(tmp_path_factory.mktemp("drawn") / "s")
    _write_journal(wanted, "journal", paths, print)  # which compares
    _insert(wanted, "s", database)
    found = Content.read(database, "s")
    database.delete_study(database.get_study_id_from_name("s"))
    assert found.facts() == wanted.facts()


def test_a_difference_is_seen() -> None:
    one = optuna.trial.create_trial(value=0.0, intermediate_values={1: 0.5})
    for change in (
        {"values": [5e-324]}, {"number": 1}, {"state": TrialState.PRUNED},
        {"user_attrs": {"a": 1}}, {"system_attrs": {"a": 1}}, {"datetime_complete": None},
        {"datetime_start": datetime.datetime.now()}, {"intermediate_values": {1: float("nan")}},
    ):  # fmt: skip
        other = optuna.trial.create_trial(value=0.0, intermediate_values={1: 0.5})
        vars(other).update(vars(one))
        for field, value in change.items():
            setattr(other, field, value)
        contents = [Content([StudyDirection.MINIMIZE], {}, {}, [trial]) for trial in (one, other)]
        assert contents[0].facts() != contents[1].facts(), change


@slow
def test_what_a_sampler_keeps_by_trials_ids_is_of_the_same_trials(bench: Workbench) -> None:
    """A second study in the database has taken the ids that are numbers in the journal."""
    options = {"sampler": {"name": "nsga2", "population_size": 4}, "budget__trials": 14}
    bench.run(**options)
    database = RDBStorage(f"sqlite:///{bench.folder}/optuna.db")
    optuna.create_study(storage=database, study_name="another").ask()
    database.engine.dispose()

    def parents(address: str) -> list[list[int]]:
        sampler = NSGAIISampler(population_size=4)
        with as_optuna_has_it(address, bench) as study:
            found = [sampler.get_parent_population(study, generation) for generation in (1, 2)]
        return [[trial.number for trial in population] for population in found]

    before = parents("journal")
    assert all(len(population) == 4 for population in before)
    migrate("s", f"sqlite:///{bench.folder}/optuna.db", bench.home, print)
    assert parents(f"sqlite:///{bench.folder}/optuna.db") == before


@slow
def test_the_command_says_what_to_write_into_the_file(bench: Workbench, empty_store: Path) -> None:
    bench.run()
    bench.home.mlruns.mkdir()
    shutil.copy(empty_store, bench.home.mlruns)
    address = f"sqlite:///{bench.folder}/optuna.db"
    called = hpo("storage", "migrate", "s", "--to", address, "--home", bench.folder)
    assert called.code == 0, called.err
    assert called.out.splitlines() == [
        f"s: 5 trials, from journal to {address}.",
        f"Write this into {bench.file}:",
        f"  storage: {address}",
    ]
    status = hpo("status", "s", "--home", bench.folder, "--json").json
    assert (status["state"], status["replica"]["pending"]) == ("complete", 0)
    back = hpo("storage", "migrate", "s", "--to", "journal", "--home", bench.folder, "--json")
    moved = {"before": address, "now": "journal", "trials": 5, "file": str(bench.file)}
    assert back.json == {"study": "s", **moved}


# -- crashes

MIGRATE = """
import sys
from pathlib import Path
from hpo.migrate import migrate
from hpo.paths import Home
migrate("s", sys.argv[2], Home(Path(sys.argv[1])), print)
"""


@slow
@pytest.mark.parametrize("point", ["copied", "moved"])
@pytest.mark.parametrize("to", ["journal", "sqlite"])
def test_killed_at_any_place_one_storage_is_in_use_and_the_command_finishes(
    bench: Workbench, point: str, to: str
) -> None:
    file = f"sqlite:///{bench.folder}/optuna.db"
    source, target = (file, "journal") if to == "journal" else ("journal", file)
    bench.run(storage=source)
    before = fields(source, bench)
    fault = {**os.environ, "HPO_FAULT": f"{point}:1:{bench.folder}/killed"}
    command = [sys.executable, "-c", MIGRATE, str(bench.folder), target]
    killed = subprocess.run(command, env=fault, stderr=subprocess.PIPE, text=True)
    assert (killed.returncode, killed.stderr) == (-signal.SIGKILL, "")  # Optuna says nothing
    assert fields(source, bench) == before
    if point == "moved":
        with pytest.raises(UserError, match="was moved"):  # what is left there is not in use
            bench.run(storage=source, budget__trials=6)
    assert migrate("s", target, bench.home, print).now == target
    assert fields(target, bench) == before
    with pytest.raises((KeyError, FileNotFoundError)):
        fields(source, bench)
    bench.run(storage=target, budget__trials=6)
    assert len(fields(target, bench)) == 6 + 1


def test_what_a_killed_command_left_is_removed_although_the_study_went_on(
    bench: Workbench,
) -> None:
    bench.run()
    stale = bench.paths.journal.read_bytes()
    target = f"sqlite:///{bench.folder}/optuna.db"
    migrate("s", target, bench.home, print)
    bench.paths.journal.write_bytes(stale)  # as if killed before it was deleted
    with Outbox(bench.paths.outbox) as record:
        record.append({"kind": "storage", "time_ms": 1, "storage": target, "was": "journal"})
    bench.run(storage=target, budget__trials=6)
    assert migrate("s", target, bench.home, print).trials == 6
    assert not bench.paths.journal.exists()
    bench.paths.journal.write_bytes(b"not ours")  # it is done, once
    assert migrate("s", target, bench.home, print).trials == 6
    assert bench.paths.journal.exists()


def test_what_cannot_be_removed_any_more_is_said_and_in_nobodys_way(bench: Workbench) -> None:
    bench.run()
    with Outbox(bench.paths.outbox) as record:
        gone = {"storage": "journal", "was": f"sqlite:///{bench.folder}/gone/optuna.db"}
        record.append({"kind": "storage", "time_ms": 1, **gone})
    said: list[str] = []
    done = migrate("s", f"sqlite:///{bench.folder}/optuna.db", bench.home, said.append)
    assert (done.before, done.trials) == ("journal", 5)
    assert "there is no folder" in said[0]
    assert bench.records("storage")[-1]["was"] is None


def test_a_journal_without_a_study_is_in_nobodys_way(bench: Workbench) -> None:
    """`hpo run` with the wrong `storage` makes one, which stays where it is killed."""
    address = f"sqlite:///{bench.folder}/optuna.db"
    bench.run(storage=address)
    with pytest.raises(UserError, match="the storage has no study"):
        bench.run(budget__trials=6)
    bench.paths.journal.touch(exist_ok=False)
    assert migrate("s", "journal", bench.home, print).trials == 5


def test_without_the_file_as_it_was_understood_it_is_moved(bench: Workbench) -> None:
    bench.run()
    bench.paths.resolved.unlink()
    address = f"sqlite:///{bench.folder}/optuna.db"
    migrate("s", address, bench.home, print)
    assert f"storage: {address}\n" in bench.paths.resolved.read_text()


def test_an_earlier_study_that_was_moved_is_said_to_be_elsewhere(bench: Workbench) -> None:
    bench.run(study="earlier")
    address = f"sqlite:///{bench.folder}/optuna.db"
    migrate("earlier", address, bench.home, print)
    with pytest.raises(UserError, match="are in another storage than this one's") as refused:
        bench.run(start_from=[{"study": "earlier"}])
    assert f"storage: {address}" in str(refused.value)


@slow
def test_killed_before_its_record_the_study_goes_on_where_it_was(bench: Workbench) -> None:
    """Then the copy is an old one, and is not taken for the study."""
    bench.run()
    target = f"sqlite:///{bench.folder}/optuna.db"
    fault = {**os.environ, "HPO_FAULT": f"copied:1:{bench.folder}/killed"}
    command = [sys.executable, "-c", MIGRATE, str(bench.folder), target]
    assert subprocess.run(command, env=fault).returncode == -signal.SIGKILL
    bench.run(budget__trials=6)
    with pytest.raises(UserError, match="with other trials"):
        migrate("s", target, bench.home, print)
    with pytest.raises(HpoError, match="lacks what was acknowledged"):
        bench.run(storage=target, budget__trials=7)


# -- one storage under two names


@pytest.mark.parametrize("killed", [False, True])
def test_by_another_way_to_the_same_file_nothing_is_deleted(
    bench: Workbench, killed: bool
) -> None:
    (bench.folder / "link").symlink_to(bench.folder)
    one, other = (f"sqlite:///{at}/optuna.db" for at in (bench.folder, bench.folder / "link"))
    bench.run(storage=one)
    before = fields(one, bench)
    if killed:  # by a release that took it for another one
        with Outbox(bench.paths.outbox) as record:
            record.append({"kind": "storage", "time_ms": 1, "storage": other, "was": one})
    done = migrate("s", other, bench.home, print)
    assert (done.before, done.now, done.trials) == (one, other, 5)
    assert fields(one, bench) == before
    assert bench.run(storage=other, budget__trials=6).state == "complete"
    assert bench.run(storage=one, budget__trials=7).state == "complete"


@slow
@pytest.mark.parametrize("other", ["postgresql://postgres:${PW}@", "postgresql+psycopg://x@"])
def test_under_another_name_of_the_same_database_nothing_is_deleted(
    bench: Workbench, database_server: postgres.Server, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setenv("PW", "canary-5d21")
    one = database_server.new_database()
    database_server.execute("drop role if exists x")
    database_server.execute("create role x login superuser")
    there = one.replace("postgresql://postgres@", other)
    bench.run(storage=one)
    before = fields(one, bench)
    for to in (there, one):
        assert migrate("s", to, bench.home, print).now == to
        assert fields(one, bench) == before
    assert migrate("s", there, bench.home, print).trials == 5
    assert bench.run(storage=there, budget__trials=6).state == "complete"
    storage = RDBStorage(one)
    assert [study.study_name for study in storage.get_all_studies()] == ["s"]
    storage.engine.dispose()


# -- what cannot be


def test_a_file_that_still_says_the_old_storage_is_told_the_new_one(bench: Workbench) -> None:
    bench.run()
    migrate("s", f"sqlite:///{bench.folder}/optuna.db", bench.home, print)
    with pytest.raises(UserError, match=r"was moved .*not in journal") as refused:
        bench.run(budget__trials=6)
    assert f"  storage: sqlite:///{bench.folder}/optuna.db" in str(refused.value)
    assert f"storage: sqlite:///{bench.folder}/optuna.db\n" in bench.paths.resolved.read_text()


def test_a_user_who_is_not_shown_is_said_to_be_in_the_study_s_folder(bench: Workbench) -> None:
    """Nothing that is printed of an error has one, whoever prints it."""
    with pytest.raises(UserError) as refused:
        check_not_moved(bench.load(), "postgresql://me@db/x")
    shown = "storage: postgresql://***@db/x\nwhat *** hides is in studies/s/study.yaml"
    assert shown in for_screen(str(refused.value))


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("mysql://db/x", "--to mysql://db/x: expected sqlite or postgresql"),
        ("postgresql://me:secret-7@db/x", r"(?s)--to postgresql://\*\*\*@db/x: there is a pass"),
        ("postgresql://me:${NO_SUCH_X}@db/x", "NO_SUCH_X is not set"),
        ("sqlite:////no/such/optuna.db", "there is no folder /no/such"),
    ],
)
def test_an_address_that_cannot_be_is_said(bench: Workbench, to: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        migrate("s", to, bench.home, print)
    assert not bench.paths.root.exists()


def test_nothing_is_moved_over_another_study_or_while_one_runs(bench: Workbench) -> None:
    bench.run()
    address = f"sqlite:///{bench.folder}/optuna.db"
    storage = RDBStorage(address)
    optuna.create_study(storage=storage, study_name="s").ask()
    storage.engine.dispose()
    journal, records = bench.paths.journal.read_bytes(), bench.paths.outbox.read_bytes()
    with pytest.raises(UserError, match="has a study of this name with other trials"):
        migrate("s", address, bench.home, print)
    with lease.hold(bench.paths.lease, "s"), pytest.raises(StudyLocked, match="is being run by"):
        migrate("s", address, bench.home, print)
    assert bench.paths.journal.read_bytes() == journal
    assert bench.paths.outbox.read_bytes() == records
    assert len(fields(address, bench)) == 1 + 1


def test_a_study_of_another_is_never_deleted(bench: Workbench) -> None:
    """Somebody has made one of the same name since this one was moved away."""
    address = f"sqlite:///{bench.folder}/optuna.db"
    bench.run(storage=address)
    migrate("s", "journal", bench.home, print)
    storage = RDBStorage(address)
    optuna.create_study(storage=storage, study_name="s").ask()
    storage.engine.dispose()
    migrate("s", "journal", bench.home, print)  # once more; there is nothing left to be done
    assert len(fields(address, bench)) == 1 + 1


def test_a_database_that_refuses_is_one_line_and_leaves_the_study_where_it_was(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run()
    address = f"sqlite:///{bench.folder}/optuna.db"
    storage = RDBStorage(address)  # a study that comes just after it was looked for
    optuna.create_study(storage=storage, study_name="s")
    storage.engine.dispose()
    monkeypatch.setattr(Database, "get_all_studies", lambda self: [])
    with pytest.raises(HpoError, match=r"UNIQUE constraint failed.*\nNothing was written"):
        migrate("s", address, bench.home, print)
    assert bench.records("storage") == []
    assert len(bench.optuna_trials()) == 5


def test_to_where_it_is_nothing_is_done(bench: Workbench) -> None:
    bench.run()
    records = bench.paths.outbox.read_bytes()
    done = migrate("s", "journal", bench.home, print)
    assert (done.before, done.now, done.trials) == ("journal", "journal", 5)
    assert bench.paths.outbox.read_bytes() == records
