"""``hpo ui`` over HTTP: what is no page of it is refused."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, free_port, served

pytestmark = pytest.mark.slow

CANARY = "canary-beside-the-app"
# What Streamlit serves files under.
PREFIXES = ("", "media", "app/static", "static", "component/hpo.plot", "_stcore/bidi-components")
UP = ("..", "%2e%2e", "%252e%252e", "..%5c", "....//..", ".%2e", "%c0%ae%c0%ae")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "secret.txt").write_text(CANARY)
    return home


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[Served]:
    with served("ui", "--home", home, "--port", str(free_port()), "--no-browser") as up:
        yield up


def ask(app: Served, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """A request whose path nobody has made pretty."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=20)
    connection.putrequest(method, path)
    connection.putheader("Content-Length", str(len(body)))
    try:
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except ConnectionError:  # it hung up before it had read all
        return 0, b""
    finally:
        connection.close()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_path_cannot_leave_what_is_served(app: Served, home: Path, prefix: str) -> None:
    for up in UP:
        for slash in ("/", "%2f", "%5c"):
            for deep in (1, 4, 12):
                climb = slash.join([up] * deep)
                for target in (f"{home}/secret.txt", "/etc/passwd", "/secret.txt"):
                    _, content = ask(app, "GET", f"/{prefix}/{climb}{target}")
                    assert CANARY.encode() not in content
                    assert b"root:" not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_is_taken_from_who_has_no_session(app: Served, method: str) -> None:
    from app.plot import PLOTLY_JS

    for path in (PLOTLY_JS, "/", "/_stcore/upload_file/session/file", "/media/x", "/study"):
        status, _ = ask(app, method, path, b"x" * 5 * MEGABYTE)
        assert status in (0, 400, 401, 403, 404, 405, 413), (path, status)


def test_the_script_of_the_charts_is_what_it_is_asked_for_and_no_more(app: Served) -> None:
    from app.plot import PLOTLY_JS

    status, content = ask(app, "GET", PLOTLY_JS)
    assert status == 200
    assert len(content) > MEGABYTE
    assert ask(app, "GET", f"{PLOTLY_JS}/../../etc/passwd")[1] != content
