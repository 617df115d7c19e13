"""The processes that train one trial over several devices, one each.

The worker is rank 0: it speaks to the orchestrator, writes all files, and decides. It starts the
others (`hpo.rank`), which run the same training loop and are told what was decided. They are in
its process group, so that whoever kills it kills them.

What is promised: whether a trial goes on is decided once, by rank 0. A rank that dies takes the
worker with it, and the trial goes on from its checkpoint in another one. What is raised on any
rank ends the trial with that reason.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import TYPE_CHECKING, Any, Literal

from hpo.messages import Assignment, Begin, Setup
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
    """Something was raised on a rank, which ends."""

    reason: str
    traceback: str


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
        self._folder = tempfile.mkdtemp(prefix="hpo-")
        self._failed = threading.Event()
        self._heard = threading.Event()
        self._failure: tuple[int, Failed] | None = None
        self._closing = False
        self._others = [self._start(rank) for rank in range(1, setup.devices)]

    def meet(self) -> None:
        """Wait until all have loaded the data, and connect to them.

        Raises:
            DataError: One could not.
        """
        for rank, (_, connection) in enumerate(self._others, 1):
            try:
                said = connection.recv()
            except EOFError:
                said = Failed("its process ended", "")
            if isinstance(said, Failed):
                print(said.traceback, file=sys.stderr)
                what = f"process {rank + 1} of {self._setup.devices}: {said.reason}"
                raise DataError("gpus_per_trial", what)
        for rank in range(1, self._setup.devices):
            threading.Thread(target=self._watch, args=(rank,), daemon=True).start()
        join(self._setup, 0, self._meeting)

    def begin(self, message: Begin) -> None:
        """Have the others print where this process does."""
        self._tell(message)

    def train(self, train: TogetherTrainer, begin: Sequence[Assignment], trials: Trials) -> None:
        """Train one trial on all ranks.

        Raises:
            RankFailed: Something was raised on another rank. What is raised here is passed on.
        """
        (assignment,) = begin
        self._tell(assignment)
        try:
            train(_Leading(trials, self))
        except (Exception, SystemExit) as error:
            self.is_broken = True
            # It may only be what follows from another's end; which, if it died, ends this one too.
            if self._failed.wait(EXPLAIN_S) and self._failure is not None:
                self._heard.set()
                rank, failure = self._failure
                print(failure.traceback, file=sys.stderr)
                raise RankFailed(f"on device {rank}: {failure.reason}") from error
            raise

    def tell(self, decision: Decision) -> None:
        """Tell the others what was decided."""
        self._tell(decision)

    def close(self) -> None:
        """End the others."""
        self._closing = True
        for process, connection in self._others:
            connection.close()
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _meeting(self) -> Path:
        return Path(self._folder) / "meeting"

    def _start(self, rank: int) -> tuple[subprocess.Popen[bytes], Connection]:
        ours, theirs = socketpair()
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "hpo.rank"),
                *(str(theirs.fileno()), str(rank), str(self._meeting)),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        connection = Connection(ours.detach())
        connection.send(replace(self._setup, examples=None))
        return process, connection

    def _tell(self, message: Any) -> None:
        for _, connection in self._others:
            try:
                connection.send(message)
            except OSError:  # it is gone, which is noticed where it is waited for
                continue

    def _watch(self, rank: int) -> None:
        """Wait for the end of another rank, which comes only when something is wrong."""
        process, connection = self._others[rank - 1]
        try:
            failure = connection.recv()
        except (EOFError, OSError):
            failure = None
        if self._closing:
            return
        if isinstance(failure, Failed):
            self._failure = rank, failure
            self._failed.set()
            if self._heard.wait(BREAK_OFF_S):
                return
            what = failure.reason
        else:
            what = f"its process ended with status {process.wait()}"
        if not self._closing:
            print(f"on device {rank}: {what}", file=sys.stderr, flush=True)
            shutil.rmtree(self._folder, ignore_errors=True)
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
        if not isinstance(error, NonFinite):  # which all find alike
            self._group.is_broken = True
        self._trials.fail(trial, error)

    def _with_others(
        self, what: Decision, compute: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        self._group.tell(what)
        return compute()


def join(setup: Setup, rank: int, meeting: Path) -> None:
    """Connect this process to the other ranks; waits for all of them.

    Args:
        meeting: The file where they find each other.
    """
    from trainers import parallel

    parallel.join(parallel.World(rank, setup.devices, setup.parallel), meeting, setup.device)
