"""The search space: what can be searched where, and the list of all configurations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

Scalar = str | int | float | bool | None

# On what other parameters a parameter depends: path → the value, or one of the values.
When = Mapping[str, Scalar | tuple[Scalar, ...]]

# Stands for every value that no condition names. No value is equal to it.
_OTHER = math.nan


@dataclass(frozen=True)
class Float:
    """A number in [low, high]; with `step`, one of low, low + step, …, high."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When | None = None


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high]; with `step`, one of low, low + step, …, high."""

    low: int
    high: int
    log: bool = False
    step: int | None = None
    when: When | None = None


@dataclass(frozen=True)
class Choice:
    """One of `choices`, all different."""

    choices: tuple[Scalar, ...]
    when: When | None = None


Parameter = Float | Int | Choice


def allowed(condition: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """The values that a condition lets pass."""
    return condition if isinstance(condition, tuple) else (condition,)


def same(one: Scalar, other: Scalar) -> bool:
    """Whether two scalars are the same value: 1 is 1.0, but not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def contains(parameter: Parameter, value: Scalar) -> bool:
    """Whether `parameter` can take `value`."""
    if isinstance(parameter, Choice):
        return any(same(value, choice) for choice in parameter.choices)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not parameter.low <= value <= parameter.high:
        return False
    if isinstance(parameter, Int) and value != int(value):
        return False
    if parameter.step is None:
        return True
    steps = (value - parameter.low) / parameter.step
    return abs(steps - round(steps)) < 1e-8


def is_wider(new: Parameter, old: Parameter) -> bool:
    """Whether `new` can take all that `old` can, and is else the same."""
    taken: tuple[Scalar, ...]
    if isinstance(new, Choice) and isinstance(old, Choice):
        alike, taken = True, old.choices
    elif isinstance(new, Choice) or isinstance(old, Choice):
        return False
    else:
        alike = type(new) is type(old) and (new.log, new.step) == (old.log, old.step)
        taken = (old.low, old.high)
    return alike and new.when == old.when and all(contains(new, value) for value in taken)


def values(parameter: Parameter) -> Sequence[Scalar] | None:
    """All that `parameter` can take, in order; None for a Float without a step."""
    if isinstance(parameter, Choice):
        return parameter.choices
    if isinstance(parameter, Int):
        return range(parameter.low, parameter.high + 1, parameter.step or 1)
    if parameter.step is None:
        return (parameter.low,) if parameter.low == parameter.high else None
    low, step = Decimal(repr(parameter.low)), Decimal(repr(parameter.step))
    return _Steps(low, step, int((Decimal(repr(parameter.high)) - low) / step) + 1)


def grid(search: Mapping[str, Parameter]) -> list[dict[str, Scalar]]:
    """Every configuration, those of the last parameter varying fastest.

    Ask `grid_size` first: this lists them all.

    Raises:
        ValueError: A Float has no step.
    """
    return list(_configurations(list(search.items())))


def grid_size(search: Mapping[str, Parameter]) -> int | None:
    """How many configurations there are; None when a Float without a step makes them countless."""
    if any(values(parameter) is None for parameter in search.values()):
        return None
    named: dict[str, list[Scalar]] = {path: [] for path in search}
    for parameter in search.values():
        for parent, condition in (parameter.when or {}).items():
            for value in allowed(condition):
                if not any(same(value, other) for other in named[parent]):
                    named[parent].append(value)
    return _count(list(search.items()), named, {})


def _configurations(order: Sequence[tuple[str, Parameter]]) -> Iterator[dict[str, Scalar]]:
    stack: list[tuple[int, dict[str, Scalar]]] = [(0, {})]
    while stack:
        depth, params = stack.pop()
        while depth < len(order) and not is_active(order[depth][1], params):
            depth += 1
        if depth == len(order):
            yield params
            continue
        path, parameter = order[depth]
        listed = values(parameter)
        if listed is None:
            raise ValueError(f"{path} has no step: its values cannot be listed")
        stack += [(depth + 1, {**params, path: value}) for value in reversed(listed)]


def _count(
    order: Sequence[tuple[str, Parameter]],
    named: Mapping[str, Sequence[Scalar]],
    params: dict[str, Scalar],
) -> int:
    """Configurations of `order`, given `params`.

    Values that no condition names behave alike: they are counted, not tried.
    """
    factor = 1
    for depth, (path, parameter) in enumerate(order):
        if not is_active(parameter, params):
            continue
        total = len(values(parameter) or ())
        if not named[path]:
            factor *= total
            continue
        rest = order[depth + 1 :]
        count = sum(_count(rest, named, {**params, path: value}) for value in named[path])
        if total > len(named[path]):
            others = _count(rest, named, {**params, path: _OTHER})
            count += (total - len(named[path])) * others
        return factor * count
    return factor


def is_active(parameter: Parameter, params: Mapping[str, Scalar]) -> bool:
    """Whether the conditions of `parameter` hold in a configuration."""
    return all(
        parent in params and any(same(params[parent], value) for value in allowed(condition))
        for parent, condition in (parameter.when or {}).items()
    )


class _Steps(Sequence[Scalar]):
    """low, low + step, … as floats, as exact as they are written."""

    def __init__(self, low: Decimal, step: Decimal, count: int) -> None:
        self._low, self._step, self._count = low, step, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> float:  # type: ignore[override]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return float(self._low + self._step * (index % self._count))
