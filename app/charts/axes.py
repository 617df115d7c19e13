"""Parameters as axes: any of them, with its scale and its choices, on [0, 1] with ticks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from app.charts.style import Floats, compact, plain, usual_range

Positions = npt.NDArray[np.float64]
NOT_SET = -0.16  # where a parameter stands that a trial did not have
Search = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Axis:
    """One parameter's, or the value's, way onto [0, 1].

    Attributes:
        path: The parameter's path, or the metric.
        scale: How; a choice's places are even.
        low, high: What stands at 0 and at 1, of a number.
        choices: A choice's values as text, in their order.
    """

    path: str
    scale: Literal["linear", "log", "choice"]
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()

    def positions(self, values: pd.Series) -> Positions:
        """(n,) float64: in [0, 1], a little beyond where the range was once wider; NaN where
        nothing is set."""
        if self.scale == "choice":
            places = {choice: self.place(i) for i, choice in enumerate(self.choices)}
            set_ = values.notna().to_numpy()
            texts = [as_text(value) for value in values]
            return np.array(
                [places.get(t, np.nan) if s else np.nan for t, s in zip(texts, set_, strict=True)],
                np.float64,
            )
        numbers = np.array(pd.to_numeric(values, errors="coerce").astype("float64"))
        numbers[~np.isfinite(numbers)] = np.nan
        low, high = self.low, self.high
        if self.scale == "log":
            numbers[numbers <= 0] = np.nan
            numbers, low, high = np.log(numbers), math.log(low), math.log(high)
        if high == low:
            return np.where(np.isnan(numbers), np.nan, 0.5)
        return (numbers - low) / (high - low)

    def place(self, index: int) -> float:
        """Where a choice stands."""
        return 0.5 if len(self.choices) == 1 else index / (len(self.choices) - 1)

    def ticks(self, most: int = 5) -> tuple[list[float], list[str]]:
        """Positions and their labels, the labels inert."""
        if self.scale == "choice":
            step = math.ceil(len(self.choices) / 12)
            chosen = list(enumerate(self.choices))[::step]
            return [self.place(i) for i, _ in chosen], [plain(text, 18) for _, text in chosen]
        values = _log_ticks(self.low, self.high) if self.scale == "log" else []
        if len(values) < 2:
            values = _linear_ticks(self.low, self.high, most)
        while len(values) > most + 1:
            values = values[::2]
        places = self.positions(pd.Series(values, dtype="float64"))
        return [float(p) for p in places], [plain(compact(value)) for value in values]


def as_text(value: object) -> str:
    """A choice's value as its axis names it; 32 and 32.0 are the same."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return compact(value)


def parameter_axis(path: str, search: Search, values: pd.Series) -> Axis:
    """The axis of a parameter: as it was searched, else as its values are.

    Args:
        search: As in `hpo.results.StudyTables`.
        values: What the trials had, missing where it did not apply.
    """
    spec = search.get(path, {})
    known = values.dropna()
    if spec.get("type") == "choice" or "choices" in spec:
        listed = [as_text(choice) for choice in spec["choices"]]
        return _choices(path, [*listed, *(as_text(value) for value in known)])
    numbers = pd.to_numeric(known, errors="coerce")
    if numbers.isna().any() or known.map(lambda value: isinstance(value, bool)).any():
        return _choices(path, sorted(as_text(value) for value in known))
    finite = numbers[np.isfinite(numbers.astype("float64"))]
    bounds = [float(spec[end]) for end in ("low", "high") if end in spec]
    ends = [*bounds, *(float(value) for value in finite)] or [0.0, 1.0]
    scale: Literal["linear", "log"] = "log" if spec.get("log") and min(ends) > 0 else "linear"
    return Axis(path, scale, min(ends), max(ends))


def value_axis(metric: str, values: Floats) -> Axis:
    """The axis of the objective; what is far off the usual values lies beyond its ends."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Axis(metric, "linear")
    low, high = usual_range(values) or (float(finite.min()), float(finite.max()))
    return Axis(metric, "linear", low, high)


def _choices(path: str, texts: Sequence[str]) -> Axis:
    return Axis(path, "choice", choices=tuple(dict.fromkeys(texts)))


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and between them 2 and 5 where there is room."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(powers) > 4 else (1, 2, 5)
    values = [step * 10.0**power for power in powers for step in steps]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart."""
    if high == low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((s for s in (1, 2, 5, 10) if s * power >= rough), default=10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1)]
