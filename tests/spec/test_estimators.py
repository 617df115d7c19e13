"""Settings of training that scikit-learn's estimators ignore are mistakes, not silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo import spec
from hpo.errors import StudyFileError

FOREST = "sklearn.ensemble.RandomForestClassifier"
STUDY = """\
study: s
trainer: tabular
data: {source: wine}
model: {name: MODEL}
train: {TRAIN}
search:
  SEARCH
"""


def load(folder: Path, model: str, train: str, search: str) -> spec.StudySpec:
    file = folder / "study.yaml"
    text = STUDY.replace("MODEL", model).replace("TRAIN", train).replace("SEARCH", search)
    file.write_text(text)
    return spec.load(file)


@pytest.mark.parametrize(
    ("model", "train", "search", "key"),
    [
        (FOREST, "lr: 0.1", "model.options.max_depth: [3, 5]", "train.lr"),
        (FOREST, "repeats: 2", "train.lr: [0.1, 0.2]", "search.train.lr"),
        ("mlp", "", f"model.name: [mlp, {FOREST}]\n  train.lr: [0.1, 0.2]", "search.train.lr"),
    ],
)
def test_what_has_no_effect(tmp_path: Path, model: str, train: str, search: str, key: str) -> None:
    with pytest.raises(StudyFileError) as raised:
        load(tmp_path, model, train, search)
    (problem,) = raised.value.problems
    assert problem.key == key
    assert "has no effect" in problem.message


@pytest.mark.parametrize(
    ("model", "search", "said"),
    [
        ("cnn", "train.lr: [0.1, 0.2]", "embedding_mlp or text like sklearn.…; got 'cnn'"),
        (FOREST, "model.max_depth: [3, 5]", "model.options.NAME"),
    ],
)
def test_names_are_said_as_they_can_be_written(
    tmp_path: Path, model: str, search: str, said: str
) -> None:
    with pytest.raises(StudyFileError, match=said):
        load(tmp_path, model, "", search)


def test_networks_and_estimators_in_one_study(tmp_path: Path) -> None:
    search = (
        f"model.name: [mlp, {FOREST}]\n"
        "  train.lr: {low: 0.001, high: 0.1, when: {model.name: mlp}}\n"
        f"  model.options.max_depth: {{low: 2, high: 9, when: {{model.name: {FOREST}}}}}"
    )
    found = load(tmp_path, "mlp", "epochs: 5", search)
    config = found.config({"model.name": FOREST, "model.options.max_depth": 4})
    assert config["model"]["options"] == {"max_depth": 4}
    assert spec.loads(found.resolved().encode(), tmp_path / "study.yaml").identity() == (
        found.identity()
    )
