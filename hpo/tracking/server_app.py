"""MLflow's server without what acts for whoever asks: an app of MLflow's (``--app-name``).

MLflow's own app also has an assistant, which runs shell commands and edits files here, told by a
model of the asker's choice; everybody who reaches the loopback interface may set it up so, and,
with users, every user. Its gateway, webhooks, scorers and search for issues let this machine send
requests for others. A tracking server needs none of them.

pyproject.toml makes the two apps known to MLflow; ``mlflow server`` starts them with uvicorn.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN, WITH_USERS = "hpo", "hpo-users"  # as pyproject.toml calls them

CLOSED = re.compile(
    r"/+((ajax-)?api/[0-9.]+/(mlflow/)?)?"
    r"(assistant|demo|gateway|gateway-proxy|genai|issues|jobs|prompt-optimization|scorers?|webhooks)"
    r"(/|$)"
)


class Closed:
    """An app in which what `CLOSED` matches is not found."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and CLOSED.match(scope["path"]):
            from starlette.responses import PlainTextResponse

            answer = PlainTextResponse("hpo server has this part of MLflow switched off", 404)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def open_app() -> Closed:
    """For everyone who reaches it."""
    from mlflow.server.fastapi_app import app

    return Closed(app)


def app_with_users() -> Closed:
    """For users with a password."""
    from mlflow.server.auth import create_app

    app: Any = create_app()
    return Closed(app)
