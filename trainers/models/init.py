"""How the weights of a model are drawn at first: a table of functions of torch.nn.init."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def _named(name: str, **options: Any) -> Callable[[Any], Any]:
    """A function of `torch.nn.init`, which is imported when it is used."""

    def draw(weight: Any) -> None:
        from torch.nn import init

        getattr(init, name)(weight, **options)

    return draw


# None: as each layer draws its own (PyTorch: uniform, Kaiming's with a = √5).
INITIALIZATIONS: dict[str, Callable[[Any], Any] | None] = {
    "default": None,
    "normal": _named("normal_", std=0.02),
    "uniform": _named("uniform_", a=-0.05, b=0.05),
    "xavier_normal": _named("xavier_normal_"),
    "xavier_uniform": _named("xavier_uniform_"),
    "kaiming_normal": _named("kaiming_normal_", nonlinearity="relu"),
    "kaiming_uniform": _named("kaiming_uniform_", nonlinearity="relu"),
    "orthogonal": _named("orthogonal_"),
}


def draw(model: nn.Module, name: str) -> None:
    """Draw the weights of all linear and convolutional layers anew; biases become zero.

    Args:
        name: A row of `INITIALIZATIONS`; ``default`` changes nothing.
    """
    from torch import nn

    initialize = INITIALIZATIONS[name]
    if initialize is None:
        return
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            initialize(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
