"""The best trials on fresh seeds, then the test split, once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import hpo
from rich.console import Console
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score, log_loss

from hpo import confirm as confirming
from hpo import lease, results, spec
from hpo.confirm_words import print_confirmation
from hpo.ensemble import build, record
from hpo.errors import StudyLocked, UserError
from hpo.executors import open_executor
from hpo.launch import opened
from hpo.paths import Home
from hpo.predict import open_predictor
from hpo.progress import Silent
from hpo.tracking import outbox
from trainers import test_split
from trainers.options import TableData

STUDY = """
study: cancer
trainer: tabular
data: {source: %s}
model: {name: mlp, hidden: [8]}
train: {epochs: 3, batch_size: 32, optimizer: sgd}
search:
  train.lr: [0.001, 0.01, 0.1]
objective: {metric: val/accuracy, goal: maximize}
sampler: grid
executor: inline
workers: 1
device: cpu
budget: {trials: 3}
"""


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker within this process, which has imported torch already."""
    monkeypatch.setattr("hpo.anew.open_executor", lambda _: open_executor("inline"))


def run(folder: Path, source: str = "breast_cancer", **overrides: Any) -> Home:
    """Search, without MLflow."""
    file, home = folder / "study.yaml", Home(folder)
    file.write_text(STUDY % source)
    with opened(spec.load(file, overrides), home, Silent()) as orchestrator:
        orchestrator.run()
    return home


def confirm(home: Home, **options: Any) -> Any:
    asked = {"top": 2, "seeds": 3} | options
    return confirming.confirm(results.tables("cancer", home), home, **asked)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return run(tmp_path)


def test_the_best_trials_are_trained_on_seeds_that_the_search_has_not_seen(home: Home) -> None:
    found = confirm(home)
    best = results.tables("cancer", home).complete()
    assert [each["trial"] for each in found["trials"]] == list(best["number"])[:2]
    assert [each["searched"] for each in found["trials"]] == list(best["value"])[:2]
    for each in found["trials"]:
        assert len(each["values"]) == 3
        assert each["mean"] == pytest.approx(np.mean(each["values"]))
        assert each["low"] < each["mean"] < each["high"]
    means = {each["trial"]: each["mean"] for each in found["trials"]}
    assert found["winner"] == max(means, key=means.__getitem__)
    assert len({value for each in found["trials"] for value in each["values"]}) > 1
    again = confirm(home)
    assert again["trials"] == found["trials"]  # the seeds are the study's


def test_the_test_rows_are_no_row_of_the_search_and_judged_as_anybody_would(home: Home) -> None:
    found = confirm(home, top=1)
    searched = set(results.predicted("cancer", found["winner"], home).ids)
    predictor = open_predictor(f"cancer/{found['winner']}", home)
    rows = test_split.rows(TableData(source="breast_cancer").model_dump(), predictor.models)
    assert not searched & set(rows.ids)
    source, classes = load_breast_cancer(), list(predictor.classes or ())
    names = source.target_names[source.target[list(map(int, rows.ids))]]
    target = [classes.index(name) for name in names]
    output = predictor.output(rows.rows)
    test = found["test"]
    measured = test["runs"][f"trial {found['winner']}"]
    assert test["rows"] == len(target) == 114
    assert test["metric"] == "accuracy"
    right = accuracy_score(target, output.argmax(axis=1))
    assert measured["accuracy"]["value"] == pytest.approx(right)
    assert measured["accuracy"]["low"] < right < measured["accuracy"]["high"]
    assert measured["log_loss"]["value"] == pytest.approx(log_loss(target, output), rel=1e-5)
    assert len(test["seeds"]["values"]) == 3


def test_what_came_out_is_recorded_and_looks_are_counted(home: Home) -> None:
    assert results.confirmation("cancer", home) is None
    assert confirm(home)["looks"] == 1
    recorded = results.confirmation("cancer", home)
    assert recorded is not None
    assert recorded["winner"] == confirm(home)["winner"]
    newest = results.confirmation("cancer", home)
    assert newest is not None
    assert newest["looks"] == 2
    assert "opened 2 times" in printed(newest)
    state = results.status("cancer", home)
    assert state["trials"]["complete"] == 3  # no trial of the search


def test_the_newest_ensemble_is_judged_beside_the_winner(home: Home) -> None:
    made = build(results.tables("cancer", home), home, ["top"])
    record(made, home)
    found = confirm(home)
    assert list(found["test"]["runs"]) == [f"trial {found['winner']}", "ensemble 0"]
    assert found["test"]["gain"]["verdict"] in ("better", "worse", "cannot tell")
    assert "ensemble 0 against trial" in printed(found)
    assert list(confirm(home, ensemble="none")["test"]["runs"]) == [f"trial {found['winner']}"]
    with pytest.raises(UserError, match="no ensemble 7"):
        confirm(home, ensemble=7)


def test_without_kept_weights_a_fresh_seed_is_judged(tmp_path: Path) -> None:
    home = run(tmp_path, keep_models=0)
    found = confirm(home, top=1)
    assert found["test"]["seeds"]["values"][0] == pytest.approx(
        found["test"]["runs"][f"trial {found['winner']}"]["accuracy"]["value"]
    )


def test_data_that_has_changed_is_refused_before_training(tmp_path: Path) -> None:
    table = load_breast_cancer(as_frame=True).frame
    file = tmp_path / "cancer.csv"
    table.to_csv(file, index=False)
    home = run(tmp_path, source=str(file), data={"source": str(file), "target": "target"})
    table.iloc[::-1].to_csv(file, index=False)
    with pytest.raises(UserError, match="has changed since the search"):
        confirm(home)
    assert results.confirmation("cancer", home) is None


def test_a_study_that_runs_is_left_alone(home: Home) -> None:
    with lease.hold(home.study("cancer").lease, "cancer"), pytest.raises(StudyLocked):
        confirm(home)


def test_of_a_trainer_of_ones_own_there_is_no_test_split(bench: Any) -> None:
    bench.run(budget__trials=2)
    found = confirming.confirm(results.tables("s", bench.home), bench.home, top=2, seeds=2)
    assert found["test"] is None
    assert found["looks"] == 0
    assert found["trials"][0]["searched"] == pytest.approx(found["trials"][0]["mean"])
    assert "There is no test split" in printed(found)


def test_a_seed_that_fails_is_said_and_the_others_count(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / "sometimes.py").write_text(
        "import os\n"
        "def train(trial):\n"
        "    if os.environ.get('FAILS') == str(trial.number):\n"
        "        raise ValueError('as told')\n"
        "    trial.report(1, {'quality': 1.0, 'cost': 1.0})\n"
    )
    bench.run(trainer="sometimes:train", budget__trials=1)
    monkeypatch.setenv("FAILS", "1")
    found = confirming.confirm(results.tables("s", bench.home), bench.home, top=1, seeds=3)
    assert found["trials"][0]["values"] == [1.0, 1.0]
    assert "as told" in found["trials"][0]["failures"][0]
    assert "(1 failed)" in printed(found)


def test_what_goes_wrong_in_company_is_tried_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers import tabular

    together, sizes = tabular.train_together, list[int]()

    def fails_in_company(trials: Any) -> None:
        sizes.append(len(trials._arrived))
        if sizes[-1] > 1:
            raise RuntimeError("nobody knows whose fault")
        together(trials)

    undisturbed = confirm(home, top=1)
    monkeypatch.setattr(tabular, "train_together", fails_in_company)
    monkeypatch.setattr("hpo.anew.Bench.lanes_that_pay", lambda *_: 3)
    found = confirm(home, top=1)
    assert sizes == [3, 1, 1, 1]
    assert found["trials"] == undisturbed["trials"]


def test_history_and_other_readers_pass_over_the_record(home: Home) -> None:
    confirm(home, top=1)
    kinds = [record["kind"] for record, _ in outbox.read(home.study("cancer").outbox)]
    assert kinds[-1] == "confirmation"
    before = results.tables("cancer", home).trials
    with opened(spec.load(home.root / "study.yaml"), home, Silent()) as orchestrator:
        assert orchestrator.run().state == "complete"
    assert len(results.tables("cancer", home).trials) == len(before)


@pytest.mark.slow  # MLflow gets it, too
def test_the_command_trains_once_and_then_shows_what_came_out(home: Home) -> None:
    arguments = ("confirm", "cancer", "--top", "1", "--seeds", "2", "--home", home.root)
    first = hpo(*arguments, "--json")
    assert first.code == 0, first.err
    assert "opening the test split" in first.err
    second = hpo(*arguments, "--json")
    assert "was confirmed on" in second.err
    assert "training" not in second.err
    assert second.json == first.json
    assert "opened 2 times" in " ".join(hpo(*arguments, "--again").out.split())


def printed(facts: Any) -> str:
    out = io.StringIO()
    print_confirmation("cancer", facts, Console(file=out, width=200))
    return " ".join(out.getvalue().split())
