"""SECURITY.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "SECURITY.md"


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:\w+/)*test_\w+(?:\.py)?…?)`", PAGE.read_text())
    assert len(named) > 20
    paths = list(TESTS.rglob("test_*.py"))
    files = {path.name for path in paths} | {f"{path.parent.name}/{path.name}" for path in paths}
    found = {each for path in paths for each in re.findall(r"def (test_\w+)", path.read_text())}
    missing = [
        name
        for name in named
        if name.removeprefix("tests/") not in files
        and not (name.endswith("…") and any(each.startswith(name[:-1]) for each in found))
        and name not in found
    ]
    assert missing == []
