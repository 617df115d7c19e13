"""A run of a study from the outside: check what can be checked, start workers, feed MLflow, end.

The loop itself is `hpo.orchestrator`.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo import changes, data_words, lease, starting_weights
from hpo.budget import (
    limit_reached,
    more_trials,
    most_epochs,
    trials_done,
    with_asked_trials,
)
from hpo.errors import HpoError, NoRoom, Problem, StudyFileError, StudyLocked
from hpo.executors import Executor, Gone, open_executor
from hpo.history import History
from hpo.messages import Loading, Ready, Refused, Setup
from hpo.orchestrator import TICK_S, Ended, Orchestrator, check_same_data
from hpo.paths import Home, StudyPaths, is_address
from hpo.progress import View
from hpo.record import Record
from hpo.requests import Requests, Trials, ask_for_trials, session_of
from hpo.search import earlier_trials, open_search
from hpo.seats import Seat, restart
from hpo.spec import Choice, FromStudy, Named, StudySpec, check_data, yaml12
from hpo.storages import check_not_moved
from hpo.tracking import Shipper
from hpo.tracking.outbox import Outbox
from trainers.contract import DataError
from trainers.registry import TRAINERS

SHIP_S = 600.0  # at most so long is MLflow waited for at the end
SHIP_STOPPED_S = 10.0  # and when somebody wants it to stop: the outbox keeps the rest


def run_study(spec: StudySpec, home: Home, view: View, *, accept_changes: bool = False) -> Ended:
    """Run the study until its budget is used, or go on where it stopped; feed MLflow meanwhile.

    Nothing is created before the study file, the data and the trainer have been found good (but
    for decoded images in ``studies/.cache``).

    Args:
        accept_changes: Whether to go on in a search space that has become wider, or with data
            that were moved.

    Raises:
        StudyFileError: The data or the trainer do not fit the file.
        StudyChanged: The study there was begun with other settings or other data.
        StudyLocked: Another process runs it.
        StudyFailed: The first trials all failed alike, or no trial succeeded.
        WorkerLost: Workers die before they are ready.
        StorageLost: The database of the study is away, or full.
        HpoError: The disk is full.
    """
    paths = home.study(spec.study)
    done = nothing_left(spec, paths, accept_changes=accept_changes)
    if done:
        return Ended("complete", f"nothing left to do: {done}")
    with (
        _ended_in_order_by_sigterm(),
        contextlib.closing(Shipper()) as shipper,
        _told_what_to_do(paths),
        opened(spec, home, view, accept_changes=accept_changes) as orchestrator,
    ):
        shipper.follow(paths, home, home.tracking_address(spec.tracking.uri))
        patience_s = SHIP_S
        try:
            ended = orchestrator.run()
            patience_s = SHIP_S if ended.state == "complete" else SHIP_STOPPED_S
        except OSError as error:
            raise _not_recorded(paths, error) from error
        finally:
            view.say("sending what is left to MLflow …")
            shipped = shipper.finish(patience_s)
    return replace(ended, shipped=shipped)


@contextlib.contextmanager
def _told_what_to_do(paths: StudyPaths) -> Iterator[None]:
    """A disk may be full before the study runs, and still when its files are closed."""
    try:
        yield
    except NoRoom as error:
        raise _not_recorded(paths, error) from error


def _not_recorded(paths: StudyPaths, error: OSError) -> HpoError:
    return HpoError(
        f"what happened could not be recorded below {paths.root}: {error}\n"
        "Nothing acknowledged is lost, and older checkpoints are as they were. Mend the cause "
        "(`hpo doctor` looks at the disk), then run the same command: it goes on from here."
    )


def nothing_left(
    spec: StudySpec, paths: StudyPaths, *, accept_changes: bool = False
) -> str | None:
    """Why there is nothing to run, or None. Creates nothing.

    Raises:
        StudyChanged, StudyLocked: It cannot be run.
        UserError: It was moved to another storage than the file says.
    """
    history = _history(spec, paths)
    changes.check(history.study, spec, paths, accept=accept_changes)
    check_not_moved(spec, history.moved_to)
    holder = lease.owner(paths.lease)
    if holder:
        raise StudyLocked(lease.locked_message(spec.study, holder))
    spec = with_asked_trials(spec, history)
    if not history.complete or any(trial.end is None for trial in history.trials.values()):
        return None  # Optuna may not know the last end
    return limit_reached(spec, history, history.wall_s) or trials_done(spec, history)


def tell_running(spec: StudySpec, home: Home, wanted: Trials) -> str | None:
    """If another process runs the study, have it go on to the trials that are wanted.

    Returns:
        What it was told, in words; None: nobody runs it.

    Raises:
        StudyChanged: It is being run with other settings.
        StudyLocked: That process takes no requests now.
    """
    paths = home.study(spec.study)
    session = session_of(paths)
    if session is None:
        return None
    history = _history(spec, paths)
    changes.check(history.study, spec, paths, accept=False)
    if not ask_for_trials(paths, session, wanted):
        return None
    who = f"process {session['pid']} on {session['host']}"
    trials = _history(spec, paths).asked_trials
    told = f"{spec.study} is run by {who}; told it to go on to {trials} trials."
    ignored = _differences(spec, paths)
    return told + (f"\nNot told: {', '.join(ignored)} of this file." if ignored else "")


def total_trials(spec: StudySpec, home: Home, wanted: Trials) -> int:
    """The budget of trials with which the study is to be run."""
    if not wanted.more:
        return wanted.count
    history = _history(spec, home.study(spec.study))
    budget = history.study["budget"] if history.study else spec.budget.model_dump()
    return more_trials(budget, history.counted, wanted.count)


def _differences(spec: StudySpec, paths: StudyPaths) -> list[str]:
    """What of the file is run otherwise, beside its trials."""
    run, wanted = (
        yaml12.read(text).value or {}
        for text in (paths.resolved.read_bytes(), spec.resolved().encode())
    )
    for content in (run, wanted):
        content.setdefault("budget", {}).pop("trials", None)
    return [key for key in wanted | run if run.get(key) != wanted.get(key)]


@contextlib.contextmanager
def opened(
    spec: StudySpec, home: Home, view: View, *, accept_changes: bool = False
) -> Iterator[Orchestrator]:
    """The study with its workers started and its lease held, ready to `Orchestrator.run`."""
    paths = home.study(spec.study)
    spec = with_asked_trials(spec, _history(spec, paths))
    tracking_uri = home.tracking_address(spec.tracking.uri)
    starting_weights.fetch(spec, home.data_cache, tracking_uri)
    with _executor(spec) as executor:
        seats = _start_workers(spec, home, executor, view)
        ready = _first_ready(spec, executor, seats, view)
        _say_loaded(view, spec, ready)
        before = _history(spec, paths)
        _check_loaded(spec, before.study, ready)
        if not before.study:
            for item in spec.start_from:
                if isinstance(item, FromStudy):
                    earlier_trials(spec, paths, item.study)  # raises before anything is created
        with lease.hold(paths.lease, spec.study) as session:
            history = _history(spec, paths)  # as it is under the lease
            spec = with_asked_trials(spec, history)
            changes.check(history.study, spec, paths, accept=accept_changes)
            _say_changed(view, spec, history)
            signals: list[int] = []
            with (
                contextlib.closing(
                    open_search(
                        spec, paths, history, most_epochs(spec), view.say, lambda: bool(signals)
                    )
                ) as search,
                contextlib.closing(Outbox(paths.outbox)) as outbox,  # once it is known to be good
            ):
                record = Record(spec, paths, history, outbox)
                requests = Requests(paths, session)
                yield Orchestrator(
                    *(spec, paths, record, search, executor, seats, view, ready, requests),
                    signals=signals,
                )


def _say_changed(view: View, spec: StudySpec, history: History) -> None:
    """What is set otherwise than at the study's last run."""
    if history.study is None:
        return
    differing = changes.differences(history.study, spec)
    for line in (*differing, *changes.free_settings(history.study, spec)):
        view.say(f"changed since its last run: {line}")


def own_code(spec: StudySpec) -> list[str]:
    """What a study names of the user's own that its workers import: a trainer, or metrics."""
    if spec.command is not None:
        return []
    if spec.trainer not in TRAINERS:
        return [spec.trainer]
    return [name for name in spec.train.get("metrics", ()) if ":" in name]


def left_out(spec: StudySpec) -> list[str]:
    """What `probe` does not try without `imports`."""
    cluster = ["executor: ray"] if spec.executor.name == "ray" else []
    return [*own_code(spec), *cluster]


def probe(
    spec: StudySpec, home: Home, view: View, *, imports: bool = True
) -> Mapping[str, Any] | None:
    """Check what only a worker can: the trainer, the device and the data. Creates nothing.

    Args:
        imports: Whether to import the user's own code. Without it, nothing is loaded for a
            trainer of their own, and no cluster is connected to, whose address is the file's
            word: the data are looked at on this machine.

    Returns:
        What was loaded (`trainers.data.Dataset.summary`), or None without data.

    Raises:
        StudyFileError: They do not fit the file.
    """
    own = [] if imports else own_code(spec)
    if spec.trainer in own:
        return None
    kept = [name for name in spec.train.get("metrics", ()) if name not in own]
    tried = spec.model_copy(update={"train": {**spec.train, "metrics": kept}}) if own else spec
    if spec.executor.name == "ray" and not imports:  # a cluster is given a token, and trusted
        view.say("looking at the data on this machine; --import asks the Ray cluster, too")
        here = {"executor": Named(name="processes"), "device": "cpu", "workers": 1}
        tried = tried.model_copy(update=here)
    shared = home.root if tried.executor.name == "ray" else None  # what other nodes see
    with (
        tempfile.TemporaryDirectory(dir=shared, prefix=".hpo-") as folder,  # no data is kept
        _executor(tried) as executor,
    ):
        elsewhere, tracking_uri = Home(Path(folder)), home.tracking_address(spec.tracking.uri)
        starting_weights.fetch(spec, elsewhere.data_cache, tracking_uri)
        seats = _start_workers(tried, elsewhere, executor, view, most=1)
        ready = _first_ready(spec, executor, seats, view)
        _say_loaded(view, spec, ready)
        _check_loaded(spec, None, ready)
        return ready.dataset


def _history(spec: StudySpec, paths: StudyPaths) -> History:
    metrics = [objective.metric for objective in spec.objective]
    return History.read(paths.outbox, metrics, spec.objective[0].maximize)


def _open_executor(spec: StudySpec) -> Executor:
    code = spec.folder if own_code(spec) else None
    return open_executor(spec.executor.name, spec.executor.options, code)


@contextlib.contextmanager
def _executor(spec: StudySpec) -> Iterator[Executor]:
    executor = _open_executor(spec)
    # Once more: Ray has put a handler of its own in place.
    with _ended_in_order_by_sigterm(), contextlib.closing(executor):
        yield executor


@contextlib.contextmanager
def _ended_in_order_by_sigterm() -> Iterator[None]:
    """SIGTERM closes what is open, as Ctrl-C does; in the main thread only. While trials are
    trained, the orchestrator collects both."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_workers(
    spec: StudySpec, home: Home, executor: Executor, view: View, most: int | None = None
) -> list[Seat]:
    slots = executor.slots(spec, view.say)
    if isinstance(slots, Problem):
        raise StudyFileError(str(spec.file), [slots])
    version = _version_of_data(spec, view)
    seats = []
    for number, slot in enumerate(slots[:most]):
        setup = Setup(
            worker=number,
            trainer=spec.trainer,
            folder=spec.folder,
            params=spec.config({}),
            variants=[
                spec.config({path: choice})
                for path, parameter in spec.search.items()
                if path.startswith("model.") and isinstance(parameter, Choice)
                for choice in parameter.choices
            ],
            cache=home.data_cache,
            device=slot.device,
            gpu=slot.gpu,
            threads=slot.threads,
            memory_share=slot.memory_share,
            examples=None if number else _examples(spec, home),
            command=spec.command,
            devices=spec.devices if spec.trainer in TRAINERS else 1,
            parallel=spec.parallel or "ddp",
            data_version=version,
        )
        executor.start(setup)
        seats.append(Seat(setup))
    return seats


def _version_of_data(spec: StudySpec, view: View) -> str | None:
    """Of data at an address, the version that all workers are to use; it is fetched where they
    are on this machine, and each node of a cluster fetches it itself.

    Raises:
        StudyFileError: It cannot be had.
    """
    source = spec.data.get("source")
    if spec.trainer not in TRAINERS or not is_address(source):
        return None
    from hpo import fetched

    try:
        found = fetched.look(source)
        if spec.executor.name == "ray":
            view.say(f"{source} ({found}) is fetched by each node that has it not yet")
        else:
            fetched.fetch(found, view.say)
    except DataError as error:
        problem = spec.problem(error.key, str(error), error.hint)
        raise StudyFileError(str(spec.file), [problem]) from None
    return found.version


def _examples(spec: StudySpec, home: Home) -> tuple[int, Path] | None:
    """How many rows of the data are still to be kept where: of data that hpo itself loads."""
    path = home.study(spec.study).examples
    wanted = spec.trainer in TRAINERS and spec.tracking.examples > 0 and not path.exists()
    return (spec.tracking.examples, path) if wanted else None


def _first_ready(spec: StudySpec, executor: Executor, seats: Sequence[Seat], view: View) -> Ready:
    """Wait for the first worker; the others may still be starting."""
    view.say(f"starting {len(seats)} worker{'s' * (len(seats) > 1)} on {seats[0].setup.device} …")
    first: Ready | None = None
    while first is None:
        for event in executor.wait(TICK_S):  # all of them: the next wait does not repeat one
            seat = seats[event.worker]
            match event.message:
                case Loading(text):
                    view.say(text)
                case Ready() as ready:
                    seat.ready, seat.node, first = True, ready.node, first or ready
                case Refused(key, message, hint):
                    raise StudyFileError(str(spec.file), [spec.problem(key, message, hint)])
                case Gone(reason, of_machine=True):
                    seat.ready = False
                    view.say(f"worker {seat.number}: {reason}; it is started anew")
                    executor.start(seat.setup)
                case Gone(reason):
                    restart(executor, seat, reason)
    return first


def _say_loaded(view: View, spec: StudySpec, ready: Ready) -> None:
    """What was understood of the data, so that a person can check it."""
    if ready.dataset is None:
        return
    data, classes = ready.dataset, ready.dataset["classes"]
    kind = "labels" if data["task"] == "multilabel" else "classes"
    in_each = " in each fold" if spec.data.get("folds") else ""
    view.say(
        f"{data['source']}: {data['rows']:,} rows ({data['train']:,} train, "
        f"{data['validation']:,} validation{in_each}, {data['test']:,} test), {data['task']}"
        + (f" into {len(classes)} {kind}" if classes else "")
    )
    for line in data_words.lines(data):
        view.say(f"  {line}")


def _check_loaded(spec: StudySpec, study: Mapping[str, Any] | None, ready: Ready) -> None:
    if ready.dataset is None:
        return
    problems = check_data(spec, ready.dataset)
    if problems:
        raise StudyFileError(str(spec.file), problems)
    check_same_data(spec.study, (study or {}).get("dataset"), ready.dataset)
