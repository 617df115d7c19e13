"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from workbench import Workbench


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Where MLflow is says each test. MLflow itself leaves the variable behind when it is told a
    tracking URI, and what a later test starts would record there."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def another_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workbench]:
    return lambda: Workbench(tmp_path_factory.mktemp("bench"))
