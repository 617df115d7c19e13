"""What would fail every trial of a built-in trainer, found before there is a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from trainers import estimators, fine_tuning, metrics, own_metrics
from trainers.contract import DataError
from trainers.data import Dataset
from trainers.ensembles import DIFFERING
from trainers.ensembles.boosting import check_classes
from trainers.ensembles.held_out import parts_of
from trainers.lanes import vmapped
from trainers.lanes.layers import unsupported
from trainers.losses import LOSSES, TARGETS, chosen, of_task, why_not
from trainers.models import MODELS, build, is_estimator
from trainers.models.weights import load
from trainers.own_metrics import OwnMetric
from trainers.schedules import batch_size

KINDS = {"images": "images", "table": "a table", "text": "texts"}


def check(
    kind: Literal["images", "table", "text"],
    params: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    own: Sequence[OwnMetric] = (),
    stages: int = 1,
) -> None:
    """Check the data's kind, the batch size, loss, metrics, and that the model takes this data.

    Next to no memory is used, whatever the size of the model.

    Args:
        params: The sections, with every default.
        own: The user's own metrics.
        stages: Of a pipeline that the model is to be divided into.

    Raises:
        DataError: As said.
    """
    source = params["data"]["source"]
    if dataset.kind != kind:
        raise DataError(
            "data.source", f"{source} is {KINDS[dataset.kind]}; the trainer needs {KINDS[kind]}"
        )
    if is_estimator(params["model"]["name"]):
        _check_metrics(params["train"], dataset, own)
        estimators.check(params, dataset)
        return
    _check_batches(params["train"], [len(split.train) for split in dataset.splits])
    if params["train"]["sampling"] == "balanced" and dataset.task != "classification":
        raise DataError(
            "train.sampling",
            f"balanced draws from one class as often as from another; this is a {dataset.task}",
            "sampling: shuffle",
        )
    _check_groups(params["ensemble"], dataset)
    _check_loss(params["train"], dataset)
    _check_metrics(params["train"], dataset, own)
    rows = min(2, params["train"]["batch_size"])
    model = _check_model(params["model"], dataset, rows)
    fine_tuning.check(model, params["train"])
    _check_stages(model, stages)
    if params["train"]["vmap"]:
        _check_vmap(params["model"], dataset)
    _check_ensemble(params, dataset, rows, stages)
    if params["train"].get("augment"):
        _check_augment(params, dataset)


def _check_batches(train: Mapping[str, Any], rows: Sequence[int]) -> None:
    """That no batch is larger than the rows; or, for L-BFGS, that it is all of them."""
    size, fewest, most = train["batch_size"], min(rows), max(rows)
    if train["optimizer"] == "lbfgs":
        if size < most:
            raise DataError(
                "train.batch_size",
                f"lbfgs learns from all {most} rows at once; got batches of {size}",
                f"batch_size: {most}, or another optimizer",
            )
        if train["precision"] == "fp16":
            raise DataError(
                "train.precision",
                "lbfgs compares losses, for which fp16 has too few digits",
                "precision: float32",
            )
        return
    if size > fewest:
        raise DataError("train.batch_size", f"at most {fewest}, the rows to train on; got {size}")
    largest = batch_size(train, train["epochs"])
    if largest > fewest:
        raise DataError(
            "train.batch_growth",
            f"batches grow to {largest}; at most {fewest}, the rows to train on",
            "fewer epochs at which they grow, or a smaller batch_size",
        )


def _check_loss(train: Mapping[str, Any], dataset: Dataset) -> None:
    """That the loss is for what is predicted, and its settings are for the loss."""
    name = chosen(train, dataset.task)
    why = why_not(name, dataset.task)
    if why:
        raise DataError("train.loss", why, f"one of {', '.join(of_task(dataset.task))}")
    for setting, off in (("label_smoothing", 0.0), ("class_weights", "none")):
        if train[setting] != off and setting not in LOSSES[name].settings:
            raise DataError(
                f"train.{setting}",
                f"has no effect with the loss {name}, of {TARGETS[dataset.task]}",
                f"{setting}: {off}",
            )


def _check_metrics(train: Mapping[str, Any], dataset: Dataset, own: Sequence[OwnMetric]) -> None:
    classes = dataset.classes or ()
    known = metrics.known(dataset.task, classes)
    for key, name in metrics.watched(train).items():
        if name not in known:
            raise DataError(
                f"train.{key}",
                f"{name} is not reported for {dataset.task}; there are "
                + ", ".join(other for other in known if other.startswith("val/")),
            )
    for name in train["metrics"]:
        row = metrics.TABLES[dataset.task].get(name)
        if name in metrics.FURTHER and row is None:
            there = [other for other in metrics.TABLES[dataset.task] if other in metrics.FURTHER]
            raise DataError(
                "train.metrics", f"{name} is not for {dataset.task}", f"one of {', '.join(there)}"
            )
        if row is not None and len(classes) < row.classes:
            raise DataError(
                "train.metrics",
                f"{name} says something of {row.classes} classes and more; there are "
                f"{len(classes)}",
            )
    first = dataset.splits[0]
    own_metrics.check(own, first.target[first.validation], dataset.outputs)


def _check_augment(params: Mapping[str, Mapping[str, Any]], dataset: Dataset) -> None:
    augment, (channels, height, width) = params["train"]["augment"], dataset.shape
    for name in ("saturation", "hue") if channels == 1 else ():
        if augment[name]:
            raise DataError(f"train.augment.{name}", "has no effect: the images are grayscale")
    if augment["crop"] >= min(height, width):
        raise DataError(
            "train.augment.crop",
            f"expected less than {min(height, width)}, the images' size; got {augment['crop']}",
        )
    for name in ("mixup", "cutmix"):
        if augment[name] and params["train"]["batch_size"] == 1:
            raise DataError(f"train.augment.{name}", "has no effect on batches of 1")
        if augment[name] and params["ensemble"]["method"] == "boosting":
            raise DataError(
                f"train.augment.{name}",
                "does not go with ensemble.method boosting, which corrects single images",
            )


def _check_groups(ensemble: Mapping[str, Any], dataset: Dataset) -> None:
    """That there are groups enough where an ensemble divides the training rows once more."""
    wanted = parts_of(ensemble)
    for split in dataset.splits:
        if split.groups is None or wanted is None:
            continue
        key, parts = wanted
        there = len(torch.unique(split.groups[split.train]))
        if there < parts:
            raise DataError(
                f"ensemble.{key}",
                f"deals the training rows to {parts} parts, and these have {there} groups only",
                "data with more groups" if key == "combine" else f"inner_folds: {max(2, there)}",
            )


def _check_ensemble(
    params: Mapping[str, Mapping[str, Any]], dataset: Dataset, rows: int, stages: int
) -> None:
    ensemble, method = params["ensemble"], params["ensemble"]["method"]
    if method == "boosting" and ensemble["boosting"] == "samme":
        check_classes(dataset)
    if method == "stacking" and dataset.task == "multilabel":
        raise DataError(
            "ensemble.method",
            "stacking learns to combine classes or values; here are several labels",
            "method: bagging, with combine: weighted",
        )
    if method == "bagging" and ensemble["feature_fraction"] < 1 and dataset.kind != "table":
        raise DataError(
            "ensemble.feature_fraction",
            "is for tables: pixels of an image, or words of a text, are no columns",
        )
    models = {params["model"]["name"], *(own["name"] for own in ensemble["members"])}
    if method == "bagging" and ensemble["feature_fraction"] < 1 and "embedding_mlp" in models:
        raise DataError(
            "ensemble.feature_fraction", "embedding_mlp has no weights of a column to leave out"
        )
    for own in ensemble["members"] if method in DIFFERING else ():
        changed = {name: value for name, value in own.items() if value is not None}
        try:
            model = _check_model({**params["model"], **changed}, dataset, rows)
            fine_tuning.check(model, params["train"])
            _check_stages(model, stages)
        except DataError as error:
            raise DataError("ensemble.members", str(error), error.hint) from None


def _check_stages(model: nn.Module, stages: int) -> None:
    if stages > 1:
        from trainers.parallel.staged import divided  # and so torch.distributed

        divided(model, stages)


def _check_model(options: Mapping[str, Any], dataset: Dataset, rows: int) -> nn.Module:
    if dataset.kind == "text":
        model = _try(options, dataset, rows, "cpu")
        if options["weights"] is not None:
            build(options, dataset.shape, dataset.outputs, dataset.splits[0].encoding)
        return model
    try:
        # Our own are small. Torchvision's are made of shapes only, which imports torch._dynamo.
        model = _try(options, dataset, rows, "cpu" if options["name"] in MODELS else "meta")
    except NotImplementedError:  # a few models compute with their weights as they are made
        model = _try(options, dataset, rows, "cpu")
    if options.get("weights") is not None:
        load(model, options, dataset.shape)
    return model


def _check_vmap(options: Mapping[str, Any], dataset: Dataset) -> None:
    if dataset.kind == "text":
        raise DataError("train.vmap", "models of texts cannot be trained so", "vmap: false")
    split = dataset.splits[0]
    try:
        model = build({**options, "weights": None}, dataset.shape, dataset.outputs)
        if unsupported(model):
            vmapped.check(model, split.batch(split.train[:2])[0])
    except RuntimeError as error:
        raise DataError(
            "train.vmap",
            f"{options['name']} cannot be trained so: {str(error).splitlines()[0][:200]}",
            "vmap: false",
        ) from None


def _try(options: Mapping[str, Any], dataset: Dataset, rows: int, device: str) -> nn.Module:
    """Make the model and show it a batch."""
    try:
        with torch.device(device):
            encoding = dataset.splits[0].encoding
            model = build({**options, "weights": None}, dataset.shape, dataset.outputs, encoding)
            of_tokens = dataset.kind == "text"
            model(torch.ones((rows, *dataset.shape), dtype=torch.int32 if of_tokens else None))
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
            {"images": "another data.size", "text": "a smaller data.max_length"}.get(dataset.kind),
        ) from None
    return model
