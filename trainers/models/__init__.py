"""Models: a table of functions that build them, and torchvision's and timm's by name.

Imports torch only when one is built, so that the names can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trainers.models.cnn import cnn
from trainers.models.mlp import mlp
from trainers.models.resnet import resnet
from trainers.models.tabular import embedding_mlp, residual_mlp
from trainers.models.text import TEXT_MODELS

if TYPE_CHECKING:
    from torch import nn

# The ``model`` section, the shape of one input without the batch, the number of outputs, and how
# the columns of a table became numbers (`trainers.data.Split.encoding`; None: not known) → the
# model, with weights drawn from torch's global generator.
Build = Callable[[Mapping[str, Any], tuple[int, ...], int, Any], "nn.Module"]

MODELS: dict[str, Build] = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "residual_mlp": residual_mlp,
    "embedding_mlp": embedding_mlp,
}

OF_IMAGES = ("mlp", "cnn", "resnet")
OF_TABLES = ("mlp", "residual_mlp", "embedding_mlp")

# Those whose layers all have a rule in `trainers.lanes.layers`.
STACKED = frozenset({"mlp", "cnn", "resnet", "residual_mlp"})

ESTIMATOR = "sklearn."  # begins the name of one of scikit-learn's (`trainers.models.estimators`)

# Those in which a row is by itself, so that `trainers.padding` can add some to a batch.
PADDED = frozenset({"mlp"})


def is_estimator(name: str) -> bool:
    """Whether a model is one of scikit-learn's, which knows no epochs and no learning rate."""
    return name.startswith(ESTIMATOR)


def build(
    model: Mapping[str, Any],
    shape: tuple[int, ...],
    outputs: int,
    encoding: Any | None = None,
) -> nn.Module:
    """The model of a ``model`` section.

    Args:
        model: With every default; ``model["name"]`` is a row of `MODELS`, one of torchvision or
            ``timm:`` and one of timm, or a row of `TEXT_MODELS`.
        shape: Of one input, without the batch: (features,), (channels, height, width) or, of
            texts, (tokens,).
        outputs: The number of classes, or 1.
        encoding: `trainers.data.Split.encoding` of the rows it is for.

    Raises:
        DataError: There is no such model, or its weights cannot be loaded.
    """
    from trainers.models import init, vision, weights

    if is_estimator(model["name"]):
        from trainers.models.estimators import Estimated

        return Estimated(outputs)  # to be loaded: scikit-learn makes it in fitting
    if isinstance(encoding, Mapping):  # of texts; a table's is a list of columns
        text = TEXT_MODELS[model["name"]](model, encoding, outputs)
        init.draw(text, model["init"])
        return text
    ours = OF_IMAGES if len(shape) > 1 else OF_TABLES
    make = MODELS[model["name"]] if model["name"] in ours else vision.named
    built = make(model, shape, outputs, encoding)
    init.draw(built, model["init"])
    if model.get("weights") is not None:
        weights.load(built, model, shape)
    return built
