"""Optuna's samplers and pruners by their names in a study file, and the choice of ``auto``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.samplers._lazy_random_state import LazyRandomState

from hpo.cma_es import CmaEsSampler
from hpo.fold_pruning import FoldWilcoxon
from hpo.history import History
from hpo.spec import Float, Int, StudySpec
from hpo.spec.space import grid_size

MOST_LISTED = 10_000  # a space with at most so many configurations is searched to its end


def choose_sampler(spec: StudySpec) -> tuple[str, str]:
    """The sampler's name, and why, when the choice was left to hpo."""
    if not spec.search:
        return "random", "nothing is searched"
    if spec.sampler.name != "auto":
        return spec.sampler.name, ""
    trials = spec.budget.trials or math.inf
    size = grid_size(spec.search)
    parameters = spec.search.values()
    if len(spec.objective) > 1:
        return "tpe", "several objectives"
    if size is not None and size <= min(trials, MOST_LISTED):
        return "grid", f"the {size} configurations fit in the budget"
    numeric = all(isinstance(p, Float | Int) and not p.when for p in parameters)
    if numeric and len(spec.search) <= 8 and trials <= 100:
        return "gp", f"few parameters, all of them numbers, and at most {int(trials)} trials"
    return "tpe", "choices, conditions or many trials"


def make_sampler(name: str, spec: StudySpec) -> BaseSampler:
    """Every sampler by its name in the study file."""
    options = dict(spec.sampler.options)
    seed = spec.seed
    conditional = any(parameter.when for parameter in spec.search.values())
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            **{"multivariate": True, "constant_liar": True, "group": conditional} | options,
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
    spec: StudySpec, history: History, max_epochs: int | None
) -> optuna.pruners.BasePruner:
    """Every pruner by its name in the study file, for one objective."""
    name, options = spec.pruner.name, dict(spec.pruner.options)
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


def reseed(sampler: BaseSampler, seed: int) -> None:
    """Set the sampler's random streams, so that a suggestion depends on its trial's number only.

    Optuna offers `reseed_rng` without a seed; a new sampler a trial would read all trials anew.
    """
    for stream, part in enumerate(vars(sampler).values()):
        if isinstance(part, LazyRandomState):
            part.rng.seed((seed + stream) % 2**32)
        elif isinstance(part, BaseSampler):
            reseed(part, (seed + 7919 * (stream + 1)) % 2**32)
