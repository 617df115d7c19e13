"""Optimizers of many models at once: a table of functions of the ``(K, P)`` matrix of parameters.

Each does what ``torch.optim`` does with a lane's row, with the lane's own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.lanes.exact import lengths

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
        decays: (1, P) whether weight decay shrinks a parameter; None: it shrinks all.
        decoupled: Whether weight decay is apart from the gradients.
    """

    parameters: Tensor
    gradients: Tensor
    memory: Mapping[str, Tensor]
    settings: Settings
    decays: Tensor | None = None
    decoupled: bool = False


@dataclass(frozen=True)
class StackedOptimizer:
    """A row of the table.

    Attributes:
        numbers: What a step needs beside `Rows`, made for all steps of an epoch at once, float64
            (S, K, 1) each: from the learning rates (S, K, 1), the settings (K, 1), of which
            `momentum` may be (S, K, 1), and how many steps each lane has made, with that one
            (S, K, 1). The first two are the learning rate, and what decoupled weight decay leaves.
        update: Changes parameters and memory in place, by the numbers of a step, (k, 1) each.
        memory: The names of what is remembered, zero at first.
        settings: The names of the settings it uses, where they are not 0 for all.
        needed: The same of those it always uses.
        momentum: The setting that a schedule may move.
    """

    numbers: Callable[[Tensor, Settings, Tensor], list[Tensor]]
    update: Callable[[Rows, Sequence[Tensor]], None]
    memory: Sequence[str]
    settings: Sequence[str] = ("weight_decay",)
    needed: Sequence[str] = ()
    momentum: str | None = None


def _first_numbers(lr: Tensor, settings: Settings) -> list[Tensor]:
    """Learning rates, and what is left of the parameters."""
    return [lr, 1 - lr * settings["weight_decay"] if "weight_decay" in settings else 1 - 0 * lr]


def _decay(rows: Rows, left: Tensor) -> None:
    """Weight decay: of the parameters themselves, or as an L2 penalty."""
    decay, some = rows.settings.get("weight_decay"), rows.decays
    if decay is None:
        return
    if rows.decoupled:
        rows.parameters.mul_(left if some is None else torch.where(some, left, 1.0))
    else:
        rows.gradients.addcmul_(rows.parameters, decay if some is None else decay * some)


def sgd_numbers(lr: Tensor, settings: Settings, _steps: Tensor) -> list[Tensor]:
    momentum = settings.get("momentum", torch.zeros_like(lr))
    return [*_first_numbers(lr, settings), momentum.double().expand(lr.shape)]


def sgd(rows: Rows, numbers: Sequence[Tensor]) -> None:
    """With momentum, Nesterov's where a lane asks for it."""
    parameters, gradients, settings = rows.parameters, rows.gradients, rows.settings
    lr, left, momentum = numbers
    _decay(rows, left)
    if "momentum" not in settings:
        parameters.addcmul_(gradients, lr, value=-1)
        return
    # torch's first velocity is the gradient; from zero that is what this gives, too.
    velocity = rows.memory["velocity"]
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


def rmsprop_numbers(lr: Tensor, settings: Settings, steps: Tensor) -> list[Tensor]:
    alpha = settings["alpha"].double().expand(lr.shape)
    return [*sgd_numbers(lr, settings, steps), 1 - alpha]


def rmsprop(rows: Rows, numbers: Sequence[Tensor]) -> None:
    """With momentum."""
    lr, left, momentum, move = numbers
    _decay(rows, left)
    step, square = rows.gradients, rows.memory["square"]
    square.lerp_(step.square(), move)
    step.div_(square.sqrt().add_(EPS))
    if "momentum" in rows.settings:
        step = rows.memory["velocity"].mul_(momentum).add_(step)
    rows.parameters.addcmul_(step, lr, value=-1)


def adagrad_numbers(lr: Tensor, settings: Settings, _steps: Tensor) -> list[Tensor]:
    return _first_numbers(lr, settings)


def adagrad(rows: Rows, numbers: Sequence[Tensor]) -> None:
    lr, left = numbers
    _decay(rows, left)
    gradients, square = rows.gradients, rows.memory["square"]
    square.addcmul_(gradients, gradients)
    gradients.div_(square.sqrt().add_(1e-10))
    rows.parameters.addcmul_(gradients, lr, value=-1)


def adam_numbers(lr: Tensor, settings: Settings, steps: Tensor) -> list[Tensor]:
    """Beside the first two the steps; the betas; how far the averages move; and, of
    lr · mean' / (√square' + eps) with both made unbiased, the two that make it
    mean / (√square · scale + least)."""
    # All of one shape and side by side: of others, torch's powers are rounded otherwise.
    beta1, beta2 = _betas(lr, settings)
    step = (lr / (1 - beta1**steps)).clamp(min=1e-30)  # 0 would make infinities of what is below
    spread = (1 - beta2**steps).sqrt()
    first = _first_numbers(lr, settings)
    moves = [1 - beta1, 1 - beta2]
    return [*first, steps, beta1, beta2, *moves, 1 / (spread * step), EPS / step]


def _betas(lr: Tensor, settings: Settings) -> list[Tensor]:
    return [settings[n].double().expand(lr.shape).contiguous() for n in ("beta1", "beta2")]


def adam(rows: Rows, numbers: Sequence[Tensor]) -> None:
    lr, left, steps, beta1, beta2, move1, move2, scale, least = numbers
    if rows.parameters.shape[1] >= LONG_ROW and rows.parameters.device.type == "cpu":
        _adam_by_row(rows, left, [lr, beta1, beta2], steps)
        return
    _decay(rows, left)
    mean, square = rows.memory["mean"], rows.memory["square"]
    mean.lerp_(rows.gradients, move1)
    square.lerp_(rows.gradients.square_(), move2)
    # In few passes over the matrix and without another one: in the gradients' place.
    below = torch.sqrt(square, out=rows.gradients)
    rows.parameters.addcdiv_(mean, below.mul_(scale).add_(least), value=-1)


def _adam_by_row(rows: Rows, left: Tensor, columns: Sequence[Tensor], steps: Tensor) -> None:
    """By PyTorch's fused kernel, a lane at a time: one pass instead of seven."""
    memory, decay = rows.memory, torch.zeros_like(left)
    if rows.decays is None:
        decay = rows.settings.get("weight_decay", decay)
    else:
        _decay(rows, left)  # the kernel would shrink all
    kernel = torch._fused_adamw_ if rows.decoupled else torch._fused_adam_
    matrices = (rows.parameters, rows.gradients, memory["mean"], memory["square"], steps)
    tensors = zip(*(matrix.unbind() for matrix in matrices), strict=True)
    values = zip(*(column.flatten().tolist() for column in (*columns, decay)), strict=True)
    for (own, gradient, mean, square, step), (rate, beta1, beta2, decayed) in zip(
        tensors, values, strict=True
    ):
        kernel(
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


def nadam_numbers(lr: Tensor, settings: Settings, steps: Tensor) -> list[Tensor]:
    """Beside the first two how far the averages move; and the shares of gradient and mean in a
    step, and what makes the squares unbiased."""
    beta1, beta2 = _betas(lr, settings)
    counted = torch.arange(1, int(steps.max()) + 2, dtype=torch.float64, device=lr.device)
    grown = 1 - 0.5 * 0.96 ** (counted * 4e-3)
    place = steps.long() - 1
    product = beta1**steps * grown.cumprod(0)[place]
    now, following = beta1 * grown[place], beta1 * grown[place + 1]
    of_gradient = lr * (1 - now) / (1 - product)
    of_mean = lr * following / (1 - product * following)
    spread = (1 - beta2**steps).sqrt()
    first = _first_numbers(lr, settings)
    return [*first, 1 - beta1, 1 - beta2, of_gradient, of_mean, 1 / spread]


def nadam(rows: Rows, numbers: Sequence[Tensor]) -> None:
    _lr, left, move1, move2, of_gradient, of_mean, scale = numbers
    _decay(rows, left)
    gradients, mean, square = rows.gradients, rows.memory["mean"], rows.memory["square"]
    mean.lerp_(gradients, move1)
    square.lerp_(gradients.square(), move2)
    step = gradients.mul_(of_gradient).add_(mean * of_mean)
    rows.parameters.sub_(step.div_(square.sqrt().mul_(scale).add_(EPS)))


def radam_numbers(lr: Tensor, settings: Settings, steps: Tensor) -> list[Tensor]:
    """Beside the first two how far the averages move; the step's length; and, by how much is known
    of the squares, the share of them in a step, and 1 where they are not to be used yet."""
    beta1, beta2 = _betas(lr, settings)
    unbiased = 1 - beta2**steps
    most = 2 / (1 - beta2) - 1
    known = most - 2 * steps * beta2**steps / unbiased
    share = (known - 4) * (known - 2) * most / ((most - 4) * (most - 2) * known)
    adapts = known > 5
    adaptive = torch.where(adapts, (share * unbiased).sqrt(), 0.0)
    first = _first_numbers(lr, settings)
    step = lr / (1 - beta1**steps)
    return [*first, 1 - beta1, 1 - beta2, step, adaptive, (~adapts).double()]


def radam(rows: Rows, numbers: Sequence[Tensor]) -> None:
    _lr, left, move1, move2, length, adaptive, plain = numbers
    _decay(rows, left)
    mean, square = rows.memory["mean"], rows.memory["square"]
    mean.lerp_(rows.gradients, move1)
    square.lerp_(rows.gradients.square_(), move2)
    step = (adaptive / torch.sqrt(square, out=rows.gradients).add_(EPS)).add_(plain).mul_(mean)
    rows.parameters.addcmul_(step, length, value=-1)


_BETAS = ("beta1", "beta2")
_ADAM = StackedOptimizer(adam_numbers, adam, ("mean", "square"), needed=_BETAS, momentum="beta1")

OPTIMIZERS: dict[str, StackedOptimizer] = {
    "sgd": StackedOptimizer(
        sgd_numbers,
        sgd,
        ("velocity",),
        ("weight_decay", "momentum", "nesterov"),
        momentum="momentum",
    ),
    "rmsprop": StackedOptimizer(
        rmsprop_numbers,
        rmsprop,
        ("square", "velocity"),
        ("weight_decay", "momentum"),
        ("alpha",),
        "momentum",
    ),
    "adagrad": StackedOptimizer(adagrad_numbers, adagrad, ("square",)),
    "adam": _ADAM,
    "adamw": _ADAM,
    "nadam": StackedOptimizer(nadam_numbers, nadam, ("mean", "square"), needed=_BETAS),
    "radam": StackedOptimizer(
        radam_numbers, radam, ("mean", "square"), needed=_BETAS, momentum="beta1"
    ),
}


def penalize(rows: Rows) -> None:
    """Add the L1 penalty's gradient; then shorten or cut the gradients that are too large.

    As ``torch.nn.utils.clip_grad_norm_``, of each lane's own parameters together, and
    ``clip_grad_value_``.
    """
    gradients, settings = rows.gradients, rows.settings
    if "l1" in settings:
        gradients.addcmul_(rows.parameters.sign(), settings["l1"])
    if "clip_norm" in settings:
        norms = lengths(gradients).unsqueeze(1)
        gradients.mul_((settings["clip_norm"] / (norms + 1e-6)).clamp_(max=1.0))
    if "clip_value" in settings:
        most = settings["clip_value"]
        torch.clamp(gradients, -most, most, out=gradients)
