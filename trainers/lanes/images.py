"""Layers of images, as rows of `trainers.lanes.layers.LAYERS`.

Between these layers the activations are ``(B, k, C, H, W)``, in memory with the channels of all
lanes last. So a convolution of all lanes is one with a group of channels a lane (Wang et al.
2021), and norms and pooling see k·C channels. `Flatten` makes ``(k, C·H·W, B)`` of them.

A lane is the same in stacks of two and more. Alone it may differ by rounding errors: a convolution
of one group is another kernel of oneDNN's, which sums up in another order (docs/decisions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
aten = torch.ops.aten
WIDEST = 16  # numbers that a vector register holds, at most


def joined(x: Tensor) -> Tensor:
    """(B, k, C, H, W) → (B, k·C, H, W), channels last in memory: a view where it is so already."""
    if x.shape[1] == 1:
        return x.squeeze(1).contiguous(memory_format=torch.channels_last)
    return x.permute(0, 3, 4, 1, 2).contiguous().flatten(3).permute(0, 3, 1, 2)


def apart(x: Tensor, lanes: int) -> Tensor:
    """(B, k·C, H, W) → (B, k, C, H, W), a view: what `joined` joined."""
    return x.view(len(x), lanes, -1, *x.shape[2:])


def _each(channels: Tensor) -> Tensor:
    """(k·C,) → (k·C, 1, 1)"""
    return channels[:, None, None]


def refused(layer: nn.Module) -> bool:
    """Whether a layer of these types is set to something that is not done here."""
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    if isinstance(layer, nn.BatchNorm2d):
        return layer.momentum is None or not layer.track_running_stats
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size not in (1, (1, 1))
    return False


class Conv2d:
    def __init__(self, layer: nn.Conv2d, own: Tensors, gradients: Tensors) -> None:
        self._weight, self._bias = own["weight"].detach(), own.get("bias")
        self._gradients = gradients
        self._how = (layer.stride, layer.padding, layer.dilation, False, (0, 0))
        self._groups = len(self._weight) * layer.groups
        self._x = self._kernels = self._weight

    def forward(self, x: Tensor, run: Any) -> Tensor:
        self._x = joined(x)
        kernels = self._weight.flatten(0, 1)
        self._kernels = kernels.contiguous(memory_format=torch.channels_last)
        bias = None if self._bias is None else self._bias.detach().flatten()
        y: Tensor = aten.convolution(self._x, self._kernels, bias, *self._how, self._groups)
        return apart(y, len(self._weight))

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        by_x, by_kernels, by_bias = aten.convolution_backward(
            joined(gradient),
            self._x,
            self._kernels,
            None if self._bias is None else [self._bias.numel()],
            *self._how,
            self._groups,
            (further, True, self._bias is not None),
        )
        self._gradients["weight"].copy_(by_kernels.reshape(self._weight.shape))
        if self._bias is not None:
            self._gradients["bias"].copy_(by_bias.view_as(self._bias))
        return apart(by_x, len(self._weight)) if further else None


class BatchNorm2d:
    def __init__(self, layer: nn.BatchNorm2d, own: Tensors, gradients: Tensors) -> None:
        self._momentum, self._eps = layer.momentum, layer.eps
        self._own, self._gradients = own, gradients
        self._x = self._mean = self._scale = torch.empty(0)

    def forward(self, x: Tensor, run: Any) -> Tensor:
        self._x = joined(x)
        y, self._mean, self._scale = aten.native_batch_norm(
            self._x,
            *(self._flat(name) for name in ("weight", "bias", "running_mean", "running_var")),
            run.training,
            self._momentum,
            self._eps,
        )
        if run.training:
            self._own["num_batches_tracked"].add_(1)
        return apart(y, x.shape[1])

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        lanes, by_y, weight = gradient.shape[1:3], joined(gradient), self._flat("weight")
        # What torch gives by x depends, in the last digit, on whether a channel falls into a full
        # vector register: where a lane's channels fill them, it is the same in every stack.
        fills = gradient.shape[2] % WIDEST == 0
        by_x, by_weight, by_bias = aten.native_batch_norm_backward(
            by_y,
            self._x,
            weight,
            self._flat("running_mean"),
            self._flat("running_var"),
            self._mean,
            self._scale,
            True,
            self._eps,
            (further and fills, True, True),
        )
        if weight is not None:
            self._gradients["weight"].copy_(by_weight.view(lanes))
            self._gradients["bias"].copy_(by_bias.view(lanes))
        if not further:
            return None
        if fills:
            return apart(by_x, lanes[0])
        # In simple steps it always is, with x' the normed x:
        # scale · weight · (by_y − mean(by_y) − x' · mean(by_y · x')).
        count = by_y.numel() // by_y.shape[1]
        by_x = self._x - _each(self._mean)
        by_x.mul_(_each(self._scale * by_weight / -count)).add_(by_y).sub_(_each(by_bias / count))
        by_x.mul_(_each(self._scale if weight is None else self._scale * weight))
        return apart(by_x, lanes[0])

    def _flat(self, name: str) -> Tensor | None:
        """(k·C,), of a buffer a view; None where the layer has none."""
        return self._own[name].detach().reshape(-1) if name in self._own else None


class MaxPool2d:
    def __init__(self, layer: nn.MaxPool2d, _own: Tensors, _gradients: Tensors) -> None:
        stride, padding = layer.stride, layer.padding
        self._how = (layer.kernel_size, stride, padding, layer.dilation, layer.ceil_mode)
        self._x = self._places = torch.empty(0)

    def forward(self, x: Tensor, run: Any) -> Tensor:
        self._x = joined(x)
        y, self._places = aten.max_pool2d_with_indices(self._x, *self._how)
        return apart(y, x.shape[1])

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        by_x: Tensor = aten.max_pool2d_with_indices_backward(
            joined(gradient), self._x, *self._how, self._places
        )
        return apart(by_x, gradient.shape[1])


class GlobalAverage:
    def __init__(self, _: nn.AdaptiveAvgPool2d, _own: Tensors, _gradients: Tensors) -> None:
        self._shape = torch.Size()

    def forward(self, x: Tensor, run: Any) -> Tensor:
        self._shape = x.shape
        return x.mean((3, 4), keepdim=True)

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        # A copy: the layer before may write into it, and each pixel is to have its own number.
        return (gradient / self._shape[3:].numel()).expand(self._shape).contiguous()


class Flatten:
    """(B, k, C, H, W) → (k, C·H·W, B), the layout of the linear layers."""

    def __init__(self, _: nn.Flatten, _own: Tensors, _gradients: Tensors) -> None:
        self._shape = torch.Size()

    def forward(self, x: Tensor, run: Any) -> Tensor:
        self._shape = x.shape[2:]
        return x.permute(1, 2, 3, 4, 0).flatten(1, 3)

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        lanes, _, batch = gradient.shape
        return gradient.view(lanes, *self._shape, batch).permute(4, 0, 1, 2, 3)
