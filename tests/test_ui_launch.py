"""``hpo ui``: Streamlit with the app, started as a user would, and asked from outside."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from served import Served, free_port, listening_at, served
from test_cli import hpo
from workbench import Workbench

from app.charts.style import PALETTE
from hpo import ui

SECRET = "canary-7f3a"
URI = f"http://me:{SECRET}@127.0.0.1:9"  # nobody listens

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[Served]:
    env = {"MLFLOW_TRACKING_URI": URI, "STREAMLIT_SERVER_ADDRESS": "0.0.0.0"}
    arguments = ("ui", "a study", "--home", home, "--port", str(free_port()), "--no-browser")
    with served(*arguments, env=env, end=signal.SIGINT) as up:
        yield up


def session(app: Served, **headers: str) -> int:
    """The status of the answer to a browser that opens a session; 101: it is open."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
    connection.putrequest("GET", "/_stcore/stream", skip_host=True)
    handshake = {
        "Host": f"127.0.0.1:{app.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    for name, value in (handshake | headers).items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


@slow
def test_it_opens_the_page_of_a_study(app: Served) -> None:
    assert app.url == f"http://127.0.0.1:{app.port}/study?study=a%20study"
    assert requests.get(app.url, timeout=10).status_code == 200


@slow
def test_a_session_opens_for_its_own_names_only(app: Served) -> None:
    for own in (f"127.0.0.1:{app.port}", f"localhost:{app.port}"):
        assert session(app, Host=own, Origin=f"http://{own}") == 101
    for foreign in ("evil.com", "10.evil.com", f"10.evil.com:{app.port}", "192.168.1.1"):
        assert session(app, Host=foreign, Origin=f"http://{foreign}") == 403
    assert session(app, Origin="http://evil.com") == 403


@slow
def test_only_this_machine_can_reach_it(app: Served) -> None:
    assert listening_at(app.processes()) == {"127.0.0.1"}


@slow
def test_the_address_of_mlflow_reaches_the_app_and_no_command_line(
    app: Served, home: Path
) -> None:
    for process in app.processes():
        assert SECRET not in " ".join(process.cmdline())
    assert SECRET not in app.log.read_text()
    given = app.processes()[-1].environ()
    assert given[ui.URI_VARIABLE] == URI
    assert given[ui.HOME_VARIABLE] == str(home)


@slow
def test_without_a_port_the_next_free_one_is_used(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # something listens there already: just as well
            stack.enter_context(socket.create_server(("127.0.0.1", ui.PORT)))
        up = stack.enter_context(served("ui", "--home", tmp_path, "--no-browser"))
        assert up.port > ui.PORT
        assert f"port {ui.PORT} is taken; using {up.port}" in up.log.read_text()
        assert up.url == f"http://127.0.0.1:{up.port}"
        assert ui.URI_VARIABLE not in up.processes()[-1].environ()


def test_a_port_that_was_asked_for_and_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        called = hpo("ui", "--home", tmp_path, "--port", str(port), "--no-browser")
    assert called.code == 2
    assert f"port {port} is taken" in called.err


def test_an_unknown_study_is_said(bench: Workbench) -> None:
    called = hpo("ui", "nowhere", "--home", bench.folder, "--no-browser")
    assert called.code == 2
    assert "no study 'nowhere'" in called.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "the app has no users; add --no-auth"),
        (("--allow-host", "*"), "expected a name"),
        (("--home", "nowhere"), "there is no such folder"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    called = hpo("ui", "--home", tmp_path, "--port", str(free_port()), "--no-browser", *arguments)
    assert called.code == 2
    assert message in called.err


def test_streamlit_s_own_charts_have_the_app_s_colours() -> None:
    assert ui.COLORS == PALETTE
