"""Fine-tuning: blocks of a model that stay as they are, and learning rates by depth.

What `train.freeze` names is as in evaluation: batch norm uses its running statistics and changes
none, nothing is dropped. From the epoch `train.unfreeze_epoch` on all blocks learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from trainers.contract import DataError, did_you_mean
from trainers.models.blocks import Block, blocks

SHOWN = 20  # blocks of a model, in a message


class Frozen:
    """The blocks of a model that do not learn, or not yet.

    Args:
        train: The ``train`` section.
    """

    def __init__(self, model: nn.Module, train: Mapping[str, Any]) -> None:
        self._until = train["unfreeze_epoch"]
        self._blocks = [] if train["freeze"] is None else frozen(model, train["freeze"])
        named = dict(model.named_parameters())
        own = [named[key] for block in self._blocks for key in block.parameters]
        self._parameters = [parameter for parameter in own if parameter.requires_grad]

    def begin(self, epoch: int) -> None:
        """Have them learn in this epoch, or not. The model is in training mode.

        Args:
            epoch: From 1.
        """
        learn = self._until is not None and epoch >= self._until
        for parameter in self._parameters:
            parameter.requires_grad_(learn)
        for block in self._blocks if not learn else ():
            for module in block.modules:
                module.eval()


def frozen(model: nn.Module, freeze: int | str) -> Sequence[Block]:
    """The blocks that `train.freeze` names.

    Raises:
        DataError: There are none, not so many, or nothing else would be left.
    """
    *backbone, head = blocks(model)
    names = [block.name for block in backbone]
    if freeze == "backbone" and backbone:
        return backbone
    if isinstance(freeze, int) and freeze <= len(backbone):
        return backbone[:freeze]
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    there = f"before its head, {head.name}, the model has {len(names)} blocks: {shown}"
    if not names:
        there = "the model has nothing but its head"
    if isinstance(freeze, int) or freeze in ("backbone", head.name):
        raise DataError("train.freeze", f"cannot be {freeze}: {there}")
    last = max((i for i, name in enumerate(names) if _within(name, freeze)), default=None)
    if last is None:
        known = dict.fromkeys(part for name in names for part in _prefixes(name))
        raise DataError(
            "train.freeze",
            f"the model has no block {freeze!r}; {there}",
            did_you_mean(freeze, ["backbone", *known]),
        )
    return backbone[: last + 1]


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def factors(model: nn.Module, train: Mapping[str, Any]) -> dict[str, float] | None:
    """By what the learning rate of each parameter is multiplied, by its name; None: by 1.

    That of the head is `train.lr`, of all before it `train.lr_backbone`. With `train.layer_decay`
    d the block before the head has d times of it, the one before that d², and so on: Clark et al.
    (2020), "ELECTRA"; Bao et al. (2022), "BEiT".
    """
    decay, lr = train["layer_decay"], train["lr_backbone"]
    if decay == 1 and lr is None:
        return None
    share = 1.0 if lr is None else lr / train["lr"]
    *backbone, _ = blocks(model)
    return {
        key: share * decay**depth
        for depth, block in enumerate(reversed(backbone), 1)
        for key in block.parameters
    }


def check(model: nn.Module, train: Mapping[str, Any]) -> None:
    """Refuse settings that do not fit the model, or change nothing.

    Raises:
        DataError: As said.
    """
    freeze, unfreeze = train["freeze"], train["unfreeze_epoch"]
    own = [] if freeze is None else frozen(model, freeze)
    if unfreeze is not None:
        if freeze is None:
            hint = "train: {freeze: backbone}"
            raise DataError("train.unfreeze_epoch", "has no effect: nothing is frozen", hint)
        if unfreeze > train["epochs"]:
            raise DataError(
                "train.unfreeze_epoch",
                f"has no effect: there are {train['epochs']} epochs; got {unfreeze}",
            )
    before_head = len(blocks(model)) - 1
    for name, off in (("lr_backbone", None), ("layer_decay", 1)):
        if train[name] == off:
            continue
        if before_head == 0:
            raise DataError(f"train.{name}", "has no effect: the model has nothing but its head")
        if len(own) == before_head and unfreeze is None:
            raise DataError(
                f"train.{name}",
                f"has no effect: all blocks but the head are frozen (train.freeze: {freeze})",
                "freeze fewer, or unfreeze_epoch",
            )
