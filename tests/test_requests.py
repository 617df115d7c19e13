"""What others ask of the process that runs a study."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from workbench import Workbench

from hpo import launch, lease, requests
from hpo.errors import StudyChanged, StudyLocked
from hpo.launch import tell_running, total_trials
from hpo.orchestrator import Ended
from hpo.progress import Silent
from hpo.requests import Requests, Stop, Trials
from hpo.tracking.outbox import Outbox

WAITS = """
import time
from pathlib import Path

def train(trial):
    for epoch in (1, 2):
        while epoch == 2 and not Path(trial.params["train"]["go"]).exists():
            time.sleep(0.005)
        trial.report(epoch, {"quality": trial.params["train"]["x"]})
"""
SESSION = {"host": "h", "pid": 1, "started": 5.25}
EARLIER = {**SESSION, "started": 4.0}


def asked(inbox: Requests) -> list[requests.Request]:
    return [request for kind in (Stop, Trials) for _, request in inbox.take(kind)]


def until(true: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline_s, f"no {what}"
        time.sleep(0.005)


@contextmanager
def running(bench: Workbench, **overrides: Any) -> Iterator[list[Ended]]:
    """The study in another thread of this process, which no signal reaches."""
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(bench.run(**overrides)))
    thread.start()
    until(lambda: bench.paths.outbox.is_file() and bench.records("epoch"), "epoch")
    yield ended
    thread.join(30)
    assert not thread.is_alive()


@contextmanager
def held(bench: Workbench) -> Iterator[tuple[dict[str, Any], list[Ended]]]:
    """What is to be loaded, and a study that does not go on before the block is left."""
    go = bench.folder / "go"
    (bench.folder / "waits.py").write_text(WAITS)
    options = {"trainer": "waits:train", "train__go": str(go)}
    with running(bench, **options) as ended:
        try:
            yield options, ended
        finally:
            go.touch()


def test_a_request_is_taken_once_in_order_and_by_the_session_that_it_is_to(
    bench: Workbench,
) -> None:
    inbox = Requests(bench.paths, SESSION)
    assert asked(inbox) == []
    requests.send(bench.paths, SESSION, Stop())
    requests.send(bench.paths, EARLIER, Stop(now=True))
    requests.send(bench.paths, SESSION, Stop(now=True))
    assert asked(inbox) == [Stop(False), Stop(True)]
    assert asked(inbox) == []
    assert list(bench.paths.requests.iterdir()) == []


def test_a_request_is_there_until_it_has_been_met(bench: Workbench) -> None:
    inbox = Requests(bench.paths, SESSION)
    file = requests.send(bench.paths, SESSION, Stop())
    taken = inbox.take(Stop)
    next(taken)
    assert file.exists()
    assert list(taken) == []
    assert not file.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"session": SESSION}', '{"session": SESSION, "kind": "rm"}',
             '{"session": SESSION, "kind": "stop", "why": 1}'],
)  # fmt: skip
def test_what_hpo_did_not_write_is_no_request(bench: Workbench, text: str) -> None:
    inbox = Requests(bench.paths, SESSION)
    bench.paths.requests.mkdir(parents=True)
    (bench.paths.requests / "1.json").write_text(text.replace("SESSION", json.dumps(SESSION)))
    assert asked(inbox) == []


def test_a_new_session_starts_without_the_requests_to_those_before(bench: Workbench) -> None:
    requests.send(bench.paths, SESSION, Stop())
    Requests(bench.paths, EARLIER)
    assert list(bench.paths.requests.iterdir()) == []


def test_what_was_asked_before_the_session_looked_first_is_met(bench: Workbench) -> None:
    requests.send(bench.paths, SESSION, Stop())  # its name is out before its inbox is open
    assert asked(Requests(bench.paths, SESSION)) == [Stop(False)]


def test_requests_of_another_kind_stay(bench: Workbench) -> None:
    inbox = Requests(bench.paths, SESSION)
    requests.send(bench.paths, SESSION, Trials(5))
    requests.send(bench.paths, SESSION, Stop())
    assert [request for _, request in inbox.take(Stop)] == [Stop(False)]
    assert asked(inbox) == [Trials(5)]


def test_a_request_on_record_was_met_though_its_session_died_before_removing_it(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = requests.send

    def noted(*args: Any) -> Any:
        file = send(*args)
        sent.append(file.name)
        with Outbox(bench.paths.outbox) as outbox:
            outbox.append({"kind": "budget", "time_ms": 1, "budget": {}, "request": file.name})
        return file

    def cleared(*args: Any) -> Any:
        file = send(*args)
        file.unlink()  # by the next session
        return file

    assert not requests.ask_for_trials(bench.paths, SESSION, Trials(5, more=True))
    monkeypatch.setattr(requests, "send", cleared)
    assert not requests.ask_for_trials(bench.paths, SESSION, Trials(5, more=True))
    monkeypatch.setattr(requests, "send", noted)
    assert requests.ask_for_trials(bench.paths, SESSION, Trials(5, more=True))


def test_to_stop_what_nobody_runs_creates_nothing(bench: Workbench) -> None:
    assert requests.stop(bench.paths, False, print) is None
    assert not bench.paths.root.exists()


def test_a_study_stops_at_its_epochs_end_and_goes_on_as_if_it_had_not(bench: Workbench) -> None:
    said: list[str] = []
    with running(bench, train__epochs=8, train__seconds=0.01) as ended:
        assert requests.stop(bench.paths, False, said.append) is True
        assert lease.owner(bench.paths.lease) is None
    assert (ended[0].state, ended[0].exit_code) == ("interrupted", 130)
    assert bench.records("study_end")[-1]["state"] == "interrupted"
    assert "is to stop once each worker has finished its epoch" in said[0]
    assert list(bench.paths.requests.iterdir()) == []
    before = len(bench.records("epoch"))
    assert before < 40
    bench.run(train__epochs=8, train__seconds=0.01)
    reported = [(r["number"], r["epoch"]) for r in bench.records("epoch")]
    assert reported == [(n, e) for n in range(5) for e in range(1, 9)]
    assert {end["state"] for end in bench.records("end")} == {"complete"}


def test_a_session_that_is_to_stop_takes_no_more_trials(bench: Workbench) -> None:
    with running(bench, train__epochs=2, train__seconds=0.5, budget__trials=1):
        session = requests.session_of(bench.paths)
        assert session is not None
        requests.send(bench.paths, session, Stop())
        assert not requests.ask_for_trials(bench.paths, session, Trials(3, more=True))
    assert [r["budget"]["trials"] for r in bench.records("budget")] == [1]  # its own
    assert list(bench.paths.requests.iterdir()) == []


def test_trials_that_were_asked_for_while_workers_started_are_kept(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(budget__trials=2)
    study = bench.load()
    more = {"budget": study.with_trials(9).budget.model_dump()}
    ready = launch._first_ready

    def meanwhile(*args: Any) -> Any:
        with Outbox(bench.paths.outbox) as outbox:  # the session before this one, at its end
            outbox.append({"kind": "budget", "time_ms": time.time_ns() // 1_000_000, **more})
        return ready(*args)

    monkeypatch.setattr(launch, "_first_ready", meanwhile)
    with launch.opened(study, bench.home, Silent()) as orchestrator:
        assert orchestrator.spec.budget.trials == 9


def test_to_ask_twice_is_not_to_insist(bench: Workbench) -> None:
    with running(bench, train__epochs=2, train__seconds=0.3, budget__trials=1) as ended:
        session = requests.session_of(bench.paths)
        assert session is not None
        for _ in range(2):
            requests.send(bench.paths, session, Stop())
    assert ended[0].state == "interrupted"
    assert len(bench.records("epoch")) == 2  # the epoch that was in training was not given up


def test_what_does_not_end_in_time_is_said_and_still_ends(bench: Workbench) -> None:
    with running(bench, train__epochs=3, train__seconds=0.3, budget__trials=1) as ended:
        assert requests.stop(bench.paths, False, print, wait_s=0.05) is False
    assert ended[0].state == "interrupted"
    assert len(bench.records("epoch")) < 3


def test_a_running_study_goes_on_to_the_trials_that_are_asked_for(bench: Workbench) -> None:
    with held(bench) as (options, ended):
        told = tell_running(bench.load(**options), bench.home, Trials(2, more=True))
        told_again = tell_running(bench.load(**options), bench.home, Trials(6))
    assert ended[0].reason == "all 6 trials are done"
    assert told is not None
    assert told_again is not None
    assert told.startswith("s is run by process ")
    assert told.endswith("told it to go on to 7 trials.")
    assert [r["budget"]["trials"] for r in bench.records("budget")] == [7, 6]
    assert len(bench.records("end")) == 6
    assert "trials: 6" in bench.paths.resolved.read_text()
    assert tell_running(bench.load(**options), bench.home, Trials(9)) is None  # nobody runs it


def test_trials_that_were_asked_for_are_kept_until_others_are_or_the_file_has_more(
    bench: Workbench,
) -> None:
    assert bench.run(budget__trials=2).reason == "all 2 trials are done"
    bench.file.write_text(bench.file.read_text().replace("trials: 5", "trials: 1"))
    assert bench.run().reason == "all 2 trials are done"
    assert bench.run(budget__trials=3).reason == "all 3 trials are done"
    bench.file.write_text(bench.file.read_text().replace("trials: 1", "trials: 4"))
    assert bench.run().reason == "all 4 trials are done"
    assert [r["budget"]["trials"] for r in bench.records("budget")] == [2, 3]
    assert [r["budget"]["trials"] for r in bench.records("study")] == [2, 3, 4]


def test_more_trials_are_counted_from_the_budget_on_record_or_from_those_begun(
    bench: Workbench,
) -> None:
    study = bench.load()
    assert total_trials(study, bench.home, Trials(20)) == 20
    assert total_trials(study, bench.home, Trials(20, more=True)) == 25
    bench.run(budget__trials=2)
    assert total_trials(study, bench.home, Trials(20, more=True)) == 22
    bench.run(study="no-limit", budget={"target": 0.0, "patience": 9})
    unlimited = bench.load(study="no-limit", budget={"target": 0.0, "patience": 9})
    assert total_trials(unlimited, bench.home, Trials(20, more=True)) == 21


def test_a_running_study_with_other_settings_is_left_alone(bench: Workbench) -> None:
    with held(bench) as (options, ended):
        with pytest.raises(StudyChanged, match="seed: 0 → 1"):
            tell_running(bench.load(**options, seed=1), bench.home, Trials(9))
        other = bench.load(**options, pruner="median", budget__wall="1h")
        told = tell_running(other, bench.home, Trials(6))
    assert told is not None
    assert told.endswith("\nNot told: pruner, budget of this file.")
    assert ended[0].reason == "all 6 trials are done"


def test_a_session_that_takes_no_requests_is_not_left_with_one(bench: Workbench) -> None:
    with lease.hold(bench.paths.lease, "s") as session:
        with pytest.raises(StudyLocked, match="takes no requests"):
            requests.ask_for_trials(bench.paths, session, Trials(9), wait_s=0.05)
        assert list(bench.paths.requests.iterdir()) == []
    assert not requests.ask_for_trials(bench.paths, session, Trials(9))  # it has ended


def test_the_path_of_the_file_is_on_record(bench: Workbench) -> None:
    bench.run(budget__trials=1)
    assert bench.records("study")[0]["path"] == str(bench.file)
