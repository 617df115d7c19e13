"""A study from its first trial to its last, and every way a trial can end."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from workbench import Workbench

from hpo import launch, orchestrator
from hpo.devices import Slot
from hpo.errors import StudyChanged, StudyFailed, StudyFileError, StudyLocked, UserError
from hpo.executors import Event
from hpo.launch import opened
from hpo.messages import Orders, Ready
from hpo.orchestrator import Orchestrator
from hpo.progress import Silent
from hpo.record import Record

FOUR = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def states(bench: Workbench) -> Counter[str]:
    return Counter(end["state"] for end in bench.records("end"))


def curves(bench: Workbench) -> dict[tuple[int, int], dict[str, float]]:
    return {(r["number"], r["epoch"]): r["metrics"] for r in bench.records("epoch")}


def test_every_trial_is_recorded_alike_in_the_outbox_and_in_optuna(bench: Workbench) -> None:
    ended = bench.run()
    assert (ended.state, ended.reason) == ("complete", "all 5 trials are done")
    trials = bench.optuna_trials()
    ends = bench.records("end")
    assert [t.number for t in trials] == [end["number"] for end in ends] == [0, 1, 2, 3, 4]
    for trial, end in zip(trials, ends, strict=True):
        assert (trial.state, end["state"]) == (TrialState.COMPLETE, "complete")
        assert end["values"] == [trial.value]
        assert trial.intermediate_values == {
            epoch: metrics["quality"]
            for (number, epoch), metrics in curves(bench).items()
            if number == trial.number
        }
        assert len(trial.intermediate_values) == 4


def test_the_best_epoch_is_a_trial_s_value_and_the_last_is_kept(bench: Workbench) -> None:
    bench.run()
    for trial, end in zip(bench.optuna_trials(), bench.records("end"), strict=True):
        assert end["best_epoch"] == 2  # quality peaks in the middle
        assert trial.value == max(trial.intermediate_values.values())
        assert end["last_epoch"] == 4
        assert trial.user_attrs["hpo"]["last_values"] == [trial.intermediate_values[4]]


def test_a_rerun_completes_up_to_the_budget_and_not_beyond(bench: Workbench) -> None:
    bench.run()
    assert bench.run().reason == "all 5 trials are done"
    assert len(bench.records("study")) == 1  # nothing was started
    bench.run(budget__trials=7)
    assert [end["number"] for end in bench.records("end")] == list(range(7))


def test_a_trainer_s_exception_fails_its_trial_only(bench: Workbench) -> None:
    bench.run(train__at={"1:2": "raise"})
    assert states(bench) == {"complete": 4, "failed": 1}
    end = bench.records("end")[1]
    assert end["reason"] == "ValueError: as told at epoch 2"
    assert "told.py" in end["traceback"]
    assert bench.optuna_trials()[1].state == TrialState.FAIL


def test_a_study_whose_first_trials_fail_alike_stops_with_the_cause(bench: Workbench) -> None:
    with pytest.raises(StudyFailed, match="first 3 trials all failed alike: ValueError: as told"):
        bench.run(train__always="raise")
    assert states(bench) == {"failed": 3}
    assert bench.records("study_end")[0]["state"] == "failed"
    assert not bench.records("epoch")
    assert all(end["seconds"] > 0 for end in bench.records("end"))  # what the attempts took


def test_a_metric_that_is_not_reported_is_named_with_those_that_are(bench: Workbench) -> None:
    with pytest.raises(StudyFailed, match=r"objective is accuracy.*reported only cost, quality"):
        bench.run(objective__metric="accuracy")


def test_row_14_non_finite_values_fail_the_trial(bench: Workbench) -> None:
    (bench.folder / "not_finite.py").write_text(
        "def train(trial):\n"
        "    value = float('nan') if trial.number == 1 else 0.5\n"
        "    trial.report(1, {'quality': 0.1})\n"
        "    trial.report(2, {'quality': value})\n"
    )
    bench.run(trainer="not_finite:train")
    assert states(bench) == {"complete": 4, "failed": 1}
    assert bench.records("end")[1]["reason"] == "NonFinite: quality is nan at epoch 2"


def test_pruned_trials_keep_their_best_epoch(bench: Workbench) -> None:
    bench.run(pruner={"name": "median", "n_startup_trials": 2}, budget__trials=12, train__epochs=6)
    counted = states(bench)
    assert counted["pruned"] > 0
    for trial, end in zip(bench.optuna_trials(), bench.records("end"), strict=True):
        assert trial.value == max(trial.intermediate_values.values())
        if end["state"] == "pruned":
            assert trial.state == TrialState.PRUNED
            assert end["last_epoch"] < 6
            assert end["reason"].startswith("median at epoch ")


@pytest.mark.parametrize(
    "pruner",
    [
        "none",
        "median",
        {"name": "percentile", "percentile": 50.0},
        "successive_halving",
        "hyperband",
        {"name": "patient", "patience": 1},
        {"name": "threshold", "lower": 0.9},
        "wilcoxon",
    ],
    ids=lambda p: p if isinstance(p, str) else p["name"],
)
def test_every_pruner_runs(bench: Workbench, pruner: Any) -> None:
    bench.run(pruner=pruner, budget__trials=8)
    counted = states(bench)
    assert counted["complete"] + counted["pruned"] == 8
    if pruner == "none":
        assert counted["pruned"] == 0


@pytest.mark.parametrize(
    "sampler", ["tpe", "gp", "cma-es", "random", "qmc", "nsga2", "nsga3", "auto"]
)
def test_every_sampler_gives_the_same_suggestions_again_and_after_a_stop(
    bench: Workbench, another_bench: Callable[[], Workbench], sampler: str
) -> None:
    search = {
        "train.x": {"low": 0.0, "high": 1.0},
        "train.y": {"low": 1e-4, "high": 1.0, "log": True},
    }
    options = {"sampler": sampler, "search": search, "budget__trials": 14, "train__epochs": 2}
    bench.run(**options)
    whole = [t.params for t in bench.optuna_trials()]
    assert len({str(p) for p in whole}) == 14
    stopped = another_bench()
    stopped.run(**options | {"budget__trials": 6})
    stopped.run(**options)
    again = [t.params for t in stopped.optuna_trials()]
    for one, other in zip(whole, again, strict=True):
        # GPSampler starts its fit from the last one, which a new process does not have.
        assert one == (pytest.approx(other, abs=0.2) if sampler in ("gp", "auto") else other)
    other_seed = another_bench()
    other_seed.run(**options | {"seed": 1})
    assert [t.params for t in other_seed.optuna_trials()] != whole


def test_a_grid_is_trained_once_and_to_its_end(bench: Workbench) -> None:
    search = {"train.x": [0.1, 0.3, 0.5], "train.y": [1, 2]}
    ended = bench.run(sampler="grid", search=search, budget__trials=50)
    assert ended.reason == "every configuration has been tried"
    seen = [tuple(t.params.values()) for t in bench.optuna_trials()]
    assert sorted(seen) == [(x, y) for x in (0.1, 0.3, 0.5) for y in (1, 2)]


def test_no_configuration_is_trained_twice(bench: Workbench) -> None:
    search = {"train.x": [0.1, 0.3, 0.5], "train.y": [1, 2]}
    ended = bench.run(sampler="random", search=search, budget__trials=50)
    assert ended.reason == "every configuration has been tried"
    trained = {r["number"] for r in bench.records("epoch")}
    trials = bench.optuna_trials()
    assert len(trained) == len({tuple(trials[n].params.values()) for n in trained}) == 6
    twins = [end for end in bench.records("end") if "duplicate_of" in end]
    assert twins
    for end in twins:
        assert trials[end["number"]].params == trials[end["duplicate_of"]].params
        assert end["reason"] == f"same configuration as trial {end['duplicate_of']}"
        assert end["state"] == "pruned"


def test_conditions_decide_which_parameters_a_trial_has(bench: Workbench) -> None:
    search = {
        "train.optimizer": ["sgd", "adamw"],
        "train.momentum": {"low": 0.5, "high": 0.9, "when": {"train.optimizer": "sgd"}},
        "train.nesterov": {"choices": [True, False], "when": {"train.optimizer": "sgd"}},
    }
    bench.run(sampler="tpe", search=search, budget__trials=20)
    for trial in bench.optuna_trials():
        sgd = trial.params["train.optimizer"] == "sgd"
        assert ("train.momentum" in trial.params) == ("train.nesterov" in trial.params) == sgd
    configs = {r["number"]: r["config"] for r in bench.records("trial")}
    assert {"train.momentum" in c for c in configs.values()} == {True, False}


def test_an_interrupted_study_goes_on_and_equals_the_undisturbed_one(
    bench: Workbench, another_bench: Callable[[], Workbench]
) -> None:
    bench.run(sampler="tpe")
    disturbed = another_bench()
    # Epochs long enough for the signal to be seen before the trial is over.
    slow = {"train__seconds": 0.1, "train__folder": str(disturbed.folder)}
    options = {"sampler": "tpe", **slow}
    ended = disturbed.run(**options, train__at={"2:3": "interrupt once"})
    assert (ended.state, ended.exit_code) == ("interrupted", 130)
    waiting = [t for t in disturbed.optuna_trials() if t.state == TrialState.WAITING]
    assert [t.number for t in waiting] == [2]
    assert disturbed.run(**options, train__at={"2:3": "interrupt once"}).state == "complete"
    assert curves(disturbed) == curves(bench)
    assert [t.params for t in disturbed.optuna_trials()] == [
        t.params for t in bench.optuna_trials()
    ]
    assert all(t.state == TrialState.COMPLETE for t in disturbed.optuna_trials())
    epochs = [(r["number"], r["epoch"]) for r in disturbed.records("epoch")]
    assert len(epochs) == len(set(epochs)) == 20


def test_a_changed_file_is_refused_with_the_difference(bench: Workbench) -> None:
    bench.run()
    with pytest.raises(StudyChanged, match=r"train.epochs: 4 → 5") as refused:
        bench.run(train__epochs=5, budget__trials=9)
    assert "--set study=s-2" in str(refused.value)
    bench.run(budget__trials=6, sampler="tpe", pruner="median", retries=0)
    assert len(bench.records("end")) == 6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("search", {"train.x": {"low": 0.0, "high": 2.0}}),
        ("objective", {"metric": "quality", "goal": "minimize"}),
        ("objective", {"metric": "cost", "goal": "maximize"}),
        ("seed", 3),
    ],
)
def test_what_makes_trials_incomparable_is_refused(bench: Workbench, key: str, value: Any) -> None:
    bench.run()
    with pytest.raises(StudyChanged, match=key):
        bench.run(**{key: value}, budget__trials=9)


def test_a_target_ends_the_study(bench: Workbench) -> None:
    ended = bench.run(budget={"trials": 50, "target": 0.5})
    assert "reached the target of 0.5" in ended.reason
    assert len(bench.records("end")) < 50


def test_patience_ends_the_study(bench: Workbench) -> None:
    ended = bench.run(budget={"trials": 200, "patience": 4})
    assert "4 trials without improvement" in ended.reason
    values = [end["values"][0] for end in bench.records("end")]
    assert len(values) - 1 - values.index(max(values)) == 4


def test_wall_time_stops_trials_at_an_epoch_s_end(bench: Workbench) -> None:
    ended = bench.run(budget={"trials": 50, "wall": "1s"}, train__epochs=1000, train__seconds=0.05)
    assert ended.reason == "the wall time of 1 s is used"
    (end,) = bench.records("end")
    assert end["state"] == "stopped"
    assert end["reason"] == "the study's wall time is used"
    assert 5 <= end["last_epoch"] <= 25
    (trial,) = bench.optuna_trials()
    assert trial.state == TrialState.PRUNED
    assert trial.value == end["values"][0]


def test_a_timeout_stops_a_trial_at_an_epoch_s_end(bench: Workbench) -> None:
    bench.run(timeout="1s", train__epochs=1000, train__seconds=0.1, budget__trials=2)
    for end in bench.records("end"):
        assert (end["state"], end["reason"]) == ("stopped", "the trial's timeout of 1 s")
        assert 4 <= end["last_epoch"] <= 10


@pytest.mark.parametrize(("timeout", "told"), [(None, 1), ("1h", 0)])
def test_of_a_trial_that_is_long_silent_it_is_said_once(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, timeout: str | None, told: int
) -> None:
    monkeypatch.setattr("hpo.orchestrator.SILENT_S", 0.2)
    bench.run(timeout=timeout, train__epochs=2, train__seconds=0.8, budget__trials=1)
    assert sum("has reported no epoch for" in text for text in bench.said) == told


def test_device_hours_end_the_study(bench: Workbench) -> None:
    ended = bench.run(budget={"trials": 500, "device_hours": 0.0002}, train__seconds=0.05)
    assert "0.0002 device-hours are used" in ended.reason
    trained_s = sum(r["seconds"] for r in bench.records("epoch"))
    assert 0.72 <= trained_s < 1.5


def test_known_configurations_are_tried_first(bench: Workbench) -> None:
    bench.run(start_from=[{"train.x": 0.25}, {"train.x": 0.75}])
    assert [t.params["train.x"] for t in bench.optuna_trials()][:2] == [0.25, 0.75]


def test_an_earlier_study_s_trials_enter_the_sampler_and_are_not_trials_here(
    bench: Workbench,
) -> None:
    bench.run(study="earlier", budget__trials=12)
    bench.run(start_from=[{"study": "earlier"}], sampler="tpe")
    known = bench.optuna_trials()
    assert len(known) == 17
    assert [t.user_attrs["hpo"].get("from_study") for t in known[:12]] == ["earlier"] * 12
    assert len(bench.records("end")) == 5
    assert bench.run(start_from=[{"study": "earlier"}], sampler="tpe").reason == (
        "all 5 trials are done"
    )


@pytest.mark.parametrize("pruner", ["none", "successive_halving"])
def test_several_objectives_are_searched_and_pruned(bench: Workbench, pruner: str) -> None:
    objective = [
        {"metric": "quality", "goal": "maximize"},
        {"metric": "cost", "goal": "minimize"},
    ]
    bench.run(objective=objective, pruner=pruner, budget__trials=15, train__epochs=9)
    counted = states(bench)
    assert sum(counted.values()) == 15
    assert (counted["pruned"] > 0) == (pruner == "successive_halving")
    for trial, end in zip(bench.optuna_trials(), bench.records("end"), strict=True):
        assert len(end["values"]) == 2
        if end["state"] == "complete":
            assert trial.values == end["values"]


def test_the_state_of_several_objectives_survives_a_stop(
    bench: Workbench, another_bench: Callable[[], Workbench]
) -> None:
    options = {
        "objective": [
            {"metric": "quality", "goal": "maximize"},
            {"metric": "cost", "goal": "minimize"},
        ],
        "pruner": "successive_halving",
        "train__epochs": 9,
    }
    bench.run(**options, budget__trials=12)
    stopped = another_bench()
    stopped.run(**options, budget__trials=5)
    stopped.run(**options, budget__trials=12)
    assert curves(stopped) == curves(bench)


def test_sqlite_holds_the_study_too(bench: Workbench) -> None:
    import optuna

    url = f"sqlite:///{bench.folder}/optuna.db"
    bench.run(storage=url, pruner="median")
    bench.run(storage=url, pruner="median", budget__trials=7)
    trials = optuna.load_study(storage=url, study_name="s").trials
    assert len(trials) == 7
    assert all(t.state in FOUR for t in trials)


def test_a_second_run_of_a_running_study_is_refused(bench: Workbench) -> None:
    study = bench.load()
    with opened(study, bench.home, Silent()) as first:
        with pytest.raises(StudyLocked, match="is being run by process"):
            bench.run()
        first.run()
    assert len(bench.records("end")) == 5


def test_what_a_worker_refuses_is_told_with_its_line_and_nothing_is_created(
    bench: Workbench,
) -> None:
    bench.file.write_text(bench.file.read_text().replace("told:train", "told:trian"))
    with pytest.raises(StudyFileError, match=r"study.yaml:3:10: trainer: .*trian"):
        bench.run()
    assert not (bench.folder / "studies").exists()


def test_a_file_without_search_is_one_training(bench: Workbench) -> None:
    text = bench.file.read_text()
    cut = text[: text.index("search:")] + text[text.index("objective:") :]
    bench.file.write_text(cut.replace("budget: {trials: 5}\n", ""))
    bench.run()
    (end,) = bench.records("end")
    assert end["state"] == "complete"


def test_predictions_paths_and_checkpoints_are_cleared_when_a_trial_ends(
    bench: Workbench,
) -> None:
    bench.run(train__epochs=3, train__seconds=0.6, budget__trials=1)
    assert list(bench.paths.trial(0).glob("epoch-*")) == []


def test_steps_that_floats_cannot_hold_are_still_tried_once(bench: Workbench) -> None:
    search = {"train.x": {"low": 0.1, "high": 0.7, "step": 0.1}}
    ended = bench.run(sampler="tpe", search=search, budget__trials=60)
    assert ended.reason == "every configuration has been tried"
    assert len({r["number"] for r in bench.records("epoch")}) == 7


def test_a_trial_that_trained_to_its_end_is_complete_whatever_the_pruner_says(
    bench: Workbench,
) -> None:
    bench.run(pruner="hyperband", budget__trials=25, train__epochs=9)
    for end in bench.records("end"):
        assert (end["state"] == "complete") == (end["last_epoch"] == 9)
    assert states(bench)["pruned"] > 0


def own_trainer(bench: Workbench, name: str, body: str) -> str:
    (bench.folder / f"{name}.py").write_text(body)
    return f"{name}:train"


TWO = [{"metric": "quality", "goal": "maximize"}, {"metric": "cost", "goal": "minimize"}]


@pytest.mark.parametrize(
    ("name", "report", "reason"),
    [
        ("one_of_two", "{'quality': 1.0}", "the objective is cost"),
        ("nan_of_two", "{'quality': 1.0, 'cost': float('nan')}", "cost is nan at epoch 1"),
    ],
)
def test_every_objective_must_be_reported_and_finite(
    bench: Workbench, name: str, report: str, reason: str
) -> None:
    trainer = own_trainer(bench, name, f"def train(trial):\n    trial.report(1, {report})\n")
    for _ in range(2):  # and what was recorded can be read again
        with pytest.raises(StudyFailed, match=reason):
            bench.run(trainer=trainer, objective=TWO, budget__trials=20)


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("stops_itself", "from trainers.contract import StopTraining\n"
         "def train(trial):\n    raise StopTraining\n", "raised StopTraining itself"),
        ("reports_nothing", "def train(trial):\n    pass\n", "without reporting an epoch"),
        ("exits", "import sys\ndef train(trial):\n    sys.exit(3)\n", "SystemExit: 3"),
    ],
)  # fmt: skip
def test_a_trainer_that_ends_without_an_epoch_fails_its_trial(
    bench: Workbench, name: str, body: str, reason: str
) -> None:
    with pytest.raises(StudyFailed, match=reason):
        bench.run(trainer=own_trainer(bench, name, body))
    assert states(bench) == {"failed": 3}


def test_a_single_training_goes_on_after_an_interruption(bench: Workbench) -> None:
    text = bench.file.read_text()
    bench.file.write_text(text[: text.index("search:")] + text[text.index("objective:") :])
    options = {"budget__trials": 1, "train__folder": str(bench.folder), "train__seconds": 0.1}
    told = {"train__at": {"0:2": "interrupt once"}}
    assert bench.run(**options, **told).state == "interrupted"
    assert bench.run(**options, **told).state == "complete"
    assert states(bench) == {"complete": 1}
    assert sorted(curves(bench)) == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_a_verdict_outlives_a_crash_before_it_was_carried_out(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"pruner": "hyperband", "budget__trials": 12, "train__epochs": 9}

    def crash(*_: Any) -> None:
        raise RuntimeError("as if killed here")

    with monkeypatch.context() as patched:
        patched.setattr(Orchestrator, "_finished", crash)
        with pytest.raises(RuntimeError):
            bench.run(**options)
    while not bench.records("verdict"):  # the first trials train to their end
        with monkeypatch.context() as patched:
            whole = Orchestrator._finished
            patched.setattr(
                Orchestrator,
                "_finished",
                lambda self, seat, finished, whole=whole: (
                    crash()
                    if any(each.outcome == "stop" for each in finished)
                    else whole(self, seat, finished)
                ),
            )
            with pytest.raises(RuntimeError):
                bench.run(**options)
    (verdict,) = bench.records("verdict")
    number = verdict["number"]
    trained = [epoch for n, epoch in curves(bench) if n == number]
    bench.run(**options)
    end = next(end for end in bench.records("end") if end["number"] == number)
    assert (end["state"], end["reason"]) == ("pruned", verdict["reason"])
    assert [epoch for n, epoch in curves(bench) if n == number] == trained


def test_a_record_without_its_storage_is_refused(bench: Workbench) -> None:
    bench.run()
    with pytest.raises(UserError, match="Was `storage` changed"):
        bench.run(storage=f"sqlite:///{bench.folder}/other.db", budget__trials=7)
    assert len(bench.records("end")) == 5


def test_row_7_sigterm_before_a_worker_is_ready_ends_in_order(bench: Workbench) -> None:
    (bench.folder / "ends.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
        "def train(trial):\n    trial.report(1, {'quality': 1.0})\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        bench.run(trainer="ends:train")
    assert ended.value.code == 143
    assert "inline worker" not in [thread.name for thread in threading.enumerate()]
    assert signal.getsignal(signal.SIGTERM) is before
    assert not bench.home.studies.exists()


def test_a_refused_change_to_the_journal_leaves_none(bench: Workbench) -> None:
    bench.run(storage=f"sqlite:///{bench.folder}/other.db")
    before = set(bench.paths.root.rglob("*"))
    with pytest.raises(UserError, match="Was `storage` changed"):
        bench.run(budget__trials=7)
    assert set(bench.paths.root.rglob("*")) == before


def test_of_a_study_that_the_storage_has_from_elsewhere_nothing_is_left(
    bench: Workbench,
) -> None:
    url = f"sqlite:///{bench.folder}/other.db"
    bench.run(storage=url)
    shutil.rmtree(bench.home.studies)
    with pytest.raises(UserError, match="whose record is not in"):
        bench.run(storage=url)
    assert not bench.home.studies.exists()


def test_a_storage_without_its_record_is_refused(bench: Workbench) -> None:
    bench.run()
    bench.paths.outbox.unlink()
    with pytest.raises(UserError, match="whose record is not in"):
        bench.run(budget__trials=7)
    assert len(bench.optuna_trials()) == 5


def test_an_unknown_study_to_start_from_is_told_before_anything_is_created(
    bench: Workbench,
) -> None:
    with pytest.raises(UserError, match="there is no study 'erlier'"):
        bench.run(start_from=[{"train.x": 0.25}, {"study": "erlier"}])
    assert not (bench.folder / "studies").exists()
    bench.run(start_from=[{"train.x": 0.25}])
    assert bench.optuna_trials()[0].params == {"train.x": 0.25}


def test_a_trial_that_was_asked_for_before_a_crash_is_beyond_a_smaller_budget(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Record.trial

    def crash_at_the_third(self: Record, trial: Any, **how: Any) -> None:
        if trial.number == 2:
            raise RuntimeError("as if killed here")
        begin(self, trial, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Record, "trial", crash_at_the_third)
        with pytest.raises(RuntimeError):
            bench.run()
    bench.run(budget__trials=2)
    assert [end["number"] for end in bench.records("end")] == [0, 1]
    bench.run(budget__trials=4)
    assert [end["number"] for end in bench.records("end")] == [0, 1, 2, 3]


def test_a_duplicate_is_answered_once_whatever_crashes(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = {"train.x": [0.1, 0.3, 0.5], "train.y": [1, 2]}
    options = {"sampler": "random", "search": search, "budget__trials": 50}
    end = Record.end

    def crash_at_first_twin(self: Record, trial: Any, *rest: Any) -> Any:
        if rest[-1] is not None:
            raise RuntimeError("as if killed here")
        return end(self, trial, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Record, "end", crash_at_first_twin)
        with pytest.raises(RuntimeError):
            bench.run(**options)
    bench.run(**options)
    numbers = [end["number"] for end in bench.records("end")]
    assert sorted(numbers) == list(range(len(numbers)))
    assert len({r["number"] for r in bench.records("epoch")}) == 6
    assert all(t.state in FOUR for t in bench.optuna_trials())


def test_passwords_in_errors_are_not_recorded(bench: Workbench) -> None:
    body = (
        "def train(trial):\n"
        "    raise ValueError('cannot reach https://me:hunter2@host/x?password=hunter2')\n"
    )
    with pytest.raises(StudyFailed):
        bench.run(trainer=own_trainer(bench, "leaks", body))
    assert "***@host" in bench.paths.outbox.read_text()
    assert "hunter2" not in bench.paths.outbox.read_text().replace("ValueError('cannot", "")


def test_a_storage_of_another_optuna_is_refused_with_what_to_do(bench: Workbench) -> None:
    import sqlite3

    import optuna

    url = f"sqlite:///{bench.folder}/newer.db"
    optuna.storages.RDBStorage(url).engine.dispose()
    with sqlite3.connect(bench.folder / "newer.db") as store:
        store.execute("update alembic_version set version_num = 'v99.0.0.a'")
    store.close()
    with pytest.raises(UserError, match="install the Optuna that wrote it"):
        bench.run(storage=url)


def test_a_mended_study_goes_on_after_its_first_trials_failed(bench: Workbench) -> None:
    told = {f"{number}:1": "raise" for number in range(3)}
    with pytest.raises(StudyFailed, match="all failed alike"):
        bench.run(train__at=told, budget__trials=6)
    bench.run(train__at=told, budget__trials=6)  # the next trials are not told to fail
    assert states(bench) == {"failed": 3, "complete": 3}


class Idle:
    """`hpo.executors.Executor`: three workers that are ready, and never say more."""

    def __init__(self) -> None:
        self.ready: list[Event] = []
        self.begun: dict[int, list[int]] = {}

    def slots(self, spec: Any, say: Any) -> list[Slot]:
        return [Slot("cpu", None, 1.0, 1)] * 3

    def start(self, setup: Any) -> None:
        self.ready.append(Event(setup.worker, Ready(None, "cpu")))

    def send(self, worker: int, message: Any) -> None:
        if isinstance(message, Orders):
            self.begun[worker] = [trial.number for trial in message.begin]

    def wait(self, timeout_s: float) -> list[Event]:
        ready, self.ready = self.ready, []
        return ready

    def kill(self, worker: int) -> None: ...

    def close(self) -> None: ...


def test_what_is_assigned_together_is_flushed_once_and_within_the_budget(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    idle = Idle()

    def fsync(file: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{file}").readlink().name)

    monkeypatch.setattr(launch, "_open_executor", lambda _: idle)
    monkeypatch.setattr(orchestrator, "ASSIGN_S", 60.0)
    with opened(bench.load(budget__trials=2), bench.home, Silent()) as running:
        with monkeypatch.context() as watched:
            watched.setattr(os, "fsync", fsync)
            running.turn()
        assert idle.begun == {0: [0], 1: [1]}
    files = [bench.paths.journal.name, bench.paths.outbox.name]  # the parameters first
    assert [name for name in flushed if name in files] == files
    assert [record["number"] for record in bench.records("trial")] == [0, 1]
