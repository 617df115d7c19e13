"""MLflow's server without what acts for whoever asks: an app of MLflow's (``--app-name``).

MLflow's own app also has an assistant, which runs shell commands and edits files here, told by a
model of the asker's choice; everybody who reaches the loopback interface may set it up so, and,
with users, every user. Its gateway, webhooks, scorers and search for issues let this machine send
requests for others. A tracking server needs none of them.

Nor does who makes an experiment say where its files lie: that could be below any folder of the
machine, and, by a link that another user has made there, be any file that the user who runs the
server can read and write. They lie where the server was told to keep them.

pyproject.toml makes the two apps known to MLflow; ``mlflow server`` starts them with uvicorn.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN, WITH_USERS = "hpo", "hpo-users"  # as pyproject.toml calls them

CLOSED = re.compile(
    r"/+((ajax-)?api/[0-9.]+/(mlflow/)?)?"
    r"(assistant|demo|gateway|gateway-proxy|genai|issues|jobs|prompt-optimization|scorers?|webhooks)"
    r"(/|$)"
)
MAKES_EXPERIMENT = re.compile(r"/+(ajax-)?api/+[0-9.]+/+mlflow/+experiments/+create/*")
MOST_BYTES = 1_000_000  # of a request to make one


class Closed:
    """An app in which what `CLOSED` matches is not found, and experiments lie where all do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif CLOSED.match(scope["path"]):
            from starlette.responses import PlainTextResponse

            answer = PlainTextResponse("hpo server has this part of MLflow switched off", 404)
            await answer(scope, receive, send)
        elif scope["type"] == "http" and MAKES_EXPERIMENT.fullmatch(scope["path"]):
            await self._make_experiment(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _make_experiment(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the asker is gone
            body += message.get("body", b"")
            if len(body) > MOST_BYTES or not message.get("more_body"):
                break
        if len(body) > MOST_BYTES or names_a_place(body):
            from starlette.responses import JSONResponse

            why = "artifact_location: hpo server keeps all files where --artifacts says"
            said = {"error_code": "INVALID_PARAMETER_VALUE", "message": why}
            await JSONResponse(said, 400)(scope, receive, send)
            return
        whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def once() -> Message:
            nonlocal whole
            given, whole = whole, None
            return given or await receive()

        await self._app(scope, once, send)


def names_a_place(body: bytes) -> bool:
    """Whether a request to make an experiment says where its files are to lie, or is no JSON."""
    try:
        said = json.loads(body or b"{}")
        if isinstance(said, str):  # as MLflow's clients of old send it
            said = json.loads(said)
    except (ValueError, RecursionError):
        return True
    names = ("artifact_location", "artifactLocation")
    return isinstance(said, dict) and any(said.get(name) for name in names)


def open_app() -> Closed:
    """For everyone who reaches it."""
    from mlflow.server.fastapi_app import app

    return Closed(app)


def app_with_users() -> Closed:
    """For users with a password."""
    from mlflow.server.auth import create_app

    app: Any = create_app()
    return Closed(app)
