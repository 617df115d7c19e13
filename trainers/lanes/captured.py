"""Steps of a stack on a GPU as one launch each, by CUDA graphs (docs/decisions/0032).

The steps of small models are over sooner than their operations are started, one after another. A
graph starts all of them at once, and they are the same operations: the numbers stay the same.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

AFTER = 4  # steps of a kind that are made as they are: capturing takes as long as two or three

# A frozen dataclass of tensors, any of them None.
Given = TypeVar("Given")


class Graphs(Generic[Given]):
    """The steps that one stack has captured, while its tensors lie where they do.

    Attributes:
        possible: False once a capture has failed in this process: what it leaves behind in
            PyTorch is not worth another. All steps are made as they are then.
    """

    possible: ClassVar[bool] = True

    def __init__(self) -> None:
        self._made: Counter[Hashable] = Counter()
        self._captured: dict[Hashable, _Captured[Given]] = {}
        self._pool: Any = None

    def run(self, kind: Hashable, given: Given, step: Callable[[Given], Tensor]) -> Tensor:
        """What `step` returns; it is to be used before the next step.

        Args:
            kind: Equal for steps that do the same with what they are given.
        """
        if not Graphs.possible:
            return step(given)
        shapes = tuple(None if tensor is None else tuple(tensor.shape) for tensor in _each(given))
        key = (kind, shapes)
        self._made[key] += 1
        if self._made[key] <= AFTER:
            return step(_copied(given))  # as it will be captured: its strides choose kernels
        if key not in self._captured and not self._capture(key, given, step):
            return step(given)
        return self._captured[key].run(given)

    def clear(self) -> None:
        """Give back what they hold; steps are captured anew."""
        self._made.clear()
        self._captured.clear()
        self._pool = None  # it went with the last of them

    def _capture(self, key: Hashable, given: Given, step: Callable[[Given], Tensor]) -> bool:
        """False: something in it cannot be captured, or there is no memory for it."""
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            self._captured[key] = _Captured(given, step, self._pool)
        except RuntimeError:
            Graphs.possible = False
            self.clear()
        return Graphs.possible


class _Captured(Generic[Given]):
    """A step, which reads what it is given where it was when it was captured."""

    def __init__(self, given: Given, step: Callable[[Given], Tensor], pool: Any) -> None:
        self._given = _copied(given)
        self._graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # back to it from a failed capture
            torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
        ):
            self._output = step(self._given)

    def run(self, given: Given) -> Tensor:
        torch._foreach_copy_(_tensors(self._given), _tensors(given))
        self._graph.replay()
        return self._output


def _copied(given: Given) -> Given:
    return type(given)(*(None if own is None else own.clone() for own in _each(given)))


def _each(given: object) -> list[Tensor | None]:
    return [getattr(given, field.name) for field in dataclasses.fields(given)]  # type: ignore[arg-type]


def _tensors(given: object) -> list[Tensor]:
    return [own for own in _each(given) if own is not None]
