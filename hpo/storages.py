"""Optuna's storage by its address in the study file: a journal, SQLite or PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import UserError
from hpo.journal import SingleWriterJournal
from hpo.paths import StudyPaths
from hpo.spec import addresses
from hpo.tracking.redact import redact

if TYPE_CHECKING:
    from hpo.database import Database
    from hpo.spec import StudySpec

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it greets each study


class Journal(optuna.storages.JournalStorage):
    """Optuna's journal, in the study's folder.

    Optuna looks for a waiting trial among all trials whenever it is asked for one. Here it is
    known when there is none: nobody else writes to the file.
    """

    failures = 0  # as `Database.failures`: a file does not fail and go on
    _none_waits = False  # that is known

    def __init__(self, paths: StudyPaths) -> None:
        self._file = SingleWriterJournal(paths.journal)
        super().__init__(self._file)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        only_waiting = states == (TrialState.WAITING,)
        if only_waiting and self._none_waits:
            return []
        found = super().get_all_trials(study_id, deepcopy, states)
        if only_waiting:
            self._none_waits = not found
        return found

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is not None:  # perhaps one that waits
            self._none_waits = False
        return super().create_new_trial(study_id, template_trial)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if state == TrialState.WAITING:
            self._none_waits = False
        return super().set_trial_state_values(trial_id, state, values)

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


def check_not_moved(spec: StudySpec, moved_to: str | None) -> None:
    """Refuse to look for a study where it no longer is.

    Args:
        moved_to: Where `hpo.migrate` has put it since its last run, as that is written; None: it
            was not moved.

    Raises:
        UserError: The study file says another storage.
    """
    if moved_to is None:
        return
    try:
        there = addresses.storage(addresses.expand(moved_to, os.environ), spec.folder)
    except addresses.AddressError:  # then the file, which could be read, says another one
        there = moved_to
    if place(there) != place(spec.storage):
        shown = redact(moved_to)
        resolved = StudyPaths(Path("studies", spec.study)).resolved
        hidden = "" if shown == moved_to else f"\nwhat *** hides is in {resolved}"
        raise UserError(
            f"study '{spec.study}' was moved (`hpo storage migrate`); its trials are not in "
            f"{redact(spec.storage)}.\nWrite this into {spec.file}:\n  storage: {shown}{hidden}"
        )


def place(address: str) -> str:
    """The same text for addresses that are clearly of one storage: those that differ in a
    password, or in the way to a file. Others may be of one storage all the same."""
    if address == "journal":
        return address
    from sqlalchemy import make_url

    # `URL.set` takes None for "as it is".
    url = make_url(address)._replace(password=None).difference_update_query(["password"])
    if url.drivername == "sqlite" and url.database:
        url = url.set(database=os.path.realpath(url.database))
    return url.render_as_string()
