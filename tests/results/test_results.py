"""The read model says what the outbox says, whatever state the study is in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpo import lease, results
from hpo.errors import UnknownStudy, UserError
from hpo.outcome import worker_lines
from hpo.paths import Home
from hpo.tracking.outbox import DamagedOutbox, Outbox

START_MS = 1_700_000_000_000
F1 = {"metric": "val/f1", "goal": "maximize"}
LOSS = {"metric": "val/loss", "goal": "minimize"}

Records = list[dict[str, Any]]


def study(*objective: dict[str, str], file: str = "study: s\n") -> dict[str, Any]:
    dataset = {"source": "digits", "classes": ["no", "yes"]}
    return {
        "kind": "study",
        "study": "s",
        "file": file,
        "folder": "/studies",
        "objective": list(objective or [F1]),
        "budget": {"trials": 9},
        "dataset": dataset,
    }


def begun(number: int, attempt: int = 1, **params: Any) -> dict[str, Any]:
    params = {f"train.{name}": value for name, value in (params or {"lr": 0.1}).items()}
    return {
        "kind": "trial",
        "number": number,
        "params": params,
        "config": params,
        "seed": 7,
        "worker": 0,
        "attempt": attempt,
    }


def epoch(number: int, at: int, f1: float, loss: float = 0.5, **more: float) -> dict[str, Any]:
    metrics = {"val/f1": f1, "val/loss": loss} | more
    return {"kind": "epoch", "number": number, "epoch": at, "seconds": 2.0, "metrics": metrics}


def end(number: int, state: str, values: list[float] | None, at: int | None, **more: Any) -> Any:
    facts = {"reason": "", "last_epoch": at or 0, "seconds": 4.0, "peak_memory_mb": 50.0}
    return {
        "kind": "end",
        "number": number,
        "state": state,
        "values": values,
        "best_epoch": at,
        **facts,
        **more,
    }


def whole(
    number: int, f1: float, state: str = "complete", loss: float = 0.5, **params: Any
) -> Any:
    """A trial of two epochs, the first one better."""
    return [
        begun(number, **params),
        epoch(number, 1, f1, loss),
        epoch(number, 2, f1 - 0.1, loss),
        end(number, state, [f1], 1, last_epoch=2),
    ]


def over(state: str = "complete") -> dict[str, Any]:
    return {"kind": "study_end", "state": state, "reason": ""}


def write(home: Path, *records: Any, name: str = "s") -> None:
    flat = [r for item in records for r in (item if isinstance(item, list) else [item])]
    with Outbox(Home(home).study(name).outbox) as log:
        for index, record in enumerate(flat):
            log.append({"time_ms": START_MS + index * 1000} | record)


def test_a_finished_study(tmp_path: Path) -> None:
    write(
        tmp_path,
        study(),
        whole(0, 0.6, lr=0.1),
        whole(1, 0.9, lr=0.2),
        whole(2, 0.95, "pruned", lr=0.3),
        whole(3, 0.1, "failed", lr=0.4),
        whole(4, 0.2, "stopped", lr=0.5),
        over(),
    )
    assert results.status("s", tmp_path) == {
        "study": "s",
        "state": "complete",
        "trials": {
            "complete": 2,
            "pruned": 1,
            "failed": 1,
            "stopped": 1,
            "running": 0,
            "paused": 0,
            "waiting": 0,
        },
        "best": {
            "trial": 1,
            "value": 0.9,
            "epoch": 1,
            "params": {"train.lr": 0.2},
            "metrics": {"val/f1": 0.9, "val/loss": 0.5},
            "run_id": None,
        },
        "pareto": None,
        "workers": [],
        "objective": [F1],
        "budget": {"trials": 9},
        "replica": {"pending": 22},
    }
    json.dumps(results.status("s", tmp_path))
    assert results.best("s", tmp_path) == results.status("s", tmp_path)["best"]


def test_trials_has_a_row_for_each(tmp_path: Path) -> None:
    write(
        tmp_path,
        study(),
        whole(1, 0.9, lr=0.2),
        [begun(0, lr=0.1, momentum=0.9), begun(0, attempt=2, lr=0.1, momentum=0.9)],
        [epoch(0, 1, 0.5), epoch(0, 2, 0.7), epoch(0, 3, 0.6)],
    )
    table = results.trials("s", tmp_path)
    assert list(table["number"]) == [0, 1]
    first, second = (row for _, row in table.iterrows())
    assert (first["state"], first["value"], first["best_epoch"]) == ("waiting", 0.7, 2)
    assert (first["last_epoch"], first["seconds"], first["attempts"]) == (3, 6.0, 2)
    assert (first["params.train.lr"], first["params.train.momentum"]) == (0.1, 0.9)
    assert (second["state"], second["val/f1"], second["last_epoch"]) == ("complete", 0.9, 2)
    assert second["started"] == pd.Timestamp(START_MS + 1000, unit="ms", tz="UTC")
    assert pd.isna(second["params.train.momentum"])
    assert pd.isna(second["run_id"])


def test_run_ids_come_from_what_was_shipped(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.6))
    paths = Home(tmp_path).study("s")
    shipped = {"offset": paths.outbox.stat().st_size, "runs": {"0": "abc"}}
    paths.shipped.write_text(json.dumps(shipped))
    assert list(results.trials("s", tmp_path)["run_id"]) == ["abc"]
    status = results.status("s", tmp_path)
    assert status["best"]["run_id"] == "abc"
    assert status["replica"] == {"pending": 0}


@pytest.mark.parametrize(
    ("records", "held", "state"),
    [
        ([study()], True, "running"),
        ([study()], False, "interrupted"),
        ([study(), over("interrupted")], False, "interrupted"),
        ([study(), over("stopped")], False, "stopped"),
        ([study(), over("failed")], False, "failed"),
        ([study(), over(), study()], False, "interrupted"),
        ([study(), over("interrupted"), study(), over()], False, "complete"),
    ],
)
def test_the_state_of_a_study(tmp_path: Path, records: Records, held: bool, state: str) -> None:
    write(tmp_path, *records)
    if held:
        with lease.hold(Home(tmp_path).study("s").lease, "s"):
            assert results.status("s", tmp_path)["state"] == state
    else:
        assert results.status("s", tmp_path)["state"] == state


def test_a_trial_runs_only_while_its_orchestrator_lives(tmp_path: Path) -> None:
    write(tmp_path, study(), begun(0), over("interrupted"), study(), begun(1))
    lease_file = Home(tmp_path).study("s").lease
    with lease.hold(lease_file, "s"):  # trial 0 waits to go on, trial 1 is trained
        assert list(results.trials("s", tmp_path)["state"]) == ["waiting", "running"]
    assert list(results.trials("s", tmp_path)["state"]) == ["waiting", "waiting"]


def test_what_each_worker_trains_now(tmp_path: Path) -> None:
    alone = begun(3) | {"worker": 1}
    write(tmp_path, study(), whole(0, 0.6), begun(1), begun(2), epoch(2, 1, 0.5), alone)
    with lease.hold(Home(tmp_path).study("s").lease, "s"):
        status = results.status("s", tmp_path)
    assert status["workers"] == [
        {"worker": 0, "node": None, "trials": [1, 2], "epochs": [0, 1]},
        {"worker": 1, "node": None, "trials": [3], "epochs": [0]},
    ]
    assert worker_lines(status) == [
        "worker 0: 2 trials in lanes at epochs 0–1",  # noqa: RUF001
        "worker 1: trial 3 at epoch 0",
    ]
    assert results.status("s", tmp_path)["workers"] == []


@pytest.mark.parametrize(
    ("objective", "values", "best"),
    [(F1, [0.5, 0.9, 0.9], 1), (LOSS, [0.5, 0.2, 0.2], 1), (LOSS, [0.1, 0.2, 0.3], 0)],
)
def test_the_best_is_the_first_of_the_best(
    tmp_path: Path, objective: dict[str, str], values: list[float], best: int
) -> None:
    trials = [whole(n, value, loss=value) for n, value in enumerate(values)]
    write(tmp_path, study(objective), *reversed(trials))
    found = results.best("s", tmp_path)
    assert found is not None
    assert found["trial"] == best


def test_without_a_complete_trial_there_is_no_best(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.9, "pruned"), begun(1))
    assert results.best("s", tmp_path) is None


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    points = [(0.9, 0.9), (0.5, 0.1), (0.4, 0.2), (0.9, 0.9), (0.7, 0.5)]  # f1 up, loss down
    trials = [
        [begun(n), epoch(n, 1, f1, loss), end(n, "complete", [f1, loss], 1)]
        for n, (f1, loss) in enumerate(points)
    ]
    write(tmp_path, study(F1, LOSS), *trials, over())
    status = results.status("s", tmp_path)
    assert status["best"] is None
    assert [trial["trial"] for trial in status["pareto"]] == [0, 1, 3, 4]
    assert status["pareto"][1]["values"] == {"val/f1": 0.5, "val/loss": 0.1}
    table = results.trials("s", tmp_path)
    assert list(table["value.val/loss"]) == [0.9, 0.1, 0.2, 0.9, 0.5]


def test_a_duplicate_has_the_metrics_of_its_twin(tmp_path: Path) -> None:
    write(
        tmp_path,
        study(),
        whole(0, 0.9),
        [begun(1), end(1, "pruned", [0.9], 1, duplicate_of=0, last_epoch=0)],
    )
    table = results.trials("s", tmp_path)
    assert list(table["val/f1"]) == [0.9, 0.9]
    assert list(table["last_epoch"]) == [2, 0]


def test_curves_is_every_metric_of_every_epoch(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.6), whole(1, 0.9), begun(2), epoch(2, 1, 0.1))
    table = results.curves("s", home=tmp_path)
    assert len(table) == 10
    assert list(table.columns) == ["trial", "epoch", "metric", "value", "time"]
    some = results.curves("s", trials=[1], metrics=["val/f1"], home=tmp_path)
    assert list(some["epoch"]) == [1, 2]
    assert list(some["value"]) == pytest.approx([0.9, 0.8])
    assert results.curves("s", trials=[], home=tmp_path).empty


def test_predictions_of_a_classifier(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.6))
    folder = Home(tmp_path).study("s").trial(0)
    folder.mkdir(parents=True)
    output = np.array([[0.25, 0.75], [1.0, 0.0]], np.float16)
    np.savez(folder / "predictions.npz", ids=[5, 3], target=[1, 0], output=output)
    table = results.predictions("s", 0, tmp_path)
    assert table.to_dict("list") == {
        "id": [5, 3],
        "target": [1, 0],
        "output.0": [0.25, 1.0],
        "output.1": [0.75, 0.0],
    }
    assert table.attrs["classes"] == ["no", "yes"]


def test_predictions_of_a_regression_in_groups(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.6))
    file = Home(tmp_path).study("s").trial(0) / "predictions.npz"
    file.parent.mkdir(parents=True)
    said = {"ids": [0, 1], "target": [1.5, 2.0], "output": np.array([2.5, 3.0])}
    np.savez(file, **said, groups=[7, 7])
    table = results.predictions("s", 0, tmp_path)
    assert list(table["output"]) == [2.5, 3.0]
    assert list(table["group"]) == [7, 7]
    np.savez(file, **said, groups=[7])
    with pytest.raises(ValueError, match="groups of 2 rows"):
        results.predictions("s", 0, tmp_path)


@pytest.mark.parametrize(("trial", "said"), [(0, "no predictions"), (8, "it has no trial 8")])
def test_missing_predictions_are_said(tmp_path: Path, trial: int, said: str) -> None:
    write(tmp_path, study(), whole(0, 0.6))
    with pytest.raises(UserError, match=said):
        results.predictions("s", trial, tmp_path)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.6))
    folder = Home(tmp_path).study("s").trial(0)
    folder.mkdir(parents=True)
    evil = np.array([print], dtype=object)
    np.savez(folder / "predictions.npz", ids=evil, target=evil, output=evil)
    with pytest.raises(ValueError, match="allow_pickle"):
        results.predictions("s", 0, tmp_path)


def test_studies_lists_all(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.6), over(), name="one")
    write(tmp_path, study(F1, LOSS), begun(0), name="two")
    table = results.studies(tmp_path)
    assert list(table["study"]) == ["one", "two"]
    assert list(table["complete"]) == [1, 0]
    assert list(table["waiting"]) == [0, 1]
    assert table["best_value"][0] == 0.6
    assert pd.isna(table["best_trial"][1])
    assert table["metric"][1] == "val/f1, val/loss"


def test_nothing_run_is_an_empty_table(tmp_path: Path) -> None:
    assert results.studies(tmp_path).empty
    write(tmp_path, study())
    assert results.trials("s", tmp_path).empty
    assert results.curves("s", home=tmp_path).empty


def test_an_unknown_study_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownStudy, match="none has been run"):
        results.status("digits", tmp_path)
    write(tmp_path, study(), name="digits")
    write(tmp_path, study(), name="table")
    with pytest.raises(UnknownStudy, match=r"did you mean 'digits'\?\nThere are: digits, table"):
        results.status("digts", tmp_path)
    with pytest.raises(UnknownStudy):
        results.status("../studies/digits", tmp_path)


def test_a_study_is_known_by_its_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, study(), whole(0, 0.6))
    file = tmp_path / "any.yaml"
    file.write_text("# a comment\nstudy: s\n")
    assert results.status(file, tmp_path)["study"] == "s"
    monkeypatch.chdir(tmp_path)
    assert results.status("any.yaml")["study"] == "s"


@pytest.mark.parametrize("content", ["", "- 1", "study:", "a: [", "\x00", "x: 1"])
def test_a_file_without_a_name_is_said(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        results.status(file, tmp_path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        results.status(tmp_path / "none.yaml", tmp_path)


def test_tracking_uri_is_the_files_with_variables_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, study(file="tracking: {uri: 'http://${MLFLOW_HOST}:${MLFLOW_PORT:-5000}'}"))
    with pytest.raises(UserError, match="MLFLOW_HOST"):
        results.tracking_uri("s", tmp_path)
    monkeypatch.setenv("MLFLOW_HOST", "box")
    assert results.tracking_uri("s", tmp_path) == "http://box:5000"
    write(tmp_path, study(file="study: t\ntracking: {uri: null}\n"), name="t")
    assert results.tracking_uri("t", tmp_path) is None


def test_a_damaged_record_costs_only_what_it_says(tmp_path: Path) -> None:
    write(tmp_path, study(), whole(0, 0.6), whole(1, 0.9), over())
    path = Home(tmp_path).study("s").outbox
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in range(len(lines)):
        changed = lines[damaged][:20] + b"#" + lines[damaged][21:]
        path.write_bytes(b"".join([*lines[:damaged], changed, *lines[damaged + 1 :]]))
        with pytest.warns(DamagedOutbox):
            assert len(results.trials("s", tmp_path)) >= 1
        with pytest.warns(DamagedOutbox):
            assert results.status("s", tmp_path)["study"] == "s"


def test_reading_imports_neither_torch_nor_mlflow_and_pandas_only_when_used() -> None:
    code = (
        "import sys, hpo.results;"
        "heavy = {'pandas', 'numpy', 'mlflow', 'torch', 'optuna', 'yaml'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
