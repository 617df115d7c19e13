"""Data at addresses: fetched once, whole or not at all, and never to another place."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import object_store
import pytest
import ray_cluster
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from object_store import SECRET
from served import free_port

from hpo import fetched, launch, spec
from hpo.errors import StudyChanged, StudyFileError
from hpo.executors import Executor, open_executor
from hpo.loaded import Data
from hpo.messages import Loading, Ready, Refused, Setup
from hpo.paths import Home, is_address
from hpo.predict import _as_given, open_predictor, predict
from hpo.progress import Silent
from hpo.tracking.outbox import read
from trainers.contract import DataError

with warnings.catch_warnings():  # of MLflow's own imports
    warnings.simplefilter("ignore")
    from mlflow.data.dataset_source_registry import get_dataset_source_from_json

    from hpo.tracking.runs import dataset_input

TABLE = b"x,y\n" + b"".join(b"%d,%s\n" % (i, b"ab"[i % 2 : i % 2 + 1]) for i in range(40))
FETCH = "import sys; from hpo import fetched; print(fetched.local(sys.argv[1]))"


class Store(ThreadingHTTPServer):
    """A web server with files.

    Attributes:
        files: Path → content.
        asked: How often for what: ``"GET /x.csv"``.
        stuck: Whether a file stops coming after its first half, until the server ends.
        claims: The size that it says a file has, before it is got; None: the right one.
        tagged: Whether it says an ETag.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files = {"/x.csv": TABLE}
        self.asked: Counter[str] = Counter()
        self.after_get = lambda: None
        self.stuck = False
        self.claims: int | None = None
        self.tagged = True
        self.half_sent, self.ended = threading.Event(), threading.Event()

    def address(self, path: str = "/x.csv") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Answer(BaseHTTPRequestHandler):
    server: Store

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        content = self._head()
        half = len(content) // 2
        self.wfile.write(content[:half])
        self.wfile.flush()
        if self.server.stuck:
            self.server.half_sent.set()
            self.server.ended.wait(60)
        self.wfile.write(content[half:])
        self.server.after_get()

    def _head(self) -> bytes:
        self.server.asked[f"{self.command} {self.path}"] += 1
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(403 if self.path.startswith("/private") else 404)
            return b""
        self.send_response(200)
        claims = self.server.claims if self.command == "HEAD" else None
        self.send_header("Content-Length", str(claims or len(content)))
        if self.server.tagged:
            self.send_header("ETag", hashlib.sha256(content).hexdigest())
        self.end_headers()
        return content


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hpo" / "data"


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


@pytest.fixture
def memory() -> Iterator[None]:
    """A store within this process is empty."""
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


def put(name: str, content: bytes) -> None:
    """Into that store, by a name that its own calls would make a better one of."""
    MemoryFileSystem().pipe_file("/right", content)
    MemoryFileSystem.store[name] = MemoryFileSystem.store.pop("/right")


def folders(cache: Path) -> list[Path]:
    """Of versions, whole ones and others."""
    return [path for path in cache.glob("*/*") if path.is_dir()]


@pytest.mark.slow
def test_workers_that_start_together_fetch_once(store: Store) -> None:
    call = [sys.executable, "-c", FETCH, store.address()]
    workers = [subprocess.Popen(call, stdout=subprocess.PIPE) for _ in range(3)]
    paths = {worker.communicate(timeout=60)[0].decode().strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 3
    assert store.asked["GET /x.csv"] == 1
    assert Path(paths.pop()).read_bytes() == TABLE
    assert not paths


def test_a_fetch_that_is_killed_leaves_nothing_half(store: Store, cache: Path) -> None:
    store.stuck = True
    worker = subprocess.Popen([sys.executable, "-c", FETCH, store.address()])
    assert store.half_sent.wait(60)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    (left,) = folders(cache)
    assert left.name.startswith(".")  # and not a version's name
    another = [left.with_name(f".{name}.another-machine") for name in ("new", "old")]
    for folder in another:
        folder.mkdir()
    os.utime(another[1], (0, 0))
    store.stuck = False
    store.files["/x.csv"] = TABLE[::-1]
    path = fetched.local(store.address())
    assert path.read_bytes() == TABLE[::-1]
    assert set(folders(cache)) == {path.parent, another[0]}


def test_who_waits_for_another_process_is_told(store: Store, cache: Path) -> None:
    store.stuck = True
    found, said = fetched.look(store.address()), queue.Queue[str]()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetched.fetch, found)
        assert store.half_sent.wait(60)
        second = pool.submit(fetched.fetch, found, said.put)
        assert said.get(timeout=60).startswith("waiting for another process, which fetches http")
        store.ended.set()
        assert first.result(60) == second.result(60)
    assert store.asked["GET /x.csv"] == 1


def test_changed_data_are_another_version(store: Store, cache: Path) -> None:
    address, before = store.address(), fetched.look(store.address())
    path = fetched.local(address)
    assert path.name == "x.csv"
    store.files["/x.csv"] = TABLE + b"40,a\n"
    assert fetched.local(address, before.version) == path
    assert path.read_bytes() == TABLE  # what the study began with
    after = fetched.look(address)
    assert fetched.local(address).read_bytes() == TABLE + b"40,a\n"
    assert {folder.name for folder in folders(cache)} == {before.version, after.version}
    shutil.rmtree(cache)  # or another machine
    with pytest.raises(DataError, match="has changed since the study was started"):
        fetched.local(address, before.version)


def test_data_that_change_while_they_are_fetched_are_refused(store: Store, cache: Path) -> None:
    def change() -> None:
        store.files["/x.csv"] = TABLE[::-1]

    store.after_get = change
    found = fetched.look(store.address())
    with pytest.raises(DataError, match="has changed"):
        fetched.fetch(found)
    assert folders(cache) == []


def test_a_folder_comes_without_hidden_files(memory: None) -> None:
    for name in ("/d/train/a/1.txt", "/d/train/b/2.txt", "/d/.DS_Store", "/d/.git/config"):
        put(name, name.encode())
    path = fetched.local("memory://d")
    there = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert there == {"train/a/1.txt", "train/b/2.txt"}
    assert (path / "train/b/2.txt").read_bytes() == b"/d/train/b/2.txt"


@pytest.mark.parametrize(
    "names",
    [
        ["../../../../outside"],
        ["a/../../../../../outside"],
        ["/outside"],
        ["a//outside"],
        ["a/./b"],
        ["nul\0"],
        ["\udcff"],
        ["n" * 256],
        ["/".join(["deep" * 50] * 20)],
        ["a", "a/b"],
    ],
    ids=lambda names: repr(names[-1][:24]),
)
def test_names_that_no_folder_can_have_are_refused(
    memory: None, cache: Path, names: list[str]
) -> None:
    for name in ["good", *names]:
        put(f"/d/{name}", b"hostile")
    with pytest.raises(DataError, match=r"that no folder can have|of one name"):
        fetched.local("memory://d")
    assert not list(cache.parents[2].rglob("*outside*"))
    assert folders(cache) == []


def test_how_far_it_is_is_said(store: Store, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(fetched, "SAY_EVERY_S", 0.0)
    store.files["/x.csv"] = b"0" * 3_000_000
    said: list[str] = []
    path = fetched.fetch(fetched.look(store.address()), said.append)
    assert said[0] == f"fetching {store.address()} (1 file, 3.0 MB) into {path.parent} …"
    assert said[-1] == f"fetching {store.address()}: 3 of 3 MB"


def problem(address: str) -> str:
    with pytest.raises(DataError) as raised:
        fetched.local(address)
    assert raised.value.key == "data.source"
    assert "\n" not in str(raised.value)
    return f"{raised.value} | {raised.value.hint}"


def test_what_cannot_be_had_is_said(
    store: Store, memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert problem(store.address("/y.csv")) == f"there is no {store.address('/y.csv')} | None"
    assert "may not be read: 403" in problem(store.address("/private.csv"))
    assert "cannot be read: Cannot connect" in problem(f"http://127.0.0.1:{free_port()}/x.csv")
    assert problem("memory://d") == "there is no memory://d | None"
    MemoryFileSystem().mkdir("/empty")
    assert problem("memory://empty") == "there is no file below memory://empty | None"
    store.claims = 10**18
    assert "has 1,000,000,000,000,000,000 bytes, and the disk of" in problem(store.address())
    store.claims = len(TABLE) + 1
    assert f"came {len(TABLE)} of {len(TABLE) + 1} bytes" in problem(store.address())
    store.claims, store.tagged = None, False
    assert "says neither an ETag nor a time" in problem(store.address())
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    store.tagged = True
    assert "nothing can be kept in /proc/nowhere" in problem(store.address())


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://ada:correct-horse@bucket/x.csv", "a key or a name is in s3://...@bucket/x.csv;"),
        (
            "https://host/x.csv?X-Amz-Signature=51c9",
            r"a key or a name is in https://host/x.csv\?…;",
        ),
        ("dask://host/x.csv", "is no store that data can be fetched from"),
        ("reference://x", "is no store"),
        ("zip://x.csv::s3://bucket/x.zip", "within another"),
        ("s3://", "names no file"),
        ("dvc://x.csv", "is no store"),
        ("adl://lake/x.csv", "needs a package that is missing"),
    ],
)
def test_addresses_of_no_use_are_refused_before_anything_is_asked(address: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        fetched.check(address)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("S3://bucket/x.csv", "did you mean 's3'?"),
        ("abfs://box@acme.dfs.core.windows.net/x.csv", "abfs://CONTAINER/PATH; AZURE_STORAGE"),
        ("sftp://ada@host/x.csv", "FSSPEC_SFTP_USERNAME says who you are"),
    ],
)
def test_what_to_write_instead_is_said(address: str, hint: str) -> None:
    assert is_address(address)
    with pytest.raises(DataError) as raised:
        fetched.check(address)
    assert str(raised.value.hint).startswith(hint)


@pytest.mark.parametrize("name", ["design", "keywords", "monkey", "versionId"])
def test_what_only_looks_like_a_key_is_none(name: str) -> None:
    fetched.check_for_keys(f"https://host/x.csv?{name}=2")


@pytest.mark.parametrize(
    "name", ["sig", "X-Amz-Security-Token", "AWSAccessKeyId", "api_key", "apikey", "token"]
)
def test_what_signs_an_address_is_known(name: str) -> None:
    with pytest.raises(DataError, match="a key or a name is in"):
        fetched.check_for_keys(f"https://host/x.csv?a=1&{name}=2")


def test_a_signed_address_is_not_recorded_of_an_own_trainer_either(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    signed = "https://host/x.csv?X-Amz-Signature=51c9"
    study = (
        "study: s\ntrainer: own:train\ndata: {source: 'ADDRESS'}\n"
        "objective: {metric: q, goal: maximize}\n"
    )
    file.write_text(study.replace("ADDRESS", signed))
    with pytest.raises(StudyFileError, match="a password, a key or a name is in"):
        spec.load(file)
    file.write_text(study.replace("ADDRESS", "mine://shelf/x"))  # what it means is its own affair
    assert spec.load(file).data["source"] == "mine://shelf/x"


def test_without_s3fs_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(DataError, match="s3:// needs a package") as raised:
        fetched.check("s3://bucket/x.csv")
    assert raised.value.hint == "pip install 'hpo[s3]'"


def test_a_path_may_be_written_as_an_address(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(TABLE)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("ADDRESS", f"file://{tmp_path}/x.csv"))
    assert spec.load(file).data["source"] == str(tmp_path / "x.csv")


def data(tmp_path: Path, version: str | None = None) -> Data:
    setup = Setup(0, "tabular", tmp_path, {}, [], tmp_path, "cpu", None, 1, 1.0)
    return Data(replace(setup, data_version=version))


def test_predicted_files_are_named_by_their_address(tmp_path: Path) -> None:
    names = (0, f"{tmp_path}/t/a/1.txt", f"{tmp_path}/two.txt")
    given = [_as_given(name, {"s3://team/t/": tmp_path / "t"}) for name in names]
    assert given == [0, "s3://team/t/a/1.txt", f"{tmp_path}/two.txt"]


def test_a_worker_names_data_by_their_address(memory: None, tmp_path: Path) -> None:
    put("/d/x.csv", TABLE)
    (tmp_path / "x.csv").write_bytes(TABLE)
    there, here = (
        data(tmp_path).load({"source": source, "target": "y"}).summary
        for source in ("memory://d/x.csv", str(tmp_path / "x.csv"))
    )
    assert there == {**here, "source": "memory://d/x.csv"}  # of one fingerprint, too
    put("/d/none.csv", b"x,y\n")
    with pytest.raises(DataError, match=r"^memory://d/none\.csv has no rows"):
        data(tmp_path).load({"source": "memory://d/none.csv", "target": "y"})


def test_a_worker_takes_the_version_that_it_is_told(memory: None, tmp_path: Path) -> None:
    put("/d/x.csv", TABLE)
    with pytest.raises(DataError, match="memory://d/x.csv has changed since the study"):
        data(tmp_path, "0" * 32).load({"source": "memory://d/x.csv", "target": "y"})


STUDY = """
study: s
trainer: tabular
data: {source: "ADDRESS", target: y}
model: {name: mlp, hidden: [4]}
train: {epochs: 1, batch_size: 8}
search: {train.lr: {low: 1e-4, high: 0.3, log: true}}
sampler: random
budget: {trials: 1}
executor: inline
device: cpu
"""


@pytest.mark.slow
def test_a_study_on_data_in_an_s3_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, home = tmp_path / "study.yaml", Home(tmp_path / "home")
    file.write_text(STUDY.replace("ADDRESS", "s3://team/flowers.csv"))
    study = spec.load(file)
    with object_store.running() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        with pytest.raises(StudyFileError, match="there is no s3://team/flowers.csv") as missing:
            launch.probe(study, home, Silent())
        assert [(each.key, each.line) for each in missing.value.problems] == [("data.source", 4)]
        store.put("flowers.csv", TABLE)
        with launch.opened(study, home, Silent()) as orchestrator:
            assert orchestrator.run().state == "complete"
        (recorded,) = (r for r, _ in read(home.study("s").outbox) if r["kind"] == "study")
        of_mlflow = dataset_input(recorded["dataset"]).dataset
        source = get_dataset_source_from_json(of_mlflow.source, of_mlflow.source_type)
        assert source.uri == "s3://team/flowers.csv"
        address, to = "s3://team/flowers.csv", tmp_path / "predicted.csv"
        done = predict(open_predictor("s", home), [address], to)
        assert (done.rows, done.judged) == (40, 40)
        store.put("flowers.csv", TABLE + b"40,a\n")
        changed = "on other data: s3://team/flowers.csv has changed since"
        with pytest.raises(StudyChanged, match=changed), launch.opened(study, home, Silent()):
            pass
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def heard(executor: Executor, workers: int, loading: list[str]) -> list[Ready | Refused]:
    """What so many workers say first, but for what they wait for."""
    found: list[Ready | Refused] = []
    while len(found) < workers:
        for event in executor.wait(60):
            if isinstance(event.message, Loading):
                loading.append(event.message.text)
                continue
            assert isinstance(event.message, Ready | Refused), event
            found.append(event.message)
    return found


@pytest.mark.slow
def test_each_node_fetches_for_itself_and_those_that_differ_are_named(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("ADDRESS", store.address()))
    params = spec.load(file).config({})
    setup = Setup(0, "tabular", tmp_path, params, [], tmp_path / "seen", "cpu", None, 1, 1.0)
    setup = replace(setup, data_version=fetched.look(store.address()).version)
    with ray_cluster.running(num_cpus=0) as cluster:
        executor = open_executor("ray", {"address": cluster.address})
        loading: list[str] = []

        def start(node: str, *setups: Setup) -> list[Ready | Refused]:
            """Workers on a node that has room for these."""
            there = {"XDG_CACHE_HOME": str(tmp_path / node), "PYTHONPATH": str(tmp_path / node)}
            options = {**ray_cluster.NODE, "num_cpus": len(setups)}
            cluster.add_node(node_name=node, env_vars=there, **options)
            for each in setups:
                executor.start(each)
            return heard(executor, len(setups), loading)

        try:
            ready = start("a", setup) + start("b", replace(setup, worker=1))
            assert [getattr(message, "node", message) for message in ready] == ["a", "b"]
            assert store.asked["GET /x.csv"] == 2
            told = [line.partition(" (")[0] for line in loading]
            assert told == [f"node {node}: fetching {store.address()}" for node in "ab"]
            store.files["/x.csv"] = TABLE[:-4]
            gone = {**params, "data": {**params["data"], "source": str(tmp_path / "gone.csv")}}
            refused = start("c", replace(setup, worker=2), replace(setup, worker=3, params=gone))
            of_torch = tmp_path / "d" / "torch-0.0.1.dist-info" / "METADATA"
            of_torch.parent.mkdir(parents=True)
            of_torch.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.0.1\n")
            refused += start("d", replace(setup, worker=4))
        finally:
            executor.close()
    torch = importlib.metadata.version("torch")
    told = {(each.key, each.message) for each in refused if isinstance(each, Refused)}
    assert told == {
        ("data.source", f"node c: {store.address()} has changed since the study was started"),
        ("data.source", f"node c: there is no {tmp_path / 'gone.csv'}"),
        ("executor", f"node d: it has torch 0.0.1 (here {torch})"),
    }
