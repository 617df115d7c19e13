"""Names that can be recorded: MLflow refuses others, and only when a trial ends."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from hpo.errors import Problem
from hpo.spec.document import Document
from hpo.spec.explain import shown
from hpo.spec.sections import flat
from hpo.spec.yaml12 import Path

LONGEST = 240  # MLflow's 250, less what tracking puts in front
_KEY = re.compile(r"[\w\-: ]+")
_METRIC = re.compile(r"[\w\-. :/]+")


def is_metric(name: str) -> bool:
    """Whether `name` can be a metric's."""
    return (
        bool(_METRIC.fullmatch(name))
        and len(name) <= LONGEST
        and posixpath.normpath(name) == name
        and not name.startswith(("/", ".."))
    )


def wrong_with(path: str) -> str | None:
    """Why a dotted path cannot be a parameter's name, or None."""
    if len(path) > LONGEST:
        return f"the name is longer than {LONGEST} characters"
    bad = next((key for key in path.split(".") if not _KEY.fullmatch(key)), None)
    if bad is None:
        return None
    return f"expected letters, digits, '_', '-', ' ' or ':' as a name; got {shown(bad)}"


def check(document: Document, section: str, content: Mapping[str, Any]) -> list[Problem]:
    """Keys and values of a section of the user's own trainer that could not be recorded."""
    problems = []
    seen: set[Path] = set()
    for path, value in flat(content, (section,)):
        for depth in range(1, len(path)):
            above, key = path[: depth + 1], path[depth]
            if above in seen or isinstance(key, int):
                continue
            seen.add(above)
            message = wrong_with(".".join(map(str, above)))
            if "." in key:
                message = f"a name has no dots, which stand between names; got {shown(key)}"
            if message:
                problems.append(document.problem(above, message, at_key=True))
                break
        if isinstance(value, float) and value != value:
            problems.append(document.problem(path, "expected a number; got .nan"))
    return problems
