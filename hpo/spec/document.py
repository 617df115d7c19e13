"""A study file with the overrides of the command line: its values, and where each comes from.

Keys are dotted: ``search.train.lr.low`` is key ``low`` of key ``train.lr`` of key ``search``,
because the file has those keys; the longest key that is there wins.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from hpo.errors import Problem
from hpo.spec import yaml12
from hpo.spec.yaml12 import MOST_DEPTH, Path, Place, YamlError

# Passwords do not get into messages: user:password@ of an address, and password=… in a query.
# A password that is only ``${NAME}`` is none.
_SECRET = re.compile(
    r"(?<=://)[^\s/]*:(?!\$\{\w+\}@)\S+(?=@)|(?<=password=)(?!\$\{\w+\})[^&\s'\"]+"
)


class Document:
    """The study file's values with overrides in place."""

    def __init__(self, parsed: yaml12.Document) -> None:
        self.value: dict[str, Any] = copy.deepcopy(parsed.value)
        self._parsed = parsed
        self._overridden: dict[Path, str] = {}

    def override(self, key: str, value: Any) -> Problem | None:
        """Put `value` at a dotted key; what is wrong with the key, or None."""
        if not key.isprintable() or "" in key.split("."):  # among others bytes that are no UTF-8
            shown = ascii(key)[1:-1]
            return Problem(shown, f"expected a key such as train.epochs (--set {shown})")
        path = self.path(key)
        if len(path) + _depth(value) >= MOST_DEPTH:
            return Problem(key, f"nested deeper than {MOST_DEPTH} levels (--set {key})")
        holder: Any = self.value
        for depth, part in enumerate(path[:-1]):
            below = _child(holder, part)
            if below is None and isinstance(holder, dict):
                below = holder[str(part)] = {}
            if not isinstance(below, dict | list):
                at = ".".join(map(str, path[: depth + 1]))
                return Problem(key, f"{at} is not a mapping (--set {key})")
            holder = below
        last = path[-1]
        if isinstance(holder, list):
            if not isinstance(last, int):
                return Problem(key, f"the list has {len(holder)} items (--set {key})")
            holder[last] = value
        else:
            holder[str(last)] = value
        self._overridden[path] = key
        return None

    def path(self, key: str) -> Path:
        """The path of a dotted key; where the file has no such key, as it would be."""
        parts = key.split(".")
        path: list[str | int] = []
        at: Any = self.value
        while parts:
            part, used = _next_key(at, parts, free=path == ["search"])
            path.append(part)
            parts = parts[used:]
            at = _child(at, part)
        return tuple(path)

    def is_overridden(self, path: Path) -> str | None:
        """The override that `path` comes from, or None."""
        for override, key in self._overridden.items():
            if path[: len(override)] == override:
                return key
            if override[: len(path)] == path and path not in self._parsed.values:
                return key
        return None

    def problem(
        self,
        path: Path,
        message: str,
        hint: str | None = None,
        *,
        at_key: bool = False,
        warning: bool = False,
    ) -> Problem:
        """A problem placed at `path`, or at the nearest place above that is in the file.

        Args:
            at_key: The mistake is the key, not its value.
        """
        key = redacted(".".join(map(str, path)))
        hint = hint and redacted(hint)
        override = self.is_overridden(path)
        if override is not None:
            return Problem(
                key, f"{redacted(message)} (--set {redacted(override)})", hint, warning=warning
            )
        place = self._place(path, at_key)
        line = ""
        if place.line <= len(self._parsed.lines):
            line = redacted(self._parsed.lines[place.line - 1])
        return Problem(
            key,
            redacted(message),
            hint,
            place.line,
            min(place.column, len(line) + 1),
            line,
            warning,
        )

    def _place(self, path: Path, at_key: bool) -> Place:
        values, keys = self._parsed.values, self._parsed.keys
        for n in range(len(path), -1, -1):
            above = path[:n]
            # Of something that is missing, the key above it is the place, not its whole content.
            first, second = (keys, values) if at_key or n < len(path) else (values, keys)
            place = first.get(above) or second.get(above)
            if place is not None:
                return place
        return Place(1, 1)


def read(data: bytes) -> tuple[Document | None, Problem | None]:
    """The document in a study file, or what is wrong with it as a whole."""
    try:
        parsed = yaml12.read(data)
    except YamlError as error:
        return None, _whole_file(error, data)
    if parsed.value is None:
        hint = "start with `study: NAME` and `trainer: image_classifier`"
        return None, Problem("", "the file is empty", hint)
    document = Document(parsed)
    if isinstance(parsed.value, dict):
        return document, None
    kind = "a list" if isinstance(parsed.value, list) else "a single value"
    return None, document.problem((), f"expected keys with values; got {kind}", "study: NAME")


def redacted(text: str) -> str:
    """`text` without the passwords in its addresses."""
    return _SECRET.sub("***", text)


def _whole_file(error: YamlError, data: bytes) -> Problem:
    if error.place is None:
        return Problem("", error.message, error.hint)
    lines = yaml12.split_lines(data.decode("utf-8-sig", errors="replace"))
    line = redacted(lines[error.place.line - 1]) if error.place.line <= len(lines) else ""
    line = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line)
    column = min(error.place.column, len(line) + 1)
    return Problem("", redacted(error.message), error.hint, error.place.line, column, line)


def _depth(value: Any) -> int:
    """Levels of lists and mappings in a value."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _child(at: Any, part: str | int) -> Any:
    if isinstance(at, Mapping):
        return at.get(part)
    return at[part] if isinstance(at, list) and isinstance(part, int) else None


def _next_key(at: Any, parts: list[str], free: bool) -> tuple[str | int, int]:
    """The next step of a dotted key, and how many of its parts it takes.

    Args:
        free: Keys with dots are to be expected here.
    """
    if isinstance(at, list) and re.fullmatch("[0-9]{1,9}", parts[0]) and int(parts[0]) < len(at):
        return int(parts[0]), 1
    if isinstance(at, Mapping):
        for used in range(len(parts), 0, -1):
            if ".".join(parts[:used]) in at:
                return ".".join(parts[:used]), used
    return (".".join(parts), len(parts)) if free else (parts[0], 1)
