"""What a trial said of the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Predicted:
    """The predictions of a trial's best epoch.

    Attributes:
        ids: (n,) int64, row numbers in the data; the same rows in the same order for all trials
            of a study, unless the split is searched.
        target: (n,) int64 class indices in [0, C), (n, L) bool labels, or (n,) float values.
        output: (n, C) or (n, L) float32 probabilities, or (n,) float32 predicted values.
        classes: The C or L names, if known.
        groups: (n,) int64, of each row the number of its group, where rows are in groups.
    """

    ids: NDArray[np.int64]
    target: NDArray[np.int64] | NDArray[np.bool_] | NDArray[np.float64]
    output: NDArray[np.float32]
    classes: tuple[str, ...] | None = None
    groups: NDArray[np.int64] | None = None

    @property
    def has_probabilities(self) -> bool:
        """Whether outputs are probabilities, of classes or of labels."""
        return self.output.ndim == 2

    @property
    def is_classification(self) -> bool:
        """Whether each row has one class."""
        return self.has_probabilities and self.target.ndim == 1

    @property
    def is_multilabel(self) -> bool:
        """Whether a row can have several labels."""
        return self.target.ndim == 2


def read_predictions(path: Path, classes: Sequence[str] | None) -> Predicted:
    """Read ``predictions.npz`` as a worker wrote it.

    Raises:
        ValueError: It holds pickled objects, or its arrays do not fit together.
    """
    import numpy as np

    # Opened here: NumPy leaves a file open that is no archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        ids, target, output = arrays["ids"], arrays["target"], arrays["output"]
        groups = arrays.get("groups")
    if not (len(ids) == len(target) == len(output)) or output.ndim > 2:
        shapes = ", ".join(str(array.shape) for array in (ids, target, output))
        raise ValueError(f"{path}: the shapes of ids, target and output do not fit: {shapes}")
    if groups is not None and groups.shape != ids.shape:
        raise ValueError(f"{path}: there are {groups.shape} groups of {len(ids)} rows")
    if target.ndim > 1 and (target.shape != output.shape or not np.isin(target, (0, 1)).all()):
        raise ValueError(f"{path}: labels are 0 or 1, and as many as there are outputs")
    if target.ndim == 2:
        target = target.astype(bool)
    if (
        output.ndim == 2
        and target.ndim == 1
        and len(target)
        and not (target.min() >= 0 and target.max() < output.shape[1])
    ):
        raise ValueError(f"{path}: a target is not among the {output.shape[1]} classes")
    names = tuple(map(str, classes)) if classes else None
    return Predicted(ids, target, output.astype(np.float32), names, groups)
