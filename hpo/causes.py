"""Which failures are the same one: their reasons say so, but for the numbers in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")

# What begins the reason of a trial whose loss or objective was NaN or infinite
# (`trainers.contract.NonFinite`).
DIVERGED = "NonFinite"


def cause(reason: str) -> str:
    """A reason without its numbers, so that the same error of two trials compares equal."""
    return _NUMBER.sub("", reason)


def most_often(reasons: Sequence[str]) -> str:
    """The first reason of the most frequent cause; there must be one."""
    (most, _), *_ = Counter(map(cause, reasons)).most_common(1)
    return next(reason for reason in reasons if cause(reason) == most)
