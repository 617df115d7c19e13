"""The command on real data, as a user would run it, with MLflow and the stores looked into."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import postgres
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hpo import results

pytestmark = pytest.mark.slow
tables_made = pytest.mark.usefixtures("tables_made")  # but for the first, which makes them itself

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


@tables_made
@pytest.mark.parametrize(
    ("study", "metric", "at_least"),
    [("tabular_classification", "val/roc_auc", 0.98), ("regression", "val/r2", 0.4)],
)
def test_a_table_is_searched(tmp_path: Path, study: str, metric: str, at_least: float) -> None:
    status = run(ROOT / "studies" / f"{study}.yaml", tmp_path, "--set", "budget.trials=12")
    assert status["best"]["metrics"][metric] > at_least
    assert all(math.isfinite(value) for value in status["best"]["metrics"].values())
    assert_in_mlflow(tmp_path, study, 12)


@tables_made
@pytest.mark.parametrize(
    ("study", "needs", "at_least"),
    [
        ("own_function", None, 0.85),
        ("own_command", None, 0.85),
        ("lightning", "lightning", 0.85),
        ("huggingface", "transformers", 0.2),
    ],
)
def test_the_user_s_own_code_is_searched(
    tmp_path: Path, study: str, needs: str | None, at_least: float
) -> None:
    if needs is not None:
        pytest.importorskip(needs)
    options = ("--set", "budget.trials=3", "--set", "pruner=none")
    status = run(ROOT / "studies" / f"{study}.yaml", tmp_path, *options)
    assert status["trials"]["complete"] == 3
    assert status["best"]["value"] > at_least


@tables_made
def test_what_is_better_and_what_is_faster_are_a_front(tmp_path: Path) -> None:
    options = ("--set", "budget.trials=2", "--set", "train.epochs=1", "--set", "model.blocks=1")
    status = run(ROOT / "studies" / "multi_objective.yaml", tmp_path, *options)
    front = sorted(tuple(trial["values"].values()) for trial in status["pareto"])
    assert front
    assert [ms for _, ms in front] == sorted(ms for _, ms in front)  # what is better takes longer


@tables_made
def test_a_network_is_compared_with_an_estimator_of_scikit_learn(tmp_path: Path) -> None:
    options = ("--set", "budget.trials=6", "--set", "sampler=random", "--set", "train.epochs=5")
    status = run(ROOT / "studies" / "baseline.yaml", tmp_path, *options)
    assert status["trials"]["complete"] == 6
    found = results.trials("baseline", tmp_path)
    assert found["params.model.name"].nunique() == 2
    assert status["best"]["value"] > 0.98


@tables_made
def test_texts_are_searched_and_new_ones_predicted(tmp_path: Path) -> None:
    options = ("--set", "budget.trials=3", "--set", "train.epochs=6", "--set", "train.lr=0.02")
    status = run(ROOT / "studies" / "text.yaml", tmp_path, *options, "--set", "pruner=none")
    assert status["trials"]["complete"] == 3
    assert status["best"]["value"] > 0.7  # of 4 classes
    assert_in_mlflow(tmp_path, "text", 3)
    shown = pq.read_table(tmp_path / "studies" / "text" / "examples.parquet").to_pylist()
    assert len(shown) == 96
    assert {"id", "message", "topic"} <= set(shown[0])
    new, said = tmp_path / "new.csv", tmp_path / "said.csv"
    new.write_text("message\nThe tracking number for my parcel does not work.\n")
    command = [sys.executable, "-m", "hpo.cli", "predict", "text", str(new), "-o", str(said)]
    subprocess.run([*command, "--home", str(tmp_path)], check=True, timeout=120)
    assert said.read_text().splitlines()[1].startswith("0,delivery,")


@tables_made
def test_a_folder_of_photos_is_searched_with_augmentation(tmp_path: Path) -> None:
    """Stripes of three directions, in any colours: crops and flips leave what they are."""
    random, place = np.random.default_rng(0), np.arange(16)
    waves = {
        "across": np.broadcast_to(place[:, None], (16, 16)),
        "down": np.broadcast_to(place[None, :], (16, 16)),
        "both": np.add.outer(place, place),
    }
    for name, wave in waves.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            stripes = np.sin(wave * 1.5 + random.uniform(0, 6))[..., None] * random.uniform(30, 90)
            pixels = 128 + stripes * random.choice([-1, 1], 3) + random.normal(0, 20, (16, 16, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(tmp_path / "photos" / name / f"{number}.png")
    options = ("--set", "budget.trials=3", "--set", "train.epochs=4", "--set", "pruner=none")
    small = ("--set", "model.channels=[8, 16]", "--set", "train.batch_size=16")
    photos = {"PHOTOS": str(tmp_path / "photos")}
    status = run(ROOT / "studies" / "image_folder.yaml", tmp_path, *options, *small, env=photos)
    assert status["trials"]["complete"] == 3
    assert status["best"]["value"] > 0.5  # of 3 classes
    assert_in_mlflow(tmp_path, "image_folder", 3)


@tables_made
@pytest.mark.skipif(not CIFAR.is_file(), reason="the CIFAR-10 sample is not beside the project")
def test_a_folder_of_images_is_searched(tmp_path: Path) -> None:
    with tarfile.open(CIFAR) as archive:
        archive.extractall(tmp_path / "images", filter="data")
    (folder,) = (tmp_path / "images").iterdir()
    file = tmp_path / "cifar.yaml"
    file.write_text(
        "study: cifar\n"
        "trainer: image_classifier\n"
        f"data: {{source: {folder.relative_to(tmp_path)}}}\n"
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


@tables_made
def test_a_study_in_postgresql_is_stopped_and_goes_on(
    tmp_path: Path, database_server: postgres.Server
) -> None:
    import optuna

    file = ROOT / "studies" / "quickstart.yaml"
    options = ("--set", "storage=${STUDY_DB}", "--set", "train.epochs=3")
    address = database_server.new_database()
    environment = {"STUDY_DB": address}
    run(file, tmp_path, *options, "--set", "budget.trials=5", env=environment)
    status = run(file, tmp_path, *options, "--set", "budget.trials=9", env=environment)
    assert sum(status["trials"].values()) == 9
    storage = optuna.storages.RDBStorage(address)
    trials = optuna.load_study(storage=storage, study_name="quickstart").trials
    storage.engine.dispose()
    assert len(trials) == 9
    assert all(t.state.is_finished() for t in trials)
    resolved = (tmp_path / "studies" / "quickstart" / "study.yaml").read_text()
    assert "STUDY_DB" in resolved
    assert address not in resolved
