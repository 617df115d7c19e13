"""A part of every parameter on each rank: for a model that one device does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from trainers.models.blocks import blocks
from trainers.parallel.norms import synchronized
from trainers.parallel.replicated import RowsOver
from trainers.parallel.world import World


class Sharded(RowsOver):
    """Parameters, gradients and what the optimizer remembers in parts: PyTorch's FSDP2 (Zhao et
    al. 2023, *PyTorch FSDP*). A block is whole on a device while it is computed."""

    any_layout = False

    def __init__(self, model: nn.Module, device: torch.device, own: World) -> None:
        model = synchronized(model, device)  # while its norms are plain layers
        mesh = init_device_mesh(device.type, (own.size,))
        for block in blocks(model):
            fully_shard(block.modules[0], mesh=mesh)
        # Resharded at once, also without a backward pass: averages are put in place in between.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        super().__init__(model, device, own)

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        found = super().norm(parameters)
        return found.full_tensor() if isinstance(found, DTensor) else found

    def state(self, own: dict[str, Any]) -> dict[str, Any]:
        whole: dict[str, Any] = pytree.tree_map_only(Tensor, _whole, own)
        return whole

    def loaded(self, state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
        parts: dict[str, Any] = _parts(own, state)
        return parts

    def weights(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().weights({name: _whole(tensor) for name, tensor in own.items()})


def _whole(tensor: Tensor) -> Tensor:
    """The whole of what is in parts, in main memory: a device may not hold all of it."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def _parts(own: Any, saved: Any) -> Any:
    """What is saved as a whole, in the parts that `own` is in; there may be more of it."""
    if isinstance(saved, Mapping):
        there = own if isinstance(own, Mapping) else {}
        return {key: _parts(there.get(key), value) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        here = own if isinstance(own, list | tuple) else ()
        return [_parts(one, value) for one, value in zip_longest(here, saved)]
    if not isinstance(own, DTensor):
        return saved
    whole = saved.to(own.device)
    # Every rank has read the whole of it, so that nothing is to be sent.
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)
