"""scikit-learn's estimators by name, against scikit-learn itself on the same rows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recording_trial import RecordingTrial, sections
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error

from trainers.contract import DataError, Epoch
from trainers.data import load
from trainers.estimators import Estimating
from trainers.models.estimators import Estimated, make
from trainers.saved import Model

LOGISTIC = {"name": "sklearn.linear_model.LogisticRegression", "options": {"C": 0.1}}
FOREST = {"name": "sklearn.ensemble.RandomForestClassifier", "options": {"n_estimators": 5}}


def test_a_classifier_is_scikit_learn_s_own(run: Any) -> None:
    trial = run("tabular", {"source": "breast_cancer"}, LOGISTIC)
    rows, target = trial.data.arrays(trial.data.train)
    new, wanted = trial.data.arrays(trial.data.validation)
    expected = LogisticRegression(C=0.1).fit(rows, target).predict_proba(new)
    assert list(trial.epochs) == [1]
    assert trial.predictions is not None
    np.testing.assert_allclose(trial.predictions.output, expected, atol=1e-6)
    assert trial.last["val/loss"] == pytest.approx(log_loss(wanted, expected), abs=1e-6)
    assert trial.last["val/roc_auc"] == pytest.approx(roc_auc_score(wanted, expected[:, 1]))


def test_a_regressor_says_values_in_the_target_s_units(run: Any) -> None:
    model = {"name": "sklearn.linear_model.Ridge", "options": {"alpha": 2.0}}
    trial = run("tabular", {"source": "diabetes"}, model, {"metrics": ["rmse"]})
    rows, target = trial.data.arrays(trial.data.train)
    new, wanted = trial.data.arrays(trial.data.validation)
    expected = Ridge(alpha=2.0).fit(rows, target).predict(new)
    assert trial.last["val/rmse"] == pytest.approx(root_mean_squared_error(wanted, expected), 1e-5)


def test_folds_and_repeats_are_reported_and_differ_by_their_seeds(run: Any) -> None:
    data = {"source": "wine", "folds": 3}
    first = run("tabular", data, FOREST, {"repeats": 2}, seed=1)
    assert len({first.last[f"repeat/{r}/fold/2/val/loss"] for r in (1, 2)}) == 2
    assert first.predictions is not None
    assert len(first.predictions.ids) == len(first.data.ids)
    again = run("tabular", data, FOREST, {"repeats": 2}, seed=1)
    assert again.last == first.last
    assert run("tabular", data, FOREST, {"repeats": 2}, seed=2).last != first.last


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("wine", {"name": "sklearn.ensemble.HistGradientBoostingClassifier"}),
        ("diabetes", {"name": "sklearn.ensemble.GradientBoostingRegressor"}),
    ],
)
def test_what_is_kept_predicts_the_same_without_running_code(
    tmp_path: Path, source: str, model: dict[str, Any]
) -> None:
    section = {**model, "options": {"max_iter": 3} if "Hist" in model["name"] else {}}
    params = sections("tabular", {"source": source}, section, None, None)
    trial = RecordingTrial(params, load(params["data"], tmp_path))
    epoch: Epoch = Estimating.begin(trial).epoch()
    assert epoch.model is not None
    assert epoch.predictions is not None
    buffer = io.BytesIO()
    torch.save(epoch.model(), buffer)
    kept = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    loaded = Model.of(kept)
    split = trial.data.splits[0]
    said = loaded.folds[0].output(split.inputs[split.validation], loaded.task)
    np.testing.assert_allclose(said, epoch.predictions.output, rtol=1e-5, atol=1e-6)


def test_what_is_kept_may_hold_parts_of_scikit_learn_only() -> None:
    from skops import io as skops_io

    strange = torch.from_numpy(np.frombuffer(skops_io.dumps(Path), np.uint8).copy())
    with pytest.raises(ValueError, match="pathlib.* which is no part of an estimator"):
        Estimated(2).set_extra_state({"estimator": strange, "units": [0.0, 1.0]})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ensemble.GradientBoostingClassifier", {"n_estimators": 2}),
        ("ensemble.HistGradientBoostingRegressor", {"max_iter": 2, "loss": "gamma"}),
        ("ensemble.RandomForestRegressor", {"n_estimators": 2}),
        ("gaussian_process.GaussianProcessClassifier", {"optimizer": None}),
        ("gaussian_process.GaussianProcessRegressor", {}),
        ("linear_model.TweedieRegressor", {"power": 1.5}),
        ("neighbors.KNeighborsClassifier", {"algorithm": "ball_tree", "metric": "manhattan"}),
        ("neighbors.KNeighborsRegressor", {"algorithm": "kd_tree"}),
        ("neural_network.MLPClassifier", {"solver": "sgd", "max_iter": 2}),
        ("neural_network.MLPRegressor", {"max_iter": 2}),
        ("svm.NuSVR", {}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # that two rounds are too few
def test_all_parts_that_an_estimator_has_are_read_again(
    name: str, options: dict[str, Any]
) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 4)).astype(np.float32)
    classifies = "Classifier" in name
    target = (rows[:, 0] > 0).astype(int) if classifies else np.exp(rows[:, 0])
    fitted = make({"name": f"sklearn.{name}", "options": options}, classifies).fit(rows, target)
    again = Estimated(2 if classifies else 1)
    again.set_extra_state(Estimated(2, fitted).get_extra_state())
    before, after = (m(torch.from_numpy(rows)) for m in (Estimated(again._outputs, fitted), again))
    assert torch.equal(before, after)


def test_a_class_that_a_fold_lacks_is_impossible_there() -> None:
    rows, target = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 2, 2])
    module = Estimated(3, LogisticRegression().fit(rows, target))
    said = module(torch.tensor([[3.0]])).exp()
    assert said.shape == (1, 3)
    assert said[0, 1] < 1e-6 < 0.5 < said[0, 2]


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ({"name": "sklearn.ensemble.RandomForestClasifier"}, "model.name", "has no 'RandomFor"),
        ({"name": "sklearn.ensembles.X"}, "model.name", "expected an estimator as sklearn.MODULE"),
        ({"name": "sklearn.ensemble.RandomForestRegressor"}, "model.name", "is no classifier"),
        ({"name": "sklearn.svm.LinearSVC"}, "model.name", "gives no probabilities"),
        ({"name": "sklearn.ensemble.VotingClassifier"}, "model.options", "without estimators"),
        ({**FOREST, "options": {"n_estimator": 5}}, "model.options.n_estimator", "no setting"),
        ({**FOREST, "options": {"n_estimators": -5}}, "model.options", "n_estimators"),
        ({**FOREST, "options": {"random_state": 1}}, "model.options.random_state", "own seed"),
    ],
)
def test_what_cannot_be_is_found_before_training(
    run: Any, model: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as raised:
        run("tabular", {"source": "wine"}, model)
    assert raised.value.key == key
    if "Clasifier" in model["name"] or "n_estimator" in model.get("options", {}):
        assert "did you mean" in (raised.value.hint or "")


def test_an_ensemble_of_estimators_is_refused(run: Any) -> None:
    with pytest.raises(DataError, match="bagging is of networks"):
        run("tabular", {"source": "wine"}, FOREST, None, {"method": "bagging"})
