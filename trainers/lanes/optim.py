"""Optimizers of many models at once: a table of functions of the ``(K, P)`` matrix of parameters.

Each does what ``torch.optim`` does with a lane's row, with the lane's own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-8
# Parameters of a model. From here on, passes over its row cost more than starting a kernel for it.
LONG_ROW = 2**13

Settings = Mapping[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """What an optimizer changes, and by what: of some lanes a row each.

    Attributes:
        parameters: (k, P).
        gradients: (k, P); they may be overwritten.
        memory: What is remembered from step to step, by its name in the table, (k, P) each.
        settings: What is set for each lane, by its name in the ``train`` section, (k, 1) each.
            What is 0 for all is left out.
    """

    parameters: Tensor
    gradients: Tensor
    memory: Mapping[str, Tensor]
    settings: Settings


@dataclass(frozen=True)
class StackedOptimizer:
    """A row of the table.

    Attributes:
        numbers: What a step needs beside `Rows`, made for all steps of an epoch at once, float64
            (S, K, 1) each: from the learning rates (S, K, 1), the settings (K, 1), and how many
            steps each lane has made, with that one (S, K, 1).
        update: Changes parameters and memory in place, by the numbers of a step, (k, 1) each.
        memory: The names of what is remembered, zero at first.
        settings: The names of the settings it uses, where they are not 0 for all.
        needed: The same of those it always uses.
    """

    numbers: Callable[[Tensor, Settings, Tensor], list[Tensor]]
    update: Callable[[Rows, Sequence[Tensor]], None]
    memory: Sequence[str]
    settings: Sequence[str]
    needed: Sequence[str] = ()


def sgd_numbers(lr: Tensor, _settings: Settings, _steps: Tensor) -> list[Tensor]:
    return [lr]


def sgd(rows: Rows, numbers: Sequence[Tensor]) -> None:
    """With momentum, Nesterov's where a lane asks for it, and decay as an L2 penalty."""
    parameters, gradients, settings = rows.parameters, rows.gradients, rows.settings
    (lr,) = numbers
    if "weight_decay" in settings:
        gradients.addcmul_(parameters, settings["weight_decay"])
    if "momentum" not in settings:
        parameters.addcmul_(gradients, lr, value=-1)
        return
    # torch's first velocity is the gradient; from zero that is what this gives, too.
    velocity, momentum = rows.memory["velocity"], settings["momentum"]
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


def adamw_numbers(lr: Tensor, settings: Settings, steps: Tensor) -> list[Tensor]:
    """Learning rates and steps; what is left of the parameters; how far the averages move; and, of
    lr · mean' / (√square' + eps) with both made unbiased, the two that make it
    mean / (√square · scale + least)."""
    # All of one shape and side by side: of others, torch's powers are rounded otherwise.
    beta1 = settings["beta1"].double().expand(lr.shape).contiguous()
    beta2 = settings["beta2"].double().expand(lr.shape).contiguous()
    step = (lr / (1 - beta1**steps)).clamp(min=1e-30)  # 0 would make infinities of what is below
    spread = (1 - beta2**steps).sqrt()
    left = 1 - lr * settings["weight_decay"] if "weight_decay" in settings else 1 - 0 * lr
    return [lr, steps, left, 1 - beta1, 1 - beta2, 1 / (spread * step), EPS / step]


def adamw(rows: Rows, numbers: Sequence[Tensor]) -> None:
    """With weight decay that does not pass through the gradients' averages."""
    lr, steps, left, move1, move2, scale, least = numbers
    if rows.parameters.shape[1] >= LONG_ROW and rows.parameters.device.type == "cpu":
        _adamw_by_row(rows, lr, steps)
        return
    mean, square = rows.memory["mean"], rows.memory["square"]
    if "weight_decay" in rows.settings:
        rows.parameters.mul_(left)
    mean.lerp_(rows.gradients, move1)
    square.lerp_(rows.gradients.square_(), move2)
    # In few passes over the matrix and without another one: in the gradients' place.
    below = torch.sqrt(square, out=rows.gradients)
    rows.parameters.addcdiv_(mean, below.mul_(scale).add_(least), value=-1)


def _adamw_by_row(rows: Rows, lr: Tensor, steps: Tensor) -> None:
    """By PyTorch's fused kernel, a lane at a time: one pass instead of seven."""
    memory, settings = rows.memory, rows.settings
    decay = settings.get("weight_decay", torch.zeros_like(lr))
    matrices = (rows.parameters, rows.gradients, memory["mean"], memory["square"], steps)
    columns = (lr, settings["beta1"], settings["beta2"], decay)
    tensors = zip(*(matrix.unbind() for matrix in matrices), strict=True)
    values = zip(*(column.flatten().tolist() for column in columns), strict=True)
    for (own, gradient, mean, square, step), (rate, beta1, beta2, decayed) in zip(
        tensors, values, strict=True
    ):
        torch._fused_adamw_(
            [own],
            [gradient],
            [mean],
            [square],
            [],
            [step],
            lr=rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=decayed,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )


OPTIMIZERS: dict[str, StackedOptimizer] = {
    "sgd": StackedOptimizer(
        sgd_numbers, sgd, ("velocity",), ("weight_decay", "momentum", "nesterov")
    ),
    "adamw": StackedOptimizer(
        adamw_numbers, adamw, ("mean", "square"), ("weight_decay",), ("beta1", "beta2")
    ),
}


def penalize(rows: Rows) -> None:
    """Add the L1 penalty's gradient; then shorten the gradients that are longer than allowed.

    As ``torch.nn.utils.clip_grad_norm_``, of each lane's own parameters together.
    """
    gradients, settings = rows.gradients, rows.settings
    if "l1" in settings:
        gradients.addcmul_(rows.parameters.sign(), settings["l1"])
    if "clip_norm" in settings:
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients.mul_((settings["clip_norm"] / (norms + 1e-6)).clamp_(max=1.0))
