"""The conditions of searched parameters (``when``), and the order that they impose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from hpo.errors import Problem
from hpo.spec.document import Document
from hpo.spec.explain import did_you_mean, shown
from hpo.spec.parameters import Parsed
from hpo.spec.space import Choice, Float, Parameter, Scalar, contains
from hpo.spec.yaml12 import Path


def apply(document: Document, parsed: Parsed) -> tuple[dict[str, Parameter], list[Problem]]:
    """The parameters with their conditions, each after those that its conditions name."""
    found: list[Problem] = []
    known = {*parsed.search, *parsed.broken}
    whens: dict[str, dict[str, Scalar | tuple[Scalar, ...]]] = {}
    for path, when in parsed.conditions.items():
        for parent, condition in when.items():
            at: Path = ("search", path, "when", parent)
            if parent not in known:
                hint = did_you_mean(parent, [other for other in known if other != path])
                found.append(
                    document.problem(at, "expected a path that is searched", hint, at_key=True)
                )
            elif parent in parsed.search:
                values, problems = _values(document, at, parsed.search[parent], condition)
                found += problems
                whens.setdefault(path, {})[parent] = values
    order, cycle = _order(known, parsed.conditions, list(parsed.search))
    if cycle:
        found.append(
            document.problem(
                ("search", cycle[0], "when"),
                f"the conditions go in a circle: {' → '.join(cycle)}",
                "one of them must be free",
            )
        )
    return {path: replace(parsed.search[path], when=whens.get(path)) for path in order}, found


def _values(
    document: Document, at: Path, parent: Parameter, condition: Any
) -> tuple[Scalar | tuple[Scalar, ...], list[Problem]]:
    """What a condition lets pass, in the parent's own type."""
    several = isinstance(condition, list)
    listed = condition if several else [condition]
    if not listed:
        return (), [document.problem(at, "expected a value, or a list of values; got none")]
    problems = []
    values: list[Scalar] = []
    for i, value in enumerate(listed):
        place = (*at, i) if several else at
        if isinstance(value, dict | list):
            problems.append(
                document.problem(place, f"expected a single value; got {shown(value)}")
            )
        elif not contains(parent, value):
            problems.append(
                document.problem(
                    place, f"{at[-1]} is never {shown(value)}", possible(parent, value)
                )
            )
        else:
            values.append(as_in(parent, value))
    return (tuple(values) if several else next(iter(values), None)), problems


def possible(parent: Parameter, value: Any) -> str:
    """What `parent` can be instead of `value`, as a hint."""
    if isinstance(parent, Choice):
        names = [choice for choice in parent.choices if isinstance(choice, str)]
        close = did_you_mean(value, names) if isinstance(value, str) else None
        if close and close.startswith("did"):
            return close
        return f"it is one of {', '.join(shown(choice) for choice in parent.choices)}"
    steps = "" if parent.step is None else f" in steps of {parent.step}"
    return f"it goes from {parent.low} to {parent.high}{steps}"


def as_in(parent: Parameter, value: Scalar) -> Scalar:
    """`value`, which `parent` contains, in the type that `parent` has."""
    if isinstance(parent, Choice):
        return next(choice for choice in parent.choices if choice == value)
    return float(value) if isinstance(parent, Float) else int(value)  # type: ignore[arg-type]


def _order(
    known: set[str], conditions: Mapping[str, Mapping[str, Any]], paths: list[str]
) -> tuple[list[str], list[str]]:
    """`paths` with parents first, else as they are; and a circle among the conditions, if any."""
    graph = {path: [p for p in conditions.get(path, {}) if p in known] for path in paths}
    try:
        return [path for path in TopologicalSorter(graph).static_order() if path in graph], []
    except CycleError as error:
        return paths, list(reversed(error.args[1]))
