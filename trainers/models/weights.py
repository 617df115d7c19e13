"""Weights to start from: a file, those of a trial of hpo, or those that come with a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from trainers.contract import DataError
from trainers.models.vision import TIMM, timm_options

SHOWN = 5

# How weights that come with a model are named; all else is a file.
NAMED = re.compile(r"[A-Z][A-Z0-9_]*")

Tensors = Mapping[str, torch.Tensor]


def load(model: nn.Module, section: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Load what ``section["weights"]`` names into `model`; a last layer for another number of
    classes stays as drawn.

    Args:
        section: The ``model`` section that `model` was made of.
        shape: Of one input.

    Raises:
        DataError: There are no such weights, the file is not a state_dict, or not one of this
            model.
    """
    source = section["weights"]
    own = model.state_dict()
    if NAMED.fullmatch(source):
        found = _that_come_with(section["name"], source, shape)
        # Some were trained with a second head, which is left out here (`vision`).
        found = {key: tensor for key, tensor in found.items() if key in own}
    else:
        found = _read(Path(source).expanduser())
    head = [key for key in head_keys(model) if key in found]
    if any(found[key].shape != own[key].shape for key in head):
        found = {**found, **{key: own[key] for key in head}}
    problems = [
        *(f"{key} is missing" for key in own if key not in found),
        *(f"{key} is not in the model" for key in found if key not in own),
        *(
            f"{key} is {_shape(found[key])}, the model's {_shape(own[key])}"
            for key in own
            if key in found and found[key].shape != own[key].shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(
            "model.weights",
            f"{source} does not fit the model: {', '.join(problems[:SHOWN])}{more}",
        )
    if not any(tensor.is_meta for tensor in own.values()):  # else: only checked
        model.load_state_dict(found)


def head_keys(model: nn.Module) -> list[str]:
    """The parameters of the last layer, which is for a number of classes."""
    name, head = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    return [f"{name}.{key}" for key in head.state_dict()]


# -- that come with a model


def _that_come_with(name: str, source: str, shape: tuple[int, ...]) -> Tensors:
    """From the cache of torch.hub (of timm: of Hugging Face), downloaded if they are not there."""
    if name.startswith(TIMM):
        return _of_timm(name.removeprefix(TIMM), source, shape)
    from torchvision import models

    if name not in models.list_models(module=models):
        raise DataError(
            "model.weights",
            f"no weights come with {name}; got {source}",
            "a file, or a model of torchvision or timm",
        )
    there = models.get_model_weights(name)
    known = list(there.__members__)
    if source not in known:
        closest = get_close_matches(source, known, n=len(known), cutoff=0)
        raise DataError("model.weights", f"{name} comes with {' or '.join(closest)}; got {source}")
    wanted = there[source]
    file = Path(torch.hub.get_dir(), "checkpoints", Path(wanted.url).name)
    try:
        # The whole model, not only its state_dict: some rename tensors of their earlier versions.
        return dict(models.get_model(name, weights=wanted, progress=False).state_dict())
    except OSError as error:  # URLError is one
        raise DataError(
            "model.weights",
            f"{source} of {name} is not on this machine, and cannot be downloaded: {error}",
            f"put {wanted.url} to {file}",
        ) from None


def _of_timm(name: str, source: str, shape: tuple[int, ...]) -> Tensors:
    if source != "DEFAULT":
        raise DataError(
            "model.weights", f"{TIMM}{name} comes with DEFAULT; got {source}", "weights: DEFAULT"
        )
    options = timm_options(name, shape)
    import timm

    try:
        return dict(timm.create_model(name, pretrained=True, **options).state_dict())
    except (OSError, RuntimeError) as error:  # of the hub's client, and of timm
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            "model.weights",
            f"weights of {TIMM}{name} cannot be loaded: {first[:200]}",
            "on a machine with internet: torch.save(timm.create_model(NAME, pretrained=True)"
            ".state_dict(), FILE); then weights: FILE",
        ) from None


# -- of a file


def _read(file: Path) -> Tensors:
    """A state_dict, or the one of a trial that hpo has kept (`trainers.saved`)."""
    try:
        found: Any = _loaded(file)
    except OSError as error:
        raise DataError("model.weights", f"{file} cannot be read: {error.strerror}") from None
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            "model.weights",
            f"{file} is not a state_dict: {first[:200]}",
            "torch.save(model.state_dict(), FILE)",
        ) from None
    if isinstance(found, Mapping) and {"version", "folds"} <= found.keys():
        found = _of_trial(file, found)
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items()
    ):
        raise DataError(
            "model.weights",
            f"{file} is not a state_dict but {type(found).__name__}",
            "torch.save(model.state_dict(), FILE)",
        )
    return found


def _loaded(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _of_trial(file: Path, kept: Mapping[str, Any]) -> Any:
    members = [member for fold in kept["folds"] for member in fold["members"]]
    if len(members) != 1:
        raise DataError(
            "model.weights",
            f"{file} holds {len(members)} models (folds, or members of an ensemble): which one is "
            "to be trained on, nobody says",
            "a trial without data.folds and ensemble",
        )
    return members[0]["weights"]


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(str(length) for length in tensor.shape) or "a number"
