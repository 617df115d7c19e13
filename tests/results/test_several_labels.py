"""Predictions of several labels a row: measured, compared, read, and combined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
from made_up import classifier, labels

from hpo.results import differences, evaluation, ranking, significance
from hpo.results.combined import combine
from hpo.results.predicted import read_predictions
from hpo.results.rows import of_label
from hpo.results.scores import MULTILABEL, goal_of, metric_of
from trainers import metrics as trained

SAID = labels(seed=1)
THERE = SAID.output >= 0.5
SURE = SAID.output.astype(np.float64)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("accuracy", sk.accuracy_score(SAID.target, THERE)),
        ("hamming_loss", sk.hamming_loss(SAID.target, THERE)),
        ("log_loss", np.mean([sk.log_loss(SAID.target[:, k], SURE[:, k]) for k in range(3)])),
        ("brier", np.mean([sk.brier_score_loss(SAID.target[:, k], SURE[:, k]) for k in range(3)])),
        ("roc_auc", sk.roc_auc_score(SAID.target, SURE)),
        ("pr_auc", sk.average_precision_score(SAID.target, SURE)),
        ("f1/dog", sk.f1_score(SAID.target[:, 1], THERE[:, 1])),
        *(
            (f"{name}_{average}", score(SAID.target, THERE, average=average))
            for name, score in (
                ("f1", sk.f1_score),
                ("precision", sk.precision_score),
                ("recall", sk.recall_score),
            )
            for average in ("macro", "micro", "weighted")
        ),
    ],
)
def test_metrics_equal_scikit_learns(name: str, wanted: float) -> None:
    found = evaluation.measured(SAID, [name])[name]
    assert found.value == pytest.approx(wanted, abs=1e-9)
    assert found.low < found.value < found.high
    assert evaluation.value(SAID, name) == found.value


def test_they_have_the_names_that_trainers_report() -> None:
    assert set(MULTILABEL) <= set(trained.MULTILABEL)
    assert metric_of("val/loss", SAID) == "log_loss"
    assert metric_of("val/f1/owl", SAID) == "f1/owl"
    assert metric_of("val/mcc", SAID) is None
    assert goal_of("hamming_loss") == "minimize"


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc", "f1_macro", "hamming_loss"])
def test_runs_are_compared(metric: str) -> None:
    worse = labels(seed=2)
    worse.output[:] = np.roll(worse.output, 1, axis=0)  # what it says is of other rows
    table = significance.compare({"a": SAID, "b": worse}, metric, "a").table
    assert list(table["verdict"]) == ["reference", "worse"]


def test_the_rows_on_which_two_runs_disagree() -> None:
    other = labels(seed=1)
    other.output[3] = [0.9, 0.1, 0.7]
    said = [name for name, there in zip(("cat", "dog", "owl"), THERE[3], strict=True) if there]
    table = differences.disagreements(SAID, other)
    assert list(table["id"]) == [3]
    assert (table["a"][0], table["b"][0]) == (", ".join(said), "cat, owl")
    with pytest.raises(ValueError, match="multilabel"):
        differences.disagreements(SAID, classifier())


def test_they_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    np.savez(path, ids=SAID.ids, target=SAID.target, output=SAID.output)
    found = read_predictions(path, ["cat", "dog", "owl"])
    assert found.is_multilabel
    np.testing.assert_array_equal(found.target, SAID.target)
    np.savez(path, ids=SAID.ids, target=SAID.target[:, :2], output=SAID.output)
    with pytest.raises(ValueError, match="as many as there are outputs"):
        read_predictions(path, None)


@pytest.mark.parametrize("metric", ["f1_macro", "log_loss", "roc_auc"])
def test_their_mean_is_better_than_each(metric: str) -> None:
    runs = {str(seed): labels(1000, seed) for seed in range(5)}
    facts = combine(runs, metric)
    best = facts["against"][0]
    assert best["verdict"] == "better"
    assert facts["fitted_by"] == "log_loss"
    assert len(facts["members"]) > 1


def test_a_label_is_a_class_of_two() -> None:
    dog = of_label(SAID, 1)
    assert evaluation.value(dog, "f1/dog") == evaluation.value(SAID, "f1/dog")
    assert evaluation.value(dog, "roc_auc") == ranking.auc(SAID, 1).value
    assert (evaluation.confusion(dog) == sk.confusion_matrix(SAID.target[:, 1], THERE[:, 1])).all()
    dogs = evaluation.operating_points({"a": SAID}, 1, 0.3)
    assert dogs["recall"][0] == sk.recall_score(SAID.target[:, 1], SAID.output[:, 1] >= 0.3)
    counted = evaluation.score_histogram(SAID, 1)
    assert counted["positives"].sum() == SAID.target[:, 1].sum()


def test_each_label_has_its_row() -> None:
    table = evaluation.per_class(SAID).set_index("class")
    precision, recall, f1, support = sk.precision_recall_fscore_support(SAID.target, THERE)
    for column, wanted in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose(table[column], wanted)
    assert list(table["support"]) == list(support)
    assert (table["f1_low"] < table["f1"]).all()
