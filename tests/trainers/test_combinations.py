"""Settings drawn at random: a resumed trial is one that was not interrupted, and company changes
nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from recording_trial import RecordingTrial, sections

from trainers.contract import Epoch, Trial
from trainers.data import Dataset, load
from trainers.loop import fit_together
from trainers.registry import stack_key
from trainers.together import PER_LANE

SEEDS = 12
ROWS = 100
# Of each line one value, where the lot falls on it; else it is as it is by default.
TRAIN: dict[str, Sequence[Any]] = {
    "optimizer": ["sgd", "rmsprop", "adagrad", "adam", "adamw", "nadam", "radam", "muon"],
    "momentum": [0.0, 0.05],
    "nesterov": [True],
    "weight_decay": [0.1],
    "decoupled": [True],
    "decay_on": ["weights"],
    "l1": [0.01],
    "clip_value": [0.01],
    "loss": ["focal", "cross_entropy"],
    "label_smoothing": [0.1],
    "class_weights": ["balanced"],
    "sampling": ["balanced"],
    "ema": [0.5, 0.9],
    "swa": [0.1, 0.4],
    "schedule": ["one_cycle", "plateau", "cosine_restarts", "step"],
    "plateau": [{"patience": 0}, {"patience": 0, "metric": "val/mcc"}],
    "warmup": [1.5],
    "batch_growth": [{"epochs": [2], "factor": 2}],
    "early_stopping": [{"patience": 1, "min_delta": 1.0, "metric": "val/mcc"}],
    "lr_backbone": [0.001],
    "precision": ["bf16"],
    "grad_norm": [True],
    "metrics": [["f1", "brier"]],
}
ENSEMBLES: list[dict[str, Any]] = [
    {},
    {"method": "bagging", "combine": "weighted"},
    {"method": "boosting"},
    {"method": "boosting", "boosting": "samme"},
    {"method": "stacking", "inner_folds": 2},
    {"method": "snapshot", "average": True},
]


# The same for rows that can have several labels.
OF_LABELS: dict[str, Sequence[Any]] = {
    **{name: some for name, some in TRAIN.items() if name != "sampling"},
    "loss": ["bce"],
    "plateau": [{"patience": 0}, {"patience": 0, "metric": "val/f1_micro"}],
    "early_stopping": [{"patience": 1, "min_delta": 1.0, "metric": "val/f1_micro"}],
}


@dataclass(frozen=True)
class Kind:
    """What is trained on, and what may be set for it."""

    data: dict[str, Any]
    loaded: Dataset
    train: dict[str, Sequence[Any]]
    ensembles: list[dict[str, Any]]


@pytest.fixture(scope="module", params=["classes", "labels"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "classes":
        data: dict[str, Any] = {"source": "wine"}
    else:
        inputs = np.random.default_rng(0).normal(size=(ROWS, 3))
        frame = pd.DataFrame(inputs, columns=["a", "b", "c"])
        frame = frame.assign(cat=(frame.a > 0).astype(int), dog=(frame.b > 1).astype(int))
        frame.to_csv(folder / "labels.csv", index=False)
        data = {"source": str(folder / "labels.csv"), "target": ["cat", "dog"]}
    loaded = load(sections("tabular", data)["data"], folder)
    if request.param == "classes":
        return Kind(data, loaded, TRAIN, ENSEMBLES)
    fitting = [own for own in ENSEMBLES if own.get("boosting") != "samme"]
    return Kind(data, loaded, OF_LABELS, [e for e in fitting if e.get("method") != "stacking"])


def drawn(kind: Kind, lot: random.Random, shared: dict[str, Any] | None = None) -> Any:
    """All sections of a trial.

    Args:
        shared: Settings of ``train`` that it has to share, to be trained together with another.
    """
    train = {name: lot.choice(some) for name, some in kind.train.items() if lot.random() < 0.3}
    train |= {"epochs": lot.choice([2, 3, 4]), "lr": lot.choice([0.01, 0.03])}
    if shared is not None:
        train = {name: own for name, own in train.items() if f"train.{name}" in PER_LANE} | shared
    if "ema" in train:
        train.pop("swa", None)  # one average
    model = {"hidden": [8], "dropout": lot.choice([0.0, 0.3])}
    ensemble = {"size": 2, **lot.choice(kind.ensembles)}
    return sections("tabular", kind.data, model, train, ensemble)


class Company:
    """`trainers.contract.Trials` that begin at once."""

    def __init__(self, trials: Sequence[RecordingTrial], stop_after: int | None) -> None:
        self._waiting, self._stop_after = [*trials], stop_after

    def begin(self) -> Sequence[Trial]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> list[int]:
        for said in epochs:
            trial: Any = said.trial
            assert said.state is not None
            trial.save(said.state())
            trial.report(said.epoch, said.metrics, said.predictions)
        return [e.trial.number for e in epochs if e.last or e.epoch == self._stop_after]

    def finish(self, trial: Trial) -> None:
        pass

    def fail(self, trial: Trial, error: Exception) -> None:
        raise error


def trained(
    data: Dataset,
    params: Sequence[Any],
    stop_after: int | None = None,
    saved: bytes | None = None,
) -> RecordingTrial:
    """The first one of several trials that were trained together."""
    trials = [RecordingTrial(own, data, seed=number) for number, own in enumerate(params)]
    for number, trial in enumerate(trials):
        trial.number = number
    trials[0].saved = saved
    fit_together(Company(trials, stop_after))
    return trials[0]


def assert_the_same(one: RecordingTrial, other: RecordingTrial, since: int = 1) -> None:
    """In all that is reported from an epoch on, to the last bit."""
    assert {e: said for e, said in one.epochs.items() if e >= since} == other.epochs
    assert one.predictions is not None
    assert other.predictions is not None
    assert np.array_equal(one.predictions.output, other.predictions.output)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_resumed_and_in_company_it_is_the_same(kind: Kind, seed: int) -> None:
    lot = random.Random(seed)
    params, data = drawn(kind, lot), kind.loaded
    whole = trained(data, [params])
    first = trained(data, [params], stop_after=1)
    if max(whole.epochs) > 1:
        assert_the_same(whole, trained(data, [params], saved=first.saved), since=2)
    key = stack_key("tabular", params)
    if key is not None:
        shared = {k: v for k, v in params["train"].items() if f"train.{k}" not in PER_LANE}
        others = [drawn(kind, lot, shared) for _ in range(2)]
        assert {stack_key("tabular", own) for own in others} == {key}
        assert_the_same(whole, trained(data, [params, *others]))
