"""Trials start from weights: of a file, of torchvision, or of a model in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18
from workbench import Workbench

from hpo import spec, starting_weights
from hpo.errors import StudyFileError
from hpo.launch import opened
from hpo.paths import Home
from hpo.progress import Silent
from trainers.models import build
from trainers.options import ImageModel

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow and what it is made of

STUDIES = Path(__file__).parents[1] / "studies"

STUDY = """
study: s
trainer: image_classifier
data: {source: digits}
model: {hidden: [4], weights: WEIGHTS}
train: {epochs: 1, batch_size: 256, lr: 1e-9}
search: {train.l1: [0.0, 1e-9]}
objective: {metric: val/loss, goal: minimize}
executor: inline
workers: 1
device: cpu
budget: {trials: 1}
"""


@pytest.fixture
def own() -> dict[str, Any]:
    torch.manual_seed(5)
    model = build(ImageModel(hidden=[4]).model_dump(), (1, 8, 8), 10)
    return model.state_dict()


@pytest.fixture
def logged(bench: Workbench, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a run's folder in MLflow that holds them."""
    import mlflow

    bench.home.mlruns.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", bench.home.tracking_uri)
    client = mlflow.MlflowClient(bench.home.tracking_uri)
    experiment = client.create_experiment("e", str(bench.home.artifacts))
    run_id = client.create_run(experiment).info.run_id
    torch.save(own, bench.folder / "w.pt")
    client.log_artifact(run_id, str(bench.folder / "w.pt"), "model")
    return f"runs:/{run_id}/model"


def test_a_trial_starts_from_a_model_in_mlflow(
    bench: Workbench, logged: str, own: dict[str, Any]
) -> None:
    bench.file.write_text(STUDY.replace("WEIGHTS", logged))
    assert bench.run().state == "complete"
    kept = torch.load(bench.paths.model(0), weights_only=True)["folds"][0]["members"][0]
    for key, tensor in own.items():
        torch.testing.assert_close(kept["weights"][key], tensor, rtol=0, atol=1e-6)
    assert bench.load().identity()["model.weights"] == logged


def test_it_is_fetched_once(bench: Workbench, logged: str) -> None:
    bench.file.write_text(STUDY.replace("WEIGHTS", logged))
    for uri in (bench.home.tracking_uri, "sqlite:////nowhere/at/all.db"):
        starting_weights.fetch(bench.load(), bench.home.data_cache, uri)
    sections = {"model": {"weights": logged}}
    found = starting_weights.local("image_classifier", sections, bench.home.data_cache)
    assert Path(found["model"]["weights"]).read_bytes() == (bench.folder / "w.pt").read_bytes()
    assert starting_weights.local("own:train", sections, bench.home.data_cache) is sections


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda address: address.replace("model", "nothing"), "cannot be fetched from MLflow"),
        (lambda address: "models:/flowers@best", "is not always the same model"),
        (lambda address: "models:/flowers/3", "cannot be fetched from MLflow"),
    ],
)
def test_what_mlflow_has_not_is_a_mistake_in_the_study_file(
    bench: Workbench, logged: str, change: Any, words: str
) -> None:
    bench.file.write_text(STUDY.replace("WEIGHTS", change(logged)))
    with pytest.raises(StudyFileError, match=words) as caught:
        starting_weights.fetch(bench.load(), bench.home.data_cache, bench.home.tracking_uri)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == ("model.weights", 5)


@pytest.mark.slow
def test_the_fine_tuning_example_runs(tmp_path: Path) -> None:
    """On generated photos, from weights drawn at random: the real ones cannot be had in a test."""
    random = np.random.default_rng(0)
    for label in ("dark", "light"):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 100, (40, 50, 3), dtype=np.uint8)
            pixels += 150 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pt")
    study = spec.load(
        STUDIES / "finetune_resnet18.yaml",
        {
            **{"data.source": str(tmp_path / "photos"), "data.size": 32, "train.batch_size": 8},
            **{"model.weights": str(tmp_path / "resnet18.pt"), "train.epochs": 5},
            **{"executor": "inline", "workers": 1, "device": "cpu", "budget.trials": 1},
        },
    )
    with opened(study, Home(tmp_path), Silent()) as orchestrator:
        ended = orchestrator.run()
    assert ended.state == "complete"
    kept = torch.load(Home(tmp_path).study(study.study).model(0), weights_only=True)
    assert kept["folds"][0]["members"][0]["weights"]["fc.weight"].shape == (2, 512)
