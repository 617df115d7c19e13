"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import postgres
import pytest
from workbench import Workbench

from hpo.paths import Home


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Where MLflow is says each test. MLflow itself leaves the variable behind when it is told a
    tracking URI, and what a later test starts would record there."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


# Those that take longest begin first: files as wholes, and then those of `ONE_BY_ONE`.
FIRST = (
    *("test_campaign.py", "test_browser.py", "test_laptop_to_cluster.py", "test_ray.py"),
    *("test_secrets.py", "test_executors.py", "test_server.py", "test_server_refuses.py"),
    *("test_shipping.py", "test_faulty_mlflow.py", "test_catalog.py", "test_nested.py"),
    *("test_end_to_end.py", "test_faults.py", "test_ray_faults.py", "test_parallel.py"),
    *("test_state_machine.py", "test_over_devices.py", "test_fuzz.py", "test_load.py"),
)
# Files of slow tests that share nothing: any process takes the next of them.
ONE_BY_ONE = (
    *("test_campaign.py", "test_disk.py", "test_end_to_end.py", "test_faults.py"),
    *("test_hung.py", "test_nested.py", "test_over_devices.py", "test_parallel.py"),
    *("test_ray_faults.py", "test_state_machine.py"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files begin first, so that no process is left alone with one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))

    def place(item: pytest.Item) -> tuple[int, int]:
        name = item.path.name
        return FIRST.index(name) if name in FIRST else len(FIRST), -slow[item.path]

    items.sort(key=place)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process more than cores (``-n auto``): much of the slow tests' time is waiting, for
    processes that start, for pauses and for what has to be given up."""
    cores = yield
    return cores if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else cores + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """``--dist loadfile``, except for `ONE_BY_ONE`."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid if Path(file).name in ONE_BY_ONE else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """The machine keeps its power while tests run, and waiting for the disk would be most of
    their time. What a loss of power would leave is tried with `power_loss.Disk`, which watches
    these calls; processes that a test starts do wait."""

    def fsync(file: int) -> None:
        """Flushed at once, as far as this process can see."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is in the folder of `bench`: all nodes of a Ray cluster share it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def another_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workbench]:
    return lambda: Workbench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    home = Home(tmp_path_factory.mktemp("template"))
    with warnings.catch_warnings():  # of MLflow's own imports
        warnings.simplefilter("ignore")
        from hpo.tracking.replica import _connect

        _connect(home, home.tracking_uri)
    path = home.mlruns / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all in the one file
    return path


@pytest.fixture
def tables_made(tmp_path: Path, empty_store: Path) -> None:
    """A study finds MLflow's tables in `tmp_path`, its home, as every study but the first does."""
    home = Home(tmp_path)
    home.mlruns.mkdir()
    shutil.copy(empty_store, home.mlruns / "mlflow.db")


@pytest.fixture(scope="session")
def database_server() -> Iterator[postgres.Server]:
    """A PostgreSQL server that nobody stops."""
    with postgres.server() as running:
        yield running
