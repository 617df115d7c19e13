"""What others ask of the process that runs a study: files in the study's folder.

So it works from wherever the folder can be seen, on another machine too. A request is written as
a whole or not at all, is addressed to one session (the lease says which), and is removed once it
has been met; one for a session that is over is never met by another.

Not covered: a request while workers still start (the study is not running before that), or after
the last trial, while MLflow gets the rest: nobody looks at it then.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from hpo import lease
from hpo.errors import HpoError, StudyLocked
from hpo.paths import StudyPaths, replacing
from hpo.tracking import outbox

POLL_S = 0.1
WAIT_S = 60.0  # at most so long is a session's end waited for
SAY_EVERY_S = 5.0


@dataclass(frozen=True)
class Stop:
    """End as after Ctrl-C.

    Attributes:
        now: As after the second: without waiting for the end of any epoch.
    """

    now: bool = False


@dataclass(frozen=True)
class Trials:
    """Another budget of trials.

    Attributes:
        count: In all; or how many `more` than the budget has by then.
    """

    count: int
    more: bool = False


Request = Stop | Trials
Asked = TypeVar("Asked", Stop, Trials)
KINDS: Mapping[str, type[Request]] = {"stop": Stop, "trials": Trials}


class Requests:
    """Those to one session, which holds the study's lease."""

    def __init__(self, paths: StudyPaths, session: Mapping[str, Any]) -> None:
        self._folder = paths.requests
        self._session = dict(session)
        for file in self._files():  # to sessions that are over; this one's name is out by now
            if _read(file, self._session) is None:
                with contextlib.suppress(OSError):
                    file.unlink()

    def take(self, kind: type[Asked]) -> Iterator[tuple[str, Asked]]:
        """Those of this kind that have arrived, each with its name, in order; each is removed
        once the caller asks for more. Others stay where they are.
        """
        for file in self._files():
            request = _read(file, self._session)
            if isinstance(request, kind):
                yield file.name, request
            elif request is not None:
                continue
            with contextlib.suppress(OSError):
                file.unlink()

    def _files(self) -> list[Path]:
        try:
            return sorted(self._folder.glob("[0-9]*.json"))
        except OSError:
            return []


def send(paths: StudyPaths, session: Mapping[str, Any], request: Request) -> Path:
    """Ask something of the session that holds the lease; the file is gone once it is met.

    Raises:
        HpoError: The study's folder cannot be written to.
    """
    file = paths.requests / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.json"
    kind = next(name for name, of in KINDS.items() if isinstance(request, of))
    try:
        with replacing(file) as out:
            said = {"session": dict(session), "kind": kind, **asdict(request)}
            out.write(json.dumps(said).encode())
    except OSError as error:
        raise HpoError(
            f"{paths.requests} cannot be written to: {error.strerror or error}\n"
            "Requests to a running study go through its folder."
        ) from None
    return file


def session_of(paths: StudyPaths) -> dict[str, Any] | None:
    """Who runs the study, or None.

    Raises:
        HpoError: Somebody does, but who is not to be found out.
    """
    for _ in range(20):  # the lease is held for a moment before it names its owner
        owner = lease.owner(paths.lease)
        if owner is None or owner["pid"] is not None:
            return owner
        time.sleep(POLL_S)
    raise HpoError(f"somebody runs this study, but {paths.lease} does not say who")


def stop(
    paths: StudyPaths, now: bool, say: Callable[[str], None], wait_s: float = WAIT_S
) -> bool | None:
    """Have the session that runs a study end, and wait for it.

    Args:
        now: Without waiting for the end of any epoch.
        say: Told what is waited for.

    Returns:
        Whether it has ended within `wait_s` (if not, it still will); None: nobody ran it.
    """
    session = session_of(paths)
    if session is None:
        return None
    file = send(paths, session, Stop(now))
    what = "at once" if now else "once each worker has finished its epoch and saved"
    say(f"process {session['pid']} on {session['host']} is to stop {what} …")
    began_s = said_s = time.monotonic()
    while lease.owner(paths.lease) == session:
        now_s = time.monotonic()
        if now_s - began_s > wait_s:
            return False
        if now_s - said_s > SAY_EVERY_S:
            said_s = now_s
            say(f"{now_s - began_s:.0f} s: {_waited_for(paths, file)} …")
        time.sleep(POLL_S)
    file.unlink(missing_ok=True)  # where it ended before it looked
    return True


def ask_for_trials(
    paths: StudyPaths, session: Mapping[str, Any], wanted: Trials, wait_s: float = WAIT_S
) -> bool:
    """Have a session go on to another number of trials.

    Returns:
        Whether it does; if not, it has ended.

    Raises:
        StudyLocked: It has not looked within `wait_s`; it will not meet the request any more.
    """
    file = send(paths, session, wanted)
    began_s = time.monotonic()
    while file.exists() and lease.owner(paths.lease) == session:
        if time.monotonic() - began_s > wait_s:
            break
        time.sleep(POLL_S)
    is_there = file.exists()
    file.unlink(missing_ok=True)
    # It may have died between the record and the file, and the next one have cleared that away.
    if lease.owner(paths.lease) != session:
        records = (r for r, _ in outbox.read(paths.outbox)) if paths.outbox.exists() else ()
        return any(record.get("request") == file.name for record in records)
    if not is_there:
        return True
    raise StudyLocked(
        f"process {session['pid']} on {session['host']} runs the study, but takes no requests: "
        "its last trial is over and MLflow gets the rest, or it hangs.\n"
        "Try again when it has ended (`hpo stop --now` has it end)."
    )


def _waited_for(paths: StudyPaths, file: Path) -> str:
    """What keeps a session that is to end."""
    from hpo.results.study_log import StudyLog

    log = StudyLog.read(paths)
    training = [t.number for t in log.in_order() if log.state_of(t) == "running"]
    if log.end is not None:
        return "its last trial is over; MLflow gets the rest"
    if file.exists():
        return "it has not looked yet"
    trials = ", ".join(map(str, training))
    return f"still in training: trial{'s' * (len(training) > 1)} {trials}" if trials else "ending"


def _read(file: Path, session: Mapping[str, Any]) -> Request | None:
    """The request in a file; None: to another session, or written by no hpo."""
    try:
        said = json.loads(file.read_bytes())
        if said.pop("session") != session:
            return None
        return KINDS[said.pop("kind")](**said)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
