"""What the orchestrator knows of a study, from its outbox."""

from __future__ import annotations

from typing import Any

import pytest

from hpo.history import History, seed_for


def study(time_ms: int) -> dict[str, Any]:
    return {"kind": "study", "time_ms": time_ms}


def trial(number: int, attempt: int = 1) -> dict[str, Any]:
    return {
        "kind": "trial",
        "time_ms": 0,
        "number": number,
        "params": {},
        "attempt": attempt,
        "crashes": 0,
    }


def epoch(number: int, epoch: int, value: float) -> dict[str, Any]:
    return {
        "kind": "epoch", "time_ms": 0, "number": number, "epoch": epoch, "seconds": 0.5,
        "metrics": {"m": value, "other": 1.0},
    }  # fmt: skip


def end(number: int, state: str, value: float | None, **more: Any) -> dict[str, Any]:
    values = None if value is None else [value]
    return {
        "kind": "end", "time_ms": 0, "number": number, "state": state, "values": values,
        "best_epoch": 1, **more,
    }  # fmt: skip


def history(*records: dict[str, Any], maximize: bool = True) -> History:
    made = History(["m"], maximize)
    for record in records:
        made.add(record)
    return made


def test_wall_time_is_that_of_all_sessions_without_the_time_between() -> None:
    end_of_first = {"kind": "study_end", "time_ms": 11_000, "state": "complete"}
    found = history(study(1_000), end_of_first, study(500_000), {**trial(0), "time_ms": 502_000})
    assert found.wall_s == 10.0  # the second session still runs
    found.add(study(900_000))
    assert found.wall_s == 12.0


def test_a_trial_counts_once_however_often_it_is_assigned_and_a_duplicate_does_not() -> None:
    found = history(trial(0), trial(0, 2), trial(1), end(1, "pruned", 0.5, duplicate_of=0))
    assert found.counted == 1
    assert found.trials[0].attempts == 2


@pytest.mark.parametrize(("maximize", "best", "since"), [(True, 1, 3), (False, 3, 1)])
def test_the_best_is_the_first_of_the_best_complete_trials(
    maximize: bool, best: int, since: int
) -> None:
    records = []
    for number, (state, value) in enumerate(
        [("complete", 0.5), ("complete", 0.9), ("pruned", 0.99), ("complete", 0.1),
         ("complete", 0.9 if maximize else 0.1), ("failed", None)]
    ):  # fmt: skip
        records += [trial(number), end(number, state, value)]
    found = history(*records, maximize=maximize)
    assert found.best is not None
    assert found.best.number == best
    assert found.since_best == since  # failed trials say nothing of improvement


def test_the_best_epoch_is_the_first_of_the_best() -> None:
    found = history(trial(0), *(epoch(0, e, v) for e, v in [(1, 0.2), (2, 0.7), (3, 0.7)]))
    assert found.trials[0].best_epoch(maximize=True) == 2
    assert found.trials[0].best_epoch(maximize=False) == 1
    assert found.trials[0].recorded == 3
    assert found.train_s == 1.5


def test_a_budget_that_was_asked_for_is_that_of_the_study_and_outlasts_a_session() -> None:
    small, asked = {"trials": 5, "wall_s": 60.0}, {"trials": 9, "wall_s": 60.0}
    found = history(
        {**study(0), "budget": small}, {"kind": "budget", "time_ms": 5, "budget": asked}
    )
    assert found.study is not None
    assert found.study["budget"] == asked
    found.add({**study(9_000), "budget": small})
    assert found.study["budget"] == small
    assert found.asked_trials == 9


def test_seeds_are_independent_and_fixed() -> None:
    seeds = {seed_for(s, n, p) for s in range(3) for n in range(100) for p in ("train", "x")}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seed_for(0, 0, "train") == 2424826577  # studies on disk rely on it
