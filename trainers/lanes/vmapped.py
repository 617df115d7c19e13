"""Any module as a layer of many models at once, unchanged: by ``torch.func.vmap``.

Each of its operations is one batched call instead of one a lane, and autograd goes over these.
What it draws at random must come from `nn.Dropout`, whose draws are then each lane's own
(`trainers.lanes.noise`); other draws know no lane, and PyTorch refuses them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from trainers.lanes import noise

if TYPE_CHECKING:
    from trainers.lanes.layers import Pass


# Of a dropout layer: (2,) int32 key, () share to drop, () `noise.threshold` of it.
Draw = tuple[Tensor, Tensor, Tensor]


class Dropout(nn.Module):
    """`nn.Dropout` of one lane, below ``vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.draw: Draw | None = None  # nothing is dropped

    def forward(self, x: Tensor) -> Tensor:
        if self.draw is None:
            return x
        key, share, threshold = self.draw
        elements = torch.arange(x.numel(), dtype=torch.int32, device=x.device)
        kept = noise.uniform(key.unsqueeze(0), elements) >= threshold
        return x * (kept / (1 - share)).view(x.shape)


class Vmapped:
    """A `trainers.lanes.layers.Layer` of a module of any type."""

    def __init__(
        self, module: nn.Module, own: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> None:
        self._module, self._dropouts = _with_own_draws(module)
        self._own, self._gradients = dict(own), gradients
        self._x = self._y = torch.empty(0)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        self._module.train(run.training)
        draws = self._draws(run)
        with torch.set_grad_enabled(run.training):
            x = x.detach()
            self._x = x.requires_grad_(run.training and x.is_floating_point())
            inputs = self._x.mT if x.dim() == 3 else self._x.transpose(0, 1)
            y = vmap(self._of_a_lane, randomness="error")(self._own, inputs, draws)
            self._y = y.mT if y.dim() == 3 else y.transpose(0, 1)
        return self._y.detach()

    def backward(self, gradient: Tensor, further: bool) -> Tensor | None:
        wanted = [self._own[name] for name in self._gradients] + [self._x] * further
        found = torch.autograd.grad(self._y, wanted, gradient, materialize_grads=True)
        for place, by_own in zip(self._gradients.values(), found, strict=False):
            place.copy_(by_own)
        return found[-1] if further else None

    def _of_a_lane(self, own: dict[str, Tensor], x: Tensor, draws: Sequence[Draw]) -> Tensor:
        for dropout, draw in zip_longest(self._dropouts, draws):
            dropout.draw = draw
        said: Tensor = functional_call(self._module, own, (x,))
        return said

    def _draws(self, run: Pass) -> list[Draw]:
        """Of each dropout layer, for all lanes: (k, …); none where nothing is dropped."""
        if not run.training or run.keys is None or run.dropout is None or run.threshold is None:
            return []
        own = slice(run.drawn, run.drawn + len(self._dropouts))
        run.drawn = own.stop
        shares, thresholds = run.dropout[own].squeeze(2), run.threshold[own].squeeze(2)
        return list(zip(run.keys[own], shares, thresholds, strict=True))


def check(model: nn.Module, inputs: Tensor) -> None:
    """Train a copy of `model` twice at once.

    Args:
        inputs: (B, …), of one lane.

    Raises:
        RuntimeError: It draws at random beside `nn.Dropout`, or has operations that ``vmap`` does
            not know.
    """
    several = {
        name: torch.stack([tensor.detach()] * 2)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    module, _ = _with_own_draws(model.train())
    batch = torch.stack([inputs] * 2)
    vmap(lambda own, x: functional_call(module, own, (x,)), randomness="error")(several, batch)


def _with_own_draws(module: nn.Module) -> tuple[nn.Module, list[Dropout]]:
    """A copy, of which the tensors are not used, and its dropout layers."""
    own, dropouts = copy.deepcopy(module), []
    for parent in list(own.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                dropouts.append(Dropout())
                setattr(parent, name, dropouts[-1])
    return own, dropouts
