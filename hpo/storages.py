"""Optuna's storage by its address in the study file: a journal, SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import optuna

from hpo.journal import SingleWriterJournal
from hpo.paths import StudyPaths

if TYPE_CHECKING:
    from hpo.database import Database


class Journal(optuna.storages.JournalStorage):
    """Optuna's journal, in the study's folder."""

    failures = 0  # as `Database.failures`: a file does not fail and go on

    def __init__(self, paths: StudyPaths) -> None:
        self._file = SingleWriterJournal(paths.journal)
        super().__init__(self._file)

    def flush(self) -> None:
        """Nothing to do: readers wait for `commit`."""

    def commit(self) -> None:
        """Make everything told so far survive a crash of the machine."""
        self._file.commit()

    def close(self) -> None:
        self._file.close()


def open_storage(
    address: str,
    paths: StudyPaths,
    say: Callable[[str], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Journal | Database:
    """The storage at `address`.

    Args:
        address: ``journal``, ``sqlite:///…`` or ``postgresql://…``.
        paths: Where the journal is.
        say: Told when the study has to wait for a database, and when it goes on.
        is_stopped: Whether to wait no longer, because somebody has ended the study.

    Raises:
        UserError: It was made by another version of Optuna, or its driver is missing.
        HpoError: It cannot be opened.
    """
    if address == "journal":
        return Journal(paths)
    from hpo.database import open_database  # SQLAlchemy takes most of a second to import

    return open_database(address, say, is_stopped)
