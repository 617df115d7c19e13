"""MLflow's databases, made ready for a server."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import UserError
from hpo.tracking.stores import Order, Prepared, prepare

pytestmark = pytest.mark.slow  # a process each, which imports MLflow


@contextlib.contextmanager
def database(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        yield connection


def revision(file: Path) -> str:
    with database(file) as connection:
        return str(connection.execute("select version_num from alembic_version").fetchone()[0])


def make_older(file: Path) -> str:
    """Tables as MLflow made them one change ago; that revision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alembic import command
        from alembic.script import ScriptDirectory
        from mlflow.store.db import utils
        from mlflow.store.tracking.dbmodels.initial_models import Base

        engine: Any = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
        Base.metadata.create_all(engine)
        config = utils._get_alembic_config(f"sqlite:///{file}")
        scripts = ScriptDirectory.from_config(config)
        head = scripts.get_current_head()
        assert head is not None
        older = scripts.get_revision(head).down_revision
        assert isinstance(older, str)
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, older)
        engine.dispose()
    return older


class Called:
    """`prepare` of a SQLite file, and what it said."""

    def __init__(self, file: Path) -> None:
        self.said: list[str] = []
        order = Order(f"sqlite:///{file}", users=None, new_password=False)
        self.prepared: Prepared = prepare(order, dict(os.environ), self.said.append)


def test_a_process_killed_while_it_makes_the_tables_leaves_nothing_in_the_way(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mlflow.db"
    code = f"from hpo.tracking.stores import make_sqlite; make_sqlite('sqlite:///{file}', print)"
    with subprocess.Popen([sys.executable, "-c", code]) as killed:
        while not (new := Path(f"{file}.new")).exists() or not _tables(new):
            assert killed.poll() is None
        killed.kill()
    assert not file.exists()
    assert _tables(new)
    Called(file)
    head = revision(file)
    other = tmp_path / "other.db"
    Called(other)
    assert head == revision(other)


def _tables(file: Path) -> int:
    with database(file) as connection:
        return int(connection.execute("select count(*) from sqlite_master").fetchone()[0])


def test_a_new_database_gets_its_tables_once(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    assert Called(file).said == [f"making MLflow's tables in sqlite:///{file}"]
    with database(file) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    again = Called(file)
    assert again.said == []
    assert again.prepared == Prepared(password=None, local=())


def test_an_older_database_is_upgraded_after_a_copy(tmp_path: Path) -> None:
    file, new = tmp_path / "old.db", tmp_path / "new.db"
    older = make_older(file)
    Called(new)
    (said,) = Called(file).said
    assert said.startswith(f"upgrading sqlite:///{file} to this MLflow, after a copy to {file}.")
    assert revision(file) == revision(new) != older
    assert revision(tmp_path / f"old.db.{older}") == older


@pytest.mark.parametrize(
    ("table", "message"),
    [("experiments", "was made by a newer MLflow; pip install"), ("studies", "another program")],
)
def test_a_database_of_others_is_refused_and_left_as_it_is(
    tmp_path: Path, table: str, message: str
) -> None:
    file = tmp_path / "theirs.db"
    with database(file) as connection:
        connection.execute("create table alembic_version (version_num text)")
        connection.execute("insert into alembic_version values ('v3.2.0.a')")
        connection.execute(f"create table {table} (id int)")
    with pytest.raises(UserError, match=message):
        Called(file)
    with database(file) as connection:
        tables = connection.execute("select name from sqlite_master order by name").fetchall()
    assert tables == [("alembic_version",), (table,)]


def test_what_cannot_be_opened_is_said_without_a_password() -> None:
    order = Order("postgresql://me:canary-7f3a@127.0.0.1:9/runs", None, False)
    with pytest.raises(UserError, match=r"cannot open postgresql://\*\*\*@127") as error:
        prepare(order, dict(os.environ), print)
    assert "canary" not in str(error.value)
