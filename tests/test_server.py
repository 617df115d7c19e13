"""``hpo server``: MLflow's own server, started as a user would, and asked from outside."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import postgres
import psycopg
import pytest
import requests
from served import Served, free_port, listening_at, served
from test_cli import hpo

with warnings.catch_warnings():  # of MLflow's own imports
    warnings.simplefilter("ignore")
    from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]
SECRET = "canary-7f3a"
UNDO = {  # what could be in somebody's environment
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true",
    "MLFLOW_HOST": "0.0.0.0",
    "MLFLOW_GUNICORN_OPTS": "--bind 0.0.0.0:1",
}
API = "api/2.0/mlflow"

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def early(home: Path) -> str:
    """A run from before there was a server, as `hpo run` leaves it: its files are in a folder, by
    its path."""
    (home / "mlruns").mkdir()
    with warnings.catch_warnings():  # of MLflow's use of SQLAlchemy
        warnings.simplefilter("ignore")
        alone = MlflowClient(f"sqlite:///{home / 'mlruns' / 'mlflow.db'}")
        folder = (home / "mlruns" / "artifacts" / "early").as_uri()
        run = alone.create_run(alone.create_experiment("early", artifact_location=folder)).info
        alone.log_text(run.run_id, "what was said", "early.txt")
    return str(run.run_id)


@pytest.fixture(scope="module")
def server(home: Path, early: str) -> Iterator[Served]:
    arguments = ("--home", home, "--port", str(free_port()))
    with served("server", *arguments, env=UNDO, end=signal.SIGINT) as up:
        yield up


@pytest.fixture(scope="module")
def team_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("team")


@pytest.fixture(scope="module")
def team(team_home: Path) -> Iterator[Served]:
    """A server with users."""
    arguments = ("--home", team_home, "--port", str(free_port()), "--auth")
    with served("server", *arguments, "--allow-host", "mlflow.example.com") as up:
        yield up


def as_admin(team: Served) -> tuple[str, str]:
    return team.said["user"], team.said["password"]


def make_user(team: Served, name: str) -> tuple[str, str]:
    body = {"username": name, "password": "a long enough one"}
    url = f"{team.url}/{API}/users/create"
    requests.post(url, json=body, auth=as_admin(team), timeout=10).raise_for_status()
    return name, body["password"]


def make_experiment(server: Served, name: str, auth: tuple[str, str] | None = None) -> str:
    url = f"{server.url}/{API}/experiments/create"
    answer = requests.post(url, json={"name": name}, auth=auth, timeout=10)
    answer.raise_for_status()
    return str(answer.json()["experiment_id"])


def experiments(server: Served, auth: tuple[str, str] | None = None) -> set[str]:
    url = f"{server.url}/{API}/experiments/search"
    answer = requests.post(url, json={"max_results": 100}, auth=auth, timeout=10)
    answer.raise_for_status()
    return {found["name"] for found in answer.json().get("experiments", [])}


# -- what it serves


@slow
def test_runs_and_their_files_go_through_it(server: Served, home: Path, tmp_path: Path) -> None:
    client = MlflowClient(server.url)
    run = client.create_run(client.create_experiment("with files")).info
    client.log_text(run.run_id, "what was said", "said.txt")
    assert run.artifact_uri.startswith("mlflow-artifacts:")
    (kept,) = (home / "mlruns" / "artifacts").rglob("said.txt")
    assert kept.read_text() == "what was said"
    found = client.download_artifacts(run.run_id, "said.txt", str(tmp_path))
    assert Path(found).read_text() == "what was said"
    assert server.said["store"] == f"sqlite:///{home / 'mlruns' / 'mlflow.db'}"


@slow
def test_a_study_is_a_run_with_a_run_for_each_trial(server: Served, tmp_path: Path) -> None:
    done = hpo(
        *("run", ROOT / "studies" / "quickstart.yaml", "--home", tmp_path, "--json"),
        *("--set", f"tracking.uri={server.url}", "--set", "budget.trials=3"),
        *("--set", "train.epochs=2", "--set", "workers=1"),
    )
    assert done.code == 0, done.err
    assert done.json["replica"]["pending"] == 0
    assert not (tmp_path / "mlruns").exists()
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    assert experiment.artifact_location.startswith("mlflow-artifacts:")
    runs = client.search_runs([experiment.experiment_id])
    (study,) = (run for run in runs if run.data.tags.get("hpo.kind") == "study")
    trials = [run for run in runs if "hpo.trial" in run.data.tags]
    assert len(runs) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    names = {file.path for file in client.list_artifacts(trials[0].info.run_id)}
    assert "predictions.npz" in names


@slow
def test_files_from_before_there_was_a_server_are_seen_through_it(
    server: Served, early: str
) -> None:
    assert server.said["local"] == ["early"]
    query = {"run_uuid": early, "path": "early.txt"}
    assert requests.get(f"{server.url}/get-artifact", query, timeout=10).text == "what was said"


# -- who may ask


@slow
@pytest.mark.parametrize("host", ["evil.com", "10.evil.com", "10.evil.com:{port}", "192.168.1.1"])
def test_foreign_names_are_refused(server: Served, host: str) -> None:
    headers = {"Host": host.format(port=server.port)}
    for path in ("/", f"/{API}/experiments/search", "/get-artifact?run_uuid=1&path=x"):
        assert requests.get(server.url + path, headers=headers, timeout=10).status_code == 403


@slow
def test_its_own_names_are_answered(server: Served, team: Served) -> None:
    for name in ("127.0.0.1", "localhost"):
        assert requests.get(f"http://{name}:{server.port}/", timeout=10).status_code == 200
    headers = {"Host": "mlflow.example.com"}
    assert requests.get(team.url, headers=headers, auth=as_admin(team), timeout=10).ok


@slow
def test_pages_of_other_sites_can_send_and_frame_nothing(server: Served) -> None:
    url = f"{server.url}/{API}/experiments/create"
    headers = {"Origin": "http://evil.com"}
    answer = requests.post(url, json={"name": "evil"}, headers=headers, timeout=10)
    assert answer.status_code == 403
    assert "evil" not in experiments(server)
    assert requests.get(server.url, timeout=10).headers["X-Frame-Options"] == "DENY"


@slow
def test_nobody_can_have_it_run_commands(server: Served, team: Served) -> None:
    """MLflow's assistant would, told by a model of the asker's choice."""
    for up, auth in ((server, None), (team, as_admin(team))):
        url = f"{up.url}/ajax-api/3.0/mlflow/assistant/config"
        assert requests.get(url, auth=auth, timeout=10).status_code == 404
        assert requests.put(url, json={"providers": {}}, auth=auth, timeout=10).status_code == 404


@slow
def test_only_this_machine_can_reach_it(server: Served) -> None:
    assert listening_at(server.processes()) == {"127.0.0.1"}


@slow
def test_what_could_undo_the_settings_was_not_passed_on(server: Served) -> None:
    for process in server.processes()[1:]:
        settings = process.environ()
        assert settings["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
        assert settings["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
        assert settings["MLFLOW_DISABLE_TELEMETRY"] == "true"


# -- users


@slow
def test_without_a_password_nothing_is_shown(team: Served) -> None:
    for path in ("/", f"/{API}/experiments/search"):
        assert requests.get(team.url + path, timeout=10).status_code == 401
    wrong = (team.said["user"], "wrong")
    assert requests.get(team.url, auth=wrong, timeout=10).status_code == 401
    assert "Default" in experiments(team, as_admin(team))


@slow
def test_a_new_user_sees_only_what_is_theirs(team: Served) -> None:
    theirs = make_experiment(team, "the admin's", as_admin(team))
    user = make_user(team, "ada")
    make_experiment(team, "ada's", user)
    assert experiments(team, user) == {"ada's"}
    assert {"ada's", "the admin's"} <= experiments(team, as_admin(team))
    query = {"experiment_id": theirs}
    url = f"{team.url}/{API}/experiments/get"
    assert requests.get(url, query, auth=user, timeout=10).status_code == 403
    body = {"experiment_ids": [theirs]}
    found = requests.post(f"{team.url}/{API}/runs/search", json=body, auth=user, timeout=10)
    assert found.json().get("runs", []) == []
    url = f"{team.url}/api/2.0/mlflow-artifacts/artifacts"
    assert requests.get(url, {"path": theirs}, auth=user, timeout=10).status_code in (401, 403)


@slow
def test_the_password_is_nowhere_but_on_the_screen(team: Served, team_home: Path) -> None:
    password = team.said["password"]
    assert len(password) >= 20
    for process in team.processes():
        assert password not in " ".join(process.cmdline())
        assert password not in " ".join(process.environ().values())
    kept = [path for path in team_home.rglob("*") if path.is_file()]
    assert {"users.db", "users.key"} <= {path.name for path in kept}
    assert not [path for path in (*kept, team.log) if password.encode() in path.read_bytes()]
    for name in ("users.db", "users.key"):
        assert (team_home / "mlruns" / name).stat().st_mode & 0o077 == 0


@slow
def test_the_password_is_shown_once_and_can_be_made_anew(team: Served, team_home: Path) -> None:
    arguments = ("server", "--home", team_home, "--auth", "--port")
    with served(*arguments, str(free_port())) as again:
        assert again.said["user"] == team.said["user"]
        assert again.said["password"] is None
        assert experiments(again, as_admin(team))
    before = as_admin(team)
    with served(*arguments, str(free_port()), "--new-password") as anew:
        assert experiments(anew, as_admin(anew))
        team.said["password"] = anew.said["password"]  # for the tests after this one
        assert requests.get(anew.url, auth=before, timeout=10).status_code == 401


def shipped_to(server: Served, study: str, home: Path, auth: tuple[str, str] | None = None) -> str:
    """What `hpo run` says of a short study that the server does not take."""
    user, password = auth or ("", "")
    with pytest.MonkeyPatch.context() as patch:
        if auth:
            patch.setenv("MLFLOW_TRACKING_USERNAME", user)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        done = hpo(
            *("run", ROOT / "studies" / "quickstart.yaml", "--home", home, "--json"),
            *("--set", f"tracking.uri={server.url}", "--set", f"study={study}"),
            *("--set", "budget.trials=1", "--set", "train.epochs=1", "--set", "workers=1"),
        )
        assert done.json["replica"]["pending"] > 0
        return hpo("sync", study, "--home", home).err


@slow
def test_another_user_s_study_of_the_same_name_is_said(team: Served, tmp_path: Path) -> None:
    make_experiment(team, "taken", as_admin(team))
    said = shipped_to(team, "taken", tmp_path, make_user(team, "grace"))
    assert "the experiment 'taken' there is somebody else's; ask its owner for EDIT" in said


@slow
def test_files_in_a_folder_of_another_machine_are_said(
    server: Served, home: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings():  # of MLflow's use of SQLAlchemy
        warnings.simplefilter("ignore")
        alone = MlflowClient(f"sqlite:///{home / 'mlruns' / 'mlflow.db'}")
        alone.create_experiment("away", (tmp_path / "not here" / "away").as_uri())
    said = shipped_to(server, "away", tmp_path)
    assert "are in a folder of another machine" in said
    assert not (tmp_path / "not here").exists()


# -- its life


@slow
def test_killed_with_all_its_workers_nothing_of_it_is_left(tmp_path: Path) -> None:
    arguments = ("--home", tmp_path, "--port", str(free_port()), "--workers", "2")
    with served("server", *arguments, end=signal.SIGKILL) as up:  # checks
        assert len(up.processes()) >= 5  # hpo, its keeper, MLflow, uvicorn, 2 workers


@slow
def test_a_store_in_postgresql_keeps_its_password(tmp_path: Path) -> None:
    with postgres.server() as database:
        database.ask_for_password("hpo", SECRET)
        address = database.new_database()
        url = address.replace("postgres@", "hpo:${TEAM_DB}@")
        arguments = ("--home", tmp_path, "--postgres", url, "--port", str(free_port()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TEAM_DB", "of-somebody-else")
            wrong = hpo("server", *arguments)
        assert list(tmp_path.iterdir()) == []
        assert wrong.code == 2
        assert 'password authentication failed for user "hpo"\nset PGPASSWORD' in wrong.err
        with served("server", *arguments, env={"TEAM_DB": SECRET}) as up:
            make_experiment(up, "in postgresql")
            assert "making MLflow's tables" in up.log.read_text()
            for process in up.processes():
                assert SECRET not in " ".join(process.cmdline())
            assert SECRET not in str(up.said) + up.log.read_text()
        with psycopg.connect(address) as connection:
            found = connection.execute("select name from experiments").fetchall()
        assert ("in postgresql",) in found
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


# -- what cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "lets other machines in; add --auth"),
        (("--host", "0.0.0.0", "--allow-host", "*"), "--allow-host *: expected a name"),
        (("--new-password",), "--new-password is for the admin of a server with --auth"),
        (("--postgres", f"postgresql://me:{SECRET}@db/runs"), "set PGPASSWORD"),
        (("--postgres", "mysql://db/runs"), "--postgres: expected postgresql://"),
        (("--postgres", "postgresql://me@db/"), "the database's name is missing"),
        (("--postgres", "postgresql://me:${NO_SUCH_X}@db/x"), "NO_SUCH_X is not set"),
        (("--postgres", "postgresql://db/x", "--sqlite", "y"), "leave one out"),
        (("--sqlite", "."), "--sqlite . is a folder"),
        (("--artifacts", f"s3://me:{SECRET}@bucket"), "--artifacts: there is a password"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_made(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    called = hpo("server", "--home", tmp_path / "home", "--port", str(free_port()), *arguments)
    assert called.code == 2
    assert message in called.err
    assert SECRET not in called.err + called.out
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        called = hpo("server", "--home", tmp_path / "home", "--port", str(port))
    assert called.code == 2
    assert f"port {port} is taken by " in called.err
    assert "--port" in called.err
