"""Trials that are trained anew, outside of their study: one worker process, nothing is recorded.

Decoded images are shared with the study's (``studies/.cache``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo import devices, spec, starting_weights
from hpo.errors import HpoError, WorkerLost
from hpo.executors import Executor, Gone, open_executor
from hpo.messages import (
    Assignment,
    Begin,
    Finished,
    Loading,
    Measure,
    Measured,
    Orders,
    Ready,
    Refused,
    Report,
    Round,
    Setup,
)
from hpo.paths import Home
from hpo.spec import StudySpec
from trainers.registry import TRAINERS

Record = Mapping[str, Any]
# Told of the epochs of a round; says which trials are to end with it.
Follow = Callable[[Sequence[Report]], Collection[int]]


def study_of(record: Record, source: str | None = None) -> StudySpec:
    """The study as a session ran it.

    Args:
        record: Its ``study`` record.
        source: Where its data are by now, if they have been moved since.
    """
    # What stands in the environment of these addresses is not needed, and may not be there.
    elsewhere: dict[str, Any] = {"tracking": {}, "storage": "journal"}
    if source is not None:
        elsewhere["data.source"] = source
    file = record.get("path") or f"{record['folder']}/study.yaml"
    return spec.loads(record["file"].encode(), Path(file), elsewhere, recorded=True)


def setup_like(
    record: Record, said: StudySpec, config: Mapping[str, Mapping[str, Any]], home: Home
) -> Setup:
    """A worker like those of a session: same device, same threads.

    Args:
        record: The session's ``study`` record, and `said` the same as `study_of` has it.
        config: What it is to load the data and build the model of at first.

    Raises:
        HpoError: There is no such device.
    """
    gpus = devices.gpus()[: said.devices]
    if record["device"] == "cuda" and not gpus:
        raise HpoError(f"this was trained on {record['device_name']}; no NVIDIA GPU is here")
    if record["device"] == "cuda" and len(gpus) < said.devices:
        raise HpoError(f"this was trained on {said.devices} GPUs at a time; here are {len(gpus)}")
    starting_weights.fetch(said, home.data_cache, home.tracking_address(None))
    return Setup(
        worker=0,
        trainer=said.trainer,
        folder=said.folder,
        params=config,
        variants=[],
        cache=home.data_cache.absolute(),
        device=record["device"],
        gpu=",".join(gpu.id for gpu in gpus) if record["device"] == "cuda" else None,
        threads=record["threads"],
        memory_share=1.0,
        command=said.command,
        devices=said.devices if said.trainer in TRAINERS else 1,
        parallel=said.parallel or "ddp",
    )


class Bench:
    """A worker to train on.

    Attributes:
        ready: What it said when it was.
    """

    def __init__(
        self, executor: Executor, setup: Setup, folder: Path, say: Callable[[str], None]
    ) -> None:
        self._executor, self._say = executor, say
        self._events = self._messages()
        executor.start(setup)
        ready = next(self._events)
        assert isinstance(ready, Ready)
        self.ready = ready
        executor.send(0, Begin(folder / "worker.log"))

    def lanes_that_pay(self, config: Mapping[str, Mapping[str, Any]], most: int) -> int:
        """How many trials of a configuration, up to `most`, to train together."""
        self._executor.send(0, Measure(config, most))
        measured = next(self._events)
        assert isinstance(measured, Measured)
        return measured.lanes

    def train(self, assignments: Sequence[Assignment], follow: Follow) -> list[Finished]:
        """Train trials together until all are over.

        Raises:
            WorkerLost: The process ended.
        """
        over: list[Finished] = []
        self._executor.send(0, Orders(begin=assignments))
        while len(over) < len(assignments):
            message = next(self._events)
            assert isinstance(message, Round)
            over += message.finished
            self._executor.send(0, Orders(stop=follow(message.reports)))
        return over

    def _messages(self) -> Iterator[Any]:
        while True:
            for event in self._executor.wait(1.0):
                match event.message:
                    case Refused(_, message, hint):
                        raise HpoError(message + (f"\n{hint}" if hint else ""))
                    case Gone(reason):
                        raise WorkerLost(reason)
                    case Loading(text):
                        self._say(text)
                    case message:
                        yield message


@contextlib.contextmanager
def bench(setup: Setup, folder: Path, say: Callable[[str], None]) -> Iterator[Bench]:
    """A worker whose trainer is imported and whose data is loaded.

    Args:
        folder: For what it prints.
        say: Told what it waits for.

    Raises:
        HpoError: The trainer or the data cannot be used.
        WorkerLost: The process ended.
    """
    with contextlib.closing(open_executor("processes")) as executor:
        yield Bench(executor, setup, folder, say)
