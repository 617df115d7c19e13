"""What is said of rows that had no part in making an ensemble."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up import labels
from prediction_sets import classifiers, library_of, part, regressions
from sklearn import metrics

from hpo.ensemble.building import variants_of
from hpo.ensemble.criterion import for_metric
from hpo.ensemble.fitting import Variant, fit
from hpo.ensemble.judging import estimate, gain
from hpo.ensemble.library import FOLDS, folds_of, open_library
from hpo.ensemble.nested import ALL, nested
from hpo.errors import UserError
from hpo.results.predicted import Predicted

METHODS: list[Any] = ["greedy", "cma", "stack", "top"]
ONE_BY_ONE = [
    pytest.param(
        [method],
        non_negative,
        id=f"{method}{'+' * non_negative}",
        marks=[pytest.mark.slow] if method == "cma" else [],
    )
    for method, non_negative in [*((method, False) for method in METHODS), ("stack", True)]
]


@pytest.fixture
def fixed_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds that do not depend on the targets."""
    monkeypatch.setattr("hpo.ensemble.library.folds_of", lambda ids, *_: ids % FOLDS)


def labellers(trials: int, rows: int) -> list[Predicted]:
    return [labels(rows, seed) for seed in range(trials)]


def relabelled(predicted: list[Predicted], rows: np.ndarray, seed: int) -> list[Predicted]:
    target = predicted[0].target.copy()
    target[rows] = np.random.default_rng(seed).permutation(target[rows])
    return [replace(each, target=target) for each in predicted]


@pytest.mark.usefixtures("fixed_folds")
@pytest.mark.parametrize(("methods", "non_negative"), ONE_BY_ONE)
@pytest.mark.parametrize(
    "kind", [classifiers, regressions, pytest.param(labellers, marks=pytest.mark.slow)]
)
def test_no_row_has_a_part_in_what_predicts_it(
    methods: list[Any], non_negative: bool, kind: Any
) -> None:
    """Other targets of a fold's rows change nothing of what is said of them."""
    predicted = kind(5, 120)
    metric = "log_loss" if predicted[0].has_probabilities else "mae"
    variants = variants_of(methods, predicted[0].has_probabilities, non_negative)
    fold = np.arange(120) % FOLDS == 2
    made = nested(library_of(predicted, metric), variants, 50)
    other = nested(library_of(relabelled(predicted, fold, 1), metric), variants, 50)
    assert (made.output[fold] == other.output[fold]).all()
    assert (made.single[fold] == other.single[fold]).all()
    if made.calibrated_single is not None and other.calibrated_single is not None:
        assert (made.calibrated_single[fold] == other.calibrated_single[fold]).all()
    assert not (made.output[~fold] == other.output[~fold]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("fixed_folds")
def test_no_row_has_a_part_in_the_choice_of_the_method_that_predicts_it() -> None:
    predicted = classifiers(5, 120)
    variants = variants_of(METHODS, True, False)
    fold = np.arange(120) % FOLDS == 0
    made = nested(library_of(predicted, "accuracy"), variants, 50)
    other = nested(library_of(relabelled(predicted, fold, 1), "accuracy"), variants, 50)
    assert (made.output[fold] == other.output[fold]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "non_negative", "metric"),
    [
        pytest.param(*one.values, metric, id=f"{metric}-{one.id}")
        for one in ONE_BY_ONE
        for metric in ("accuracy", "log_loss", "roc_auc", "f1_macro")
        if one.values[0] != ["cma"] or metric in ("accuracy", "log_loss")  # 10 s each
    ],
)
def test_with_shuffled_labels_the_estimate_is_at_chance(
    methods: list[Any], non_negative: bool, metric: str
) -> None:
    rows, seeds, found = 300, 4, []
    for seed in range(seeds):
        random = np.random.default_rng(100 + seed)
        predicted = [
            Predicted(np.arange(rows), each.target, random.permutation(each.output))
            for each in classifiers(12, rows, 2, seed=seed)
        ]
        library = library_of(predicted, metric)
        made = nested(library, variants_of(methods, True, non_negative), 50)
        found.append(estimate(library, made.output)["value"])
        against = gain(library, made.output, made.single)
        if metric != "log_loss":  # where nothing is known, a mean is less sure, and so loses less
            assert against["verdict"] != "better" or against["p"] > 0.001
    if metric == "log_loss":
        assert np.mean(found) > np.log(2) - 0.005
    else:  # the largest spread of these, an area's, is 1 / √(3 · rows)
        assert np.mean(found) < 0.5 + 3 / np.sqrt(3 * rows * seeds)


@pytest.mark.parametrize(("methods", "non_negative"), ONE_BY_ONE)
def test_with_shuffled_values_a_regression_explains_nothing(
    methods: list[Any], non_negative: bool
) -> None:
    explained = []
    for seed in range(3):
        library = library_of(regressions(12, 300, seed, signal=0), "r2")
        made = nested(library, variants_of(methods, False, non_negative), 50)
        explained.append(estimate(library, made.output)["value"])
    assert np.mean(explained) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["log_loss", "accuracy"])
def test_the_estimate_is_what_new_rows_say_and_the_fitted_one_is_not(metric: str) -> None:
    """Many small validation splits of the same models, and rows nobody has seen."""
    estimated, fitted, new, gains, new_gains = [], [], [], [], []
    for seed in range(10):
        everything = classifiers(15, 5_200, seed=seed)
        library = library_of(part(everything, slice(0, 200)), metric)
        unseen = library_of(part(everything, slice(200, None)), metric)
        made = nested(library, variants_of(["greedy", "top"], True, False), 50)
        everywhere = np.ones(len(unseen.ids), bool)
        estimated.append(library.score(made.output))
        fitted.append(library.score(made.fitted.output(library, np.ones(200, bool))))
        new.append(unseen.score(made.fitted.output(unseen, everywhere)))
        gains.append(estimated[-1] - library.score(made.single))
        best = library.single(sorted(ALL))
        new_gains.append(new[-1] - unseen.score(unseen.output(best)))
    sign = library.sign
    off = sign * (np.array(estimated) - new)
    error = off.std(ddof=1) / np.sqrt(len(off))
    # Made of 4/5 of the rows, so a little worse than what is made of all; never flattering.
    assert off.mean() > -2.6 * error
    assert off.mean() < 2.6 * error + 0.02
    optimism = sign * (np.array(estimated) - fitted)  # of the fitted one, on the same rows
    assert optimism.mean() > 2.6 * optimism.std(ddof=1) / np.sqrt(len(off))
    flattery = sign * (np.array(gains) - new_gains)
    assert flattery.mean() > -2.6 * flattery.std(ddof=1) / np.sqrt(len(off)) - 0.01


# -- groups


def grouped(predicted: list[Predicted], size: int) -> list[Predicted]:
    groups = predicted[0].ids // size
    return [replace(each, groups=groups) for each in predicted]


@pytest.mark.parametrize("kind", [classifiers, regressions, labellers])
def test_rows_of_a_group_are_in_one_fold(kind: Any) -> None:
    predicted = grouped(kind(2, 200), 8)
    fold = library_of(predicted, "log_loss" if kind is not regressions else "mae").fold
    assert (fold.reshape(-1, 8) == fold[::8, None]).all()
    assert np.ptp(np.bincount(fold)) <= 16


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("greedy", "stack")] + ["top"],
)
def test_what_trials_know_of_groups_alone_is_at_chance(method: Any) -> None:
    """Labels are drawn for whole groups, and each trial has its own say of each group, a true one
    or not: a good member for a row is one that is right for its group."""
    groups, size, trials, seeds = 25, 8, 40, 3
    known, unknown = [], []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        target = np.repeat(random.integers(0, 2, groups), size)
        predicted = []
        for _ in range(trials):
            sure = np.repeat(random.uniform(0.05, 0.95, groups), size).astype(np.float32)
            output = np.stack([1 - sure, sure], axis=1)
            predicted.append(Predicted(np.arange(len(target)), target, output))
        for each, found in ((grouped(predicted, size), unknown), (predicted, known)):
            library = library_of(each, "accuracy")
            made = nested(library, variants_of([method], True, False), trials)
            found.append(estimate(library, made.output)["value"])
    assert np.mean(unknown) < 0.5 + 2 * 0.5 / np.sqrt(groups * seeds)
    assert np.mean(known) > 0.65  # row by row it leaks


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(UserError, match="are of 4 groups"):
        library_of(grouped(classifiers(2, 40), 10), "accuracy")


# -- folds


def test_folds_are_alike_in_size_and_classes() -> None:
    target = np.random.default_rng(0).choice(3, 503, p=[0.7, 0.2, 0.1])
    fold = folds_of(np.arange(503), target)
    counts = np.array([np.bincount(target[fold == each], minlength=3) for each in range(FOLDS)])
    assert np.ptp(counts.sum(axis=1)) <= 1
    assert np.ptp(counts, axis=0).max() <= 2


def test_folds_of_values_have_all_of_the_range() -> None:
    target = np.random.default_rng(0).normal(size=500)
    fold = folds_of(np.arange(500), target)
    means = [target[fold == each].mean() for each in range(FOLDS)]
    assert np.ptp(means) < 0.02
    assert (fold == folds_of(np.arange(500), target)).all()


def test_rows_that_were_predicted_twice_are_in_one_fold() -> None:
    ids = np.repeat(np.arange(100), 2)
    fold = folds_of(ids, np.repeat(np.arange(100) % 3, 2))
    assert (fold[::2] == fold[1::2]).all()
    assert set(fold) == set(range(FOLDS))


@pytest.mark.parametrize(
    ("metric", "test"),
    [("pr_auc", "jackknife"), ("ece", "paired bootstrap"), ("recall/1", "paired bootstrap")],
)
def test_an_ensemble_is_judged_by_whatever_a_trainer_reports(metric: str, test: str) -> None:
    library = library_of(classifiers(6, 200), metric)
    made = nested(library, variants_of(["top"], True, False), 6)
    found = estimate(library, made.output)
    assert found["low"] < found["value"] < found["high"]
    against = gain(library, made.output, made.single)
    assert against["test"] == test
    alone = estimate(library, made.single)["value"]
    assert against["difference"] == pytest.approx(found["value"] - alone)


# -- the best trial alone


@pytest.mark.parametrize(
    "metric", ["accuracy", "f1_macro", "log_loss", "roc_auc", "pr_auc", "mcc"]
)
def test_the_best_trial_of_some_folds_is_the_best_by_scikit_learn(metric: str) -> None:
    predicted = classifiers(15, 250, 2, seed=3)
    library = library_of(predicted, metric)
    for fold in range(FOLDS):
        rows = library.fold != fold
        target = library.target[rows]
        outputs = [p.output[rows].astype(np.float64) for p in predicted]
        worth = {
            "accuracy": lambda o, t=target: -metrics.accuracy_score(t, o.argmax(axis=1)),
            "f1_macro": lambda o, t=target: -metrics.f1_score(t, o.argmax(1), average="macro"),
            "log_loss": lambda o, t=target: metrics.log_loss(t, o / o.sum(axis=1)[:, None]),
            "roc_auc": lambda o, t=target: -metrics.roc_auc_score(t, o[:, 1]),
            "pr_auc": lambda o, t=target: -metrics.average_precision_score(t, o[:, 1]),
            "mcc": lambda o, t=target: -metrics.matthews_corrcoef(t, o.argmax(axis=1)),
        }[metric]
        expected = int(np.argmin([round(worth(output), 9) for output in outputs]))
        assert library.single(sorted(ALL - {fold})) == expected


def test_a_fits_candidates_are_the_best_of_its_folds_at_their_temperature() -> None:
    predicted = classifiers(12, 200)
    library = library_of(predicted, "log_loss")
    folds = [0, 2, 3]
    rows = library.rows(folds)
    raw = [
        metrics.log_loss(p.target[rows], p.output[rows] / p.output[rows].sum(axis=1)[:, None])
        for p in predicted
    ]
    assert library.best(folds, 5, calibrated=False).places == tuple(np.argsort(raw)[:5])
    calibrated = library.best(folds, 12, calibrated=True)
    assert any(place != 7 for place in calibrated.sharpness)
    ensemble = fit(library, Variant("top", True), frozenset(folds), 12)
    assert set(ensemble.places) <= set(calibrated.places)


# -- what cannot be members


def test_outputs_that_are_no_numbers_are_left_out() -> None:
    predicted = classifiers(4, 100)
    spoilt = predicted[1].output.copy()
    spoilt[3, 0] = np.nan
    predicted[1] = replace(predicted[1], output=spoilt)
    criterion = for_metric("log_loss", "classification")
    library, left_out = open_library(range(4), predicted.__getitem__, "log_loss", criterion)
    assert library.trials == (0, 2, 3)
    assert left_out == {"predicted something that is not a number": 1}


def test_rows_in_another_order_are_put_in_one() -> None:
    predicted = classifiers(5, 120)
    expected = nested(library_of(predicted, "log_loss"), [Variant("top", False)], 5)
    order = np.random.default_rng(0).permutation(120)
    predicted[2] = replace(
        predicted[2],
        ids=predicted[2].ids[order],
        target=predicted[2].target[order],
        output=predicted[2].output[order],
    )
    found = nested(library_of(predicted, "log_loss"), [Variant("top", False)], 5)
    assert (found.output == expected.output).all()
