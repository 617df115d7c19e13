"""A proxy on loopback that passes requests on to a server, except where it is told otherwise."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# What becomes of a request: passed on ("ok"), after some time or not at all.
FAULTS = ("500", "429", "lost request", "lost answer", "late")


class FaultyProxy:
    """Passes requests on to `uri`.

    Args:
        uri: Of the server.
        delay_s: How long each request takes more.
        late_s: How long after it came a ``late`` request is passed on.

    Attributes:
        fault: Which of `FAULTS` becomes of a request, told as ``POST /path``; or "ok".
    """

    def __init__(self, uri: str, delay_s: float = 0.0, late_s: float = 0.0) -> None:
        self.fault: Callable[[str], str] = lambda _asked: "ok"
        self.delay_s = delay_s
        self._late_s = late_s
        self._late: list[threading.Thread] = []
        self._server = urlsplit(uri).netloc
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._listener.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._listener.server_port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,))
        self._thread.start()

    def wait_for_the_late(self) -> None:
        """Wait until all that was passed on late has arrived."""
        for thread in self._late:
            thread.join()

    def close(self) -> None:
        self.wait_for_the_late()
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes] | None:
        """What is answered; None: nothing is, and the connection is closed."""
        asked = f"{method} {urlsplit(path).path}"
        with self._lock:
            fault = self.fault(asked)
        time.sleep(self.delay_s)
        if fault in ("500", "429"):
            return int(fault), {"Content-Type": "text/html"}, b"<h1>not now</h1>"
        if fault == "lost request":
            return None
        if fault == "late":
            thread = threading.Thread(
                target=self._pass_on_late, args=(method, path, headers, body)
            )
            thread.start()
            self._late.append(thread)
            time.sleep(self._late_s)  # longer than is waited for
            return None
        answer = self._pass_on(method, path, headers, body)
        return None if fault == "lost answer" else answer

    def _pass_on_late(self, *request: object) -> None:
        time.sleep(self._late_s)
        self._pass_on(*request)  # type: ignore[arg-type]

    def _pass_on(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes] | None:
        connection = http.client.HTTPConnection(self._server, timeout=60)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, body, headers | {"Host": self._server})
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            except (OSError, http.client.HTTPException):  # the server is away
                return None


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.proxy.answer(self.command, self.path, dict(self.headers), body)
        self.close_connection = True
        if answer is None:
            return
        status, headers, content = answer
        with contextlib.suppress(OSError):  # the asker has given up
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""
