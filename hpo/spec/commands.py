"""The key ``command``: a program with its arguments, and in these the places for a trial's values.

``{train.lr}`` is replaced by the value at that path; ``{{train.lr}}`` is the text ``{train.lr}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpo.spec.explain import did_you_mean

if TYPE_CHECKING:
    from hpo.spec.study import StudySpec
    from hpo.spec.yaml12 import Path

COMMAND = "command"  # the trainer of a study that has a command

# What else than a path into the study file can stand in braces; also given as HPO_PARAMS, ….
OF_TRIAL: Mapping[str, str] = {
    "params": "the path of a JSON file with all sections, the seed and the trial's number",
    "checkpoint": "a folder that stays until the trial is over, for the program's own checkpoints",
    "seed": "the trial's seed, from 0 to 2^32 - 1",
    "trial": "the trial's number",
    "device": "cpu or cuda",
}

_PLACE = re.compile(r"\{\{(?P<literal>[\w.-]+)\}\}|\{(?P<name>[^\W\d][\w.-]*)\}")


def places(argument: str) -> list[str]:
    """What stands in braces in an argument."""
    return [found["name"] for found in _PLACE.finditer(argument) if found["name"]]


def filled(command: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The command with a trial's values in place.

    Args:
        values: Name or path → value, see `by_path`.
    """

    def value(found: re.Match[str]) -> str:
        if found["literal"]:
            return "{" + found["literal"] + "}"
        return text(values[found["name"]])

    return [_PLACE.sub(value, argument) for argument in command]


def by_path(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted path, those that hold others too."""
    if path:
        yield path, value
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for key, each in value.items() if isinstance(value, Mapping) else ():
        yield from by_path(each, f"{path}.{key}" if path else str(key))


def text(value: Any) -> str:
    """A value as an argument: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def problems(spec: StudySpec) -> Iterator[tuple[Path, str, str | None]]:
    """Places in a study's command for which a trial may have no value."""
    certain = {path: None for path, parameter in spec.search.items() if not parameter.when}
    known = dict(by_path(spec.config(certain)))
    for i, argument in enumerate(spec.command or ()):
        for name in places(argument):
            if name in known or name in OF_TRIAL:
                continue
            if name in spec.search:
                section, _, option = name.partition(".")
                message = f"{name} has no value where its `when` does not hold"
                yield (COMMAND, i), message, f"give it one: {section}: {{{option}: …}}"
            else:
                hint = did_you_mean(name, [*known, *OF_TRIAL])
                yield (COMMAND, i), f"there is no {name} in this file to put here", hint
