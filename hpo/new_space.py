"""The study in Optuna made anew under another search space, with all its trials.

Optuna refuses other choices for a parameter that it knows, and its samplers learn of a parameter
only from trials with the range of now. So every trial is written again, in order, with what it was
and what it reached untouched, as drawn from the space of now. That happens beside the study, which
is then replaced in one step: a crash leaves the one or the other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from hpo.journal import SingleWriterJournal
from hpo.paths import StudyPaths, replacing
from hpo.storages import Journal

if TYPE_CHECKING:
    from hpo.database import Database

Distributions = Mapping[str, optuna.distributions.BaseDistribution]

_CMA_ES = "cma"  # begins the names of its state, which is of one space; it begins anew


def is_another(study: optuna.Study, space: Distributions) -> bool:
    """Whether a trial of the study was drawn from another space."""
    return any(
        path in space and space[path] != drawn_from
        for trial in study.get_trials(deepcopy=False)
        for path, drawn_from in trial.distributions.items()
    )


def replace(
    study: optuna.Study, space: Distributions, storage: Journal | Database, paths: StudyPaths
) -> None:
    """Put a study with the same trials in another space in the place of `study`.

    `storage` is to be closed and opened anew.

    Args:
        space: That of now. What the trials' parameters are lies in it.
        paths: Of the study.
    """
    if isinstance(storage, Journal):
        with replacing(paths.journal) as file:
            journal = SingleWriterJournal(Path(file.name))
            _copy(study, study.study_name, space, optuna.storages.JournalStorage(journal))
            journal.close()
        return
    name = f"{study.study_name} (being made)"  # which no study of hpo's can be called
    failures = -1
    while storage.failures != failures:  # else a trial may be there twice
        failures = storage.failures
        if name in (known.study_name for known in storage.get_all_studies()):
            storage.delete_study(storage.get_study_id_from_name(name))
        _copy(study, name, space, storage)
    storage.put_in_place_of(study.study_name, name)


def _copy(
    study: optuna.Study, name: str, space: Distributions, storage: optuna.storages.BaseStorage
) -> None:
    made = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=study.directions,
        load_if_exists=True,  # made before the answer to that was lost
    )
    for key, value in study.user_attrs.items():
        made.set_user_attr(key, value)
    if study.metric_names:
        made.set_metric_names(study.metric_names)
    for trial in study.get_trials(deepcopy=False):
        again = copy.deepcopy(trial)
        again.distributions = {
            path: space.get(path, drawn_from) for path, drawn_from in trial.distributions.items()
        }
        again.system_attrs = {
            key: value for key, value in trial.system_attrs.items() if not key.startswith(_CMA_ES)
        }
        made.add_trial(again)
