"""The losses of many models at once: a table of what they are, and their gradients.

The loss itself is not needed to train; metrics are computed from what the models said.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from trainers.metrics import Task

# (k, outputs, B) outputs, (k, B) targets, (k, 1, 1) label smoothing or None → the gradient of each
# lane's mean loss by its outputs.
Gradient = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(output: Tensor, target: Tensor, smoothing: Tensor | None) -> Tensor:
    """A target is its class, but for a share `smoothing` that goes to all classes alike."""
    gradient = output.softmax(1)
    wanted = target.unsqueeze(1)
    if smoothing is None:
        certain = gradient.new_full((), -1.0).expand(wanted.shape)
    else:
        gradient -= smoothing / output.shape[1]
        certain = (smoothing - 1).expand(wanted.shape)
    return gradient.scatter_add_(1, wanted, certain).div_(output.shape[2])


def squared_error(output: Tensor, target: Tensor, _: Tensor | None) -> Tensor:
    return (output - target.unsqueeze(1)).mul_(2 / output.shape[2])


LOSSES: dict[Task, Gradient] = {
    "classification": cross_entropy,
    "regression": squared_error,
}
