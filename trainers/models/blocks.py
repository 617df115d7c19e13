"""The blocks of a model, from its input to its head: what is frozen, and learns at what rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
)


@dataclass(frozen=True)
class Block:
    """Neighbouring layers of a model, e.g. a residual block.

    Attributes:
        name: Its module's, ``layer1.0``.
        modules: Its module, and norms that come after it.
        parameters: The names of all of them.
    """

    name: str
    modules: Sequence[nn.Module]
    parameters: Sequence[str]


def blocks(model: nn.Module) -> list[Block]:
    """The blocks in the order in which the model has them; the last one is its head.

    The head is the last linear or convolutional layer, which is for a number of classes. What is
    no layer of its own (a class token, embeddings of positions) belongs to the first block.
    Branches that lie side by side may count one after another, as in googlenet.
    """
    head = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    found: list[tuple[str, list[nn.Module], list[str]]] = []
    for name, module in _parts(model, "", head):
        own = [f"{name}.{key}" for key, _ in module.named_parameters()]
        if isinstance(module, NORMS) and found and name != head:
            found[-1][1].append(module)
            found[-1][2].extend(own)
        elif own:
            found.append((name, [module], own))
    listed = {key for _, _, own in found for key in own}
    loose = [key for key, _ in model.named_parameters() if key not in listed]
    if loose:
        found[0][2].extend(loose)
    return [Block(*parts) for parts in found]


def _parts(module: nn.Module, prefix: str, head: str) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a module that are not divided further."""
    for key, child in module.named_children():
        name = f"{prefix}{key}"
        is_list = type(child) in (nn.Sequential, nn.ModuleList)
        if is_list or head.startswith(f"{name}.") or (name != head and _holds_blocks(child)):
            yield from _parts(child, f"{name}.", head)
        else:
            yield name, child


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a sequence of modules of one kind, each with parts of its own, is below it."""
    for below in module.modules():
        if type(below) in (nn.Sequential, nn.ModuleList):
            parts = [
                child for child in below.children() if next(child.children(), None) is not None
            ]
            kinds = [type(part) for part in parts]
            alike = len(set(kinds)) == 1 and not issubclass(kinds[0], nn.Sequential)
            if len(kinds) > 1 and alike:
                return True
    return False
