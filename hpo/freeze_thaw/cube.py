"""The search space as points of a unit cube, which a model can be fitted on.

A number is one column, its place in its range (on a log scale where it is declared so); of n
choices each is a column, 0 or 1/√2, so that two different ones are a distance of 1 apart. What
does not exist in a configuration stands in the middle: its parent's column tells it apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from hpo.spec import Choice, Int, Parameter, Scalar
from hpo.spec.space import allowed, grid, grid_size, is_active, same

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

APART = 1 / math.sqrt(2)
NOWHERE = 0.5  # where a number stands that a configuration does not have
MOST_LISTED = 2_000  # configurations that are all looked at, if there are no more


class Cube:
    """A search space's points.

    Attributes:
        group: Of each column, the index of its parameter.
    """

    def __init__(self, search: Mapping[str, Parameter]) -> None:
        self._axes: dict[str, _Number | _Choices] = {}
        at = 0
        for path, parameter in search.items():
            axis = (
                _Choices(parameter, at)
                if isinstance(parameter, Choice)
                else _Number(parameter, at)
            )
            self._axes[path] = axis
            at = axis.end
        self.columns = at
        self.group = np.repeat(
            np.arange(len(self._axes)), [axis.end - axis.begin for axis in self._axes.values()]
        )

    @cached_property
    def is_moved(self) -> Flags:
        """Of each column, whether a small step in it means something: it is a number's."""
        return np.array([isinstance(axis, _Number) for axis in self._axes.values()])[self.group]

    def encode(self, params: Mapping[str, Scalar]) -> Array:
        """The point of a configuration, shape (columns,)."""
        point = np.empty(self.columns)
        for path, axis in self._axes.items():
            point[axis.begin : axis.end] = (
                axis.place(params[path]) if path in params else axis.nowhere
            )
        return point

    def decode(self, point: Array) -> dict[str, Scalar]:
        """The configuration nearest to a point, without what it does not have."""
        params: dict[str, Scalar] = {}
        for path, axis in self._axes.items():
            if is_active(axis.parameter, params):
                params[path] = axis.value(point[axis.begin : axis.end])
        return params

    def nearest(self, points: Array) -> Array:
        """The points of the configurations nearest to `points`, of shape (n, columns)."""
        found = np.empty_like(points)
        for axis in self._axes.values():
            found[:, axis.begin : axis.end] = axis.nearest(points[:, axis.begin : axis.end])
            absent = np.zeros(len(points), dtype=bool)
            for parent, condition in (axis.parameter.when or {}).items():
                other = self._axes[parent]
                absent |= ~other.among(found[:, other.begin : other.end], allowed(condition))
            found[absent, axis.begin : axis.end] = axis.nowhere
        return found

    def random(self, rng: np.random.Generator, count: int) -> Array:
        """Points of configurations drawn evenly, of shape (count, columns)."""
        return self._spread(rng.random((count, len(self._axes))))

    def sobol(self, seed: int, count: int) -> Array:
        """Points of configurations that fill the space evenly (Sobol's sequence, scrambled)."""
        sequence = qmc.Sobol(len(self._axes), rng=np.random.default_rng(seed))
        return self._spread(sequence.random_base2(max(0, (count - 1).bit_length()))[:count])

    def near(self, points: Array, rng: np.random.Generator, step: Array | float) -> Array:
        """A configuration near to each of `points`: numbers moved by a normal `step`, now and
        then another choice."""
        moved = points + rng.normal(size=points.shape) * np.where(self.is_moved, step, 0.0)
        fresh = self.random(rng, len(points))
        axes = len(self._axes)
        another = (rng.random((len(points), axes)) < 1 / max(axes, 2))[:, self.group]
        moved = np.where(another & ~self.is_moved, fresh, moved)
        return self.nearest(np.clip(moved, 0.0, 1.0))

    @cached_property
    def listed(self) -> Array | None:
        """Every configuration's point, shape (n, columns), where there are few enough."""
        search = {path: axis.parameter for path, axis in self._axes.items()}
        size = grid_size(search)
        if size is None or size > MOST_LISTED:
            return None
        return np.array([self.encode(params) for params in grid(search)])

    def _spread(self, unit: Array) -> Array:
        points = np.empty((len(unit), self.columns))
        for i, axis in enumerate(self._axes.values()):
            points[:, axis.begin : axis.end] = axis.spread(unit[:, i])
        return self.nearest(points)


class _Number:
    """A Float's or an Int's column; each whole number, or step, has as much of it."""

    nowhere = NOWHERE

    def __init__(self, parameter: Any, begin: int) -> None:
        self.parameter = parameter
        self.begin, self.end = begin, begin + 1
        self._step = parameter.step or (1 if isinstance(parameter, Int) else None)
        margin = (self._step or 0) / 2
        self._low = self._scaled(parameter.low - margin)
        self._span = self._scaled(parameter.high + margin) - self._low

    def place(self, value: Any) -> float:
        return float(self._places(np.asarray(value, dtype=float)))

    def value(self, place: Array) -> int | float:
        number = float(self._value(place)[0])
        return int(number) if isinstance(self.parameter, Int) else number

    def nearest(self, places: Array) -> Array:
        continuous = self._step is None and self._span > 0
        return places if continuous else self._places(self._value(places))

    def among(self, places: Array, values: tuple[Scalar, ...]) -> Flags:
        there = [self.place(value) for value in values]
        found: Flags = np.isclose(places, np.array(there), atol=1e-9).any(axis=1)
        return found

    def spread(self, unit: Array) -> Array:
        return unit[:, None]

    def _places(self, values: Array) -> Array:
        if self._span == 0:
            return np.full_like(values, NOWHERE)
        places: Array = (self._scaled(values) - self._low) / self._span
        return places

    def _value(self, places: Array) -> Array:
        scaled = self._low + places * self._span
        number = np.exp(scaled) if self.parameter.log else scaled
        low, high, step = self.parameter.low, self.parameter.high, self._step
        if step is not None:
            # By decimals as a person writes them: 0.1 + 2 · 0.1 is 0.3.
            number = np.round(low + step * np.round((number - low) / step), 12)
        inside: Array = np.clip(number, low, high)
        return inside

    def _scaled(self, value: Any) -> Any:
        return np.log(value) if self.parameter.log else value


class _Choices:
    """A Choice's columns."""

    nowhere = 0.0

    def __init__(self, parameter: Choice, begin: int) -> None:
        self.parameter = parameter
        self.begin, self.end = begin, begin + len(parameter.choices)

    def place(self, value: Scalar) -> Array:
        return np.array([APART * same(value, choice) for choice in self.parameter.choices])

    def value(self, place: Array) -> Scalar:
        return self.parameter.choices[int(np.argmax(place))]

    def nearest(self, places: Array) -> Array:
        return self._columns(places.argmax(axis=1))

    def among(self, places: Array, values: tuple[Scalar, ...]) -> Flags:
        wanted = [any(same(c, v) for v in values) for c in self.parameter.choices]
        found: Flags = np.array(wanted)[places.argmax(axis=1)] & (places.max(axis=1) > 0)
        return found

    def spread(self, unit: Array) -> Array:
        size = self.end - self.begin
        return self._columns(np.minimum((unit * size).astype(int), size - 1))

    def _columns(self, chosen: NDArray[np.int_]) -> Array:
        return APART * np.eye(self.end - self.begin)[chosen]
