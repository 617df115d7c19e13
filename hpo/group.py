"""The processes that train one trial over several devices, one each.

The worker is rank 0: it speaks to the orchestrator, writes all files, and decides. It starts the
others (`hpo.rank`), which run the same training loop and are told what was decided. They are in
its process group, so that whoever kills it kills them.

What is promised: whether a trial goes on is decided once, by rank 0. A rank that dies takes the
worker with it, and the trial goes on from its checkpoint in another one. What is raised on any
rank ends the trial with that reason. (With NCCL, rank 0 may wait for the others without end. Then
it ends after `BREAK_OFF_S`, the reason is in its log, and the trial is retried.)
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from socket import socketpair
from typing import TYPE_CHECKING, Any, Literal

from hpo.messages import Assignment, Begin, Setup
from hpo.rounds import one_line
from trainers.contract import DataError, Epoch, NonFinite, Trial, Trials

if TYPE_CHECKING:
    from trainers.contract import TogetherTrainer

EXPLAIN_S = 5.0  # within which another rank says why this one lost its connection
BREAK_OFF_S = 30.0  # after another rank failed; one that waits for it on a GPU does not notice


class RankFailed(RuntimeError):
    """Something was raised on another rank."""


@dataclass(frozen=True)
class Loaded:
    """A rank has the data, and is about to meet the others."""


@dataclass(frozen=True)
class Failed:
    """Something was raised on a rank, which ends.

    Attributes:
        key, hint: As `trainers.contract.DataError` has them.
    """

    reason: str
    traceback: str
    key: str = "gpus_per_trial"
    hint: str | None = None


# What rank 0 tells the others at the end of an epoch: to compute what is written of a model, as
# all must at once, and then whether the trial goes on.
Decision = Literal["state", "model", "goes on", "leaves"]


class Group:
    """All ranks but this one, as rank 0 sees them.

    Attributes:
        is_broken: The ranks are no longer at one place of their loops: a new worker is needed.
    """

    def __init__(self, setup: Setup) -> None:
        self.is_broken = False
        self._setup = setup
        self._failures: list[tuple[int, Failed]] = []  # as they came: by rank
        self._failed = threading.Event()
        self._heard = threading.Event()
        self._closing = False
        self._others: list[tuple[subprocess.Popen[bytes], Connection]] = []

    def start(self) -> None:
        """Start the others, which load the data."""
        for rank in range(1, self._setup.devices):
            self._others.append(self._started(rank))
        self.tell(replace(self._setup, examples=None))

    def meet(self) -> None:
        """Wait until all have loaded the data, and connect to them.

        Raises:
            DataError: One could not. If one died, this process does, too.
        """
        for rank in range(1, self._setup.devices):
            said = self._said(rank)
            if said is None:
                self._end(rank, None)
            if isinstance(said, Failed):
                print(said.traceback, file=sys.stderr)
                what = f"process {rank + 1} of {self._setup.devices}: {said.reason}"
                raise DataError(said.key, what, said.hint)
        for rank in range(1, self._setup.devices):
            threading.Thread(target=self._watch, args=(rank,), daemon=True).start()
        join(self._setup, 0)

    def train(self, train: TogetherTrainer, begin: Sequence[Assignment], trials: Trials) -> None:
        """Train one trial on all ranks.

        Raises:
            RankFailed: Something was raised on another rank. What is raised here is passed on.
        """
        (assignment,) = begin
        self.tell(assignment)
        try:
            train(_Leading(trials, self))
        except (Exception, SystemExit) as error:
            if cause := self.cause(error):
                raise cause from error
            raise

    def cause(self, error: BaseException) -> RankFailed | None:
        """What is behind an error here that breaks the group; None: nothing else, as far as is
        known. It may only be what follows from another's end; which, if that died, ends this
        process, too."""
        if self.is_broken:  # it was asked before
            return None
        self.is_broken = True
        if not self._failed.wait(EXPLAIN_S):
            return None
        self._heard.set()
        rank, failure = self._failures[0]  # others may only follow from it
        print(failure.traceback, file=sys.stderr)
        if failure.reason == one_line(error):  # raised on all alike
            return None
        return RankFailed(f"on device {rank}: {failure.reason}")

    def tell(self, message: Setup | Begin | Assignment | Decision) -> None:
        """Tell the others what they need, or what was decided."""
        for _, connection in self._others:
            try:
                connection.send(message)
            except OSError:  # it is gone, which is noticed where it is waited for
                continue

    def close(self) -> None:
        """End the others."""
        self._closing = True
        for process, connection in self._others:
            connection.close()
            process.kill()
            process.wait()

    def _started(self, rank: int) -> tuple[subprocess.Popen[bytes], Connection]:
        ours, theirs = socketpair()
        connection = Connection(ours.detach())
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hpo.rank", str(theirs.fileno()), str(rank)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        return process, connection

    def _said(self, rank: int) -> Loaded | Failed | None:
        """What another rank says next, waited for; None: its process ended."""
        try:
            said: Loaded | Failed = self._others[rank - 1][1].recv()
        except (EOFError, OSError):
            return None
        return said

    def _watch(self, rank: int) -> None:
        """Wait for the end of another rank, which comes only when something is wrong."""
        failure = self._said(rank)
        if self._closing:
            return
        if isinstance(failure, Failed):
            self._failures.append((rank, failure))
            self._failed.set()
            if self._heard.wait(BREAK_OFF_S):
                return
        if not self._closing:
            self._end(rank, failure.reason if isinstance(failure, Failed) else None)

    def _end(self, rank: int, reason: str | None) -> None:
        """End this process and all ranks because of one; `reason` None: it died."""
        if reason is None:
            reason = f"its process ended with status {self._others[rank - 1][0].wait()}"
        print(f"on device {rank}: {reason}", file=sys.stderr, flush=True)
        os.killpg(0, signal.SIGKILL)


class _Leading:
    """The `trainers.contract.Trials` of rank 0: what it decides is told to the others."""

    def __init__(self, trials: Trials, group: Group) -> None:
        self._trials, self._group = trials, group

    def begin(self) -> Sequence[Trial]:
        return self._trials.begin()

    def report(self, epochs: Sequence[Epoch]) -> Collection[int]:
        (said,) = epochs
        state, model = said.state, said.model
        leaving = self._trials.report(
            [
                replace(
                    said,
                    state=state and functools.partial(self._with_others, "state", state),
                    model=model and functools.partial(self._with_others, "model", model),
                )
            ]
        )
        self._group.tell("leaves" if leaving else "goes on")
        return leaving

    def finish(self, trial: Trial) -> None:
        self._trials.finish(trial)

    def fail(self, trial: Trial, error: Exception) -> None:
        cause = None
        if not isinstance(error, NonFinite):  # which all find alike
            cause = self._group.cause(error)
        self._trials.fail(trial, cause or error)

    def _with_others(
        self, what: Decision, compute: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        self._group.tell(what)
        try:
            return compute()
        except Exception as error:  # which `Trials` may take for the trial's alone
            if cause := self._group.cause(error):
                raise cause from error
            raise


def join(setup: Setup, rank: int) -> None:
    """Connect this process to the other ranks; waits for all of them."""
    from trainers import parallel

    assert setup.meeting is not None
    own = parallel.World(rank, setup.devices, setup.parallel)
    parallel.join(own, setup.meeting, setup.device)
