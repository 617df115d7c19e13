"""Losses: a table of what is made small, and for which task. PyTorch's own where it has them.

Models are compared by ``val/loss``, which is the same for all losses of a task
(`trainers.metrics`): cross-entropy, squared error, or binary cross-entropy. Importing this costs
no torch. The gradients of many models at once are in `trainers.lanes.losses`, in a table with the
same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainers.metrics import Task

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["mean", "none"]

# (B, outputs) outputs, (B,) classes or (B, outputs) values or labels, the ``train`` section,
# (outputs,) weights of the classes or None → the mean, or (B,) each row's loss.
Compute = Callable[["Tensor", "Tensor", Mapping[str, Any], "Tensor | None", Reduction], "Tensor"]


@dataclass(frozen=True)
class Loss:
    """A row of the table.

    Attributes:
        task: What it is for.
        settings: Those of ``train`` that change it.
        compute: The mean is one weighted by the targets' class weights, as PyTorch's
            ``cross_entropy`` has it, where each row has one class.
    """

    task: Task
    compute: Compute
    settings: tuple[str, ...] = ()


def cross_entropy(
    output: Tensor,
    target: Tensor,
    options: Mapping[str, Any],
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """A share `label_smoothing` of the target goes to all classes alike."""
    from torch.nn import functional

    return functional.cross_entropy(
        output, target, weights, label_smoothing=options["label_smoothing"], reduction=reduction
    )


def focal(
    output: Tensor,
    target: Tensor,
    options: Mapping[str, Any],
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """-(1 - p)^γ · log p of the true class's probability p: what is right already counts little.

    Lin et al. (2017), "Focal loss for dense object detection"; their α are the class weights.
    """
    import torch

    truth = output.log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
    # Not 0, where the slope of a power below 1 is infinite.
    missing = (-torch.expm1(truth)).clamp(min=torch.finfo(truth.dtype).eps)
    gamma: float = options["focal_gamma"]
    loss = -missing.pow(gamma) * truth
    if weights is None:
        return loss if reduction == "none" else loss.mean()
    own = weights[target]
    return loss * own if reduction == "none" else (loss * own).sum() / own.sum()


def bce(
    output: Tensor,
    target: Tensor,
    options: Mapping[str, Any],
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Binary cross-entropy, the mean over the labels; `weights` count where a label is there.

    A share `label_smoothing` of the target is divided between there and not there.
    """
    from torch.nn import functional

    smoothing = options["label_smoothing"]
    wanted = target.to(output.dtype) * (1 - smoothing) + smoothing / 2
    loss = functional.binary_cross_entropy_with_logits(
        output, wanted, pos_weight=weights, reduction="none"
    )
    return loss.mean(1) if reduction == "none" else loss.mean()


def mse(
    output: Tensor,
    target: Tensor,
    _: Mapping[str, Any],
    _weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    from torch.nn import functional

    return _of_rows(functional.mse_loss(output, target, reduction=reduction))


def mae(
    output: Tensor,
    target: Tensor,
    _: Mapping[str, Any],
    _weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    from torch.nn import functional

    return _of_rows(functional.l1_loss(output, target, reduction=reduction))


def huber(
    output: Tensor,
    target: Tensor,
    options: Mapping[str, Any],
    _: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Half the squared error up to `huber_delta`, from there on a straight line.

    Huber (1964), "Robust estimation of a location parameter".
    """
    from torch.nn import functional

    delta = options["huber_delta"]
    return _of_rows(functional.huber_loss(output, target, delta=delta, reduction=reduction))


def _of_rows(loss: Tensor) -> Tensor:
    """(B, 1) → (B,); the mean stays as it is."""
    return loss.flatten() if loss.dim() else loss


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss("classification", cross_entropy, ("label_smoothing", "class_weights")),
    "focal": Loss("classification", focal, ("focal_gamma", "class_weights")),
    "bce": Loss("multilabel", bce, ("label_smoothing", "class_weights")),
    "mse": Loss("regression", mse),
    "mae": Loss("regression", mae),
    "huber": Loss("regression", huber, ("huber_delta",)),
}

# What is predicted, in words.
TARGETS: dict[Task, str] = {
    "classification": "classes",
    "multilabel": "labels",
    "regression": "values",
}

# What `auto` is: those by which the trials of a task are compared.
AUTO: dict[Task, str] = {
    "classification": "cross_entropy",
    "multilabel": "bce",
    "regression": "mse",
}


def using(setting: str) -> list[str]:
    """The names, for a study file, of the losses that a setting of ``train`` changes."""
    names = [name for name, loss in LOSSES.items() if setting in loss.settings]
    return ["auto", *names] if set(names) & set(AUTO.values()) else names


def of_task(task: Task) -> list[str]:
    """The names, for a study file, of the losses that a task has."""
    return ["auto", *(name for name, loss in LOSSES.items() if loss.task == task)]


def why_not(name: str, task: Task) -> str | None:
    """Why a loss is not for a task, in words; None: it is."""
    if name in of_task(task):
        return None
    own = TARGETS[LOSSES[name].task]
    return f"{name} is for {own}; what is predicted here are {TARGETS[task]}"


def chosen(options: Mapping[str, Any], task: Task) -> str:
    """The name of the loss in a ``train`` section, ``auto`` resolved."""
    name: str = options["loss"]
    return AUTO[task] if name == "auto" else name
