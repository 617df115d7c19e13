"""``hpo ensemble``: which trials, what is recorded, and that everything else goes on as before."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import hpo
from made_up import spoilt
from prediction_sets import classifiers, regressions
from recorded import LOSS, START_MS, Recorded, own_trainer, rising
from workbench import Workbench

from hpo import lease, results, tracking
from hpo.ensemble import Built, build, record, refuse_if_running
from hpo.errors import StudyLocked, UserError
from hpo.history import History
from hpo.results.catalog import Catalog
from hpo.results.predicted import Predicted
from hpo.results.study_log import StudyLog
from hpo.tracking import outbox
from hpo.tracking.outbox import Outbox
from hpo.tracking.progress import StudyProgress


def study_of(
    home: Path, predicted: list[Predicted], name: str = "digits", **more: Any
) -> Recorded:
    study = Recorded(home, name, **more)
    for number, each in enumerate(predicted):
        study.trial(rising(0.5 + 0.01 * number), predicted=each)
    study.over()
    return study


def made(study: Recorded, *methods: Any, **options: Any) -> Built:
    tables = results.tables(study.name, study.home)
    return build(tables, study.home, methods or ("top",), **options)


@pytest.fixture
def study(tmp_path: Path) -> Recorded:
    return study_of(tmp_path, classifiers(8, 120))


@pytest.fixture
def without_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "sync", lambda *_: tracking.Shipped(0))


# -- what is recorded


def test_what_is_recorded_is_what_was_made(study: Recorded) -> None:
    built = made(study, "greedy", "top", metric="log_loss")
    number = record(built, study.home)
    facts = results.ensemble("digits", number, study.home)
    fitted = built.fitted
    assert number == 0
    assert [m["trial"] for m in facts["members"]] == [
        built.library.trials[p] for p in fitted.places
    ]
    assert [m["weight"] for m in facts["members"]] == pytest.approx(fitted.weights)
    assert sum(m["weight"] for m in facts["members"]) == pytest.approx(1)
    assert facts["metric"] == "log_loss"
    assert facts["estimate"]["value"] == pytest.approx(built.library.score(built.made.output))
    first = facts["against"][0]
    assert first["what"] == "best in fold"
    assert first["difference"] == pytest.approx(facts["estimate"]["value"] - first["value"])
    assert len(facts["tried"]) == 4
    kept = results.ensemble_predicted("digits", 0, study.home)
    assert (kept.output == built.made.output).all()
    assert (kept.target == built.library.target).all()
    table = results.ensembles("digits", study.home)
    assert list(table["ensemble"]) == [0]
    assert table["members"][0] == tuple(m["trial"] for m in facts["members"])
    assert table["gain"][0] == first["difference"]


def test_the_members_and_weights_give_its_output(study: Recorded) -> None:
    """As anybody would combine them who only has the record."""
    built = made(study, "greedy", metric="log_loss")
    record(built, study.home)
    facts = results.ensemble("digits", 0, study.home)
    total = np.zeros((120, 3))
    for member in facts["members"]:
        output = results.predicted("digits", member["trial"], study.home).output
        powered = output.astype(float) ** (1 / (member["temperature"] or 1))
        total += member["weight"] * powered / powered.sum(axis=1, keepdims=True)
    everywhere = np.ones(120, bool)
    assert built.fitted.output(built.library, everywhere) == pytest.approx(total, abs=1e-5)


def test_a_stack_is_recorded_with_its_coefficients(study: Recorded) -> None:
    record(made(study, "stack"), study.home)
    facts = results.ensemble("digits", 0, study.home)
    with np.load(study.paths.root / facts["artifacts"]["stack.npz"]) as arrays:
        assert arrays["coefficients"].shape == (3, 3 * len(facts["members"]))
        assert arrays["intercept"].shape == (3,)


def test_ensembles_are_numbered_and_an_unknown_one_is_said_so(study: Recorded) -> None:
    assert results.ensembles("digits", study.home).empty
    with pytest.raises(UserError, match="`hpo ensemble` makes one"):
        results.ensemble("digits", 0, study.home)
    assert [record(made(study), study.home) for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match="no ensemble 7; there are: 0, 1"):
        results.ensemble("digits", 7, study.home)


def test_a_regressions_ensemble_has_no_temperatures(tmp_path: Path) -> None:
    dataset = {"source": "diabetes", "task": "regression", "fingerprint": "d" * 64}
    study = study_of(tmp_path, regressions(5, 100), dataset=dataset, objective=[LOSS])
    record(made(study, "greedy", "cma", "stack", "top"), study.home)
    facts = results.ensemble("digits", 0, study.home)
    assert (facts["metric"], facts["goal"]) == ("rmse", "minimize")
    assert not facts["calibrated"]
    assert set(facts["diversity"]) == {"error_correlation"}


# -- everything else goes on


def test_a_study_with_an_ensemble_is_otherwise_as_before(study: Recorded) -> None:
    before = results.status("digits", study.home), results.trials("digits", study.home)
    record(made(study), study.home)
    after = results.status("digits", study.home), results.trials("digits", study.home)
    assert {**after[0], "replica": None} == {**before[0], "replica": None}
    assert after[1].equals(before[1])
    assert after[0]["replica"]["pending"] == before[0]["replica"]["pending"] + 1
    row = Catalog(study.home.root).studies().iloc[0]
    assert (row["state"], row["complete"]) == ("complete", 8)


def test_an_ensemble_made_later_takes_no_time_from_the_budget(bench: Workbench) -> None:
    bench.run(budget__trials=2)
    before = History.read(bench.paths.outbox, ["quality"], maximize=True)
    with Outbox(bench.paths.outbox) as log:
        log.append({"kind": "ensemble", "time_ms": 2_000_000_000_000, "ensemble": 0})
    after = History.read(bench.paths.outbox, ["quality"], maximize=True)
    assert after.wall_s == before.wall_s
    assert (after.counted, len(after.trials)) == (before.counted, len(before.trials)) == (2, 2)


def test_it_is_no_trial_to_what_ships(study: Recorded) -> None:
    record(made(study), study.home)
    progress = StudyProgress()
    for each, _ in outbox.read(study.paths.outbox):
        progress.add(each)
    assert progress.counts == {"complete": 8}
    assert len(progress.ensembles) == 1
    progress.shipped()
    assert progress.ensembles == []


def test_it_is_read_again_from_the_cache(study: Recorded, tmp_path: Path) -> None:
    record(made(study), study.home)
    log = StudyLog.read(study.paths, tmp_path / "cache")
    log._write_cache()
    with Outbox(study.paths.outbox) as more:  # what is older than this comes from the cache
        more.append({"kind": "ensemble", "time_ms": START_MS, "ensemble": 5})
    assert list(StudyLog.read(study.paths, tmp_path / "cache").ensembles) == [0, 5]


def test_a_study_with_an_ensemble_goes_on(bench: Workbench) -> None:
    bench.run(budget__trials=2)
    with Outbox(bench.paths.outbox) as log:
        log.append({"kind": "ensemble", "time_ms": 2_000_000_000_000, "ensemble": 0})
    bench.run(budget={"trials": 4, "wall": "1h"})
    assert len(bench.records("end")) == 4
    assert results.status("s", bench.home)["trials"]["complete"] == 4


# -- MLflow


def shipped(study: Recorded) -> Any:
    """Everything is in a store of the study's home; returns MLflow's client."""
    with warnings.catch_warnings():  # of MLflow's own imports
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        from hpo.tracking.replica import Replica

        Replica(study.paths, study.home, study.home.tracking_uri).ship()
        return MlflowClient(tracking_uri=study.home.tracking_uri)


@pytest.mark.slow
def test_in_mlflow_it_is_a_run_under_the_study_and_is_read_back(study: Recorded) -> None:
    record(made(study, "greedy", metric="log_loss"), study.home)
    client = shipped(study)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (run,) = client.search_runs([experiment], "tags.`hpo.kind` = 'ensemble'")
    (parent,) = client.search_runs([experiment], "tags.`hpo.kind` = 'study'")
    facts = results.ensemble("digits", 0, study.home)
    assert run.info.run_name == "ensemble 0"
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.params["ensemble.method"] == "greedy"
    assert run.data.metrics["estimate/log_loss"] == pytest.approx(facts["estimate"]["value"])
    weights = client.get_metric_history(run.info.run_id, "weight")
    assert {w.step: w.value for w in weights} == {
        m["trial"]: pytest.approx(m["weight"]) for m in facts["members"]
    }
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"ensemble.json", "predictions.npz"}
    assert facts["run_id"] == run.info.run_id
    (read,) = Catalog(study.home.root / "elsewhere", study.home.tracking_uri).ensembles("digits")
    runs = tracking.shipped_runs(study.paths)
    assert read["run_id"] == run.info.run_id
    assert [m["run_id"] for m in read["members"]] == [runs[m["trial"]] for m in facts["members"]]
    assert read["estimate"] == facts["estimate"]
    (here,) = Catalog(study.home.root).ensembles("digits")
    assert here == facts
    elsewhere = Catalog(study.home.root / "elsewhere", study.home.tracking_uri)
    assert len(elsewhere.study("digits").trials) == 8


@pytest.mark.slow
def test_shipped_again_it_is_still_one_run(study: Recorded) -> None:
    record(made(study), study.home)
    shipped(study)
    study.paths.shipped.unlink()
    client = shipped(study)
    record(made(study), study.home)
    shipped(study)
    experiment = client.get_experiment_by_name("digits").experiment_id
    found = client.search_runs([experiment], "tags.`hpo.kind` = 'ensemble'")
    assert sorted(run.data.tags["hpo.ensemble"] for run in found) == ["0", "1"]
    assert len(client.search_runs([experiment])) == 1 + 8 + 2


@pytest.mark.slow
def test_an_interrupted_study_ended_when_it_was_interrupted(tmp_path: Path) -> None:
    study = Recorded(tmp_path)
    for each in classifiers(3, 60):
        study.trial(rising(0.5), predicted=each)
    (*_, (last, _)) = outbox.read(study.paths.outbox)
    record(made(study), study.home)  # years later
    client = shipped(study)
    from hpo.tracking.replica import Replica

    replica = Replica(study.paths, study.home, study.home.tracking_uri)
    replica.interrupt()
    experiment = client.get_experiment_by_name("digits").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`hpo.kind` = 'study'")
    assert parent.data.tags["hpo.state"] == "interrupted"
    assert parent.info.end_time == last["time_ms"]


# -- what cannot be done


def test_while_the_study_runs_it_is_refused(study: Recorded) -> None:
    built = made(study)
    with lease.hold(study.paths.lease, "digits"):
        with pytest.raises(StudyLocked, match="is being run by process"):
            refuse_if_running("digits", study.paths)
        with pytest.raises(StudyLocked, match="is being run by process"):
            record(built, study.home)
        code, _, said = hpo("ensemble", "digits", "--home", study.home.root)
    assert code == 2
    assert "is being run by process" in said
    assert results.ensembles("digits", study.home).empty


def drop_first(predicted: list[Predicted]) -> list[Predicted]:
    first = predicted[0]
    return [replace(first, ids=first.ids + 1), *predicted[1:]]


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ([], "no complete trial yet"),
        (classifiers(1, 100), "only trial 0 can be a member.*\n.*--trials"),
        (drop_first(classifiers(2, 100)), "1 predicted other rows.*\nsearch nothing that changes"),
        ([classifiers(2, 100)[0], spoilt(classifiers(2, 100)[1])], "1 predicted something that"),
        (classifiers(3, 12), "12 validation rows; .* needs 20"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    tmp_path: Path, predicted: list[Predicted], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        made(study_of(tmp_path, predicted))


def test_a_study_without_predictions_is_told_how_to_have_them(tmp_path: Path) -> None:
    study = own_trainer(tmp_path)
    with pytest.raises(UserError, match=r"4 kept no predictions.*trial\.report"):
        made(study)


def test_an_unknown_metric_is_answered_with_those_there_are(study: Recorded) -> None:
    with pytest.raises(UserError, match="--metric rmse: .*accuracy, f1_macro"):
        made(study, metric="rmse")


def test_a_damaged_file_does_not_hinder_the_others(study: Recorded) -> None:
    (study.paths.trial(2) / "predictions.npz").write_bytes(b"PK\x03\x04 torn")
    built = made(study)
    assert built.left_out == {"have predictions that cannot be read": 1}
    assert 2 not in built.library.trials


# -- the command


@pytest.mark.usefixtures("without_mlflow")
@pytest.mark.parametrize("method", ["all", "stack"])
@pytest.mark.slow
def test_the_command_says_members_and_whether_it_is_better(study: Recorded, method: str) -> None:
    code, said, _ = hpo("ensemble", "digits", "--home", study.home.root, "--method", method)
    assert code == 0
    assert said.startswith("Ensemble 0 of digits: ")
    assert "Is it better?" in said
    assert "accuracy on 120 validation rows" in said
    assert "a test split, were not touched" in said
    assert ("Ways to make it" in said) == (method == "all")


@pytest.mark.usefixtures("without_mlflow")
def test_the_command_prints_one_object(study: Recorded) -> None:
    code, said, _ = hpo(
        *("ensemble", "digits", "--home", study.home.root, "--method", "top", "--top", "3"),
        *("--metric", "f1_macro", "--json"),
    )
    found = json.loads(said)
    assert code == 0
    assert found["study"] == "digits"
    assert found["candidates"] == 3
    assert found["metric"] == "f1_macro"
    assert {m["trial"] for m in found["members"]} <= set(range(8))


@pytest.mark.slow
def test_the_command_sends_it_to_mlflow(study: Recorded, monkeypatch: Any) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, _, _ = hpo("ensemble", "digits", "--home", study.home.root, "--method", "top")
    assert code == 0
    assert results.ensemble("digits", 0, study.home)["run_id"]


def test_what_takes_long_is_said(study: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.ensemble.building.SAY_EVERY_S", 0.0)
    said: list[str] = []
    made(study, "top", say=said.append)
    assert said[0] == "read the predictions of 1 of 8 trials"
    assert said[-1] == "31 of 31 ensembles"
