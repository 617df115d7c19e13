"""Behind benchmarks/search.py and search_tables.py: what counts, and that peers are Optuna's."""

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
import search
import search_policies as policies
import search_tables
from search_simulation import Run, simulate

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
    best = max(curve({"x": x})[-1] for x in (0.1, 0.2))
    assert run.best_at(costs[-1]) == best
    assert run.reaches(best, budget=costs[-1]) <= costs[-1]
    assert run.reaches(best, budget=costs[0] - 1) == float("inf")


def test_a_stopping_rule_does_as_it_does_in_optuna() -> None:
    pruner = optuna.pruners.HyperbandPruner(max_resource=EPOCHS)
    sampler = optuna.samplers.TPESampler(seed=3)
    study = optuna.create_study(
        study_name="search", direction="maximize", sampler=sampler, pruner=pruner
    )

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
    run = simulate(again, curve, EPOCHS, budget=spent)
    whole = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    assert [value for _, value in run.completions] == whole
    assert run.begun == len(study.trials)
    assert 0 < len(whole) < run.begun


def test_a_data_set_where_random_is_better_at_two_times_is_one() -> None:
    at_random = Run([(520, 1.0), (2600, 1.0), (5252, 3.0)])
    ours = Run([(520, 0.0), (2600, 2.0), (5252, 3.0)], decisions_ms=[1.0])
    targets = {
        ("random", "a", 0): at_random,
        ("tpe", "a", 0): Run([(5200, 3.0)]),
    }
    rated = search.Ratings({("freeze-thaw", "a", 0): ours}, targets, {"a": (3.0, 0.0)})
    rating = rated.of("freeze-thaw", 5200)
    assert [len(found) for found in rating.worse.values()] == [1, 1, 0, 0]
    figures = {figure.name: figure.value for figure in search.goals({"freeze-thaw": rating}, 1)}
    assert figures["data sets where random is better"] == 1
    assert rating.reach == 0  # at 5,252 epochs it is too late


def test_of_what_looks_equally_good_the_first_counts() -> None:
    assert search_tables.best_looking([(1.0, 9.0), (2.0, 3.0), (2.0, 4.0)]) == 3.0


def test_seeds_of_a_data_set_are_no_further_data_sets() -> None:
    ours, theirs = [[0.02] * 50, [0.005] * 50], [[0.01] * 50] * 2
    assert search_tables.ratio(ours, theirs) == pytest.approx((1.0, 0.5, 2.0))
    assert search_tables.ratio(ours[:1], theirs[:1]) == pytest.approx((2.0, 2.0, 2.0))


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
