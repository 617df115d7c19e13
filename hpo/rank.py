"""A rank above 0 of those that train one trial over several devices; rank 0 is `hpo.group`.

Started as ``python -m hpo.rank FD RANK``: a connection to rank 0, and its number. It opens no
store, writes no file, and ends when rank 0 does.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Collection, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

from hpo import checkpoints, starting_weights
from hpo.group import Failed, Loaded, join
from hpo.loaded import Data
from hpo.messages import Assignment, Begin, Setup
from hpo.rounds import one_line
from hpo.worker import prepare, redirect_output
from trainers.contract import DataError, Epoch, NonFinite, Trial

if TYPE_CHECKING:
    from trainers.data import Dataset


class _Beside:
    """The `trainers.contract.Trial` that another rank trains, and its `Trials`: there is no other.

    Args:
        decided: What rank 0 tells.
    """

    def __init__(
        self, assignment: Assignment, setup: Setup, data: Data, decided: queue.Queue[Any]
    ) -> None:
        self.number, self.seed, self.device = assignment.number, assignment.seed, setup.device
        self.params = starting_weights.local(setup.trainer, assignment.params, setup.cache)
        self._assignment, self._data, self._decided = assignment, data, decided
        self._waiting = [self]

    @property
    def data(self) -> Dataset:
        return self._data.load(self.params["data"])

    def resume(self) -> dict[str, Any] | None:
        recorded = self._assignment.recorded
        found = checkpoints.newest(self._assignment.folder, at_most=recorded)
        return None if found is None else found[1]["state"]

    def begin(self) -> Sequence[Any]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> Collection[int]:
        (said,) = epochs
        while True:
            match self._decided.get():
                case "state":
                    assert said.state is not None
                    said.state()
                case "model":
                    assert said.model is not None
                    said.model()
                case "leaves":
                    return [self.number]
                case "goes on":
                    return []
                case other:
                    raise RuntimeError(f"at the end of an epoch rank 0 said {other}")

    def finish(self, trial: Trial) -> None:
        pass

    def fail(self, trial: Trial, error: Exception) -> None:
        if not isinstance(error, NonFinite):
            raise error


def _read(connection: Connection, inbox: queue.Queue[Any]) -> NoReturn:
    """What rank 0 says; where it is gone, so is this process, whatever it is doing."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _serve(setup: Setup, rank: int, connection: Connection) -> None:
    """Train what rank 0 trains, until it ends."""
    from trainers.registry import resolve_together

    inbox: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(connection, inbox), daemon=True).start()
    if setup.device == "cuda":
        import torch

        torch.cuda.set_device(rank)  # before anything else takes memory of the first one
    data = Data(setup)
    prepare(setup, data)
    train = resolve_together(setup.trainer)
    assert train is not None
    connection.send(Loaded())
    join(setup, rank)
    while True:
        match inbox.get():
            case Begin(log):
                redirect_output(log)
            case Assignment() as assignment:
                train(_Beside(assignment, setup, data, inbox))


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the worker, which decides
    connection = Connection(int(sys.argv[1]))
    setup = connection.recv()
    try:
        _serve(setup, int(sys.argv[2]), connection)
    except (Exception, SystemExit) as error:
        failed = Failed(one_line(error), traceback.format_exc())
        if isinstance(error, DataError):
            failed = replace(failed, key=error.key, hint=error.hint)
        connection.send(failed)
        os._exit(1)  # not after whatever still waits for the others


if __name__ == "__main__":
    main()
