"""The outbox in MLflow's embedded store: everything, once, as it was."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from typing import Any

import pytest

from hpo import tracking
from hpo.tracking import outbox, runs
from hpo.tracking.outbox import DamagedOutbox
from hpo.tracking.progress import StudyProgress
from hpo.tracking.replica import CannotShip, Replica

# MLflow uses what SQLAlchemy and others deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def ship(written: Any) -> Replica:
    replica = Replica(written.paths, written.home, written.home.tracking_uri)
    replica.ship()
    return replica


def study_of_every_kind(written: Any) -> None:
    written.study()
    for number, state in enumerate(["complete", "pruned", "stopped", "failed", "complete"]):
        written.whole_trial(number, state)
    written.study_end()


def test_everything_arrives(written: Any, mlflow_of: Any) -> None:
    study_of_every_kind(written)
    ship(written)
    mlflow_of(written).assert_complete(written.paths)
    assert tracking.pending(written.paths) == 0


def test_mlflows_pages_show_who_ran_what_and_the_best_as_columns(
    written: Any, mlflow_of: Any
) -> None:
    identity = {"search.train.lr.low": 0.1, "search.train.lr.type": "float", "train.epochs": 3}
    written.study(identity=identity | {"search.model.name.choices": ["a", "b"]})
    ship(written)
    found = mlflow_of(written)
    parent, _ = found.runs()
    assert parent.data.tags["mlflow.source.name"] == "s"
    assert parent.data.tags["mlflow.user"]
    tags = found.client.get_experiment_by_name("s").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert json.loads(tags["mlflow.sharedViewState.hpo"]) == {
        "selectedColumns": [
            *("metrics.`best/val/f1`", "metrics.`best_epoch`", "metrics.`duration_s`"),
            *("params.`train.lr`", "params.`model.name`", "tags.`hpo.state`"),
        ],
        "orderByKey": "metrics.`best/val/f1`",
        "orderByAsc": False,
    }


def test_the_studys_run_says_what_was_run_on_what(written: Any, mlflow_of: Any) -> None:
    study_of_every_kind(written)
    ship(written)
    found = mlflow_of(written)
    parent, trials = found.runs()
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"trainer": "image_classifier", "train.epochs": "3"}
    assert parent.data.tags["mlflow.source.git.commit"] == "c" * 40
    assert parent.data.tags["hpo.objective"] == "maximize val/f1"
    assert parent.data.tags["hpo.best_trial"] == "4"
    assert parent.data.tags["hpo.best_run"] == trials[4].info.run_id
    assert parent.data.metrics["best/val/f1"] == trials[4].data.metrics["best/val/f1"]
    (dataset,) = [used.dataset for used in parent.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("digits", "f" * 32)
    assert json.loads(dataset.profile)["train"] == 1200
    texts = {name: file.read_text() for name, file in found.artifacts(parent).items()}
    assert texts == {
        "study.yaml": "study: s\n",
        "git.diff": "--- a\n",
        "versions.txt": "torch==2.14.1\n",
    }


def test_a_budget_that_was_asked_for_replaces_the_one_before(written: Any, mlflow_of: Any) -> None:
    written.study()
    replica = Replica(written.paths, written.home, written.home.tracking_uri)
    replica.ship()
    written.write("budget", budget={"trials": 30})
    replica.ship()
    study, _ = mlflow_of(written).runs()
    assert json.loads(study.data.tags["hpo.budget"]) == {"trials": 30}
    assert study.data.tags["hpo.state"] == "running"


def test_a_wider_space_leaves_what_is_there_as_it_is(written: Any, mlflow_of: Any) -> None:
    begun = {"trainer": "image_classifier", "search.train.lr.high": 0.1}
    written.study(identity=begun)
    written.whole_trial(0)
    ship(written)
    _, before = mlflow_of(written).runs()
    wider = begun | {"search.train.lr.high": 1.0, "search.train.lr.low": 0.01}
    written.study(identity=wider, began_with={"search.train.lr.high": 0.1})
    ship(written)
    study, trials = mlflow_of(written).runs()
    assert study.data.params["search.train.lr.high"] == "0.1"  # MLflow lets none be changed
    assert study.data.params["search.train.lr.low"] == "0.01"
    assert json.loads(study.data.tags["hpo.changed"]) == {"search.train.lr.high": [0.1, 1.0]}
    assert trials[0].to_dictionary() == before[0].to_dictionary()


def test_what_a_worker_used_is_a_metric_of_its_epoch(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.trial(0)
    memory = "system/process_memory_megabytes"
    for epoch, resources in ((1, {}), (2, {"resources": {memory: 812.5}})):
        written.write(
            "epoch", number=0, epoch=epoch, seconds=1.0, metrics={"val/f1": 0.5}, **resources
        )
    ship(written)
    (run,) = mlflow_of(written).runs()[1].values()
    rows = [row[:3] for row in mlflow_of(written).history(run) if row[0] != "val/f1"]
    assert rows == [(memory, 812.5, 2)]


def test_what_is_noted_of_how_a_trial_is_trained_is_a_tag(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.trial(0)
    said = {"notes": {"micro_batch": "16 of the 64 rows of a batch at once"}}
    for epoch, notes in ((1, {}), (2, said), (3, {})):
        written.write(
            "epoch", number=0, epoch=epoch, seconds=1.0, metrics={"val/f1": 0.5}, **notes
        )
    ship(written)
    (run,) = mlflow_of(written).runs()[1].values()
    assert run.data.tags["hpo.micro_batch"] == "16 of the 64 rows of a batch at once"


def test_examples_are_an_artifact_of_the_studys_run_once(written: Any, mlflow_of: Any) -> None:
    written.study()
    ship(written)
    written.paths.examples.write_bytes(b"rows")
    ship(written)  # though there is nothing new in the outbox
    found = mlflow_of(written)
    run = found.runs()[0]
    assert found.artifacts(run)["examples.parquet"].read_bytes() == b"rows"
    written.paths.examples.write_bytes(b"others")
    ship(written)
    assert found.artifacts(run)["examples.parquet"].read_bytes() == b"rows"


def test_a_trials_run_has_its_facts_and_files(written: Any, mlflow_of: Any) -> None:
    written.study()
    folder = written.paths.trial(0)
    folder.mkdir(parents=True)
    (folder / "predictions.npz").write_bytes(b"as they are")
    written.whole_trial(
        0,
        "failed",
        reason="ValueError: no",
        traceback="Traceback …\nValueError: no\n",
        artifacts={"predictions.npz": "trials/0/predictions.npz", "gone": "trials/0/gone"},
        best_epoch=2,
    )
    ship(written)
    found = mlflow_of(written)
    run = found.runs()[1][0]
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("hpo.")}
    assert tags == {
        "hpo.study_id": "5" * 32,
        "hpo.trial": "0",
        "hpo.state": "failed",
        "hpo.reason": "ValueError: no",
        "hpo.last_epoch": "3",
        "hpo.worker": "0",
        "hpo.seed": "0",
        "hpo.attempts": "1",
        "hpo.trained": "as a lane",
        "hpo.device": "cpu",
        "hpo.git_dirty": "true",
    }
    assert run.data.metrics["best/train/loss"] == 1 / 2
    assert run.data.metrics["best_epoch"] == 2
    assert run.data.metrics["duration_s"] == 0.03
    files = found.artifacts(run)
    assert files["predictions.npz"].read_bytes() == b"as they are"
    assert files["traceback.txt"].read_text() == "Traceback …\nValueError: no\n"
    assert set(files) == {"predictions.npz", "traceback.txt"}


def test_shipping_again_from_the_start_changes_nothing(written: Any, mlflow_of: Any) -> None:
    study_of_every_kind(written)
    ship(written)
    found = mlflow_of(written)
    before = [run.to_dictionary() for run in found.runs()[1].values()]
    written.paths.shipped.unlink()
    ship(written)
    found.assert_complete(written.paths)
    assert [run.to_dictionary() for run in found.runs()[1].values()] == before


def test_record_by_record_is_the_same_as_all_at_once(written: Any, mlflow_of: Any) -> None:
    study_of_every_kind(written)
    whole = written.paths.outbox.read_bytes()
    lines = whole.splitlines(keepends=True)
    for end in range(1, len(lines) + 1):
        written.paths.outbox.write_bytes(b"".join(lines[:end]))
        if end % 4 == 0:  # every so often a process that knows only the files
            replica = None
        replica = (
            replica
            if end > 1 and replica
            else Replica(written.paths, written.home, written.home.tracking_uri)
        )
        replica.ship()
    found = mlflow_of(written)
    found.assert_complete(written.paths)
    assert found.runs()[0].data.tags["hpo.best_trial"] == "4"


def test_a_run_made_just_before_a_crash_is_found(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.whole_trial(0)
    ship(written)
    shipped = written.paths.shipped.read_bytes()
    written.whole_trial(1)
    ship(written)
    written.paths.shipped.write_bytes(shipped)
    written.whole_trial(2)
    ship(written)
    mlflow_of(written).assert_complete(written.paths)


def test_a_trial_goes_on_after_an_interruption(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.trial(0)
    written.epoch(0, 1)
    written.study_end("interrupted")
    ship(written)
    found = mlflow_of(written)
    parent, trials = found.runs()
    assert (parent.info.status, trials[0].info.status) == ("KILLED", "KILLED")
    assert trials[0].data.tags["hpo.state"] == "interrupted"

    written.study()
    written.trial(0, attempt=2)
    written.epoch(0, 2)
    ship(written)
    parent, trials = found.runs()
    assert (parent.info.status, trials[0].info.status) == ("RUNNING", "RUNNING")
    assert trials[0].data.tags["hpo.state"] == "running"

    written.epoch(0, 3)
    written.end(0)
    written.study_end()
    ship(written)
    found.assert_complete(written.paths)
    assert found.runs()[1][0].data.tags["hpo.attempts"] == "2"
    assert "restarts/1/study.yaml" in found.artifacts(found.runs()[0])


def test_a_trial_of_several_attempts_says_who_trained_it_when(
    written: Any, mlflow_of: Any
) -> None:
    written.study()
    written.trial(1)  # by worker 1
    written.epoch(1, 1)
    written.epoch(1, 2)
    ship(written)
    written.trial(1, attempt=2)  # broken off before its first epoch
    written.study()
    written.trial(1, attempt=3)
    written.epoch(1, 3)
    written.end(1)
    written.whole_trial(2)
    ship(written)
    times = [record["time_ms"] for record, _ in outbox.read(written.paths.outbox)]
    runs = mlflow_of(written).runs()[1]
    assert json.loads(runs[1].data.tags["hpo.spans"]) == [
        [1, 1, times[1], times[3]],
        [1, 2, times[4], times[4]],
        [1, 3, times[6], times[8]],
    ]
    assert "hpo.spans" not in runs[2].data.tags


def test_a_study_whose_orchestrator_died_is_not_left_running(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.trial(0)
    written.epoch(0, 1)
    ship(written).interrupt()
    parent, trials = mlflow_of(written).runs()
    assert (parent.info.status, trials[0].info.status) == ("KILLED", "KILLED")


def test_a_torn_tail_is_shipped_once_it_is_whole(written: Any, mlflow_of: Any) -> None:
    study_of_every_kind(written)
    whole = written.paths.outbox.read_bytes()
    written.paths.outbox.write_bytes(whole[:-20])
    ship(written)
    assert mlflow_of(written).runs()[0].info.status == "RUNNING"
    written.paths.outbox.write_bytes(whole)
    ship(written)
    assert mlflow_of(written).runs()[0].info.status == "FINISHED"
    mlflow_of(written).assert_complete(written.paths)


def test_a_flipped_bit_costs_only_its_record(written: Any, mlflow_of: Any) -> None:
    study_of_every_kind(written)
    lines = written.paths.outbox.read_bytes().splitlines(keepends=True)
    assert b'"kind":"epoch"' in lines[8]
    damaged = bytearray(lines[8])
    damaged[60] ^= 4
    written.paths.outbox.write_bytes(b"".join([*lines[:8], bytes(damaged), *lines[9:]]))
    with pytest.warns(DamagedOutbox, match="byte"):
        ship(written)
    found = mlflow_of(written)
    with pytest.warns(DamagedOutbox):
        found.assert_complete(written.paths)
    assert len(found.runs()[1]) == 5


def test_a_damaged_first_record_is_said(written: Any) -> None:
    study_of_every_kind(written)
    content = bytearray(written.paths.outbox.read_bytes())
    content[30] ^= 1
    written.paths.outbox.write_bytes(content)
    with pytest.warns(DamagedOutbox), pytest.raises(CannotShip, match="outbox"):
        ship(written)


def test_an_outbox_that_became_shorter_is_shipped_from_the_start(
    written: Any, mlflow_of: Any
) -> None:
    written.study()
    written.whole_trial(0)
    written.trial(1)
    ship(written)
    lines = written.paths.outbox.read_bytes().splitlines(keepends=True)
    written.paths.outbox.write_bytes(b"".join(lines[:-1]))  # a crash before it was on the disk
    written.whole_trial(10)  # its first record is longer
    written.whole_trial(1)
    ship(written)
    mlflow_of(written).assert_complete(written.paths)


def test_another_store_gets_everything(written: Any, mlflow_of: Any, tmp_path: Any) -> None:
    written.study()
    written.whole_trial(0)
    ship(written)
    with (
        contextlib.closing(sqlite3.connect(written.home.mlruns / "mlflow.db")) as store,
        contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
    ):
        store.backup(copy)
    written.whole_trial(1)
    ship(written)
    for name in ("copy.db", "new.db"):  # the copy has the study's run and the first trial's
        other = f"sqlite:///{tmp_path / name}"
        Replica(written.paths, written.home, other).ship()
        mlflow_of(other).assert_complete(written.paths)


def test_another_study_of_the_same_name_gets_its_own_runs(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.whole_trial(0)
    ship(written)
    first = mlflow_of(written).runs()[1][0].info.run_id
    content = written.paths.outbox.read_bytes()
    written.paths.outbox.unlink()
    written.study(study_id="6" * 32)
    written.whole_trial(0)
    assert len(written.paths.outbox.read_bytes()) == len(content)
    assert ship(written)._runs[0] != first


def test_a_run_that_a_user_deleted_is_left_out(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.trial(0)
    ship(written)
    found = mlflow_of(written)
    found.client.delete_run(found.runs()[1][0].info.run_id)
    written.epoch(0, 1)
    written.end(0)
    written.whole_trial(1)
    ship(written)
    assert set(found.runs()[1]) == {1}
    assert tracking.pending(written.paths) == 0


def test_a_deleted_experiment_is_said_and_nothing_is_skipped(written: Any, mlflow_of: Any) -> None:
    written.study()
    ship(written)
    found = mlflow_of(written)
    experiment = found.client.get_experiment_by_name("s").experiment_id
    found.client.delete_experiment(experiment)
    written.whole_trial(0)
    with pytest.raises(CannotShip, match="restore"):
        ship(written)
    assert tracking.pending(written.paths) == 5
    found.client.restore_experiment(experiment)
    ship(written)
    found.assert_complete(written.paths)


def test_nan_stays_nan_and_infinity_is_noted(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.trial(0)
    written.epoch(0, 1, **{"val/auc": math.nan, "val/mse": math.inf})
    written.end(0)
    ship(written)
    run = mlflow_of(written).runs()[1][0]
    assert math.isnan(run.data.metrics["val/auc"])
    assert run.data.tags["hpo.infinite"] == "val/mse at epoch 1"
    assert run.data.metrics["val/mse"] > 1e308


def test_long_values_are_cut_and_odd_names_changed_and_a_tag_says_so(
    written: Any, mlflow_of: Any
) -> None:
    written.study()
    odd = {"model.note": "é" * 7000, "model.layers[0]": 3, "model.many": list(range(40))}
    written.trial(0, **odd, **{f"model.p{n}": n for n in range(150)})
    written.epoch(0, 1, **{"val/acc@5": 0.5, "../up": 1.0})
    written.end(0, "failed", reason="x" * 20_000)
    ship(written)
    run = mlflow_of(written).runs()[1][0]
    assert len(run.data.params["model.note"]) == runs.MAX_PARAM
    assert run.data.params["model.layers_0_"] == "3"
    assert json.loads(run.data.params["model.many"]) == list(range(40))
    assert run.data.params["model.p149"] == "149"
    assert run.data.tags["hpo.cut"] == "model.note"
    assert "model.layers[0] → model.layers_0_" in run.data.tags["hpo.renamed"]
    assert run.data.metrics["val/acc_5"] == 0.5
    assert run.data.metrics["up"] == 1.0
    assert len(run.data.tags["hpo.reason"]) == runs.MAX_TAG


def test_many_epochs_and_metrics_arrive(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.trial(0)
    for epoch in range(1, 61):
        written.epoch(0, epoch, **{f"class/{n}": epoch + n / 100 for n in range(20)})
    written.end(0, last_epoch=60)
    ship(written)
    mlflow_of(written).assert_complete(written.paths)


def test_a_duplicate_has_a_run_that_says_so(written: Any, mlflow_of: Any) -> None:
    written.study()
    written.whole_trial(0)
    written.trial(1)
    written.end(1, "pruned", reason="same configuration as trial 0", duplicate_of=0, last_epoch=0)
    ship(written)
    run = mlflow_of(written).runs()[1][1]
    assert run.data.tags["hpo.reason"] == "same configuration as trial 0"
    assert run.info.status == "KILLED"


def test_what_a_command_has_logged_itself_is_added_and_never_replaces(
    written: Any, mlflow_of: Any
) -> None:
    logged = {
        "params": {"depth": "3", "train.lr": "7", "train.nesterov": "true"},
        "tags": {"team": "birds", "hpo.state": "mine"},
    }
    written.study()
    written.whole_trial(0, logged=logged)
    ship(written)
    written.paths.shipped.unlink()
    ship(written)  # once more: all is there already
    data = mlflow_of(written).runs()[1][0].data
    assert (data.params["depth"], data.params["train.lr"]) == ("3", "0.1")
    assert (data.tags["team"], data.tags["hpo.state"]) == ("birds", "complete")
    assert data.tags["hpo.not_adopted"] == "train.lr = 7"


def test_several_objectives_have_no_best_trial(written: Any, mlflow_of: Any) -> None:
    written.study(
        objective=[
            {"metric": "val/f1", "goal": "maximize"},
            {"metric": "train/loss", "goal": "minimize"},
        ]
    )
    written.whole_trial(0, values=[0.1, 0.2])
    ship(written)
    assert "hpo.best_trial" not in mlflow_of(written).runs()[0].data.tags


def test_a_study_without_data_has_no_dataset(written: Any, mlflow_of: Any) -> None:
    written.study(dataset=None, provenance={"git": None, "packages": {}})
    written.whole_trial(0)
    ship(written)
    parent = mlflow_of(written).runs()[0]
    assert parent.inputs.dataset_inputs == []


def test_the_embedded_store_writes_ahead(written: Any) -> None:
    written.study()
    ship(written)
    with sqlite3.connect(written.home.mlruns / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_finished_trials_are_not_kept_in_memory(written: Any) -> None:
    study_of_every_kind(written)
    progress: StudyProgress = ship(written).progress
    assert progress.open == {}
    assert progress.news == {}


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("val/f1_macro", "val/f1_macro"),
        ("准确率", "准确率"),
        ("a//b", "a/b"),
        ("/abs", "abs"),
        ("../..", "_"),
        ("", "_"),
        ("x" * 300, "x" * 250),
        ("a\nb", "a_b"),
    ],
)
def test_names_become_valid(name: str, valid: str) -> None:
    assert runs.name(name) == valid


def test_how_the_winner_did_on_the_test_split_stands_with_the_study(
    written: Any, mlflow_of: Any
) -> None:
    study_of_every_kind(written)
    measured = {"f1_macro": {"value": 0.9, "low": 0.8, "high": 0.95}}
    written.write(
        "confirmation",
        metric="val/f1",
        goal="maximize",
        seeds=5,
        trials=[{"trial": 4, "mean": 0.5}, {"trial": 0, "mean": math.nan}],
        winner=4,
        test={
            "rows": 9,
            "metric": "f1_macro",
            "runs": {"trial 4": measured, "ensemble 0": measured},
        },
        looks=1,
    )
    ship(written)
    found = mlflow_of(written)
    parent, _ = found.runs()
    kept = {name: parent.data.metrics[name] for name in parent.data.metrics if "best" not in name}
    wanted = {"test/f1_macro": 0.9, "test/f1_macro_low": 0.8, "test/f1_macro_high": 0.95}
    of_ensemble = {name.replace("test/", "test/ensemble/"): v for name, v in wanted.items()}
    assert kept.items() >= {"confirmed/val/f1": 0.5, **wanted, **of_ensemble}.items()
    assert parent.data.tags["hpo.winner"] == "4"
    text = found.artifacts(parent)["confirmation.json"].read_text()
    assert json.loads(text)["trials"][1]["mean"] is None
