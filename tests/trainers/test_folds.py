"""Folds, groups and repeats: each model sees its own training rows only, and is itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recording_trial import RecordingTrial, sections

from trainers import ensembles
from trainers.contract import PARTS, DataError
from trainers.data import Dataset, load
from trainers.ensembles.bagging import bootstrap
from trainers.ensembles.members import Part
from trainers.loop import fit
from trainers.seeds import mixed

WINE = {"source": "wine", "folds": 3}
FAST = {"epochs": 3, "lr": 0.01, "batch_size": 16}
SNAPSHOTS = {"method": "snapshot", "size": 2}


def trained(params: Any, data: Dataset, **trial: Any) -> RecordingTrial:
    recording = RecordingTrial(params, data, **trial)
    fit(recording)
    return recording


def only(part: str, epochs: dict[int, dict[str, float]]) -> list[dict[str, float]]:
    """A part's validation metrics of each epoch, under the names that a whole trial's have."""
    return [
        {name.removeprefix(part): v for name, v in said.items() if name.startswith(f"{part}val/")}
        for said in epochs.values()
    ]


# -- folds


def test_columns_are_standardized_by_a_fold_s_training_rows() -> None:
    data = load({"source": "breast_cancer", "folds": 4, "fold_repeats": 2}, Path())
    assert len(data.splits) == 8
    for split in data.splits:
        of_training = split.inputs[split.train].double()
        assert of_training.mean(0).abs().max() < 1e-5
        assert (of_training.std(0, correction=0) - 1).abs().max() < 1e-5
        assert split.inputs[split.validation].double().mean(0).abs().max() > 0.01


def test_what_validates_a_fold_does_not_change_how_it_is_encoded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "number": random.normal(size=90),
            "category": random.choice(["a", "b", "c"], 90),
            "y": np.tile(["no", "yes"], 45),
        }
    )
    options = {"source": str(tmp_path / "t.csv"), "target": "y", "folds": 3}
    frame.to_csv(options["source"], index=False)
    before = load(options, tmp_path)
    for place, split in enumerate(before.splits):
        changed = frame.copy()
        validated = before.ids[split.validation].numpy()
        changed.loc[validated, "number"] = 1e6
        changed.loc[validated, "category"] = "unheard of"
        changed.to_csv(options["source"], index=False)
        after = load(options, tmp_path).splits[place]
        assert torch.equal(after.train, split.train)
        assert torch.equal(after.inputs[after.train], split.inputs[split.train])


def test_images_are_standardized_by_a_fold_s_training_rows(
    image_folder: Any, tmp_path: Path
) -> None:
    folder = image_folder(each=12)
    data = load({"source": str(folder), "folds": 3}, tmp_path / "cache")
    means = []
    for split in data.splits:
        assert split.mean is not None
        pixels = split.inputs[split.train].double()
        assert split.mean.flatten().tolist() == pytest.approx(pixels.mean((0, 2, 3)).tolist())
        means.append(split.mean)
    assert not torch.equal(means[0], means[1])


@pytest.mark.parametrize("ensemble", [{}, SNAPSHOTS], ids=["model", "snapshots"])
def test_a_fold_is_the_training_on_its_split(ensemble: dict[str, Any], tmp_path: Path) -> None:
    params = sections("tabular", WINE, {"dropout": 0.2}, FAST, ensemble)
    data = load(params["data"], tmp_path)
    together = trained(params, data).epochs
    alone = trained(params, replace(data, splits=data.splits[:1], _elsewhere={})).epochs
    assert only("fold/1/", together) == only("", alone)
    assert not any(name.startswith((*PARTS, "fold_std/")) for name in alone[1])
    two = trained(params, replace(data, splits=data.splits[:2], _elsewhere={})).epochs
    assert only("fold/2/", together) == only("fold/2/", two)


def test_the_value_is_the_mean_over_folds_with_its_spread(run: Any) -> None:
    for said in run("tabular", WINE, {}, FAST).epochs.values():
        for name in ("val/loss", "val/accuracy"):
            folds = [said[f"fold/{fold}/{name}"] for fold in (1, 2, 3)]
            assert said[name] == pytest.approx(np.mean(folds))
            spread = said[name.replace("val/", "fold_std/")]
            assert spread == pytest.approx(np.std(folds, ddof=1))


# -- repetitions of folds


def test_folds_that_are_drawn_again_are_others(run: Any) -> None:
    again = run("tabular", {**WINE, "fold_repeats": 3}, {}, FAST)
    once = run("tabular", WINE, {}, FAST)
    for fold in (1, 2, 3):
        assert only(f"fold/{fold}/", again.epochs) == only(f"fold/{fold}/", once.epochs)
    parts = {tuple(split.validation.tolist()) for split in again.data.splits}
    assert len(parts) == 9
    last = again.last
    assert last["val/loss"] == pytest.approx(
        np.mean([last[f"fold/{fold}/val/loss"] for fold in range(1, 10)])
    )
    # Each row is predicted once, by the first repetition: what the value speaks of is one model.
    assert np.array_equal(again.predictions.ids, once.predictions.ids)
    assert np.array_equal(again.predictions.output, once.predictions.output)


# -- groups


@pytest.fixture
def patients(tmp_path: Path) -> dict[str, Any]:
    """40 patients with 10 rows each, alike within a patient; whether one is ill is chance."""
    random = np.random.default_rng(3)
    patient = np.repeat(np.arange(40), 10)
    ill = random.permutation(np.arange(40) % 2)
    measured = random.normal(size=(40, 6))[patient] + 0.05 * random.normal(size=(400, 6))
    frame = pd.DataFrame(measured, columns=[f"x{i}" for i in range(6)])
    frame["patient"] = [f"P{number}" for number in patient]
    frame["ill"] = np.where(ill[patient] == 1, "yes", "no")
    path = tmp_path / "patients.csv"
    frame.sample(frac=1, random_state=0).to_csv(path, index=False)
    return {"source": str(path), "target": "ill", "ignore": ["patient"]}


@pytest.mark.parametrize("split", [{"folds": 4}, {"validation": 0.25}], ids=["folds", "one"])
def test_groups_keep_what_only_their_own_rows_tell_out(
    run: Any, patients: dict[str, Any], split: dict[str, Any]
) -> None:
    model, train = {"hidden": [64]}, {"epochs": 30, "lr": 0.01}
    leaking = run("tabular", {**patients, **split}, model, train).last
    assert leaking["val/accuracy"] > 0.9
    grouped = run("tabular", {**patients, **split, "group": "patient"}, model, train)
    assert 0.2 < grouped.last["val/accuracy"] < 0.75
    table = pd.read_csv(patients["source"])
    for part in grouped.data.splits:
        train_ids, validation_ids = (
            grouped.data.ids[rows].numpy() for rows in (part.train, part.validation)
        )
        sides = [set(table["patient"][ids]) for ids in (train_ids, validation_ids)]
        assert not sides[0] & sides[1]
    assert grouped.data.shape == (6,)  # the patient is not learned from
    said = grouped.predictions
    assert said is not None
    assert said.groups is not None
    numbers = pd.Series(said.groups).groupby(table["patient"][said.ids].to_numpy()).nunique()
    assert (numbers == 1).all()
    assert len(set(said.groups.tolist())) == len(numbers)


@pytest.mark.parametrize(
    ("options", "key", "words", "hint"),
    [
        ({"group": "pateint"}, "data.group", "no column 'pateint'", "did you mean 'patient'"),
        ({"group": "ill"}, "data.group", "'ill' is the target", None),
        ({"group": "clinic"}, "data.group", "10 rows have no value in 'clinic'", "fill"),
        ({"group": "ward", "folds": 5}, "data.folds", "only 2 groups", "folds: 2"),
        ({"group": "country"}, "data.group", "too few groups", None),
    ],
)
def test_groups_that_do_not_do_are_refused(
    patients: dict[str, Any], options: dict[str, Any], key: str, words: str, hint: str | None
) -> None:
    table = pd.read_csv(patients["source"])
    table["clinic"] = np.where(table["patient"] == "P7", None, "main")
    table["ward"] = np.where(table["patient"] < "P2", "a", np.where(table.index % 2, "b", "c"))
    table["country"] = "one"
    table.to_csv(patients["source"], index=False)
    with pytest.raises(DataError, match=words) as caught:
        load({**patients, **options}, Path())
    assert caught.value.key == key
    assert (hint or "") in (caught.value.hint or "")


@pytest.mark.parametrize(
    "ensemble",
    [
        {"method": "stacking", "size": 2, "inner_folds": 4},
        {"method": "bagging", "size": 3, "combine": "weighted"},
        {"method": "bagging", "size": 3, "replacement": False, "bootstrap_fraction": 0.5},
        {"method": "snapshot", "size": 2, "combine": "weighted"},
    ],
    ids=["stacking", "bagging", "half", "snapshot"],
)
def test_what_divides_the_training_rows_again_keeps_groups_together(
    patients: dict[str, Any], tmp_path: Path, ensemble: dict[str, Any]
) -> None:
    options = {**patients, "group": "patient"}
    params = sections("tabular", options, {"hidden": [8]}, {}, ensemble)
    data = load(params["data"], tmp_path)
    part = Part(params, data, 0, seed=3)
    members = ensembles.begin(part, None)
    groups = data.splits[0].groups
    assert groups is not None
    asked_of_some = False
    for epoch in (1, 10, 20):
        for lane, asked in members.asked(epoch).items():
            asked_of_some = True
            of_training = set(groups[lane.split.train].tolist())
            assert not of_training & set(groups[asked].tolist())
            assert not of_training & set(groups[data.validation].tolist())
    assert asked_of_some


def test_a_bag_of_groups_takes_all_rows_of_a_group_as_often(
    patients: dict[str, Any], tmp_path: Path
) -> None:
    params = sections("tabular", {**patients, "group": "patient"})
    split = load(params["data"], tmp_path).splits[0]
    assert split.groups is not None
    bag = bootstrap(split, params["ensemble"], (1, 2))
    times = torch.bincount(bag.train, minlength=len(split.target))[split.train]
    groups = split.groups[split.train]
    assert times.max() > 1
    assert all(len(times[groups == group].unique()) == 1 for group in groups.unique())
    there = len(groups.unique())
    assert sum(int(times[groups == group][0]) for group in groups.unique()) == there


def test_the_out_of_bag_estimate_knows_no_groups(run: Any, patients: dict[str, Any]) -> None:
    bagging = {"method": "bagging", "size": 5}
    model, train = {"hidden": [64]}, {"epochs": 30, "lr": 0.01}
    leaking = run("tabular", patients, model, train, bagging).last
    honest = run("tabular", {**patients, "group": "patient"}, model, train, bagging).last
    assert leaking["oob/accuracy"] > 0.9
    assert honest["oob/accuracy"] < 0.75


def test_an_ensemble_needs_groups_enough(run: Any, patients: dict[str, Any]) -> None:
    stacking = {"method": "stacking", "inner_folds": 20, "size": 2}
    with pytest.raises(DataError, match="to 20 parts, and these have 16 groups") as caught:
        run("tabular", {**patients, "group": "patient", "test": 0.5, "validation": 0.1}, {},
            {"epochs": 1}, stacking)  # fmt: skip
    assert caught.value.key == "ensemble.inner_folds"


# -- repeats


@pytest.mark.parametrize(
    ("model", "ensemble", "tolerance"),
    [
        ({"dropout": 0.1}, {}, 0),
        ({"dropout": 0.1}, SNAPSHOTS, 0),
        ({"name": "cnn", "channels": [4]}, {}, 1e-5),  # convolutions may sum in another order
    ],
    ids=["mlp", "snapshots", "cnn"],
)
def test_repeats_are_trainings_that_differ_in_their_seed(
    run: Any, model: dict[str, Any], ensemble: dict[str, Any], tolerance: float
) -> None:
    kind = ("image_classifier", {"source": "digits"}, model)
    train = {"epochs": 2, "batch_size": 128}
    repeated = run(*kind, {**train, "repeats": 3}, ensemble, seed=5)
    alone = [run(*kind, train, ensemble, seed=s) for s in (5, mixed(5, 1), mixed(5, 2))]
    for number, one in enumerate(alone, 1):
        told = only(f"repeat/{number}/", repeated.epochs)
        for mine, expected in zip(told, only("", one.epochs), strict=True):
            assert mine == pytest.approx(expected, rel=tolerance, abs=0)
    losses = [one.last["val/loss"] for one in alone]
    assert len(set(losses)) == 3
    assert repeated.last["val/loss"] == pytest.approx(np.mean(losses))
    assert repeated.last["repeat_std/loss"] == pytest.approx(np.std(losses, ddof=1))
    assert "fold_std/loss" not in repeated.last
    predicted = repeated.predictions.output
    np.testing.assert_allclose(predicted, alone[0].predictions.output, rtol=10 * tolerance)


def test_repeats_of_folds(run: Any) -> None:
    repeated = run("tabular", WINE, {}, {**FAST, "repeats": 2}, seed=5)
    alone = [run("tabular", WINE, {}, FAST, seed=seed) for seed in (5, mixed(5, 1))]
    for number, one in enumerate(alone, 1):
        for fold in (1, 2, 3):
            part = f"repeat/{number}/fold/{fold}/"
            assert only(part, repeated.epochs) == only(f"fold/{fold}/", one.epochs)
    for epoch, said in repeated.epochs.items():
        means = [one.epochs[epoch]["val/loss"] for one in alone]
        assert said["val/loss"] == pytest.approx(np.mean(means))
        assert said["repeat_std/loss"] == pytest.approx(np.std(means, ddof=1))
        folds = [
            np.mean([one.epochs[epoch][f"fold/{fold}/val/loss"] for one in alone])
            for fold in (1, 2, 3)
        ]
        assert said["fold_std/loss"] == pytest.approx(np.std(folds, ddof=1))
    assert np.array_equal(repeated.predictions.output, alone[0].predictions.output)


@pytest.mark.parametrize("ensemble", [{}, SNAPSHOTS], ids=["model", "snapshots"])
def test_resumed_repeats_go_on_as_if_nothing_had_been(run: Any, ensemble: dict[str, Any]) -> None:
    kind = ("tabular", WINE, {"dropout": 0.1}, {**FAST, "epochs": 4, "repeats": 2}, ensemble)
    whole = run(*kind)
    for stop in (1, 3):
        first = run(*kind, stop_after=stop)
        rest = run(*kind, saved=first.saved)
        assert {**first.epochs, **rest.epochs} == whole.epochs
