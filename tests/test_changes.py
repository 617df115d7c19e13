"""Going on with a study whose file has changed: what is refused, offered, and done."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from command import hpo
from optuna.search_space import intersection_search_space
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from workbench import Workbench

from hpo import changes, spec
from hpo.errors import StudyChanged
from hpo.launch import _history
from hpo.reproduce import reproduce
from hpo.search import open_search
from hpo.spec import StudySpec

NARROW = {
    "train.x": {"low": 0.0, "high": 1.0},
    "train.y": {"choices": ["a", "b"]},
    "train.z": {"low": 1, "high": 4, "when": {"train.y": "b"}},
}
WIDE = {
    "train.x": {"low": -1.0, "high": 2.0},
    "train.y": {"choices": ["c", "b", "a"]},
    "train.z": {"low": 1, "high": 9, "when": {"train.y": "b"}},
}
STORAGES = ["journal", *(pytest.param(x, marks=pytest.mark.slow) for x in ("sqlite", "postgres"))]


@pytest.fixture(params=STORAGES)
def begun(bench: Workbench, request: pytest.FixtureRequest) -> Any:
    """A bench with a study of 5 trials, of which one has been set aside; and its settings."""
    storage = request.param
    if storage == "sqlite":
        storage = f"sqlite:///{bench.folder / 'optuna.db'}"
    elif storage == "postgres":
        storage = request.getfixturevalue("database_server").new_database()
    at = {"4:2": "interrupt once"}
    settings = {"storage": storage, "sampler": "tpe", "seed": 1}
    settings |= {"train__at": at, "train__folder": str(bench.folder), "train__seconds": 0.05}
    assert bench.run(search=NARROW, **settings).state == "interrupted"
    return bench, settings


def optuna_trials(bench: Workbench, storage: str) -> list[FrozenTrial]:
    """Those of the one study that is there."""
    if storage == "journal":
        return bench.optuna_trials()  # type: ignore[no-any-return]
    opened = RDBStorage(bench.load(storage=storage).storage)
    assert optuna.get_all_study_names(opened) == ["s"]
    trials = optuna.load_study(storage=opened, study_name="s").trials
    opened.engine.dispose()
    return trials


def facts(trial: FrozenTrial) -> tuple[Any, ...]:
    """All of a trial but what it was drawn from."""
    return (
        trial.number, trial.state, trial.values, trial.params, trial.intermediate_values,
        trial.user_attrs, trial.datetime_start, trial.datetime_complete,
    )  # fmt: skip


def test_a_wider_space_is_offered_and_no_trial_is_lost(begun: Any) -> None:
    bench, settings = begun
    before = optuna_trials(bench, settings["storage"])
    outbox = bench.paths.outbox.read_bytes()
    with pytest.raises(StudyChanged) as refused:
        bench.run(search=WIDE, budget__trials=8, **settings)
    told = str(refused.value)
    assert "search.train.x: type: float, low: 0.0, high: 1.0 → type: float, low: -1.0" in told
    assert told.endswith("run the same command with --accept-changes.")
    assert bench.paths.outbox.read_bytes() == outbox

    bench.run(search=WIDE, budget__trials=8, accept_changes=True, **settings)
    trials = optuna_trials(bench, settings["storage"])
    assert [facts(trial) for trial in trials[:4]] == [facts(t) for t in before[:4]]
    assert trials[4].params == before[4].params  # which had been set aside
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    assert bench.paths.outbox.read_bytes().startswith(outbox)
    # What a sampler learns from: parameters that all trials have, drawn from the same range.
    seen = intersection_search_space(trials)
    assert seen["train.x"] == optuna.distributions.FloatDistribution(-1.0, 2.0)
    assert seen["train.y"] == optuna.distributions.CategoricalDistribution(("c", "b", "a"))
    assert any("changed since its last run: search.train.y" in said for said in bench.said)
    # From here on this is the study's space.
    bench.run(search=WIDE, budget__trials=9, **settings)
    with pytest.raises(StudyChanged, match="would not compare"):
        bench.run(search=NARROW, budget__trials=10, accept_changes=True, **settings)


def test_a_kill_before_the_change_is_on_record_undoes_nothing(begun: Any) -> None:
    bench, settings = begun
    before = optuna_trials(bench, settings["storage"])
    wide = bench.load(search=WIDE, budget__trials=6, **settings)
    # As far as that goes, without the record that follows; and a copy that was left half made.
    open_search(wide, bench.paths, _history(wide, bench.paths), None).close()
    if settings["storage"] != "journal":
        storage = RDBStorage(wide.storage)
        optuna.create_study(storage=storage, study_name="s (being made)").ask()
        storage.engine.dispose()
    with pytest.raises(StudyChanged, match="--accept-changes"):
        bench.run(search=WIDE, budget__trials=6, **settings)
    bench.run(search=NARROW, budget__trials=6, **settings)  # as if nothing had been
    trials = optuna_trials(bench, settings["storage"])
    assert [facts(trial) for trial in trials[:4]] == [facts(t) for t in before[:4]]
    assert trials[4].params == before[4].params
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    seen = intersection_search_space(trials)
    assert seen["train.x"] == optuna.distributions.FloatDistribution(0.0, 1.0)


def test_what_may_change_as_it_likes_is_said(bench: Workbench) -> None:
    bench.run()
    bench.run(budget__trials=6, pruner="median", retries=3)
    said = [line.removeprefix("changed since its last run: ") for line in bench.said]
    assert "pruner: 'auto' → 'median'" in said
    assert "budget.trials: 5 → 6" in said
    assert "retries: 1 → 3" in said


def in_mlflow(bench: Workbench) -> dict[str, list[Any]]:
    """All that MLflow's store has of each run: run id → rows."""
    found: dict[str, list[Any]] = {}
    with contextlib.closing(sqlite3.connect(bench.folder / "mlruns" / "mlflow.db")) as store:
        for table in ("runs", "params", "metrics", "tags"):
            cursor = store.execute(f"select * from {table}")
            at = [name for name, *_ in cursor.description].index("run_uuid")
            for row in sorted(cursor, key=repr):
                found.setdefault(row[at], []).append((table, *row))
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("tables_made")
def test_hpo_run_accepts_changes_and_leaves_what_mlflow_has(bench: Workbench) -> None:
    run = ("run", bench.file, "--home", bench.folder, "--json", "--set", "sampler=tpe")
    assert hpo(*run).code == 0
    before = in_mlflow(bench)
    wider = (*run, "--set", "search.train.x.high=2.0", "--trials", "+2")
    refused = hpo(*wider)
    assert (refused.code, refused.json.keys()) == (2, {"error"})
    assert "search.train.x: type: float, low: 0.0, high: 1.0 → " in refused.err
    assert in_mlflow(bench) == before
    accepted = hpo(*wider, "--accept-changes")
    assert accepted.code == 0, accepted.err
    assert accepted.json["trials"]["complete"] == 7
    after = in_mlflow(bench)
    assert len(after) == len(before) + 2
    (study,) = (run for run, rows in before.items() if any("hpo.budget" in row for row in rows))
    assert {run: rows for run, rows in after.items() if run in before and run != study} == {
        run: rows for run, rows in before.items() if run != study
    }
    (changed,) = (row for row in after[study] if "hpo.changed" in row)
    assert '{"search.train.x.high": [1.0, 2.0]}' in changed


# -- what is safe

STUDY = """\
study: s
trainer: tabular
data: {source: wine}
train: {epochs: 3}
search:
  train.lr: {low: 1e-3, high: 0.1, log: true}
  train.batch_size: {low: 16, high: 64, step: 16}
  train.optimizer: [sgd, adamw]
"""


def load(folder: Path, **overrides: Any) -> StudySpec:
    return spec.loads(STUDY.encode(), folder / "study.yaml", overrides)


def recorded(study: StudySpec) -> dict[str, Any]:
    return {"file": study.resolved(), "identity": study.identity()}


@pytest.mark.parametrize(
    ("key", "value", "is_safe"),
    [
        ("search.train.lr.low", 1e-4, True),
        ("search.train.lr.low", 1e-2, False),
        ("search.train.lr.high", 1.0, True),
        ("search.train.lr.log", False, False),
        ("search.train.batch_size", {"low": 16, "high": 96, "step": 16}, True),
        ("search.train.batch_size", {"low": 8, "high": 72, "step": 16}, False),
        ("search.train.batch_size", {"low": 16, "high": 64, "step": 8}, False),
        ("search.train.batch_size", {"low": 16, "high": 64}, False),
        ("search.train.optimizer", ["adamw", "sgd"], True),
        ("search.train.optimizer", ["sgd", "adamw", "adam"], True),
        ("search.train.optimizer", ["sgd", "adam"], False),
        (
            "search.train.lr",
            {"low": 1e-3, "high": 0.1, "log": True, "when": {"train.optimizer": "sgd"}},
            False,
        ),
        ("search.train.weight_decay", {"low": 0.0, "high": 0.1}, False),
        ("search", {"train.lr": {"low": 1e-3, "high": 0.1, "log": True}}, False),
        ("train.epochs", 4, False),
        ("data.validation", 0.3, False),
        ("data.source", "breast_cancer", True),  # if the content is the same, which is looked at
        ("seed", 1, False),
        ("objective", {"metric": "val/loss", "goal": "maximize"}, False),
        ("model.name", "residual_mlp", False),
    ],
)
def test_only_a_wider_space_keeps_trials_comparable(
    tmp_path: Path, key: str, value: Any, is_safe: bool
) -> None:
    now = load(tmp_path, **{key: value})
    found = changes.differences(recorded(load(tmp_path)), now)
    assert found
    assert all(change.kept is not None for change in found) is is_safe
    assert any(change.key.startswith(".".join(key.split(".")[:3])) for change in found)


@pytest.mark.parametrize(
    ("key", "value"), [("budget.trials", 7), ("sampler", "gp"), ("workers", 2), ("timeout", "1h")]
)
def test_what_is_no_part_of_a_trial_is_no_difference(tmp_path: Path, key: str, value: Any) -> None:
    assert changes.differences(recorded(load(tmp_path)), load(tmp_path, **{key: value})) == []


def test_an_option_of_a_later_version_has_been_at_its_default(tmp_path: Path) -> None:
    """A study that was recorded before there was ``train.repeats``."""
    study = recorded(load(tmp_path))
    assert study["identity"].pop("train.repeats") == 1
    lines = [line for line in study["file"].splitlines() if "repeats: 1" not in line]
    study["file"] = "\n".join(lines)
    assert changes.differences(study, load(tmp_path)) == []
    (found,) = changes.differences(study, load(tmp_path, **{"train.repeats": 3}))
    assert str(found) == "train.repeats: 1 → 3"


def test_a_default_of_a_later_version_is_a_difference(tmp_path: Path) -> None:
    """A study that ran when ``train.weight_decay`` was 0.5 by default goes on with 0.5 only."""
    study = recorded(load(tmp_path, **{"train.weight_decay": 0.5}))
    (found,) = changes.differences(study, load(tmp_path))
    assert (found.key, found.before) == ("train.weight_decay", "0.5")


def test_the_file_of_a_version_that_is_not_understood_is_compared_as_recorded(
    tmp_path: Path,
) -> None:
    study = recorded(load(tmp_path))
    study["file"] += "an_option_of_old: 1\n"
    assert changes.differences(study, load(tmp_path)) == []
    (found,) = changes.differences(study, load(tmp_path, **{"train.epochs": 4}))
    assert str(found) == "train.epochs: 3 → 4"


def test_the_next_free_name_is_suggested(bench: Workbench) -> None:
    bench.run()
    bench.run(study="s-2")
    with pytest.raises(StudyChanged, match="--set study=s-3"):
        bench.run(seed=9)


def test_what_it_was_begun_with_is_kept_over_later_runs(bench: Workbench) -> None:
    bench.run(search=NARROW)
    for high in (2.0, 3.0):
        wider = NARROW | {"train.x": {"low": 0.0, "high": high}}
        bench.run(search=wider, budget__trials=int(4 + high), accept_changes=True)
    began_with = [record.get("began_with") for record in bench.records("study")]
    assert began_with == [None, {"search.train.x.high": 1.0}, {"search.train.x.high": 1.0}]


def test_data_can_be_moved_but_not_become_others(bench: Workbench) -> None:
    bench.file.write_text(
        "study: s\ntrainer: tabular\ndata: {source: here.csv, target: y}\n"
        "train: {epochs: 1, batch_size: 8}\nsearch: {train.lr: {low: 0.1, high: 0.2}}\n"
        "executor: inline\nworkers: 1\ndevice: cpu\nsampler: random\n"
    )
    rows = [f"{x},{x % 2}" for x in range(100)]
    (bench.folder / "here.csv").write_text("\n".join(["x,y", *rows]))
    bench.run(budget__trials=1)
    (bench.folder / "here.csv").rename(bench.folder / "there.csv")
    moved = {"data__source": "there.csv"}
    with pytest.raises(StudyChanged, match="if the content is the same.*\n.*--accept-changes"):
        bench.run(budget__trials=2, **moved)
    bench.run(budget__trials=2, accept_changes=True, **moved)
    assert len(bench.records("end")) == 2
    again = reproduce("s", 0, bench.home, print)  # where the data are by now
    assert (again.same, again.data) == (True, None)
    assert again.environment == {
        "data.source": tuple(str(bench.folder / name) for name in ("here.csv", "there.csv"))
    }
    (bench.folder / "there.csv").write_text("\n".join(["x,y", *rows[1:]]))
    with pytest.raises(StudyChanged, match="there.csv has"):
        bench.run(budget__trials=3, accept_changes=True, **moved)
