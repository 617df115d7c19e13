"""What is wrong with a value, in words: pydantic's errors as problems of the study file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

from hpo.errors import Problem
from hpo.spec.document import Document
from hpo.spec.yaml12 import Path

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number below 2^63",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number ≥ {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number ≤ {le:g}",
    "string_too_short": "text",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text like {pattern}",
}
_MAPPING_EXPECTED = ("model_type", "dict_type", "model_attributes_type", "mapping_type")
_NO = {"no", "off", "n"}
_YES = {"yes", "on", "y"}


def wrong(
    message: str, hint: str | None = None, at: str | int | None = None
) -> PydanticCustomError:
    """What a validator of this package raises; `at` is the key below it that is wrong."""
    return PydanticCustomError("hpo", "{message}", {"message": message, "hint": hint, "at": at})


def shown(value: Any) -> str:
    """A value as the file would have it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "keys with values"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(name: Any, known: Iterable[str]) -> str | None:
    """Of the known names the one that may have been meant."""
    wanted = str(name).lower()
    names = {each.lower(): each for each in known}
    begin = [each for each in names if len(wanted) > 2 and each.startswith(wanted)]
    close = begin or get_close_matches(wanted, list(names), n=1)
    return names[close[0]] if close else None


def did_you_mean(name: Any, known: Iterable[str]) -> str | None:
    """The nearest of the known names, as a hint; or all of them when there are few."""
    known = list(known)
    close = nearest(name, known)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"known: {', '.join(known)}" if 0 < len(known) <= 20 else None


def problems(
    document: Document,
    prefix: Path,
    value: Any,
    errors: Sequence[ErrorDetails],
    known: Callable[[Path], Sequence[str]],
) -> list[Problem]:
    """pydantic's complaints about `value`, which stands at `prefix` in the file.

    Args:
        known: The keys that may stand at a path below `prefix`.
    """
    found: dict[Path, list[tuple[str, str | None, ErrorDetails]]] = {}
    for error in errors:
        path = _in_file(value, error)
        message, hint = _explain(error, path, known)
        found.setdefault(path, []).append((message, hint, error))
    return [
        document.problem(
            (*prefix, *path),
            _joined([message for message, _, _ in several]),
            next((hint for _, hint, _ in several if hint), None),
            at_key=several[0][2]["type"] == "extra_forbidden",
        )
        for path, several in found.items()
    ]


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys that `model` takes, as the file has them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _in_file(value: Any, error: ErrorDetails) -> Path:
    """Where an error is in the file: its location without the steps that pydantic adds."""
    path: list[str | int] = []
    loc = error["loc"]
    for depth, part in enumerate(loc):
        if _has(value, part):
            value = value[part]
        elif not (error["type"] == "missing" and depth == len(loc) - 1):
            continue
        path.append(part)
    below = error.get("ctx", {}).get("at") if error["type"] == "hpo" else None
    return tuple(path) if below is None else (*path, below)


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(part, int) and part < len(value)
    return isinstance(value, dict) and part in value


def _explain(
    error: ErrorDetails, path: Path, known: Callable[[Path], Sequence[str]]
) -> tuple[str, str | None]:
    kind, got, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "hpo":
        return str(context["message"]), context["hint"]
    if kind == "missing":
        return "is missing", None
    if kind == "extra_forbidden":
        return "unknown key", did_you_mean(path[-1], known(path[:-1]))
    if kind in ("value_error", "assertion_error"):
        return str(context["error"]), None
    if kind in _MAPPING_EXPECTED:
        keys = known(path)
        return (
            f"expected keys with values; got {shown(got)}",
            f"known: {', '.join(keys)}" if keys else None,
        )
    if kind not in _EXPECTED:
        return str(error["msg"]), None
    if kind == "string_pattern_mismatch":  # so that a person can read it
        context = {
            "pattern": context["pattern"].strip("^$").replace(r"\.", ".").replace(r"\w", "…")
        }
    expected = _EXPECTED[kind].format(**context)
    if kind == "literal_error":
        expected = expected.replace("'", "")
    if kind in ("too_short", "too_long"):
        return f"expected {expected}; got {context['actual_length']}", None
    return f"expected {expected}; got {shown(got)}", _hint(kind, got, context)


def _hint(kind: str, got: Any, context: Mapping[str, Any]) -> str | None:
    if kind == "literal_error":
        close = nearest(got, re.findall(r"'([^']*)'", context["expected"]))
        return f"did you mean {close!r}?" if isinstance(got, str) and close else None
    if kind.startswith("bool") and isinstance(got, str) and got.lower() in _YES | _NO:
        return "true" if got.lower() in _YES else "false"
    if kind in ("int_type", "float_type") and isinstance(got, str) and _is_number(got):
        return "remove the quotes"
    if kind == "int_from_float" or (kind == "int_type" and isinstance(got, float)):
        return f"try {round(got)}" if abs(got) < 1e15 else None
    if kind == "string_type" and isinstance(got, bool | int | float):
        return "put it in quotes"
    if kind in ("tuple_type", "list_type") and not isinstance(got, Mapping):
        return f"[{got}]" if got is not None else "[]"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _joined(messages: Sequence[str]) -> str:
    """Several complaints about one value: of "expected a; got x" and "expected b; got x", one."""
    split = [re.fullmatch(r"expected (.*); got (.*)", message, re.DOTALL) for message in messages]
    if len(messages) > 1 and all(split):
        expected = dict.fromkeys(match[1] for match in split if match)
        got = [match[2] for match in split if match][0]
        return f"expected {' or '.join(expected)}; got {got}"
    return messages[0]
