"""Optimizers of many models at once: a table of functions of the ``(K, P)`` matrix of parameters.

Each does what ``torch.optim`` does with a lane's row, with the lane's own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.averages import warmed

EPS = 1e-8

# What is set for each lane, by its name in the ``train`` section: (K, 1). What is 0 for all is
# left out.
Settings = Mapping[str, Tensor]


@dataclass(frozen=True)
class StackedOptimizer:
    """A row of the table.

    Attributes:
        update: Changes parameters and memory in place; takes the parameters (K, P), their
            gradients (K, P; may be overwritten), the memory by name ((K, P) each), the settings,
            the learning rate (K, 1), and how many steps each lane has made with this one (K, 1).
        memory: The names of what is remembered, each (K, P), zero at first.
        settings: The names of the settings it uses, where they are not 0 for all.
        needed: The same of those it always uses.
    """

    update: Callable[[Tensor, Tensor, Mapping[str, Tensor], Settings, Tensor, Tensor], None]
    memory: Sequence[str]
    settings: Sequence[str]
    needed: Sequence[str] = ()


def sgd(
    parameters: Tensor,
    gradients: Tensor,
    memory: Mapping[str, Tensor],
    settings: Settings,
    lr: Tensor,
    steps: Tensor,
) -> None:
    """With momentum, Nesterov's where a lane asks for it, and decay as an L2 penalty."""
    if "weight_decay" in settings:
        gradients.addcmul_(parameters, settings["weight_decay"])
    if "momentum" not in settings:
        parameters.addcmul_(gradients, lr, value=-1)
        return
    # torch's first velocity is the gradient; from zero that is what this gives, too.
    velocity, momentum = memory["velocity"], settings["momentum"]
    velocity.mul_(momentum).add_(gradients)
    if "nesterov" not in settings:
        parameters.addcmul_(velocity, lr, value=-1)
        return
    # Nesterov's step is the gradient and the share of the velocity that comes next; without
    # momentum that is the plain step, which torch has it refuse.
    nesterov = settings["nesterov"] * (momentum > 0)
    share = torch.where(nesterov > 0, momentum, 1.0)
    parameters.addcmul_(gradients, lr * nesterov, value=-1)
    parameters.addcmul_(velocity, lr * share, value=-1)


def adamw(
    parameters: Tensor,
    gradients: Tensor,
    memory: Mapping[str, Tensor],
    settings: Settings,
    lr: Tensor,
    steps: Tensor,
) -> None:
    """With weight decay that does not pass through the gradients' averages."""
    beta1, beta2 = settings["beta1"], settings["beta2"]
    if "weight_decay" in settings:
        parameters.mul_(1 - lr * settings["weight_decay"])
    memory["mean"].lerp_(gradients, 1 - beta1)
    memory["square"].lerp_(gradients.square_(), 1 - beta2)
    # lr · mean' / (√square' + eps) with both made unbiased, in few passes over the matrix and
    # without another one: as mean / ((√square / spread + eps) / step), in the gradients' place.
    step = lr.double() / (1 - beta1.double() ** steps)
    spread = (1 - beta2.double() ** steps).sqrt()
    below = torch.sqrt(memory["square"], out=gradients)
    below.mul_((1 / (spread * step)).to(lr.dtype)).add_((EPS / step).to(lr.dtype))
    parameters.addcdiv_(memory["mean"], below, value=-1)


OPTIMIZERS: dict[str, StackedOptimizer] = {
    "sgd": StackedOptimizer(sgd, ("velocity",), ("weight_decay", "momentum", "nesterov")),
    "adamw": StackedOptimizer(adamw, ("mean", "square"), ("weight_decay",), ("beta1", "beta2")),
}


def penalize(parameters: Tensor, gradients: Tensor, settings: Settings) -> None:
    """Add the L1 penalty's gradient; then shorten the gradients that are longer than allowed.

    As ``torch.nn.utils.clip_grad_norm_``, of each lane's own parameters together.
    """
    if "l1" in settings:
        gradients.addcmul_(parameters.sign(), settings["l1"])
    if "clip_norm" in settings:
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((settings["clip_norm"] / (norms + 1e-6)).clamp_(max=1.0))


def average(averages: Tensor, parameters: Tensor, decay: Tensor, steps: Tensor) -> None:
    """Move exponential averages (K, P) on by a step.

    Args:
        decay: (K, 1), the share that stays; less in the first steps (`trainers.averages`).
        steps: (K, 1), made with this one.
    """
    averages.lerp_(parameters, 1 - torch.minimum(decay, warmed(steps.double()).to(decay.dtype)))
