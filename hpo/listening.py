"""Where a server of ours listens, by which names it may be called, and whether the port is free.

Names are exact. A web page can give a name of its own to this machine's address (DNS rebinding)
and then talk to a server here through the browser of somebody who can reach it; a server that
answers only to names it knows does not fall for that.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil

from hpo.errors import UserError

TRIED_PORTS = 100
_NAME = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9]([a-z0-9.-]*[a-z0-9])?)(:[0-9]{1,5})?", re.IGNORECASE)


@dataclass(frozen=True)
class Listening:
    """An address of this machine and the names people use for it.

    Attributes:
        host: An IP address of this machine; ``0.0.0.0`` or ``::`` for all of them.
        names: What else it is called by people, as ``name`` or ``name:port``.
    """

    host: str
    port: int
    names: tuple[str, ...] = ()

    @classmethod
    def at(cls, host: str, port: int, names: Sequence[str] = ()) -> Listening:
        """From what a person wrote.

        Raises:
            UserError: No such host, or not a name.
        """
        for name in names:
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"--allow-host {name}: expected a name as it stands in the address bar, "
                    "e.g. mlflow.example.com or mlflow.example.com:8443, without http:// and *"
                )
        if _is_address(host):
            return cls(host, port, tuple(names))
        try:
            found = "127.0.0.1" if host == "localhost" else socket.gethostbyname(host)
        except OSError as error:
            raise UserError(f"--host {host}: {error.strerror or error}") from None
        return cls(found, port, (*dict.fromkeys((host, *names)),))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def to_connect(self) -> str:
        """The IP address at which this machine reaches it."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        """What a person opens: on this machine, or, if others can reach it, by its name."""
        if self.is_local:
            return f"http://{_bracketed(self.host)}:{self.port}"
        name = self.names[0] if self.names else socket.gethostname()
        return f"http://{name}" if _has_port(name) else f"http://{name}:{self.port}"

    @property
    def hosts(self) -> list[str]:
        """Every name it may be called by, without ports; IPv6 addresses in brackets."""
        found = [_without_port(name) for name in self.names]
        everywhere = ipaddress.ip_address(self.host).is_unspecified
        if self.is_local or everywhere:
            found += [_bracketed(self.to_connect), "localhost"]
        if everywhere:
            found += _own_addresses()
        if not self.is_local:
            found += [_bracketed(self.host), socket.gethostname()]
        return [*dict.fromkeys(name.lower() for name in found)]

    @property
    def host_headers(self) -> list[str]:
        """What may stand in a request's ``Host``: the hosts with the port, names without, too.

        A proxy before the server passes names on without the server's port.
        """
        names = [name.lower() for name in self.names]
        bare = self.hosts if self.port == 80 else []
        return [*dict.fromkeys([*(f"{host}:{self.port}" for host in self.hosts), *names, *bare])]

    @property
    def origins(self) -> list[str]:
        """Which pages may send requests: its own. A proxy may have given them https."""
        own = [f"http://{host}" for host in self.host_headers]
        return [*own, *(f"https://{name.lower()}" for name in self.names)]

    def check_free(self) -> None:
        """Try to listen there.

        Raises:
            UserError: Something else does, or nobody may.
        """
        error = _bind(self.host, self.port)
        if error is None:
            return
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {self.port} is taken{_by_whom(self.port)}; stop that, or choose another, "
                f"e.g. --port {self.next_free().port}"
            )
        if error.errno == errno.EACCES:
            raise UserError(f"port {self.port} is for root only; choose one above 1023: --port")
        raise UserError(f"cannot listen at {self.host}, port {self.port}: {error.strerror}")

    def next_free(self) -> Listening:
        """The same with the first free port from this one on.

        Raises:
            UserError: There is none among the next `TRIED_PORTS`.
        """
        for port in range(self.port, min(self.port + TRIED_PORTS, 65536)):
            if _bind(self.host, port) is None:
                return replace(self, port=port)
        raise UserError(
            f"no port from {self.port} to {port} is free at {self.host}; choose one: --port"
        )


def _bind(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _by_whom(port: int) -> str:
    """`` by NAME (pid 123)`` where the system says so."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.pid and connection.laddr.port == port:
                name = psutil.Process(connection.pid).name()
                return f" by {name} (pid {connection.pid})"
    except (psutil.Error, OSError):  # another user's
        pass
    return ""


def _own_addresses() -> list[str]:
    families = {socket.AF_INET, socket.AF_INET6}
    found = psutil.net_if_addrs().values()
    addresses = [a.address for one in found for a in one if a.family in families]
    return [_bracketed(a) for a in addresses if "%" not in a]  # link-local: in no browser


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _has_port(name: str) -> bool:
    return re.search(r":\d+$", name) is not None


def _without_port(name: str) -> str:
    return re.sub(r":\d+$", "", name)
