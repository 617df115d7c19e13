"""Several trials that one worker trains at once: each is recorded as if it were alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState
from workbench import Workbench

from hpo import lane_counts
from hpo.history import TrialHistory
from hpo.orchestrator import Orchestrator
from hpo.requests import Requests, Stop, Trials
from hpo.seats import Lanes, Training
from trainers import registry


def kind(_name: str, params: Mapping[str, Mapping[str, Any]]) -> str:
    return str(params["train"].get("kind"))


@pytest.fixture(autouse=True)
def told_trains_in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    def together(name: str) -> Any:
        module, _, _ = name.partition(":")
        return getattr(__import__(module), "train_together", None)

    monkeypatch.setattr(registry, "resolve_together", together)
    monkeypatch.setattr("hpo.seats.stack_key", kind)


@pytest.fixture(autouse=True)
def fresh_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test's own ``told``."""
    import sys

    monkeypatch.delitem(sys.modules, "told", raising=False)


def curves(bench: Workbench) -> dict[tuple[int, int], dict[str, float]]:
    return {(r["number"], r["epoch"]): r["metrics"] for r in bench.records("epoch")}


def states(bench: Workbench) -> Counter[str]:
    return Counter(end["state"] for end in bench.records("end"))


def suggested(bench: Workbench) -> list[dict[str, Any]]:
    return [trial.params for trial in bench.optuna_trials()]


def widths(bench: Workbench) -> list[int]:
    """How many trained together, epoch by epoch."""
    return [record.get("lanes", 1) for record in bench.records("epoch")]


def assert_whole(bench: Workbench, trials: int, epochs: int = 4) -> None:
    """Each trial once and complete, each of its epochs once, and Optuna says the same."""
    assert sorted(end["number"] for end in bench.records("end")) == list(range(trials))
    assert states(bench) == {"complete": trials}
    reported = [(r["number"], r["epoch"]) for r in bench.records("epoch")]
    assert sorted(reported) == [(n, e) for n in range(trials) for e in range(1, epochs + 1)]
    for trial in bench.optuna_trials():
        assert trial.state == TrialState.COMPLETE
        assert trial.intermediate_values == {
            e: curves(bench)[trial.number, e]["quality"] for e in range(1, epochs + 1)
        }


KINDS = {
    "train.x": {"low": 0.0, "high": 1.0},
    "train.kind": ["a", "b", "c"],
}


@pytest.mark.parametrize("lanes", [2, 5, 64])
def test_every_trial_is_recorded_as_if_it_were_alone(
    bench: Workbench, another_bench: Callable[[], Workbench], lanes: int
) -> None:
    bench.run(lanes=lanes, budget__trials=11)
    assert_whole(bench, 11)
    assert max(widths(bench)) == min(lanes, 11)
    alone = another_bench()
    alone.run(lanes="off", budget__trials=11)
    assert curves(alone) == curves(bench)
    assert widths(alone) == [1] * 44


@pytest.mark.parametrize("search", [None, KINDS], ids=["one kind", "three kinds"])
def test_suggestions_of_a_sampler_that_does_not_learn_are_those_without_lanes(
    bench: Workbench, another_bench: Callable[[], Workbench], search: Any
) -> None:
    options = {"budget__trials": 30} | ({"search": search} if search else {})
    bench.run(lanes=8, **options)
    alone = another_bench()
    alone.run(lanes="off", **options)
    assert suggested(bench) == suggested(alone)
    assert curves(bench) == curves(alone)


def test_all_that_is_suggested_is_trained_and_the_first_as_without_lanes(
    bench: Workbench, another_bench: Callable[[], Workbench]
) -> None:
    options = {
        "search": KINDS,
        "sampler": {"name": "tpe", "n_startup_trials": 15},
        "budget__trials": 40,
    }
    bench.run(lanes=6, **options)
    assert_whole(bench, 40)
    alone = another_bench()
    alone.run(lanes="off", **options)
    # What is learnt from is complete trials: with lanes some of the first are not, a bit later.
    assert suggested(bench)[:15] == suggested(alone)[:15]
    assert suggested(bench)[25:] != suggested(alone)[25:]


@pytest.mark.slow
def test_the_same_happens_again_and_after_an_interruption(
    bench: Workbench, another_bench: Callable[[], Workbench]
) -> None:
    def options(folder: Workbench) -> dict[str, Any]:
        return {
            "search": KINDS, "sampler": "tpe", "lanes": 5, "budget__trials": 24,
            "train__seconds": 0.03, "train__folder": str(folder.folder),
        }  # fmt: skip

    bench.run(**options(bench))
    again = another_bench()
    again.run(**options(again))
    assert [(r["number"], r["epoch"]) for r in again.records("epoch")] == [
        (r["number"], r["epoch"]) for r in bench.records("epoch")
    ]
    stopped = another_bench()
    told = {"train__at": {"9:2": "interrupt once"}}
    assert stopped.run(**options(stopped), **told).state == "interrupted"
    assert not [t for t in stopped.optuna_trials() if t.state == TrialState.RUNNING]
    assert stopped.run(**options(stopped), **told).state == "complete"
    for other in (again, stopped):
        assert suggested(other) == suggested(bench)
        assert curves(other) == curves(bench)
    assert_whole(stopped, 24)


@pytest.mark.slow
def test_a_large_stack_that_has_shrunk_goes_on_as_it_was(
    bench: Workbench, another_bench: Callable[[], Workbench]
) -> None:
    """What left above 32 lanes is not replaced, not by a restart either."""

    def options(folder: Workbench) -> dict[str, Any]:
        return {
            "search": {
                "train.x": {"low": 0.0, "high": 1.0},
                "train.epochs": {"low": 1, "high": 12},
            },
            "sampler": "tpe", "lanes": 40, "budget__trials": 70,
            "train__seconds": 0.003, "train__folder": str(folder.folder),
        }  # fmt: skip

    bench.run(**options(bench))
    lasts = {end["number"]: end["last_epoch"] for end in bench.records("end")}
    short = [n for n in range(40) if lasts[n] == 1]
    assert 0 < len(short) < 8  # so fewer than 40, and more than 32, are left after an epoch
    stays = next(n for n in range(40) if lasts[n] > 3)
    stopped, told = another_bench(), {"train__at": {f"{stays}:2": "interrupt once"}}
    assert stopped.run(**options(stopped), **told).state == "interrupted"
    stopped.run(**options(stopped), **told)
    assert suggested(stopped) == suggested(bench)
    assert curves(stopped) == curves(bench)


def test_no_kind_is_overtaken_forever(bench: Workbench) -> None:
    """A rare one waits while the seat is refilled with others, but not to the end."""
    search = {"train.x": {"low": 0.0, "high": 1.0}, "train.kind": ["rare", "a"]}
    rare = [{"train.x": 0.995, "train.kind": "rare"}]
    often = [{"train.x": n / 100, "train.kind": "a"} for n in range(1, 60)]
    bench.run(lanes=4, search=search, start_from=[*often[:3], *rare, *often[3:]],
              budget__trials=60)  # fmt: skip
    begun = [record["number"] for record in bench.records("trial")]
    assert begun.index(3) <= 3 + 2 * 4 + 1


def test_only_the_lane_whose_value_is_not_finite_fails(bench: Workbench) -> None:
    bench.run(lanes=4, budget__trials=4, train__nan=2)
    assert states(bench) == {"complete": 3, "failed": 1}
    (failed,) = [end for end in bench.records("end") if end["state"] == "failed"]
    assert (failed["number"], failed["reason"]) == (2, "NonFinite: quality is nan at epoch 1")
    assert sorted(n for n, e in curves(bench) if e == 4) == [0, 1, 3]


def test_a_trial_that_cannot_begin_fails_by_itself(bench: Workbench) -> None:
    bench.run(lanes=4, budget__trials=6, train__fail=1)
    assert states(bench) == {"complete": 5, "failed": 1}
    end = next(end for end in bench.records("end") if end["number"] == 1)
    assert end["reason"] == "ValueError: cannot begin"
    assert end["last_epoch"] == 0


def test_an_error_that_nobody_owns_has_each_trial_tried_alone(bench: Workbench) -> None:
    bench.run(lanes=3, budget__trials=5, train__at={"1:2": "raise"})
    assert states(bench) == {"complete": 4, "failed": 1}
    attempts = Counter(record["number"] for record in bench.records("trial"))
    assert [attempts[n] for n in range(5)] == [2, 2, 2, 1, 1]
    assert not any(record["crashes"] for record in bench.records("trial"))
    end = next(end for end in bench.records("end") if end["number"] == 1)
    assert end["reason"] == "ValueError: as told at epoch 2"
    assert "told.py" in end["traceback"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("retries", [0, 1])
def test_a_trial_that_kills_its_worker_takes_no_other_along_twice(
    bench: Workbench, retries: int
) -> None:
    bench.run(lanes=3, retries=retries, budget__trials=6, train__at={"1:2": "die"})
    assert states(bench) == {"complete": 5, "failed": 1}
    attempts = Counter(record["number"] for record in bench.records("trial"))
    assert [attempts[n] for n in range(6)] == [2, 2, 2, 1, 1, 1]
    reported = [(r["number"], r["epoch"]) for r in bench.records("epoch")]
    assert len(reported) == len(set(reported)) == 5 * 4 + 1


def test_what_trained_with_a_trial_that_hangs_goes_on(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = bench.folder / "told-1-2"

    def ignored(_: Orchestrator, training: Training) -> str | None:
        return "it hangs" if training.trial.number == 1 and hangs.exists() else None

    monkeypatch.setattr(Orchestrator, "_ignored", ignored)
    bench.run(
        lanes=3, budget__trials=5, train__at={"1:2": "hang once"},
        train__folder=str(bench.folder),
    )  # fmt: skip
    assert states(bench) == {"complete": 4, "stopped": 1}
    attempts = Counter(record["number"] for record in bench.records("trial"))
    assert [attempts[n] for n in range(5)] == [2, 1, 2, 1, 1]
    assert not any(record["crashes"] for record in bench.records("trial"))
    assert max(r.get("lanes", 1) for r in bench.records("epoch") if r["number"] == 2) == 3


def test_a_trainer_that_forgets_its_trials_does_not_lose_them(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "resolve_together", lambda _: lambda trials: trials.begin())
    with pytest.raises(Exception, match="returned before its trials were over"):
        bench.run(lanes=3, budget__trials=3)
    assert states(bench) == {"failed": 3}


def test_a_pruned_trial_leaves_and_another_takes_its_place(bench: Workbench) -> None:
    bench.run(
        lanes=6, budget__trials=40, train__epochs=9, pruner="hyperband", sampler="tpe",
    )  # fmt: skip
    counted = states(bench)
    assert counted["pruned"] > 0
    assert sum(counted.values()) == 40
    for trial, end in zip(
        bench.optuna_trials(), sorted(bench.records("end"), key=lambda e: e["number"]), strict=True
    ):
        assert (end["state"] == "complete") == (end["last_epoch"] == 9)
        assert trial.value == max(trial.intermediate_values.values())
    # All places are taken until no more trials are wanted.
    begun = [r["number"] for r in bench.records("trial")]
    full = [r.get("lanes", 1) for r in bench.records("epoch") if r["number"] < max(begun) - 12]
    assert Counter(full).most_common(1)[0][0] == 6


def test_above_many_lanes_what_leaves_is_not_replaced(bench: Workbench) -> None:
    search = {"train.x": {"low": 0.0, "high": 1.0}, "train.epochs": {"low": 1, "high": 30}}
    bench.run(lanes=40, budget__trials=120, search=search)
    assert states(bench) == {"complete": 120}
    found = widths(bench)
    assert max(found) == 40
    assert Counter(found)[32] > 32 * 5  # and from there on it stays


def test_several_objectives_in_lanes(bench: Workbench) -> None:
    options = {
        "objective": [
            {"metric": "quality", "goal": "maximize"},
            {"metric": "cost", "goal": "minimize"},
        ],
        "pruner": "successive_halving",
        "train__epochs": 9,
        "lanes": 4,
    }
    bench.run(**options, budget__trials=16)
    assert states(bench)["pruned"] > 0
    assert sum(states(bench).values()) == 16


def test_a_target_ends_the_study_at_the_end_of_the_round(bench: Workbench) -> None:
    ended = bench.run(lanes=4, budget={"trials": 50, "target": 0.5})
    assert "reached the target of 0.5" in ended.reason
    assert len(bench.records("end")) <= 8
    assert not [t for t in bench.optuna_trials() if t.state == TrialState.RUNNING]


def test_wall_time_stops_all_lanes_at_an_epoch_s_end(bench: Workbench) -> None:
    ended = bench.run(
        lanes=4, budget={"trials": 50, "wall": "1s"}, train__epochs=1000, train__seconds=0.01
    )
    assert ended.reason == "the wall time of 1 s is used"
    ends = bench.records("end")
    assert [end["state"] for end in ends] == ["stopped"] * 4
    assert all(8 <= end["last_epoch"] <= 25 for end in ends)  # 40 ms a round


def test_a_timeout_is_of_the_clock_and_seconds_are_a_share_of_it(bench: Workbench) -> None:
    bench.run(
        lanes=4, timeout="1s", train__epochs=1000, train__seconds=0.01, budget__trials=4,
    )  # fmt: skip
    for end in bench.records("end"):
        assert (end["state"], end["reason"]) == ("stopped", "the trial's timeout of 1 s")
        assert 8 <= end["last_epoch"] <= 25
        assert 0.15 < end["seconds"] < 0.26


def test_device_hours_count_the_device_once(bench: Workbench) -> None:
    bench.run(
        lanes=4, budget={"trials": 500, "device_hours": 0.0003}, train__seconds=0.01,
    )  # fmt: skip
    assert 1.08 <= sum(r["seconds"] for r in bench.records("epoch")) < 1.6


def test_more_trials_and_a_stop_are_taken_while_lanes_train(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def take(self: Requests, kind: Any) -> Any:
        done = len(bench.records("end"))
        if kind is Trials and not asked and done:
            asked.append(1)
            return [("a", Trials(4, more=True))]
        if kind is Stop and len(asked) == 1 and done >= 9:
            asked.append(2)
            return [("b", Stop(now=False))]
        return []

    options = {"lanes": 3, "train__seconds": 0.03}
    with monkeypatch.context() as patched:
        patched.setattr(Requests, "take", take)
        assert bench.run(budget__trials=8, **options).state == "interrupted"
    assert len(asked) == 2
    bench.run(**options)
    assert sum(states(bench).values()) == 12
    assert states(bench)["complete"] == 12


# -- how many


def test_auto_leaves_the_sampler_something_to_learn_from(bench: Workbench) -> None:
    def most(seats: int = 1, learns: bool = True, **options: Any) -> int:
        return Lanes(seats, learns).most(bench.load(**options))

    assert most(budget__trials=100) == 25
    assert most(budget__trials=100, seats=2) == 13
    assert most(budget__trials=100, learns=False) == 64
    assert most(budget__trials=10_000) == 64
    assert most(budget={"wall": "1h"}) == 64
    assert most(budget__trials=3) == 1
    assert most(lanes="off") == 1
    assert most(lanes=7, budget__trials=3) == 7
    assert most(lanes=7, fresh_process=True) == 1


def test_a_worker_measures_once_how_many_pay(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(_setup: Any, _data: Any, params: Any, most: int) -> int:
        asked.append((params["train"]["kind"], most))
        return {"a": 3, "b": 1, "c": 64}[params["train"]["kind"]]

    monkeypatch.setattr("hpo.worker.lanes_that_pay", measured)
    bench.run(search=KINDS, budget__trials=40)
    assert_whole(bench, 40)
    assert sorted(asked) == [("a", 40), ("b", 40), ("c", 40)]
    kinds = {r["number"]: r["config"]["train.kind"] for r in bench.records("trial")}
    widest = {
        name: max(r.get("lanes", 1) for r in bench.records("epoch") if kinds[r["number"]] == name)
        for name in "abc"
    }
    assert (widest["a"], widest["b"]) == (3, 1)
    assert widest["c"] > 3


def test_what_was_measured_is_remembered(tmp_path: Any) -> None:
    path = tmp_path / lane_counts.NAME
    assert lane_counts._remembered(path, "k", 8) is None
    lane_counts._remember(path, "k", 8, tried=8)
    assert lane_counts._remembered(path, "k", 8) == 8
    assert lane_counts._remembered(path, "k", 4) == 4
    assert lane_counts._remembered(path, "k", 64) is None  # more may pay
    lane_counts._remember(path, "k", 20, tried=64)
    assert lane_counts._remembered(path, "k", 640) == 20
    assert lane_counts._remembered(path, "other", 4) is None
    for damage in (b"", b"{", b"[]", json.dumps({"k": 5}).encode()):
        path.write_bytes(damage)
        assert lane_counts._remembered(path, "k", 8) is None
    lane_counts._remember(path, "k", 8, tried=8)
    assert lane_counts._remembered(path, "k", 8) == 8


def test_a_trial_that_crashed_is_of_no_kind(bench: Workbench) -> None:
    lanes, trial = Lanes(1, learns=True), TrialHistory(3, {"train.x": 0.5})
    assert lanes.kind(bench.load(), trial) == "None"
    trial.crashes = 1
    assert lanes.kind(bench.load(), trial) is None


def test_predictions_are_copied_when_they_are_kept(bench: Workbench) -> None:
    """A lane's are a part of the whole stack's, which the next epoch overwrites."""
    (bench.folder / "views.py").write_text(
        "import numpy as np\n"
        "from trainers.contract import Epoch, Predictions\n"
        "def train(trial): ...\n"
        "def train_together(trials):\n"
        "    lanes = list(trials.begin())\n"
        "    ids, output = np.arange(5), np.empty((len(lanes), 5), np.float32)\n"
        "    for epoch in (1, 2, 3):\n"
        "        output[:] = np.array([[10 * t.number + epoch] for t in lanes])\n"
        "        trials.report([Epoch(t, epoch, {'quality': -abs(epoch - 2)},\n"
        "                       Predictions(ids, ids, output[i]), last=epoch == 3)\n"
        "                       for i, t in enumerate(lanes)])\n"
    )
    bench.run(trainer="views:train", lanes=3, budget__trials=3)
    for number in range(3):
        with np.load(bench.paths.trial(number) / "predictions.npz") as kept:
            assert kept["output"].tolist() == [10 * number + 2] * 5


def test_what_pays_is_measured_once_for_all_studies_and_a_failure_means_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measured(_params: Any, _dataset: Any, device: str, _most: int) -> int:
        asked.append(device)
        return 5

    monkeypatch.setattr("trainers.lanes.measure.lanes_that_pay", measured)
    setup: Any = SimpleNamespace(cache=tmp_path, device="cpu", threads=1, trainer="tabular")
    data: Any = SimpleNamespace(load=lambda _: SimpleNamespace(summary={"fingerprint": "f"}))
    params = {"data": {}, "model": {"name": "mlp"}, "train": {"batch_size": 32}, "ensemble": {}}
    assert [lane_counts.lanes_that_pay(setup, data, params, 64) for _ in range(3)] == [5] * 3
    setup.threads = 2
    assert lane_counts.lanes_that_pay(setup, data, params, 64) == 5
    assert len(asked) == 2
    nowhere: Any = SimpleNamespace(load=lambda _: 1 / 0)
    assert lane_counts.lanes_that_pay(setup, nowhere, params, 64) == 1
