"""The built-in trainers by name, and how a name in a study file becomes a function.

Importing this costs no torch; a trainer's module is imported when it is resolved.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel

from trainers import options, together
from trainers.contract import DataError, TogetherTrainer, Trainer, did_you_mean
from trainers.models import PADDED
from trainers.padding import padded

if TYPE_CHECKING:
    from trainers.data import Dataset
    from trainers.own_metrics import OwnMetric


@dataclass(frozen=True)
class BuiltIn:
    """A trainer that ships with hpo.

    Attributes:
        function: ``module:function``, imported when it is used.
        together: The same of its `trainers.contract.TogetherTrainer`.
        kind: Of the data that it can use.
        data, model, train, ensemble: What those sections of a study file may say.
        description: One line for the documentation.
    """

    function: str
    together: str
    kind: Literal["images", "table", "text"]
    data: type[BaseModel]
    model: type[BaseModel]
    train: type[BaseModel]
    ensemble: type[BaseModel]
    description: str


TRAINERS: dict[str, BuiltIn] = {
    "image_classifier": BuiltIn(
        "trainers.image:train",
        "trainers.image:train_together",
        "images",
        options.ImageData,
        options.ImageModel,
        options.ImageTrain,
        options.Ensemble,
        "Images into classes: an mlp, a small cnn or resnet, or a model of torchvision or timm.",
    ),
    "tabular": BuiltIn(
        "trainers.tabular:train",
        "trainers.tabular:train_together",
        "table",
        options.TableData,
        options.TableModel,
        options.Train,
        options.Ensemble,
        "Classes or values from the columns of a table.",
    ),
    "text_classifier": BuiltIn(
        "trainers.text:train",
        "trainers.text:train_together",
        "text",
        options.TextData,
        options.TextModel,
        options.Train,
        options.Ensemble,
        "Texts into classes: embeddings, a small transformer, or a Hugging Face model.",
    ),
}


def resolve(name: str, folder: Path) -> Trainer:
    """The trainer that a study file names.

    Args:
        name: A built-in's name, or ``module:function``.
        folder: The study file's folder; it is put first on ``sys.path`` for the module.

    Raises:
        DataError: There is none of that name, or it is not a function of one argument. What the
            user's module raises while it is imported is passed on as it is.
    """
    if name in TRAINERS:
        return cast(Trainer, _imported(TRAINERS[name].function))
    reference = options.REFERENCE.fullmatch(name)
    if reference is None:
        raise DataError(
            "trainer",
            f"expected {', '.join(TRAINERS)}, or your own as module:function; got {name!r}",
            did_you_mean(name, TRAINERS),
        )
    module = _module(reference["module"], folder, "trainer")
    function = _attribute(module, reference["attribute"], "trainer")
    _check_signature(name, function, "trainer", ("trial",))
    return cast(Trainer, function)


def resolve_together(name: str) -> TogetherTrainer | None:
    """What trains trials of the trainer `name` together; None where only one at a time can be."""
    return cast(TogetherTrainer, _imported(TRAINERS[name].together)) if name in TRAINERS else None


def why_in_turn(name: str, settings: Mapping[str, Any]) -> str | None:
    """Why trials are trained one after another and not as lanes, in words; None: as lanes.

    Args:
        name: The trainer's.
        settings: All of them by their paths, ``train.lr``.
    """
    if name not in TRAINERS:
        return f"{name} trains one trial at a time"
    return together.why_not(settings)


def how_trained(identity: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The same as it is recorded: ``as a lane``, or ``in turn: WHY``.

    Args:
        identity: Of the study: its settings by their keys.
    """
    why = why_in_turn(identity["trainer"], settings)
    if "parallel" in identity:
        why = f"over {identity['gpus_per_trial']} devices"
    return f"in turn: {why}" if why else "as a lane"


def stack_key(name: str, params: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What trials have in common that can be trained together, or None: it cannot be.

    Args:
        params: Every section, with every default.
    """
    settings = {
        f"{section}.{key}": value
        for section, values in params.items()
        for key, value in values.items()
    }
    if why_in_turn(name, settings):
        return None
    shared = {
        path: value
        for path, value in settings.items()
        if path not in together.PER_LANE and not path.startswith("ensemble.")
    }
    if settings["model.name"] in PADDED:
        shared["train.batch_size"] = padded(settings["train.batch_size"])
    return json.dumps([name, shared], sort_keys=True)


def own_metrics(
    params: Mapping[str, Mapping[str, Any]], folder: Path | None = None
) -> list[OwnMetric]:
    """The user's own metrics that ``train.metrics`` names.

    Args:
        folder: The study file's, as for `resolve`; None: they have been found before.

    Raises:
        DataError: There is none of that name, or it is not a function of two arguments.
    """
    found = []
    for name in params["train"]["metrics"]:
        reference = options.REFERENCE.fullmatch(name)
        if reference is None:
            continue
        from trainers.own_metrics import OwnMetric

        module = _module(reference["module"], folder, "train.metrics")
        function = _attribute(module, reference["attribute"], "train.metrics")
        _check_signature(name, function, "train.metrics", ("target", "output"))
        found.append(OwnMetric(name, function))
    return found


def prepare(
    name: str,
    params: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    folder: Path | None = None,
    stages: int = 1,
) -> None:
    """Find what would fail every trial, before there is a study. For built-in trainers.

    Args:
        params: The sections ``data``, ``model`` and ``train``, with every default.
        folder: The study file's, where the user's own metrics are looked for.
        stages: Of a pipeline that the model is to be divided into.

    Raises:
        DataError: The data is not of the trainer's kind, a batch is larger than the training
            rows, or the model cannot be built for this data.
    """
    from trainers.preparation import check

    check(TRAINERS[name].kind, params, dataset, own_metrics(params, folder), stages)


def _imported(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _module(name: str, folder: Path | None, key: str) -> Any:
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (name == missing or name.startswith(f"{missing}.")):
            raise  # the module is there; it is something it imports that is not
        there = [] if folder is None else [path.stem for path in folder.glob("*.py")]
        raise DataError(
            key,
            f"there is no module {name!r} in {folder}, and none is installed",
            did_you_mean(name, there),
        ) from None


def _attribute(module: Any, name: str, key: str) -> Any:
    if not hasattr(module, name):
        there = [key for key, value in vars(module).items() if callable(value)]
        raise DataError(key, f"{module.__name__} has no {name!r}", did_you_mean(name, there))
    return getattr(module, name)


def _check_signature(name: str, function: Any, key: str, arguments: Sequence[str]) -> None:
    if not callable(function):
        raise DataError(key, f"{name} is not a function but {_article(type(function).__name__)}")
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments)
    except TypeError:
        raise DataError(
            key,
            f"{name} is called with ({', '.join(arguments)}); it takes {signature}",
            f"def {name.partition(':')[2]}({', '.join(arguments)}):",
        ) from None


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
