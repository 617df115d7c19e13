"""What a run in MLflow says of a trial or a study: parameters, tags and metrics within its limits.

MLflow rejects a whole batch for one bad name, and cuts long values by itself with a warning for
each; here names are made valid and values cut first, and a tag says so.
"""

from __future__ import annotations

import functools
import getpass
import json
import math
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from hpo.paths import is_address
from hpo.tables import plain
from hpo.tracking.progress import Record, TrialProgress
from trainers.registry import how_trained

STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}

MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 5000  # 8,000 in new servers, 5,000 in old ones
MOST_SPANS = 100  # the newest, which fit in a tag
MOST_COLUMNS = 20
VIEW = "hpo"
MAX_DATASET_PROFILE = 1_000_000
ENSEMBLE_FILE = "ensemble.json"
CONFIRMATION_FILE = "confirmation.json"
MODEL_FOLDER = "model"


def trial_tags(trial: TrialProgress, study: Record, parent_run: str) -> dict[str, str]:
    """The tags of a trial's run, as far as they are known."""
    tags = {
        "mlflow.parentRunId": parent_run,
        "hpo.study_id": study["study_id"],
        "hpo.trial": str(trial.number),
        "hpo.state": "paused" if trial.paused else "running",
        "hpo.device": study["device_name"],
        **_source_tags(study),
    }
    if trial.assigned is not None:
        tags["hpo.worker"] = str(trial.assigned["worker"])
        if "node" in trial.assigned:
            tags["hpo.node"] = trial.assigned["node"]
        tags["hpo.seed"] = str(trial.assigned["seed"])
        tags["hpo.attempts"] = str(trial.assigned["attempt"])
        config = trial.assigned["config"]
        tags["hpo.trained"] = how_trained(study["identity"], config)
        tags |= _notes(config)
    for epoch in trial.epochs.values():
        tags |= {f"hpo.{key}": text for key, text in epoch.get("notes", {}).items()}
    infinite = _infinite(trial)
    if infinite:
        tags["hpo.infinite"] = infinite
    # Of one that was never paused, the run's own times and hpo.worker say as much.
    if trial.was_paused or (trial.end is not None and len(trial.spans) > 1):
        tags["hpo.spans"] = json.dumps(trial.spans[-MOST_SPANS:], separators=(",", ":"))
    if trial.end is not None:
        tags["hpo.state"] = trial.end["state"]
        again = trial.assigned is not None and trial.assigned["attempt"] > 1
        if trial.end["reason"] or again:  # which an interruption may have given another
            tags["hpo.reason"] = trial.end["reason"]
        tags["hpo.last_epoch"] = str(trial.end["last_epoch"] or 0)
        if "duplicate_of" in trial.end:
            tags["hpo.duplicate_of"] = str(trial.end["duplicate_of"])
        if clashing := _clashing(trial):
            tags["hpo.not_adopted"] = ", ".join(clashing)
        own = trial.end.get("logged", {}).get("tags", {})
        tags = {name(key): text for key, text in own.items()} | tags
    return {key: cut(value, MAX_TAG) for key, value in tags.items()}


def own_params(trial: TrialProgress) -> list[Param]:
    """Those that a command has logged itself; what the trial was given has the name already."""
    if trial.end is None:
        return []
    logged = trial.end.get("logged", {}).get("params", {})
    given = _given(trial)
    return params({key: text for key, text in logged.items() if name(key) not in given})


def study_tags(study: Record) -> dict[str, str]:
    """The tags of a study's own run."""
    tags = {
        "hpo.study_id": study["study_id"],
        "hpo.kind": "study",
        "hpo.state": "running",
        "hpo.objective": ", ".join(f"{o['goal']} {o['metric']}" for o in study["objective"]),
        "hpo.sampler": study["sampler"],
        "hpo.pruner": study["pruner"],
        "hpo.workers": str(study["workers"]),
        "hpo.device": study["device_name"],
        "hpo.budget": json.dumps(study["budget"]),
        **_changed(study),
        **_source_tags(study),
        **_notes(study["identity"]),
    }
    return {key: cut(str(value), MAX_TAG) for key, value in tags.items()}


def _changed(study: Record) -> dict[str, str]:
    """What has been changed since it was begun, by keys: what it was, what it is now."""
    identity, began_with = study["identity"], study.get("began_with", {})
    changed = {key: [value, identity.get(key)] for key, value in began_with.items()}
    return {"hpo.changed": json.dumps(changed)} if changed else {}


def study_params(study: Record) -> list[Param]:
    """The settings of a study with which it was begun: MLflow lets none be changed later."""
    return params({**study["identity"], **study.get("began_with", {})})


def experiment_tags(study: Record) -> dict[str, str]:
    """What MLflow's pages make of the experiment: training, and a view of its trials.

    The view is one as MLflow's button "Share" keeps them: the trials by the first objective, with
    the best metrics and what was searched as columns. ``?viewStateShareKey=hpo`` opens it.
    """
    first, searched = study["objective"][0], _searched(study["identity"])[:MOST_COLUMNS]
    best = [f"best/{objective['metric']}" for objective in study["objective"]]
    view = {
        "selectedColumns": [
            *(f"metrics.`{name(metric)}`" for metric in (*best, "best_epoch", "duration_s")),
            *(f"params.`{name(path)}`" for path in searched),
            "tags.`hpo.state`",
        ],
        "orderByKey": f"metrics.`{name(best[0])}`",
        "orderByAsc": first["goal"] == "minimize",
    }
    tags = {"mlflow.experimentKind": "custom_model_development"}
    text = json.dumps(view)
    return tags | ({f"mlflow.sharedViewState.{VIEW}": text} if len(text) <= MAX_TAG else {})


def ensemble_tags(ensemble: Record, study: Record, parent_run: str) -> dict[str, str]:
    """The tags of the run of an ensemble over trials."""
    tags = {
        "mlflow.parentRunId": parent_run,
        "hpo.study_id": study["study_id"],
        "hpo.kind": "ensemble",
        "hpo.ensemble": str(ensemble["ensemble"]),
        "hpo.state": "complete",
        "hpo.members": ", ".join(str(member["trial"]) for member in ensemble["members"]),
        "hpo.verdict": ensemble["against"][0]["verdict"],
        **_source_tags(study),
    }
    return {key: cut(value, MAX_TAG) for key, value in tags.items()}


def ensemble_params(ensemble: Record) -> dict[str, Any]:
    """How it was made."""
    names = ("method", "calibrated", "non_negative", "metric", "fitted_by", "candidates", "folds")
    return {f"ensemble.{name}": ensemble[name] for name in names}


def ensemble_metrics(ensemble: Record) -> list[Metric]:
    """Its estimate under its metric's name, the best trial's beside it, and the weights.

    A weight is a step of ``weight``: the trial's number.
    """
    metric, time_ms = ensemble["metric"], ensemble["time_ms"]
    best = ensemble["against"][0]
    facts = {
        f"estimate/{metric}": ensemble["estimate"]["value"],
        f"estimate/{metric}_low": ensemble["estimate"]["low"],
        f"estimate/{metric}_high": ensemble["estimate"]["high"],
        f"best_in_fold/{metric}": best["value"],
        "gain": best["difference"],
        "gain_low": best["gain_low"],
        "gain_high": best["gain_high"],
        "members": len(ensemble["members"]),
        **{f"diversity/{name}": value for name, value in ensemble["diversity"].items()},
    }
    steps = {member["trial"]: member["weight"] for member in ensemble["members"]}
    return [
        Metric(name(fact), float(value), time_ms, 0)
        for fact, value in facts.items()
        if not math.isnan(value)
    ] + [Metric("weight", weight, time_ms, trial) for trial, weight in steps.items()]


def ensemble_facts(ensemble: Record, trial_runs: Mapping[int, str]) -> dict[str, Any]:
    """All that is recorded of it, its members with their runs: an artifact."""
    members = [
        {**member, "run_id": trial_runs.get(member["trial"])} for member in ensemble["members"]
    ]
    found: dict[str, Any] = plain({**ensemble, "members": members})
    return found


def confirmation_metrics(confirmation: Record) -> list[Metric]:
    """What the winner is worth on fresh seeds, and on the test split: it, and an ensemble."""
    found, time_ms = {}, confirmation["time_ms"]
    for trial in confirmation["trials"]:
        if trial["trial"] == confirmation["winner"]:
            found = {f"confirmed/{confirmation['metric']}": trial["mean"]}
    test = confirmation["test"] or {"runs": {}}
    for what, measured in test["runs"].items():
        of = "" if what.startswith("trial") else "ensemble/"
        for metric, facts in measured.items():
            found[f"test/{of}{metric}"] = facts["value"]
        found[f"test/{of}{test['metric']}_low"] = measured[test["metric"]]["low"]
        found[f"test/{of}{test['metric']}_high"] = measured[test["metric"]]["high"]
    return [
        Metric(name(fact), float(value), time_ms, 0)
        for fact, value in found.items()
        if value is not None and not math.isnan(value)
    ]


def params(values: Mapping[str, Any]) -> list[Param]:
    """Values as parameters: strings as they are, all else as JSON."""
    return [Param(name(key), cut(as_text(value), MAX_PARAM)) for key, value in values.items()]


def run_tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]


def epoch_metrics(epochs: Iterable[Record]) -> list[Metric]:
    """Every metric of every epoch, at its own time; the epoch is the step.

    What the worker used of its machine, too: MLflow's pages know it by its prefix ``system/``.
    """
    return [
        Metric(name(metric), value, epoch["time_ms"], epoch["epoch"])
        for epoch in epochs
        for values in (epoch["metrics"], epoch.get("resources", {}))
        for metric, value in values.items()
    ]


def final_metrics(trial: TrialProgress) -> list[Metric]:
    """The best epoch's metrics as ``best/…``, and what the trial cost."""
    end = trial.end
    if end is None:
        return []
    facts = {f"best/{metric}": value for metric, value in trial.best.items()}
    facts |= {"duration_s": end["seconds"], "peak_memory_mb": end["peak_memory_mb"]}
    if trial.best:
        facts["best_epoch"] = end["best_epoch"]
    return [
        Metric(name(fact), float(value), end["time_ms"], end["last_epoch"] or 0)
        for fact, value in facts.items()
        if value is not None
    ]


def best_metrics(trial: TrialProgress) -> list[Metric]:
    """The best trial so far, for the study's run; the trial's number is the step."""
    assert trial.end is not None
    time_ms = trial.end["time_ms"]
    return [
        Metric(name(f"best/{metric}"), value, time_ms, trial.number)
        for metric, value in trial.best.items()
    ]


def dataset_input(summary: Mapping[str, Any]) -> DatasetInput:
    """The data that was loaded, as an MLflow dataset.

    The digest is the start of the fingerprint: MLflow allows 36 characters.
    """
    source = str(summary["source"])
    store = re.sub("^https", "http", source.partition("://")[0])  # by MLflow's names
    profile = json.dumps(
        {k: v for k, v in summary.items() if k not in ("skipped", "report")}, default=str
    )
    dataset = Dataset(
        name=cut(source.rstrip("/").rsplit("/", 1)[-1], MAX_NAME),
        digest=str(summary["fingerprint"])[:32],
        source_type=store if is_address(source) else "local",
        source=json.dumps({"url" if store == "http" else "uri": source}),
        profile=profile if len(profile) <= MAX_DATASET_PROFILE else None,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def study_files(study: Record) -> dict[str, str]:
    """Artifacts of the study's run: name → text."""
    provenance = study["provenance"] or {}
    files = {"study.yaml": study["file"]}
    dataset = study["dataset"] or {}
    if "report" in dataset:
        report = {"unreadable": dataset["skipped"], **dataset["report"]}
        files["data_report.json"] = json.dumps(report, indent=2, ensure_ascii=False)
    versions = provenance.get("packages") or {}
    if versions:
        files["versions.txt"] = "".join(f"{k}=={v}\n" for k, v in sorted(versions.items()))
    diff = (provenance.get("git") or {}).get("diff")
    if diff:
        files["git.diff"] = diff
    return files


@functools.lru_cache(maxsize=4096)
def name(text: str) -> str:
    """A metric's or parameter's name as MLflow accepts it; most are already so."""
    valid = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", text)).lstrip("./")
    return valid[:MAX_NAME] or "_"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _searched(identity: Mapping[str, Any]) -> list[str]:
    """``search.train.lr.type`` → ``train.lr``"""
    found = (re.fullmatch(r"search\.(.+)\.(type|choices)", key) for key in identity)
    return [match[1] for match in found if match]


def _notes(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say which values were cut and which names changed."""
    notes = {}
    too_long = [key for key, value in values.items() if len(as_text(value)) > MAX_PARAM]
    renamed = [f"{key} → {name(key)}" for key in values if name(key) != key]
    if too_long:
        notes["hpo.cut"] = ", ".join(too_long)
    if renamed:
        notes["hpo.renamed"] = ", ".join(renamed)
    return notes


def _given(trial: TrialProgress) -> dict[str, str]:
    """The parameters of a trial as they are in MLflow: name → text."""
    config = trial.assigned["config"] if trial.assigned else {}
    return {param.key: param.value for param in params(config)}


def _clashing(trial: TrialProgress) -> list[str]:
    """Parameters that a command has logged with another value than the trial was given."""
    logged = (trial.end or {}).get("logged", {}).get("params", {})
    given = _given(trial)
    return [
        f"{key} = {text}" for key, text in logged.items() if given.get(name(key), text) != text
    ]


def _infinite(trial: TrialProgress) -> str:
    """MLflow's database has no infinity and keeps the largest float instead: say where."""
    return ", ".join(
        f"{metric} at epoch {epoch['epoch']}"
        for epoch in trial.epochs.values()
        for metric, value in epoch["metrics"].items()
        if math.isinf(value)
    )


def _source_tags(study: Record) -> dict[str, str]:
    """Who ran what, and its commit, under the names that MLflow's own pages show.

    They show a commit only beside a source.
    """
    git = (study["provenance"] or {}).get("git") or {}
    facts = {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": posixpath.basename(study.get("path") or study["study"]),
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "mlflow.source.git.repoURL": git.get("remote"),
        "hpo.git_dirty": None if git.get("dirty") is None else as_text(git["dirty"]),
    }
    return {key: value for key, value in facts.items() if value is not None}


@functools.cache
def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # nobody of that number is known here, as in some containers
        return None
