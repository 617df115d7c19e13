"""Weights, temperatures and stacks, against scikit-learn and against plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from made_up import labels
from prediction_sets import classifiers, regressions
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from hpo.ensemble.calibration import AS_IT_IS, SHARPNESS, log_losses, sharpened
from hpo.ensemble.criterion import ABSOLUTE, LOG_LOSS, SQUARES, Criterion
from hpo.ensemble.methods import STEPS, cma, greedy, selected, top
from hpo.results.predicted import Predicted
from trainers.diversity import diversity
from trainers.meta_learners import non_negative, stacked


def log_loss(target: np.ndarray, output: np.ndarray) -> float:
    """By scikit-learn, which wants sums to be 1 to the last digit."""
    output = output.astype(np.float64)
    output /= output.sum(axis=1, keepdims=True)
    return float(metrics.log_loss(target, output, labels=range(output.shape[1])))


SKLEARN: dict[str, Callable[..., float]] = {
    "log_loss": log_loss,
    "mse": metrics.mean_squared_error,
    "mae": metrics.mean_absolute_error,
}
CASES = [
    pytest.param(criterion, seed, id=f"{criterion.name}-{seed}")
    for criterion, seed in itertools.product((LOG_LOSS, SQUARES, ABSOLUTE), range(4))
]


def sets(criterion: Criterion, seed: int, trials: int = 7, rows: int = 61) -> list[Predicted]:
    if criterion is LOG_LOSS:
        return classifiers(trials, rows, seed=seed)
    return regressions(trials, rows, seed=seed)


def values_of(criterion: Criterion, predicted: list[Predicted]) -> np.ndarray:
    return np.stack([criterion.values(p.output, p.target) for p in predicted])


def loss(criterion: Criterion, predicted: list[Predicted], weights: np.ndarray) -> float:
    """By scikit-learn, of the weighted mean of whole outputs."""
    mean = np.tensordot(weights, np.stack([p.output.astype(np.float64) for p in predicted]), 1)
    return float(SKLEARN[criterion.name](predicted[0].target, mean))


def by_brute_force(criterion: Criterion, predicted: list[Predicted]) -> np.ndarray:
    """Greedy selection with replacement, every candidate scored by scikit-learn."""
    chosen: list[int] = []
    losses = []
    for _ in range(STEPS):
        tried = [
            loss(criterion, predicted, np.bincount([*chosen, each], minlength=len(predicted)) / n)
            for each in range(len(predicted))
            for n in [len(chosen) + 1]
        ]
        chosen.append(int(np.argmin(tried)))
        losses.append(min(tried))
    size = int(np.argmin(losses)) + 1
    return np.bincount(chosen[:size], minlength=len(predicted)) / size


@pytest.mark.parametrize(("criterion", "seed"), CASES)
def test_a_criterion_of_single_values_is_scikit_learns_of_whole_outputs(
    criterion: Criterion, seed: int
) -> None:
    predicted = sets(criterion, seed)
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(predicted)))
    combined = weights.astype(np.float32) @ values_of(criterion, predicted)
    expected = loss(criterion, predicted, weights)
    assert criterion.of(combined[None])[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("criterion", "seed"), CASES)
def test_greedy_selection_is_as_good_as_by_brute_force(criterion: Criterion, seed: int) -> None:
    predicted = sets(criterion, seed)
    ours = selected(values_of(criterion, predicted), criterion)
    plain = by_brute_force(criterion, predicted)
    assert ours.sum() == pytest.approx(1)
    assert loss(criterion, predicted, ours) == pytest.approx(
        loss(criterion, predicted, plain), rel=1e-6
    )


def test_members_that_are_not_scored_again_would_not_have_been_taken() -> None:
    """Many candidates, so that most are passed over by their bounds."""
    predicted = classifiers(150, 200, seed=5)
    values = values_of(LOG_LOSS, predicted)
    total, chosen = np.zeros(values.shape[1], np.float32), []
    losses = []
    for count in range(STEPS):
        scores = LOG_LOSS.with_each(total, values, count)
        chosen.append(int(scores.argmin()))
        losses.append(scores.min())
        total += values[chosen[-1]]
    size = int(np.argmin(losses)) + 1
    plain = np.bincount(chosen[:size], minlength=len(values)) / size
    ours = selected(values, LOG_LOSS)
    assert loss(LOG_LOSS, predicted, ours) == pytest.approx(
        loss(LOG_LOSS, predicted, plain), rel=1e-6
    )


@pytest.mark.parametrize(("criterion", "seed"), CASES)
def test_weights_are_shares_and_no_worse_than_the_best_alone(
    criterion: Criterion, seed: int
) -> None:
    predicted = sets(criterion, seed, trials=30)
    values = values_of(criterion, predicted)
    alone = criterion.of(values)
    values, predicted = values[np.argsort(alone)], [predicted[at] for at in np.argsort(alone)]
    for method in (greedy, cma, top):
        weights = np.zeros(len(values))
        found = method(values, criterion, seed)
        weights[: len(found)] = found
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)
        if method is not greedy:  # whose bags may lack the best
            assert loss(criterion, predicted, weights) <= alone.min() + 1e-5


def test_the_plain_mean_has_the_best_size() -> None:
    predicted = classifiers(10, 80, seed=1)
    predicted.sort(key=lambda each: loss(LOG_LOSS, [each], np.ones(1)))
    losses = [
        loss(LOG_LOSS, predicted[:count], np.full(count, 1 / count)) for count in range(1, 11)
    ]
    weights = top(values_of(LOG_LOSS, predicted), LOG_LOSS, 0)
    assert (weights > 0).sum() == int(np.argmin(losses)) + 1


def test_the_same_seed_gives_the_same_weights() -> None:
    values = values_of(LOG_LOSS, classifiers(30, 100))
    for method in (greedy, cma):
        assert (method(values, LOG_LOSS, 3) == method(values, LOG_LOSS, 3)).all()


def test_probabilities_of_zero_are_no_obstacle() -> None:
    output = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]], np.float32)
    values = np.stack([LOG_LOSS.values(output, np.array(t)) for t in ([0, 1, 0, 1, 1], [1] * 5)])
    weights = selected(values, LOG_LOSS)
    assert np.isfinite(LOG_LOSS.of(values)).all()
    assert weights.sum() == pytest.approx(1)


# -- temperatures


def test_losses_at_every_temperature_are_scikit_learns() -> None:
    predicted = classifiers(1, 120)[0]
    fold = np.arange(120) % 3
    found = log_losses(predicted.output, predicted.target, fold, 3)
    for place, sharpness in enumerate(SHARPNESS):
        powered = predicted.output.astype(np.float64) ** sharpness
        powered /= powered.sum(axis=1, keepdims=True)
        assert sharpened(predicted.output, place) == pytest.approx(powered, abs=1e-6)
        for each in range(3):
            rows = fold == each
            expected = log_loss(predicted.target[rows], powered[rows])
            assert found[each, place] == pytest.approx(expected * rows.sum(), rel=1e-5)


def test_an_overconfident_member_is_made_as_sure_as_it_is_right() -> None:
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(4000, 3))
    target = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)  # calibrated as they are
    raised = np.exp(2 * logits)
    output = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
    found = log_losses(output, target, np.zeros(4000, np.intp), 1)[0]
    assert SHARPNESS[found.argmin()] == pytest.approx(0.5, abs=0.13)
    assert SHARPNESS[AS_IT_IS] == 1


def test_labels_are_sharpened_each_with_its_opposite() -> None:
    said = labels(120)
    found = log_losses(said.output, said.target, np.zeros(120, np.intp), 1)[0]
    for place, sharpness in enumerate(SHARPNESS):
        odds = sharpness * np.log(said.output / (1 - said.output.astype(np.float64)))
        wanted = 1 / (1 + np.exp(-odds))
        assert sharpened(said.output, place, of_labels=True) == pytest.approx(wanted, abs=1e-5)
        expected = metrics.log_loss(said.target.ravel(), wanted.ravel(), normalize=False)
        assert found[place] == pytest.approx(expected, rel=1e-4)


# -- stacks


def test_a_label_s_stack_is_a_logistic_regression_on_log_odds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainers.meta_learners.STRENGTHS", (1e6,))  # next to no penalty
    runs = [labels(600, seed) for seed in range(3)]
    outputs, target = np.stack([run.output for run in runs]), runs[0].target
    stack = stacked(outputs, target, seed=0)
    said = stack.output(outputs)
    odds = np.log(outputs / (1 - outputs.astype(np.float64)))
    for label in range(3):
        plain = LogisticRegression(C=1e6).fit(odds[:, :, label].T, target[:, label])
        wanted = plain.predict_proba(odds[:, :, label].T)[:, 1]
        assert np.abs(said[:, label] - wanted).max() < 0.02
    assert stack.weights(3) == pytest.approx([1 / 3] * 3, abs=0.1)
    never = target & [True, True, False]
    assert stacked(outputs, never, seed=0).output(outputs)[:, 2].max() < 1e-9


@pytest.mark.parametrize("classes", [2, 4])
def test_a_stack_of_classifiers_gives_probabilities_and_gains(classes: int) -> None:
    predicted = classifiers(6, 2000, classes)
    outputs = np.stack([p.output for p in predicted])
    target = predicted[0].target
    half = slice(0, 1000)
    stack = stacked(outputs[:, half], target[half], 0)
    output = stack.output(outputs[:, 1000:])
    assert output.sum(axis=1) == pytest.approx(np.ones(1000), abs=1e-5)
    alone = min(log_loss(target[1000:], p.output[1000:]) for p in predicted)
    assert log_loss(target[1000:], output) < alone
    assert stack.weights(6).sum() == pytest.approx(1)


def test_a_class_that_is_not_among_the_fitting_rows_gets_next_to_nothing() -> None:
    predicted = classifiers(3, 200, 3)
    outputs, target = np.stack([p.output for p in predicted]), predicted[0].target
    for wanted in ([0, 1], [2]):
        rows = np.isin(target, wanted)
        output = stacked(outputs[:, rows], target[rows], 0).output(outputs)
        assert output.shape == (200, 3)
        assert output[:, [c for c in range(3) if c not in wanted]].max() < 1e-6


def test_a_stack_of_regressions_finds_the_mixture() -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(100, 10, (3, 500)).astype(np.float32)
    target = 0.7 * outputs[0] + 0.3 * outputs[1] + random.normal(0, 0.1, 500)
    assert non_negative(outputs, target) == pytest.approx([0.7, 0.3, 0], abs=0.02)
    stack = stacked(outputs, target, 0)
    assert stack.coefficients == pytest.approx([0.7, 0.3, 0], abs=0.02)
    assert stack.output(outputs) == pytest.approx(target, abs=0.6)


def test_non_negative_weights_of_classifiers_are_those_of_least_squares() -> None:
    from scipy.optimize import nnls

    predicted = classifiers(5, 400)
    outputs, target = np.stack([p.output for p in predicted]), predicted[0].target
    wanted = (target[:, None] == np.arange(3)).ravel().astype(float)
    expected, _ = nnls(outputs.reshape(5, -1).T.astype(float), wanted)
    weights = non_negative(outputs, target)
    assert weights == pytest.approx(expected / expected.sum(), abs=0.02)


# -- diversity


def test_measures_are_those_of_their_definitions() -> None:
    predicted = classifiers(4, 150)
    target = predicted[0].target
    found = diversity([p.output for p in predicted], target)
    right = [p.output.argmax(axis=1) == target for p in predicted]
    for a, b in itertools.combinations(range(4), 2):
        n11 = sum(x and y for x, y in zip(right[a], right[b], strict=True))
        n00 = sum(not x and not y for x, y in zip(right[a], right[b], strict=True))
        n10 = sum(x and not y for x, y in zip(right[a], right[b], strict=True))
        n01 = 150 - n11 - n00 - n10
        assert found.measures["disagreement"][a, b] == pytest.approx((n10 + n01) / 150)
        assert found.measures["double_fault"][b, a] == pytest.approx(n00 / 150)
        q = (n11 * n00 - n01 * n10) / (n11 * n00 + n01 * n10)
        assert found.measures["q"][a, b] == pytest.approx(q)
    pairs = [found.measures["q"][a, b] for a, b in itertools.combinations(range(4), 2)]
    assert found.mean("q") == pytest.approx(np.mean(pairs))
    assert found.of(0, "q") == pytest.approx(np.mean(found.measures["q"][0, 1:]))


def test_errors_of_regressions_are_correlated_as_numpy_says() -> None:
    predicted = regressions(3, 100)
    found = diversity([p.output for p in predicted], predicted[0].target)
    errors = np.stack([p.output - p.target for p in predicted])
    off = ~np.eye(3, dtype=bool)
    assert found.measures["error_correlation"][off] == pytest.approx(np.corrcoef(errors)[off])


def test_one_member_has_no_diversity() -> None:
    predicted = classifiers(1, 50)[0]
    assert np.isnan(diversity([predicted.output], predicted.target).mean("q"))
