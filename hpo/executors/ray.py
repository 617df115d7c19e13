"""Workers on the nodes of a Ray cluster. Why it is built so: docs/decisions/0030-ray.md.

Ray places an actor for each worker, and the actor starts the worker as a process, as
`hpo.executors.processes` does on one machine, and hands messages on. Actors that find no room wait
until a node has some; those of a node that is lost are placed anew.
"""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import ClusterLost
from hpo.executors import Event, Gone, Leaving
from hpo.executors.processes import GRACE_S
from hpo.executors.ray_head import answers, cluster_id, connected, listens, one_line
from hpo.executors.ray_place import Here, Place, Unchecked, here
from hpo.messages import FromWorker, Loading, Ready, Refused, Setup

if TYPE_CHECKING:
    from hpo.devices import Slot
    from hpo.errors import Problem
    from hpo.spec import StudySpec

POLL_S = 1.0  # how often is looked which nodes are about to go
MOST_CHECKS = 3
HEAD_AWAY_S = 30.0  # after 60 Ray itself ends this process
ROOM_S = 15.0  # after so long it is said why no worker has begun


@dataclass
class _Placed:
    """An actor, as this process sees it.

    Attributes:
        node: Its node's id, once something was heard from there.
        leaving: It was said that its node is about to go.
        since_s: When it was asked for.
    """

    actor: Any
    node: str | None = None
    leaving: bool = False
    since_s: float = field(default_factory=time.monotonic)


class RayExecutor:
    """`hpo.executors.Executor` on a cluster that runs already.

    Args:
        code: The folder of the user's own code, whose Python files are brought to the nodes.
        address, cpus_per_trial, resources: As in a study file (`hpo.spec.executors.Ray`).

    Raises:
        UserError: Ray is not installed, or the cluster takes work from anybody.
        HpoError: The cluster cannot be reached.
    """

    def __init__(
        self,
        code: Path | None = None,
        address: str = "auto",
        cpus_per_trial: int = 1,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self._ray = connected(address, code)
        self._takes = {"CPU": float(cpus_per_trial), **(resources or {})}  # a worker, of its node
        self._brings_code = code is not None
        self._here: Here | None = None
        self._places: dict[int, _Placed] = {}
        self._names: dict[str, str] = {}  # of nodes, by id
        self._arrived: queue.Queue[tuple[int, _Placed, Future[Any]]] = queue.Queue()
        self._draining: set[str] = set()
        self._loading: set[str] = set()  # what workers have said while they waited for data
        self._tries: Counter[int] = Counter()  # of a worker, in vain, to check its node
        self._free: Sequence[Mapping[str, float]] = ()  # what nodes have left
        self._told_of_room = False
        self._head: str = self._ray.get_runtime_context().gcs_address
        self._cluster_id = cluster_id(self._head)
        self._lost: str | None = None  # what has become of the head
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="head of the cluster").start()

    def slots(self, spec: StudySpec, say: Callable[[str], None]) -> list[Slot] | Problem:
        from hpo.devices import Slot

        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        device = spec.device
        if device == "auto":
            device = "cuda" if any("GPU" in node for node in nodes) else "cpu"
        if device == "cuda":
            self._takes["GPU"] = spec.gpus_per_trial
        elif spec.devices > 1:
            self._takes["CPU"] = max(self._takes["CPU"], float(spec.devices))
            say(f"no GPU is used: each trial is trained by {spec.devices} processes on CPUs")
        try:
            self._new_place()
        except ValueError as error:
            return spec.problem("executor.resources", one_line(error))
        room = sum(_how_often(self._takes, node) for node in nodes)
        if room == 0:
            has = "; ".join(
                ", ".join(f"{node.get(name, 0):g} {name}" for name in self._takes)
                for node in nodes
            )
            return spec.problem(
                "executor",
                f"a worker takes {self._taken}, which no node of the Ray cluster has "
                f"(they have {has})",
                "let a trial take less, or add a node first",
            )
        count = room if spec.workers == "auto" else spec.workers
        if spec.budget.trials is not None:
            count = min(count, spec.budget.trials)
        if count > room:
            say(f"the Ray cluster has room for {room} of {count} workers; the others wait for it")
        threads = max(1, int(self._takes["CPU"]) // spec.devices)
        return [Slot(device, None, min(1.0, self._takes.get("GPU", 1.0)), threads)] * count

    def start(self, setup: Setup) -> None:
        number = setup.worker
        if self._here is None:
            self._here = here(setup.cache, self._brings_code)
        if number in self._places and self._places[number].leaving:
            self.kill(number)  # its place, to have another on a node that stays
        if number not in self._places:
            self._places[number] = _Placed(self._new_place().remote())
            self._call(number, "compare", self._here)
            self._listen(number)
        self._call(number, "start", setup)

    def send(self, worker: int, message: Any) -> None:
        if worker in self._places:
            self._call(worker, "tell", message)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        if self._lost is not None:
            raise ClusterLost(
                f"executor: the head of the Ray cluster, {self._head}, {self._lost}\n"
                "Nothing acknowledged is lost. Start Ray anew on all nodes, then run the same "
                "command: it goes on from here."
            )
        events: list[Event] = []
        until_s = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Empty):
            while True:
                left_s = 0.0 if events else max(0.0, until_s - time.monotonic())
                events += self._heard(*self._arrived.get(timeout=left_s))
        return [*events, *self._warnings(), *self._of_room()]

    def kill(self, worker: int) -> None:
        if worker in self._places:
            self._ray.kill(self._places.pop(worker).actor)

    def close(self) -> None:
        self._closed.set()
        # One that was never heard from may wait for a place.
        closing = [p.actor.close.remote() for p in self._places.values() if p.node is not None]
        if closing:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.wait(closing, num_returns=len(closing), timeout=2 * GRACE_S)
        for number in list(self._places):
            self.kill(number)
        self._disconnect()
        if self._here is not None:
            Path(self._here.mark).unlink(missing_ok=True)

    def _disconnect(self) -> None:
        if listens(self._head) and not answers(self._head):
            # It is frozen: Ray would wait for it without end, now and when this process ends.
            atexit.unregister(self._ray.shutdown)
        else:
            self._ray.shutdown()

    def _new_place(self) -> Any:
        """The class of actors with what a worker takes.

        Raises:
            ValueError: Ray knows no such resources.
        """
        others = {k: v for k, v in self._takes.items() if k not in ("CPU", "GPU")}
        return self._ray.remote(
            num_cpus=self._takes["CPU"],
            num_gpus=self._takes.get("GPU", 0.0),
            resources=others,
            max_restarts=0,
            concurrency_groups={"hear": 1, "tell": 1},
        )(Place)

    @property
    def _taken(self) -> str:
        """What a worker takes, for people."""
        return ", ".join(f"{count:g} {name}" for name, count in self._takes.items())

    def _call(self, number: int, method: str, *arguments: Any) -> None:
        call = getattr(self._places[number].actor, method)
        call.options(num_returns=0, concurrency_group="tell").remote(*arguments)

    def _listen(self, number: int) -> None:
        placed = self._places[number]
        future = placed.actor.hear.options(concurrency_group="hear").remote().future()
        future.add_done_callback(lambda done: self._arrived.put((number, placed, done)))

    def _heard(self, number: int, placed: _Placed, done: Future[Any]) -> list[Event]:
        if self._places.get(number) is not placed:  # it was killed meanwhile
            return []
        try:
            placed.node, messages = done.result()
        except Unchecked as error:
            self.kill(number)
            return [Event(number, self._unclear(number, *getattr(error, "cause", error).args))]
        except Exception as error:  # one of Ray's many; or hpo is not on that node
            self.kill(number)  # whatever is left of it
            node = placed.node and self._name(placed.node)
            return [Event(number, _lost(number, node, error))]
        self._tries[number] = 0
        if not any(isinstance(message, Refused) for message in messages):  # which is its last
            self._listen(number)
        named = [self._named(placed.node, message) for message in messages]
        return [Event(number, message) for message in named if not self._is_repeated(message)]

    def _is_repeated(self, message: FromWorker | Gone | Leaving) -> bool:
        """Whether another worker of the node has said the same: they wait for the same data."""
        if not isinstance(message, Loading):
            return False
        repeated, self._loading = message.text in self._loading, self._loading | {message.text}
        return repeated

    def _unclear(self, number: int, node: str, why: str) -> Gone | Refused:
        """What is said of a node that could not be checked; another try often can.

        A folder may be away for a moment: the shared one, or that of the code, which Ray unpacks
        anew where a node is started on a machine that has one already.
        """
        self._tries[number] += 1
        said = f"node {self._name(node)}: it cannot be checked: {why}"
        if self._tries[number] < MOST_CHECKS:
            return Gone(said, of_machine=True)
        return Refused("executor", said)

    def _named(
        self, node: str, message: FromWorker | Gone | Leaving
    ) -> FromWorker | Gone | Leaving:
        """A message, with the name of the node that it is from."""
        match message:
            case Loading():
                return Loading(f"node {self._name(node)}: {message.text}")
            case Ready():
                return replace(message, node=self._name(node))
            case Refused():
                return replace(message, message=f"node {self._name(node)}: {message.message}")
            case Gone():
                return replace(message, reason=f"on node {self._name(node)} {message.reason}")
        return message

    def _name(self, node: str) -> str:
        if node not in self._names:
            self._names |= {each["NodeID"]: each["NodeName"] for each in self._ray.nodes()}
        return self._names.get(node, node)

    def _warnings(self) -> list[Event]:
        """Of workers whose nodes are about to go, once each."""
        events = []
        for number, placed in self._places.items():
            if placed.node in self._draining and not placed.leaving:
                placed.leaving = True
                reason = f"node {self._name(placed.node)} is about to go"
                events.append(Event(number, Leaving(reason)))
        return events

    def _of_room(self) -> list[Event]:
        """Said once, where no worker has begun after a while: why."""
        waiting = [(number, placed) for number, placed in self._places.items() if not placed.node]
        if self._told_of_room or len(waiting) < len(self._places) or not waiting:
            return []
        number, oldest = waiting[0]
        if time.monotonic() - oldest.since_s < ROOM_S:
            return []
        self._told_of_room = True
        if any(_how_often(self._takes, node) for node in self._free):
            text = (
                f"no worker has begun after {ROOM_S:.0f} s, though the Ray cluster has room: the "
                "logs on its nodes may say why (/tmp/ray/session_latest/logs)"
            )
        else:
            text = (
                f"waiting for room on the Ray cluster: a worker takes {self._taken}, which no "
                "node has free now (`ray status`)"
            )
        return [Event(number, Loading(text))]

    def _watch(self) -> None:
        """Look after the cluster's head, in a thread of its own: it may be away for a while.

        Ray is only asked where the head is the one that this process knows. Else it ends this
        process: at once, or when it has waited for a minute.
        """
        heard_s, state = time.monotonic(), self._ray._private.state.state
        while not self._closed.wait(POLL_S):
            if not answers(self._head):
                if time.monotonic() - heard_s > HEAD_AWAY_S:
                    self._lost = f"has not answered for {HEAD_AWAY_S:.0f} s"
                    return
                continue
            with contextlib.suppress(Exception):
                if cluster_id(self._head) != self._cluster_id:
                    self._lost = "was started anew and knows nothing of its nodes"
                    return
                heard_s = time.monotonic()
                self._draining = set(state.get_draining_nodes())
                if not any(placed.node for placed in list(self._places.values())):
                    self._free = list(state.available_resources_per_node().values())


def _lost(number: int, node: str | None, error: Exception) -> Gone:
    """Why the place of a worker is gone.

    The end of a worker's own process is a message from its place, so it is none of these errors.

    Args:
        node: The name of its node, if something was heard from there.
    """
    from ray.exceptions import OutOfMemoryError, RayActorError

    place = f"the worker's place on node {node}" if node else f"the place of worker {number}"
    # Ray ends processes of a node that has no memory left. Its text of any other end has that
    # word, too, as one of several guesses.
    if isinstance(error, OutOfMemoryError) or "running low on memory" in str(error):
        return Gone(f"{place} was lost: {one_line(error)}")
    of_ray = isinstance(error, RayActorError) and not error.actor_init_failed
    if node is None and not of_ray:
        return Gone(f"Ray could not start worker {number}: {one_line(error)}")
    return Gone(f"{place} was lost ({type(error).__name__})", of_machine=True)


def _how_often(wanted: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How many workers a node has room for."""
    return min(int(node.get(name, 0) / count + 1e-9) for name, count in wanted.items() if count)
