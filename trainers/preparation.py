"""What would fail every trial of a built-in trainer, found before there is a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from trainers.contract import DataError
from trainers.data import Dataset
from trainers.ensembles import DIFFERING
from trainers.ensembles.boosting import check_classes
from trainers.models import MODELS, build
from trainers.models.weights import load

KINDS = {"images": "images", "table": "a table"}


def check(
    kind: Literal["images", "table"], params: Mapping[str, Mapping[str, Any]], dataset: Dataset
) -> None:
    """Check the data's kind, the batch size, what is watched, and that the model takes this data.

    Next to no memory is used, whatever the size of the model.

    Args:
        params: The sections, with every default.

    Raises:
        DataError: As said.
    """
    source = params["data"]["source"]
    if dataset.kind != kind:
        raise DataError(
            "data.source", f"{source} is {KINDS[dataset.kind]}; the trainer needs {KINDS[kind]}"
        )
    fewest = min(len(split.train) for split in dataset.splits)
    if params["train"]["batch_size"] > fewest:
        raise DataError(
            "train.batch_size",
            f"at most {fewest}, the rows to train on; got {params['train']['batch_size']}",
        )
    early = params["train"]["early_stopping"]
    if early and early["metric"] not in dataset.summary["metrics"]:
        raise DataError(
            "train.early_stopping.metric",
            f"{early['metric']} is not reported for {dataset.task}; there are "
            + ", ".join(name for name in dataset.summary["metrics"] if name.startswith("val/")),
        )
    rows = min(2, params["train"]["batch_size"])
    _check_model(params["model"], dataset, rows)
    _check_ensemble(params, dataset, rows)


def _check_ensemble(params: Mapping[str, Mapping[str, Any]], dataset: Dataset, rows: int) -> None:
    ensemble, method = params["ensemble"], params["ensemble"]["method"]
    if method == "boosting" and ensemble["boosting"] == "samme":
        check_classes(dataset)
    if method == "bagging" and ensemble["feature_fraction"] < 1 and dataset.kind != "table":
        raise DataError(
            "ensemble.feature_fraction", "is for tables: the pixels of an image are no columns"
        )
    for own in ensemble["members"] if method in DIFFERING else ():
        changed = {name: value for name, value in own.items() if value is not None}
        try:
            _check_model({**params["model"], **changed}, dataset, rows)
        except DataError as error:
            raise DataError("ensemble.members", str(error), error.hint) from None


def _check_model(options: Mapping[str, Any], dataset: Dataset, rows: int) -> None:
    try:
        # Our own are small. Torchvision's are made of shapes only, which imports torch._dynamo.
        model = _try(options, dataset, rows, "cpu" if options["name"] in MODELS else "meta")
    except NotImplementedError:  # a few models compute with their weights as they are made
        model = _try(options, dataset, rows, "cpu")
    if options.get("weights") is not None:
        load(model, options["weights"])


def _try(options: Mapping[str, Any], dataset: Dataset, rows: int, device: str) -> nn.Module:
    """Make the model and show it a batch."""
    try:
        with torch.device(device):
            model = build({**options, "weights": None}, dataset.shape, dataset.outputs)
            model(torch.zeros((rows, *dataset.shape)))
    except NotImplementedError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, DataError):
            raise
        shape = " × ".join(str(length) for length in dataset.shape)
        raise DataError(
            "model.name",
            f"{options['name']} cannot train on {rows} × {shape}: "
            f"{str(error).splitlines()[0][:200]}",
            "another data.size" if dataset.kind == "images" else None,
        ) from None
    return model
