"""Whole studies on a GPU, as a user runs them, with MLflow."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpo.paths import Home
from hpo.tracking import outbox

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DIGITS = """
study: digits
trainer: image_classifier
data: {source: digits}
model: {hidden: [64]}
train: {epochs: 100, batch_size: 32}
search:
  train.lr: {low: 1e-4, high: 1e-1, log: true}
objective: {metric: val/f1_macro, goal: maximize}
sampler: random
device: cuda
budget: {trials: 6}
"""
IMAGES = """
study: images
trainer: image_classifier
data: {source: images}
model: {name: resnet18}
train: {epochs: 2, batch_size: 16, precision: bf16, augment: {flip: 0.5, crop: 2}}
search:
  train.lr: {low: 1e-4, high: 1e-2, log: true}
objective: {metric: val/accuracy, goal: maximize}
sampler: random
device: cuda
budget: {trials: 3}
"""


def run(study: str, folder: Path, *options: str) -> Any:
    file = folder / "study.yaml"
    file.write_text(study)
    command = [sys.executable, "-m", "hpo.cli", "run", str(file), "--home", str(folder)]
    done = subprocess.run(
        [*command, "--json", *options], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def records(kind: str, folder: Path, study: str) -> list[dict[str, Any]]:
    read = outbox.read(Home(folder).study(study).outbox)
    return [record for record, _ in read if record["kind"] == kind]


def in_mlflow(folder: Path, key: str) -> list[float]:
    store = sqlite3.connect(folder / "mlruns" / "mlflow.db")
    try:
        rows = store.execute("select value from metrics where key = ?", (key,)).fetchall()
    finally:
        store.close()
    return [value for (value,) in rows]


def test_two_workers_share_a_gpu_and_say_what_they_use(tmp_path: Path) -> None:
    half = ("--set", "gpus_per_trial=0.5", "--set", "lanes=off")
    assert run(DIGITS, tmp_path, *half)["state"] == "complete"
    ends = records("end", tmp_path, "digits")
    assert [end["state"] for end in ends] == ["complete"] * 6
    assert all(0 < end["peak_memory_mb"] < 2000 for end in ends)
    assert {trial["worker"] for trial in records("trial", tmp_path, "digits")} == {0, 1}
    assert len(in_mlflow(tmp_path, "peak_memory_mb")) == 6
    assert max(in_mlflow(tmp_path, "system/gpu_0_memory_usage_megabytes")) > 1
    assert max(in_mlflow(tmp_path, "system/gpu_0_utilization_percentage")) > 0


def test_trials_in_lanes_have_the_numbers_that_they_have_alone(tmp_path: Path) -> None:
    values = []
    for lanes in ("off", "6"):
        folder = tmp_path / lanes
        folder.mkdir()
        run(DIGITS, folder, "--set", f"lanes={lanes}", "--set", "train.epochs=4")
        epochs = records("epoch", folder, "digits")
        values.append({(each["number"], each["epoch"]): each["metrics"] for each in epochs})
    assert values[0] == values[1]


def test_images_are_learned_in_halves(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label, name in enumerate(("blue", "red")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    assert run(IMAGES, tmp_path)["state"] == "complete"
    assert {end["state"] for end in records("end", tmp_path, "images")} == {"complete"}
    assert len(in_mlflow(tmp_path, "val/accuracy")) == 6
