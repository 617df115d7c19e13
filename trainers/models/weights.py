"""Loading a state_dict to start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers.contract import DataError

SHOWN = 5


def load(model: nn.Module, file: str) -> None:
    """Load `file` into `model`; a last layer for another number of classes stays as drawn.

    Raises:
        DataError: The file is not a state_dict, or not one of this model.
    """
    found = _read(Path(file).expanduser())
    own = model.state_dict()
    head = [key for key in _head_keys(model) if key in found]
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
            f"{file} does not fit the model: {', '.join(problems[:SHOWN])}{more}",
        )
    if not any(tensor.is_meta for tensor in own.values()):  # else: only checked
        model.load_state_dict(found)


def _read(file: Path) -> Mapping[str, torch.Tensor]:
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError("model.weights", f"{file} cannot be read: {error.strerror}") from None
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            "model.weights",
            f"{file} is not a state_dict: {first[:200]}",
            "torch.save(model.state_dict(), FILE)",
        ) from None
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items()
    ):
        raise DataError(
            "model.weights",
            f"{file} is not a state_dict but {type(found).__name__}",
            "torch.save(model.state_dict(), FILE)",
        )
    return found


def _head_keys(model: nn.Module) -> list[str]:
    """The parameters of the last layer, which is for a number of classes."""
    name, head = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    return [f"{name}.{key}" for key in head.state_dict()]


def _shape(tensor: torch.Tensor) -> str:
    return "×".join(str(length) for length in tensor.shape) or "a number"
