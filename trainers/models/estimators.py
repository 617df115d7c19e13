"""scikit-learn's estimators as models of tables, by name: ``sklearn.svm.SVR``.

They are kept as skops writes them: their parts by name, and no code that would be run in reading.
What may be a part is listed: among the functions of NumPy and SciPy are some that run what they
are given.

Not covered: a forged file with trees whose branches lead nowhere can end the process.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.contract import DataError, did_you_mean
from trainers.models import ESTIMATOR

SEED = "random_state"
# Modules whose classes are parts of estimators, beside the classes that skops itself trusts.
PARTS = (
    "sklearn._loss.loss",
    "sklearn.ensemble._hist_gradient_boosting.predictor",
    "sklearn.gaussian_process._gpc",
    "sklearn.gaussian_process.kernels",
    "sklearn.metrics._dist_metrics",
    "sklearn.neighbors._ball_tree",
    "sklearn.neighbors._kd_tree",
    "sklearn.neural_network._stochastic_optimizers",
    "sklearn.tree._tree",
)
LEAST = float(np.finfo(np.float32).eps)  # a probability; what is 0 else would cost infinitely much


def make(model: Mapping[str, Any], classifies: bool, seed: int = 0) -> Any:
    """The estimator of a ``model`` section, not fitted.

    Args:
        model: ``model["name"]`` begins with ``sklearn.``; ``model["options"]`` are its settings.
        classifies: It is to predict classes, not values.

    Raises:
        DataError: There is no such estimator, setting or value; or it gives no probabilities.
    """
    kind, options = _class(model["name"], classifies), model["options"]
    known = inspect.signature(kind).parameters
    for name in options:
        if name == SEED:
            raise DataError(f"model.options.{SEED}", "is the trial's own seed", "leave it out")
        if name not in known:
            message = f"{kind.__name__} has no setting {name!r}"
            raise DataError(f"model.options.{name}", message, did_you_mean(name, known))
    missing = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty and name not in options
    ]
    if missing:
        raise DataError("model.options", f"{kind.__name__} cannot do without {missing[0]}")
    own = {SEED: seed} if SEED in known else {}
    estimator = kind(**options, **own)
    try:
        estimator._validate_params()
    except (ValueError, TypeError) as error:
        raise DataError("model.options", str(error)) from None
    if classifies and not hasattr(estimator, "predict_proba"):
        raise DataError("model.name", f"{kind.__name__} gives no probabilities of classes")
    return estimator


class Estimated(nn.Module):
    """A fitted estimator as a module: encoded columns in, log-probabilities or values out.

    Args:
        outputs: The number of classes, or 1.
        target_mean, target_std: As a module of a regression, it gives values in these units.
    """

    def __init__(
        self,
        outputs: int,
        estimator: Any = None,
        target_mean: float = 0.0,
        target_std: float = 1.0,
    ) -> None:
        super().__init__()
        self._outputs = outputs
        self._estimator = estimator
        self._units = target_mean, target_std

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """(B, F) float32 → (B, C) float32, or (B, 1) of a regression."""
        rows = inputs.cpu().numpy()
        if not hasattr(self._estimator, "classes_"):
            mean, std = self._units
            values = (np.asarray(self._estimator.predict(rows), np.float64) - mean) / std
            return torch.from_numpy(values.astype(np.float32)).reshape(-1, 1).to(inputs.device)
        said = np.zeros((len(rows), self._outputs), np.float64)  # a fold may lack a class
        said[:, self._estimator.classes_] = self._estimator.predict_proba(rows)
        logs = np.log(said.clip(LEAST, 1.0)).astype(np.float32)
        return torch.from_numpy(logs).to(inputs.device)

    def get_extra_state(self) -> dict[str, Any]:
        """What the ``state_dict`` holds of it."""
        from skops import io

        written = np.frombuffer(io.dumps(self._estimator), np.uint8).copy()
        return {"estimator": torch.from_numpy(written), "units": list(self._units)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: It holds something else than parts of estimators.
        """
        from skops import io

        written = state["estimator"].numpy().tobytes()
        types = io.get_untrusted_types(data=written)
        if strange := [name for name in types if not _is_part(name)]:
            raise ValueError(f"it holds {strange[0]}, which is no part of an estimator")
        self._estimator = io.loads(written, trusted=types)
        mean, std = state["units"]
        self._units = mean, std


def _is_part(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return module in PARTS and inspect.isclass(
        getattr(importlib.import_module(module), attribute, None)
    )


def _class(name: str, classifies: bool) -> Any:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    module, _, attribute = name.rpartition(".")
    there = _public(module, name)
    if attribute not in there:
        raise DataError(
            "model.name", f"{module} has no {attribute!r}", did_you_mean(attribute, there)
        )
    kind = getattr(importlib.import_module(module), attribute)
    wanted = ClassifierMixin if classifies else RegressorMixin
    if not (
        inspect.isclass(kind) and issubclass(kind, BaseEstimator) and issubclass(kind, wanted)
    ):
        role = "classifier" if classifies else "regressor"
        beside = [other for other in there if other.endswith(role.capitalize())]
        raise DataError("model.name", f"{name} is no {role}", did_you_mean(attribute, beside))
    return kind


def _public(module: str, name: str) -> list[str]:
    """The names that a module of scikit-learn offers."""
    import sklearn

    part = module.removeprefix(ESTIMATOR)
    if "." in part or part not in sklearn.__all__:
        shape = "expected an estimator as sklearn.MODULE.CLASS"
        raise DataError("model.name", f"{shape}; got {name}", did_you_mean(part, sklearn.__all__))
    return list(getattr(importlib.import_module(module), "__all__", ()))
