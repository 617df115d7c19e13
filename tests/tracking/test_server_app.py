"""What `hpo server` switches off in MLflow's server."""

from __future__ import annotations

import warnings

import pytest

from hpo.tracking.server_app import CLOSED


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
