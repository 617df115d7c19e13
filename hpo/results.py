"""The read model: studies, trials, curves and predictions as tables. Read only.

Everything comes from the studies' outboxes, so it is there at once, with MLflow up or down; run
ids come from what has been shipped. STUDY is a study's name or its file; HOME is the folder in
which ``studies/`` lies, the current one by default.

Not covered: the models themselves, and studies whose folder was deleted (MLflow still has them).
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import UnknownStudy, UserError
from hpo.paths import Home, StudyPaths
from hpo.study_log import Record, StudyLog, TrialLog
from hpo.tracking import outbox, pending, shipped_runs

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "best",
    "curves",
    "name_of",
    "predictions",
    "status",
    "studies",
    "tracking_uri",
    "trials",
]

STATES = ("complete", "pruned", "failed", "stopped", "running", "waiting")

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
        log = StudyLog.read(where.study(name))
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
    import pandas as pd

    log = _open(study, home)
    runs = shipped_runs(log.paths)
    table = pd.DataFrame([_row(log, trial, runs) for trial in log.in_order()])
    if table.empty:
        table = pd.DataFrame(columns=[*_FACTS, "run_id"])
    columns = [str(column) for column in table]
    params = [column for column in columns if column.startswith("params.")]
    rest = [column for column in columns if column not in params]
    before = columns.index(params[0]) if params else 0
    table = table[[*rest[:before], *params, *rest[before:]]]  # together, whichever row had them
    table["started"] = pd.to_datetime(table["started"], unit="ms", utc=True)
    whole = ("number", "best_epoch", "last_epoch", "worker", "attempts", "seed")
    types = dict.fromkeys(whole, "Int64")
    types |= dict.fromkeys(("value", "seconds", "peak_memory_mb"), "float64") | {"run_id": "str"}
    return table.astype(types)


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
    import pandas as pd

    paths = _paths(study, home)
    wanted = None if trials is None else set(trials)
    columns: tuple[list[Any], ...] = ([], [], [], [], [])
    for record, _ in outbox.read(paths.outbox):
        if record["kind"] != "epoch" or (wanted is not None and record["number"] not in wanted):
            continue
        for metric, value in record["metrics"].items():
            if metrics is None or metric in metrics:
                row = (record["number"], record["epoch"], metric, value, record["time_ms"])
                for column, cell in zip(columns, row, strict=True):
                    column.append(cell)
    numbers, epochs, names, values, times = columns
    return pd.DataFrame(
        {
            "trial": pd.Series(numbers, dtype="int64"),
            "epoch": pd.Series(epochs, dtype="int64"),
            "metric": pd.Series(names, dtype="str"),
            "value": pd.Series(values, dtype="float64"),
            "time": pd.to_datetime(pd.Series(times, dtype="int64"), unit="ms", utc=True),
        }
    )


def predictions(study: str | Path, trial: int, home: Where = None) -> pd.DataFrame:
    """What a trial's best epoch said of the validation split.

    Returns:
        ``id`` (row number in the data), ``target``, and ``output`` (regression) or ``output.0``,
        ``output.1``, … (class probabilities); the classes' names, if known, are in
        ``.attrs["classes"]``.

    Raises:
        UnknownStudy: There is no such study.
        UserError: The trial has no predictions.
    """
    import numpy as np
    import pandas as pd

    log = _open(study, home)
    path = log.paths.trial(trial) / "predictions.npz"
    if not path.is_file():
        known = "" if trial in log.trials else f"; it has no trial {trial}"
        raise UserError(f"study '{log.paths.root.name}': no predictions of trial {trial}{known}")
    with np.load(path, allow_pickle=False) as arrays:
        ids, target, output = arrays["ids"], arrays["target"], arrays["output"]
    table = pd.DataFrame({"id": ids, "target": target})
    if output.ndim == 1:
        table["output"] = output.astype(np.float32)
    else:
        for index, column in enumerate(output.T.astype(np.float32)):
            table[f"output.{index}"] = column
    table.attrs["classes"] = log.dataset.get("classes")
    return table


def status(study: str | Path, home: Where = None) -> dict[str, Any]:
    """How a study stands.

    Returns:
        ``study``; ``state``: running, complete, stopped, failed or interrupted; ``trials``: a
        count for each state of a trial; ``best``: ``trial``, ``value``, ``epoch``, ``params``,
        ``metrics`` and ``run_id`` of the best complete trial, or None; ``pareto``: with several
        objectives the trials that no other beats in all (``best`` is None then), else None;
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
    return StudyLog.read(_paths(study, home))


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


# -- as rows and dicts

_FACTS = (
    "number",
    "state",
    "reason",
    "value",
    "best_epoch",
    "last_epoch",
    "seconds",
    "peak_memory_mb",
    "worker",
    "attempts",
    "seed",
    "started",
)


def _row(log: StudyLog, trial: TrialLog, runs: Mapping[int, str]) -> dict[str, Any]:
    end: Record = trial.end or {}
    values = log.values_of(trial)
    epochs = [epoch["epoch"] for epoch in trial.epochs]
    facts = (
        trial.number,
        log.state_of(trial),
        end.get("reason", ""),
        values[0] if values else None,
        end.get("best_epoch", trial.best and trial.best["epoch"]),
        end.get("last_epoch", max(epochs, default=0)),
        end.get("seconds", sum(epoch["seconds"] for epoch in trial.epochs)),
        end.get("peak_memory_mb"),
        trial.assigned["worker"],
        trial.assigned["attempt"],
        trial.assigned["seed"],
        trial.began["time_ms"],
    )
    row = dict(zip(_FACTS, facts, strict=True))
    row["run_id"] = runs.get(trial.number)
    if len(log.objective) > 1:
        names = [f"value.{o['metric']}" for o in log.objective]
        row |= dict(zip(names, values, strict=True)) if values else dict.fromkeys(names)
    row |= {f"params.{path}": value for path, value in trial.assigned["params"].items()}
    metrics = trial.best["metrics"] if trial.best else {}
    return row | {name: value for name, value in metrics.items() if name not in row}


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
        "objective": log.objective,
        "budget": study.get("budget"),
        "replica": {"pending": pending(log.paths)},
    }


def _summary(log: StudyLog, trial: TrialLog, runs: Mapping[int, str]) -> dict[str, Any]:
    values = log.values_of(trial) or []
    several = len(log.objective) > 1
    names = [o["metric"] for o in log.objective]
    return {
        "trial": trial.number,
        **({"values": dict(zip(names, values, strict=True))} if several else {"value": values[0]}),
        "epoch": trial.end and trial.end["best_epoch"],
        "params": dict(trial.assigned["params"]),
        "metrics": dict(trial.best["metrics"]) if trial.best else {},
        "run_id": runs.get(trial.number),
    }
