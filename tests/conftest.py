"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from workbench import Workbench


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def another_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workbench]:
    return lambda: Workbench(tmp_path_factory.mktemp("bench"))
