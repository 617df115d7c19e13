"""A worker's whole life: import the trainer, load the data, train trial after trial.

Started as ``python -m hpo.worker FD`` by the processes executor, or as a thread by the inline
one; either way it has one connection to the orchestrator and opens no store. How it trains, and
what it tells of that, is in `hpo.rounds`. The process ends when the orchestrator does.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from hpo import starting_weights
from hpo.fault_points import passing
from hpo.lane_counts import lanes_that_pay
from hpo.loaded import Data
from hpo.messages import (
    Assignment,
    Begin,
    Loading,
    Measure,
    Measured,
    Orders,
    Quit,
    Ready,
    Refused,
    Setup,
)
from hpo.resources import Meter
from hpo.rounds import Alone, Line, Together, Worker, one_line
from hpo.tracking.redact import RedactedStream
from trainers.contract import DataError

if TYPE_CHECKING:
    from hpo.group import Group


def serve(connection: Connection, setup: Setup, on_lost: Any) -> None:
    """Answer the orchestrator until it says `Quit` or is gone."""
    line = Line(connection, on_lost)
    data = Data(setup, lambda text: line.send(Loading(text)))
    worker = Worker(setup, line, data, Meter("cuda" if setup.uses_gpu else "cpu"))
    with contextlib.ExitStack() as at_the_end:
        _serve(line, worker, at_the_end)


def _serve(line: Line, worker: Worker, at_the_end: contextlib.ExitStack) -> None:
    setup, group = worker.setup, None
    try:
        if setup.devices > 1:
            from hpo.group import Group  # which is made of what is here

            group = at_the_end.enter_context(contextlib.closing(Group(setup)))
            group.start()
        train, ready = prepare(setup, worker.data)
        if group is not None:
            group.meet()
    except DataError as error:
        line.send(Refused(error.key, str(error), error.hint))
        return
    except Exception as error:  # the user's module may raise anything when imported
        line.send(Refused("trainer", _user_frames(error)))
        return
    gc.collect()
    gc.freeze()  # torch's own objects are here to stay: collecting after a trial is quick then
    passing("loaded")
    line.send(ready)
    while not isinstance(message := line.get(), Quit):
        match message:
            case Begin(log):
                redirect_output(log)
                if group is not None:
                    group.tell(message)
            case Measure(params, most):
                line.send(Measured(lanes_that_pay(setup, worker.data, params, most)))
            case Orders(begin=begin):
                worker.data.keep_examples(setup.params["data"])
                while begin:
                    begin, ends = _train(worker, train, begin, group)
                    if ends:
                        line.close()
                        return
                    gc.collect()  # a trial's tensors must not weigh on the next one
    worker.data.close()


def prepare(setup: Setup, data: Data) -> tuple[Any, Ready]:
    """Import the trainer, load the data, and find what would fail every trial.

    Raises:
        DataError: The study cannot run as its file says. The user's module may raise anything.
    """
    if setup.command is not None:
        from hpo.command import Command

        return Command(setup), Ready(None, setup.device)  # which needs no torch

    import torch

    from trainers.registry import TRAINERS, resolve
    from trainers.registry import prepare as check

    torch.set_num_threads(setup.threads)
    device_name = "cpu"
    if setup.device == "cuda":
        if not torch.cuda.is_available():
            raise DataError(
                "device",
                f"PyTorch {torch.__version__} cannot use the GPU: it was made without CUDA, or "
                "for a newer driver",
                "device: cpu, or another PyTorch (https://pytorch.org/get-started)",
            )
        torch.cuda.set_per_process_memory_fraction(setup.memory_share)
        device_name = torch.cuda.get_device_name()
    train = resolve(setup.trainer, setup.folder)
    if setup.trainer not in TRAINERS:
        return train, Ready(None, device_name)  # the user's function loads its own data
    dataset = data.load(setup.params["data"])
    stages = setup.devices if setup.parallel == "pipeline" else 1
    for params in (setup.params, *setup.variants):
        params = starting_weights.local(setup.trainer, params, setup.cache)
        check(setup.trainer, params, dataset, setup.folder, stages)
    return train, Ready(dataset.summary, device_name)


def _train(
    worker: Worker, train: Any, begin: Sequence[Assignment], group: Group | None
) -> tuple[Sequence[Assignment], bool]:
    """Train trials to their ends; what is to begin next, if that is known, and whether this worker
    ends: every later trial here would fail."""
    from trainers.registry import resolve_together

    train_together = resolve_together(worker.setup.trainer)
    if train_together is None:
        trials: Together = Alone(worker, begin)
        trials.train(train)
    else:
        trials = Together(worker, begin)
        if group is not None:
            train_together = partial(group.train, train_together, begin)
        trials.train(train_together)
    is_broken = group is not None and group.is_broken
    is_lost = trials.any_failed and worker.setup.uses_gpu and _device_is_lost()
    trials.ends = is_broken or is_lost
    return trials.close(), trials.ends


def _device_is_lost() -> bool:
    """Whether the CUDA context is broken for good, as after a device-side assertion."""
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _user_frames(error: BaseException) -> str:
    """The error and where in the user's own code it came from, without hpo's frames."""
    here = Path(__file__).resolve().parent.parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).resolve().is_relative_to(here / "hpo")
        and not Path(frame.filename).resolve().is_relative_to(here / "trainers")
        and "importlib" not in frame.filename
    ]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{one_line(error)}{place}"


def redirect_output(log: Path) -> None:
    """Print into the log, Python's own prints without passwords.

    What C code and other programs print is in it as it was: it is for this user's eyes only.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    if not isinstance(sys.stdout, RedactedStream):
        sys.stdout = cast(TextIO, RedactedStream(sys.stdout))
        sys.stderr = cast(TextIO, RedactedStream(sys.stderr))


def main() -> None:
    """The worker process: its connection is the file descriptor in ``argv[1]``."""
    import signal

    # Ctrl-C reaches the whole terminal; only the orchestrator decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    setup = connection.recv()
    # A signal, because the trainer may be deep in a call that knows nothing of stopping; to the
    # group, because it may have started processes of its own.
    serve(connection, setup, on_lost=lambda: os.killpg(0, signal.SIGKILL))


if __name__ == "__main__":
    main()
