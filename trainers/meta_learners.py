"""Meta-learners of stacking: small models that learn how to combine members' outputs.

Wolpert (1992), "Stacked generalization". Of classifiers a logistic regression on the logarithms of
the members' probabilities, of labels one each on their log-odds of it; of regressions ridge
regression on their values. Non-negative: one weight a member, none below 0: Breiman (1996),
"Stacked regressions", and for classes Ting and Witten (1999), "Issues in stacked generalization".
How strongly it is regularized is chosen on a fifth of the fitting rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

HELD_OUT = 5  # every fifth row chooses the regularization
CHOOSING_ROWS = 2000  # more do not help to choose it
# How much the rows count against the penalty: scikit-learn's C, and one by its alpha.
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0)
LEAST_PROBABILITY = np.float32(1e-6)
MOST_ODDS = 30.0  # of what is the same in all rows
ITERATIONS = 30  # near enough: the penalty matters more


@dataclass(frozen=True)
class Stack:
    """What was learned.

    Attributes:
        coefficients: (C, m·C) of logarithms, (L, m·L) of log-odds, or (m,) of values.
        intercept: (C,), (L,) or (1,).
        of_labels: Each row of coefficients is of a label, whatever the others are.
    """

    coefficients: Floats
    intercept: Floats
    of_labels: bool = False

    def weights(self, members: int) -> Floats:
        """(m,) each member's share of the absolute coefficients, in [0, 1]."""
        size = np.abs(self.coefficients)
        size = size.reshape(len(size), members, -1).sum(axis=(0, 2)) if size.ndim == 2 else size
        return np.asarray(size / max(size.sum(), 1e-300))

    def output(self, outputs: Singles) -> Singles:
        """(n, C), (n, L) or (n,) of the members' outputs, (m, n, C), (m, n, L) or (m, n)."""
        if outputs.ndim == 2:
            return np.asarray(outputs.T @ self.coefficients + self.intercept, np.float32)
        if self.of_labels:
            odds = _log_odds(outputs) @ self.coefficients.T + self.intercept
            return np.asarray(1 / (1 + np.exp(-np.clip(odds, -MOST_ODDS, MOST_ODDS))), np.float32)
        logits = _logarithms(outputs) @ self.coefficients.T + self.intercept
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def stacked(outputs: Singles, target: NDArray[Any], seed: int) -> Stack:
    """Learn from the outputs of members on the fitting rows, (m, n, C), (m, n, L) or (m, n)."""
    learn = _ridge if outputs.ndim == 2 else _of_labels if target.ndim == 2 else _logistic
    order = np.random.default_rng(seed).permutation(len(target))[:CHOOSING_ROWS]
    held_out, kept = order[::HELD_OUT], np.delete(order, slice(None, None, HELD_OUT))
    losses = [
        _loss(learn(outputs[:, kept], target[kept], strength), outputs, target, held_out)
        for strength in STRENGTHS
    ]
    return learn(outputs, target, STRENGTHS[int(np.argmin(losses))])


def non_negative(outputs: Singles, target: NDArray[Any]) -> Floats:
    """(m,) weights, none below 0, with the sum 1, by ridge regression on the target, or on
    whether it is each class or has each label."""
    from sklearn.linear_model import Ridge

    members = len(outputs)
    wanted = target.astype(np.float64)
    if target.ndim == 2:
        wanted = wanted.ravel()
    elif outputs.ndim == 3:
        wanted = (target[:, None] == np.arange(outputs.shape[2])).astype(np.float64).ravel()
    else:  # from the mean, so that a weight does not stand for it
        outputs, wanted = outputs - target.mean(), wanted - target.mean()
    columns = outputs.reshape(members, -1).T.astype(np.float64)
    model = Ridge(alpha=1e-3 * float((columns**2).mean()) * len(columns), positive=True)
    weights = model.set_params(fit_intercept=False).fit(columns, wanted).coef_
    total = weights.sum()
    return np.asarray(weights / total if total > 0 else np.full(members, 1 / members))


def _logarithms(outputs: Singles) -> Singles:
    """(n, m·C)"""
    return np.concatenate(list(np.log(np.maximum(outputs, LEAST_PROBABILITY))), axis=1)


def _log_odds(outputs: Singles) -> Singles:
    """(n, m·L)"""
    there = np.clip(outputs, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.concatenate(list(np.log(there) - np.log1p(-there)), axis=1)


def _logistic(outputs: Singles, target: NDArray[Any], strength: float) -> Stack:
    classes = outputs.shape[2]
    columns = _logarithms(outputs)
    coefficients, intercept = np.zeros((classes, columns.shape[1])), np.full(classes, -MOST_ODDS)
    there = np.unique(target)
    if len(there) == 1:  # nothing to learn
        intercept[there] = 0.0
        return Stack(coefficients, intercept)
    slopes, offsets = _regression(columns, target, strength)
    if len(there) == 2:  # one logit: half of it each way
        slopes, offsets = (np.concatenate([-each, each]) / 2 for each in (slopes, offsets))
    coefficients[there], intercept[there] = slopes, offsets
    return Stack(coefficients, intercept)


def _of_labels(outputs: Singles, target: NDArray[Any], strength: float) -> Stack:
    """A label after the other: to the logistic regression it is a class of two."""
    labels = outputs.shape[2]
    columns = _log_odds(outputs)
    coefficients, intercept = np.zeros((labels, columns.shape[1])), np.zeros(labels)
    for label, wanted in enumerate(target.T):
        if wanted.all() or not wanted.any():  # nothing to learn
            intercept[label] = MOST_ODDS if wanted[0] else -MOST_ODDS
            continue
        slopes, offsets = _regression(columns[:, label::labels], wanted, strength)
        coefficients[label, label::labels], intercept[label] = slopes[0], offsets[0]
    return Stack(coefficients, intercept, of_labels=True)


def _regression(columns: Singles, target: NDArray[Any], strength: float) -> tuple[Floats, Floats]:
    """(C, k) coefficients and (C,) intercepts of a logistic regression; of two classes of the
    logit of the second, (1, k) and (1,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    middle, scale = columns.mean(axis=0), float(columns.std()) or 1.0  # else it takes long
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3).fit(
            (columns - middle) / scale, target
        )
    slopes = model.coef_ / scale
    return slopes, model.intercept_ - slopes @ middle


def _ridge(outputs: Singles, target: NDArray[Any], strength: float) -> Stack:
    from sklearn.linear_model import Ridge

    middle, scale = float(target.mean()), float(target.std()) or 1.0
    model = Ridge(alpha=1 / strength).fit((outputs.T - middle) / scale, (target - middle) / scale)
    offset = model.intercept_ * scale + middle * (1 - model.coef_.sum())
    return Stack(np.asarray(model.coef_, np.float64), np.array([offset]))


def _loss(stack: Stack, outputs: Singles, target: NDArray[Any], rows: NDArray[np.intp]) -> float:
    said, wanted = stack.output(outputs[:, rows]), target[rows]
    if said.ndim == 1:
        return float(np.square(said - wanted, dtype=np.float64).mean())
    if stack.of_labels:
        of_truth = np.where(wanted, said, 1 - said)
    else:
        of_truth = said[np.arange(len(wanted)), wanted]
    return float(-np.log(np.maximum(of_truth, LEAST_PROBABILITY), dtype=np.float64).mean())
