"""Values from Python, e.g. overrides in a notebook, as a study file could have them."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from typing import Any

from hpo.spec.yaml12 import MOST_DEPTH


class NotPlain(ValueError):
    """A value that no study file could have."""


def plain(value: Any, depth: int = 0) -> Any:
    """`value` made of dict, list, str, int, float, bool and None.

    Raises:
        NotPlain: It holds something else.
    """
    if depth > MOST_DEPTH:
        raise NotPlain(f"nested deeper than {MOST_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise NotPlain("expected text as keys")
        return {_text(key): plain(below, depth + 1) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [plain(below, depth + 1) for below in value]
    if isinstance(value, os.PathLike):
        return plain(os.fspath(value))
    if isinstance(value, numbers.Integral):
        whole = int(value)
        if not -(2**63) <= whole < 2**63:
            raise NotPlain("the number is too large")
        return whole
    if isinstance(value, numbers.Real):
        return float(value)
    raise NotPlain(
        f"expected text, a number, true, false, a list or keys; got {type(value).__name__}"
    )


def _text(value: str) -> str:
    """`value`, which can be written to a file."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NotPlain("the text has half a character (a lone surrogate)") from None
    return str(value)
