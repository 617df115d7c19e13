"""The simulation behind benchmarks/search.py: what it counts, and that its peers are Optuna's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from hpo.spec import Float
from hpo.strategy import New, Resume

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import search_policies as policies
from search_simulation import simulate

EPOCHS = 9
SEARCH = {"x": Float(0.0, 1.0)}


def curve(params: Mapping[str, Any]) -> NDArray[np.float64]:
    """Curves that cross: a large x is good early, a small one late."""
    x = params["x"]
    return np.array([x * (1 - 0.2 * epoch) + 0.1 * epoch for epoch in range(1, EPOCHS + 1)])


class Scripted:
    """What is decided, one after another."""

    def __init__(self, *decisions: New | Resume) -> None:
        self._decisions = list(decisions)

    def decide(self, history: Any, pending: Any) -> New | Resume | None:
        return self._decisions.pop(0) if self._decisions else None

    def hopeless(self, history: Any) -> list[int]:
        return []

    def follow(self, history: Any) -> None:
        return


@pytest.mark.parametrize(
    ("workers", "script", "costs"),
    [
        (1, [New({"x": 0.1}, None), New({"x": 0.2}, 6), Resume(1, None)], [9, 18]),
        (2, [New({"x": 0.1}, 3), New({"x": 0.2}, None), Resume(0, None)], [18, 18]),
    ],
)
def test_only_new_epochs_cost_and_only_whole_trials_count(
    workers: int, script: list[New | Resume], costs: list[int]
) -> None:
    run = simulate(Scripted(*script), curve, EPOCHS, budget=100, workers=workers)
    assert [cost for cost, _ in run.completions] == costs
    assert run.best_at(costs[0] - 1) is None
    assert run.best_at(costs[-1]) == max(curve({"x": x})[-1] for x in (0.1, 0.2))


def test_a_stopping_rule_does_as_it_does_in_optuna() -> None:
    pruner = optuna.pruners.HyperbandPruner(max_resource=EPOCHS)
    sampler = optuna.samplers.TPESampler(seed=3)
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)

    def objective(trial: optuna.Trial) -> float:
        values = curve({"x": trial.suggest_float("x", 0.0, 1.0)})
        for epoch, value in enumerate(values, 1):
            trial.report(value, epoch)
            if epoch < EPOCHS and trial.should_prune():
                raise optuna.TrialPruned
        return float(values[-1])

    study.optimize(objective, n_trials=40)
    spent = sum(len(trial.intermediate_values) for trial in study.trials)
    again = policies.Stopping(
        optuna.samplers.TPESampler(seed=3),
        optuna.pruners.HyperbandPruner(max_resource=EPOCHS),
        SEARCH,
        EPOCHS,
    )
    # Hyperband deals trials to its brackets by the study's name.
    again._study = optuna.create_study(
        study_name=study.study_name,
        direction="maximize",
        sampler=again._study.sampler,
        pruner=again._study.pruner,
    )
    run = simulate(again, curve, EPOCHS, budget=spent)
    whole = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    assert [value for _, value in run.completions] == whole
    assert run.begun == len(study.trials)
    assert 0 < len(whole) < run.begun


def test_the_best_third_of_a_rung_goes_on() -> None:
    promoting = policies.Promoting(SEARCH, EPOCHS, seed=0, least=1)
    run = simulate(promoting, curve, EPOCHS, budget=200)
    assert promoting._rungs == [1, 3, 9]
    for rung in (0, 1):
        results = promoting._results[rung]
        best = sorted(results, key=lambda number: -results[number])[: len(results) // 9]
        assert set(best) <= promoting._promoted[rung]
        # Which ones are the best third changes as trials come in: some more than that go on.
        assert len(results) // 3 - 1 <= len(promoting._promoted[rung]) <= len(results) // 2
    assert len(run.completions) == len(promoting._results[2]) > 3
