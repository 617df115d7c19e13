"""What freeze-thaw decides, on studies of made-up curves."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpo.freeze_thaw import COMPLETION, FIRST, MOST_EARLIER, FreezeThaw
from hpo.freeze_thaw.curves import Earlier, rungs
from hpo.history import History, TrialHistory
from hpo.spec import Choice, Float, Int, Scalar
from hpo.strategy import New, Resume

LENGTH = 24
SEARCH: dict[str, Any] = {
    "train.lr": Float(1e-4, 1.0, log=True),
    "model.layers": Int(1, 4),
    "model.name": Choice(("a", "b")),
    "model.skip": Float(0.0, 1.0, when={"model.name": "b"}),
}
Params = Mapping[str, Scalar]


def error(params: Params, epoch: int) -> float:
    """Falls with the epochs; a small learning rate is slow, and the best one in the end."""
    lr = math.log10(float(params["train.lr"] or 0))  # -4 … 0
    end = 0.1 + 0.1 * (lr + 2.5) ** 2 + 0.05 * abs(int(params["model.layers"] or 0) - 3)
    end += 0.2 * (1 - float(params["model.skip"] or 0)) if params["model.name"] == "b" else 0.1
    return end + math.exp(-epoch * 10 ** (0.4 * lr) * 0.8)


def strategy(
    seed: int = 0, length: Callable[[Params], int] = lambda _: LENGTH, **more: Any
) -> FreezeThaw:
    return FreezeThaw(SEARCH, length, **{"maximize": False, "seed": seed} | more)


class Study:
    """A study of one worker after another."""

    def __init__(self, epochs: int, value: Callable[[Params, int], float] = error) -> None:
        study: dict[str, Any] = {"budget": {"epochs": epochs, "trials": None}}
        self.history = History(["val/loss"], False, study=study)
        self.value = value

    def begin(self, decision: New | Resume) -> TrialHistory:
        if isinstance(decision, New):
            number = len(self.history.trials)
            trial = TrialHistory(number, decision.params)
            line = {"kind": "trial", "number": number, "params": decision.params}
        else:
            trial = self.history.trials[decision.number]
            line = {"kind": "trial", "number": trial.number, "params": trial.params}
        self.history.add(
            line | {"time_ms": 0, "attempt": 1, "crashes": 0, "until": decision.until}
        )
        return self.history.trials[trial.number]

    def train(self, trial: TrialHistory, length: int = LENGTH) -> None:
        number = trial.number
        for epoch in range(trial.recorded + 1, (trial.until or length) + 1):
            metrics = {"val/loss": self.value(trial.params, epoch)}
            line = {"kind": "epoch", "number": number, "epoch": epoch, "metrics": metrics}
            self.history.add(line | {"time_ms": 0, "seconds": 1.0})
        if trial.until is None:
            best = min(value[0] for value in trial.values.values())
            line = {"kind": "end", "number": number, "state": "complete", "values": [best]}
            self.history.add(line | {"time_ms": 0, "best_epoch": length, "reason": ""})
        else:
            self.history.add(
                {"kind": "pause", "number": number, "epoch": trial.until, "time_ms": 0}
            )

    def run(self, chooser: FreezeThaw, most: int = 1000) -> list[New | Resume]:
        made: list[New | Resume] = []
        while len(made) < most and (decision := chooser.decide(self.history, [])) is not None:
            made.append(decision)
            trial = self.begin(decision)
            chooser.follow(self.history)
            self.train(trial)
        return made


def test_it_keeps_to_the_budget_and_to_the_rungs() -> None:
    study = Study(epochs=20 * LENGTH)
    made = study.run(strategy())
    spent = 0
    since = 0
    for decision in made:
        assert decision.until is None or decision.until in rungs(LENGTH)[:-1]
    trained = sum(trial.recorded for trial in study.history.trials.values())
    # Nothing that is still paused could be trained to its end in what is left.
    left = 20 * LENGTH - trained
    assert left >= 0
    assert all(LENGTH - trial.recorded > left for trial in study.history.paused)
    whole = [trial for trial in study.history.ended if trial.end is not None]
    assert 5 <= len(whole) < 20 < len(study.history.trials)
    reached: dict[int, int] = {}
    for number, until in study.history.decisions:
        cost = (until or LENGTH) - reached.get(number, 0)
        reached[number] = until or LENGTH
        spent += cost
        since = 0 if until is None else since + cost
        assert since <= (COMPLETION + 1) * LENGTH
    assert spent == trained


def test_it_finds_more_than_random_search_in_four_times_the_epochs() -> None:
    found, drawn = [], []
    for seed in range(2):
        study = Study(epochs=12 * LENGTH)
        study.run(strategy(seed))
        assert study.history.best is not None
        found.append(study.history.best.value)
        rng, cube = np.random.default_rng(seed), strategy()._cube
        some = [cube.decode(point) for point in cube.random(rng, 48)]
        drawn.append(min(error(params, LENGTH) for params in some))
    assert np.median(found) < np.median(drawn)


def test_asked_again_after_a_restart_the_answer_is_the_same() -> None:
    study, along = Study(epochs=9 * LENGTH), strategy()
    while (decision := along.decide(study.history, [])) is not None:
        if len(study.history.decisions) % 7 == 3:
            assert strategy().decide(study.history, []) == decision
        trial = study.begin(decision)
        along.follow(study.history)
        study.train(trial)
    assert len(study.history.decisions) > 15


def test_the_scale_of_the_metric_does_not_matter() -> None:
    made = Study(epochs=6 * LENGTH).run(strategy())
    larger = Study(epochs=6 * LENGTH, value=lambda p, e: 1024 * error(p, e))
    assert larger.run(strategy()) == made


def test_several_workers_are_given_different_things() -> None:
    study, chooser = Study(epochs=40 * LENGTH), strategy()
    study.run(chooser, most=12)
    pending: list[TrialHistory] = []
    decided = []
    for number in range(len(study.history.trials), len(study.history.trials) + 6):
        decision = chooser.decide(study.history, pending)
        assert decision is not None
        if isinstance(decision, New):
            pending.append(TrialHistory(number, decision.params, until=decision.until))
        else:
            trial = study.history.trials[decision.number]
            pending.append(replace(trial, until=decision.until, paused=False))
        decided.append(decision)
    new = [decision.params for decision in decided if isinstance(decision, New)]
    resumed = [decision.number for decision in decided if isinstance(decision, Resume)]
    assert len(new) + len(resumed) == 6
    assert len(set(resumed)) == len(resumed)
    lr = sorted(math.log10(float(params["train.lr"] or 0)) for params in new)
    assert all(b - a > 1e-3 for a, b in zip(lr, lr[1:], strict=False))


def test_where_trials_diverge_it_looks_no_further() -> None:
    study, chooser = Study(epochs=30 * LENGTH), strategy()
    diverged = 0
    for _ in range(40):
        decision = chooser.decide(study.history, [])
        assert decision is not None
        trial = study.begin(decision)
        if float(trial.params["train.lr"]) > 3e-2:
            end = {"kind": "end", "number": trial.number, "state": "failed", "values": None}
            reason = "NonFinite: train/loss is nan at epoch 1"
            study.history.add(end | {"time_ms": 0, "best_epoch": None, "reason": reason})
            diverged += 1
        else:
            study.train(trial)
    new = list(study.history.trials.values())
    late = [trial for trial in new[2 * FIRST :] if float(trial.params["train.lr"]) > 3e-2]
    assert diverged >= 2
    assert len(late) < 0.2 * len(new[2 * FIRST :])


def test_earlier_trials_are_where_it_begins_unless_they_mislead() -> None:
    cube = strategy()._cube
    points = [cube.decode(point) for point in cube.random(np.random.default_rng(5), 40)]
    told = [Earlier(params, -error(params, LENGTH), study=1) for params in points]
    first = strategy(earlier=told).decide(Study(epochs=20 * LENGTH).history, [])
    assert isinstance(first, New)
    good = sorted(points, key=lambda params: error(params, LENGTH))[4]
    assert error(first.params, LENGTH) <= error(good, LENGTH)
    wrong = [Earlier(params, +error(params, LENGTH), study=1) for params in points]
    trust = []
    for earlier in (told, wrong):
        chooser, study = strategy(earlier=earlier), Study(epochs=20 * LENGTH)
        study.run(chooser, most=30)
        trust.append(chooser._model(chooser._curves.see(study.history, [])).kernel.trust)
    assert trust[1] < 0.7 * trust[0]


def test_trials_of_different_lengths_and_those_that_stop_early() -> None:
    def length(params: Params) -> int:
        return 8 * int(params["model.layers"] or 1)

    study, chooser = Study(epochs=200), strategy(length=length)
    for _ in range(25):
        decision = chooser.decide(study.history, [])
        if decision is None:
            break
        trial = study.begin(decision)
        assert decision.until is None or decision.until in rungs(length(trial.params))
        study.train(trial, min(length(trial.params), 14))  # none gets further than that
    assert any(trial.end for trial in study.history.trials.values())


@pytest.mark.parametrize("budget", [LENGTH, LENGTH + LENGTH // 4, 40 * LENGTH])
def test_a_small_budget_and_a_small_space_have_whole_trials(budget: int) -> None:
    search = SEARCH if budget < 2 * LENGTH else {"model.name": Choice(("a", "b", "c"))}
    chooser = FreezeThaw(search, lambda _: LENGTH, maximize=False, seed=0)
    length = {"a": 0.1, "b": 0.3, "c": 0.2}
    study = Study(budget, lambda params, e: length.get(str(params["model.name"]), 0.4) + 1 / e)
    study.run(chooser)
    assert study.history.best is not None
    if search is not SEARCH:
        assert len(study.history.ended) == 3


@pytest.mark.parametrize("lowest", [0.0, -0.5])
def test_errors_of_zero_and_losses_below_it_are_the_best(lowest: float) -> None:
    def value(params: Params, epoch: int) -> float:
        found = 30 ** (1.5 * math.log10(float(params["train.lr"] or 0)) + 3) * (1 + 9 / epoch)
        return found if found > 1e-2 else lowest

    study, chooser = Study(epochs=16 * LENGTH, value=value), strategy()
    study.run(chooser)
    assert study.history.best is not None
    assert study.history.best.value == lowest


def test_where_all_diverge_it_goes_on() -> None:
    study, chooser = Study(epochs=16 * LENGTH), strategy()
    for _ in range(14):
        decision = chooser.decide(study.history, [])
        assert isinstance(decision, New)
        trial = study.begin(decision)
        end = {"kind": "end", "number": trial.number, "state": "failed", "values": None}
        reason = "NonFinite: train/loss is nan at epoch 1"
        study.history.add(end | {"time_ms": 0, "best_epoch": None, "reason": reason})


def test_a_trial_that_stops_early_where_it_was_to_pause_is_known_to_be_over() -> None:
    study, chooser = Study(epochs=40 * LENGTH), strategy()
    study.run(chooser, most=3)
    decision = chooser.decide(study.history, [])
    assert isinstance(decision, New)
    assert decision.until is not None
    trial = study.begin(decision)
    for epoch in range(1, decision.until + 1):
        line = {"kind": "epoch", "number": trial.number, "epoch": epoch, "seconds": 1.0}
        study.history.add(line | {"time_ms": 0, "metrics": {"val/loss": 0.01}})
    chooser.follow(study.history)  # as between that epoch and the trial's end
    line = {"kind": "end", "number": trial.number, "state": "complete", "values": [0.01]}
    study.history.add(line | {"time_ms": 0, "best_epoch": decision.until, "reason": ""})
    seen = chooser._curves.see(study.history, [])
    assert seen.scores[seen.rows.stages >= 1].max() == -0.01


def test_a_shorter_trial_is_begun_where_a_long_one_does_not_fit() -> None:
    def length(params: Params) -> int:
        return 8 * int(params["model.layers"] or 1)

    study, chooser = Study(epochs=100), strategy(length=length)
    study.run(chooser)
    spent = sum(trial.recorded for trial in study.history.trials.values())
    assert 100 - spent < 8


def test_a_large_earlier_study_does_not_make_decisions_slow() -> None:
    cube = strategy()._cube
    points = [cube.decode(point) for point in cube.random(np.random.default_rng(5), 3000)]
    told = [Earlier(params, -error(params, LENGTH), study=1) for params in points]
    assert len(strategy(earlier=told)._earlier[0]) == MOST_EARLIER


def test_beyond_the_trials_of_the_budget_only_paused_ones_go_on() -> None:
    study = Study(epochs=30 * LENGTH)
    study.history.study = {"budget": {"epochs": 30 * LENGTH, "trials": 14}}
    made = study.run(strategy())
    assert len(study.history.trials) == 14
    assert not study.history.paused  # all were trained to their ends, one after another
    assert isinstance(made[-1], Resume)


def test_hopeless_are_the_paused_of_the_worst_prospects() -> None:
    study, chooser = Study(epochs=40 * LENGTH), strategy()
    study.run(chooser, most=30)
    order = chooser.hopeless(study.history)
    assert sorted(order) == sorted(trial.number for trial in study.history.paused)
    made = study.run(chooser, most=25)
    resumed = [each.number for each in made if isinstance(each, Resume)]
    assert resumed
    assert not set(resumed) & set(order[: len(order) // 3])


@pytest.mark.parametrize("length", [1, 2, 5, 52])
def test_rungs_are_an_eighth_a_quarter_and_a_half(length: int) -> None:
    stops = {1: [1], 2: [1, 2], 5: [1, 2, 5], 52: [6, 13, 26, 52]}
    assert rungs(length) == stops[length]
