"""Rows that can have several labels: read, divided, trained, kept, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from recording_trial import RecordingTrial
from sklearn.metrics import f1_score, hamming_loss, log_loss, roc_auc_score

from trainers.contract import DataError
from trainers.data import load

ROWS = 120
LABELS = ["cat", "dog", "owl"]


def table(**columns: Any) -> pd.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 3))
    said = x + random.normal(size=x.shape) / 2 > [0, 0.5, -0.5]
    of_x = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}
    of_labels = {name: said[:, place].astype(int) for place, name in enumerate(LABELS)}
    words = ["".join(f"{n} " for n in np.array(LABELS)[row]) + "animal" for row in said]
    sides = {"g": np.arange(ROWS) // 4, "day": np.arange(ROWS), "text": words}
    return pd.DataFrame({**of_x, **of_labels, **sides, **columns})


@pytest.fixture
def data(tmp_path: Path) -> Any:
    def write(frame: pd.DataFrame | None = None, **section: Any) -> dict[str, Any]:
        path = tmp_path / "table.csv"
        (table() if frame is None else frame).to_csv(path, index=False)
        unseen = [name for name in ("g", "day", "text") if name not in section.values()]
        return {"source": str(path), "target": LABELS, "ignore": unseen, **section}

    return write


def test_several_targets_are_labels(tmp_path: Path, data: Any) -> None:
    found = load(data(), tmp_path)
    assert (found.task, found.classes, found.outputs) == ("multilabel", tuple(LABELS), 3)
    assert found.shape == (3,)  # the labels are not learned from
    wanted = table()[LABELS].to_numpy(bool)
    np.testing.assert_array_equal(found.target.numpy(), wanted[found.ids.numpy()])
    assert found.summary["class_counts"] == wanted.sum(0).tolist()
    assert "val/hamming_loss" not in found.summary["metrics"]
    assert "val/roc_auc" in found.summary["metrics"]


@pytest.mark.parametrize("yes_no", [("true", "false"), (True, False), (1.0, 0.0), ("1", "0")])
def test_a_label_is_said_in_several_ways(tmp_path: Path, data: Any, yes_no: Any) -> None:
    frame = table()
    said = frame.assign(dog=np.where(frame["dog"] == 1, *yes_no))
    np.testing.assert_array_equal(load(data(said), tmp_path).target, load(data(), tmp_path).target)


@pytest.mark.parametrize(
    ("columns", "section", "key", "message"),
    [
        ({"dog": 2}, {}, "data.target", "0 or 1.*'dog' holds .*2.* in row 0"),
        ({"dog": "maybe"}, {}, "data.target", "'dog' holds 'maybe' in row 0"),
        ({"dog": [None] + [1] * (ROWS - 1)}, {}, "data.target", "1 rows have no value in 'dog'"),
        ({"dog": 1}, {}, "data.target", "label 'dog' is the same in every row"),
        ({}, {"target": ["cat", "dgo"]}, "data.target", "no column 'dgo'"),
        ({}, {"target": ["cat", "cat"]}, "data.target", "'cat' is there twice"),
        ({}, {"group": "cat"}, "data.group", "is the target"),
        ({}, {"task": "classification"}, "data.task", "several targets are labels"),
    ],
)
def test_what_is_no_label_is_refused(
    tmp_path: Path, data: Any, columns: Any, section: Any, key: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(data(table(**columns), **section), tmp_path)
    assert error.value.key == key


@pytest.mark.parametrize("side", [{}, {"folds": 3}, {"group": "g"}, {"time": "day"}])
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])  # as a lane, and in turn
def test_they_are_learned_and_measured_as_scikit_learn_does(
    run: Any, data: Any, side: dict[str, Any], optimizer: str
) -> None:
    trial: RecordingTrial = run(
        "tabular",
        data(**side),
        {"hidden": [8]},
        {
            **{"epochs": 12, "lr": 0.05, "batch_size": 8, "optimizer": optimizer},
            **{"class_weights": "balanced", "metrics": ["hamming_loss", "f1"]},
        },
    )
    said, found = trial.predictions, trial.epochs[12]
    assert said is not None
    assert (said.target.dtype, said.target.shape) == (np.bool_, said.output.shape)
    assert found["val/roc_auc"] > 0.85
    if not side.get("folds"):  # where it is the mean
        there = said.output >= 0.5
        assert found["val/hamming_loss"] == pytest.approx(hamming_loss(said.target, there))
        assert found["val/f1/dog"] == pytest.approx(f1_score(said.target[:, 1], there[:, 1]))
        assert found["val/roc_auc"] == pytest.approx(
            roc_auc_score(said.target, said.output), abs=1e-6
        )
        losses = [log_loss(said.target[:, k], said.output[:, k].astype(float)) for k in range(3)]
        assert found["val/loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_texts_have_labels(run: Any, data: Any) -> None:
    section = data(text="text")
    del section["ignore"]
    model = {"name": "embedding_bag"}
    trial = run("text_classifier", section, model, {"epochs": 20, "lr": 0.05, "batch_size": 8})
    assert trial.epochs[20]["val/roc_auc"] == pytest.approx(1)  # the text names its labels


@pytest.mark.parametrize(
    "ensemble",
    [
        {"method": "bagging", "size": 3},
        {"method": "bagging", "size": 3, "combine": "vote"},
        {"method": "bagging", "size": 3, "combine": "weighted"},
        {"method": "snapshot", "size": 2},
        {"method": "boosting", "size": 3},
    ],
    ids=lambda ensemble: " ".join(map(str, ensemble.values())),
)
def test_ensembles_learn_labels(run: Any, data: Any, ensemble: dict[str, Any]) -> None:
    options = {"epochs": 12, "lr": 0.03, "batch_size": 8}
    trial = run("tabular", data(), {"hidden": [8]}, options, ensemble)
    found = trial.epochs[max(trial.epochs)]
    assert found["val/roc_auc"] > 0.85
    gain = found["member/best_loss"] - found["val/loss"]
    assert found["gain/loss"] == pytest.approx(gain, abs=1e-6)
    assert 0 <= found["member/disagreement"] < 1


@pytest.mark.parametrize(
    ("train", "ensemble", "key"),
    [
        ({"loss": "cross_entropy"}, {}, "train.loss"),
        ({"sampling": "balanced"}, {}, "train.sampling"),
        ({"metrics": ["top5_accuracy"]}, {}, "train.metrics"),
        ({}, {"method": "stacking"}, "ensemble.method"),
        ({}, {"method": "boosting", "boosting": "samme"}, "ensemble.boosting"),
    ],
)
def test_what_needs_one_class_a_row_is_refused(
    run: Any, data: Any, train: dict[str, Any], ensemble: dict[str, Any], key: str
) -> None:
    with pytest.raises(DataError) as error:
        run("tabular", data(), None, {"batch_size": 8, **train}, ensemble)
    assert error.value.key == key
