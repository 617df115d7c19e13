"""Batch norm over the rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce

from trainers.contract import DataError
from trainers.numerics import HALVES


class SyncedNorm(nn.modules.batchnorm._BatchNorm):
    """`torch.nn.SyncBatchNorm`, which is for GPUs only, as far as CPUs need it."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        given, input = input.dtype, input.float() if input.dtype in HALVES.values() else input
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
        if self.weight is not None:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(given)


def _over_ranks(own: Tensor) -> Tensor:
    """The sum over all ranks, with its gradients."""
    assert dist.group.WORLD is not None
    return cast(Tensor, all_reduce(own, "sum", dist.group.WORLD))


def synchronized(model: nn.Module, device: torch.device) -> nn.Module:
    """A model, with its batch norms over the rows of all ranks: their parameters are the same.

    Raises:
        DataError: It has a batch norm that is more than that, as timm's with their activations.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise DataError(
                "parallel",
                f"the model has a {type(norm).__name__}, for which there is none over several "
                "devices",
                "gpus_per_trial: 1, or another model",
            )
    if device.type == "cuda":
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        return convert(model)
    for norm in norms:
        norm.__class__ = SyncedNorm
    return model
