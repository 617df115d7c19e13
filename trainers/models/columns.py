"""Which of a table's inputs are numbers, and which say together what category a row is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """The inputs of a row, by their places.

    Attributes:
        numbers: Each is a number.
        flags: Each is 1 where the number before it is missing, else 0.
        categories: First place and end of each column of categories: one of them is 1, or none.
    """

    numbers: tuple[int, ...]
    flags: tuple[int, ...] = ()
    categories: tuple[tuple[int, int], ...] = ()

    @property
    def inputs(self) -> int:
        """Of a row."""
        return len(self.numbers) + len(self.flags) + sum(e - s for s, e in self.categories)

    @classmethod
    def of(cls, encoding: Sequence[Mapping[str, Any]]) -> Layout:
        """The layout that `trainers.data.encode` gives rows.

        Args:
            encoding: `trainers.data.Split.encoding`.
        """
        numbers, flags, categories, place = [], [], [], 0
        for column in encoding:
            if "categories" in column:
                width = len(column["categories"]) + bool(column["rare"]) + column["says_missing"]
                categories.append((place, place + width))
            else:
                numbers.append(place)
                width = 1 + column["says_missing"]
                flags += [place + 1] if column["says_missing"] else []
            place += width
        return cls(tuple(numbers), tuple(flags), tuple(categories))
