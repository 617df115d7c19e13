"""The kill campaign at a size for CI: `kills.py` itself compares, and says what differs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=580,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_row_1_row_3_whatever_is_killed_the_study_is_whole() -> None:
    run("50", "--seed", os.environ.get("HPO_CAMPAIGN_SEED", "0"))


def test_row_1_row_3_row_4_killed_at_each_narrow_place_the_study_is_whole() -> None:
    run("points", "--once")  # `make campaign`: at a later pass, too


def test_row_1_row_3_row_24_row_26_on_a_ray_cluster_in_postgresql_the_study_is_whole() -> None:
    run("20", "--ray", "--seed", os.environ.get("HPO_CAMPAIGN_SEED", "0"))
