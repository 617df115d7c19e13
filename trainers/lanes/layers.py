"""The layers that many models of one shape run at once: a table of a class for each module type.

Between layers the activations are ``(k, features, B)``, the batch last (*features first*), so that
a linear layer of all lanes is one batched product with weights as ``nn.Linear`` keeps them. Of
images they are ``(B, k, C, H, W)`` up to the `Flatten` (`trainers.lanes.images`).

The gradients of the commonest layers are written out: on models as small as these autograd costs
as much as the arithmetic. The others use autograd, layer by layer (`ByAutograd`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.lanes import images, noise
from trainers.lanes.composed import Chain, Sum
from trainers.lanes.exact import product, total
from trainers.lanes.vmapped import Vmapped
from trainers.models.modules import ImageBlock, RowBlock

Tensors = Mapping[str, Tensor]  # a layer's own, by name: (k, …)


@dataclass
class Pass:
    """One pass of a batch through all layers of the lanes.

    Attributes:
        training: Whether dropout drops and batch norm uses the batch.
        dropout: (draws, k, 1) the share that each dropout layer drops, in [0, 1).
        threshold: (draws, k, 1) int32 of `dropout`, see `noise.threshold`.
        keys: (draws, k, 2) int32, a key for each dropout layer; None if no lane drops anything.
        drawn: How many of the keys have been used.
    """

    training: bool
    dropout: Tensor | None = None
    threshold: Tensor | None = None
    keys: Tensor | None = None
    drawn: int = 0


class Layer(Protocol):
    """A layer of some neighbouring lanes. Used under ``torch.no_grad()``."""

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """(k, in, B) → (k, out, B), or of images; `x` is the layer's, it may be changed."""

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        """Put the gradients of the layer's own parameters where they belong.

        Args:
            gradient: Of the loss by what `forward` gave last; it may be changed.
            further: Whether the gradient by its `x` is wanted, too.
        """


# From the module, its parameters and buffers, and where the gradients of the former belong.
Make = Callable[[Any, Tensors, Tensors], Layer]


class Linear:
    def __init__(self, _: nn.Linear, own: Tensors, gradients: Tensors) -> None:
        self._weight, self._bias = own["weight"], own.get("bias")
        self._gradients = gradients
        self._x = self._weight

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        self._x = x
        if self._bias is None:
            return product(self._weight, x)
        return product(self._weight, x, self._bias.unsqueeze(2))

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        # Not by `out=`: its lanes do not lie side by side, and then torch does one after another.
        self._gradients["weight"].copy_(product(gradient, self._x.mT))
        if self._bias is not None:
            self._gradients["bias"].copy_(total(gradient))
        return product(self._weight.mT, gradient) if further else None


class ReLU:
    def __init__(self, _: nn.ReLU, _own: Tensors, _gradients: Tensors) -> None:
        self._y = torch.empty(0)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        self._y = x.relu_()
        return self._y

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        by_input: Tensor = torch.ops.aten.threshold_backward.grad_input(
            gradient, self._y, 0, grad_input=gradient
        )
        return by_input


class Dropout:
    def __init__(self, _: nn.Dropout, _own: Tensors, _gradients: Tensors) -> None:
        self._scale: Tensor | None = None

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        self._scale = None
        if not run.training or run.keys is None or run.dropout is None or run.threshold is None:
            return x
        shape = x.shape if x.dim() == 3 else x.permute(1, 2, 3, 4, 0).shape  # (k, …, B)
        elements = torch.arange(shape[1:].numel(), dtype=torch.int32, device=x.device)
        drawn = noise.uniform(run.keys[run.drawn], elements)
        scale = (drawn >= run.threshold[run.drawn]) / (1 - run.dropout[run.drawn])
        run.drawn += 1
        self._scale = (
            scale.view(shape) if x.dim() == 3 else scale.view(shape).permute(4, 0, 1, 2, 3)
        )
        return x * self._scale  # not in place: a ReLU before it still needs its x

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        return gradient if self._scale is None else gradient.mul_(self._scale)


class Nothing:
    """What changes nothing: the inputs are flat already."""

    def __init__(self, _: nn.Module, _own: Tensors, _gradients: Tensors) -> None:
        pass

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        return x

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        return gradient


# The module, its tensors, the activations, and the pass → new activations.
Function = Callable[[Any, Tensors, Tensor, Pass], Tensor]


class ByAutograd:
    """A layer given by what it does forward."""

    def __init__(self, function: Function, module: Any, own: Tensors, gradients: Tensors) -> None:
        self._function, self._module, self._own = function, module, own
        self._names = list(gradients)
        self._gradients = list(gradients.values())
        self._x = self._y = torch.empty(0)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        if not run.training:
            return self._function(self._module, self._own, x, run)
        with torch.enable_grad():
            self._x = x.detach().requires_grad_()
            self._y = self._function(self._module, self._own, self._x, run)
        return self._y.detach()

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        wanted = [self._own[name] for name in self._names] + [self._x] * further
        found = torch.autograd.grad(self._y, wanted, gradient)
        for place, by_own in zip(self._gradients, found, strict=False):
            place.copy_(by_own)
        return found[-1] if further else None


def _by_autograd(function: Function) -> Make:
    return lambda module, own, gradients: ByAutograd(function, module, own, gradients)


def batch_norm(layer: nn.BatchNorm1d, own: Tensors, x: Tensor, run: Pass) -> Tensor:
    # One batch norm over all lanes' channels: the statistics are each channel's own.
    lanes, features, batch = x.shape
    flat = {name: tensor.reshape(-1) for name, tensor in own.items() if tensor.dim() == 2}
    running = {name: flat.get(name) for name in ("running_mean", "running_var")}
    y = functional.batch_norm(
        x.reshape(1, lanes * features, batch),
        running["running_mean"],
        running["running_var"],
        flat.get("weight"),
        flat.get("bias"),
        run.training or running["running_mean"] is None,
        0.1 if layer.momentum is None else layer.momentum,
        layer.eps,
    )
    if run.training:
        own["num_batches_tracked"].add_(1)
    return y.view(lanes, features, batch)


def layer_norm(layer: nn.LayerNorm, own: Tensors, x: Tensor, _: Pass) -> Tensor:
    if x.is_cuda:  # row by row, where it is the same whatever the number of lanes
        y = functional.layer_norm(x.mT, x.shape[1:2], eps=layer.eps).mT
    else:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        y = (x - mean) * torch.rsqrt(variance + layer.eps)
    if "weight" in own:
        y = y * own["weight"].unsqueeze(2)
    return y + own["bias"].unsqueeze(2) if "bias" in own else y


def elementwise(layer: nn.Module, _: Tensors, x: Tensor, _pass: Pass) -> Tensor:
    y: Tensor = layer(x)
    return y


def chain(module: nn.Module, own: Tensors, gradients: Tensors) -> Layer:
    """A module's children one after another."""
    return Chain(
        [
            rule(child)(child, below(name, own), below(name, gradients))
            for name, child in module.named_children()
        ]
    )


def row_block(block: RowBlock, own: Tensors, gradients: Tensors) -> Layer:
    return Sum([chain(block, own, gradients), Chain([])])


def image_block(block: ImageBlock, own: Tensors, gradients: Tensors) -> Layer:
    branches = [
        chain(getattr(block, name), below(name, own), below(name, gradients))
        for name in ("body", "shortcut")
    ]
    return Chain([Sum(branches), ReLU(nn.ReLU(), {}, {})])


# What has a rule if all that it is made of has one.
COMPOSED = (nn.Sequential, RowBlock, ImageBlock)

LAYERS: dict[type[nn.Module], Make] = {
    nn.Linear: Linear,
    nn.ReLU: ReLU,
    nn.Dropout: Dropout,
    nn.Flatten: images.Flatten,
    nn.Identity: Nothing,
    nn.Conv2d: images.Conv2d,
    nn.BatchNorm2d: images.BatchNorm2d,
    nn.MaxPool2d: images.MaxPool2d,
    nn.AdaptiveAvgPool2d: images.GlobalAverage,
    nn.Sequential: chain,
    RowBlock: row_block,
    ImageBlock: image_block,
    nn.BatchNorm1d: _by_autograd(batch_norm),
    nn.LayerNorm: _by_autograd(layer_norm),
    **dict.fromkeys(
        (
            nn.LeakyReLU,
            nn.ELU,
            nn.SELU,
            nn.GELU,
            nn.SiLU,
            nn.Mish,
            nn.Hardswish,
            nn.Tanh,
            nn.Sigmoid,
        ),
        _by_autograd(elementwise),
    ),
}


def parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """What a stack runs one after another, by name: the layers of an ``nn.Sequential``, or the
    whole model, of which the name is empty."""
    return list(model.named_children()) if isinstance(model, nn.Sequential) else [("", model)]


def rule(layer: nn.Module) -> Make:
    """How the layers of many models are run at once."""
    return Vmapped if _without_rule(layer) else LAYERS[type(layer)]


def unsupported(model: nn.Module) -> str | None:
    """Why `model` can only be stacked by ``vmap``, in words, or None: there are rules for it."""
    if not isinstance(model, nn.Sequential):
        return f"{type(model).__name__} is no nn.Sequential"
    return _without_rule(model)


def below(name: str, tensors: Tensors) -> dict[str, Tensor]:
    """Those of the layer `name`, by their names in it; the empty name is the whole model's."""
    prefix = f"{name}." if name else ""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _without_rule(layer: nn.Module) -> str | None:
    if type(layer) in COMPOSED:
        return next(filter(None, map(_without_rule, layer.children())), None)
    if type(layer) not in LAYERS:
        return f"there is no rule for {type(layer).__name__}"
    return f"there is no rule for {layer}" if images.refused(layer) else None


def forward(layers: Sequence[Layer], inputs: Tensor, run: Pass) -> Tensor:
    """(k, B, …) inputs → (k, outputs, B)."""
    # Images as (B, k, C, H, W), rows as (k, features, B).
    x = inputs.mT if inputs.dim() == 3 else inputs.transpose(0, 1)
    return Chain(layers).forward(x, run)


def backward(layers: Sequence[Layer], gradient: Tensor) -> None:
    """From the gradient of the loss by what `forward` gave.

    Args:
        layers: From the first one that learns.
    """
    Chain(layers).backward(gradient, further=False)
