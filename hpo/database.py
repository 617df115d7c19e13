"""Optuna's storage in a database, patiently.

What is promised of a database that goes away while a study runs, or that another program has
locked: the study waits, says so, and goes on where it was. What was being written is written
again, which changes nothing that was written already. For a SQLite file the patience has an end:
a lock that is held for so long is no accident.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    InterfaceError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)

from hpo.errors import HpoError, StorageLost, UserError
from hpo.paths import flush_folder
from hpo.spec import addresses
from hpo.tracking.redact import redact

LOCKED_S = 60.0  # for a SQLite file that another program has locked
BUSY_S = 5.0  # of it, in SQLite's own hands at a time: no message and no Ctrl-C meanwhile
CONNECT_S = 10  # for a PostgreSQL server that does not answer
AGAIN_S = 1.0  # between two tries
SAY_EVERY = 60  # tries
OPENINGS = 5  # several studies may make the tables of one database at the same time

MAY_PASS = (OperationalError, InterfaceError, PendingRollbackError)
# What a server refuses to anybody who tries again. When it refuses a connection, its words are all
# that is known; in another language than English, it is waited for.
REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|not permitted to log in"
    r"|permission denied|(role|database) \".*\" does not exist"
)

Result = TypeVar("Result")


class Database(optuna.storages.RDBStorage):
    """Optuna's tables, for the one process that runs a study.

    Parameters and the values of epochs are written by `flush`, all in one transaction, and a
    SQLite file is flushed to the disk by `commit`: a commit a value would be what a study of quick
    trials waits for. Nothing is lost with this process or the machine, for the outbox has what
    Optuna has not got yet.

    Args:
        say: Told when the study has to wait, and when it goes on.
        is_stopped: Whether to wait no longer, because somebody has ended the study.

    Attributes:
        failures: How often an operation failed, so that it is not known what it did.
    """

    def __init__(
        self, address: str, say: Callable[[str], None], is_stopped: Callable[[], bool]
    ) -> None:
        self.failures = 0
        self._shown = redact(address)
        self._is_sqlite = address.startswith("sqlite")
        self._say, self._is_stopped = say, is_stopped
        self._gave_up = False
        self._unwritten: dict[type[Any], list[dict[str, Any]]] = {}  # table → rows
        self._changed: set[int] = set()  # ids of trials that are to be read again
        timeout = {"timeout": BUSY_S} if self._is_sqlite else {"connect_timeout": CONNECT_S}
        # A connection is tried before it is used: the server may have been started anew.
        options = {"connect_args": timeout, "pool_pre_ping": not self._is_sqlite}
        try:
            super().__init__(address, engine_kwargs=options)
        except BaseException:
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise
        sqlalchemy.event.listen(self.engine, "handle_error", self._count_failure)
        if self._is_sqlite:
            sqlalchemy.event.listen(
                self.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=NORMAL")
            )
            self.engine.dispose()  # connections that do not know it
            with self.engine.connect() as connection:  # readers then do not block the writer
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        model = models.TrialIntermediateValueModel
        value, kind = model.intermediate_value_to_stored_repr(intermediate_value)
        row = {"intermediate_value": value, "intermediate_value_type": kind}
        self._later(model, trial_id, step=step, **row)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is not None:
            check_distribution_compatibility(previous_distribution, distribution)
        row: dict[str, Any] = {"distribution_json": distribution_to_json(distribution)}
        row |= {"param_name": param_name, "param_value": param_value_internal}
        self._later(models.TrialParamModel, trial_id, **row)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self.flush()  # a trial that is over takes nothing more
        self._changed.add(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._changed.add(trial_id)
        super().set_trial_system_attr(trial_id, key, value)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """What Optuna's cache has not got: new trials, and of those it has as unfinished, which it
        would read each time, those that have changed but for epochs, which nobody looks at there.
        """
        newest = max(included_trial_ids, default=trial_id_greater_than)
        again = included_trial_ids & self._changed
        found = super()._get_trials(study_id, states, again, max(newest, trial_id_greater_than))
        self._changed -= again
        return found

    def flush(self) -> None:
        """Write what waits, so that others see it."""
        if self._unwritten:
            self._write(self._unwritten)
            parameters = self._unwritten.get(models.TrialParamModel, ())
            self._changed |= {row["trial_id"] for row in parameters}
            self._unwritten = {}

    def commit(self) -> None:
        """Make everything told so far survive a crash of the machine."""
        self.flush()
        if self._is_sqlite:  # a server's commits are on its disk already
            log = Path(f"{self.engine.url.database}-wal")
            with contextlib.suppress(FileNotFoundError), open(log, "rb") as file:
                os.fsync(file.fileno())
            flush_folder(log.parent)

    def delete_study(self, study_id: int) -> None:
        """Delete a study, unless that was done before and only the answer was lost."""
        with contextlib.suppress(KeyError):
            super().delete_study(study_id)

    def put_in_place_of(self, study: str, other: str) -> None:
        """Delete `study` and give `other` its name, in one transaction, unless that was done."""
        with _create_scoped_session(self.scoped_session) as session:
            made = models.StudyModel.find_by_name(other, session)
            if made is not None:
                session.delete(models.StudyModel.find_or_raise_by_name(study, session))
                session.flush()
                made.study_name = study

    def close(self) -> None:
        self.engine.dispose()

    def _later(self, table: type[Any], trial_id: int, **columns: Any) -> None:
        self._unwritten.setdefault(table, []).append({"trial_id": trial_id, **columns})

    def _write(self, unwritten: Mapping[type[Any], Sequence[Mapping[str, Any]]]) -> None:
        insert = (sqlite if self._is_sqlite else postgresql).insert
        with _create_scoped_session(self.scoped_session) as session:
            for table, rows in unwritten.items():
                session.execute(insert(table).on_conflict_do_nothing(), rows)

    def _count_failure(self, _: sqlalchemy.engine.ExceptionContext) -> None:
        self.failures += 1

    def _wait(self, error: StorageInternalError, tries: int, waited_s: float) -> None:
        """Wait a little, where what went wrong may pass.

        Raises:
            StorageLost: It does not, or somebody has ended the study meanwhile.
        """
        cause = _cause(error)
        may_pass = isinstance(error.__cause__, MAY_PASS) and not REFUSED.search(cause)
        if self._is_sqlite:
            may_pass = "is locked" in cause and waited_s < LOCKED_S
        if not may_pass or self._is_stopped():
            self._gave_up = True
            waited = f" (waited {waited_s:.0f} s)" if waited_s >= 1 else ""
            raise StorageLost(
                f"storage {self._shown}: {cause}{waited}\n"
                "Nothing acknowledged is lost. Mend the cause, then run the same command: it goes "
                "on from here."
            ) from error
        if tries == 1:  # a connection that was cut: the next try makes another
            return
        if tries % SAY_EVERY == 2:
            self._say(f"storage {self._shown}: {cause}; waiting for it ({waited_s:.0f} s) …")
        time.sleep(AGAIN_S)


def open_database(
    address: str, say: Callable[[str], None], is_stopped: Callable[[], bool]
) -> Database:
    """The `Database` at `address`, with Optuna's tables in it.

    Raises:
        UserError: It was made by another version of Optuna, or its driver is missing.
        HpoError: It cannot be opened.
    """
    shown = redact(address)
    for opening in range(1, OPENINGS + 1):
        try:
            return Database(address, say, is_stopped)
        except ImportError as error:
            raise UserError(
                f"storage {shown}: its driver is not installed; `pip install 'hpo[postgres]'`"
            ) from error
        except RuntimeError as error:  # a schema newer or older than this Optuna's
            raise UserError(
                f"storage {shown}: {error}\n"
                "Or install the Optuna that wrote it, or use another storage."
            ) from error
        except (SQLAlchemyError, StorageInternalError) as error:
            if opening == OPENINGS or not _is_being_made(error):
                cause = _cause(error)
                raise HpoError(
                    f"storage {shown} cannot be opened: {cause}{addresses.advice(cause)}"
                ) from error
            time.sleep(AGAIN_S)
    raise AssertionError("returned or raised above")


def _is_being_made(error: BaseException) -> bool:
    """Whether another study may just be making the tables."""
    return any(
        words in _cause(error) for words in ("already exists", "is locked", "duplicate", "UNIQUE")
    )


def _cause(error: BaseException) -> str:
    """What the database itself said, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(redact(str(error)).split())


def _patiently(operation: Callable[..., Result]) -> Callable[..., Result | bool]:
    """`operation` of a `Database`, tried until it is done."""

    @functools.wraps(operation)
    def tried(self: Database, *args: Any, **kwargs: Any) -> Result | bool:
        if self._gave_up:
            raise StorageLost(f"storage {self._shown} was given up")
        began_s = time.monotonic()
        for tries in itertools.count(1):
            try:
                result = operation(self, *args, **kwargs)
            except StorageInternalError as error:
                self._wait(error, tries, time.monotonic() - began_s)
            except UpdateFinishedTrialError:
                if tries == 1:
                    raise
                return True  # the end had arrived, and only the answer was lost
            else:
                break
        if tries > 2:
            self._say(f"storage {self._shown}: goes on after {time.monotonic() - began_s:.0f} s")
        return result

    return tried


for _name in (
    *("get_study_id_from_name", "get_study_name_from_id", "get_study_directions"),
    *("get_study_user_attrs", "set_study_user_attr"),
    *("get_study_system_attrs", "set_study_system_attr"),
    *("get_trial_user_attrs", "set_trial_user_attr"),
    *("get_trial_system_attrs", "set_trial_system_attr"),
    *("get_all_studies", "get_trial_id_from_study_id_trial_number", "get_trial", "_get_trials"),
    *("create_new_study", "_create_new_trial", "set_trial_state_values", "_write"),
    *("delete_study", "put_in_place_of"),
):
    setattr(Database, _name, _patiently(getattr(Database, _name)))
