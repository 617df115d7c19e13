"""The values of single keys: each function takes one as the file has it and checks it.

They are pydantic's "before" validators: they return the value, or raise `wrong` with what was
expected and what to try. What is of another type altogether they leave to the type's own check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hpo.spec.commands import COMMAND
from hpo.spec.document import redacted
from hpo.spec.explain import nearest, shown, wrong
from trainers.registry import TRAINERS

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
OWN_TRAINER = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"
DURATION = r"^(?=\d)(\d+(\.\d+)?d)?(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_EXAMPLES = "such as 90s, 10m, 1h30m, 2d"


def name(value: Any) -> Any:
    """A study's name: of a folder, and of an experiment."""
    if isinstance(value, str) and not re.fullmatch(NAME, value):
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", redacted(value)).lstrip("._-")[:64]
        raise wrong(
            "expected at most 64 letters, digits, '.', '_' and '-', the first a letter or digit; "
            f"got {shown(value)}",
            f"try {slug}" if slug else None,
        )
    return value


def duration_s(value: Any) -> Any:
    """``1h30m`` → 5400.0"""
    if isinstance(value, int | float) and not isinstance(value, bool):
        units = f"with its unit: {value}s, {value}m or {value}h" if value > 0 else None
        raise wrong(f"expected a duration with a unit, {_EXAMPLES}; got {value}", units)
    if not isinstance(value, str) or not re.fullmatch(DURATION, value):
        raise wrong(f"expected a duration {_EXAMPLES}; got {shown(value)}")
    parts = re.findall(r"([\d.]+)([dhms])", value)
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    if not 0 < seconds < 1e10:
        raise wrong(f"expected a duration > 0 {_EXAMPLES}; got {shown(value)}")
    return seconds


def auto_or_count(value: Any) -> Any:
    """``auto``, or a whole number of workers."""
    if value == "auto" or (type(value) is int and 1 <= value <= 4096):
        return value
    raise wrong(f"expected auto or a whole number from 1 to 4096; got {shown(value)}")


def lanes(value: Any) -> Any:
    """``auto``, ``off``, or a whole number of trials."""
    if value in ("auto", "off") or (type(value) is int and 1 <= value <= 1024):
        return value
    raise wrong(f"expected auto, off or a whole number from 1 to 1024; got {shown(value)}")


def gpus(value: Any) -> Any:
    """A share of one, or a whole number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (0 < value <= 1 or value in range(1, 65)):
        return value
    raise wrong(f"expected a number ≤ 1, or a whole number up to 64; got {shown(value)}")


def most_models(value: Any) -> Any:
    """``all``, or a whole number of trials."""
    if value == "all" or (type(value) is int and 0 <= value <= 1_000_000):
        return value
    raise wrong(f"expected all or a whole number from 0 to 1000000; got {shown(value)}")


def goal(value: Any) -> Any:
    """``maximize`` or ``minimize``."""
    if value in ("maximize", "minimize"):
        return value
    meant = value.lower()[:3] if isinstance(value, str) else None
    hint = f"did you mean '{meant}imize'?" if meant in ("max", "min") else None
    raise wrong(f"expected maximize or minimize; got {shown(value)}", hint)


def trainer(value: Any) -> Any:
    """A built-in's name, or ``module:function``; whether that is there, a worker finds out."""
    known = (*TRAINERS, COMMAND)
    if not isinstance(value, str) or value in known or re.fullmatch(OWN_TRAINER, value):
        return value
    close = nearest(value, TRAINERS)
    hint = f"did you mean {close!r}?" if close else "e.g. my_module:train"
    if path := re.fullmatch(r"([\w/]+)\.py:(\w+)", value):
        hint = f"did you mean {path[1].strip('/').replace('/', '.')}:{path[2]}?"
    raise wrong(
        f"expected {', '.join(TRAINERS)}, or your own as module:function; got {shown(value)}", hint
    )


def command(value: Any) -> Any:
    """A program and its arguments; numbers among them become text."""
    example = '[python, train.py, --lr, "{train.lr}"]'
    if isinstance(value, str):
        hint = f"[{', '.join(value.split())}]" if "{" not in value else example
        raise wrong(f"expected a list of the program and its arguments; got {shown(value)}", hint)
    if not isinstance(value, list | tuple) or not value:
        raise wrong(f"expected a program and its arguments; got {shown(value)}", example)
    for i, argument in enumerate(value):
        if isinstance(argument, dict) and [*argument.values()] == [None]:
            (name,) = argument
            raise wrong("braces mean something else without quotes", f'"{{{name}}}"', at=i)
        if isinstance(argument, bool) or not isinstance(argument, str | int | float):
            raise wrong(f"expected text or a number; got {shown(argument)}", at=i)
        if argument == "" and i == 0 or "\0" in str(argument):
            raise wrong(f"expected text without NUL; got {shown(argument)}", at=i)
    return tuple(map(str, value))


def method(kind: str, known: Sequence[str], value: Any) -> tuple[str, dict[str, Any]]:
    """A method's name, alone or as ``{name: …}`` with its options.

    Args:
        kind: ``sampler``, ``pruner`` or ``strategy``.
    """
    name, options = value, {}
    if isinstance(value, dict):
        if "name" not in value:
            raise wrong(f"expected the {kind}'s name", _with_its_name(value, known))
        options = {key: option for key, option in value.items() if key != "name"}
        name = value["name"]
    if not isinstance(name, str) or name not in known:
        close = nearest(name, known)
        raise wrong(
            f"expected one of {', '.join(known)}; got {shown(name)}",
            f"did you mean {close!r}?" if close else None,
            at="name" if isinstance(value, dict) else None,
        )
    return name, options


def _with_its_name(value: Mapping[str, Any], known: Sequence[str]) -> str:
    """How a method without ``name`` is to be written: ``{ray: {cpus_per_trial: 4}}``, too."""
    name = next((key for key in value if key in known), None)
    options = value.get(name) if name else None
    if not isinstance(options, dict) or any(isinstance(o, dict | list) for o in options.values()):
        return f"{{name: {name or known[-1]}, …}}"
    told = (f", {key}: {shown(option)}" for key, option in options.items())
    return f"{{name: {name}{''.join(told)}}}"


def one_or_several(value: Any) -> Any:
    """A mapping is short for a list of one."""
    if isinstance(value, dict):
        return (value,)
    if isinstance(value, list):
        if not value:
            raise wrong("expected at least one objective", "{metric: val/loss, goal: minimize}")
        return tuple(value)
    if isinstance(value, tuple):
        return value
    raise wrong(
        f"expected a metric and a goal; got {shown(value)}",
        f"{{metric: {value if isinstance(value, str) else 'val/loss'}, goal: minimize}}",
    )
