"""The losses of many models at once: a table of what they are, and their gradients.

The loss itself is not needed to train; metrics are computed from what the models said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.data import Split
from trainers.lanes.exact import total


@dataclass(frozen=True)
class Terms:
    """What lanes have of their own in a loss; None: as if it were not there.

    Attributes:
        smoothing: (k, 1, 1) of the labels.
        weights: (k, outputs, 1) of the classes.
        gamma: (k, 1, 1) of `focal`.
        delta: (k, 1, 1) of `huber`.
    """

    smoothing: Tensor | None = None
    weights: Tensor | None = None
    gamma: Tensor | None = None
    delta: Tensor | None = None


# (k, outputs, B) outputs, (k, B) targets or (k, B, outputs) labels, the terms
# → (k, outputs, B) the gradient of each lane's mean loss by its outputs. With weights of 1 it is,
# to the last bit, what it is without: other lanes may have some.
Gradient = Callable[[Tensor, Tensor, Terms], Tensor]


def cross_entropy(output: Tensor, target: Tensor, terms: Terms) -> Tensor:
    """A target is its class, but for a share `smoothing` that goes to all classes alike.

    With weights as ``torch.nn.functional.cross_entropy`` has them: each class's share of the loss
    is multiplied by the class's weight, and the mean is one weighted by the targets' weights.
    """
    smoothing, weights = terms.smoothing, terms.weights
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
    return gradient.div_(total(own).unsqueeze(2))


def focal(output: Tensor, target: Tensor, terms: Terms) -> Tensor:
    """Of -(1 - p)^γ · log p, see `trainers.losses.focal`."""
    wanted, logarithms = target.unsqueeze(1), output.log_softmax(1)
    truth = logarithms.gather(1, wanted)
    missing = -torch.expm1(truth)
    gamma = torch.zeros_like(truth) if terms.gamma is None else terms.gamma
    # log p / (1 - p), which goes to -1 as p goes to 1.
    ratio = torch.where(missing > 0, truth / missing, -1.0)
    slope = missing.pow(gamma) * (1 - gamma * truth.exp() * ratio)
    if terms.weights is None:
        slope /= output.shape[2]
    else:
        own = terms.weights.expand(output.shape).gather(1, wanted)
        slope.mul_(own).div_(total(own).unsqueeze(2))
    return logarithms.exp_().mul_(slope).scatter_add_(1, wanted, -slope)


def bce(output: Tensor, target: Tensor, terms: Terms) -> Tensor:
    """The mean over labels and rows; weights count where a label is there."""
    wanted = target.mT.to(output.dtype)
    if terms.smoothing is not None:
        wanted = wanted * (1 - terms.smoothing) + terms.smoothing / 2
    gradient = output.sigmoid()
    if terms.weights is None:
        gradient -= wanted
    else:
        more = (terms.weights - 1) * wanted
        gradient.mul_(1 + more).sub_(terms.weights * wanted)
    return gradient.div_(output.shape[1] * output.shape[2])


def mse(output: Tensor, target: Tensor, _: Terms) -> Tensor:
    return (output - target.unsqueeze(1)).mul_(2 / output.shape[2])


def mae(output: Tensor, target: Tensor, _: Terms) -> Tensor:
    return (output - target.unsqueeze(1)).sign_().div_(output.shape[2])


def huber(output: Tensor, target: Tensor, terms: Terms) -> Tensor:
    assert terms.delta is not None
    error = output - target.unsqueeze(1)
    return error.clamp_(-terms.delta, terms.delta).div_(output.shape[2])


def balanced(split: Split, outputs: int) -> Tensor:
    """(outputs,) float64 weights, in main memory, with which all classes count alike in training.

    As scikit-learn's ``compute_class_weight``: rows / (classes that there are · rows of the
    class), of the training rows. A class without any has none. Of labels, how many rows lack one
    for each that has it, so that having it counts as much as not having it.
    """
    target = split.target[split.train.to(split.target.device)]
    if target.dtype == torch.bool:
        having = target.sum(0).double()
        return torch.where(having > 0, (len(target) - having) / having, 1.0).cpu()
    counts = torch.bincount(target, minlength=outputs).double()
    there = counts > 0
    return torch.where(there, len(target) / (there.sum() * counts), 0.0).cpu()


# The names are those of `trainers.losses.LOSSES`.
LOSSES: dict[str, Gradient] = {
    "cross_entropy": cross_entropy,
    "focal": focal,
    "bce": bce,
    "mse": mse,
    "mae": mae,
    "huber": huber,
}
