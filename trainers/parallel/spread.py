"""How a model lies on the devices of its trial, and who computes what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from trainers.optim import Group
from trainers.parallel.world import World, world
from trainers.seeds import seed_everything

if TYPE_CHECKING:
    from trainers.augment import Drawn
    from trainers.data import Split

# What the model puts out of some rows of a batch, and which those are → the same with what is
# added to it, and what these rows add to the loss of the batch: the mean over all of it.
LossOf = Callable[[Tensor, "slice | Tensor"], tuple[Tensor, Tensor]]


class Learning(Protocol):
    """How a model is computed while it learns."""

    def model(self, rows: int) -> nn.Module:
        """The model for so many rows."""

    def forward(self) -> AbstractContextManager[Any]:
        """In which it is asked."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""


class Spread:
    """A model on the devices of its trial, as one rank sees it; here on one device.

    Attributes:
        own: The module with the parameters that this rank updates.
        any_layout: Whether its parameters may lie with their channels last.
        halves: Whether this rank may compute a batch in parts without asking the others.
        notes: See `trainers.contract.Epoch.notes`.
    """

    any_layout = halves = True
    notes: Mapping[str, str] = {}

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        model.to(device)
        self.own = model

    def begin(self, seed: tuple[int, ...]) -> None:
        """An epoch begins; which parameters learn in it, and in which order of rows, is decided.

        Args:
            seed: Of the epoch, with which all ranks have drawn that order.
        """

    def seed(self, seed: tuple[int, ...]) -> tuple[int, ...]:
        """Of what is drawn for this rank's rows alone: dropout."""
        return seed

    def part(self, rows: int) -> slice:
        """The rows of a batch of so many that this rank learns from."""
        return slice(0, rows)

    def batches(
        self, split: Split, size: int, rows: Tensor, drawn: Drawn | None
    ) -> tuple[Tensor, Tensor]:
        """The inputs of this rank's rows, and the targets of all, of batches of `size`."""
        return split.batch(rows, drawn)

    def learn(
        self, learning: Learning, x: Tensor, loss_of: LossOf, rows: int, parts: int
    ) -> tuple[Tensor, Tensor]:
        """What is put out of a batch, and its loss; its gradients are in the parameters then.

        Args:
            x: The inputs of this rank's rows.
            rows: Of the batch.
            parts: In how many `x` is computed, where this rank may choose.

        Returns:
            Of this rank's rows; of all of them.
        """
        outputs, losses, start = [], [], 0
        for some in torch.tensor_split(x, parts) if parts > 1 else [x]:
            with learning.forward():
                output = learning.model(len(some))(some)
            output, loss = loss_of(output, slice(start, start + len(some)))
            start += len(some)
            learning.backward(loss)
            outputs.append(output.detach())
            losses.append(loss.detach())
        if parts > 1:
            return torch.cat(outputs), torch.stack(losses).sum()
        return outputs[0], losses[0]

    def gathered(self, output: Tensor, batches: Sequence[int]) -> Tensor:
        """What all ranks put out, in the order of the rows, of batches of so many rows."""
        return output

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return flag

    def asked(self, rows: Tensor) -> Tensor:
        """Those of some rows that this rank is to answer."""
        return rows

    def answer(self, x: Tensor) -> Tensor:
        """What the model says, which does not learn."""
        answer: Tensor = self.own(x)
        return answer

    def answered(self, output: Tensor, rows: int) -> Tensor:
        """What all ranks answered, in the order of so many rows."""
        return output

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """How long the gradients are, those of all ranks together."""
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def groups(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups, of the parameters that are here."""
        own = {id(parameter) for parameter in self.own.parameters()}
        return [replace(g, parameters=[p for p in g.parameters if id(p) in own]) for g in groups]

    def state(self, own: dict[str, Any]) -> dict[str, Any]:
        """For a checkpoint, of what this rank would write: called on all ranks at once."""
        return own

    def loaded(self, state: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
        """What this rank goes on from, as `own` is there now."""
        return state

    def weights(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole model's, copied, on the CPU: called on all ranks at once."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in own.items()}


class OverRanks(Spread):
    """A model on several devices."""

    halves = False  # the others would wait for its gradients

    def __init__(self, model: nn.Module, device: torch.device, own: World) -> None:
        super().__init__(model, device)
        self.notes = {"parallel": f"{own.how} over {own.size} devices"}
        self._device, self._world = device, own

    def begin(self, seed: tuple[int, ...]) -> None:
        seed_everything(*self.seed(seed))

    def seed(self, seed: tuple[int, ...]) -> tuple[int, ...]:
        return *seed, self._world.rank


def spread(model: nn.Module, device: torch.device) -> Spread:
    """Put a model on the devices of its trial, as this process's world has it."""
    own = world()
    if own is None:
        return Spread(model, device)
    from trainers.parallel.replicated import Replicated
    from trainers.parallel.sharded import Sharded
    from trainers.parallel.staged import Staged

    made = {"ddp": Replicated, "fsdp": Sharded, "pipeline": Staged}[own.how]
    return made(model, device, own)
