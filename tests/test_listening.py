"""Where servers listen, and by which names they may be called."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hpo.errors import UserError
from hpo.listening import Listening


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "local", "url", "headers"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:5000", ["127.0.0.1:5000", "localhost:5000"]),
        ("localhost", True, "http://127.0.0.1:5000", ["localhost:5000"]),
        ("::1", True, "http://[::1]:5000", ["[::1]:5000", "localhost:5000"]),
        ("0.0.0.0", False, None, ["127.0.0.1:5000", "localhost:5000", "0.0.0.0:5000"]),
        ("192.0.2.7", False, None, ["192.0.2.7:5000"]),
    ],
)
def test_an_address_has_its_own_names_and_no_others(
    host: str, local: bool, url: str | None, headers: list[str]
) -> None:
    listening = Listening.at(host, 5000)
    assert listening.is_local is local
    assert listening.url == url or not local
    assert set(headers) <= set(listening.host_headers)
    assert not any("*" in name for name in (*listening.host_headers, *listening.origins))
    if local:
        assert all(
            name.endswith(":5000") for name in listening.host_headers if name != "localhost"
        )
    else:
        assert f"{socket.gethostname().lower()}:5000" in listening.host_headers


def test_the_name_of_a_proxy_is_answered_to_with_and_without_the_port() -> None:
    listening = Listening.at("127.0.0.1", 5000, ["MLflow.example.com"])
    assert {"mlflow.example.com", "mlflow.example.com:5000"} <= set(listening.host_headers)
    assert {"https://mlflow.example.com", "http://mlflow.example.com"} <= set(listening.origins)
    assert "mlflow.example.com" in listening.hosts
    other = Listening.at("127.0.0.1", 5000, ["mlflow.example.com:8443"])
    assert "mlflow.example.com:8443" in other.host_headers
    assert "https://mlflow.example.com:8443" in other.origins


@pytest.mark.parametrize(
    "name", ["*", "*.example.com", "http://example.com", "a,b", "a b", "", "a/b", "10.*"]
)
def test_only_names_are_allowed(name: str) -> None:
    with pytest.raises(UserError, match="--allow-host"):
        Listening.at("127.0.0.1", 5000, [name])


def test_an_unknown_host_is_said_so() -> None:
    with pytest.raises(UserError, match="--host no-such-host.invalid"):
        Listening.at("no-such-host.invalid", 5000)


def test_a_taken_port_is_said_so_with_another(taken: int) -> None:
    with pytest.raises(UserError, match=f"port {taken} is taken.*--port") as error:
        Listening.at("127.0.0.1", taken).check_free()
    assert f"--port {taken}" not in str(error.value)


def test_the_next_free_port_is_found(taken: int) -> None:
    found = Listening.at("127.0.0.1", taken).next_free()
    assert found.port > taken
    found.check_free()


def test_another_machine_s_address_cannot_be_listened_at() -> None:
    with pytest.raises(UserError, match="cannot listen at 192.0.2.7"):
        Listening.at("192.0.2.7", 5000).check_free()
