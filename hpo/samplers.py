"""Optuna's samplers and pruners by their names in a study file, and the choice of ``auto``."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.budget import most_epochs
from hpo.cma_es import CmaEsSampler
from hpo.fold_pruning import FoldWilcoxon
from hpo.history import History
from hpo.spec import Choice, Parameter, StudySpec
from hpo.spec.space import grid_size

MOST_LISTED = 10_000  # a space with at most so many configurations is searched to its end
MOST_OF_GP = 12  # parameters; beyond, nothing was measured
TRIALS_OF_GP = 100  # beyond, it takes longer for a suggestion than many trials train
LONG_TRIAL = 10  # epochs, from which on pausing trials pays
KNOWN_TO_TPE = 1000  # beyond, an ask takes longer with each trial, and is no better


@dataclass(frozen=True)
class Pick:
    """The name of a sampler or a pruner, and why, when the choice was left to hpo."""

    name: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


def choose_sampler(spec: StudySpec, before: str | None = None) -> Pick:
    """The sampler of a study.

    Args:
        before: What ``auto`` stood for when the study was run last; of ``gp`` and ``tpe`` it goes
            on with that.
    """
    if spec.strategy is not None:
        return Pick(spec.strategy.name)
    if not spec.search:
        return Pick("random", "nothing is searched")
    if spec.sampler.name != "auto":
        return Pick(spec.sampler.name)
    best = best_sampler(spec.search, spec.budget.trials or math.inf, len(spec.objective))
    if before in ("gp", "tpe") and best.name in ("gp", "tpe") and before != best.name:
        return Pick(before, "as the study was begun")
    return best


def best_sampler(search: Mapping[str, Parameter], trials: float, objectives: int) -> Pick:
    """What the figures of docs/guide/samplers.md speak for.

    Args:
        trials: The budget; infinite where something else limits the study.
    """
    size = grid_size(search)
    if objectives > 1:
        return Pick("tpe", "several objectives")
    if size is not None and size <= min(trials, MOST_LISTED):
        return Pick("grid", f"the {size} configurations fit in the budget")
    if any(parameter.when for parameter in search.values()):
        return Pick("tpe", "some parameters depend on others")
    if len(search) > MOST_OF_GP:
        return Pick("tpe", f"more than {MOST_OF_GP} parameters")
    if 2 * sum(isinstance(parameter, Choice) for parameter in search.values()) > len(search):
        return Pick("tpe", "most parameters are choices")
    later = f"; tpe after {TRIALS_OF_GP} trials" if trials > TRIALS_OF_GP else ""
    return Pick("gp", f"few parameters, most of them numbers, none depends on others{later}")


def choose_pruner(spec: StudySpec) -> Pick:
    """The pruner of a study."""
    if spec.strategy is not None:
        return Pick("none")
    if spec.pruner.name != "auto":
        return Pick(spec.pruner.name)
    epochs = most_epochs(spec)
    if spec.search and len(spec.objective) == 1 and epochs and epochs >= LONG_TRIAL:
        return Pick("none", "trials train to their end; strategy: freeze-thaw takes fewer epochs")
    return Pick("none", "what stops trials early often stops the best, too")


def make_sampler(name: str, spec: StudySpec, is_own: Callable[[FrozenTrial], bool]) -> BaseSampler:
    """Every sampler by its name in the study file.

    Args:
        is_own: Whether a trial is of the study, not learnt from another.
    """
    if spec.sampler.name == "auto" and name == "gp":
        return Beginning(_named("gp", spec), RecentTpe(seed=spec.seed), TRIALS_OF_GP, is_own)
    if spec.sampler.name == "auto" and name == "tpe":
        return RecentTpe(group=_is_conditional(spec), multivariate=True, seed=spec.seed)
    return _named(name, spec)


def _is_conditional(spec: StudySpec) -> bool:
    return any(parameter.when for parameter in spec.search.values())


def _named(name: str, spec: StudySpec) -> BaseSampler:
    options = dict(spec.sampler.options)
    seed = spec.seed
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            **{"multivariate": True, "constant_liar": True, "group": _is_conditional(spec)}
            | options,
            seed=seed,
        ),
        "gp": lambda: optuna.samplers.GPSampler(**options, seed=seed),
        "cma-es": lambda: CmaEsSampler(
            **{"warn_independent_sampling": False} | options, seed=seed
        ),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "qmc": lambda: optuna.samplers.QMCSampler(
            **{"scramble": True, "warn_independent_sampling": False} | options, seed=seed
        ),
        # Configurations are enqueued from the listed grid; nothing is left to sample.
        "grid": lambda: optuna.samplers.RandomSampler(seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(**options, seed=seed),
        "nsga3": lambda: optuna.samplers.NSGAIIISampler(**options, seed=seed),
    }
    return samplers[name]()


def make_pruner(
    name: str, spec: StudySpec, history: History, max_epochs: int | None
) -> optuna.pruners.BasePruner:
    """Every pruner by its name in the study file, for one objective."""
    options = dict(spec.pruner.options)
    if name == "patient":
        wrapped = options.pop("wrapped", None)
        inner = _pruner(wrapped, {}, history, max_epochs) if wrapped else None
        return optuna.pruners.PatientPruner(inner, **options)
    return _pruner(name, options, history, max_epochs)


def _pruner(
    name: str, options: dict[str, Any], history: History, max_epochs: int | None
) -> optuna.pruners.BasePruner:
    if name == "wilcoxon":
        return FoldWilcoxon(history, **{"n_warmup_steps": (max_epochs or 0) // 3} | options)
    if name == "hyperband" and max_epochs is not None:
        options = {"max_resource": max_epochs} | options
    if name == "successive_halving":
        options = {"min_resource": 1} | options
    return PRUNERS[name](**options)


PRUNERS: dict[str, Callable[..., optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}


class Beginning(BaseSampler):
    """One sampler for a study's first trials, and another, which knows them, afterwards.

    Args:
        trials: How many are the first.
        is_own: Whether a trial counts; the others are there before the first suggestion.
    """

    def __init__(
        self,
        first: BaseSampler,
        then: BaseSampler,
        trials: int,
        is_own: Callable[[FrozenTrial], bool] = lambda _: True,
    ) -> None:
        self._first, self._then, self._trials, self._is_own = first, then, trials, is_own
        self._others: int | None = None

    def _of(self, study: optuna.Study, trial: FrozenTrial) -> BaseSampler:
        if self._others is None:
            known = study.get_trials(deepcopy=False)
            self._others = sum(not self._is_own(each) for each in known)
        return self._first if trial.number - self._others < self._trials else self._then

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self._of(study, trial)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._then.after_trial(study, trial, state, values)  # it is to know the first trials, too


class RecentTpe(optuna.samplers.TPESampler):
    """TPE that knows at most `KNOWN_TO_TPE` trials: the best tenth, and the newest of the others.

    What it makes of trials that are not among the best 25 hardly changes with their number, but an
    ask takes 12 µs longer with each. Of several objectives, it knows all trials.
    """

    _best: list[tuple[float, int]] | None = None  # loss and number, best first; once needed

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        super().after_trial(study, trial, state, values)
        if self._best is not None and values:
            insort(self._best, (_sign(study) * values[0], trial.number))
            del self._best[KNOWN_TO_TPE // 10 :]

    def best(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> set[int]:
        """The numbers of the best tenth of the trials that TPE is to know.

        Args:
            trials: Those of the study, from which it is found out the first time.
        """
        if self._best is None:
            sign = _sign(study)
            ended = sorted((sign * t.values[0], t.number) for t in trials if t.values)
            self._best = ended[: KNOWN_TO_TPE // 10]
        return {number for _, number in self._best}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(_Recent(study, self), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        recent = _Recent(study, self)
        return super().sample_independent(recent, trial, param_name, param_distribution)


class _Recent(optuna.Study):
    """What `RecentTpe` sees of a study, as Optuna's Hyperband shows TPE a bracket."""

    def __init__(self, study: optuna.Study, tpe: RecentTpe) -> None:
        vars(self).update(vars(study))
        self._tpe = tpe

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        if len(trials) <= KNOWN_TO_TPE or self._is_multi_objective():
            return trials
        best = self._tpe.best(self, trials)
        rest = len(trials) - (KNOWN_TO_TPE - len(best))
        places = (bisect_left(trials, n, key=lambda trial: trial.number) for n in sorted(best))
        known = [trials[at] for at in places if at < rest]
        return [trial for trial in known if trial.number in best] + trials[rest:]


def _sign(study: optuna.Study) -> int:
    return -1 if study.direction == StudyDirection.MAXIMIZE else 1


def reseed(sampler: BaseSampler, seed: int) -> None:
    """Set the sampler's random streams, so that a suggestion depends on its trial's number only.

    Optuna offers `reseed_rng` without a seed; a new sampler a trial would read all trials anew.
    """
    for stream, part in enumerate(vars(sampler).values()):
        if isinstance(part, LazyRandomState):
            part.rng.seed((seed + stream) % 2**32)
        elif isinstance(part, BaseSampler):
            reseed(part, (seed + 7919 * (stream + 1)) % 2**32)
