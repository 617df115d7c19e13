"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workbench import Workbench

from hpo.paths import Home


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Where MLflow is says each test. MLflow itself leaves the variable behind when it is told a
    tracking URI, and what a later test starts would record there."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


# Files with few slow tests, of which each takes a minute or more.
VERY_SLOW = (
    *("test_campaign.py", "test_fuzz.py", "test_laptop_to_cluster.py", "test_load.py"),
    *("test_many_orchestrators.py", "test_parallel.py", "test_ray_faults.py"),
    "test_state_machine.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests begin first, and before them those with very slow ones: with a
    process a core, which takes whole files (``make test``), none is left alone with such a file at
    the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name not in VERY_SLOW, -slow[item.path]))


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
