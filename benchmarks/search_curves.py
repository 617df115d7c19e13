"""LCBench's learning curves, as YAHPO Gym's surrogate draws them. Not part of the package.

LCBench (Zimmer, Lindauer, Hutter: Auto-PyTorch Tabular, 2021) trained 2,000 configurations of a
multilayer perceptron on each of 35 data sets for 52 epochs; YAHPO Gym (Pfisterer et al., 2022)
fitted a network to 34 of them, which gives a curve for any configuration. It is smooth: the same
configuration always has the same curve. Licence: Apache 2.0. To fetch it, and what runs it::

    pip install 'hpo[bench]'
    git clone --depth 1 --filter=blob:none --sparse https://github.com/slds-lmu/yahpo_data
    git -C yahpo_data sparse-checkout set lcbench

and give ``--data yahpo_data/lcbench``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.spec import Choice, Float, Int, Parameter

EPOCHS = 52
# The surrogate's numeric inputs, in its order.
INPUTS = (
    "epoch",
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
RANDOM_CONFIGURATIONS = 20_000  # which a value is rated against
# As many study files have it: listed numbers, of which nothing says that they have an order.
LISTED = {
    "batch_size": Choice(choices=(16, 32, 64, 128, 256, 512)),
    "num_layers": Choice(choices=(1, 2, 3, 4, 5)),
}


class Curves:
    """Validation accuracy in percent, by configuration and epoch, of every data set.

    Attributes:
        instances: OpenML's task numbers: the first half is to tune on, the second to report.
        search: The seven hyperparameters.

    Args:
        folder: Where the surrogate is.
        listed: Whether two of the hyperparameters are `LISTED`.
    """

    def __init__(self, folder: Path, listed: bool = False) -> None:
        declared = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        space = {each["name"]: each for each in declared}
        self.instances: tuple[str, ...] = tuple(space["OpenML_task_id"]["choices"])
        self._numbers = {
            name: _parameter(space[name]) for name in sorted(INPUTS) if name != "epoch"
        }
        self.search: dict[str, Parameter] = {**self._numbers, **(LISTED if listed else {})}
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]
        self._model = folder / "model.onnx"

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self._model, options)

    def curve(self, instance: str, params: Mapping[str, float]) -> NDArray[np.float64]:
        """One configuration's accuracies after each epoch, (EPOCHS,)."""
        rows = np.empty((EPOCHS, len(INPUTS)), np.float32)
        for column, name in enumerate(INPUTS):
            rows[:, column] = np.arange(1, EPOCHS + 1) if name == "epoch" else params[name]
        return self._accuracies(instance, rows)

    def scale(self, instance: str) -> tuple[float, float]:
        """The best and the median final value of `RANDOM_CONFIGURATIONS` drawn at random."""
        draw = np.random.default_rng(123)
        rows = np.empty((RANDOM_CONFIGURATIONS, len(INPUTS)), np.float32)
        units = dict(
            zip(
                self._numbers,
                draw.random((RANDOM_CONFIGURATIONS, len(self._numbers))).T,
                strict=True,
            )
        )
        for column, name in enumerate(INPUTS):
            rows[:, column] = (
                EPOCHS if name == "epoch" else _from_unit(self._numbers[name], units[name])
            )
        values = self._accuracies(instance, rows)
        return float(values.max()), float(np.median(values))

    def _accuracies(self, instance: str, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        codes = np.full((len(rows), 1), self._codes[instance], np.int32)
        outputs = self._session.run(None, {"x_cat": codes, "x_cont": rows})[0]
        return np.asarray(outputs[:, 1], np.float64)


def _parameter(declared: Mapping[str, Any]) -> Float | Int:
    low, high, log = declared["lower"], declared["upper"], declared["log"]
    if declared["type"] == "uniform_int":
        return Int(low=low, high=high, log=log)
    return Float(low=low, high=high, log=log)


def _from_unit(parameter: Float | Int, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in a parameter's range from such in [0, 1]; whole numbers are equally likely."""
    edge = 0.4999 if isinstance(parameter, Int) else 0.0
    low, high = parameter.low - edge, parameter.high + edge
    if parameter.log:
        value = np.exp(np.log(low) + unit * np.log(high / low))
    else:
        value = low + unit * (high - low)
    if isinstance(parameter, Int):
        return np.clip(np.round(value), parameter.low, parameter.high)
    return value
