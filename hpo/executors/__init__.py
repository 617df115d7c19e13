"""Where workers live. An executor starts them, carries messages, and says when one is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hpo.messages import FromWorker, Setup


@dataclass(frozen=True)
class Gone:
    """A worker ended without being told to: ``reason`` says how, with its last output."""

    reason: str


@dataclass(frozen=True)
class Event:
    """What worker number `worker` sent, or that it is gone."""

    worker: int
    message: FromWorker | Gone


class Executor(Protocol):
    """A set of workers, addressed by number."""

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


def open_executor(name: str) -> Executor:
    """The executor named so in a study file."""
    if name == "inline":
        from hpo.executors.inline import InlineExecutor

        return InlineExecutor()
    from hpo.executors.processes import ProcessExecutor

    return ProcessExecutor()
