"""Batch norm over the rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce


class SyncedNorm(nn.modules.batchnorm._BatchNorm):
    """`torch.nn.SyncBatchNorm`, which is for GPUs only, as far as CPUs need it."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        rows = torch.tensor(input.numel() / input.shape[1], dtype=input.dtype)
        dist.all_reduce(rows)
        mean = _over_ranks(input.sum(dims)) / rows
        centred = input - mean.view(shape)
        variance = _over_ranks(centred.square().sum(dims)) / rows
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = self.momentum
            if momentum is None:
                momentum = 1 / int(self.num_batches_tracked)
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_((variance * rows / (rows - 1)).detach(), momentum)
        found = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is None:
            return found
        return found * self.weight.view(shape) + self.bias.view(shape)


def _over_ranks(own: Tensor) -> Tensor:
    """The sum over all ranks, with its gradients."""
    assert dist.group.WORLD is not None
    return cast(Tensor, all_reduce(own, "sum", dist.group.WORLD))


def synchronized(model: nn.Module) -> nn.Module:
    """A model, with its batch norms over the rows of all ranks: their parameters are the same."""
    if next(model.parameters()).is_cuda:
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        return convert(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SyncedNorm
    return model
