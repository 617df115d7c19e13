"""The read model: studies, trials, curves and predictions as tables. Read only.

Everything comes from the studies' outboxes, so it is there at once, with MLflow up or down; run
ids come from what has been shipped. STUDY is a study's name or its file; HOME is the folder in
which ``studies/`` lies, the current one by default.

Not covered: the models themselves (`hpo.predict`), and studies whose folder was deleted (MLflow
still has them).
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo import lease
from hpo.errors import UnknownStudy, UserError
from hpo.paths import Home, StudyPaths
from hpo.results.ensembles import table as ensemble_table
from hpo.results.epochs import HEAD
from hpo.results.predicted import Predicted, read_predictions
from hpo.results.study_log import Record, StudyLog, TrialLog
from hpo.results.tables import STATES, SYSTEM, StudyTables, from_log
from hpo.tracking import pending, shipped_ensembles, shipped_runs

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Predicted",
    "StudyTables",
    "UnknownStudy",
    "UserError",
    "best",
    "confirmation",
    "curves",
    "ensemble",
    "ensemble_predicted",
    "ensembles",
    "name_of",
    "predicted",
    "predictions",
    "status",
    "studies",
    "tables",
    "tracking_uri",
    "trials",
]

Where = str | Path | Home | None


def studies(home: Where = None) -> pd.DataFrame:
    """The studies that were run here, by name.

    Returns:
        ``study``, ``state``, one column of counts for each state of a trial, ``metric``, ``goal``,
        ``best_trial``, ``best_value`` (missing with several objectives), ``started`` and
        ``updated`` (UTC).
    """
    import pandas as pd

    where = _home(home)
    rows = []
    for name in where.study_names():
        log = StudyLog.read(where.study(name), where.results_cache)
        found = _status(log)
        objective = log.objective
        rows.append(
            {
                "study": name,
                "state": found["state"],
                **found["trials"],
                "metric": ", ".join(o["metric"] for o in objective),
                "goal": ", ".join(o["goal"] for o in objective),
                "best_trial": found["best"]["trial"] if found["best"] else None,
                "best_value": found["best"]["value"] if found["best"] else None,
                "started": log.started_ms,
                "updated": log.updated_ms,
            }
        )
    columns = ("study", "state", *STATES, "metric", "goal", "best_trial", "best_value")
    table = pd.DataFrame(rows, columns=[*columns, "started", "updated"])
    for column in ("started", "updated"):
        table[column] = pd.to_datetime(table[column], unit="ms", utc=True)
    return table.astype({"best_trial": "Int64", "best_value": "float64"})


def trials(study: str | Path, home: Where = None) -> pd.DataFrame:
    """The trials of a study, by number.

    Returns:
        ``number``, ``state``, ``reason``, ``value`` (the first objective's, at the best epoch),
        ``value.METRIC`` for each when there are several, ``best_epoch``, ``last_epoch``,
        ``seconds`` of training, ``peak_memory_mb``, ``worker``, ``attempts``, ``seed``,
        ``started`` (UTC), ``run_id`` (missing until shipped), ``params.PATH`` for each searched
        path (missing where it did not apply), and each metric at the best epoch (of a trial that
        is not over, the best so far).

    Raises:
        UnknownStudy: There is no such study.
    """
    return tables(study, home).trials


def curves(
    study: str | Path,
    trials: Collection[int] | None = None,
    metrics: Collection[str] | None = None,
    home: Where = None,
) -> pd.DataFrame:
    """Metrics over epochs, a row for each trial, epoch and metric.

    Args:
        trials: Only these numbers.
        metrics: Only these names.

    Returns:
        ``trial``, ``epoch``, ``metric``, ``value``, ``time`` (UTC).

    Raises:
        UnknownStudy: There is no such study.
    """
    import numpy as np
    import pandas as pd

    epochs = _open(study, home).epochs.table()
    if trials is not None:
        epochs = epochs[epochs["trial"].isin(list(trials))]
    names = [name for name in map(str, epochs) if name not in HEAD]
    names = [name for name in names if metrics is None or name in metrics]
    rows = [epochs["trial"], epochs["epoch"], epochs["time_ms"]]
    table = pd.DataFrame(
        {
            "trial": np.tile(rows[0], len(names)).astype(np.int64),
            "epoch": np.tile(rows[1], len(names)).astype(np.int64),
            "metric": pd.Categorical.from_codes(
                np.repeat(np.arange(len(names)), len(epochs)), pd.Index(names)
            ),
            "value": epochs[names].to_numpy(np.float64).T.ravel(),
            "time": pd.to_datetime(np.tile(rows[2], len(names)), unit="ms", utc=True),
        }
    )
    return table.dropna(subset="value", ignore_index=True)


def predictions(study: str | Path, trial: int, home: Where = None) -> pd.DataFrame:
    """What a trial's best epoch said of the validation split.

    Returns:
        ``id`` (row number in the data), ``target``, and ``output`` (regression) or ``output.0``,
        ``output.1``, … (probabilities of classes or labels; of labels ``target.0``, …, too), and
        ``group`` (a number) where rows are in groups; the classes' or labels' names, if known,
        are in ``.attrs["classes"]``.

    Raises:
        UnknownStudy: There is no such study.
        UserError: The trial has no predictions.
    """
    import pandas as pd

    found = predicted(study, trial, home)
    table = pd.DataFrame({"id": found.ids})
    if found.is_multilabel:
        for index, column in enumerate(found.target.T):
            table[f"target.{index}"] = column
    else:
        table["target"] = found.target
    if found.has_probabilities:
        for index, column in enumerate(found.output.T):
            table[f"output.{index}"] = column
    else:
        table["output"] = found.output
    if found.groups is not None:
        table["group"] = found.groups
    table.attrs["classes"] = found.classes and list(found.classes)
    return table


def predicted(study: str | Path, trial: int, home: Where = None) -> Predicted:
    """The same as `predictions`, as arrays.

    Raises:
        UnknownStudy: There is no such study.
        UserError: The trial has no predictions.
    """
    log = _open(study, home)
    path = log.paths.trial(trial) / "predictions.npz"
    if not path.is_file():
        known = "" if trial in log.trials else f"; it has no trial {trial}"
        raise UserError(f"study '{log.paths.root.name}': no predictions of trial {trial}{known}")
    return read_predictions(path, log.dataset.get("classes"))


def ensembles(study: str | Path, home: Where = None) -> pd.DataFrame:
    """The ensembles over a study's trials that `hpo ensemble` made, the first one first.

    Returns:
        ``ensemble`` (its number), ``time`` (UTC), ``method``, ``calibrated``, ``members`` (trials,
        the heaviest first), ``metric``, ``goal``; ``value``, ``low``, ``high``: the metric on rows
        that had no part in making it; ``best_in_fold``: the same of the best trial alone; ``gain``
        (ensemble − best), ``gain_low``, ``gain_high``, ``p``, ``verdict``; ``run_id`` (missing
        until shipped).

    Raises:
        UnknownStudy: There is no such study.
    """
    log = _open(study, home)
    return ensemble_table(log.ensembles.values(), shipped_ensembles(log.paths))


def ensemble(study: str | Path, number: int, home: Where = None) -> dict[str, Any]:
    """All that is recorded of one of them.

    Returns:
        ``ensemble``, ``time_ms``, ``method``, ``calibrated``, ``non_negative``, ``metric``,
        ``goal``, ``fitted_by``, ``rows``, ``folds``, ``trials`` (that could be members),
        ``candidates``, ``left_out`` (reason → trials); ``members``: ``trial``, ``weight``,
        ``temperature`` (None: not calibrated), ``value`` and how it differs from the others;
        ``diversity``: the means over pairs; ``estimate``: ``value``, ``low``, ``high``;
        ``against``: the best trial chosen in each fold, the same calibrated, and the best of all,
        each with ``difference``, ``gain_low``, ``gain_high``, ``p``, ``verdict``, ``test``;
        ``tried``: each method with its cross-validated ``value``; ``sizes``: the ``value`` of the
        heaviest ``members`` alone; ``without_weights``: members whose weights were not kept, for
        which it cannot predict new rows; ``artifacts``: name → path in the study's folder;
        ``run_id``.

    Raises:
        UnknownStudy: There is no such study.
        UserError: It has no such ensemble.
    """
    log = _open(study, home)
    if number not in log.ensembles:
        there = ", ".join(map(str, log.ensembles)) or "none; `hpo ensemble` makes one"
        name = log.paths.root.name
        raise UserError(f"study '{name}' has no ensemble {number}; there are: {there}")
    return {**log.ensembles[number], "run_id": shipped_ensembles(log.paths).get(number)}


def ensemble_predicted(study: str | Path, number: int, home: Where = None) -> Predicted:
    """What an ensemble said of each validation row, made without the row's fold.

    Raises:
        UnknownStudy: There is no such study.
        UserError: It has no such ensemble, or its file is gone.
    """
    found = ensemble(study, number, home)
    log = _open(study, home)
    path = log.paths.root / found["artifacts"]["predictions.npz"]
    if not path.is_file():
        raise UserError(f"the predictions of ensemble {number} are gone: {path}")
    return read_predictions(path, log.dataset.get("classes"))


def confirmation(study: str | Path, home: Where = None) -> dict[str, Any] | None:
    """How the winner of a study did when it was confirmed, the last time; None: it was not yet.

    Returns:
        ``metric`` and ``goal``; ``seeds``: how many fresh ones; ``trials``: for each that was
        trained anew ``trial``, ``searched`` (its value in the search), ``values`` (a seed each),
        their ``mean``, ``low``, ``high``, and ``failures``; ``winner``: its number; ``test``:
        ``rows``, ``metric``, ``judged`` (the winner's ``kept`` weights, or a ``fresh seed``'s),
        ``runs`` (``trial 7``, ``ensemble 0`` → metric → ``value``, ``low``, ``high``), ``seeds``
        (the winner's fresh seeds on these rows: ``values``, ``mean``, ``low``, ``high``) and
        ``gain`` (of the ensemble: ``difference``, ``low``, ``high``, ``p``, ``verdict``,
        ``test``, or None), or None where there is no test split; ``looks``:
        how often that was opened; ``time_ms``.

    Raises:
        UnknownStudy: There is no such study.
    """
    found = _open(study, home).confirmations
    return {key: value for key, value in found[-1].items() if key != "kind"} if found else None


def tables(study: str | Path, home: Where = None) -> StudyTables:
    """All there is about a study at this moment.

    Raises:
        UnknownStudy: There is no such study.
    """
    log = _open(study, home)
    return from_log(log, shipped_runs(log.paths), lease.owner(log.paths.lease))


def status(study: str | Path, home: Where = None) -> dict[str, Any]:
    """How a study stands.

    Returns:
        ``study``; ``state``: running, complete, stopped, failed or interrupted; ``trials``: a
        count for each state of a trial; ``best``: ``trial``, ``value``, ``epoch``, ``params``,
        ``metrics`` and ``run_id`` of the best complete trial, or None; ``pareto``: with several
        objectives the trials that no other beats in all (``best`` is None then), else None;
        ``workers``: for each that trains now its number, the numbers of its ``trials`` (several
        are lanes) and how many ``epochs`` of each are on record;
        ``objective``; ``budget``; ``replica``: how many records MLflow lacks (``pending``).

    Raises:
        UnknownStudy: There is no such study.
    """
    return _status(_open(study, home))


def best(study: str | Path, home: Where = None) -> dict[str, Any] | None:
    """The best complete trial (see `status`); None before the first or with several objectives.

    Raises:
        UnknownStudy: There is no such study.
    """
    found: dict[str, Any] | None = status(study, home)["best"]
    return found


def name_of(study: str | Path) -> str:
    """The name of a study given by its name or its file.

    Raises:
        UserError: The file does not say.
    """
    path = Path(study)
    if path.suffix not in (".yaml", ".yml") and not (os.sep in str(study) and path.is_file()):
        return str(study)
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UserError(f"{study}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeError):
        raise UserError(f"{study} is not YAML; `hpo validate {study}` says where") from None
    name = content.get("study") if isinstance(content, dict) else None
    if not name:
        raise UserError(f"{study} has no `study:` line with the study's name")
    return str(name)


def tracking_uri(study: str | Path, home: Where = None) -> str | None:
    """Where the study's file sends it (``tracking.uri``), or None where it does not say.

    Raises:
        UnknownStudy: There is no such study.
        UserError: The address needs an environment variable that is not set.
    """
    import yaml

    from hpo.spec.addresses import AddressError, expand, tracking

    log = _open(study, home)
    said: Record = log.study or {"file": "", "folder": "."}
    content, folder = yaml.safe_load(said["file"]), said["folder"]
    uri = ((content or {}).get("tracking") or {}).get("uri")
    try:
        return tracking(expand(uri, os.environ), Path(folder)) if uri else None
    except AddressError as error:
        raise UserError(f"tracking.uri of '{log.paths.root.name}': {error.message}") from None


# -- finding


def _open(study: str | Path, home: Where) -> StudyLog:
    return StudyLog.read(_paths(study, home), _home(home).results_cache)


def _paths(study: str | Path, home: Where) -> StudyPaths:
    where = _home(home)
    names = where.study_names()
    name = str(study) if str(study) in names else name_of(study)
    if name not in names:
        raise UnknownStudy(_unknown(name, names, where))
    return where.study(name)


def _home(home: Where) -> Home:
    return home if isinstance(home, Home) else Home(Path(home or "."))


def _unknown(name: str, names: list[str], home: Home) -> str:
    place = home.studies.absolute()
    if not names:
        return f"no study '{name}': none has been run yet in {place} (elsewhere? use --home)"
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"no study '{name}' in {place}{hint}\nThere are: {', '.join(names)}"


# -- as dicts


def _status(log: StudyLog) -> dict[str, Any]:
    counts = Counter(log.state_of(trial) for trial in log.trials.values())
    study: Record = log.study or {}
    several = len(log.objective) > 1
    runs = shipped_runs(log.paths)
    front = [_summary(log, trial, runs) for trial in log.front()]
    return {
        "study": log.paths.root.name,
        "state": log.state,
        "trials": {state: counts[state] for state in STATES},
        "best": front[0] if front and not several else None,
        "pareto": front if several else None,
        "workers": _workers(log),
        "objective": log.objective,
        "budget": study.get("budget"),
        "replica": {"pending": pending(log.paths)},
    }


def _workers(log: StudyLog) -> list[dict[str, Any]]:
    """What each worker trains now."""
    workers: dict[int, dict[str, Any]] = {}
    newest = log.epochs.table().groupby("trial")["epoch"].max() if log.live else None
    for trial in log.in_order():
        if newest is not None and log.state_of(trial) == "running":
            number = trial.assigned["worker"]
            at = {"worker": number, "node": trial.assigned.get("node")}
            found = workers.setdefault(number, at | {"trials": [], "epochs": []})
            found["trials"].append(trial.number)
            found["epochs"].append(int(newest.get(trial.number, 0)))
    return [workers[number] for number in sorted(workers)]


def _summary(log: StudyLog, trial: TrialLog, runs: Mapping[int, str]) -> dict[str, Any]:
    end: Record = trial.end or {}
    several = len(log.objective) > 1
    names = [o["metric"] for o in log.objective]
    values = end["values"]
    return {
        "trial": trial.number,
        **({"values": dict(zip(names, values, strict=True))} if several else {"value": values[0]}),
        "epoch": end["best_epoch"],
        "params": dict(trial.assigned["params"]),
        "metrics": _metrics_at(log, trial.number, end["best_epoch"]),
        "run_id": runs.get(trial.number),
    }


def _metrics_at(log: StudyLog, number: int, epoch: int) -> dict[str, float]:
    table = log.epochs.table()
    found = table[(table["trial"] == number) & (table["epoch"] == epoch)]
    if found.empty:
        return {}
    values = found.drop(columns=list(HEAD)).iloc[0].dropna().to_dict().items()
    return {str(name): value for name, value in values if not str(name).startswith(SYSTEM)}
