"""`hpo sync --verify`: what was sent is found equal; whatever is changed in MLflow is found."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import Any

import pytest

from hpo.tracking import Compared
from hpo.tracking.replica import Replica

# MLflow uses what SQLAlchemy and others deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ALTERED = {
    "a metric": (
        "update metrics set value = 0.25 where key = 'val/f1' and step = 2 and run_uuid = :run",
        "trial 0: metric val/f1 at step 2 is 0.25 in MLflow, 0.02 on record",
    ),
    "a metric's time": (
        "update metrics set timestamp = timestamp + 1 where key = 'val/f1' and step = 1 "
        "and run_uuid = :run",
        "trial 0: metric val/f1 at step 1 is 0.01 in MLflow, 0.01 on record (at another time)",
    ),
    "a metric that is gone": (
        "delete from metrics where key = 'train/loss' and step = 3 and run_uuid = :run",
        "trial 0: metric train/loss at step 3 is missing in MLflow",
    ),
    "a metric too many": (
        "insert into metrics (key, value, timestamp, run_uuid, step, is_nan) "
        "values ('val/f1', 1.0, 1, :run, 9, 0)",
        "trial 0: metric val/f1 at step 9 is 1.0 in MLflow, nothing on record",
    ),
    "a parameter": (
        "update params set value = '0.2' where key = 'train.lr' and run_uuid = :run",
        "trial 0: parameter train.lr is '0.2' in MLflow, '0.1' on record",
    ),
    "a tag": (
        "delete from tags where key = 'hpo.seed' and run_uuid = :run",
        "trial 0: tag hpo.seed is None in MLflow, '0' on record",
    ),
    "a state": (
        "update runs set status = 'FAILED' where run_uuid = :run",
        "trial 0: status is 'FAILED' in MLflow, 'FINISHED' on record",
    ),
    "a time": (
        "update runs set end_time = end_time + 5 where run_uuid = :run",
        "trial 0: end time is",
    ),
    "a run": (
        "update runs set lifecycle_stage = 'deleted' where run_uuid = :run",
        "trial 0: 0 runs in MLflow, 1 on record",
    ),
}


def replica(written: Any) -> Replica:
    opened = Replica(written.paths, written.home, written.home.tracking_uri)
    opened.ship()
    return opened


def compare(written: Any) -> Compared:
    return replica(written).compare()


def study(written: Any) -> None:
    """Everything there is: ends of each kind, a restart, files, NaN, infinity, an ensemble."""
    written.study()
    folder = written.paths.trial(0)
    folder.mkdir(parents=True)
    (folder / "predictions.npz").write_bytes(b"as they are")
    written.whole_trial(0, artifacts={"predictions.npz": "trials/0/predictions.npz"})
    written.trial(1)
    written.epoch(1, 1, **{"val/auc": float("nan"), "val/loss": float("inf")})
    written.study_end("interrupted")
    written.study(device_name="another")
    written.trial(1, attempt=2)
    written.epoch(1, 2)
    written.epoch(1, 3)
    written.end(1, reason="")
    for number, state in enumerate(["pruned", "stopped", "failed"], start=2):
        traceback = "Traceback …\n" if state == "failed" else None
        written.whole_trial(number, state, reason="so", traceback=traceback)
    written.trial(5)
    written.epoch(5, 1)
    for number in (6, 7):
        written.trial(number)
        written.epoch(number, 1)
        written.write("pause", number=number, epoch=1)
    written.end(7, "pruned", values=[0.01], best_epoch=1, last_epoch=1, reason="paused")
    written.paths.examples.write_bytes(b"rows")


def execute(written: Any, command: str, run: str) -> None:
    with contextlib.closing(sqlite3.connect(written.home.mlruns / "mlflow.db")) as store:
        assert store.execute(command, {"run": run}).rowcount == 1
        store.commit()


@pytest.mark.parametrize("end", ["complete", "interrupted", None])
def test_what_was_sent_is_equal(written: Any, end: str | None) -> None:
    study(written)
    replica(written)  # in several parts
    if end:
        written.study_end(end)
    sent = replica(written)
    sent.interrupt()
    found = sent.compare()
    assert (found.differences, found.different, found.gone) == ([], 0, 0)
    assert found.runs == 9
    assert found.values > 200


def test_each_thing_altered_is_found_and_nothing_else(written: Any, mlflow_of: Any) -> None:
    study(written)
    written.study_end()
    replica(written)
    run = mlflow_of(written).runs()[1][0].info.run_id
    with (
        contextlib.closing(sqlite3.connect(written.home.mlruns / "mlflow.db")) as store,
        contextlib.closing(sqlite3.connect(":memory:")) as before,
    ):
        store.backup(before)
        for name, (command, said) in ALTERED.items():
            execute(written, command, run)
            found = compare(written)
            assert found.different == 1, name
            assert found.differences[0].startswith(said), name
            before.backup(store)
    assert compare(written).different == 0


def test_an_altered_or_a_missing_file_is_found(written: Any, mlflow_of: Any) -> None:
    study(written)
    written.study_end()
    replica(written)
    (sent,) = written.home.mlruns.rglob("predictions.npz")
    sent.write_bytes(b"as they were")
    found = compare(written)
    assert found.different == 1
    assert found.differences[0].startswith("trial 0: sha256 of predictions.npz is")
    sent.unlink()
    assert compare(written).differences == [
        "trial 0: the file predictions.npz is missing in MLflow"
    ]
    (written.paths.trial(0) / "predictions.npz").unlink()
    found = compare(written)
    assert (found.different, found.gone) == (0, 1)


def test_a_run_that_differs_is_written_anew_as_the_message_says(
    written: Any, mlflow_of: Any
) -> None:
    study(written)
    written.study_end()
    replica(written)
    store = mlflow_of(written)
    run = store.runs()[1][0].info.run_id
    for what in ("a metric", "a parameter"):
        execute(written, ALTERED[what][0], run)
    assert compare(written).different == 2
    store.client.delete_run(run)
    written.paths.shipped.unlink()
    assert compare(written).differences == []


def test_a_run_that_was_made_twice_is_found_and_the_second_deleted(
    written: Any, mlflow_of: Any
) -> None:
    study(written)
    written.study_end()
    sent = replica(written)
    client = mlflow_of(written).client
    (experiment,) = client.search_experiments(filter_string="name = 's'")
    tags = {"hpo.study_id": "5" * 32, "hpo.trial": "0", "hpo.state": "running"}
    double = client.create_run(experiment.experiment_id, 1, tags).info.run_id
    found = sent.compare()
    assert found.different == 1
    assert found.differences[0].startswith("trial 0: 2 runs in MLflow")
    sent.remove_doubles()
    assert sent.compare().different == 0
    assert client.get_run(double).info.lifecycle_stage == "deleted"


def test_ensembles_and_the_confirmation_are_compared(written: Any) -> None:
    study(written)
    written.study_end()
    written.write("ensemble", **ENSEMBLE)
    replica(written)
    assert compare(written).differences == []
    (facts,) = written.home.mlruns.rglob("ensemble.json")
    facts.write_text(json.dumps({"members": []}))
    assert compare(written).different == 1


ENSEMBLE: dict[str, Any] = {
    "ensemble": 1,
    "method": "greedy",
    "calibrated": False,
    "non_negative": True,
    "metric": "val/f1",
    "fitted_by": "accuracy",
    "candidates": 3,
    "folds": 5,
    "estimate": {"value": 0.9, "low": 0.8, "high": 0.95},
    "against": [
        {
            "value": 0.8,
            "difference": 0.1,
            "gain_low": 0.0,
            "gain_high": 0.2,
            "verdict": "better",
        }
    ],
    "members": [{"trial": 0, "weight": 0.5}, {"trial": 1, "weight": 0.5}],
    "diversity": {"disagreement": 0.1},
    "artifacts": {},
}
