"""Makes MLflow's databases ready for a server: ``python -m hpo.tracking.stores``, a process.

Its orders (`Order`) come on stdin as a line of JSON, for a command line is visible to everyone and
the address may hold a password. It prints lines of JSON: ``{"say": …}`` while it works, then
``{"done": …}`` (`Prepared`) or ``{"error": …}``.

A new database gets MLflow's tables; an older one is upgraded, after a copy if it is SQLite, where
an upgrade that fails half way cannot be taken back. One of a newer MLflow, or of another program,
is refused.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from hpo.errors import HpoError, UserError
from hpo.spec.addresses import advice
from hpo.tracking.redact import redact

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Engine

ADMIN = "admin"
SHOWN_TABLES = 5
MAX_LOG = 3000


@dataclass(frozen=True)
class Order:
    """What is to be made ready.

    Attributes:
        uri: The database of runs.
        users: The SQLite file of users and their permissions, or None: no users.
        new_password: Whether the admin, if there is one, gets a new password.
    """

    uri: str
    users: str | None
    new_password: bool


@dataclass(frozen=True)
class Prepared:
    """What was made or found.

    Attributes:
        password: The admin's, if it was made now; nobody can find it out later.
        local: Experiments whose artifacts are in a folder of this machine, by name.
    """

    password: str | None
    local: tuple[str, ...]


def prepare(order: Order, environment: dict[str, str], say: Callable[[str], None]) -> Prepared:
    """Have it done in a process of its own, which goes on to its end even if this one is stopped.

    Raises:
        UserError: That database cannot be used.
        HpoError: It failed.
    """
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "hpo.tracking.stores"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
            umask=0o077 if order.users else -1,
            start_new_session=True,  # Ctrl-C must not cut an upgrade short
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(order)) + "\n")
        process.stdin.close()
        for line in process.stdout:
            answer = json.loads(line)
            if "say" in answer:
                say(answer["say"])
            elif "error" in answer:
                raise UserError(answer["error"])
            else:
                return Prepared(answer["done"]["password"], tuple(answer["done"]["local"]))
        process.wait()
        log.seek(0)
        last = redact(log.read())[-MAX_LOG:].strip()
    raise HpoError(f"MLflow's database could not be made ready. What was last said:\n{last}")


def make_sqlite(uri: str, say: Callable[[str], None]) -> None:
    """Make a SQLite database with MLflow's tables, unless there is one.

    Beside, then renamed: MLflow can neither use nor finish what a killed process has half made.

    Args:
        uri: ``sqlite:///…``; the caller holds ``.lock`` in its folder, lest another does the same.
        say: Told when it is made.
    """
    import mlflow.db
    from sqlalchemy import make_url

    database = Path(str(make_url(uri).database))
    if database.exists() and database.stat().st_size:
        return
    say(f"making MLflow's tables in {uri}")
    new = database.with_name(f"{database.name}.new")
    for left in (new, Path(f"{new}-journal")):
        left.unlink(missing_ok=True)
    assert mlflow.db.upgrade.callback is not None
    mlflow.db.upgrade.callback(f"sqlite:///{new}")
    new.replace(database)


def _prepare(order: Order, say: Callable[[str], None]) -> Prepared:
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(order.uri)  # type: ignore[no-untyped-call]
    with _alone_with(engine):
        _open(engine, order.uri, say)
        _make_current(engine, order.uri, say)
        local = _local_experiments(engine)
    engine.dispose()
    password = _make_admin(Path(order.users), order.new_password) if order.users else None
    return Prepared(password, local)


@contextlib.contextmanager
def _alone_with(engine: Engine) -> Iterator[None]:
    """No study here makes the tables of a SQLite file meanwhile (`hpo.tracking.replica`)."""
    if engine.dialect.name != "sqlite":
        yield
        return
    with FileLock(Path(str(engine.url.database)).parent / ".lock"):
        yield


def _open(engine: Engine, uri: str, say: Callable[[str], None]) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if engine.dialect.name == "sqlite":
            make_sqlite(uri, say)
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":  # readers then never block the writer
                connection.execute(text("pragma journal_mode=wal"))
    except SQLAlchemyError as error:
        cause = " ".join(redact(str(getattr(error, "orig", error))).split())
        raise UserError(f"cannot open {redact(uri)}: {cause}{advice(cause)}") from None


def _make_current(engine: Engine, uri: str, say: Callable[[str], None]) -> None:
    import mlflow.db
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations
    from sqlalchemy import inspect

    scripts = ScriptDirectory(str(Path(db_migrations.__file__).parent))
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    tables = [t for t in inspect(engine).get_table_names() if t != "alembic_version"]
    if revision is not None:
        _check_is_ours(scripts, revision, tables, redact(uri))
    if revision == scripts.get_current_head():
        return
    if not tables:
        say(f"making MLflow's tables in {redact(uri)}")
    else:
        copied = _copied(engine, revision)
        say(f"upgrading {redact(uri)} to this MLflow{copied}; this may take long")
    assert mlflow.db.upgrade.callback is not None
    mlflow.db.upgrade.callback(uri)


def _check_is_ours(scripts: ScriptDirectory, revision: str, tables: list[str], shown: str) -> None:
    from alembic.util import CommandError

    try:
        scripts.get_revision(revision)
    except CommandError:
        if "experiments" in tables:
            message = f"{shown} was made by a newer MLflow; pip install --upgrade mlflow"
        else:
            some = ", ".join(sorted(tables)[:SHOWN_TABLES])
            message = (
                f"{shown} belongs to another program (it has {some}, …); "
                "MLflow needs a database of its own"
            )
        raise UserError(message) from None


def _copied(engine: Engine, revision: str | None) -> str:
    """Copy a SQLite file before it is changed; where to, for the message."""
    if engine.dialect.name != "sqlite":
        return ""
    file = str(engine.url.database)
    copy = f"{file}.{revision}"
    with (
        contextlib.closing(sqlite3.connect(file)) as old,
        contextlib.closing(sqlite3.connect(copy)) as new,
    ):
        old.backup(new)
    return f", after a copy to {copy}"


def _local_experiments(engine: Engine) -> tuple[str, ...]:
    from sqlalchemy import text

    query = text(
        "select name from experiments where lifecycle_stage = 'active' and name <> 'Default' "
        "and (artifact_location like 'file:%' or artifact_location like '/%') order by name"
    )
    with engine.connect() as connection:
        return tuple(connection.execute(query).scalars())


def _make_admin(users: Path, renew: bool) -> str | None:
    """The admin's new password, or None where there is an admin already.

    MLflow would take it from an environment variable of the server, where it would stay readable.
    """
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    users.touch(mode=0o600)  # hashes of passwords are nobody's business
    store = SqlAlchemyStore()
    store.init_db(f"sqlite:///{users}")  # type: ignore[no-untyped-call]
    known = store.has_user(ADMIN)
    if known and not renew:
        return None
    password = secrets.token_urlsafe(18)
    if known:
        store.update_user(ADMIN, password=password)
    else:
        store.create_user(ADMIN, password, is_admin=True)
    return password


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever MLflow prints is for the log
    logging.getLogger("alembic").setLevel(logging.WARNING)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        done = _prepare(Order(**json.loads(sys.stdin.readline())), lambda text: answer(say=text))
    except UserError as error:
        answer(error=str(error))
    else:
        answer(done=asdict(done))


if __name__ == "__main__":
    main()
