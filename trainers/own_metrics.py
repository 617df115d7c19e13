"""A user's own metrics: functions of what there is and what was said, named in ``train.metrics``.

``module:function`` is found as own trainers are, from the study file's folder, and is called as
``function(target, output)`` with what `trainers.contract.Predictions` holds of validation rows:
classes (N,) and probabilities (N, C), labels (N, L) and probabilities (N, L), or values (N,) both.
It returns a number, reported as ``val/FUNCTION``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

from trainers.contract import DataError
from trainers.metrics import Estimates, Labels, Predicted, Scores, output


@dataclass(frozen=True)
class OwnMetric:
    """A function, and what it is called in the study file.

    Attributes:
        reference: ``module:function``.
    """

    reference: str
    function: Callable[[np.ndarray, np.ndarray], Any]

    @property
    def name(self) -> str:
        """As it is reported, without the split."""
        return self.reference.partition(":")[2]

    def of(self, said: Predicted) -> float:
        """What it makes of one model's predictions.

        Raises:
            TypeError: It did not give a number. What the function raises is passed on as it is.
        """
        value = self.function(said.target.cpu().numpy(), output(said).cpu().numpy())
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real | np.number):
            raise TypeError(f"{self.reference} gave {_shown(value)}, which is not a number")
        return float(value)


def check(metrics: Iterable[OwnMetric], target: torch.Tensor, outputs: int) -> None:
    """Try metrics on predictions that know nothing.

    Args:
        target: Of some rows, as `trainers.data.Split` has it.
        outputs: Of a model.

    Raises:
        DataError: One raises an error, or gives no number.
    """
    said: Predicted
    nothing = torch.zeros((len(target), outputs))
    if target.dtype == torch.int64:
        said = Scores(nothing, target)
    elif target.dtype == torch.bool:
        said = Labels(nothing, target)
    else:
        said = Estimates(target.mean().expand(len(target)), target, 1.0)
    for metric in metrics:
        try:
            metric.of(said)
        except Exception as error:
            what = str(error) or type(error).__name__
            if not isinstance(error, TypeError) or metric.reference not in what:
                what = f"{metric.reference} raised {type(error).__name__}: {error}"
            raise DataError(
                "train.metrics", what, f"def {metric.name}(target, output): return a number"
            ) from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
