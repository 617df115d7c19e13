"""Trials that pause and go on later, as a strategy decides that follows a script."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest
from optuna.trial import TrialState
from scripted import Scripted, make_scripted, paused_study
from workbench import Workbench

import hpo.orchestrator
from hpo import results
from hpo.errors import StudyFileError
from hpo.history import History, TrialHistory
from hpo.paused import Paused
from hpo.results.study_log import StudyLog
from hpo.results.tables import from_log
from hpo.search import Learnt, open_search
from hpo.spec import Named, StudySpec
from hpo.tracking import outbox
from trainers import registry


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpo.orchestrator, "make_strategy", make_scripted)
    monkeypatch.delitem(sys.modules, "told", raising=False)  # each test's own


@pytest.fixture
def pausing(bench: Workbench) -> Workbench:
    return paused_study(bench)


def curves(bench: Workbench) -> dict[tuple[int, int], float]:
    return {(r["number"], r["epoch"]): r["metrics"]["quality"] for r in bench.records("epoch")}


def story(bench: Workbench) -> list[tuple[str, int, Any]]:
    """What was begun, trained, paused, resumed and ended, in order; a retry does not show."""
    told: list[tuple[str, int, Any]] = []
    until: dict[int, int | None] = {}
    said = {"epoch": "epoch", "pause": "epoch", "end": "state"}
    for record, _ in outbox.read(bench.paths.outbox):
        kind, number = record["kind"], record.get("number")
        if kind in ("trial", "until"):
            if number not in until or until[number] != record.get("until"):
                told.append(("go", number, record.get("until")))
            until[number] = record.get("until")
        elif kind in said:
            told.append((kind, number, record[said[kind]]))
    return told


def assert_whole(bench: Workbench) -> None:
    """Each epoch once and in order, one end a trial, Optuna the same, no checkpoint left."""
    ends = {end["number"]: end for end in bench.records("end")}
    assert len(ends) == len(bench.records("end"))
    epochs = [(r["number"], r["epoch"]) for r in bench.records("epoch")]
    assert sorted(epochs) == [
        (n, e + 1) for n in sorted(ends) for e in range(ends[n]["last_epoch"])
    ]
    for trial in bench.optuna_trials():
        over = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        assert trial.state == over.get(ends[trial.number]["state"], TrialState.PRUNED)
        assert trial.user_attrs["hpo"]["reason"] == ends[trial.number]["reason"]
        assert trial.intermediate_values == {
            e: value for (n, e), value in curves(bench).items() if n == trial.number
        }
    assert not list(bench.paths.root.glob("trials/*/epoch-*"))


def test_trials_pause_and_go_on_under_their_own_number(pausing: Workbench) -> None:
    ended = pausing.run()
    assert ended.reason == "20 epochs are trained"
    assert_whole(pausing)
    assert story(pausing)[:12] == [
        ("go", 0, 1), ("epoch", 0, 1), ("pause", 0, 1),
        ("go", 1, 1), ("epoch", 1, 1), ("pause", 1, 1),
        ("go", 2, 1), ("epoch", 2, 1), ("pause", 2, 1),
        ("go", 0, 2), ("epoch", 0, 2), ("pause", 0, 2),
    ]  # fmt: skip
    pruned = [(end["number"], end["reason"]) for end in pausing.records("end")][-1]
    assert pruned == (4, "paused at epoch 1, not resumed")
    # The same curves as without pauses; where a trial goes on at once, no worker begins it anew.
    assert {value for (n, _), value in curves(pausing).items() if n == 0} == {
        0.9851, 0.9951, 0.9751,
    }  # fmt: skip
    assert [r["number"] for r in pausing.records("until")] == [3, 2, 5, 5, 1]
    assert Counter(r["number"] for r in pausing.records("trial"))[5] == 1


class Killed(BaseException):
    """Stands for SIGKILL at a point where nothing is put in order afterwards."""


def killed(monkeypatch: pytest.MonkeyPatch, bench: Workbench, point: str, nth: int) -> None:
    """Run the study up to the `nth` passing of a fault point."""
    passed = []

    def passing(at: str) -> None:
        if at == point:
            passed.append(at)
            if len(passed) == nth:
                raise Killed

    with monkeypatch.context() as while_it_runs:
        while_it_runs.setattr(hpo.orchestrator, "passing", passing)
        with pytest.raises(Killed):
            bench.run()


def test_optuna_shows_no_pause_of_a_trial_that_was_killed_when_it_went_on(
    pausing: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch, pausing, "begun", 4)
    assert pausing.optuna_trials()[0].user_attrs["hpo"]["state"] == "paused"
    killed(monkeypatch, pausing, "begun", 1)
    assert pausing.records("trial")[-1]["number"] == 0
    assert pausing.optuna_trials()[0].user_attrs["hpo"] == {}


@pytest.mark.parametrize("at", ["3:1", "0:3", "2:2"])
def test_a_study_that_was_stopped_decides_as_one_that_was_not(
    pausing: Workbench, another_bench: Callable[[], Workbench], at: str
) -> None:
    options: dict[str, Any] = {"train__folder": str(pausing.folder)}
    stopped = pausing.run(train__at={at: "interrupt once"}, **options)
    assert stopped.state == "interrupted"
    asked = [t for t in pausing.optuna_trials() if not t.state.is_finished()]
    assert {t.state for t in asked} == {TrialState.WAITING}
    paused = {t.number for t in asked if t.user_attrs.get("hpo", {}).get("state") == "paused"}
    table = results.trials("s", pausing.folder)
    assert set(table["number"][table["state"] == "paused"]) == paused
    assert results.status("s", pausing.folder)["trials"]["paused"] == len(paused) > 0
    pausing.run(train__at={at: "interrupt once"}, **options)
    assert_whole(pausing)
    undisturbed = paused_study(another_bench())
    undisturbed.run()
    assert story(pausing) == story(undisturbed)
    assert curves(pausing) == curves(undisturbed)


def test_paused_trials_leave_their_stack_and_go_on_in_another(
    pausing: Workbench, monkeypatch: pytest.MonkeyPatch, another_bench: Callable[[], Workbench]
) -> None:
    alone = paused_study(another_bench())
    alone.run()
    monkeypatch.delitem(sys.modules, "told")
    monkeypatch.setattr(
        registry, "resolve_together", lambda name: __import__("told").train_together
    )
    monkeypatch.setattr("hpo.seats.stack_key", lambda *_: "one")
    pausing.run(lanes=3)
    assert_whole(pausing)
    assert max(r.get("lanes", 1) for r in pausing.records("epoch")) == 3
    resumed = [r for r in pausing.records("trial") if r["attempt"] > 1]
    assert resumed
    assert pausing.records("until")
    both = curves(pausing).keys() & curves(alone).keys()
    assert len(both) > 15
    assert all(curves(pausing)[key] == curves(alone)[key] for key in both)


def test_no_worker_is_busy_with_a_paused_trial(pausing: Workbench) -> None:
    pausing.run(train__seconds=0.01)
    log = StudyLog.read(pausing.paths)
    spans = from_log(log, {}, None).spans
    (left,) = spans[spans["trial"] == 4].to_dict("records")  # paused once, never resumed
    assert left["state"] == "pruned"
    assert left["end_ms"] == log.trials[4].last_epochs_ms[-1] < log.updated_ms
    first, second = spans[spans["trial"] == 1].to_dict("records")
    assert (first["state"], second["state"]) == ("paused", "stopped")
    assert first["end_ms"] < second["start_ms"]


def test_the_least_promising_make_room(pausing: Workbench) -> None:
    pausing.run(strategy={"name": "freeze-thaw", "max_paused": 1})
    assert_whole(pausing)
    room = [end for end in pausing.records("end") if end["reason"].endswith("made room")]
    assert [end["state"] for end in room] == ["pruned"] * len(room) != []
    paused: set[int] = set()
    for kind, number, _ in story(pausing):
        paused = {*paused, number} if kind == "pause" else paused - {number}
        assert len(paused) <= 2  # one, while it is decided which
    history = History(["quality"], maximize=True)
    for record, _ in outbox.read(pausing.paths.outbox):
        history.add(record)
        states = [trial.end["state"] for trial in history.ended if trial.end]
        assert history.since_best <= states.count("complete")  # the others were not beaten


def test_a_trial_that_makes_room_keeps_its_log(pausing: Workbench) -> None:
    log = pausing.paths.worker_log(0)
    log.parent.mkdir(parents=True)
    told = pausing.folder / "told.py"
    prints = f"    with open({str(log)!r}, 'a') as printed:\n        printed.write('said')\n"
    begin = "    time.sleep(options"
    told.write_text(told.read_text().replace(begin, prints + begin))
    pausing.run(strategy={"name": "freeze-thaw", "max_paused": 1})
    room = [end for end in pausing.records("end") if end["reason"].endswith("made room")]
    assert room
    for end in room:
        log = pausing.paths.root / end["artifacts"]["log.txt"]
        assert log.read_text() == "said" * end["last_epoch"]


def test_weights_count_in_what_paused_trials_keep_and_one_of_them_stays(bench: Workbench) -> None:
    history = History(["quality"], maximize=True)
    for number in range(2):
        history.trials[number] = TrialHistory(number, {}, paused=True)
        bench.paths.trial(number).mkdir(parents=True)
        (bench.paths.trial(number) / "epoch-1.pt").write_bytes(bytes(10))
        bench.paths.model(number).write_bytes(bytes(1000))
    for most_bytes, gone in ((2020, []), (2019, [1]), (1, [1])):
        options = {"max_paused_gb": most_bytes / 1e9}
        paused = Paused(bench.paths, Named(name="freeze-thaw", options=options), history)
        paused.add(0)
        paused.add(1)
        assert paused.are_too_many == bool(gone)
        assert paused.beyond([1, 0], but=()) == gone


def wants_more_trials(spec: StudySpec, _learnt: Sequence[Learnt]) -> Scripted:
    """A strategy that knows of no budget."""
    made = Scripted(spec)
    made.trials = 100
    return made


def test_beyond_the_budget_s_trials_paused_ones_are_trained_to_their_ends(
    pausing: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpo.orchestrator, "make_strategy", wants_more_trials)
    ended = pausing.run(budget={"trials": 3, "epochs": 100})
    assert ended.reason == "all 3 trials are done"
    assert_whole(pausing)
    assert {end["state"] for end in pausing.records("end")} == {"complete"}


def test_beyond_the_budget_s_trials_no_paused_one_goes_on_that_does_not_fit_in_its_epochs(
    pausing: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hpo.orchestrator, "make_strategy", wants_more_trials)
    pausing.run(budget={"trials": 3, "epochs": 10})
    assert_whole(pausing)
    assert {end["state"] for end in pausing.records("end")} == {"complete", "pruned"}
    assert len(pausing.records("epoch")) == 9


def test_a_trainer_that_saves_no_state_trains_to_the_end(pausing: Workbench) -> None:
    told = pausing.folder / "told.py"
    told.write_text(told.read_text().replace("trial.save({", "dict({"))
    pausing.run()
    assert not pausing.records("pause")
    assert {end["last_epoch"] for end in pausing.records("end")} == {4}
    assert sum("saves no state" in line for line in pausing.said) == 1


def test_a_trainer_that_saves_no_state_trains_to_the_end_after_a_kill_too(
    pausing: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = pausing.folder / "told.py"
    told.write_text(told.read_text().replace("trial.save({", "dict({"))
    killed(monkeypatch, pausing, "epochs-recorded", 1)
    pausing.run()
    assert not pausing.records("pause")
    assert {end["last_epoch"] for end in pausing.records("end")} == {4}


def test_a_trial_whose_state_cannot_be_saved_fails_and_the_others_pause(
    pausing: Workbench,
) -> None:
    told = pausing.folder / "told.py"
    told.write_text(
        told.read_text().replace(
            'trial.save({"epoch": epoch}',
            'trial.save({"epoch": epoch if trial.number else (lambda: epoch)}',
        )
    )
    pausing.run()
    assert pausing.records("end")[0]["state"] == "failed"
    assert pausing.records("pause")
    assert not [r for r in pausing.records("until") if r["number"] == 0]
    assert not any("saves no state" in line for line in pausing.said)


def test_epochs_end_a_study_with_any_sampler_and_a_later_run_adds_to_them(
    bench: Workbench,
) -> None:
    ended = bench.run(budget={"epochs": 10})
    assert ended.reason == "10 epochs are trained"
    assert len(bench.records("epoch")) == 10
    assert bench.records("end")[-1]["state"] == "stopped"
    bench.run(budget={"epochs": 14})
    assert len(bench.records("epoch")) == 14


def test_without_the_strategy_paused_trials_end_and_broken_off_ones_go_on(
    pausing: Workbench,
) -> None:
    options: dict[str, Any] = {"train__folder": str(pausing.folder)}
    pausing.run(train__at={"0:3": "interrupt once"}, **options)
    text = pausing.file.read_text().replace("strategy: freeze-thaw", "sampler: random")
    pausing.file.write_text(text)
    pausing.run(train__at={"0:3": "interrupt once"}, **options)
    ends = {end["number"]: end for end in pausing.records("end")}
    assert ends[0]["state"] == "complete"
    assert [ends[n]["reason"] for n in (1, 2, 3)] == ["paused at epoch 1, not resumed"] * 3


def test_known_configurations_come_first_and_pause_like_others(pausing: Workbench) -> None:
    pausing.run(start_from=[{"train.x": 0.3}, {"train.x": 0.9}], budget__epochs=8)
    assert [trial.params["train.x"] for trial in pausing.optuna_trials()][:2] == [0.3, 0.9]
    assert ("pause", 0, 1) in story(pausing)


def test_known_configurations_come_first_also_when_the_strategy_goes(pausing: Workbench) -> None:
    options: dict[str, Any] = {
        "start_from": [{"train.x": x} for x in (0.3, 0.9, 0.1)],
        "train__at": {"0:1": "interrupt once"},
        "train__folder": str(pausing.folder),
    }
    pausing.run(**options)
    assert len(pausing.optuna_trials()) < 3
    text = pausing.file.read_text().replace("strategy: freeze-thaw", "sampler: random")
    pausing.file.write_text(text)
    pausing.run(**options)
    xs = [trial.params["train.x"] for trial in pausing.optuna_trials()]
    assert xs[:3] == [0.3, 0.9, 0.1]
    assert len(set(xs)) == len(xs)


def test_a_known_configuration_is_tried_without_what_does_not_exist_in_it(
    pausing: Workbench,
) -> None:
    x = {"low": 0.0, "high": 1.0, "when": {"train.kind": "b"}}
    spec = pausing.load(
        search={"train.kind": ["a", "b"], "train.x": x},
        start_from=[{"train.kind": "a", "train.x": 0.3}],
    )
    pausing.paths.root.mkdir(parents=True)
    history = History(["quality"], maximize=True)
    with closing(open_search(spec, pausing.paths, history, None)) as search:
        asked = [search.ask_for({"train.kind": "b", "train.x": at}) for at in (0.1, 0.2)]
    assert [suggestion and suggestion.params for suggestion in asked] == [
        {"train.kind": "a"},
        {"train.kind": "b", "train.x": 0.2},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"trials": 20}}, r"epochs: 80\} is what 20 whole trials take"),
        ({"budget": {"epochs": 3}}, "one trial has 4 epochs; got 3"),
        ({"pruner": "median"}, "there is a strategy, freeze-thaw, which takes its place"),
        ({"search": {}}, "nothing is searched"),
        (
            {"objective": [{"metric": m, "goal": "minimize"} for m in ("quality", "cost")]},
            "freeze-thaw has one objective; there are 2",
        ),
        ({"train": {"x": 0.5}}, "train.epochs is missing"),
        ({"strategy": {"name": "freeze-thaw", "max_pause": 3}}, "did you mean 'max_paused'"),
    ],
)
def test_a_strategy_says_what_it_needs(
    pausing: Workbench, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StudyFileError, match=message):
        pausing.load(**options)


def test_a_strategy_is_written_in_place_of_sampler_and_pruner(pausing: Workbench) -> None:
    resolved = pausing.load().resolved()
    assert "strategy: freeze-thaw" in resolved
    assert "sampler" not in resolved
    assert "pruner" not in resolved
