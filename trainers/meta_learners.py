"""Meta-learners of stacking: small models that learn how to combine members' outputs.

Wolpert (1992), "Stacked generalization". Of classifiers a logistic regression on the logarithms of
the members' probabilities; of regressions ridge regression on their values. Non-negative: one
weight a member, none below 0: Breiman (1996), "Stacked regressions", and for classes Ting and
Witten (1999), "Issues in stacked generalization". How strongly it is regularized is chosen on a
fifth of the fitting rows.
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
ITERATIONS = 30  # near enough: the penalty matters more


@dataclass(frozen=True)
class Stack:
    """What was learned.

    Attributes:
        coefficients: (C, m·C) of logarithms, or (m,) of values.
        intercept: (C,), or (1,).
    """

    coefficients: Floats
    intercept: Floats

    def weights(self, members: int) -> Floats:
        """(m,) each member's share of the absolute coefficients, in [0, 1]."""
        size = np.abs(self.coefficients)
        size = size.reshape(len(size), members, -1).sum(axis=(0, 2)) if size.ndim == 2 else size
        return np.asarray(size / max(size.sum(), 1e-300))

    def output(self, outputs: Singles) -> Singles:
        """(n, C) or (n,) of the members' outputs, (m, n, C) or (m, n)."""
        if outputs.ndim == 2:
            return np.asarray(outputs.T @ self.coefficients + self.intercept, np.float32)
        logits = _logarithms(outputs) @ self.coefficients.T + self.intercept
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def stacked(outputs: Singles, target: NDArray[Any], seed: int) -> Stack:
    """Learn from the outputs of members on the fitting rows, (m, n, C) or (m, n)."""
    learn = _logistic if outputs.ndim == 3 else _ridge
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


def _logistic(outputs: Singles, target: NDArray[Any], strength: float) -> Stack:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = outputs.shape[2]
    columns = _logarithms(outputs)
    middle, scale = columns.mean(axis=0), float(columns.std()) or 1.0  # else it takes long
    coefficients, intercept = np.zeros((classes, columns.shape[1])), np.full(classes, -30.0)
    there = np.unique(target)
    if len(there) == 1:  # nothing to learn
        intercept[there] = 0.0
        return Stack(coefficients, intercept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3).fit(
            (columns - middle) / scale, target
        )
    if len(there) == 2:  # one logit: half of it each way
        model.coef_ = np.concatenate([-model.coef_, model.coef_]) / 2
        model.intercept_ = np.concatenate([-model.intercept_, model.intercept_]) / 2
    coefficients[there] = model.coef_ / scale
    intercept[there] = model.intercept_ - coefficients[there] @ middle
    return Stack(coefficients, intercept)


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
    of_truth = said[np.arange(len(wanted)), wanted]
    return float(-np.log(np.maximum(of_truth, LEAST_PROBABILITY), dtype=np.float64).mean())
