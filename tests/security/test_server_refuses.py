"""``hpo server --auth`` over HTTP: who is refused what."""

from __future__ import annotations

import http.client
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from served import Served, free_port, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of MLflow and what it is made of
]

API = "api/2.0/mlflow"
ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
CANARY = "canary-outside-the-artifacts"
Auth = tuple[str, str] | None


@dataclass(frozen=True)
class Team:
    """A server with an admin's experiment of one run, which `reader` may read.

    Attributes:
        beside: A file beside the artifacts that nobody may have.
    """

    up: Served
    home: Path
    experiment: str
    run: str
    beside: Path

    @property
    def artifacts(self) -> Path:
        return self.home / "mlruns" / "artifacts"

    @property
    def admin(self) -> tuple[str, str]:
        return self.up.said["user"], self.up.said["password"]

    def ask(self, method: str, path: str, auth: Auth, **more: Any) -> requests.Response:
        url = f"{self.up.url}/{path}"
        return requests.request(method, url, auth=auth, timeout=20, **more)


READER = ("reader", "a long enough one")
STRANGER = ("stranger", "a long enough two")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    home = tmp_path_factory.mktemp("team")
    with served("server", "--home", home, "--port", str(free_port()), "--auth") as up:
        admin = (up.said["user"], up.said["password"])

        def ask(path: str, **body: Any) -> Any:
            url = f"{up.url}/api/{path}"
            answer = requests.post(url, json=body, auth=admin, timeout=20)
            answer.raise_for_status()
            return answer.json()

        experiment = ask("2.0/mlflow/experiments/create", name="theirs")["experiment_id"]
        run = ask("2.0/mlflow/runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        for name, password in (READER, STRANGER):
            ask("2.0/mlflow/users/create", username=name, password=password)
        from mlflow.server import get_app_client

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", admin[0])
            patch.setenv("MLFLOW_TRACKING_PASSWORD", admin[1])
            users = get_app_client("basic-auth", tracking_uri=up.url)
            users.grant_user_permission("reader", "experiment", experiment, "READ")
        beside = home / "mlruns" / "beside.txt"
        beside.write_text(CANARY)
        yield Team(up, home, experiment, run, beside)


# -- who


WHO = [None, ("admin", "wrong"), ("admin", ""), ("nobody", "at all here"), ("", "")]


@pytest.mark.parametrize("auth", WHO, ids=str)
@pytest.mark.parametrize(
    "path",
    [
        *("", f"{API}/experiments/search", f"{API}/users/list", ARTIFACTS, "get-artifact"),
        *("graphql", "ajax-api/2.0/mlflow/runs/search"),
    ],
)
def test_without_the_right_password_nothing_is_answered(team: Team, auth: Auth, path: str) -> None:
    for method in ("GET", "POST"):
        answer = team.ask(method, path, auth, json={} if method == "POST" else None)
        assert answer.status_code in (401, 405), (method, answer.text[:200])


def test_a_reader_reads(team: Team) -> None:
    query = {"experiment_id": team.experiment}
    assert team.ask("GET", f"{API}/experiments/get", READER, params=query).status_code == 200
    query = {"run_id": team.run}
    assert team.ask("GET", f"{API}/runs/get", READER, params=query).status_code == 200


def writes(team: Team) -> list[tuple[str, str, dict[str, Any]]]:
    run, experiment = team.run, team.experiment
    return [
        ("POST", f"{API}/runs/create", {"experiment_id": experiment}),
        (
            "POST",
            f"{API}/runs/log-metric",
            {"run_id": run, "key": "a", "value": 1, "timestamp": 1},
        ),
        ("POST", f"{API}/runs/log-batch", {"run_id": run, "params": [{"key": "a", "value": "b"}]}),
        ("POST", f"{API}/runs/set-tag", {"run_id": run, "key": "a", "value": "b"}),
        ("POST", f"{API}/runs/update", {"run_id": run, "status": "FAILED"}),
        ("POST", f"{API}/runs/delete", {"run_id": run}),
        ("POST", f"{API}/experiments/update", {"experiment_id": experiment, "new_name": "x"}),
        ("POST", f"{API}/experiments/delete", {"experiment_id": experiment}),
        ("PATCH", f"{API}/users/update-admin", {"username": "reader", "is_admin": True}),
        ("PATCH", f"{API}/users/update-password", {"username": "admin", "password": "x" * 12}),
        ("POST", f"{API}/users/create", {"username": "more", "password": "x" * 12}),
        ("DELETE", f"{API}/users/delete", {"username": "admin"}),
    ]


@pytest.mark.parametrize("who", [READER, STRANGER], ids=lambda who: who[0])
def test_who_may_read_or_nothing_cannot_write(team: Team, who: tuple[str, str]) -> None:
    before = team.ask("GET", f"{API}/runs/get", team.admin, params={"run_id": team.run}).json()
    for method, path, body in writes(team):
        answer = team.ask(method, path, who, json=body)
        assert answer.status_code == 403, (path, answer.status_code, answer.text[:200])
    place = f"{ARTIFACTS}/{team.experiment}/{team.run}/artifacts/new.txt"
    assert team.ask("PUT", place, who, data=b"new").status_code == 403
    assert not list(team.home.rglob("new.txt"))
    after = team.ask("GET", f"{API}/runs/get", team.admin, params={"run_id": team.run}).json()
    assert after == before
    assert team.ask("GET", f"{API}/users/list", team.admin).status_code == 200


def test_who_was_given_nothing_sees_nothing(team: Team) -> None:
    query = {"experiment_id": team.experiment}
    assert team.ask("GET", f"{API}/experiments/get", STRANGER, params=query).status_code == 403
    answer = team.ask("GET", f"{API}/runs/get", STRANGER, params={"run_id": team.run})
    assert answer.status_code in (403, 404)
    for kind, body in (
        ("experiments", {"max_results": 100}),
        ("runs", {"experiment_ids": [team.experiment]}),
    ):
        found = team.ask("POST", f"{API}/{kind}/search", STRANGER, json=body)
        assert found.json().get(kind, []) == []


# -- where


UP = ("..", "%2e%2e", "%252e%252e", ".%2e", "%c0%ae%c0%ae")


def raw(team: Team, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """A request whose path nobody has made pretty."""
    import base64

    token = base64.b64encode(":".join(team.admin).encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", team.up.port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {
        "Host": f"127.0.0.1:{team.up.port}",
        "Authorization": f"Basic {token}",
        "Content-Length": str(len(body or b"")),
    }.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.mark.parametrize("up", UP)
def test_a_path_cannot_leave_the_artifacts(team: Team, up: str) -> None:
    """Asked by the admin, who may have everything that is there."""
    for slash in ("/", "%2f", "%5c"):
        of_experiment, of_run = (  # from an experiment's files, and from a run's
            f"{team.experiment}{slash}{slash.join([up] * deep)}{slash}beside.txt"
            for deep in (2, 5)
        )
        for path in (
            f"/{ARTIFACTS}/{of_experiment}",
            f"/{ARTIFACTS}?path={of_experiment}",
            f"/get-artifact?run_uuid={team.run}&path={of_run}",
            f"/{API}/artifacts/list?run_id={team.run}&path={of_run}",
        ):
            status, content = raw(team, "GET", path)
            assert CANARY.encode() not in content, path
            assert b"beside.txt" not in content or status >= 400, path
        raw(team, "PUT", f"/{ARTIFACTS}/{of_experiment.replace('beside', 'written')}", b"x")
        raw(team, "DELETE", f"/{ARTIFACTS}/{of_experiment}")
    written = [path for path in team.home.parent.rglob("written.txt")]
    assert [path for path in written if not path.is_relative_to(team.artifacts)] == []
    assert team.beside.read_text() == CANARY


LOCATIONS = ["/etc", "file://{home}", "http://169.254.169.254/x"]


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("key", ["artifact_location", "artifactLocation"])
@pytest.mark.parametrize("way", ["json", "a json string", "//"])
def test_nobody_chooses_where_the_files_of_an_experiment_are(
    team: Team, location: str, key: str, way: str
) -> None:
    """Any folder of this machine could be read and written that way."""
    where = location.format(home=team.home / "mlruns")
    body: Any = {"name": f"at {where} {key} {way}", key: where}
    path = f"{API}/experiments/create"
    if way == "a json string":
        body = json.dumps(body)
    elif way == "//":
        path = path.replace("/", "//")
    for auth in (STRANGER, team.admin):
        made = team.ask("POST", path, auth, json=body, allow_redirects=True)
        assert made.status_code in (400, 401, 403, 404), made.text
    found = team.ask("POST", f"{API}/experiments/search", team.admin, json={"max_results": 1000})
    assert not [e for e in found.json()["experiments"] if e["name"].startswith("at ")]


@pytest.mark.parametrize("source", ["/etc", "file:///etc", "{home}", "http://169.254.169.254/x"])
def test_nor_where_a_model_is_taken_from(team: Team, source: str) -> None:
    name = f"model of {source.strip('{}').replace('/', '-').replace(':', '-')}"
    where = source.format(home=team.home / "mlruns")
    made = team.ask("POST", f"{API}/registered-models/create", STRANGER, json={"name": name})
    assert made.status_code == 200, made.text
    body = {"name": name, "source": where}
    made = team.ask("POST", f"{API}/model-versions/create", STRANGER, json=body)
    assert made.status_code in (400, 403), made.text
    query = {"name": name, "version": "1", "path": "passwd"}
    got = team.ask("GET", "model-versions/get-artifact", STRANGER, params=query)
    assert got.status_code in (400, 403, 404)


# -- from where


@pytest.mark.parametrize(
    "origin", ["http://evil.com", "https://evil.com", "null", "http://10.evil.com"]
)
def test_pages_of_other_sites_cannot_use_a_password_that_a_browser_keeps(
    team: Team, origin: str
) -> None:
    body = {"name": f"from {origin}"}
    headers = {"Origin": origin}
    answer = team.ask("POST", f"{API}/experiments/create", team.admin, json=body, headers=headers)
    assert answer.status_code == 403
    asked = {"Access-Control-Request-Method": "POST", **headers}
    answer = team.ask("OPTIONS", f"{API}/experiments/create", None, headers=asked)
    assert answer.headers.get("Access-Control-Allow-Origin") not in ("*", origin)


# -- files


def test_what_the_server_made_is_for_its_user_alone(team: Team) -> None:
    upload = f"{ARTIFACTS}/{team.experiment}/{team.run}/artifacts/some.txt"
    assert team.ask("PUT", upload, team.admin, data=b"some").status_code == 200
    kept = [path for path in (team.home / "mlruns").rglob("*") if path != team.beside]
    assert {"mlflow.db", "users.db", "users.key", "some.txt"} <= {path.name for path in kept}
    others = [path for path in kept if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert [path for path in others if path.is_file()] == []
    assert os.stat(team.home / "mlruns" / "users.db").st_uid == os.getuid()
