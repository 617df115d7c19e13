"""Workers on the nodes of a Ray cluster. Why it is built so: docs/decisions/0030-ray.md.

Ray places an actor for each worker, and the actor starts the worker as a process, as
`hpo.executors.processes` does on one machine, and hands messages on. Actors that find no room wait
until a node has some; those of a node that is lost are placed anew.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import logging
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import ClusterLost, HpoError, UserError
from hpo.executors import Event, Gone, Leaving
from hpo.executors.processes import GRACE_S, ProcessExecutor
from hpo.messages import FromWorker, Loading, Ready, Refused, Setup

if TYPE_CHECKING:
    from hpo.devices import Slot
    from hpo.errors import Problem
    from hpo.spec import StudySpec

POLL_S = 1.0  # how often is looked which nodes are about to go, and where a worker was started
CONNECT_S = 10.0
MOST_CHECKS = 3
ANSWER_S = 2.0  # so long the head may take to answer
END_S = 0.5  # a place that was closed ends after so long
HEAD_AWAY_S = 30.0  # after 60 Ray itself ends this process
COMPARED = ("torch", "torchvision", "numpy", "optuna")  # Ray compares itself and Python
SHARED = "the folder that the study is run in has to be on all nodes, at the same path"
NOT_CODE = ("studies", "mlruns")  # beside own code: what studies have made
ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # what is in a folder of installed packages
_CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


@dataclass(frozen=True)
class Here:
    """What a node must have in common with the process that runs the study.

    Attributes:
        folder: The current one there, which a worker is started in.
        mark: A file that was written there, absolute.
        versions: Package → version, None where it is missing; of hpo the sha256 of its files.
        code: Whether Ray brings the user's own code.
    """

    folder: str
    mark: str
    versions: Mapping[str, str | None]
    code: bool


class Unchecked(Exception):
    """Whether workers can run on a node could not be found out: its id, and why."""


class Place:
    """The actor: a worker's place on a node.

    Its two groups of methods run in a thread each, in the order in which they were called.
    """

    def __init__(self) -> None:
        import ray

        self._node = ray.get_runtime_context().get_node_id()
        self._processes = ProcessExecutor()
        self._code: Path | None = None
        self._refused: Refused | None = None
        self._unchecked: Unchecked | None = None
        self._number = 0

    def compare(self, here: Here) -> None:
        """Whether workers can run on this node, before any of their messages is read."""
        try:
            self._code = Path.cwd() if here.code else None
            self._refused = _difference(here)
        except Exception as error:  # nobody waits for what this returns or raises
            self._unchecked = Unchecked(self._node, repr(error))

    def start(self, setup: Setup) -> None:
        if self._refused is not None or self._unchecked is not None:  # which `hear` says
            return
        folder = self._code or setup.folder
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES") if setup.device == "cuda" else None
        self._number = setup.worker
        try:
            self._processes.start(replace(setup, folder=folder, gpu=gpu))
        except Exception as error:
            self._refused = Refused("executor", f"no worker can be started there: {error!r}")

    def tell(self, message: Any) -> None:
        with contextlib.suppress(KeyError):  # it ends at this moment, which `hear` will say
            self._processes.send(self._number, message)

    def close(self) -> None:
        self._processes.close()
        # Once this has returned, for a head that is lost cannot have it ended.
        threading.Timer(END_S, os._exit, [0]).start()

    def hear(self) -> tuple[str, list[FromWorker | Gone | Leaving]]:
        """The node's id, and what the worker sent since the last call; waits for it.

        Raises:
            Unchecked: No worker was started.
        """
        while True:
            if self._unchecked is not None:
                raise self._unchecked
            if self._refused is not None:
                return self._node, [self._refused]
            heard = [event.message for event in self._processes.wait(POLL_S)]
            if heard:
                return self._node, heard


@dataclass
class _Placed:
    """An actor, as this process sees it.

    Attributes:
        node: Its node's id, once something was heard from there.
        leaving: It was said that its node is about to go.
    """

    actor: Any
    node: str | None = None
    leaving: bool = False


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
        self._ray = _connected(address, code)
        self._cpus = cpus_per_trial
        self._gpus = 0.0
        self._resources = dict(resources or {})
        self._brings_code = code is not None
        self._here: Here | None = None
        self._places: dict[int, _Placed] = {}
        self._names: dict[str, str] = {}  # of nodes, by id
        self._arrived: queue.Queue[tuple[int, _Placed, Future[Any]]] = queue.Queue()
        self._draining: set[str] = set()
        self._loading: set[str] = set()  # what workers have said while they waited for data
        self._tries: Counter[int] = Counter()  # of a worker, in vain, to check its node
        self._head: str = self._ray.get_runtime_context().gcs_address
        self._cluster_id = _cluster_id(self._head)
        self._lost: str | None = None  # what has become of the head
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="head of the cluster").start()

    def slots(self, spec: StudySpec, say: Callable[[str], None]) -> list[Slot] | Problem:
        from hpo.devices import Slot

        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        device = spec.device
        if device == "auto":
            device = "cuda" if any("GPU" in node for node in nodes) else "cpu"
        self._gpus = spec.gpus_per_trial if device == "cuda" else 0.0
        wanted = {"CPU": self._cpus, "GPU": self._gpus, **self._resources}
        room = sum(_how_often(wanted, node) for node in nodes)
        if room == 0:
            has = "; ".join(
                ", ".join(f"{node.get(name, 0):g} {name}" for name in wanted) for node in nodes
            )
            takes = ", ".join(f"{count:g} {name}" for name, count in wanted.items() if count)
            return spec.problem(
                "executor",
                f"a worker takes {takes}, which no node of the Ray cluster has (they have {has})",
                "let a trial take less, or add a node first",
            )
        count = room if spec.workers == "auto" else spec.workers
        if spec.budget.trials is not None:
            count = min(count, spec.budget.trials)
        if count > room:
            say(f"the Ray cluster has room for {room} of {count} workers; the others wait for it")
        threads = max(1, self._cpus // spec.devices)
        return [Slot(device, None, min(1.0, self._gpus or 1.0), threads)] * count

    def start(self, setup: Setup) -> None:
        number = setup.worker
        if self._here is None:
            self._here = _here(setup.cache, self._brings_code)
        if number in self._places and self._places[number].leaving:
            self.kill(number)  # its place, to have another on a node that stays
        if number not in self._places:
            actor = self._ray.remote(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                resources=self._resources,
                max_restarts=0,
                concurrency_groups={"hear": 1, "tell": 1},
            )(Place)
            self._places[number] = _Placed(actor.remote())
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
        with contextlib.suppress(queue.Empty):
            while True:
                arrived = self._arrived.get(timeout=0 if events else timeout_s)
                events += self._heard(*arrived)
        return events + self._warnings()

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
        frozen = self._lost and _listens(self._head) and not _answers(self._head)
        if frozen:  # Ray would wait for it without end, now and when this process ends
            atexit.unregister(self._ray.shutdown)
        else:
            self._ray.shutdown()

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

    def _watch(self) -> None:
        """Look after the cluster's head, in a thread of its own: it may be away for a while.

        Ray is only asked where the head is the one that this process knows. Else it ends this
        process: at once, or when it has waited for a minute.
        """
        heard_s, is_known = time.monotonic(), True
        while not self._closed.wait(POLL_S):
            if not _answers(self._head):
                is_known = False
                if time.monotonic() - heard_s > HEAD_AWAY_S:
                    self._lost = f"has not answered for {HEAD_AWAY_S:.0f} s"
                    return
                continue
            with contextlib.suppress(Exception):
                if not is_known and _cluster_id(self._head) != self._cluster_id:
                    self._lost = "was started anew and knows nothing of its nodes"
                    return
                heard_s, is_known = time.monotonic(), True
                self._draining = set(self._ray._private.state.state.get_draining_nodes())


def _connected(address: str, code: Path | None) -> Any:
    """Ray's module, connected to the cluster."""
    try:
        import ray
        from ray._private.services import canonicalize_bootstrap_address_or_die
    except ImportError:
        raise UserError("executor: ray needs Ray: pip install 'hpo[ray]'") from None
    if "://" in address:
        raise UserError(
            f"executor: {address} is the address of Ray's client; run the study on a node of the "
            "cluster, with address: auto, or by `ray job submit`"
        )
    try:
        found = canonicalize_bootstrap_address_or_die(address)
    except (ConnectionError, ValueError) as error:
        raise HpoError(
            f"executor: no Ray cluster at {address} ({_one_line(error)}). `ray start --head` "
            "begins one on this machine"
        ) from None
    _refuse_open(found)
    with tempfile.TemporaryDirectory(prefix="hpo-") as folder:  # Ray copies it at once
        if code is not None:
            _copy_code(code, Path(folder))
        brought = {"working_dir": folder} if code is not None else {}
        try:
            ray.init(found, log_to_driver=False, logging_level=logging.ERROR, runtime_env=brought)
        except Exception as error:  # of many kinds: another version, another token
            raise HpoError(f"executor: the Ray cluster at {found}: {_one_line(error)}") from None
    return ray


def _copy_code(code: Path, to: Path) -> None:
    """Copy the Python files of a folder, and nothing else: there may be data and keys beside them.

    Hidden files and folders, linked folders, installed packages and studies stay.
    """
    for path, folders, files in os.walk(code):
        here = Path(path)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and not (here == code and name in NOT_CODE)
            and not any((here / name / mark).exists() for mark in ENVIRONMENTS)
        ]
        for name in files:
            if name.endswith(".py") and not name.startswith("."):
                target = to / here.relative_to(code) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(here / name, target)


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
        return Gone(f"{place} was lost: {_one_line(error)}")
    of_ray = isinstance(error, RayActorError) and not error.actor_init_failed
    if node is None and not of_ray:
        return Gone(f"Ray could not start worker {number}: {_one_line(error)}")
    return Gone(f"{place} was lost ({type(error).__name__})", of_machine=True)


def _refuse_open(address: str) -> None:
    """Raise unless a cluster is there and asks for a token.

    Ray's processes listen on all addresses of a machine, and who reaches them can run anything. A
    client with a token is let in by a cluster that wants none, so it is asked without one. It is
    also asked because Ray itself waits for minutes for a head that is not there.
    """
    import grpc

    if os.environ.get("RAY_USE_TLS", "0") != "0":  # then a client needs a certificate
        return
    with grpc.insecure_channel(address) as channel:
        asked = channel.unary_unary(_CHECK_ALIVE)
        try:
            asked(b"", timeout=CONNECT_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                _refuse_other_token(asked, address)
                return
            raise HpoError(
                f"executor: no Ray cluster answers at {address} ({error.code().name.lower()})"
            ) from None
    raise UserError(
        f"executor: the Ray cluster at {address} runs what anybody sends who reaches its ports. "
        "Start it anew with RAY_AUTH_MODE=token on every node, and set that here; "
        "`ray get-auth-token --generate` makes the token that all need"
    )


def _refuse_other_token(asked: Any, address: str) -> None:
    """Raise where the cluster does not take the token that is set here, or none is.

    Ray itself tries for 20 seconds, with a line for each, and does not say what it was.
    """
    import grpc
    from ray._private.authentication import grpc_authentication_client_interceptor as of_ray
    from ray.exceptions import AuthenticationError

    try:
        asked(b"", timeout=CONNECT_S, metadata=of_ray._get_authentication_metadata_tuple())
    except (grpc.RpcError, AuthenticationError) as error:
        if isinstance(error, grpc.RpcError) and error.code() != grpc.StatusCode.UNAUTHENTICATED:
            return  # it was there a moment ago, and Ray may still find it
        raise UserError(
            f"executor: the Ray cluster at {address} asks for another token than the one here, if "
            "there is one. Set RAY_AUTH_MODE=token, and have its head's token in "
            "~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from None


def _answers(head: str) -> bool:
    """Whether the head does, and be it that it asks for a token: one that is frozen is connected
    to by the kernel, and says nothing."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0") != "0":  # then a client needs a certificate
        return _listens(head)
    with grpc.insecure_channel(head) as channel:
        try:
            channel.unary_unary(_CHECK_ALIVE)(b"", timeout=ANSWER_S)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return True


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError:
        return False
    return True


def _cluster_id(head: str) -> str:
    """Which cluster it is: another one after its head was started anew."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return str(GcsClient(address=head).cluster_id)


def _here(cache: Path, code: bool) -> Here:
    cache.mkdir(parents=True, exist_ok=True)
    mark = cache.absolute() / f".seen-{uuid.uuid4().hex[:8]}"
    mark.touch()
    return Here(os.getcwd(), str(mark), _versions(), code)


def _versions() -> dict[str, str | None]:
    files = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for package in ("hpo", "trainers"):
        for file in sorted((root / package).rglob("*.py")):
            files.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    found: dict[str, str | None] = {"hpo": files.hexdigest()[:8]}
    for package in COMPARED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _difference(here: Here) -> Refused | None:
    """Why a worker cannot run on this node."""
    own = _versions()
    differing = [
        f"{package} {own[package]} (here {version})"
        if own.get(package)
        else f"no {package} (here {version})"
        for package, version in here.versions.items()
        if own.get(package) != version
    ]
    if differing:
        return Refused(
            "executor", f"it has {', '.join(differing)}", "install the same versions on all nodes"
        )
    try:
        os.chdir(here.folder)
    except OSError:
        return Refused("executor", f"it has no folder {here.folder}", SHARED)
    if not os.path.exists(here.mark):
        return Refused("executor", f"its {here.folder} is another folder than here", SHARED)
    return None


def _how_often(wanted: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How many workers a node has room for."""
    return min(int(node.get(name, 0) / count + 1e-9) for name, count in wanted.items() if count)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
