"""The one process of a study that asks, assigns, decides and tells.

`Orchestrator.run` is the loop; `hpo.launch` prepares it and cleans up. Each message from a worker
goes the same way: into the outbox, flushed; then to Optuna; then answered. So what a worker was
told is never lost, and Optuna is brought up to date from the outbox after a crash.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hpo import checkpoints, trial_log
from hpo.budget import limit_reached, more_trials, trials_done
from hpo.errors import StudyChanged, StudyFailed, WorkerLost
from hpo.executors import Event, Executor, Gone
from hpo.history import History, State, TrialHistory, seed_for
from hpo.messages import (
    Assignment,
    Begin,
    Decision,
    Finished,
    Interrupt,
    Quit,
    Ready,
    Refused,
    Report,
    Setup,
)
from hpo.paths import StudyPaths
from hpo.progress import Progress, View, WorkerProgress
from hpo.record import Record
from hpo.requests import Requests, Stop, Trials
from hpo.search import MOST_REPEATS, Search, earlier_trials
from hpo.spec import StudySpec
from hpo.tracking import Shipped

TICK_S = 0.2  # how often clocks, signals and the view are looked after
OVERDUE_S = 10.0  # a trial that ignores its deadline for so long is killed
TERM_GRACE_S = 30.0  # between SIGTERM and the end of everything
ALIKE = 3  # so many first trials that fail alike end the study
MOST_DEATHS = 3  # of a worker before it was ready
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


@dataclass
class Seat:
    """One worker, as the orchestrator sees it.

    Attributes:
        epochs: How many its trial is to train, if the study file says.
        began_s: When its trial was assigned (`time.monotonic`).
        before_s: Seconds its trial had trained before that.
        log_start: How much it had printed by then, in bytes.
        stop: The state and reason with which the trial is to end, once that is decided.
        deaths: How often the worker ended before it was ready.
        leaving: It was told to end, and another is to take its place.
    """

    setup: Setup
    ready: bool = False
    trial: TrialHistory | None = None
    epochs: int | None = None
    began_s: float = 0.0
    before_s: float = 0.0
    log_start: int = 0
    stop: tuple[State, str] | None = None
    deaths: int = 0
    leaving: bool = False

    @property
    def number(self) -> int:
        return self.setup.worker


def restart(executor: Executor, seat: Seat, reason: str) -> None:
    """Start a worker again that ended before it was ready.

    Raises:
        WorkerLost: It has done so too often.
    """
    seat.ready = False
    seat.deaths += 1
    if seat.deaths >= MOST_DEATHS:
        raise WorkerLost(
            f"worker {seat.number} ended {seat.deaths} times before it was ready: {reason}\n"
            "`hpo doctor` shows what this machine has."
        )
    executor.start(seat.setup)


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
        raise StudyChanged(
            f"study '{study}' was begun on other data: {before['source']} has changed since "
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
    waiting: deque[TrialHistory] = field(default_factory=deque)  # asked, not training
    exhausted: str | None = None  # why no other trial can be asked for
    ending: Ended | None = None  # once nothing more is to be assigned
    signals: list[int] = field(default_factory=list)

    @property
    def history(self) -> History:
        """What has happened in the study."""
        return self.record.history

    def __post_init__(self) -> None:
        self.began_s = time.monotonic()
        self.ticked_s = -math.inf
        self.ended_before = len(self._ends())  # by earlier runs; their cause may be mended
        self.patience_ends_s = math.inf
        self.maximize = self.spec.objective[0].maximize
        self.record.study(self.search, [seat.setup for seat in self.seats], self.ready)
        if self.spec.trials_asked and self.spec.budget.trials != self.history.asked_trials:
            self.record.budget(self.spec)
        self.view.say(f"sampler {self.search.sampler_note}; pruner {self.spec.pruner.name}")
        if not self.search.started:
            self._start_from()
        self._reconcile()
        for seat in self.seats:
            self._greet(seat)

    # -- the loop

    def run(self) -> Ended:
        """Train until the budget is used or somebody stops it."""
        try:
            with _signals_into(self.signals):
                while not self._over():
                    self._assign()
                    events = self.executor.wait(0 if self._may_prepare() else TICK_S)
                    if not events and self._may_prepare():
                        self._prepare()
                    self._record(events)
                    for event in events:
                        self._handle(event)
                    self._look_at_clocks()
                    if self._tick():
                        self._look_at_requests()
                        self._show()
                    self._look_at_signals()
            self._close_down()
        except BaseException as error:
            with contextlib.suppress(OSError):  # a full disk takes this line no better
                self.record.study_end("failed", _first_line(error))
            raise
        finally:
            self.executor.close()  # before MLflow gets the rest: it may use the cores now
        assert self.ending is not None
        return self.ending

    def _over(self) -> bool:
        training = any(seat.trial for seat in self.seats)
        if self.ending is None:
            why = limit_reached(self.spec, self.history, self._spent_s())
            if why is None and not training and not self.waiting:
                why = self.exhausted or trials_done(self.spec, self.history)
            if why is not None:
                self.ending = Ended("complete", why)
        return self.ending is not None and not training

    def _record(self, events: Sequence[Event]) -> None:
        """Put every epoch that arrived into the outbox, with one flush for all."""
        for event in events:
            report, trial = event.message, self.seats[event.worker].trial
            if isinstance(report, Report) and trial and trial.number == report.number:
                self.record.epoch(report)
        if events:
            self.record.commit()

    def _handle(self, event: Event) -> None:
        seat = self.seats[event.worker]
        match event.message:
            case Report() as report:
                self._decide(seat, report)
            case Finished() as finished:
                self._finished(seat, finished)
            case Ready() as ready:
                check_same_data(self.spec.study, self.ready.dataset, ready.dataset)
                seat.ready, seat.deaths = True, 0
                self._greet(seat)
            case Refused(_, message, _):
                raise WorkerLost(f"worker {seat.number} cannot start: {message}")
            case Gone(reason):
                self._gone(seat, reason)

    # -- giving out trials

    def _assign(self) -> None:
        if self._holds_back():
            return
        for seat in self.seats:
            if seat.ready and not seat.leaving and seat.trial is None and self.ending is None:
                if not self.waiting:
                    self._prepare()
                if self.waiting:
                    self._begin(seat, self.waiting.popleft())

    def _may_prepare(self) -> bool:
        """Whether to think of the next trial while all workers train.

        Not with one worker: a suggestion made before its last trial is over would know less.
        """
        return len(self.seats) > 1 and not self.waiting and self._wants_more()

    def _wants_more(self) -> bool:
        if self.ending is not None or self.exhausted is not None:
            return False
        fresh = sum(1 for trial in self.waiting if trial.attempts == 0)
        return trials_done(self.spec, self.history, also=fresh) is None

    def _prepare(self) -> None:
        """Ask for a trial; answer duplicates from the record of their twin."""
        if not self._wants_more():
            return
        for attempt in range(MOST_REPEATS):
            suggestion = self.search.ask_untried() if attempt else self.search.ask()
            if suggestion is None:
                break
            trial = TrialHistory(suggestion.number, suggestion.params)
            if suggestion.duplicate_of is None:
                self.waiting.append(trial)
                return
            self._answer(trial, suggestion.duplicate_of)
        self.exhausted = "every configuration has been tried"

    def _answer(self, trial: TrialHistory, twin: int) -> None:
        """End a trial from the record of the one with the same configuration."""
        if trial.attempts == 0:
            self.search.commit()
            self.record.trial(trial, worker=None)
        self._end(trial, "pruned", f"same configuration as trial {twin}", duplicate_of=twin)

    def _begin(self, seat: Seat, trial: TrialHistory) -> None:
        folder = self.paths.trial(trial.number)
        if trial.recorded == 0:
            # What an attempt that left no record has left; of an earlier one on record, its log.
            (checkpoints.clear if trial.attempts else checkpoints.discard)(folder)
        self.search.commit()  # the params are on the disk before the outbox speaks of the trial
        self.record.trial(trial, worker=seat.number)
        self.record.commit()
        config = self.spec.config(trial.params)
        seat.trial, seat.stop, seat.epochs = trial, None, self._epochs(trial)
        seat.began_s, seat.before_s = time.monotonic(), trial.train_s
        seat.log_start = trial_log.end_of(self.paths.worker_log(seat.number))
        self.executor.send(
            seat.number,
            Assignment(
                number=trial.number,
                params=config,
                seed=seed_for(self.spec.seed, trial.number, "train"),
                attempt=trial.attempts,
                recorded=trial.recorded,
                folder=folder,
                metrics=[objective.metric for objective in self.spec.objective],
                maximize=self.maximize,
            ),
        )

    # -- what comes back

    def _decide(self, seat: Seat, report: Report) -> None:
        trial = seat.trial
        if trial is None or trial.number != report.number:
            return  # said before its worker was given up
        pruned = self.search.report(trial.number, report.epoch, trial.values[report.epoch])
        if seat.stop is None and report.epoch != seat.epochs:  # after the last it is complete
            seat.stop = ("pruned", pruned) if pruned else self._overdue(seat, report.seconds)
            if seat.stop is not None:
                self.record.verdict(trial.number, *seat.stop)
        self.executor.send(
            seat.number, Decision(trial.number, report.epoch, go_on=seat.stop is None)
        )

    def _finished(self, seat: Seat, finished: Finished) -> None:
        trial, stop = seat.trial, seat.stop
        if trial is None or trial.number != finished.number:
            return
        self._vacate(seat)
        if self.spec.fresh_process:
            seat.leaving = True  # when it is gone, another is started
            self.executor.send(seat.number, Quit())
        match finished.outcome:
            case "complete":
                self._end(trial, "complete", "", finished)
            case "stop":
                assert stop is not None
                self._end(trial, *stop, finished)
            case "failed":
                self._end(trial, "failed", finished.reason, finished)
            case "interrupted":
                self.waiting.appendleft(trial)

    def _vacate(self, seat: Seat) -> TrialHistory | None:
        """Take the trial off a seat, with what was printed meanwhile."""
        trial, seat.trial = seat.trial, None
        if trial is not None:
            log = self.paths.worker_log(seat.number)
            trial_log.keep(log, seat.log_start, self.paths.trial(trial.number))
        return trial

    def _gone(self, seat: Seat, reason: str) -> None:
        """A worker is lost; its trial gets another try."""
        trial = self._vacate(seat)
        was_ready = seat.ready
        seat.ready = seat.leaving = False
        if trial is not None:
            if seat.stop is not None:
                self._end(trial, *seat.stop)
            elif trial.crashes < self.spec.retries:
                trial.crashes += 1
                self.view.say(
                    f"trial {trial.number}: {reason}; it goes on from epoch {trial.recorded}"
                )
                self.waiting.appendleft(trial)
            else:
                self._end(trial, "failed", f"{reason} ({trial.crashes + 1} times)")
        if was_ready:
            self.executor.start(seat.setup)
        else:
            restart(self.executor, seat, reason)

    def _end(
        self,
        trial: TrialHistory,
        state: State,
        reason: str,
        finished: Finished | None = None,
        duplicate_of: int | None = None,
    ) -> None:
        """End a trial: in the outbox, then in Optuna."""
        end = self.record.end(trial, state, reason, finished, duplicate_of)
        self._tell(trial.number, end)
        checkpoints.clear(self.paths.trial(trial.number))
        metric, values = self.spec.objective[0].metric, end["values"]
        shown = f"{metric} {values[0]:.4g} at epoch {end['best_epoch']}" if values else "no epoch"
        self.view.say(
            f"trial {trial.number} {state} ({shown})" + (f": {reason}" if reason else "")
        )

    def _tell(self, number: int, end: Mapping[str, Any]) -> None:
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
        if len(ends) < max(ALIKE, len(self.seats)) or any(e["state"] != "failed" for e in ends):
            return None
        return ends[0] if len({_cause(end["reason"]) for end in ends}) == 1 else None

    def _holds_back(self) -> bool:
        """Whether to begin no trial until those in training show that not all of them fail.

        Raises:
            StudyFailed: None is in training any more: they all failed alike.
        """
        first = self._all_fail_alike()
        training = [seat.trial for seat in self.seats if seat.trial]
        if first is None or any(trial.values for trial in training):
            return False
        if training:
            return True
        count = len(self._ends()) - self.ended_before
        raise StudyFailed(
            f"the first {count} trials all failed alike: {first['reason']}\n"
            + (first["traceback"] or "")
            + "Mend the cause, then run the same command again (failed trials count in the "
            f"budget), or start afresh: `--set study={self.spec.study}-2`."
        )

    # -- clocks and signals

    def _spent_s(self) -> float:
        return self.history.wall_s + time.monotonic() - self.began_s

    def _overdue(self, seat: Seat, epoch_s: float) -> tuple[State, str] | None:
        """Why a trial is to stop at this epoch's end: another like it would come too late."""
        wall_s, timeout_s = self.spec.budget.wall_s, self.spec.timeout_s
        if wall_s is not None and self._spent_s() + epoch_s > wall_s:
            self.ending = self.ending or Ended(
                "complete", f"the wall time of {wall_s:g} s is used"
            )
            return "stopped", "the study's wall time is used"
        if timeout_s is not None and self._trial_s(seat) + epoch_s > timeout_s:
            return "stopped", f"the trial's timeout of {timeout_s:g} s"
        limit = limit_reached(self.spec, self.history, self._spent_s())
        return ("stopped", limit) if limit else None

    def _trial_s(self, seat: Seat) -> float:
        return seat.before_s + time.monotonic() - seat.began_s

    def _look_at_clocks(self) -> None:
        """Kill what ignores its deadline."""
        for seat in self.seats:
            trial = seat.trial
            if trial is None:
                continue
            wall_s, timeout_s = self.spec.budget.wall_s, self.spec.timeout_s
            if timeout_s is not None and self._trial_s(seat) > timeout_s + OVERDUE_S:
                why = f"the trial's timeout of {timeout_s:g} s, in the middle of an epoch"
            elif wall_s is not None and self._spent_s() > wall_s + OVERDUE_S:
                why = "the study's wall time is used, in the middle of an epoch"
            else:
                continue
            self.executor.kill(seat.number)
            self._vacate(seat)
            seat.ready = False
            self._end(trial, "stopped", why)
            self.executor.start(seat.setup)

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
                if seat.trial is not None:
                    self.executor.send(seat.number, Interrupt())
        if len(self.signals) > 1 or time.monotonic() > self.patience_ends_s:
            for seat in self.seats:
                self.executor.kill(seat.number)
                trial = self._vacate(seat)
                if trial is not None:
                    self.waiting.appendleft(trial)

    # -- beginning and end

    def _start_from(self) -> None:
        """Take in what the study is to start from."""
        for item in self.spec.start_from:
            if isinstance(item, Mapping):
                self.search.enqueue(item)
            else:
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
            if trial.end is not None:
                self._tell(number, trial.end)
            elif trial.verdict is not None:
                self._end(trial, *trial.verdict)
            elif pruned and trial.recorded != self._epochs(trial):
                self._end(trial, "pruned", pruned)
            elif suggestion.duplicate_of is not None and not trial.values:
                self._answer(trial, suggestion.duplicate_of)
            else:
                self.waiting.append(trial)
                if trial.attempts:
                    self.view.say(f"trial {number} goes on from epoch {trial.recorded}")

    def _epochs(self, trial: TrialHistory) -> Any:
        """How many epochs a trial is to train; None where its configuration does not say."""
        return self.spec.config(trial.params)["train"].get("epochs")

    def _greet(self, seat: Seat) -> None:
        self.executor.send(seat.number, Begin(self.paths.worker_log(seat.number)))

    def _close_down(self) -> None:
        """Leave no trial RUNNING, and say how the study ended."""
        assert self.ending is not None
        for trial in self.waiting:
            if trial.attempts and self.ending.state == "complete":
                self._end(trial, "stopped", self.ending.reason)
        ends = [trial.end for trial in self.history.ended if trial.end]
        failed = [end["reason"] for end in ends if end["state"] == "failed"]
        if self.ending.state == "complete" and failed and len(failed) == len(ends):
            cause, _ = Counter(failed).most_common(1)[0]
            raise StudyFailed(f"no trial succeeded; most often: {cause}")
        self.record.study_end(self.ending.state, self.ending.reason)

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
        self.record.budget(self.spec, request)
        self.view.say(f"going on to {count} trials, as was asked for")

    def _show(self) -> None:
        self.view.show(self.progress())

    def progress(self) -> Progress:
        best = self.history.best
        return Progress(
            study=self.spec.study,
            metric=self.spec.objective[0].metric,
            counts=Counter(end["state"] for end in self._ends()),
            total=self.spec.budget.trials,
            best=(best.number, best.value, best.epoch) if best else None,
            elapsed_s=time.monotonic() - self.began_s,
            left_s=self._left_s(),
            workers=[self._worker_progress(seat) for seat in self.seats],
        )

    def _worker_progress(self, seat: Seat) -> WorkerProgress:
        trial = seat.trial
        if trial is None:
            return WorkerProgress(seat.number, "idle" if seat.ready else "starting")
        value = trial.values[trial.recorded][0] if trial.values else None
        return WorkerProgress(
            seat.number, "training", trial.number, trial.recorded, seat.epochs, value
        )

    def _left_s(self) -> float | None:
        """By the mean time of a trial so far, and never beyond the wall budget."""
        budget, history = self.spec.budget, self.history
        ended = len(self._ends())
        if not ended:
            return None
        guesses = []
        if budget.trials is not None:
            left = max(0, budget.trials - ended)
            guesses.append(left * history.train_s / ended / len(self.seats))
        if budget.wall_s is not None:
            guesses.append(max(0.0, budget.wall_s - self._spent_s()))
        return min(guesses, default=None)


def _cause(reason: str) -> str:
    """A reason without its numbers, so that the same error of two trials compares equal."""
    return "".join(c for c in reason if not c.isdigit())


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
