"""Learning rate schedules: a table of functions of how far training has come.

A schedule maps progress in [0, 1) (steps done / all steps) to a factor of the learning rate in
[0, 1]. It keeps no state, so a resumed trial is on it at once; and those of equal settings are
equal. Only `Plateau` looks at what has been reached; it is part of a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class Schedule:
    """What every schedule does."""

    def __call__(self, progress: float) -> float:
        """The factor of the learning rate."""
        return 1.0

    def shift(self, progress: float) -> float:
        """What is added to the momentum, or to ``beta1``."""
        return 0.0


@dataclass(frozen=True)
class Constant(Schedule):
    """The same in every step."""


@dataclass(frozen=True)
class Step(Schedule):
    """Lower by a factor every few epochs: torch's StepLR.

    Attributes:
        epochs: From the first step to the last.
        every: Epochs.
    """

    epochs: float
    every: int
    gamma: float

    def __call__(self, progress: float) -> float:
        return float(self.gamma ** (_epoch(progress * self.epochs) // self.every))


@dataclass(frozen=True)
class Exponential(Schedule):
    """Lower by a factor an epoch, a little at each step: at the epochs torch's ExponentialLR."""

    epochs: float
    gamma: float

    def __call__(self, progress: float) -> float:
        return float(self.gamma ** (progress * self.epochs))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A power of what is left to train: torch's PolynomialLR, stepped at each batch."""

    power: float

    def __call__(self, progress: float) -> float:
        return float((1.0 - progress) ** self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to 0: torch's CosineAnnealingLR, stepped at each batch."""

    def __call__(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half a cosine again and again (Loshchilov and Hutter 2017): torch's
    CosineAnnealingWarmRestarts, stepped at each batch.

    Attributes:
        epochs: From the first step to the last.
        first: Epochs of the first cycle.
        growth: How many times as long as the one before each cycle is.
    """

    epochs: float
    first: int
    growth: int

    def __call__(self, progress: float) -> float:
        epoch, length = progress * self.epochs, self.first
        while epoch + _ROUNDING >= length:
            epoch, length = epoch - length, length * self.growth
        return Cosine()(max(0.0, epoch) / length)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to the learning rate and down to next to nothing, in halves of cosines, while momentum
    goes down by 0.1 and up again (Smith and Topin 2019): torch's OneCycleLR.

    Attributes:
        rise: The share of the steps in which the learning rate rises.
    """

    rise: float

    def __call__(self, progress: float) -> float:
        first = 1 / 25
        low = first if progress < self.rise else first / 1e4
        return low + (1 - low) * self._height(progress)

    def shift(self, progress: float) -> float:
        return -0.1 * self._height(progress)

    def _height(self, progress: float) -> float:
        """From 0 to 1 and to 0 again."""
        if progress < self.rise:
            return 1 - Cosine()(progress / self.rise)
        return Cosine()((progress - self.rise) / (1 - self.rise))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Linear from a hundredth of the learning rate to all of it, then another schedule over the
    rest: torch's LinearLR and SequentialLR, stepped at each batch.

    Attributes:
        share: Of the steps.
        then: The other one.
    """

    share: float
    then: Schedule

    def __call__(self, progress: float) -> float:
        if progress < self.share:
            return 0.01 + 0.99 * progress / self.share
        return self.then(self._rest(progress))

    def shift(self, progress: float) -> float:
        return self.then.shift(self._rest(progress)) if progress >= self.share else 0.0

    def _rest(self, progress: float) -> float:
        return (progress - self.share) / (1 - self.share)


@dataclass(frozen=True)
class Kind:
    """A row of the table.

    Attributes:
        make: From the ``train`` section, and the epochs from its first step to its last.
        settings: Those of the section that it uses.
    """

    make: Callable[[Mapping[str, Any], float], Schedule]
    settings: tuple[str, ...] = ()


def _gamma(train: Mapping[str, Any], default: float) -> float:
    return default if train["gamma"] is None else float(train["gamma"])


SCHEDULES: dict[str, Kind] = {
    "constant": Kind(lambda train, epochs: Constant()),
    "step": Kind(
        lambda train, epochs: Step(epochs, train["step_epochs"], _gamma(train, 0.1)),
        ("step_epochs", "gamma"),
    ),
    "exponential": Kind(
        lambda train, epochs: Exponential(epochs, _gamma(train, 0.95)), ("gamma",)
    ),
    "polynomial": Kind(lambda train, epochs: Polynomial(train["power"]), ("power",)),
    "cosine": Kind(lambda train, epochs: Cosine()),
    "cosine_restarts": Kind(
        lambda train, epochs: CosineRestarts(epochs, train["cycle_epochs"], train["cycle_growth"]),
        ("cycle_epochs", "cycle_growth"),
    ),
    "one_cycle": Kind(lambda train, epochs: OneCycle(train["rise"]), ("rise",)),
    "plateau": Kind(lambda train, epochs: Constant(), ("plateau", "gamma")),
}


def made(train: Mapping[str, Any]) -> Schedule:
    """The schedule that a ``train`` section asks for, with its warm-up."""
    epochs, warmup = train["epochs"], train["warmup"]
    schedule = SCHEDULES[train["schedule"]].make(train, epochs - warmup)
    return WarmUp(warmup / epochs, schedule) if warmup else schedule


def that_use(setting: str) -> list[str]:
    """The schedules in which a setting of the ``train`` section has an effect."""
    return [name for name, kind in SCHEDULES.items() if setting in kind.settings]


def batch_size(train: Mapping[str, Any], epoch: int) -> int:
    """Rows of a step in an epoch (1 for the first)."""
    growth, size = train["batch_growth"], int(train["batch_size"])
    if growth is None:
        return size
    times: int = sum(epoch >= first for first in growth["epochs"])
    return size * int(growth["factor"] ** times)


@dataclass
class Plateau:
    """A factor of the learning rate that falls when a metric stops improving: torch's
    ReduceLROnPlateau, with an absolute threshold.

    Attributes:
        metric: What is watched.
        maximize: Whether more of it is better.
        patience: Epochs without an improvement that are let pass.
        min_delta: What counts as one: better by more than this.
        gamma: What the factor is multiplied by.
    """

    metric: str
    maximize: bool
    patience: int
    min_delta: float
    gamma: float
    factor: float = 1.0
    best: float = -math.inf
    waited: int = 0

    @classmethod
    def of(cls, train: Mapping[str, Any], maximize: Callable[[str], bool]) -> Plateau | None:
        """What a ``train`` section asks for; None: another schedule."""
        if train["schedule"] != "plateau":
            return None
        own = train["plateau"]
        return cls(maximize=maximize(own["metric"]), gamma=_gamma(train, 0.1), **own)

    def see(self, value: float) -> None:
        """What an epoch has reached."""
        value = value if self.maximize else -value
        if value > self.best + self.min_delta:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.factor, self.waited = self.factor * self.gamma, 0

    def state(self) -> tuple[float, float, int]:
        """For a checkpoint."""
        return self.factor, self.best, self.waited

    def load(self, state: tuple[float, float, int]) -> None:
        """Go on from what `state` returned."""
        self.factor, self.best, self.waited = state


# A step at the beginning of an epoch may lie below it by a rounding.
_ROUNDING = 1e-9


def _epoch(epochs: float) -> int:
    return math.floor(epochs + _ROUNDING)
