"""The losses of many models at once: a table of what they are, and their gradients.

The loss itself is not needed to train; metrics are computed from what the models said.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainers.data import Split
from trainers.metrics import Task

# (k, outputs, B) outputs, (k, B) targets, (k, 1, 1) label smoothing or None, (k, outputs, 1)
# weights of the classes or None → the gradient of each lane's mean loss by its outputs.
Gradient = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def cross_entropy(
    output: Tensor, target: Tensor, smoothing: Tensor | None, weights: Tensor | None
) -> Tensor:
    """A target is its class, but for a share `smoothing` that goes to all classes alike.

    With weights as ``torch.nn.functional.cross_entropy`` has them: each class's share of the loss
    is multiplied by the class's weight, and the mean is one weighted by the targets' weights. With
    weights of 1 it is, to the last bit, what it is without.
    """
    gradient, wanted = output.softmax(1), target.unsqueeze(1)
    if weights is not None:
        return _weighted(gradient, wanted, smoothing, weights)
    if smoothing is None:
        certain = gradient.new_full((), -1.0).expand(wanted.shape)
    else:
        gradient -= smoothing / output.shape[1]
        certain = (smoothing - 1).expand(wanted.shape)
    return gradient.scatter_add_(1, wanted, certain).div_(output.shape[2])


def _weighted(
    probabilities: Tensor, wanted: Tensor, smoothing: Tensor | None, weights: Tensor
) -> Tensor:
    classes = weights.shape[1]
    own = weights.expand(probabilities.shape).gather(1, wanted)
    if smoothing is None:
        gradient = probabilities.mul_(own).scatter_add_(1, wanted, -own)
    else:
        share = smoothing / classes
        # In all: (1 - smoothing) · own + share · Σ weights.
        of_all = own + share * (weights.sum(1, keepdim=True) - classes * own)
        gradient = probabilities.mul_(of_all).sub_(share * weights)
        gradient.scatter_add_(1, wanted, (smoothing - 1) * own)
    return gradient.div_(own.sum(2, keepdim=True))


def squared_error(
    output: Tensor, target: Tensor, _: Tensor | None, _weights: Tensor | None
) -> Tensor:
    return (output - target.unsqueeze(1)).mul_(2 / output.shape[2])


def balanced(split: Split, classes: int) -> Tensor:
    """(classes,) float64 weights, in main memory, with which all classes count alike in training.

    As scikit-learn's ``compute_class_weight``: rows / (classes that there are · rows of the
    class), of the training rows. A class without any has none.
    """
    target = split.target[split.train.to(split.target.device)]
    counts = torch.bincount(target, minlength=classes).double()
    there = counts > 0
    return torch.where(there, len(target) / (there.sum() * counts), 0.0).cpu()


LOSSES: dict[Task, Gradient] = {
    "classification": cross_entropy,
    "regression": squared_error,
}
