"""Pruning fold against fold: a trial is held against the best one on the same folds.

Some folds are harder than others, and that hides how two trials differ if only their means are
compared. Wilcoxon's signed-rank test (Wilcoxon 1945) looks at the differences fold by fold.
Optuna's `WilcoxonPruner` is for trials whose folds are trained one after another, each to its end.
Here all folds of a trial train side by side, so they are compared at the same epoch; what they
reached is read from the study's record, and is the same after a restart.
"""

from __future__ import annotations

import numpy as np
import optuna

from hpo.history import History

# All signs of up to so many values are gone through, in less than a millisecond. With ties scipy
# takes 25 for ten values, and the trials would wait for it.
MOST_COUNTED = 13


class FoldWilcoxon(optuna.pruners.BasePruner):
    """Prunes a trial that is worse than the best complete one, by more than chance.

    A trial that outlasts the best one is held against its last epoch. Repeats count as folds do.
    As there is a look at every epoch, and as folds share training rows, more trials that are as
    good as the best one are pruned than `p_threshold` says: it is a setting, not a rate.
    """

    def __init__(
        self, history: History, p_threshold: float = 0.05, n_warmup_steps: int | None = None
    ) -> None:
        """Read what folds reached from `history`, which is kept up to date by others.

        Args:
            p_threshold: In (0, 1); of the one-sided test.
            n_warmup_steps: First epochs, in which nothing is pruned; None: none.
        """
        self._history = history
        self._p_threshold = p_threshold
        self._n_warmup_steps = n_warmup_steps or 0

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        epoch, best = trial.last_step, self._history.best
        if epoch is None or epoch <= self._n_warmup_steps or best is None:
            return False
        reference = self._history.trials[best.number]
        theirs = reference.folds.get(min(epoch, reference.recorded), {})
        mine = self._history.trials[trial.number].folds.get(epoch, {})
        names = sorted(mine.keys() & theirs.keys())
        sign = 1 if self._history.maximize else -1
        worse = np.array([sign * (theirs[name] - mine[name]) for name in names])
        if not names or not worse.mean() > 0:  # nor where one is NaN
            return False
        return p_value(worse) < self._p_threshold


def p_value(differences: np.ndarray) -> float:
    """How likely at least such differences are if both signs are: Wilcoxon's test, one-sided.

    Args:
        differences: (n,) finite, not all 0.
    """
    from scipy.stats import rankdata, wilcoxon  # half a second, and not every study prunes so

    count = len(differences)
    if count > MOST_COUNTED:
        tested = wilcoxon(differences, zero_method="zsplit", alternative="greater")
        return float(tested.pvalue)
    ranks = rankdata(np.abs(differences))
    signs = np.where(np.arange(2**count)[:, None] >> np.arange(count) & 1, -1, 1)
    reached = signs @ np.where(differences == 0, 0, ranks)
    return float(np.mean(reached >= np.sign(differences) @ ranks))
