"""What is kept of a trial predicts as the trial did, on rows of files as on those it was given."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from recording_trial import RecordingTrial, sections

from trainers import test_split
from trainers.contract import DataError, Epoch, Trial
from trainers.data import Dataset, load
from trainers.registry import resolve_together
from trainers.saved import Model, NotAModel, PixelRows
from trainers.unseen import Batch, batches, pixel_rows, table_rows

DIGITS = {"source": "digits"}
CANCER = {"source": "breast_cancer"}


@dataclass
class Kept:
    """`trainers.contract.Trials` that keeps each trial's last epoch."""

    waiting: list[Trial]
    models: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    last: dict[int, Epoch] = field(default_factory=dict)

    def begin(self) -> Sequence[Trial]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> list[int]:
        for epoch in epochs:
            assert epoch.model is not None
            self.models[epoch.trial.number] = epoch.model()
            self.last[epoch.trial.number] = epoch
        return [epoch.trial.number for epoch in epochs if epoch.last]

    def finish(self, trial: Trial) -> None:
        raise AssertionError

    def fail(self, trial: Trial, error: Exception) -> None:
        raise error


@dataclass
class Trained:
    data: Dataset
    model: Model
    said: NDArray[np.float32]
    rows: NDArray[np.int64]  # of the data, which were predicted


def trial(data: Dataset, params: Any, number: int = 0) -> RecordingTrial:
    made = RecordingTrial(params, data, seed=number)
    made.number = number
    return made


def train(trials: Kept, trainer: str = "tabular") -> None:
    together = resolve_together(trainer)
    assert together is not None
    together(trials)


def trained(trainer: str, section: Mapping[str, Any], tmp_path: Path, **more: Any) -> Trained:
    options = {"epochs": 4, "batch_size": 16, **more.pop("train", {})}
    params = sections(trainer, section, train=options, **more)
    data = load(params["data"], tmp_path / "cache")
    kept = Kept([trial(data, params)])
    train(kept, trainer)
    predictions = kept.last[0].predictions
    assert predictions is not None
    places = {int(row): place for place, row in enumerate(data.ids)}
    rows = np.array([places[row] for row in predictions.ids.tolist()])
    return Trained(data, reread(kept.models[0]), predictions.output, rows)


def reread(content: Mapping[str, Any]) -> Model:
    """As from a file, which runs no code."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    buffer.seek(0)
    return Model.of(torch.load(buffer, weights_only=True))


def by_fold(trained: Trained, batch: Batch) -> NDArray[np.float32]:
    """What each fold says of the rows that validated it."""
    model, parts = trained.model, []
    for fold, split in zip(model.folds, trained.data.splits, strict=False):
        parts.append(model.fold_output(fold, batch.rows)[split.validation.numpy()])
    return np.concatenate(parts)


def pixels(trained: Trained) -> Batch:
    inputs = trained.data.inputs
    return Batch(range(len(inputs)), PixelRows({trained.model.form: inputs}))


ENSEMBLES: dict[str, dict[str, Any]] = {
    "bagging": {"method": "bagging", "size": 3},
    "bagging, of some columns, vote": {
        **{"method": "bagging", "size": 3, "feature_fraction": 0.5, "combine": "vote"},
    },
    "bagging, weighted, differing members": {
        **{"method": "bagging", "size": 3, "combine": "weighted"},
        "members": [{"hidden": [8]}, {"hidden": [16, 8], "dropout": 0.3}],
    },
    "snapshot, logits, average": {
        **{"method": "snapshot", "size": 2, "average": True, "combine": "logits"},
    },
    "gradient boosting": {"method": "boosting", "size": 2},
    "samme": {"method": "boosting", "boosting": "samme", "size": 2},
    "stacking": {"method": "stacking", "size": 2, "inner_folds": 2, "non_negative": False},
}


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ({}, {}),
        ({}, {"ema": 0.9}),
        ({"name": "cnn", "channels": [4]}, {"ema": 0.9}),
        ({"name": "resnet", "channels": [4], "blocks": 1}, {"freeze": 1}),
    ],
)
def test_a_model_of_images_says_what_the_trial_said(
    tmp_path: Path, model: Any, options: Any
) -> None:
    done = trained("image_classifier", DIGITS, tmp_path, model=model, train=options)
    assert by_fold(done, pixels(done)) == pytest.approx(done.said, abs=1e-5)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Numbers with gaps, categories that look like numbers, and a date as text."""
    random, rows = np.random.default_rng(0), 160
    code = random.choice(["1", "2", "03", "x"], rows)
    age = random.integers(18, 90, rows).astype(float)
    label = np.where((code == "03") | (age + random.normal(0, 10, rows) > 60), "yes", "no")
    age[random.random(rows) < 0.2] = np.nan
    frame = pd.DataFrame({"code": code, "age": age, "flag": age > 40, "label": label})
    frame.loc[::9, "code"] = None
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


@pytest.mark.parametrize("ensemble", [{}, *ENSEMBLES.values()], ids=["none", *ENSEMBLES])
@pytest.mark.parametrize("folds", [None, 3])
def test_a_model_of_a_table_says_what_the_trial_said(
    tmp_path: Path, table: Path, ensemble: dict[str, Any], folds: int | None
) -> None:
    section = {"source": str(table), "target": "label", "folds": folds}
    done = trained("tabular", section, tmp_path, ensemble=ensemble)
    (batch,) = batches([table], [done.model])
    parts = [
        done.model.fold_output(fold, batch.rows)[done.data.ids[split.validation].numpy()]
        for fold, split in zip(done.model.folds, done.data.splits, strict=True)
    ]
    assert np.concatenate(parts) == pytest.approx(done.said, abs=1e-5)
    assert batch.target is not None
    whole = done.model.output(batch.rows)
    mean = np.mean([done.model.fold_output(f, batch.rows) for f in done.model.folds], axis=0)
    assert whole == pytest.approx(mean, abs=1e-6)
    assert whole.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["mlp", "residual_mlp", "embedding_mlp"])
def test_folds_may_know_different_categories(tmp_path: Path, name: str) -> None:
    """Each fold's model is for the columns that its own training rows gave."""
    rows = 90
    code = [f"only {row}" if row < 20 else "often" for row in range(rows)]
    label = np.where(np.arange(rows) % 3 == 0, "yes", "no")
    pd.DataFrame({"code": code, "x": range(rows), "label": label}).to_csv(tmp_path / "t.csv")
    section = {"source": str(tmp_path / "t.csv"), "target": "label", "folds": 3}
    done = trained("tabular", section, tmp_path, model={"name": name})
    assert len({split.shape for split in done.data.splits}) > 1
    (batch,) = batches([tmp_path / "t.csv"], [done.model])
    parts = [
        done.model.fold_output(fold, batch.rows)[done.data.ids[split.validation].numpy()]
        for fold, split in zip(done.model.folds, done.data.splits, strict=True)
    ]
    assert np.concatenate(parts) == pytest.approx(done.said, abs=1e-5)


@pytest.mark.parametrize("ensemble", [{}, {"method": "bagging", "size": 2, "combine": "vote"}])
def test_a_regression_says_values_in_the_units_of_its_target(
    tmp_path: Path, ensemble: dict[str, Any]
) -> None:
    from sklearn.datasets import load_diabetes

    done = trained("tabular", {"source": "diabetes"}, tmp_path, ensemble=ensemble)
    frame = load_diabetes(as_frame=True).data
    said = done.model.output(table_rows(frame, [done.model], "it"))
    assert said[done.data.ids[done.rows].numpy()] == pytest.approx(done.said, rel=1e-5)
    assert said.mean() > 50  # diabetes' targets are from 25 to 346


def test_what_is_kept_is_the_same_whoever_shares_the_stack(tmp_path: Path) -> None:
    params = sections("tabular", CANCER, train={"epochs": 2, "ema": 0.9})
    data = load(params["data"], tmp_path)
    alone = Kept([trial(data, params, 2)])
    shared = Kept([trial(data, params, number) for number in range(4)])
    train(alone)
    train(shared)
    one, same, other = (
        of["folds"][0]["members"][0]["weights"]
        for of in (alone.models[2], shared.models[2], shared.models[1])
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_what_is_kept_does_not_change_as_training_goes_on(tmp_path: Path) -> None:
    params = sections("tabular", CANCER, train={"epochs": 3})
    data = load(params["data"], tmp_path)
    first: list[Any] = []

    class First(Kept):
        def report(self, epochs: Sequence[Epoch]) -> list[int]:
            over = super().report(epochs)
            first.append((reread(self.models[0]), self.models[0], epochs[0].predictions))
            return over

    train(First([trial(data, params)]))
    then, content, said = first[0]
    for model in (then, reread(content)):
        (fold,) = model.folds
        inputs = data.splits[0].batch(data.validation)[0]
        assert fold.output(inputs, 2) == pytest.approx(said.output, abs=1e-5)


# -- files


def test_images_in_files_are_predicted_as_decoded_for_training(
    tmp_path: Path, image_folder: Any
) -> None:
    root = image_folder(each=6, size=(10, 12))
    (root / "red" / "odd.txt").write_text("no image")
    section = {"source": str(root), "size": 8, "skip_bad": True}
    done = trained("image_classifier", section, tmp_path)
    (root / "blue" / "torn.png").write_bytes(b"\x89PNG")
    (batch,) = batches([root], [done.model])
    assert batch.ids == sorted(map(str, root.glob("*/[0-9]*.png")))
    assert list(batch.bad) == [str(root / "blue" / "torn.png")]
    names = [*sorted(p for p in root.glob("*/[0-9]*.png"))]
    said = dict(zip(map(str, names), done.model.output(batch.rows), strict=True))
    here = [str(path) for path in sorted(root.glob("*/*")) if path.name != "torn.png"]
    wanted = [said[here[row]] for row in done.data.ids[done.rows].tolist()]
    assert np.array(wanted) == pytest.approx(done.said, abs=1e-5)


def test_files_are_as_bright_to_a_model_of_digits_as_its_own_images(tmp_path: Path) -> None:
    done = trained("image_classifier", DIGITS, tmp_path)
    original = done.data.inputs[:20].numpy()
    for number, image in enumerate(original[:, 0]):
        Image.fromarray((image.astype(float) * 255 / 16).astype(np.uint8)).save(
            tmp_path / f"{number:02}.png"
        )
    (batch,) = batches([tmp_path], [done.model])
    assert done.model.output(batch.rows) == pytest.approx(
        done.model.output(pixel_rows(original, [done.model])), abs=1e-6
    )


def test_a_table_is_read_in_parts_that_make_the_whole(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part without letters reads its categories as numbers, if nobody prevents it."""
    section = {"source": str(table), "target": "label"}
    done = trained("tabular", section, tmp_path)
    frame = pd.read_csv(table, dtype={"code": "str"}).sort_values("code", ignore_index=True)
    frame.to_csv(tmp_path / "sorted.csv", index=False)
    frame.to_parquet(tmp_path / "sorted.parquet")
    (whole,) = batches([tmp_path / "sorted.csv"], [done.model])
    expected = done.model.output(whole.rows)
    monkeypatch.setattr("trainers.unseen.MOST_ROWS", 7)
    for kind in ("csv", "parquet"):
        parts = list(batches([tmp_path / f"sorted.{kind}"], [done.model]))
        assert [row for part in parts for row in part.ids] == list(range(160))
        said = np.concatenate([done.model.output(part.rows) for part in parts])
        assert said == pytest.approx(expected, abs=1e-6)
        target = np.concatenate([part.target for part in parts if part.target is not None])
        assert target.tolist() == [["no", "yes"].index(label) for label in frame["label"]]


@pytest.mark.parametrize("ensemble", [{}, {"method": "bagging", "size": 2, "combine": "vote"}])
def test_a_model_of_labels_says_what_the_trial_said(
    tmp_path: Path, table: Path, ensemble: dict[str, Any]
) -> None:
    frame = pd.read_csv(table)
    frame.assign(label=(frame["label"] == "yes").astype(int)).to_csv(table, index=False)
    section = {"source": str(table), "target": ["flag", "label"]}
    done = trained("tabular", section, tmp_path, ensemble=ensemble)
    (batch,) = batches([table], [done.model])
    rows = done.data.ids.numpy()[done.rows]
    assert done.model.output(batch.rows)[rows] == pytest.approx(done.said, abs=1e-5)
    assert batch.target is not None
    assert batch.target[rows].tolist() == done.data.target[done.rows].tolist()
    held_out = test_split.rows(done.model.data, [done.model])
    assert held_out.target is not None
    assert held_out.target.tolist() == batch.target[list(held_out.ids)].tolist()
    frame.assign(label=None).to_csv(table, index=False)
    (batch,) = batches([table], [done.model])
    assert batch.target is not None
    assert np.isnan(batch.target[:, 1]).all()


def test_what_no_training_row_has_is_none_of_the_known(tmp_path: Path, table: Path) -> None:
    done = trained("tabular", {"source": str(table), "target": "label"}, tmp_path)
    rows = {"code": ["Z", "x"], "age": ["old", None], "flag": [True, True], "label": ["?", "yes"]}
    pd.DataFrame(rows).to_csv(tmp_path / "new.csv", index=False)
    (batch,) = batches([tmp_path / "new.csv"], [done.model])
    inputs = batch.rows.inputs(done.model, done.model.folds[0], slice(None))
    column: Any = done.model.folds[0].encoding and done.model.folds[0].encoding.columns[0]
    categories = len(column.categories)
    assert inputs[0, :categories].tolist() == [0] * categories
    assert inputs[1, :categories].sum() == 1
    missing = slice(categories + 1, None)
    assert torch.equal(inputs[0, missing], inputs[1, missing])  # "old" is missing, too
    assert batch.target is not None
    assert batch.target.tolist() == [-1, 1]
    assert np.isfinite(done.model.output(batch.rows)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.rename(columns={"age": "Age"}), "'age' .did you mean 'Age'"),
        (lambda frame: frame.drop(columns=["age", "code"]), "lacks 2 of the 3 columns"),
        (lambda frame: frame.head(0), "has no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_said_so(
    tmp_path: Path, table: Path, change: Any, message: str
) -> None:
    done = trained("tabular", {"source": str(table), "target": "label"}, tmp_path)
    change(pd.read_csv(table)).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match=message):
        list(batches([tmp_path / "new.csv"], [done.model]))


@pytest.mark.parametrize("what", ["missing.csv", "folder", "two"])
def test_what_is_no_table_is_said_so(tmp_path: Path, table: Path, what: str) -> None:
    done = trained("tabular", {"source": str(table), "target": "label"}, tmp_path)
    given = {"missing.csv": [tmp_path / what], "folder": [tmp_path], "two": [table, table]}[what]
    with pytest.raises(DataError, match="there is no|expected one .csv or .parquet file"):
        batches(given, [done.model])


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 2},
        {"folds": [{}]},
        {"shape": None},
        {"classes": ["only"]},
    ],
)
def test_what_is_no_model_is_said_so(tmp_path: Path, damage: dict[str, Any]) -> None:
    params = sections("tabular", CANCER, train={"epochs": 1})
    kept = Kept([trial(load(params["data"], tmp_path), params)])
    train(kept)
    with pytest.raises(NotAModel):
        Model.of({**kept.models[0], **damage})
