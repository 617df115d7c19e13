"""The shipped examples of one's own code: each learns, and goes on where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from recording_trial import RecordingTrial

from trainers.contract import StopTraining
from trainers.data import load
from trainers.registry import resolve

STUDIES = Path(__file__).parents[2] / "studies"
MLP = {"hidden": 32, "lr": 0.05}
EXAMPLES = {
    "own_function": ({}, MLP, 0.9),
    "on_lightning": ({}, MLP, 0.9),
    "on_huggingface": ({"layers": 1, "width": 32}, {"lr": 0.003}, 0.3),
}
NEEDS = {"on_lightning": "lightning", "on_huggingface": "transformers"}


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def train(example: str, epochs: int, **of_trial: Any) -> RecordingTrial:
        if example in NEEDS:
            pytest.importorskip(NEEDS[example])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.chdir(tmp_path)
        model, options, _ = EXAMPLES[example]
        data = {"source": "digits"}
        params = {"data": data, "model": model, "train": {**options, "epochs": epochs}}
        trial = RecordingTrial(params, load(data, tmp_path / "cache"), **of_trial)
        try:
            resolve(f"{example}:train", STUDIES)(trial)
        except StopTraining:
            assert of_trial["stop_after"] == max(trial.epochs)
        assert not [path.name for path in tmp_path.iterdir() if path.name != "cache"]
        return trial

    return train


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_learns_and_goes_on_where_it_stopped(train: Any, example: str) -> None:
    stopped = train(example, 3, stop_after=2)
    assert list(stopped.epochs) == [1, 2]
    resumed = train(example, 3, saved=stopped.saved)
    assert list(resumed.epochs) == [3]
    assert resumed.last["train/loss"] < stopped.epochs[1]["train/loss"]
    assert resumed.last["val/accuracy"] > EXAMPLES[example][2]
