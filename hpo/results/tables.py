"""A study as tables: what the app shows, and `hpo.results` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.results.epochs import HEAD, at
from hpo.results.study_log import Record, StudyLog, TrialLog
from trainers.contract import PARTS as PARTS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

STATES = ("complete", "pruned", "failed", "stopped", "running", "paused", "waiting")
OVER = ("complete", "pruned", "failed", "stopped")
# Of how a trial was trained.
NOTES = ("trained", "parallel", "micro_batch", "compiled", "products")
SYSTEM = "system/"  # metrics of the machine, not of the model
COST = "cost/"  # what using the model takes
# Metrics that say more of a trial than its curves: of each of its parts, and how these differ.
DETAILS = (*PARTS, "fold_std/", "repeat_std/", "member/", "oob/", COST)

# Before the parameters, in this order; types are those pandas keeps missing values in.
FACTS = {
    "number": "Int64",
    "state": "str",
    "reason": "str",
    "value": "float64",
    "best_epoch": "Int64",
    "last_epoch": "Int64",
    "seconds": "float64",
    "peak_memory_mb": "float64",
    "worker": "Int64",
    "attempts": "Int64",
    "seed": "Int64",
    "started": "datetime64[ms, UTC]",
    "ended": "datetime64[ms, UTC]",
    "run_id": "str",
}


@dataclass(frozen=True)
class StudyTables:
    """One study at one moment.

    Attributes:
        key: What links and commands call it: its name; ``NAME~1a2b3c4d`` where a server holds
            several of that name.
        name: Its name.
        state: running, complete, stopped, failed or interrupted.
        source: ``here``, or the tracking URI without credentials.
        objective: ``metric`` and ``goal`` of each objective.
        budget: ``trials``, ``epochs``, ``wall_s``, ``device_hours``, ``target``, ``patience``;
            None, or not there: no limit.
        sampler, pruner, workers, device_name: How it was run last.
        dataset: What was loaded (`trainers.data.Dataset.summary`), or empty.
        provenance: ``git`` and ``packages``, or empty.
        file: The study file with every default written out (YAML).
        path: Where that file was, or None.
        search: Searched path → ``type`` (float, int or choice), ``low``, ``high``, ``log``,
            ``step`` or ``choices``, and ``when``.
        started_ms, updated_ms: Milliseconds since the epoch of the clock.
        trials: A row for each trial, by number: see `hpo.results.trials`.
        configs: Trial → every setting it was trained with, by path.
        notes: Trial → how it was trained: ``trained``, as a lane or why not; where there is
            something to say ``parallel`` (over several devices), ``micro_batch`` (memory was
            short), ``compiled`` and ``products`` (of matrices, on a GPU).
        epochs: A row for each trial and epoch: ``trial``, ``epoch``, ``time_ms``, ``seconds``,
            then each metric; ``system/…`` are what the trial used of its machine.
        spans: Who trained what when: ``worker``, ``trial``, ``attempt``, ``start_ms``,
            ``end_ms`` (NaN while it trains), ``state``.
        missing_curves: Trials whose epochs are still to be fetched.
        owner: Of a live study: ``host`` and ``pid``, else None.
        version: Another number means that something changed.
    """

    key: str
    name: str
    state: str
    source: str
    objective: Sequence[Mapping[str, str]]
    budget: Mapping[str, Any]
    sampler: str
    pruner: str
    workers: int
    device_name: str
    dataset: Mapping[str, Any]
    provenance: Mapping[str, Any]
    file: str
    path: str | None
    search: Mapping[str, Mapping[str, Any]]
    started_ms: int
    updated_ms: int
    trials: pd.DataFrame
    configs: Mapping[int, Mapping[str, Any]]
    notes: Mapping[int, Mapping[str, str]]
    epochs: pd.DataFrame
    spans: pd.DataFrame
    missing_curves: int = 0
    owner: Mapping[str, Any] | None = None
    version: int = 0

    @property
    def maximize(self) -> bool:
        """Whether more is better, of the first objective."""
        return bool(self.objective) and self.objective[0]["goal"] == "maximize"

    @property
    def metrics(self) -> list[str]:
        """The metrics that were reported: the objectives', and others but ``system/…`` and those
        of `DETAILS`.
        """
        names = [c for c in map(str, self.epochs) if c not in HEAD]
        objectives = {goal["metric"] for goal in self.objective}
        return [n for n in names if n in objectives or not n.startswith((SYSTEM, *DETAILS))]

    def complete(self) -> pd.DataFrame:
        """The complete trials, the best first."""
        table = self.trials[self.trials["state"] == "complete"]
        return table.sort_values("value", ascending=not self.maximize, kind="stable")

    def best(self) -> int | None:
        """The number of the best complete trial, or None."""
        table = self.complete()
        return None if table.empty else int(table["number"].iloc[0])


def from_log(log: StudyLog, runs: Mapping[int, str], owner: Record | None) -> StudyTables:
    """The tables of a study that lies here.

    Args:
        runs: Trial → MLflow run id, as far as they are known.
    """
    study: Record = log.study or {}
    trials = log.in_order()
    return StudyTables(
        key=log.paths.root.name,
        name=log.paths.root.name,
        state=log.state,
        source="here",
        objective=log.objective,
        budget=study.get("budget") or {},
        sampler=study.get("sampler", ""),
        pruner=study.get("pruner", ""),
        workers=study.get("workers", 1),
        device_name=study.get("device_name", ""),
        dataset=log.dataset,
        provenance=study.get("provenance") or {},
        file=study.get("file", ""),
        path=study.get("path"),
        search=search_space(study.get("file", "")),
        started_ms=log.started_ms or 0,
        updated_ms=log.updated_ms or 0,
        trials=trial_table(
            [_row(log, trial, runs) for trial in trials],
            log.objective,
            log.epochs.table(),
            {t.number: t.end["duplicate_of"] for t in trials if t.end and "duplicate_of" in t.end},
        ),
        configs={trial.number: trial.assigned.get("config", {}) for trial in trials},
        notes={trial.number: _notes(study, trial) for trial in trials},
        epochs=log.epochs.table(),
        spans=span_table(span for trial in trials for span in _spans(log, trial)),
        owner=owner,
        version=log.version,
    )


def trial_table(
    rows: Sequence[Mapping[str, Any]],
    objective: Sequence[Mapping[str, str]],
    epochs: pd.DataFrame,
    twins: Mapping[int, int],
) -> pd.DataFrame:
    """The trials as `hpo.results.trials` returns them.

    Args:
        rows: `FACTS` (times in milliseconds; ``value`` and ``best_epoch`` None of a trial that
            is not over), ``values``: each objective's, or None, and ``params.PATH``.
        twins: Trial → the trial with the same configuration whose metrics it has.
    """
    import numpy as np
    import pandas as pd

    table = pd.DataFrame(list(rows))
    for column in FACTS:
        if column not in table:
            table[column] = None
    number = table["number"].to_numpy(np.int64)
    is_open = ~table["state"].isin(OVER).to_numpy(bool)
    if is_open.any():
        known = _so_far(epochs, objective, table["number"][is_open])
        for column in map(str, known):
            table[column] = table[column].astype(object)
            table.loc[is_open, column] = known[column].to_numpy()
    best = pd.to_numeric(table["best_epoch"]).to_numpy(np.float64, na_value=np.nan)
    source = np.array([twins.get(int(n), int(n)) for n in number], np.int64)
    metrics = at(epochs, source, np.where(np.isnan(best), -1, best).astype(np.int64))
    metrics = metrics.drop(columns=list(HEAD)).reset_index(drop=True)
    metrics = metrics[[c for c in metrics if not str(c).startswith(SYSTEM)]]
    values = _values(table, objective, metrics, is_open)
    if len(values):
        table["value"] = next(iter(values.values()))
    several = {f"value.{m}": v for m, v in values.items()} if len(values) > 1 else {}
    params = sorted_params(table)
    facts = table[list(FACTS)].astype(
        {c: t for c, t in FACTS.items() if not t.startswith("datetime")}
    )
    for column in ("started", "ended"):
        facts[column] = pd.to_datetime(facts[column], unit="ms", utc=True).dt.as_unit("ms")
    new = metrics[[c for c in metrics if c not in facts]]
    return pd.concat([facts, pd.DataFrame(several), table[params], new], axis=1)


def sorted_params(table: pd.DataFrame) -> list[str]:
    return [column for column in map(str, table) if column.startswith("params.")]


def span_table(spans: Iterable[tuple[int | None, int, int, int, float | None, str]]) -> Any:
    """`StudyTables.spans`, of its rows."""
    import pandas as pd

    columns = ("worker", "trial", "attempt", "start_ms", "end_ms", "state")
    table = pd.DataFrame(list(spans), columns=list(columns))
    return table.astype(
        {"worker": "Int64", "trial": "int64", "attempt": "int64", "end_ms": "float64"}
    )


def search_space(file: str) -> dict[str, dict[str, Any]]:
    """The ``search`` section of a study file in which every default is written out."""
    import yaml

    try:
        content = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return {}
    section = (content.get("search") if isinstance(content, dict) else None) or {}
    return {
        str(path): {"type": "choice", **said} if "choices" in said else dict(said)
        for path, said in section.items()
        if isinstance(said, dict)
    }


def _row(log: StudyLog, trial: TrialLog, runs: Mapping[int, str]) -> dict[str, Any]:
    end: Record = trial.end or {}
    assigned = trial.assigned
    facts = {
        "number": trial.number,
        "state": log.state_of(trial),
        "reason": end.get("reason", ""),
        "best_epoch": end.get("best_epoch"),
        "last_epoch": end.get("last_epoch"),
        "seconds": end.get("seconds"),
        "peak_memory_mb": end.get("peak_memory_mb"),
        "worker": assigned["worker"],
        "attempts": assigned["attempt"],
        "seed": assigned["seed"],
        "started": trial.assignments[0]["time_ms"],
        "ended": end.get("time_ms"),
        "run_id": runs.get(trial.number),
        "values": end.get("values"),
    }
    return facts | {f"params.{path}": value for path, value in assigned["params"].items()}


def _notes(study: Record, trial: TrialLog) -> dict[str, str]:
    from trainers.registry import how_trained  # and so pydantic, for which `--help` does not wait

    identity = study.get("identity", {})
    config = trial.assigned.get("config", {})
    known = {"trained": how_trained(identity, config)} if "trainer" in identity else {}
    return known | trial.notes


def _spans(
    log: StudyLog, trial: TrialLog
) -> Iterable[tuple[int | None, int, int, int, float | None, str]]:
    """An attempt that was paused or broken off ended with its last epoch, as far as is known."""
    for index, assigned in enumerate(trial.assignments):
        newest = index == len(trial.assignments) - 1
        broke_off = "paused" if index in trial.pauses else "interrupted"
        state = log.state_of(trial) if newest else broke_off
        end_ms: float | None = trial.last_epochs_ms[index]
        if newest and trial.end is not None and index not in trial.pauses:
            end_ms = trial.end["time_ms"]
        elif state == "running":
            end_ms = None
        if assigned["worker"] is not None:
            start_ms = assigned["time_ms"]
            yield assigned["worker"], trial.number, assigned["attempt"], start_ms, end_ms, state


def _so_far(
    epochs: pd.DataFrame, objective: Sequence[Mapping[str, str]], numbers: pd.Series
) -> pd.DataFrame:
    """``best_epoch``, ``last_epoch`` and ``seconds`` of open trials, in their order."""
    import pandas as pd

    going = epochs[epochs["trial"].isin(numbers)]
    groups = going.groupby("trial")
    found = pd.DataFrame({"last_epoch": groups["epoch"].max(), "seconds": groups["seconds"].sum()})
    found["best_epoch"] = None
    metric = objective[0]["metric"] if objective else None
    if metric in going:
        sign = -1 if objective[0]["goal"] == "maximize" else 1
        first_best = (sign * going[metric]).groupby(going["trial"]).idxmin()
        found["best_epoch"] = (
            going["epoch"].reindex(first_best.dropna()).set_axis(first_best.dropna().index)
        )
    found = found.reindex(numbers)
    return found.fillna({"last_epoch": 0, "seconds": 0})


def _values(
    table: pd.DataFrame,
    objective: Sequence[Mapping[str, str]],
    metrics: pd.DataFrame,
    is_open: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    """Each objective at the best epoch: as it was recorded, or so far."""
    import numpy as np

    recorded = list(table["values"]) if "values" in table else [None] * len(table)
    found = {}
    for place, goal in enumerate(objective):
        name = goal["metric"]
        so_far = metrics[name].to_numpy() if name in metrics else np.full(len(table), np.nan)
        found[name] = np.array(
            [
                so_far[i] if is_open[i] else (v[place] if isinstance(v, list) else np.nan)
                for i, v in enumerate(recorded)
            ],
            np.float64,
        )
    return found
