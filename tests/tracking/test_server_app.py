"""What `hpo server` switches off in MLflow's server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from hpo.tracking.server_app import CLOSED

# Below ``/api/N.0/mlflow/``: what only reads and writes the store.
STORE = (
    "artifacts|datasets|experiments|get-online-trace-details|get-trace-artifact|label-schemas|"
    "logged-models|mcp-servers|metrics|model-versions|registered-models|review-queues|runs|"
    "server-info|traces|ui-telemetry|unified-traces|upload-artifact|workspaces|"
    "permissions|roles|users"  # of the server with users
)
NEEDED = re.compile(
    rf"/(ajax-)?api/[0-9.]+/?mlflow/({STORE})(/|$)"
    "|/(ajax-)?api/2.0/mlflow-artifacts/(artifacts|mpu|presigned)(/|$)"
    "|/(build|get-artifact|graphql|health|login|logout|model-versions/get-artifact|signup|"
    "static-files|v1/traces|version)(/|$)|/?$"
)

ROUTES = """
import sys, warnings
warnings.simplefilter("ignore")
def walk(routes, prefix=""):
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            walk(inner.routes, prefix + route.include_context.prefix)
        else:
            print(prefix + route.path)
            app = getattr(getattr(route, "app", None), "app", None)
            for rule in app.url_map.iter_rules() if app else ():
                print(rule.rule)
if sys.argv[1] == "open":
    from mlflow.server.fastapi_app import app
else:
    from mlflow.server.auth import create_app
    app = create_app()
walk(app.routes)
"""


def paths_of(router: str) -> list[str]:
    """The paths of one of MLflow's routers."""
    import importlib

    with warnings.catch_warnings():  # of MLflow's own imports
        warnings.simplefilter("ignore")
        module, _, name = router.partition(":")
        found = getattr(importlib.import_module(module), name)
    return [route.path for route in found.routes]


@pytest.mark.slow
@pytest.mark.parametrize(
    "router",
    [
        "mlflow.server.assistant.api:assistant_router",
        "mlflow.server.gateway_api:gateway_router",
        "mlflow.server.job_api:job_api_router",
    ],
)
def test_all_of_what_acts_for_others_is_closed(router: str) -> None:
    paths = paths_of(router)
    assert paths
    assert [path for path in paths if not CLOSED.match(path)] == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow/webhooks",
        "/api/2.0/mlflow/webhooks/1/test",
        "/ajax-api/2.0/mlflow/gateway-proxy",
        "/ajax-api/3.0/mlflow/scorer/invoke",
        "/api/3.0/mlflow/scorers/register",
        "/api/3.0/mlflow/prompt-optimization/jobs",
        "//ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api/3.0/mlflow/issues/invoke",
    ],
)
def test_the_rest_of_it_too(path: str) -> None:
    assert CLOSED.match(path)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/get-artifact",
        "/api/2.0/mlflow/runs/search",
        "/api/2.0/mlflow/experiments/get-by-name",
        "/api/2.0/mlflow-artifacts/artifacts/1/assistant/gateway",
        "/api/2.0/mlflow/users/create",
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        "/static-files/jobs/main.js",
    ],
)
def test_tracking_stays_open(path: str) -> None:
    assert not CLOSED.match(path)


@pytest.mark.slow
@pytest.mark.parametrize("app", ["open", "users"])
def test_mlflow_serves_nothing_that_is_neither_needed_nor_closed(app: str, tmp_path: Path) -> None:
    """A new release's new routes are to be looked at: closed, or said to be needed."""
    env = {
        "MLFLOW_AUTH_ADMIN_PASSWORD": "for-this-test",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    ran = subprocess.run(
        [sys.executable, "-c", ROUTES, app],
        cwd=tmp_path,  # where the database of users comes to lie
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    paths = set(ran.stdout.split("\n")) - {""}
    assert len(paths) > 200, ran.stderr
    assert sorted(p for p in paths if not CLOSED.match(p) and not NEEDED.match(p)) == []
