"""What `auto` stands for, and the samplers that hpo makes of Optuna's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial
from workbench import Workbench

from hpo import samplers
from hpo.samplers import Beginning, RecentTpe, best_sampler, choose_sampler, make_sampler
from hpo.spec import Choice, Float, Int, Parameter

SEARCH = {"train.x": {"low": 0.0, "high": 1.0}}
NUMBER, WIDTH, KIND = Float(1e-4, 1.0, log=True), Int(1, 512), Choice(("a", "b"))


@pytest.mark.parametrize(
    ("search", "trials", "objectives", "name"),
    [
        ({"x": NUMBER, "kind": KIND}, 50, 1, "gp"),
        ({"x": NUMBER, "n": WIDTH}, math.inf, 1, "gp"),
        ({"x": NUMBER, "kind": KIND}, 50, 2, "tpe"),
        ({"x": NUMBER, "kind": KIND, "other": KIND}, 50, 1, "tpe"),
        ({"kind": KIND, "x": Float(0.0, 1.0, when={"kind": "a"})}, 50, 1, "tpe"),
        ({f"x{i}": NUMBER for i in range(samplers.MOST_OF_GP + 1)}, 50, 1, "tpe"),
        ({"n": WIDTH}, 512, 1, "grid"),
        ({"n": WIDTH}, 511, 1, "gp"),
    ],
)
def test_auto_chooses_by_the_space_the_budget_and_the_objectives(
    search: Mapping[str, Parameter], trials: float, objectives: int, name: str
) -> None:
    assert best_sampler(search, trials, objectives).name == name


def test_a_study_goes_on_with_what_was_chosen_when_it_was_begun(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"sampler": "auto", "search": SEARCH}
    with monkeypatch.context() as earlier_version:
        earlier_version.setattr(samplers, "MOST_OF_GP", 0)
        bench.run(**options, budget__trials=2)
    bench.run(**options, budget__trials=4)
    bench.run(**options | {"sampler": "random"}, budget__trials=6)
    bench.run(**options, budget__trials=8)
    of_runs = [record["sampler"] for record in bench.records("study")]
    assert of_runs == ["tpe", "tpe", "random", "gp"]


def test_auto_s_gp_gives_way_to_tpe_after_as_many_trials_as_it_says(bench: Workbench) -> None:
    spec = bench.load(sampler="auto", search=SEARCH, budget__trials=200)
    pick = choose_sampler(spec)
    assert isinstance(make_sampler(pick.name, spec, lambda _: True), Beginning)
    assert f"tpe after {samplers.TRIALS_OF_GP} trials" in str(pick)
    space = {"x": FloatDistribution(0.0, 1.0)}

    def suggested(sampler: optuna.samplers.BaseSampler, trials: int) -> list[float]:
        study = optuna.create_study(sampler=sampler)
        return [study.ask(space).params["x"] for _ in range(trials)]

    both = suggested(Beginning(RandomSampler(seed=1), RandomSampler(seed=2), 2), 4)
    assert both[:2] == suggested(RandomSampler(seed=1), 2)
    assert both[2:] == suggested(RandomSampler(seed=2), 2)

    def is_own(trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number >= 5

    sampler = Beginning(RandomSampler(seed=1), RandomSampler(seed=2), 2, is_own)
    study = optuna.create_study(sampler=sampler)
    learnt = create_trial(value=0.0, params={"x": 0.5}, distributions=space)
    study.add_trials([learnt] * 5)  # from another study
    assert [study.ask(space).params["x"] for _ in range(4)] == both


def test_tpe_knows_the_best_trials_the_newest_and_those_in_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "KNOWN_TO_TPE", 20)
    space = {"x": FloatDistribution(0.0, 1.0)}
    tpe = RecentTpe(seed=0)
    study = optuna.create_study(direction="maximize", sampler=tpe)
    study.add_trials(
        [
            create_trial(value=-number, params={"x": 0.5}, distributions=space)
            for number in range(100)
        ]
    )
    in_training = study.ask(space)
    known = samplers._Recent(study, tpe).get_trials(deepcopy=False)
    assert [trial.number for trial in known] == [0, 1, *range(83, 101)]
    assert known[-1].number == in_training.number
    ended = samplers._Recent(study, tpe).get_trials(states=(TrialState.COMPLETE,))
    assert [trial.number for trial in ended] == [0, 1, *range(82, 100)]
    others = [study.ask(space) for _ in range(30)]
    for trial in others:
        study.tell(trial, -1000.0)
    study.tell(in_training, -0.5)
    known = samplers._Recent(study, tpe).get_trials(deepcopy=False)
    assert [trial.number for trial in known] == [0, 100, *range(113, 131)]
