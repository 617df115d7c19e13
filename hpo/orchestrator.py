"""The one process of a study that asks, assigns, decides and tells.

`Orchestrator.run` is the loop; `hpo.launch` prepares it and cleans up. Each round of a worker
goes the same way: into the outbox, flushed; then to Optuna; then answered, with new trials for the
places that became free. So what a worker was told is never lost, and Optuna is brought up to date
from the outbox after a crash.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hpo import checkpoints, claims, trial_log
from hpo.budget import limit_reached, more_trials, trials_done
from hpo.causes import DIVERGED, cause, most_often
from hpo.errors import NoRoom, StudyChanged, StudyFailed, WorkerLost
from hpo.executors import Event, Executor, Gone, Leaving
from hpo.fault_points import passing
from hpo.history import History, State, TrialHistory, seed_for
from hpo.kept_models import KeptModels
from hpo.messages import (
    Assignment,
    Begin,
    Finished,
    Interrupt,
    Loading,
    Measure,
    Measured,
    Orders,
    Quit,
    Ready,
    Refused,
    Report,
    Round,
)
from hpo.paths import StudyPaths
from hpo.paused import Paused
from hpo.progress import Progress, View
from hpo.record import Record
from hpo.requests import Requests, Stop, Trials
from hpo.search import MOST_REPEATS, Search, earlier_trials
from hpo.seats import (
    REFILL_BELOW,
    Lanes,
    Seat,
    Training,
    in_training,
    is_training,
    restart,
)
from hpo.spec import StudySpec
from hpo.spec.study import FromStudy
from hpo.strategy import New, Resume, Strategy, make_strategy
from hpo.tracking import Shipped

TICK_S = 0.2  # how often clocks, signals and the view are looked after
ASSIGN_S = 0.02  # of a turn goes to new trials, or one of them, if that takes longer
OVERDUE_S = 10.0  # a trial that ignores its deadline for so long is killed
SILENT_S = 1800.0  # without an epoch; it is said that a trial may hang
TERM_GRACE_S = 30.0  # between SIGTERM and the end of everything
ALIKE = 3  # so many first trials that fail alike end the study
# So many where losses were no numbers: that is mostly a learning rate, and the next may be better.
ALIKE_DIVERGED = 10
FACTS = ("reason", "best_epoch", "last_epoch", "last_values", "duplicate_of")  # told to Optuna


@dataclass(frozen=True)
class Ended:
    """How a run of a study ended.

    Attributes:
        exit_code: 0 done, 130 after SIGINT, 143 after SIGTERM.
        shipped: What MLflow has not got yet, if anything.
    """

    state: Literal["complete", "interrupted"]
    reason: str
    exit_code: int = 0
    shipped: Shipped | None = None


@dataclass(frozen=True)
class Ending:
    """How a trial is to end, as `hpo.record.Record.end` wants it."""

    trial: TrialHistory
    state: State
    reason: str
    finished: Finished | None = None
    duplicate_of: int | None = None


@dataclass(frozen=True)
class Decided:
    """What a strategy has decided of a trial that waits.

    Attributes:
        until: As `hpo.strategy.New.until`.
        after: How many decisions were on record then.
    """

    until: int | None
    after: int


def check_same_data(
    study: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> None:
    """Refuse to go on with other data.

    Args:
        before, now: What was loaded (`trainers.data.Dataset.summary`), or None without data.

    Raises:
        StudyChanged: The fingerprints differ.
    """
    if before and now and before["fingerprint"] != now["fingerprint"]:
        moved = before["source"] != now["source"]
        what = "has other content" if moved else "has changed since"
        raise StudyChanged(
            f"study '{study}' was begun on other data: {now['source']} {what} "
            f"({before['rows']} rows then, {now['rows']} now).\n"
            f"Start another study for the new data: `--set study={study}-2`."
        )


@dataclass
class Orchestrator:
    """A study that is running. Its lease is held by the caller."""

    spec: StudySpec
    paths: StudyPaths
    record: Record
    search: Search
    executor: Executor
    seats: Sequence[Seat]
    view: View
    ready: Ready
    requests: Requests
    waiting: deque[TrialHistory] = field(default_factory=deque)  # asked, not in training
    # On their seats, and not on record yet.
    taken: list[tuple[Seat, Sequence[TrialHistory]]] = field(default_factory=list)
    asked: deque[TrialHistory] = field(default_factory=deque)  # by an earlier run, and not begun
    decided: dict[int, Decided] = field(default_factory=dict)  # those that wait, by number
    declined: bool = False  # the strategy has nothing to train before there is news
    exhausted: str | None = None  # why no other trial can be asked for
    ending: Ended | None = None  # once nothing more is to be assigned
    signals: list[int] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)  # workers that cannot start where they are

    @property
    def history(self) -> History:
        """What has happened in the study."""
        return self.record.history

    def __post_init__(self) -> None:
        self.began_s = time.monotonic()
        self.ticked_s = -math.inf
        # By earlier runs; the cause of their failures may be mended.
        self.ended_before = self.history.counts.total()
        self.patience_ends_s = math.inf
        self.maximize = self.spec.objective[0].maximize
        self.lanes = Lanes(len(self.seats), self.search.learns)
        self.kept = KeptModels(self.paths, self.spec.keep_models, self.history)
        self.record.study(self.search, [seat.setup for seat in self.seats], self.ready)
        if self.spec.trials_asked and self.spec.budget.trials != self.history.asked_trials:
            self.record.budget(self.spec)
        passing("study-recorded")
        if self.spec.strategy is None:
            self.view.say(f"sampler {self.search.sampler}; pruner {self.search.pruner}")
        else:
            self.view.say(f"strategy {self.spec.strategy.name}")
        if not self.search.started:
            self._learn()
        self.strategy = make_strategy(self.spec, self.search.learnt())
        self.paused = (
            Paused(self.paths, self.spec.strategy, self.history) if self.spec.strategy else None
        )
        self.said_unable = False
        self._reconcile()
        if self.strategy is None:  # which is asked for what else is new
            self.search.enqueue_starts()
        for seat in self.seats:
            self._greet(seat)

    # -- the loop

    def run(self) -> Ended:
        """Train until the budget is used or somebody stops it."""
        try:
            with _signals_into(self.signals):
                while not self._over():
                    self.turn()
            self._close_down()
        except BaseException as error:
            with contextlib.suppress(OSError):  # a full disk takes this line no better
                self.record.study_end("failed", _first_line(error))
            raise
        finally:
            self.executor.close()  # before MLflow gets the rest: it may use the cores now
        assert self.ending is not None
        return self.ending

    def turn(self) -> None:
        """Give out trials, follow up what arrives, and look at what others want: once."""
        more = self._assign()
        events = self.executor.wait(0 if more or self._may_prepare() else TICK_S)
        if not events and self._may_prepare():
            self._prepare()
        self._record(events)
        for event in sorted(events, key=_takes_long):
            self._handle(event)
        if self._tick():
            self.search.flush()
            self._look_at_clocks()
            self._look_at_requests()
            self._look_at_silence()
            self._show()
        self._look_at_signals()

    def _over(self) -> bool:
        if not self._decide_on_the_end() or is_training(self.seats):
            return False
        return not any(seat.pausing for seat in self.seats)

    def _decide_on_the_end(self) -> bool:
        """Whether nothing more is to be assigned."""
        if self.ending is None:
            why = limit_reached(self.spec, self.history, self._spent_s())
            if why is None and not self.waiting and not is_training(self.seats):
                why = self.exhausted
                if self.strategy is None or self.declined:
                    why = why or trials_done(self.spec, self.history)
                if self.declined:
                    why = why or (
                        "nothing is left to train: no configuration is untried, or none fits in "
                        "the epochs left"
                    )
            if why is not None:
                self.ending = Ended("complete", why)
        return self.ending is not None

    def _record(self, events: Sequence[Event]) -> None:
        """Put every epoch that arrived into the outbox, with one flush for all."""
        reports = [
            report
            for event in events
            if isinstance(event.message, Round)
            for report in event.message.reports
            if report.number in self.seats[event.worker].trainings
        ]
        for report in reports:
            self.record.epoch(report)
            for note in report.notes.values():
                self.view.say(f"trial {report.number}: {note}")
        if reports:
            self.declined = False
            self.record.commit()
            passing("epochs-recorded")

    def _handle(self, event: Event) -> None:
        seat = self.seats[event.worker]
        match event.message:
            case Round(reports, finished, ends):
                self._round(seat, reports, finished, ends)
            case Measured(lanes):
                self._measured(seat, lanes)
            case Loading(text):
                self.view.say(text)
            case Ready() as ready:
                check_same_data(self.spec.study, self.ready.dataset, ready.dataset)
                seat.ready, seat.deaths, seat.node = True, 0, ready.node
                self._greet(seat)
            case Refused(_, message, _):
                self._refused(seat, message)
            case Leaving(reason):
                self._leave(seat, reason)
            case Gone() as gone:
                self._gone(seat, gone)

    # -- giving out trials

    def _assign(self) -> bool:
        """Give trials to workers that have none; whether to go on with others.

        For `ASSIGN_S` a turn: to ask takes time, in which others wait for their answers. What was
        chosen by then begins together; of a strategy each by itself, for it asks what has begun.
        """
        began_s = time.monotonic()
        more = False
        empty = [seat for seat in self.seats if seat.is_open and not seat.trainings]
        for seat in empty:
            if chosen := self._choose(seat):
                self._take(seat, chosen)
                if self.strategy is not None:
                    self._send_taken()
                if time.monotonic() - began_s > ASSIGN_S:
                    more = len(empty) > 1
                    break
        self._send_taken()
        return more

    def _send_taken(self) -> None:
        for seat, begin in self._begin():
            self.executor.send(seat.number, Orders(begin=begin))
            self._follow()

    def _choose(self, seat: Seat) -> list[TrialHistory]:
        """What is to begin on a seat now: the oldest trial, and what can be trained with it.

        Suggestions are taken as the sampler makes them. Those of another kind wait for a seat, and
        as the oldest takes the next one that becomes empty, none waits forever.
        """
        if not seat.is_open or self._decide_on_the_end() or self._holds_back():
            return []
        if seat.trainings:
            chosen, kind, most = [], seat.kind, self._room(seat)
        else:
            if not self.waiting and self._prepare() is None:
                return []
            chosen = [self.waiting[0]]
            kind = self._kind(chosen[0])
            lanes = self.lanes.limit(self.spec, kind)
            if lanes is None and not self._is_measured(kind):
                self._measure(seat, chosen[0])
                return []
            most = lanes or 1
        for trial in itertools.islice(self.waiting, len(chosen), None):
            if len(chosen) < most and self._kind(trial) == kind:
                chosen.append(trial)
        if chosen and chosen[0].attempts:  # a stack goes on, as large as it was or as is refilled
            most = min(most, REFILL_BELOW)
        while len(chosen) < most and self._may_look_ahead(kind, len(chosen)):
            further = self._prepare()
            if further is None:
                break
            if self._kind(further) == kind:
                chosen.append(further)
        return chosen

    def _kind(self, trial: TrialHistory) -> str | None:
        return self.lanes.kind(self.spec, trial)

    def _room(self, seat: Seat) -> int:
        """How many trials may join those on a seat; none once they have overtaken another kind."""
        begun, oldest = self.history.trials, next(iter(self.waiting), None)
        if oldest is not None and begun and self._kind(oldest) != seat.kind:
            decided = self.decided.get(oldest.number)
            overtaken_by = (
                len(self.history.decisions) - decided.after
                if decided
                else next(reversed(begun)) - oldest.number
            )
            if overtaken_by > self.lanes.most(self.spec) * len(self.seats):
                return 0
        return self.lanes.room(self.spec, seat)

    def _may_look_ahead(self, kind: str | None, chosen: int) -> bool:
        """Whether to ask for one more trial to find one of a kind.

        A sampler that learns is never further ahead of the results than the trials that all
        workers could train; another may have as many wait.
        """
        beside = len(list(in_training(self.seats))) if self.lanes.learns else -chosen
        lanes = self.lanes.limit(self.spec, kind) or 1
        return len(self.waiting) + beside < lanes * len(self.seats)

    def _measure(self, seat: Seat, trial: TrialHistory) -> None:
        """Have a worker find out how many trials like this one it pays to train together."""
        seat.measuring = self._kind(trial)
        config = self.spec.config(trial.params)
        self.executor.send(seat.number, Measure(config, self.lanes.most(self.spec)))

    def _is_measured(self, kind: str | None) -> bool:
        """Whether a worker is finding out how many trials of a kind pay."""
        return any(seat.measuring == kind for seat in self.seats)

    def _measured(self, seat: Seat, lanes: int) -> None:
        if seat.measuring is not None:
            self.lanes.measured[seat.measuring] = lanes
            seat.measuring = None

    def _may_prepare(self) -> bool:
        """Whether to think of the next trial while all workers train.

        Not with one worker: a suggestion made before its last trial is over would know less. Nor
        with a strategy, which has done what takes long when it is asked.
        """
        ahead = len(self.seats) > 1 and self.strategy is None
        return ahead and not self.waiting and self._wants_more()

    def _wants_more(self) -> bool:
        if self.ending is not None or self.exhausted is not None:
            return False
        return self._may_begin_another() if self.strategy is None else not self.declined

    def _may_begin_another(self) -> bool:
        taken = (trial for _, trials in self.taken for trial in trials)
        fresh = sum(1 for trial in (*self.waiting, *taken) if trial.attempts == 0)
        return trials_done(self.spec, self.history, also=fresh) is None

    def _prepare(self) -> TrialHistory | None:
        """Ask for a trial, which then waits; answer duplicates from the record of their twin."""
        if not self._wants_more():
            return None
        if self.strategy is not None:
            return self._decide(self.strategy)
        if self.asked:
            self.waiting.append(self.asked.popleft())
            return self.waiting[-1]
        for attempt in range(MOST_REPEATS):
            suggestion = self.search.ask_untried() if attempt else self.search.ask()
            if suggestion is None:
                break
            passing("asked")
            trial = TrialHistory(suggestion.number, suggestion.params)
            if suggestion.duplicate_of is None:
                self.waiting.append(trial)
                return trial
            self._answer(trial, suggestion.duplicate_of)
        self.exhausted = "every configuration has been tried"
        return None

    def _decide(self, strategy: Strategy) -> TrialHistory | None:
        """Have the strategy say what is next, which then waits."""
        waiting = {trial.number: trial for trial in self.waiting}
        pending = [
            replace(waiting[number], until=decided.until, paused=False)
            for number, decided in self.decided.items()
        ]
        decision = strategy.decide(self.history, pending)
        trial = self._meant(decision)
        if trial is None and isinstance(decision, New):
            decision = self._most_promising(strategy)
            trial = self._meant(decision)
        if decision is None or trial is None:
            self.declined = True
            return None
        epochs, until = self._epochs(trial), decision.until
        if until is not None and isinstance(epochs, int) and until >= epochs:
            until = None
        self.decided[trial.number] = Decided(until, len(self.history.decisions))
        self.waiting.append(trial)
        passing("decided")
        return trial

    def _most_promising(self, strategy: Strategy) -> Resume | None:
        """What is done where no other trial may begin: a paused one is trained to its end."""
        left = self._epochs_left()
        for number in reversed(strategy.hopeless(self.history)):
            trial = self.history.trials[number]
            if number not in self.decided and self._epochs(trial) - trial.recorded <= left:
                return Resume(number, None)
        return None

    def _epochs_left(self) -> float:
        """Of the budget's epochs, without those that are decided and not trained yet."""
        if self.spec.budget.epochs is None:
            return math.inf
        begun = self.history.trials.values()
        going = [(t, t.until) for t in begun if t.end is None and not t.paused]
        decided = self.decided
        going += [(t, decided[t.number].until) for t in self.waiting if t.number in decided]
        ahead = sum((until or self._epochs(each)) - each.recorded for each, until in going)
        return self.spec.budget.epochs - self.history.epochs - ahead

    def _meant(self, decision: New | Resume | None) -> TrialHistory | None:
        """The trial that is to begin or to go on; None: there is none such.

        A trial that an earlier run has asked for and not begun takes the place of a new one. It is
        the same where decisions are the same; else it is as good as a moment ago.
        """
        match decision:
            case Resume(number):
                trial = self.history.trials.get(number)
                is_free = trial is not None and trial.paused and number not in self.decided
                return trial if is_free else None
            case New(params) if self._may_begin_another():
                if self.asked:
                    return self.asked.popleft()
                suggestion = self.search.ask_for(params)
                passing("asked")
                if suggestion is not None:
                    return TrialHistory(suggestion.number, suggestion.params)
        return None

    def _follow(self) -> None:
        """Let the strategy prepare itself, now that workers have something to do."""
        if self.strategy is not None:
            self.strategy.follow(self.history)

    def _answer(self, trial: TrialHistory, twin: int) -> None:
        """End a trial from the record of the one with the same configuration."""
        if trial.attempts == 0:
            self.search.commit()
            self.record.trial(trial, worker=None)
        why = f"same configuration as trial {twin}"
        self._end(Ending(trial, "pruned", why, duplicate_of=twin))

    def _take(self, seat: Seat, trials: Sequence[TrialHistory]) -> None:
        """Put trials that waited on a seat, where they are to begin."""
        chosen = {trial.number for trial in trials}
        self.waiting = deque(trial for trial in self.waiting if trial.number not in chosen)
        seat.kind = self._kind(trials[0])
        log_start = trial_log.end_of(self.paths.worker_log(seat.number))
        for trial in trials:
            epochs = self._epochs(trial)
            seat.trainings[trial.number] = Training(trial, epochs, log_start, trial.wall_s)
        self.taken.append((seat, trials))

    def _begin(self) -> list[tuple[Seat, list[Assignment]]]:
        """Record that what was taken begins, with one flush for all."""
        taken, self.taken = self.taken, []
        if not taken:
            return []
        self.search.commit()  # the params are on the disk before the outbox speaks of the trials
        passing("params-kept")
        resumed = [trial.number for _, trials in taken for trial in trials if trial.paused]
        begun = [(seat, [self._begun(seat, trial) for trial in trials]) for seat, trials in taken]
        self.record.commit()
        passing("begun")
        for number in resumed:
            self.search.resume(number)
        return begun

    def _begun(self, seat: Seat, trial: TrialHistory) -> Assignment:
        folder = self.paths.trial(trial.number)
        claims.give(self.paths.claim(trial.number), trial.attempts + 1)
        if trial.recorded == 0:
            # What an attempt without a record has left; of an earlier one, but for its log.
            (checkpoints.clear if trial.attempts else checkpoints.discard)(folder)
        decided = self.decided.pop(trial.number, None)
        until = decided.until if decided else trial.until if self.strategy else None
        self.record.trial(trial, worker=seat.number, until=until, node=seat.node)
        return self._assignment(trial, folder, self.lanes.limit(self.spec, seat.kind) or 1)

    def _assignment(self, trial: TrialHistory, folder: Path, lanes: int) -> Assignment:
        return Assignment(
            number=trial.number,
            params=self.spec.config(trial.params),
            seed=seed_for(self.spec.seed, trial.number, "train"),
            attempt=trial.attempts,
            recorded=trial.recorded,
            folder=folder,
            metrics=[objective.metric for objective in self.spec.objective],
            maximize=self.maximize,
            lanes=lanes,
            keep_model=self.spec.keep_models != 0,
            claim=self.paths.claim(trial.number),
            until=trial.until,
        )

    # -- what comes back

    def _round(
        self, seat: Seat, reports: Sequence[Report], over: Sequence[Finished], ends: bool
    ) -> None:
        """Follow up what a worker's trials did; then what is free begins, unless some are to stop.

        The worker tells at once how those ended, and the next suggestions know it.
        """
        if not seat.trainings and not seat.pausing:
            return  # said before the worker was given up
        seat.leaving = seat.leaving or ends
        stop = [each.number for each in reports if self._is_to_stop(seat, each)]
        gone = {*stop, *(each.number for each in over)}
        until = self._go_on_or_pause(seat, [r for r in reports if r.number not in gone])
        self._finished(seat, over)
        if seat.leaving and not seat.trainings:
            self.executor.send(seat.number, Quit())
            return
        # An empty worker gets the next ones from `_assign`: it may have to measure before, and
        # would not read that while it waits for this answer.
        makes_room = stop or seat.pausing
        chosen = self._choose(seat) if seat.trainings and not makes_room else []
        if chosen:
            self._take(seat, chosen)
        begin = [assignment for _, begun in self._begin() for assignment in begun]
        if stop:
            self.record.commit()
            passing("verdicts-recorded")
        self.executor.send(seat.number, Orders(stop, until, begin))
        if until or begin:
            self._follow()

    def _is_to_stop(self, seat: Seat, report: Report) -> bool:
        """Tell Optuna of an epoch; whether the trial is to end with it."""
        training = seat.trainings.get(report.number)
        if training is None:
            return False
        if training.heard_s is not None:
            training.heard_s = time.monotonic()
        trial = training.trial
        pruned = self.search.report(trial.number, report.epoch, trial.values[report.epoch])
        passing("epoch-told")
        is_last = report.last or report.epoch == training.epochs  # then it is complete
        if training.stop is None and not is_last:
            training.stop = (
                ("pruned", pruned) if pruned else self._overdue(training, report.wall_s)
            )
            if training.stop is not None:
                self.record.verdict(trial.number, *training.stop)
        return training.stop is not None

    def _go_on_or_pause(self, seat: Seat, reports: Sequence[Report]) -> dict[int, int | None]:
        """Decide as often as trials wait what comes next; those that are not it are paused.

        Returns:
            Those that go on where they are → until which epoch.
        """
        there = [each for each in reports if each.number in seat.trainings]
        for each in there:
            if each.epoch == seat.trainings[each.number].trial.until and not each.waits:
                self._train_to_its_end(each)
        waiting = [seat.trainings[each.number].trial for each in there if each.waits]
        if not waiting:
            return {}
        for trial in waiting:
            self._pause(trial)
        passing("paused")
        self._make_room()
        for _ in waiting:
            self._prepare()
        until: dict[int, int | None] = {}
        for trial in waiting:
            number = trial.number
            if number in self.decided:
                until[number] = self.decided.pop(number).until
                self.record.until(number, until[number])
            else:
                seat.pausing[number] = seat.trainings.pop(number)
        self.waiting = deque(trial for trial in self.waiting if trial.number not in until)
        self.record.commit()
        passing("pauses-recorded")
        for trial in waiting:
            if trial.paused:
                self.search.pause(trial.number, trial.recorded)
        return until

    def _pause(self, trial: TrialHistory) -> None:
        assert self.paused is not None, "without a strategy none waits"
        if not trial.paused:
            self.record.pause(trial)
        self.paused.add(trial.number)

    def _train_to_its_end(self, report: Report) -> None:
        """A trial whose trainer keeps no state cannot be paused."""
        if not report.last:
            self.record.until(report.number, None)
            if not self.said_unable:
                self.view.say("the trainer saves no state: its trials are trained to their ends")
            self.said_unable = True

    def _make_room(self) -> None:
        """End the paused trials that are least likely to go on, where there are too many."""
        if self.strategy is None or self.paused is None or not self.paused.are_too_many:
            return
        hopeless = self.strategy.hopeless(self.history)
        trials = [self.history.trials[n] for n in self.paused.beyond(hopeless, but=self.decided)]
        passing("made-room")
        for seat in self.seats:
            for training in (*seat.trainings.values(), *seat.pausing.values()):
                if any(training.trial is trial for trial in trials):
                    self._keep_log(seat, training)  # before the end, which names it
        self._end(*(Ending(trial, "pruned", _made_room(trial)) for trial in trials))

    def _finished(self, seat: Seat, finished: Sequence[Finished]) -> None:
        endings, again, full = [], [], ""
        for each in finished:
            training = self._vacate(seat, each.number)
            if training is None:
                continue
            trial = training.trial
            match each.outcome:
                case "complete":
                    endings.append(Ending(trial, "complete", "", each))
                case "stop":
                    assert training.stop is not None
                    endings.append(Ending(trial, *training.stop, each))
                case "failed":
                    endings.append(Ending(trial, "failed", each.reason, each))
                case "interrupted":
                    again.append(trial)
                    full = full or each.reason
                case "alone":
                    trial.broke_off = True
                    again.append(trial)
                    self.view.say(f"trial {trial.number} goes on alone: {each.reason}")
        self._end(*endings)
        self.waiting.extendleft(reversed(again))
        if full:
            raise NoRoom(full)
        if finished and self.spec.fresh_process:
            seat.leaving = True  # when it is gone, another is started

    def _vacate(self, seat: Seat, number: int) -> Training | None:
        """Take a trial off a seat, with what was printed meanwhile."""
        training = seat.trainings.pop(number, None) or seat.pausing.pop(number, None)
        if training is not None:
            self._keep_log(seat, training)
        return training

    def _keep_log(self, seat: Seat, training: Training) -> None:
        log = self.paths.worker_log(seat.number)
        trial_log.keep(log, training.log_start, self.paths.trial(training.trial.number))
        training.log_start = trial_log.end_of(log)

    def _vacate_all(self, seat: Seat) -> list[Training]:
        for number in list(seat.pausing):
            self._vacate(seat, number)
        vacated = [self._vacate(seat, number) for number in list(seat.trainings)]
        return [training for training in vacated if training]

    def _refused(self, seat: Seat, message: str) -> None:
        """A worker cannot start where it is; others may, on other machines.

        Raises:
            WorkerLost: There are no others, at work, starting or waiting for a place.
        """
        said = f"worker {seat.number} cannot start: {message}"
        self.refused.add(seat.number)
        if len(self.refused) == len(self.seats):
            raise WorkerLost(said)
        self.view.say(f"{said}; the study goes on without it")
        self.executor.kill(seat.number)

    def _leave(self, seat: Seat, reason: str) -> None:
        """A worker's machine is about to go: its trials go on elsewhere, from where they are."""
        self.view.say(f"worker {seat.number}: {reason}")
        seat.leaving = True
        self.executor.send(seat.number, Interrupt() if seat.trainings else Quit())

    def _gone(self, seat: Seat, gone: Gone) -> None:
        """A worker is lost; its trials get another try, each by itself.

        With one try at least where it trained several: it is not known whose crash it was. And
        with as many as it takes where its machine was lost.
        """
        reason = gone.reason
        lost = self._vacate_all(seat)
        was_ready = seat.ready
        seat.ready = seat.leaving = False
        self._measured(seat, 1)  # it did not survive to measure more
        passing("worker-lost")
        endings, again = [], []
        for training in lost:
            trial = training.trial
            if training.stop is not None:
                endings.append(Ending(trial, *training.stop))
            elif gone.of_machine or trial.crashes < self.spec.retries or len(lost) > 1:
                trial.crashes += not gone.of_machine
                self.view.say(
                    f"trial {trial.number}: {reason}; it goes on from epoch {trial.recorded}"
                )
                again.append(trial)
            else:
                endings.append(Ending(trial, "failed", f"{reason} ({trial.crashes + 1} times)"))
        self._end(*endings)
        self.waiting.extendleft(reversed(again))
        if gone.of_machine and not was_ready:
            self.view.say(f"worker {seat.number}: {reason}; it is started anew")
        if was_ready or gone.of_machine:
            self.executor.start(seat.setup)
        else:
            restart(self.executor, seat, reason)

    def _end(self, *endings: Ending, quietly: bool = False) -> None:
        """End trials: in the outbox, with one flush for all, then in Optuna."""
        ends = [
            self.record.end(each.trial, each.state, each.reason, each.finished, each.duplicate_of)
            for each in endings
        ]
        if ends:
            self.declined = False
            passing("end-decided")
            self.record.commit()
            passing("end-recorded")
        metric = self.spec.objective[0].metric
        for ending, end in zip(endings, ends, strict=True):
            number, values = ending.trial.number, end["values"]
            self._tell(number, end)
            passing("end-told")
            self.kept.add(ending.trial)
            best = (
                f"{metric} {values[0]:.4g} at epoch {end['best_epoch']}" if values else "no epoch"
            )
            why = f": {ending.reason}" if ending.reason else ""
            if not quietly:
                self.view.say(f"trial {number} {ending.state} ({best}){why}")

    def _tell(self, number: int, end: Mapping[str, Any]) -> None:
        """Tell Optuna of an end that is on record.

        The checkpoints go before: nobody looks for those of a trial that is over in Optuna.
        """
        claims.take_back(self.paths.claim(number))
        checkpoints.clear(self.paths.trial(number))
        facts = {key: end[key] for key in FACTS if key in end}
        self.search.tell(number, end["state"], end["values"], facts)

    def _ends(self) -> list[Mapping[str, Any]]:
        """The ends of trials that were trained; not of those answered from a twin's record."""
        ends = (trial.end for trial in self.history.ended)
        return [end for end in ends if end is not None and "duplicate_of" not in end]

    def _all_fail_alike(self) -> Mapping[str, Any] | None:
        """The first end, where the first trials of this run all failed for the same reason."""
        if self.history.best is not None:  # the usual case, asked for in every turn of the loop
            return None
        ends = self._ends()[self.ended_before :]
        if not ends or any(end["state"] != "failed" for end in ends):
            return None
        diverged = ends[0]["reason"].startswith(DIVERGED)
        if len(ends) < max(ALIKE_DIVERGED if diverged else ALIKE, len(self.seats)):
            return None
        return ends[0] if len({cause(end["reason"]) for end in ends}) == 1 else None

    def _holds_back(self) -> bool:
        """Whether to begin no trial until those in training show that not all of them fail.

        Raises:
            StudyFailed: None is in training any more: they all failed alike.
        """
        first = self._all_fail_alike()
        if first is None or any(each.trial.values for each in in_training(self.seats)):
            return False
        if is_training(self.seats):
            return True
        count = self.history.counts.total() - self.ended_before
        raise StudyFailed(
            f"the first {count} trials all failed alike: {first['reason']}\n"
            + (first["traceback"] or "")
            + "Mend the cause, then run the same command again (failed trials count in the "
            f"budget), or start afresh: `--set study={self.spec.study}-2`."
        )

    # -- clocks and signals

    def _spent_s(self) -> float:
        return self.history.wall_s + time.monotonic() - self.began_s

    def _overdue(self, training: Training, epoch_s: float) -> tuple[State, str] | None:
        """Why a trial is to stop at this epoch's end: another like it would come too late."""
        wall_s, timeout_s = self.spec.budget.wall_s, self.spec.timeout_s
        if wall_s is not None and self._spent_s() + epoch_s > wall_s:
            self.ending = self.ending or Ended(
                "complete", f"the wall time of {wall_s:g} s is used"
            )
            return "stopped", "the study's wall time is used"
        if timeout_s is not None and training.wall_s + epoch_s > timeout_s:
            return "stopped", f"the trial's timeout of {timeout_s:g} s"
        limit = limit_reached(self.spec, self.history, self._spent_s())
        return ("stopped", limit) if limit else None

    def _look_at_clocks(self) -> None:
        """Kill what ignores its deadline; what trained with it goes on."""
        for seat in self.seats:
            why = {number: self._ignored(each) for number, each in seat.trainings.items()}
            if not any(why.values()):
                continue
            self.executor.kill(seat.number)
            seat.ready = False
            lost = self._vacate_all(seat)
            for each in lost:
                if reason := why[each.trial.number]:
                    self._end(Ending(each.trial, "stopped", reason))
            innocent = [each.trial for each in lost if not why[each.trial.number]]
            self.waiting.extendleft(reversed(innocent))
            self.executor.start(seat.setup)

    def _ignored(self, training: Training) -> str | None:
        """Which deadline a trial ignores, if any."""
        wall_s, timeout_s = self.spec.budget.wall_s, self.spec.timeout_s
        if timeout_s is not None and training.wall_s > timeout_s + OVERDUE_S:
            return f"the trial's timeout of {timeout_s:g} s, in the middle of an epoch"
        if wall_s is not None and self._spent_s() > wall_s + OVERDUE_S:
            return "the study's wall time is used, in the middle of an epoch"
        return None

    def _look_at_silence(self) -> None:
        """Say of a trial, once, that it may hang, where no timeout will end it."""
        if self.spec.timeout_s is not None:
            return
        for training in (each for seat in self.seats for each in seat.trainings.values()):
            heard_s = training.heard_s
            if heard_s is not None and time.monotonic() - heard_s > SILENT_S:
                training.heard_s = None
                self.view.say(
                    f"trial {training.trial.number} has reported no epoch for "
                    f"{SILENT_S / 60:.0f} minutes. If it hangs: Ctrl-C twice, then a `timeout` in "
                    "the study file, and the same command again."
                )

    def _look_at_signals(self) -> None:
        """The first asks workers to finish their epoch; the second, or patience lost, kills."""
        if not self.signals:
            return
        if self.ending is None or self.ending.state != "interrupted":
            term = self.signals[0] == signal.SIGTERM
            self.ending = Ended("interrupted", "stopped by the user", 143 if term else 130)
            self.patience_ends_s = time.monotonic() + (TERM_GRACE_S if term else math.inf)
            self.view.say(
                "stopping: each worker finishes its epoch and saves (again to stop at once) …"
            )
            for seat in self.seats:
                if seat.trainings:
                    self.executor.send(seat.number, Interrupt())
        if len(self.signals) > 1 or time.monotonic() > self.patience_ends_s:
            for seat in self.seats:
                self.executor.kill(seat.number)
                lost = [each.trial for each in self._vacate_all(seat)]
                self.waiting.extendleft(reversed(lost))

    # -- beginning and end

    def _learn(self) -> None:
        """Take in the studies that this one is to start from."""
        for item in self.spec.start_from:
            if isinstance(item, FromStudy):
                earlier = earlier_trials(self.spec, self.paths, item.study)
                used = self.search.learn_from(earlier, item.study)
                self.view.say(f"{used} of {len(earlier)} trials of '{item.study}' learnt from")
        self.search.set_started()

    def _reconcile(self) -> None:
        """Bring Optuna up to what the outbox says, and find the trials to go on with."""
        if len(self.spec.objective) > 1:  # Optuna keeps no curves of several objectives
            for trial in self.history.trials.values():
                for epoch, values in trial.values.items():
                    self.search.report(trial.number, epoch, values)
        for number in sorted(self.search.unfinished()):
            suggestion = self.search.again(number)
            trial = self.history.trials.get(number) or TrialHistory(number, suggestion.params)
            known = self.search.epochs(number)
            pruned = None
            for epoch, values in sorted(trial.values.items()):
                if epoch not in known:
                    pruned = self.search.report(number, epoch, values)
            if trial.recorded in known:  # but perhaps nobody heard what the pruner said
                pruned = self.search.judge(number, trial.recorded)
            if trial.end is not None:
                self._tell(number, trial.end)
            elif trial.verdict is not None:
                self._end(Ending(trial, *trial.verdict))
            elif pruned and trial.recorded != self._epochs(trial):
                self._end(Ending(trial, "pruned", pruned))
            elif suggestion.duplicate_of is not None and not trial.values:
                self._answer(trial, suggestion.duplicate_of)
            elif trial.paused or (self.strategy and trial.recorded == trial.until):
                self._pause_again(trial)
            elif trial.attempts:
                if len(trial.targets) > 1:  # perhaps Optuna still shows the pause before
                    self.search.resume(number)
                self.waiting.append(trial)
                self.view.say(f"trial {number} goes on from epoch {trial.recorded}")
            else:  # perhaps with a larger budget than this run has
                self.asked.append(trial)
        self._make_room()

    def _pause_again(self, trial: TrialHistory) -> None:
        """Take up a trial that an earlier run has paused, or was about to."""
        if self.strategy is None:
            self._end(Ending(trial, "pruned", _not_resumed(trial)))
            return
        if not self.history.paused and not checkpoints.size(self.paths.trial(trial.number)):
            # Its trainer saves no state, and it was killed before it was to train to its end.
            self.record.until(trial.number, None)
            self.waiting.append(trial)
            return
        self._pause(trial)
        self.search.pause(trial.number, trial.recorded)

    def _epochs(self, trial: TrialHistory) -> Any:
        """How many epochs a trial is to train; None where its configuration does not say."""
        return self.spec.config(trial.params)["train"].get("epochs")

    def _greet(self, seat: Seat) -> None:
        self.executor.send(seat.number, Begin(self.paths.worker_log(seat.number)))

    def _close_down(self) -> None:
        """Leave no trial RUNNING, and say how the study ended."""
        assert self.ending is not None
        if self.ending.state == "complete":
            broken_off = [each for each in self.waiting if each.attempts and not each.paused]
            self._end(*(Ending(each, "stopped", self.ending.reason) for each in broken_off))
            paused = self.history.paused
            self._end(
                *(Ending(each, "pruned", _not_resumed(each)) for each in paused), quietly=True
            )
            if paused:
                self.view.say(f"{len(paused)} paused trials are not resumed: they end as pruned")
        ends = [trial.end for trial in self.history.ended if trial.end]
        failed = [end["reason"] for end in ends if end["state"] == "failed"]
        if self.ending.state == "complete" and failed and len(failed) == len(ends):
            raise StudyFailed(f"no trial succeeded; most often: {most_often(failed)}")
        if self.ending.state == "complete":
            # The next run looks no further than this record.
            self.search.set_aside()
            self.search.commit()
        if deleted := self.kept.words():
            self.view.say(deleted)
        self.record.study_end(self.ending.state, self.ending.reason)
        passing("study-ended")

    # -- what others see and ask

    def _tick(self) -> bool:
        """Whether it is time to look at what cannot come many times a second."""
        now_s = time.monotonic()
        due = now_s - self.ticked_s >= TICK_S
        if due:
            self.ticked_s = now_s
        return due

    def _look_at_requests(self) -> None:
        for _, stop in self.requests.take(Stop):
            # As from the keyboard; but to ask twice for the same is not to insist.
            wanted = 2 if stop.now else 1
            self.signals += [signal.SIGINT] * (wanted - len(self.signals))
        # Once the end is decided more trials would come to nothing: who asks finds out.
        if self.ending is None and not self.signals:
            for name, trials in self.requests.take(Trials):
                self._set_trials(trials.count, trials.more, name)

    def _set_trials(self, count: int, more: bool, request: str) -> None:
        if more:
            budget = self.spec.budget.model_dump()
            count = more_trials(budget, self.history.counted, count)
        self.spec = self.spec.with_trials(count)
        self.declined = False
        self.record.budget(self.spec, request)
        self.view.say(f"going on to {count} trials, as was asked for")

    def _show(self) -> None:
        self.view.show(self.progress())

    def progress(self) -> Progress:
        best = self.history.best
        return Progress(
            study=self.spec.study,
            metric=self.spec.objective[0].metric,
            counts=self.history.counts.copy(),
            paused=len(self.history.paused) if self.strategy else 0,
            total=self.spec.budget.trials,
            best=(best.number, best.value, best.epoch) if best else None,
            elapsed_s=time.monotonic() - self.began_s,
            left_s=self._left_s(),
            workers=[seat.progress(self.maximize) for seat in self.seats],
        )

    def _left_s(self) -> float | None:
        """By the mean time of a trial so far, and never beyond the wall budget."""
        budget, history = self.spec.budget, self.history
        ended = history.counts.total()
        if not ended:
            return None
        guesses = []
        if budget.trials is not None:
            left = max(0, budget.trials - ended)
            guesses.append(left * history.train_s / ended / len(self.seats))
        if budget.epochs is not None and history.epochs:
            left = max(0, budget.epochs - history.epochs)
            guesses.append(left * history.train_s / history.epochs / len(self.seats))
        if budget.wall_s is not None:
            guesses.append(max(0.0, budget.wall_s - self._spent_s()))
        return min(guesses, default=None)


def _takes_long(event: Event) -> bool:
    """Whether to follow up what happened takes so long that others are answered before."""
    return not isinstance(event.message, Round) or bool(event.message.finished)


def _not_resumed(trial: TrialHistory) -> str:
    return f"paused at epoch {trial.recorded}, not resumed"


def _made_room(trial: TrialHistory) -> str:
    return f"paused at epoch {trial.recorded}; its checkpoint made room"


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__


@contextlib.contextmanager
def _signals_into(received: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM instead of dying of them; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, _frame: Any) -> None:
        received.append(number)

    before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
