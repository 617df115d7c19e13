"""Whether a model is compiled while it learns (``torch.compile``): where that gains more than it
costs. What was measured of a model holds for all later ones like it in the same worker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

# Before it was tried: the share of a step's time that may be gained, and what trying costs. Small
# networks took 11 to 26 s on a core; resnet18 was a tenth faster then, smaller ones were slower.
HOPED = 0.2
COST_S = 20.0
MOST_SHAPES = 256  # that PyTorch keeps the compiled code of; by itself it gives up after 8

Result = TypeVar("Result")


@dataclass
class Known:
    """What was measured of one kind of model.

    Attributes:
        plain_s: Seconds a step, at best; None: not measured yet.
        compiled_s: The same compiled; infinite where it cannot be.
    """

    plain_s: float | None = None
    compiled_s: float | None = None

    def pays(self, steps: int) -> bool:
        """Whether so many steps are done sooner when they are compiled.

        What compiling costs is charged once: when it was tried, the code is there.
        """
        if self.plain_s is None:
            return False
        if self.compiled_s is None:
            return HOPED * self.plain_s * steps > COST_S
        return self.compiled_s < self.plain_s


_known: dict[Hashable, Known] = {}


class Compiling:
    """How one model's steps are computed.

    Args:
        how: ``on``, ``off``, or ``auto``: compiled where that pays.
        kind: Equal for models whose steps take equally long.

    Attributes:
        note: What is to be said of it; empty: nothing.
    """

    def __init__(self, model: nn.Module, how: str, kind: Hashable) -> None:
        self._plain, self._how = model, how
        self._known = _known.setdefault(kind, Known())
        self._compiled: nn.Module | None = None
        self._rows: int | None = None
        self._first_s = 0.0  # of the step that compiles
        self.note = ""

    def begin(self, rows: int, steps_left: int) -> None:
        """An epoch begins, with steps of so many rows; and how many are left, in all epochs."""
        wanted = self._how == "on" or (self._how == "auto" and self._known.pays(steps_left))
        self._rows = rows if wanted else None
        self._first_s, self._steps = 0.0, 0
        self._began_s = time.perf_counter()

    def step(self, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, which asks `model`."""
        self._steps += 1
        if self._rows is None or self._compiled is not None:
            return compute()
        began_s = time.perf_counter()
        self._compiled = _compiled(self._plain)
        try:
            found = compute()
        except torch._dynamo.exc.TorchDynamoException as error:
            if self._how == "on":
                raise
            self._rows, self._compiled, self._known.compiled_s = None, None, math.inf
            self.note = f"not compiled: {str(error).splitlines()[0][:200]}"
            return compute()
        self._first_s = time.perf_counter() - began_s
        self.note = f"compiled, which took {self._first_s:.1f} s"
        return found

    def model(self, rows: int) -> nn.Module:
        """The model for so many rows; the last batch of an epoch is not worth compiling for."""
        return self._compiled if self._compiled is not None and rows == self._rows else self._plain

    def end(self) -> None:
        """The epoch is over, on the device, too."""
        steps = self._steps - (self._first_s > 0)
        if steps == 0:
            return
        step_s = (time.perf_counter() - self._began_s - self._first_s) / steps
        if self._rows is None:
            self._known.plain_s = min(step_s, self._known.plain_s or math.inf)
        else:
            self._known.compiled_s = min(step_s, self._known.compiled_s or math.inf)


def _compiled(model: nn.Module) -> Any:
    import torch._dynamo.config
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._inductor.config.compile_threads = torch.get_num_threads()
    return torch.compile(model, dynamic=False)
