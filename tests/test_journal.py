"""Optuna's journal with one writer: what is appended is read back, and a torn tail is cut."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hpo.journal import SingleWriterJournal
from hpo.paths import StudyPaths
from hpo.storages import Journal


def open_study(path: Path) -> tuple[optuna.Study, SingleWriterJournal]:
    journal = SingleWriterJournal(path)
    study = optuna.create_study(
        storage=JournalStorage(journal), study_name="s", load_if_exists=True
    )
    return study, journal


def add_trial(study: optuna.Study, value: float) -> None:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(value, 1)
    study.tell(trial, value)


def test_optuna_s_own_backend_reads_the_same_trials(tmp_path: Path) -> None:
    study, journal = open_study(tmp_path / "journal.log")
    for value in (0.3, 0.1):
        add_trial(study, value)
    journal.close()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    theirs = optuna.load_study(storage=storage, study_name="s")
    assert [t.value for t in theirs.trials] == [0.3, 0.1]
    assert theirs.trials[0].params == study.trials[0].params
    assert theirs.trials[0].intermediate_values == {1: 0.3}


@pytest.mark.parametrize("torn_bytes", [1, 10, 40])
def test_a_torn_last_line_is_cut_and_the_study_goes_on(tmp_path: Path, torn_bytes: int) -> None:
    path = tmp_path / "journal.log"
    study, journal = open_study(path)
    add_trial(study, 0.3)
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn_bytes])  # the last line told the trial's value
    again, journal = open_study(path)
    assert again.trials[0].state == optuna.trial.TrialState.RUNNING
    add_trial(again, 0.2)
    journal.close()
    third, journal = open_study(path)
    assert [t.value for t in third.trials] == [None, 0.2]
    journal.close()


def test_what_is_committed_is_in_the_file(tmp_path: Path) -> None:
    study, journal = open_study(tmp_path / "journal.log")
    add_trial(study, 0.3)
    journal.commit()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    assert optuna.load_study(storage=storage, study_name="s").trials[0].value == 0.3
    journal.close()


def test_trials_that_wait_are_given_out_although_none_waited_before(tmp_path: Path) -> None:
    storage = Journal(StudyPaths(tmp_path))
    study = optuna.create_study(storage=storage)
    numbers = [study.ask().number for _ in range(2)]
    study.enqueue_trial({"x": 0.25})
    enqueued = study.ask()
    assert enqueued.suggest_float("x", 0, 1) == 0.25
    assert study.ask().number == enqueued.number + 1
    storage.set_trial_state_values(enqueued._trial_id, TrialState.WAITING)
    assert study.ask().number == enqueued.number
    assert numbers == [0, 1]
    storage.close()
