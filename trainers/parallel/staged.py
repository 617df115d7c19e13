"""Some layers of a model on each rank, and batches that go through in parts: a pipeline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.utils import _pytree as pytree

from trainers.contract import DataError
from trainers.parallel.spread import Learning, LossOf, OverRanks
from trainers.parallel.world import World

# Of a batch, for each rank: while a pipeline fills and empties, its stages wait.
PARTS_A_RANK = 4


class Staged(OverRanks):
    """Neighbouring layers of a sequence on each rank, with about as many parameters: PyTorch's
    pipelining, a part forward and one backward in turn (Narayanan et al. 2019, *PipeDream*).

    Batch norm sees a part of a batch at a time. Only the last rank knows what is put out, until it
    is `gathered`.
    """

    any_layout = False

    def __init__(self, model: nn.Module, device: torch.device, own: World) -> None:
        super().__init__(divided(model, own.size)[own.rank], device, own)
        self._last = own.size - 1
        self._schedules: dict[tuple[int, bool], Schedule1F1B | ScheduleGPipe] = {}
        self._loss_of: LossOf

    def learn(
        self, learning: Learning, x: Tensor, loss_of: LossOf, rows: int, parts: int
    ) -> tuple[Tensor, Tensor]:
        self._loss_of = loss_of
        losses: list[Tensor] = []
        target = torch.arange(rows, device=self._device) if self._is_last else None
        with learning.forward():
            schedule = self._schedule(rows, learns=True)
            output = schedule.step(*self._input(x), target=target, losses=losses)
        if not self._is_last:
            return self._nothing, self._from_last(torch.empty((), device=self._device))
        with torch.no_grad():
            output, _ = loss_of(output, slice(0, rows))
        return output, self._from_last(torch.stack(losses).detach().sum())

    def gathered(self, output: Tensor, batches: Sequence[int]) -> Tensor:
        said: list[Any] = [(output.shape, output.dtype)]
        dist.broadcast_object_list(said, self._last, device=torch.device("cpu"))
        shape, dtype = said[0]
        if not self._is_last:
            output = torch.empty(shape, dtype=dtype, device=self._device)
        return self._from_last(output)

    def any(self, flag: bool) -> bool:
        return bool(self._from_last(torch.tensor(int(flag), device=self._device)))

    def answer(self, x: Tensor) -> Tensor:
        output = self._schedule(len(x), learns=False).step(*self._input(x))
        return output if self._is_last else self._nothing

    def answered(self, output: Tensor, rows: int) -> Tensor:
        return self.gathered(output, [rows])

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        squared = super().norm(parameters).to(self._device).square()
        dist.all_reduce(squared)
        return squared.sqrt()

    def state(self, own: dict[str, Any]) -> dict[str, Any]:
        return {"stages": self._every(own)}

    def loaded(self, state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
        stage: Mapping[str, Any] = state["stages"][self._world.rank]
        return stage

    def weights(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t for part in self._every(super().weights(own)) for name, t in part.items()}

    @property
    def _is_last(self) -> bool:
        return self._world.rank == self._last

    @property
    def _nothing(self) -> Tensor:
        return torch.empty(0, device=self._device)

    def _input(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) if self._world.rank == 0 else ()

    def _schedule(self, rows: int, learns: bool) -> Schedule1F1B | ScheduleGPipe:
        """For batches of so many rows: PyTorch's keeps the shapes of what is sent."""
        if (rows, learns) not in self._schedules:
            most = min(rows, PARTS_A_RANK * self._world.size)
            parts = max(n for n in range(1, most + 1) if rows % n == 0)  # all alike
            stage = PipelineStage(self.own, self._world.rank, self._world.size, self._device)
            make = Schedule1F1B if parts >= self._world.size else ScheduleGPipe
            self._schedules[rows, learns] = make(
                stage,
                parts,
                (lambda output, places: self._loss_of(output, places)[1]) if learns else None,
                scale_grads=False,  # a part's loss is its share of the batch's
            )
        return self._schedules[rows, learns]

    def _from_last(self, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        dist.broadcast(tensor, self._last)
        return tensor

    def _every(self, own: Any) -> list[Any]:
        """What each rank has: tensors, which come in main memory, and plain containers."""
        every: list[Any] = [None] * self._world.size
        dist.all_gather_object(every, pytree.tree_map_only(Tensor, Tensor.cpu, own))
        return every


def divided(model: nn.Module, count: int) -> list[nn.Sequential]:
    """A model that is a sequence of layers, in parts; their parameters keep their names.

    Raises:
        DataError: It is none, or has fewer layers with parameters.
    """
    if not isinstance(model, nn.Sequential):
        raise DataError(
            "parallel",
            f"a pipeline needs a sequence of layers; {type(model).__name__} is none",
            "parallel: ddp, or fsdp where one device does not hold the model",
        )
    layers = list(model.named_children())
    sizes = [sum(p.numel() for p in layer.parameters()) for _, layer in layers]
    learn = [place for place, size in enumerate(sizes) if size]
    if len(learn) < count:
        raise DataError(
            "gpus_per_trial",
            f"the model has {len(learn)} layers with parameters, for the stages of a pipeline; "
            f"got {count}",
        )
    starts, done = [0], 0
    for at, place in enumerate(learn):
        missing = count - len(starts)
        full = done >= sum(sizes) * len(starts) / count
        if at and missing and (full or len(learn) - at == missing):
            starts.append(place)
        done += sizes[place]
    ends = [*starts[1:], len(layers)]
    return [nn.Sequential(OrderedDict(layers[a:b])) for a, b in zip(starts, ends, strict=True)]
