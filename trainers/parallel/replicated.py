"""The whole model on every rank, each with its rows of a batch (data parallel)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainers.parallel.norms import synchronized
from trainers.parallel.spread import Learning, LossOf, OverRanks
from trainers.parallel.world import World

if TYPE_CHECKING:
    from trainers.augment import Drawn
    from trainers.data import Split


class RowsOver(OverRanks):
    """Each rank has its rows of a batch; batch norm is over all rows."""

    def __init__(self, model: nn.Module, device: torch.device, own: World) -> None:
        super().__init__(model, device, own)
        self.module = model

    def part(self, rows: int) -> slice:
        return _part(rows, self._world.rank, self._world.size)

    def batches(
        self, split: Split, size: int, rows: Tensor, drawn: Drawn | None
    ) -> tuple[Tensor, Tensor]:
        sizes = [len(batch) for batch in torch.split(rows, size)]
        mine = _places(sizes, self._world.rank, self._world.size)
        if drawn is not None and drawn.mixes:  # a row's partner may be another rank's
            inputs, target = split.batch(rows, drawn)
            return inputs[mine.to(inputs.device)], target
        inputs, _ = split.batch(rows[mine], None if drawn is None else drawn.some(mine))
        return inputs, split.target.index_select(0, rows.to(split.target.device))

    def learn(
        self, learning: Learning, x: Tensor, loss_of: LossOf, rows: int, parts: int
    ) -> tuple[Tensor, Tensor]:
        with learning.forward():
            output = self.module(x)
        if len(x):
            output, loss = loss_of(output, self.part(rows))
        else:  # of a batch with fewer rows than ranks; the others wait for this one's gradients
            loss = output.sum() * 0
        learning.backward(loss * self._world.size)  # they take the mean over the ranks
        every = loss.detach().clone()
        dist.all_reduce(every)
        return output.detach(), every

    def gathered(self, output: Tensor, batches: Sequence[int]) -> Tensor:
        size = self._world.size
        places = [_places(batches, rank, size) for rank in range(size)]
        padded = output.new_zeros((max(map(len, places)), *output.shape[1:]))
        padded[: len(output)] = output
        whole = output.new_empty((sum(batches), *output.shape[1:]))
        for some, theirs in zip(places, self._every(padded), strict=True):
            whole[some.to(whole.device)] = theirs[: len(some)]
        return whole

    def any(self, flag: bool) -> bool:
        said = torch.tensor(int(flag), device=self._device)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)

    def asked(self, rows: Tensor) -> Tensor:
        """As many on each rank; the last one is answered more than once, if need be."""
        size = self._world.size
        places = torch.arange(-(-len(rows) // size) * size).clamp(max=len(rows) - 1)
        return rows[places.view(size, -1)[self._world.rank]]

    def answered(self, output: Tensor, rows: int) -> Tensor:
        return torch.cat(self._every(output))[:rows]

    def _every(self, own: Tensor) -> list[Tensor]:
        """What each rank has, of one shape."""
        own = own.contiguous()
        every = [torch.empty_like(own) for _ in range(self._world.size)]
        dist.all_gather(every, own)
        return every


class Replicated(RowsOver):
    """The whole model on each rank: PyTorch's DDP (Li et al. 2020, *PyTorch Distributed*)."""

    def __init__(self, model: nn.Module, device: torch.device, own: World) -> None:
        super().__init__(synchronized(model, device), device, own)

    def begin(self, seed: tuple[int, ...]) -> None:
        """Made anew for each epoch: DDP asks once which parameters learn, and after the first step
        sums gradients in another order, by which an epoch that is resumed would be another."""
        super().begin(seed)
        self.module = DistributedDataParallel(
            self.own,
            forward_sync_buffers=False,  # weights and batch norm's statistics are the same anyway
            init_sync=False,
            gradient_as_bucket_view=True,
            static_graph=True,  # it may have parameters that it never uses
        )


def _part(rows: int, rank: int, ranks: int) -> slice:
    """The rows of a rank, as `torch.tensor_split` has them."""
    each, more = divmod(rows, ranks)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def _places(batches: Sequence[int], rank: int, ranks: int) -> Tensor:
    """(n,) int64: where a rank's rows are among those of all batches."""
    found, start = [], 0
    for rows in batches:
        part = _part(rows, rank, ranks)
        found.append(torch.arange(start + part.start, start + part.stop))
        start += rows
    return torch.cat(found)
