"""Models: a table of functions that build them, and torchvision's by name.

Imports torch only when one is built, so that the names can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trainers.models.cnn import cnn
from trainers.models.mlp import mlp

if TYPE_CHECKING:
    from torch import nn

# The ``model`` section, the shape of one input without the batch, and the number of outputs → the
# model, with weights drawn from torch's global generator.
Build = Callable[[Mapping[str, Any], tuple[int, ...], int], "nn.Module"]

MODELS: dict[str, Build] = {"mlp": mlp, "cnn": cnn}

# Those whose layers all have a rule in `trainers.lanes.layers`.
STACKED = frozenset({"mlp", "cnn"})

# Those in which a row is by itself, so that `trainers.padding` can add some to a batch.
PADDED = frozenset({"mlp"})


def build(model: Mapping[str, Any], shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The model of a ``model`` section.

    Args:
        model: With every default; ``model["name"]`` is a row of `MODELS` or torchvision's.
        shape: Of one input, without the batch: (features,) or (channels, height, width).
        outputs: The number of classes, or 1.

    Raises:
        DataError: There is no such model, or its weights cannot be loaded.
    """
    from trainers.models import init, vision, weights

    make = MODELS.get(model["name"], vision.named)
    built = make(model, shape, outputs)
    init.draw(built, model["init"])
    if model.get("weights") is not None:
        weights.load(built, model["weights"])
    return built
