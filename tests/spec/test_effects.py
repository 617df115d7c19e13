"""A setting that nothing looks at is an error that says what would look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.errors import StudyFileError
from hpo.spec import load, loads
from hpo.spec.effects import effective, text
from trainers.optim import OPTIMIZERS, that_use
from trainers.options import GIVEN, Train

HEAD = "study: s\ntrainer: image_classifier\ndata: {source: digits}\n"


def problems(tmp_path: Path, body: str, head: str = HEAD) -> list[tuple[str, str, str | None]]:
    file = tmp_path / "study.yaml"
    file.write_text(head + body)
    try:
        load(file)
    except StudyFileError as error:
        return [(p.key, p.message, p.hint) for p in error.problems]
    return []


@pytest.mark.parametrize(
    ("body", "key", "message", "hint"),
    [
        (
            "train: {optimizer: adamw, momentum: 0.5}",
            "train.momentum",
            "has no effect with train.optimizer adamw",
            "it has one with sgd, rmsprop or muon",
        ),
        (  # also where it is what would hold anyway
            "train: {momentum: 0.9}",
            "train.momentum",
            "has no effect with train.optimizer adamw",
            "it has one with sgd, rmsprop or muon",
        ),
        (
            "train: {plateau: {patience: 3}}",
            "train.plateau",
            "has no effect with train.schedule constant",
            "it has one with plateau",
        ),
        (
            "train: {schedule: cosine}\nensemble: {method: snapshot}",
            "train.schedule",
            "has no effect with ensemble.method snapshot",
            "it has one with none, bagging, boosting or stacking",
        ),
        (
            "search: {train.nesterov: [true, false]}",
            "search.train.nesterov",
            "has no effect with train.optimizer adamw",
            "it has one with sgd",
        ),
        (
            "search: {train.plateau.patience: {low: 1, high: 5}}",
            "search.train.plateau.patience",
            "has no effect with train.schedule constant",
            "it has one with plateau",
        ),
        (
            "search:\n  train.optimizer: [sgd, adamw, rmsprop]\n"
            "  train.momentum: {low: 0.5, high: 0.9}",
            "search.train.momentum",
            "has no effect with train.optimizer adamw",
            "when: {train.optimizer: [sgd, rmsprop]}",
        ),
        (
            "search:\n  train.optimizer: [sgd, adamw, adam]\n"
            "  train.momentum: {low: 0.5, high: 0.9, when: {train.optimizer: [sgd, adam]}}",
            "search.train.momentum",
            "has no effect with train.optimizer adam",
            "when: {train.optimizer: sgd}",
        ),
        (
            "model: {name: cnn, stochastic_depth: 0.1}",
            "model.stochastic_depth",
            "has no effect with model.name cnn",
            "it has one with resnet, convnext_*, efficientnet_*, swin_*, maxvit_t or timm:*",
        ),
        (
            "ensemble: {method: bagging, members: [{dropout: 0.1}, {channels: [8]}]}",
            "ensemble.members.1.channels",
            "has no effect with model.name mlp",
            "it has one with cnn or resnet",
        ),
        (
            "ensemble: {method: bagging, members: [{name: cnn, hidden: [8]}]}",
            "ensemble.members.0.hidden",
            "has no effect with model.name cnn",
            "it has one with mlp",
        ),
        (  # where the optimizer is not searched, it is the file's: adamw
            "search:\n  ensemble.method: [none, bagging]\n"
            "  train.optimizer: {choices: [sgd, rmsprop], when: {ensemble.method: bagging}}\n"
            "  train.momentum: {low: 0.5, high: 0.9}",
            "search.train.momentum",
            "has no effect with train.optimizer adamw",
            "when: {train.optimizer: [sgd, rmsprop]}",
        ),
        (
            "train: {decay_on: weights}",
            "train.decay_on",
            "has no effect with train.weight_decay 0.0",
            "it has one with a number above 0",
        ),
        (
            "train: {optimizer: sgd, nesterov: true, momentum: 0}",
            "train.nesterov",
            "has no effect with train.momentum 0.0",
            "it has one with a number above 0",
        ),
        (
            "train: {unfreeze_epoch: 3}",
            "train.unfreeze_epoch",
            "has no effect without train.freeze",
            "give train.freeze a value",
        ),
        (
            "search: {train.decoupled: [true, false]}\ntrain: {optimizer: sgd}",
            "search.train.decoupled",
            "has no effect with train.weight_decay 0.0",
            "it has one with a number above 0",
        ),
        (
            "search:\n  train.weight_decay: [0, 0.01, 0.1]\n  train.decay_on: [all, weights]",
            "search.train.decay_on",
            "has no effect with train.weight_decay 0.0",
            "when: {train.weight_decay: [0.01, 0.1]}",
        ),
        (  # of a range: where it is searched
            "search:\n  train.optimizer: [sgd, adam, adamw]\n  train.weight_decay: "
            "{low: 0, high: 0.1, when: {train.optimizer: [sgd, adam]}}\n"
            "  train.decay_on: [all, weights]",
            "search.train.decay_on",
            "has no effect with train.weight_decay 0.0",
            "when: {train.optimizer: [sgd, adam]}",
        ),
        (
            "train: {augment: {hue: 0.1}}",
            "train.augment.hue",
            "has no effect with data.channels 1",
            "it has one with 3 or null",
        ),
        (
            "train: {epochs: 3}",
            "data.validation",
            "has no effect with data.folds 5",
            "it has one without data.folds",
        ),
    ],
)
def test_a_setting_without_effect_is_an_error(
    tmp_path: Path, body: str, key: str, message: str, hint: str
) -> None:
    data = {
        "train.augment.hue": "channels: 1",
        "data.validation": "folds: 5, validation: 0.1",
    }
    head = HEAD.replace("digits", f"digits, {data[key]}") if key in data else HEAD
    assert problems(tmp_path, body, head) == [(key, message, hint)]


@pytest.mark.parametrize(
    "body",
    [
        "train: {optimizer: sgd, momentum: 0.5, nesterov: true}",
        "train: {momentum: 0.5}\nsearch: {train.optimizer: [sgd, adamw]}",
        "search:\n  train.optimizer: [sgd, adamw]\n"
        "  train.momentum: {low: 0.5, high: 0.9, when: {train.optimizer: sgd}}",
        "search:\n  train.optimizer: [sgd, rmsprop]\n  train.momentum: {low: 0.5, high: 0.9}",
        "train: {schedule: plateau, plateau: {patience: 3}, gamma: 0.5}",
        "train: {weight_decay: 0.1, decay_on: weights, freeze: 1, unfreeze_epoch: 3}",
        "train: {augment: {hue: 0.1}}",
        "train: {decay_on: weights}\nensemble: {method: bagging, members: [{weight_decay: 0.1}]}",
        "search:\n  train.weight_decay: {low: 0, high: 0.1}\n  train.decay_on: [all, weights]",
        "search:\n  train.optimizer: [sgd, adamw]\n"
        "  train.weight_decay: {low: 0, high: 0.1, when: {train.optimizer: sgd}}\n"
        "  train.decay_on: {choices: [all, weights], when: {train.optimizer: sgd}}",
    ],
)
def test_a_setting_that_has_an_effect_in_some_trials_is_none(tmp_path: Path, body: str) -> None:
    assert problems(tmp_path, body) == []


def test_of_the_user_s_own_trainer_nothing_is_known(tmp_path: Path) -> None:
    head = "study: s\ntrainer: mine:train\nobjective: {metric: loss, goal: minimize}\n"
    assert problems(tmp_path, "train: {optimizer: adamw, momentum: 0.5}", head) == []


def test_what_a_study_is_said_to_be_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(HEAD + "train: {optimizer: sgd, momentum: 0.5}")
    spec = load(file)
    assert "momentum" in effective(spec, "train")
    assert effective(spec, "train").keys().isdisjoint({"beta1", "beta2", "plateau", "alpha"})
    file.write_text(spec.resolved())
    assert load(file).train == spec.train
    every: dict[str, Any] = spec.config({})["train"]
    old = f"{HEAD}train: {{optimizer: sgd, beta1: {every['beta1']}}}"  # of an earlier version
    assert loads(old.encode(), file, recorded=True).train["beta1"] == 0.9


def test_what_optimizers_use_stands_in_one_table() -> None:
    for name, field in Train.model_fields.items():
        extra = field.json_schema_extra
        needs: Any = extra.get("needs", {}) if isinstance(extra, dict) else {}
        if "train.optimizer" in needs:
            assert needs["train.optimizer"] == that_use(name)
    assert {name for kind in OPTIMIZERS.values() for name in kind.settings} <= set(
        Train.model_fields
    )


def test_the_reference_says_what_a_setting_needs() -> None:
    assert (
        text({"train.optimizer": ["sgd", "muon"]})
        == "Only with `train.optimizer` `sgd` or `muon`."
    )
    assert text({"train.freeze": [GIVEN]}) == "Only with `train.freeze` given."
    assert text({"data.channels": [3, None]}) == "Only with `data.channels` `3` or absent."
