"""A study read from its outbox and from MLflow is the same study, at any time, in any order."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import classifier
from recorded import (
    START_MS,
    Recorded,
    a_regression,
    finished,
    keep_images,
    own_trainer,
    pausing,
    rising,
    several_objectives,
)
from served import free_port, served

from hpo.errors import UnknownStudy, UserError
from hpo.paths import Home
from hpo.results import catalog as catalogs
from hpo.results import study_log
from hpo.results.catalog import Catalog
from hpo.results.tables import StudyTables

with warnings.catch_warnings():  # of MLflow's own imports
    warnings.simplefilter("ignore")
    from hpo.tracking.replica import Replica

# MLflow uses what SQLAlchemy and others deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
DEAD = "http://ann:s3cret@127.0.0.1:9"  # the discard port: nobody answers
STUDIES = {
    "digits": finished,
    "diabetes": a_regression,
    "both": several_objectives,
    "mine": own_trainer,
    "pausing": pausing,
}


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead server is not asked again and again; `hpo ui` sets the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@pytest.fixture
def new_home(tmp_path: Path, empty_store: Path) -> Callable[[str], Path]:
    """Makes a home with an empty embedded store."""

    def make(name: str) -> Path:
        home = Home(tmp_path / name)
        home.mlruns.mkdir(parents=True)
        shutil.copy(empty_store, home.mlruns / "mlflow.db")
        return home.root

    return make


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A home whose studies of every kind are in its store, too."""
    home = Home(tmp_path_factory.mktemp("shipped"))
    home.mlruns.mkdir(parents=True)
    shutil.copy(empty_store, home.mlruns / "mlflow.db")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for make in STUDIES.values():
            ship(make(home.root))
    return home.root


@pytest.fixture(scope="module")
def server(shipped: Path) -> Iterator[str]:
    """The address of a server on the same store."""
    with served("server", "--home", shipped, "--port", str(free_port())) as up:
        yield up.url


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.slow)])
def far(request: pytest.FixtureRequest, shipped: Path, tmp_path: Path) -> Catalog:
    """Only what MLflow has, by both ways to read it."""
    is_served = request.param == "server"
    uri = request.getfixturevalue("server") if is_served else Home(shipped).tracking_uri
    return connected(tmp_path, uri)


def ship(study: Recorded, uri: str | None = None) -> Replica:
    replica = Replica(study.paths, study.home, uri or study.home.tracking_uri)
    replica.ship()
    return replica


def connected(home: Path, uri: str) -> Catalog:
    found = Catalog(home, uri)
    found.connect()
    assert found.trouble is None
    return found


def assert_same(one: StudyTables, other: StudyTables, *but: str) -> None:
    """Every table and fact; `but` names those that may differ."""
    for name in {field.name for field in fields(StudyTables)} - {*but, "version"}:
        left, right = getattr(one, name), getattr(other, name)
        if name == "epochs":
            order = ["trial", "epoch"]
            left, right = (t.sort_values(order, ignore_index=True) for t in (left, right))
        if isinstance(left, pd.DataFrame):
            pd.testing.assert_frame_equal(left, right, obj=name)
        else:
            assert left == right, name


# -- here and there


@pytest.mark.parametrize("key", STUDIES)
def test_here_and_in_mlflow_are_the_same_study(key: str, shipped: Path, far: Catalog) -> None:
    here, there = Catalog(shipped).study(key), far.study(key, patience_s=60)
    assert there.missing_curves == 0
    assert there.source != "here"
    far_off = {"source", "provenance", "epochs"}
    assert_same(here, there, *far_off)
    # MLflow is not told how long an epoch took; when it ended it is.
    order = ["trial", "epoch"]
    one, other = (
        t.epochs.sort_values(order, ignore_index=True).drop(columns="seconds")
        for t in (here, there)
    )
    pd.testing.assert_frame_equal(one, other)
    assert (here.provenance.get("git") or {}).get("commit") == (
        there.provenance.get("git") or {}
    ).get("commit")


def test_a_confirmation_is_the_newest_one_here_and_in_mlflow(
    new_home: Callable[[str], Path], tmp_path: Path
) -> None:
    home = new_home("confirmed")
    study = finished(home)
    ship(study)
    there = connected(tmp_path / "elsewhere", Home(home).tracking_uri)
    for looks in (1, 2):
        assert (there.confirmation("digits") or {}).get("looks", 0) == looks - 1
        study.confirmed(looks=looks)
        ship(study)
        there.study("digits", patience_s=60)
        here = Catalog(home).confirmation("digits")
        assert here == there.confirmation("digits")
        assert here is not None
        assert here["looks"] == looks


@pytest.mark.parametrize("key", STUDIES)
def test_a_row_of_the_list_is_the_same_before_and_after_a_look(
    key: str, shipped: Path, far: Catalog
) -> None:
    def row(catalog: Catalog) -> dict[str, Any]:
        table = catalog.studies().set_index("key")
        return dict(table.loc[key].drop("source"))

    before = row(far)
    far.study(key, patience_s=60)
    after, here = row(far), row(Catalog(shipped))
    assert repr(after) == repr(here)
    # Its own run knows only what was the best, and the budget's number of trials.
    told_by_its_trials = {"best_so_far", "used"}
    for name in set(before) - told_by_its_trials:
        assert repr(before[name]) == repr(here[name]), name


def test_what_was_kept_is_the_same(shipped: Path, far: Catalog) -> None:
    here = Catalog(shipped)
    one, other = here.predicted("digits", 3), far.predicted("digits", 3)
    assert one is not None
    assert other is not None
    assert one.classes == other.classes == ("cat", "dog", "eel")
    for name in ("ids", "target", "output"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    failed = int(here.study("digits").trials.query("state == 'failed'")["number"].iloc[0])
    for catalog in (here, far):
        assert catalog.predicted("mine", 0) is None
        assert "no luck" in (catalog.text("digits", failed, "traceback.txt") or "")
        assert catalog.text("digits", 0, "traceback.txt") is None


def test_a_study_that_is_here_and_in_mlflow_is_read_here_once(shipped: Path) -> None:
    found = connected(shipped, Home(shipped).tracking_uri)
    assert sorted(found.studies()["key"]) == sorted(STUDIES)
    assert set(found.studies()["source"]) == {"here"}


def test_studies_of_one_name_have_a_key_each(new_home: Any, tmp_path: Path) -> None:
    first = finished(new_home("one"), trials=2)
    second = finished(new_home("two"), trials=3, start_ms=START_MS + 60_000)
    uri = first.home.tracking_uri
    ship(first)
    ship(second, uri)
    far = connected(tmp_path / "nothing", uri)
    keys = sorted(far.studies()["key"])
    assert keys[0] == "digits"
    assert keys[1].startswith("digits~")
    assert [len(far.study(key, 60).complete()) for key in keys] == [2, 3]
    assert [far.study(key).key for key in keys] == keys
    # Next to the second study itself, the first is still there, and reached by its key.
    beside = connected(second.home.root, uri)
    sources = dict(zip(beside.studies()["key"], beside.studies()["source"], strict=True))
    assert sources.pop("digits") == "here"
    (other,) = sources
    assert len(beside.study(other, 60).complete()) == 2
    assert beside.study(other).key == other
    assert len(beside.study("digits").complete()) == 3


def test_an_unknown_study_is_said_so(tmp_path: Path, shipped: Path) -> None:
    assert Catalog(tmp_path).studies().empty
    for key in ("nix", "", "../digits", "digits~12345678", "digits/0"):
        with pytest.raises(UnknownStudy):
            Catalog(tmp_path).study(key)
        with pytest.raises(UnknownStudy):
            connected(tmp_path, Home(shipped).tracking_uri).study(key)


def test_examples_that_were_kept(tmp_path: Path) -> None:
    study = finished(tmp_path)
    assert Catalog(tmp_path).examples("digits") is None
    keep_images(study, [0, 3])
    found = Catalog(tmp_path).examples("digits")
    assert found is not None
    assert list(found["id"]) == [0, 3]
    assert found["image"][0].startswith(b"\x89PNG")


# -- growing


def growing(study: Recorded) -> Iterator[None]:
    """A study that goes on, a few records between two looks."""
    yield
    one = study.begin()
    yield
    for epoch, value in enumerate(rising(0.7), 1):
        study.epoch(one, epoch, {"val/loss": 1 - value, "val/accuracy": value})
        yield
    study.end(one, values=[0.7], best_epoch=4, last_epoch=5, epochs_trained=5)
    other = study.begin()
    yield
    study.epoch(other, 1, {"val/accuracy": 0.9, "new": 2.0})  # a metric that is new
    study.over("interrupted")
    yield
    study.study()  # again, and the trial goes on
    yield
    study.begin(attempt=2, number=other)
    study.epoch(other, 2, {"val/accuracy": 0.8, "new": float("nan")})
    yield
    study.write("budget", budget={"trials": 40})
    study.trial([], "failed", reason="ValueError: no luck")
    yield
    study.end(other, "pruned", values=[0.9], best_epoch=1, last_epoch=2, reason="hyperband")
    study.over()
    yield


def test_reading_what_is_new_equals_reading_it_all(tmp_path: Path) -> None:
    study = Recorded(tmp_path)
    grown = Catalog(tmp_path)
    with study.live():
        for _ in growing(study):
            assert_same(grown.study("digits"), Catalog(tmp_path).study("digits"))
            version = grown.study("digits").version
            assert grown.study("digits").version == version
        assert grown.study("digits").state == "running"
    assert_same(grown.study("digits"), Catalog(tmp_path).study("digits"))
    assert grown.study("digits").state == "complete"
    assert grown.study("digits").version > version


def test_several_readers_at_once_see_each_record_once(tmp_path: Path) -> None:
    study = Recorded(tmp_path)
    grown = Catalog(tmp_path)
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                grown.studies()
                grown.study("digits")
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    with study.live():
        for reader in readers:
            reader.start()
        for number in range(15):
            study.trial(rising(0.5 + number / 100))
        done.set()
        for reader in readers:
            reader.join()
        assert not failures
        assert_same(grown.study("digits"), Catalog(tmp_path).study("digits"))


def test_a_record_half_written_is_read_once_it_is_whole(tmp_path: Path) -> None:
    study = finished(tmp_path)
    whole = study.paths.outbox.read_bytes()
    study.paths.outbox.write_bytes(whole[:-20])
    grown = Catalog(tmp_path)
    assert grown.study("digits").state == "interrupted"
    study.paths.outbox.write_bytes(whole)
    assert grown.study("digits").state == "complete"
    assert_same(grown.study("digits"), Catalog(tmp_path).study("digits"))


def test_what_is_new_in_mlflow_is_seen(new_home: Any, tmp_path: Path) -> None:
    study = Recorded(new_home("home"))
    replica = ship(study)
    grown = connected(tmp_path / "grown", study.home.tracking_uri)
    for index, _ in enumerate(growing(study)):
        replica.ship()
        fresh = connected(tmp_path / f"fresh {index}", study.home.tracking_uri)
        assert_same(grown.study("digits", 60), fresh.study("digits", 60))
    here = Catalog(study.home.root).study("digits")
    assert_same(here, grown.study("digits", 60), "source", "provenance", "epochs")


def test_curves_come_as_there_is_time_for_them(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpo.results.tracked.BULK_RUNS", 5)
    far = connected(tmp_path, Home(shipped).tracking_uri)
    here = Catalog(shipped).study("digits")
    first = far.study("digits", patience_s=0)
    assert first.missing_curves == len(here.trials)
    assert first.epochs.empty
    facts = ["number", "state", "value", "params.train.lr"]
    pd.testing.assert_frame_equal(first.trials[facts], here.trials[facts])
    assert far.study("digits", patience_s=60).missing_curves == 0
    monkeypatch.setattr("hpo.results.tracked.BULK_POINTS", 7)  # each answer is cut
    cut = connected(tmp_path / "other", Home(shipped).tracking_uri)
    assert_same(cut.study("digits", 60), far.study("digits", 60))


# -- other files under the same names


def test_another_study_of_the_same_name_replaces_it(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    first = finished(home, trials=4)
    for trials in (2, 9):  # a shorter outbox, a longer one
        open_ = Catalog(home)
        open_.study("digits")
        open_.studies()
        second = finished(other, trials=trials)
        shutil.copy(second.paths.outbox, first.paths.outbox)
        assert list(open_.studies()["complete"]) == [trials]
        assert len(open_.study("digits").complete()) == trials
        assert_same(open_.study("digits"), Catalog(home).study("digits"))
        shutil.rmtree(other)


def test_a_study_that_is_deleted_is_gone(tmp_path: Path) -> None:
    study = finished(tmp_path)
    found = Catalog(tmp_path)
    found.study("digits")
    shutil.rmtree(study.paths.root)
    assert found.studies().empty
    with pytest.raises(UnknownStudy):
        found.study("digits")


# -- the cache


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A study that was read into the cache."""
    monkeypatch.setattr(study_log, "CACHE_BYTES", 0)
    study = finished(tmp_path / "home")
    Catalog(study.home.root).study("digits")
    assert cache_file(study).is_file()
    return study


def cache_file(study: Recorded) -> Path:
    return study.home.results_cache / f"{study.name}.arrow"


def without_cache(study: Recorded) -> StudyTables:
    log = study_log.StudyLog.read(study.paths)
    return catalogs.from_log(log, {}, None)


def test_the_cache_is_used_and_what_came_later_is_read(cached: Recorded) -> None:
    cached.trial(rising(0.95), predicted=classifier())
    expected = without_cache(cached)
    lines = cached.paths.outbox.read_bytes().splitlines(keepends=True)
    for place in range(1, 20):  # only a reader without cache finds them damaged
        lines[place] = b"x" * (len(lines[place]) - 1) + b"\n"
    cached.paths.outbox.write_bytes(b"".join(lines))
    assert_same(Catalog(cached.home.root).study("digits"), expected)


def test_values_survive_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_log, "CACHE_BYTES", 0)
    study = Recorded(tmp_path)
    odd = [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    number = study.begin(params={"train.x": 10**15, "train.name": "ψ\U0001f600", "train.no": None})
    for epoch, value in enumerate(odd, 1):
        more = {"notes": {"micro_batch": "16 of 64"}} if epoch == 3 else {}
        said = {"val/accuracy": value, **({"b": 1.0} if epoch == 3 else {})}
        study.epoch(number, epoch, said, **more)
    study.end(number, values=[0.1], best_epoch=7, last_epoch=7, epochs_trained=7)
    first = Catalog(tmp_path).study("digits")
    assert cache_file(study).is_file()
    assert_same(Catalog(tmp_path).study("digits"), first)
    assert repr(list(first.epochs["val/accuracy"])) == repr(odd)


def test_the_cache_may_be_deleted_at_any_time(cached: Recorded) -> None:
    found = Catalog(cached.home.root)
    found.study("digits")
    shutil.rmtree(cached.home.results_cache)
    cached.trial(rising(0.95))
    assert_same(found.study("digits"), without_cache(cached))
    shutil.rmtree(cached.home.results_cache, ignore_errors=True)
    assert_same(Catalog(cached.home.root).study("digits"), without_cache(cached))


def test_a_damaged_cache_is_not_used(cached: Recorded) -> None:
    expected = without_cache(cached)
    whole = cache_file(cached).read_bytes()
    for damaged in (b"", b"ARROW1", whole[:-1], whole[: len(whole) // 2], whole[100:], b"\0" * 99):
        cache_file(cached).write_bytes(damaged)
        assert_same(Catalog(cached.home.root).study("digits"), expected)
    for place in range(0, len(whole), max(1, len(whole) // 8)):
        flipped = bytes([whole[place] ^ 0x10])
        cache_file(cached).write_bytes(whole[:place] + flipped + whole[place + 1 :])
        assert_same(Catalog(cached.home.root).study("digits"), expected)


def test_the_cache_of_another_study_of_the_same_name_is_not_used(
    cached: Recorded, tmp_path: Path
) -> None:
    other = finished(tmp_path / "other", trials=12)
    shutil.copy(other.paths.outbox, cached.paths.outbox)
    assert_same(Catalog(cached.home.root).study("digits"), without_cache(other))


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_log, "CACHE_BYTES", 0)
    study = finished(tmp_path)
    study.home.results_cache.parent.write_text("in the way")
    assert_same(Catalog(tmp_path).study("digits"), without_cache(study))


def test_a_restart_reads_runs_that_are_over_from_its_cache(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = Home(shipped).tracking_uri
    before = connected(tmp_path, uri).study("digits", 60)
    with monkeypatch.context() as patch:
        patch.setattr("hpo.results.tracked._bulk", None)  # it would be asked for curves
        assert_same(connected(tmp_path, uri).study("digits", 60), before)
    for file in tmp_path.rglob("*.arrow"):
        file.write_bytes(file.read_bytes()[:-9])
    assert_same(connected(tmp_path, uri).study("digits", 60), before)


def test_who_asks_while_it_connects_waits_for_the_studies(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not: there is no such study, because the store has not answered yet."""
    from hpo.results.tracked import TrackedStudies

    found, asked = Catalog(tmp_path, Home(shipped).tracking_uri), threading.Event()
    refresh = TrackedStudies.refresh

    def slowly(studies: TrackedStudies) -> None:
        asked.set()
        assert not found.is_connected
        refresh(studies)

    monkeypatch.setattr(TrackedStudies, "refresh", slowly)
    first = threading.Thread(target=found.connect)
    first.start()
    asked.wait()
    monkeypatch.setattr(TrackedStudies, "refresh", refresh)
    assert len(found.study("digits", 0).trials)
    first.join()


# -- MLflow is down


def test_a_dead_server_is_said_without_its_password(tmp_path: Path) -> None:
    finished(tmp_path)
    found = Catalog(tmp_path, DEAD)
    assert not found.is_connected
    found.connect()
    assert found.is_connected
    assert "127.0.0.1:9" in (found.trouble or "")
    assert "s3cret" not in (found.trouble or "")
    assert list(found.studies()["key"]) == ["digits"]
    assert len(found.study("digits").complete()) == 8
    with pytest.raises(UnknownStudy):
        found.study("nix")


@pytest.mark.slow
def test_what_is_known_stays_when_the_server_goes(shipped: Path, tmp_path: Path) -> None:
    port = str(free_port())
    with served("server", "--home", shipped, "--port", port) as up:
        found = connected(tmp_path, up.url)
        known = found.study("digits", 60)
        assert found.predicted("digits", 0) is not None
    assert_same(found.study("digits"), known)
    assert port in (found.trouble or "")
    assert found.predicted("digits", 0) is not None
    with pytest.raises(UserError, match=port):  # not: there are none
        found.predicted("digits", 1)
    found.connect()
    assert sorted(found.studies()["key"]) == sorted(STUDIES)
    assert found.trouble is not None
    with served("server", "--home", shipped, "--port", port):
        found.connect()
        assert found.trouble is None
        assert_same(found.study("digits"), known)
        assert found.predicted("digits", 1) is not None
        assert found.predicted("mine", 1) is None
        assert len(found.study("both", 60).trials) == 6
