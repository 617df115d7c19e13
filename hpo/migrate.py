"""A study's trials moved to another storage: ``hpo storage migrate``.

The old storage is the truth until the new one has everything, has been read again and compared,
and the outbox says so. A crash before that record leaves the old one in use, after it the new one;
the same command then finishes what is left. What Optuna keeps by a trial's id, which every storage
gives out itself, is written again with the new ids.

Nothing is deleted from a storage before it is known to be another one than that in use.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from hpo import lease
from hpo.errors import HpoError, UserError
from hpo.fault_points import passing
from hpo.journal import SingleWriterJournal
from hpo.paths import Home, StudyPaths, replacing
from hpo.spec import addresses
from hpo.spec.yaml_text import dump
from hpo.storages import open_storage, place
from hpo.tracking import outbox
from hpo.tracking.redact import redact

if TYPE_CHECKING:
    from hpo.database import Database

Attributes = dict[str, Any]
Say = Callable[[str], None]
_ID = "hpo:study_id"  # a study's attribute, which the outbox names, too
_IDS = ":parent:"  # in the name of a study's attribute: a list of ids of trials


@dataclass(frozen=True)
class Migrated:
    """What was done.

    Attributes:
        before, now: Addresses as a study file has them.
        trials: How many there are.
        file: The study file that is to say `now`.
    """

    before: str
    now: str
    trials: int
    file: str


@dataclass(frozen=True)
class Content:
    """All that a storage has of one study, the same in every storage.

    Attributes:
        system_attrs: With numbers of trials in place of their ids.
    """

    directions: list[StudyDirection]
    user_attrs: Attributes
    system_attrs: Attributes
    trials: list[FrozenTrial]

    @classmethod
    def read(cls, storage: BaseStorage, name: str) -> Content:
        """
        Raises:
            KeyError: The storage has no such study.
        """
        study_id = storage.get_study_id_from_name(name)
        trials = storage.get_all_trials(study_id, deepcopy=False)
        numbers = {trial._trial_id: trial.number for trial in trials}
        return cls(
            list(storage.get_study_directions(study_id)),
            storage.get_study_user_attrs(study_id),
            _translated(storage.get_study_system_attrs(study_id), numbers),
            trials,
        )

    def facts(self) -> list[str]:
        """Everything in it as text, where NaN is NaN; -0.0 is 0.0, for SQLite knows no other."""
        study = (self.directions, _json(self.user_attrs), _json(self.system_attrs))
        return [repr(study), *map(_facts, self.trials)]


def migrate(study: str, to: str, home: Home, say: Say) -> Migrated:
    """Move `study` to the storage `to`; on the disk when this returns.

    Args:
        to: ``journal``, ``sqlite:///file`` (from the current folder) or ``postgresql://…``.

    Raises:
        UserError: There is no such storage, or it has another study of that name.
        StudyLocked: Another process runs the study.
        HpoError: A storage cannot be opened, or does not give back what was written.
    """
    paths = home.study(study)
    target = _expanded("--to", to, Path.cwd())
    now = target if target.startswith("sqlite") or "${" not in to else to
    with lease.hold(paths.lease, study):
        known = _recorded(paths)
        folder = Path(known.file).parent
        source = _expanded("storage", known.storage, folder)
        content = _read(source, paths, say)
        if content.user_attrs.get(_ID) != known.study_id:
            raise UserError(f"the study '{study}' in {redact(source)} is another one")
        if known.was is not None:  # by a command that was killed before its end
            try:
                was = _expanded("storage", known.was, folder)
                if not _is_one(source, was, paths, say):
                    _remove(was, known.study_id, paths, say)
                _record(paths, known.storage)
            except HpoError as error:  # e.g. that server is no more
                say(f"a copy may be left in {redact(known.was)}: {error}")
            _write_resolved(known, paths, known.storage)
        if _is_one(source, target, paths, say):
            if now != known.storage:
                _record(paths, now)
                _write_resolved(known, paths, now)
            return Migrated(known.was or known.storage, now, len(content.trials), known.file)
        say(f"writing {len(content.trials)} trials to {redact(now)} …")
        write = _write_journal if target == "journal" else _write_database
        write(content, target, paths, say)
        passing("copied")
        _record(paths, now, known.storage)
        passing("moved")
        _remove(source, known.study_id, paths, say)
        _record(paths, now)
        _write_resolved(known, paths, now)
    return Migrated(known.storage, now, len(content.trials), known.file)


# -- which storage it is


@dataclass(frozen=True)
class _Recorded:
    """What the outbox says.

    Attributes:
        file: The study file of the newest run.
        text: What that said, as it was understood.
        storage: Its address as written.
        was: The one before, if it may still have a copy.
    """

    study_id: str
    file: str
    text: str
    storage: str
    was: str | None


def _recorded(paths: StudyPaths) -> _Recorded:
    study, storage, was = None, None, None
    for record in outbox.read_whole(paths.outbox):
        if record["kind"] == "study":
            study, storage = record, None
        elif record["kind"] == "storage":
            storage, was = record["storage"], record["was"]
    if study is None:
        raise UserError(f"study '{paths.root.name}' has not begun; there is nothing to move")
    storage = storage or (yaml.safe_load(study["file"]) or {}).get("storage", "journal")
    return _Recorded(study["study_id"], study["path"], study["file"], storage, was)


def _record(paths: StudyPaths, storage: str, was: str | None = None) -> None:
    """Write where the study is; on the disk when this returns."""
    moved = {"storage": storage, "was": was}
    with outbox.Outbox(paths.outbox) as record:  # committed as it closes
        record.append({"kind": "storage", "time_ms": time.time_ns() // 1_000_000, **moved})


def storage_of(paths: StudyPaths) -> str | None:
    """The address of a study's storage as it is recorded; None: nothing is."""
    try:
        return _recorded(paths).storage
    except (FileNotFoundError, UserError):
        return None


def _is_one(one: str, other: str, paths: StudyPaths, say: Say) -> bool:
    """Whether two addresses are of one storage, so that what is made at one is at the other.

    Their text does not tell: a host has several names, and a service file has any.
    """
    if place(one) == place(other):
        return True
    if "journal" in (one, other) or paths.root.name not in _names(other, paths, say):
        return False
    mark = f"{paths.root.name}-{uuid.uuid4().hex}"
    # Made at the other one: a read-only copy of the storage in use, which lags, refuses it.
    with contextlib.closing(open_storage(other, paths, say)) as storage:
        marked = storage.create_new_study([StudyDirection.MINIMIZE], mark)
    try:
        return mark in _names(one, paths, say)
    finally:
        with contextlib.closing(open_storage(other, paths, say)) as storage:
            storage.delete_study(marked)


def _names(address: str, paths: StudyPaths, say: Say) -> list[str]:
    """Of all studies in a storage."""
    with contextlib.closing(open_storage(address, paths, say)) as storage:
        return [known.study_name for known in storage.get_all_studies()]


def _expanded(key: str, address: str, folder: Path) -> str:
    try:
        addresses.refuse_password(address)
        return addresses.storage(addresses.expand(address, os.environ), folder)
    except addresses.AddressError as error:
        hint = f"\n{error.hint}" if error.hint else ""
        raise UserError(f"{key} {redact(address)}: {error.message}{hint}") from None


def _write_resolved(known: _Recorded, paths: StudyPaths, address: str) -> None:
    """The study file as it was understood, with the storage of now."""
    content = yaml.safe_load(known.text) or {}
    with replacing(paths.resolved) as file:
        file.write(dump({**content, "storage": address}).encode())


# -- reading, writing and removing


def _read(address: str, paths: StudyPaths, say: Say) -> Content:
    name = paths.root.name
    if address == "journal" and not paths.journal.is_file():
        raise UserError(f"there is no {paths.journal}: the study's trials are not there")
    storage = open_storage(address, paths, say)
    try:
        return Content.read(storage, name)
    except KeyError:
        raise UserError(f"storage {redact(address)} has no study '{name}'") from None
    finally:
        storage.close()


def _write_journal(content: Content, _: str, paths: StudyPaths, say: Say) -> None:
    if paths.journal.exists() and _names("journal", paths, say):
        found = _read("journal", paths, say)
        _check_same(content, found, str(paths.journal), "delete it")
        return
    with replacing(paths.journal) as file:
        path, name = Path(file.name), paths.root.name
        journal = SingleWriterJournal(path)
        storage = optuna.storages.JournalStorage(journal)
        study_id = storage.create_new_study(content.directions, name)
        ids = [storage.create_new_trial(study_id, trial) for trial in content.trials]
        for key, value in content.user_attrs.items():
            storage.set_study_user_attr(study_id, key, value)
        for key, value in _translated(content.system_attrs, dict(enumerate(ids))).items():
            storage.set_study_system_attr(study_id, key, value)
        journal.close()
        again = optuna.storages.journal.JournalFileBackend(str(path))
        written = Content.read(optuna.storages.JournalStorage(again), name)
        _check_written(content, written, str(paths.journal))


def _write_database(content: Content, address: str, paths: StudyPaths, say: Say) -> None:
    from hpo.database import open_database

    name, shown = paths.root.name, redact(address)
    database = open_database(address, say, lambda: False)
    try:
        if name in (known.study_name for known in database.get_all_studies()):
            found = Content.read(database, name)
            how = f"remove it: optuna delete-study --study-name {name} --storage …"
            _check_same(content, found, shown, how)
        else:
            _insert(content, name, database)
            try:
                _check_written(content, Content.read(database, name), shown)
            except HpoError:
                database.delete_study(database.get_study_id_from_name(name))
                raise
        database.commit()
    finally:
        database.close()


def _check_same(content: Content, found: Content, where: str, how: str) -> None:
    """Refuse to write over a study, unless it is what an earlier command was killed after."""
    if content.facts() != found.facts():
        raise UserError(
            f"{where} has a study of this name with other trials. Nothing was changed.\n"
            f"If nobody needs it, {how}"
        )


def _check_written(content: Content, found: Content, where: str) -> None:
    wanted, there = content.facts(), found.facts()
    if wanted != there:
        pairs = zip(wanted, there, strict=False)
        different = next((i for i, (a, b) in enumerate(pairs) if a != b), len(there))
        what = f"trial {different - 1}" if different else "the study"
        raise HpoError(
            f"{where} does not give back {what} as it was written; the study stays where it was"
        )


def _remove(address: str, study_id: str, paths: StudyPaths, say: Say) -> None:
    """Delete the study from the storage in which it was, if it still is."""
    if address == "journal":
        paths.journal.unlink(missing_ok=True)
        return
    database = open_storage(address, paths, say)
    try:
        for known in database.get_all_studies():
            ours = database.get_study_user_attrs(known._study_id).get(_ID) == study_id
            if known.study_name == paths.root.name and ours:
                database.delete_study(known._study_id)
        database.commit()
    finally:
        database.close()


def _insert(content: Content, name: str, database: Database) -> None:
    """Write a study with all its trials in one transaction, which is there as a whole or not.

    Raises:
        HpoError: It is not.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        _insert_rows(content, name, database)
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        said = " ".join(redact(str(getattr(cause, "orig", cause))).split())
        raise HpoError(
            f"{redact(str(database.engine.url))}: {said}\nNothing was written; the study stays "
            "where it was. Run the same command again."
        ) from error


def _insert_rows(content: Content, name: str, database: Database) -> None:
    import sqlalchemy
    from optuna.storages._rdb import models
    from optuna.storages._rdb.storage import _create_scoped_session

    with _create_scoped_session(database.scoped_session) as session:
        study = models.StudyModel(study_name=name)
        session.add(study)
        session.flush()
        of_study = {"study_id": study.study_id}
        rows = [
            {
                **of_study,
                "number": trial.number,
                "state": trial.state,
                "_datetime_start_utc": _utc(trial.datetime_start),
                "_datetime_complete_utc": _utc(trial.datetime_complete),
            }
            for trial in content.trials
        ]
        statement = sqlalchemy.insert(models.TrialModel).returning(
            models.TrialModel.trial_id, sort_by_parameter_order=True
        )
        ids = list(session.scalars(statement, rows)) if rows else []
        tables: dict[type[Any], list[dict[str, Any]]] = {
            models.StudyDirectionModel: [
                {**of_study, "objective": i, "direction": direction}
                for i, direction in enumerate(content.directions)
            ],
            models.StudyUserAttributeModel: _attributes(of_study, content.user_attrs),
            models.StudySystemAttributeModel: _attributes(
                of_study, _translated(content.system_attrs, dict(enumerate(ids)))
            ),
        }
        for trial_id, trial in zip(ids, content.trials, strict=True):
            for table, further in _rows({"trial_id": trial_id}, trial).items():
                tables.setdefault(table, []).extend(further)
        for table, further in tables.items():
            if further:
                session.execute(sqlalchemy.insert(table), further)


def _rows(of_trial: dict[str, Any], trial: FrozenTrial) -> dict[type[Any], list[dict[str, Any]]]:
    """A trial's rows by table, without that of the trial itself."""
    from optuna.storages._rdb import models

    values, epochs = models.TrialValueModel, models.TrialIntermediateValueModel
    found: dict[type[Any], list[dict[str, Any]]] = {values: [], epochs: []}
    for i, value in enumerate(trial.values or ()):
        number, kind = values.value_to_stored_repr(value)
        found[values].append({**of_trial, "objective": i, "value": number, "value_type": kind})
    for step, value in trial.intermediate_values.items():
        stored = epochs.intermediate_value_to_stored_repr(value)
        row = {"intermediate_value": stored[0], "intermediate_value_type": stored[1]}
        found[epochs].append({**of_trial, "step": step, **row})
    found[models.TrialParamModel] = [
        {
            **of_trial,
            "param_name": path,
            "param_value": trial.distributions[path].to_internal_repr(value),
            "distribution_json": distribution_to_json(trial.distributions[path]),
        }
        for path, value in trial.params.items()
    ]
    found[models.TrialUserAttributeModel] = _attributes(of_trial, trial.user_attrs)
    found[models.TrialSystemAttributeModel] = _attributes(of_trial, trial.system_attrs)
    return found


def _attributes(of: dict[str, Any], attributes: Attributes) -> list[dict[str, Any]]:
    return [
        {**of, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()
    ]


def _translated(attributes: Mapping[str, Any], ids: Mapping[int, int]) -> Attributes:
    """A study's attributes with other ids of its trials."""
    return {
        key: [ids[one] for one in value] if _IDS in key and isinstance(value, list) else value
        for key, value in attributes.items()
    }


def _facts(trial: FrozenTrial) -> str:
    """All of a trial but its id."""
    values = None if trial.values is None else [value + 0.0 for value in trial.values]
    params = {
        path: value + 0.0 if isinstance(value, float) else value
        for path, value in trial.params.items()
    }
    drawn_from = {path: distribution_to_json(d) for path, d in trial.distributions.items()}
    epochs = {step: value + 0.0 for step, value in trial.intermediate_values.items()}
    return repr(
        (
            *(trial.number, trial.state, values, trial.datetime_start, trial.datetime_complete),
            *(sorted(params.items()), sorted(drawn_from.items()), sorted(epochs.items())),
            *(_json(trial.user_attrs), _json(trial.system_attrs)),
        )
    )


def _json(attributes: Mapping[str, Any]) -> str:
    return json.dumps(attributes, sort_keys=True)


def _utc(local: datetime.datetime | None) -> datetime.datetime | None:
    """As Optuna's tables have it."""
    return None if local is None else local.astimezone(datetime.UTC).replace(tzinfo=None)
