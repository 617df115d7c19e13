"""Where workers live. An executor starts them, carries messages, and says when one is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpo.messages import FromWorker, Setup

if TYPE_CHECKING:
    from hpo.devices import Slot
    from hpo.errors import Problem
    from hpo.spec import StudySpec


@dataclass(frozen=True)
class Gone:
    """A worker ended without being told to: ``reason`` says how, with its last output.

    Attributes:
        of_machine: It was lost with its machine, or with its place there: that is nothing its
            trials have done.
    """

    reason: str
    of_machine: bool = False


@dataclass(frozen=True)
class Leaving:
    """A worker's machine is about to go: it is to end soon, and another is to take its place."""

    reason: str


@dataclass(frozen=True)
class Event:
    """What worker number `worker` sent, or that it is gone."""

    worker: int
    message: FromWorker | Gone | Leaving


class Executor(Protocol):
    """A set of workers, addressed by number."""

    def slots(self, spec: StudySpec, say: Callable[[str], None]) -> list[Slot] | Problem:
        """A slot a worker, or why there cannot be so many."""

    def start(self, setup: Setup) -> None:
        """Start worker ``setup.worker``, or start it again after it is gone."""

    def send(self, worker: int, message: Any) -> None:
        """Send to a worker; nothing happens if it is gone."""

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """What has arrived; waits up to `timeout_s` for the first. Each `Gone` comes once."""

    def kill(self, worker: int) -> None:
        """End a worker and everything it started, at once. No `Gone` follows."""

    def close(self) -> None:
        """End all workers."""


def open_executor(
    name: str, options: Mapping[str, Any] | None = None, code: Path | None = None
) -> Executor:
    """The executor named so in a study file, with its options there.

    Args:
        code: The folder of an own trainer, for workers that have no such folder.

    Raises:
        HpoError: It cannot be had.
    """
    if name == "inline":
        from hpo.executors.inline import InlineExecutor

        return InlineExecutor()
    if name == "ray":
        from hpo.executors.ray import RayExecutor

        return RayExecutor(code, **(options or {}))
    from hpo.executors.processes import ProcessExecutor

    return ProcessExecutor()
