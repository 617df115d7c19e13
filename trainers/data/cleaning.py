"""What is to be known of data before anything is trained on it: the cleaning report.

It counts and names; it changes nothing. Of a table's columns: `trainers.data.columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.data.splits import Partition, Rows

if TYPE_CHECKING:
    import pandas as pd

NAMED = 100  # pairs of copies


def first_of(contents: NDArray[Any]) -> Rows:
    """Of each row the first one that has the same content.

    Args:
        contents: (N,) a hash of each.
    """
    _, first, content = np.unique(contents, return_index=True, return_inverse=True)
    return first[content].astype(np.int64)


def contents(frame: pd.DataFrame) -> NDArray[np.uint64]:
    """(N,) a hash of each row."""
    import pandas as pd  # which trainers of images do without

    found = pd.util.hash_pandas_object(frame, index=False)
    return np.asarray(found, np.uint64)


def report(
    parts: Partition,
    copies: Rows,
    section: Any,
    labels: NDArray[np.int64] | None,
    classes: Sequence[str] | None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Class counts and duplicates, as JSON has it.

    Args:
        copies: As for `trainers.data.splits.partition`.
        section: With `duplicates` and `folds`.
        labels: (N,) classes, or None.
        names: Of the rows, for messages; absent: their numbers.

    Returns:
        ``class_counts``: of each split, in the order of the classes, or None. ``duplicates``:
        ``rows`` that are copies of an earlier one, how many of these are ``of_other_classes``;
        ``across``: how many rows of the latter split have a copy in the former, as
        ``{"train/validation": 3}``, of folds all that is validated; ``examples``: pairs of these.

    Raises:
        DataError: There are copies on both sides of a split, which are to be refused.
    """
    (train, validation), *_ = parts.folds
    counts = None
    if labels is not None and classes is not None:
        sides = {"train": train, "validation": validation, "test": parts.test}
        counts = {
            side: np.bincount(labels[rows], minlength=len(classes)).tolist()
            for side, rows in sides.items()
        }
    across = {
        "train/validation": list(parts.folds[: section.folds or 1]),
        "train/test": [(train, parts.test)],
        "validation/test": [(validation, parts.test)],
    }
    found = {
        sides: [_known(earlier, later, copies) for earlier, later in pairs]
        for sides, pairs in across.items()
    }
    examples = [pair for known in found.values() for pairs in known for pair in pairs.tolist()]
    if examples and section.duplicates == "refuse":
        earlier, later = _named(examples[0], names)
        raise DataError(
            "data.duplicates",
            f"{len(examples)} rows have a copy on the other side of a split, e.g. {later} that of "
            f"{earlier}",
            "duplicates: together",
        )
    repeated = copies != np.arange(len(copies))
    return {
        "class_counts": counts,
        "duplicates": {
            "rows": int(repeated.sum()),
            "of_other_classes": 0 if labels is None else int((labels[copies] != labels).sum()),
            "across": {sides: sum(map(len, known)) for sides, known in found.items()},
            "examples": [_named(pair, names) for pair in examples[:NAMED]],
        },
    }


def _known(earlier: Rows, later: Rows, copies: Rows) -> NDArray[np.int64]:
    """(n, 2): of each of the later rows that has one, a copy among the earlier ones, and it."""
    contents, first = np.unique(copies[earlier], return_index=True)
    known = later[np.isin(copies[later], contents)]
    return np.stack([earlier[first[np.searchsorted(contents, copies[known])]], known], axis=1)


def _named(pair: Sequence[int], names: Sequence[str] | None) -> list[str]:
    return [f"row {row}" if names is None else names[row] for row in pair]
