"""``make audit``: what it makes of pip-audit's answer, in pip-audit's own format."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 11, 26)


@pytest.fixture(scope="module")
def audit() -> Any:
    found = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def report(vulnerable: bool, answered: bool = True) -> Any:
    """As pip-audit writes it of two packages."""
    from packaging.version import Version
    from pip_audit._format import JsonFormat
    from pip_audit._service.interface import (
        ResolvedDependency,
        SkippedDependency,
        VulnerabilityResult,
    )

    fixed = [Version("4.2")]
    found = VulnerabilityResult("PYSEC-2026-1", "It is.", fixed, {"CVE-2026-1"}, None)
    result: dict[Any, Any] = {ResolvedDependency("b", Version("1.0")): []}
    if answered:
        result[ResolvedDependency("a", Version("4.1"))] = [found] if vulnerable else []
    else:
        result[SkippedDependency("a", "not found")] = []
    return json.loads(JsonFormat(output_desc=False, output_aliases=True).format(result, []))


def test_a_known_vulnerability_fails(audit: Any) -> None:
    status, lines = audit.judge(report(vulnerable=True), [], TODAY)
    assert status == 1
    assert lines[0] == "a 4.1: PYSEC-2026-1 = CVE-2026-1, fixed in 4.2"
    assert audit.judge(report(vulnerable=False), [], TODAY)[0] == 0


def test_an_exception_ends_on_its_day(audit: Any) -> None:
    exceptions = [{"id": "CVE-2026-1", "reason": "not used", "until": TODAY}]
    assert audit.judge(report(vulnerable=True), exceptions, TODAY)[0] == 0
    status, lines = audit.judge(report(vulnerable=True), exceptions, date(2026, 11, 27))
    assert status == 1
    assert "its exception ended on 2026-11-26" in lines[0]


def test_without_an_answer_nothing_is_known(audit: Any) -> None:
    status, lines = audit.judge(report(vulnerable=False, answered=False), [], TODAY)
    assert (status, lines) == (0, ["audit skipped: no answer about 1 of 2"])


def test_every_exception_has_a_reason_and_an_end(audit: Any) -> None:
    for each in tomllib.loads(audit.EXCEPTIONS.read_text()).get("exception", []):
        assert each["id"]
        assert each["reason"]
        assert isinstance(each["until"], date)


def test_no_older_mlflow_is_accepted_than_the_first_without_known_holes() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    floors = dict(
        line.partition(">=")[::2] for line in content["project"]["dependencies"] if ">=" in line
    )
    assert floors["mlflow[auth]"].startswith("3.17.2")
