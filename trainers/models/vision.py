"""torchvision's classification models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from trainers.contract import DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

# These have a second head that only helps to train very deep networks from nothing, and put out
# two tensors with it.
WITHOUT_SECOND_HEAD: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def named(model: Mapping[str, Any], shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A torchvision model with its head for `outputs` classes and weights drawn at random.

    Args:
        shape: (channels, height, width); a single channel is repeated three times.

    Raises:
        DataError: torchvision has no classification model of that name.
    """
    import torchvision

    from trainers.models import MODELS

    name = model["name"]
    there = torchvision.models.list_models(module=torchvision.models)
    if name not in there:
        close = get_close_matches(name, [*MODELS, *there], n=3)
        raise DataError(
            "model.name",
            f"expected {', '.join(MODELS)} or a classification model of torchvision; got {name!r}",
            f"did you mean {' or '.join(close)}?" if close else None,
        )
    extra: dict[str, Any] = dict(WITHOUT_SECOND_HEAD.get(name, {}))
    if name.startswith("vit_"):
        extra["image_size"] = shape[1]
    built: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=outputs, **extra
    )
    if shape[0] == 1:
        built.register_forward_pre_hook(_repeat_channel)
    return built


def _repeat_channel(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].expand(-1, 3, -1, -1),)
