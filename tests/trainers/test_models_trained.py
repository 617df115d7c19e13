"""Every model goes with folds and ensembles, and with being stopped and resumed."""

from __future__ import annotations

from typing import Any

import pytest
from recording_trial import RecordingTrial, sections

from trainers.contract import StopTraining
from trainers.data import Dataset, load
from trainers.loop import fit
from trainers.registry import prepare

TABLES: list[dict[str, Any]] = [
    {"name": "residual_mlp", "width": 8, "blocks": 1},
    {"name": "embedding_mlp", "embedding": 4, "frequencies": 4, "hidden": [8]},
]
IMAGES: list[dict[str, Any]] = [
    {"name": "resnet", "channels": [4, 4], "blocks": 1, "stochastic_depth": 0.5},
    {"name": "mobilenet_v3_small"},
]
METHODS: list[dict[str, Any]] = [
    {"method": "none"},
    {"method": "bagging", "size": 2},
    {"method": "boosting", "size": 2},
    {"method": "stacking", "size": 2, "inner_folds": 2},
    {"method": "snapshot", "size": 2, "average": True},
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    cache = tmp_path_factory.mktemp("cache")
    digits = {"source": "digits", "folds": 2, "test": 0.95}
    wine = {"source": "wine", "folds": 2}
    return {
        "image_classifier": load(sections("image_classifier", digits)["data"], cache),
        "tabular": load(sections("tabular", wine)["data"], cache),
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["method"])
@pytest.mark.parametrize(
    ("trainer", "model"),
    [
        *(("tabular", model) for model in TABLES),
        *(pytest.param("image_classifier", m, marks=pytest.mark.slow) for m in IMAGES),
    ],
    ids=lambda given: given["name"] if isinstance(given, dict) else "",
)
def test_a_model_goes_with_folds_and_ensembles(
    loaded: dict[str, Dataset], trainer: str, model: dict[str, Any], method: dict[str, Any]
) -> None:
    data = loaded[trainer]
    source = {"source": data.summary["source"], "folds": 2}
    train = {"epochs": 2, "batch_size": 32}
    params = sections(trainer, source, model, train, method)
    prepare(trainer, params, data)
    whole = RecordingTrial(params, data)
    fit(whole)
    assert 0 < whole.last["val/loss"] < 20
    assert whole.saved is not None
    first = RecordingTrial(params, data, stop_after=1)
    with pytest.raises(StopTraining):
        fit(first)
    again = RecordingTrial(params, data, saved=first.saved)
    fit(again)
    assert again.epochs[2] == whole.epochs[2]
