"""Passwords in a study file: what stands there is recorded in the study's folder and in MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hpo.spec import sections
from hpo.spec.commands import COMMAND, places
from hpo.tracking.redact import SHORTEST, redact

if TYPE_CHECKING:
    from hpo.spec.study import StudySpec
    from hpo.spec.yaml12 import Path

_NAME = re.compile(
    r"-{0,2}(password|passwd|secret([-_]key)?|((access|auth|hub|api)[-_]?)?token|api[-_]?key)",
    re.IGNORECASE,
)
_HINT = "read it in your code from an environment variable, which workers and commands inherit"


def problems(spec: StudySpec) -> Iterator[tuple[Path, str, str | None]]:
    """Passwords and tokens in the sections, and in the command, which everyone on the machine can
    see besides.
    """
    for name in sections.NAMES:
        for path, value in sections.flat(dict(getattr(spec, name)), (name,)):
            if _is_secret(str(path[-1]), value):
                yield path, _message(value), _HINT
    words = spec.command or ()
    for i, (before, word) in enumerate(zip(("", *words), words, strict=False)):
        option, _, value = word.partition("=")
        if _is_secret(before, word) or _is_secret(option, value):
            yield (COMMAND, i), _message(word), _HINT


def _is_secret(name: str, value: Any) -> bool:
    if not isinstance(value, str) or places(value):
        return False
    is_named_so = bool(_NAME.fullmatch(name)) and len(value) >= SHORTEST
    return is_named_so or redact(value) != value


def _message(value: str) -> str:
    shown = redact(value)
    where = f" in {shown}" if shown != value else ""
    return f"there is a password or a token{where}; what stands in this file is recorded"
