"""A trial in this process, and small data sets written to disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recording_trial import RecordingTrial, sections

from trainers.contract import StopTraining
from trainers.data import load
from trainers.registry import prepare, resolve


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


Run = Callable[..., RecordingTrial]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Prepare and train a trial: ``run(trainer, data, model, train, **of_the_trial)``."""

    def train(
        trainer: str,
        data: Mapping[str, Any],
        model: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | None = None,
        ensemble: Mapping[str, Any] | None = None,
        **trial: Any,
    ) -> RecordingTrial:
        params = sections(trainer, data, model, train, ensemble)
        dataset = load(params["data"], tmp_path / "cache")
        prepare(trainer, params, dataset)
        recording = RecordingTrial(params, dataset, **trial)
        try:
            resolve(trainer, tmp_path)(recording)
        except StopTraining:
            assert trial["stop_after"] == max(recording.epochs)
        return recording

    return train


@pytest.fixture
def run_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Train a trial with a user's own function: ``run_own(name, folder, params)``."""

    def train(name: str, folder: Path, params: Mapping[str, Mapping[str, Any]]) -> RecordingTrial:
        monkeypatch.setattr(sys, "path", list(sys.path))
        recording = RecordingTrial(params, load(params["data"], tmp_path / "cache"))
        resolve(name, folder)(recording)
        return recording

    return train


Folder = Callable[..., Path]


@pytest.fixture
def image_folder(tmp_path: Path) -> Folder:
    """Write ``ROOT/CLASS/N.png``: class k is bright in channel k, darker elsewhere, with noise."""

    def write(
        root: str = "images",
        classes: tuple[str, ...] = ("blue", "green", "red"),
        each: int = 10,
        size: tuple[int, int] = (8, 8),
        mode: str = "RGB",
        suffix: str = "png",
        seed: int = 0,
    ) -> Path:
        random = np.random.default_rng(seed)
        for label, name in enumerate(classes):
            folder = tmp_path / root / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(each):
                pixels = random.integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
                pixels[:, :, label % 3] += 100
                Image.fromarray(pixels).convert(mode).save(folder / f"{number:03}.{suffix}")
        return tmp_path / root

    return write
