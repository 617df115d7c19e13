"""Optimizers: a table of classes that turn gradients into steps.

They call the functions behind ``torch.optim``'s classes, with the same results to the last bit.
The classes themselves import ``torch._dynamo`` when they are first made: a second and 150 MB in
every worker, for nothing that is used here.

Imports torch only when an optimizer is made, so that the names can be listed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Optimizer(Protocol):
    """What updates the parameters."""

    parameters: list[Tensor]

    def step(self, lr: float) -> None:
        """Update the parameters by their gradients. Under ``torch.no_grad()`` only."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: refers to the live tensors."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""


# From parameters and the ``train`` section.
Make = Callable[[Iterable["Tensor"], Mapping[str, Any]], Optimizer]


class SGD:
    """With momentum (Nesterov's on request), and weight decay as an L2 penalty."""

    def __init__(self, parameters: Iterable[Tensor], train: Mapping[str, Any]) -> None:
        from torch.optim.sgd import sgd

        self._update = sgd
        self.parameters = [p for p in parameters if p.requires_grad]
        self._weight_decay = train["weight_decay"]
        self._momentum = train["momentum"]
        # Without momentum, Nesterov's step is the plain one, and torch refuses the pair.
        self._nesterov = train["nesterov"] and train["momentum"] > 0
        self._velocities: list[Tensor | None] = [None] * len(self.parameters)

    def step(self, lr: float) -> None:
        self._update(
            self.parameters,
            [p.grad for p in self.parameters if p.grad is not None],
            self._velocities,
            fused=True,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self._nesterov,
            maximize=False,
        )

    def state(self) -> dict[str, Any]:
        return {"velocities": list(self._velocities)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._velocities = [
            None if saved is None else saved.to(p.device)
            for saved, p in zip(state["velocities"], self.parameters, strict=True)
        ]


class AdamW:
    """With weight decay that does not pass through the gradients' averages."""

    def __init__(self, parameters: Iterable[Tensor], train: Mapping[str, Any]) -> None:
        import torch
        from torch.optim.adamw import adamw

        self._update = adamw
        self.parameters = [p for p in parameters if p.requires_grad]
        self._weight_decay = train["weight_decay"]
        self._betas = (train["beta1"], train["beta2"])
        self._means = [torch.zeros_like(p) for p in self.parameters]
        self._squares = [torch.zeros_like(p) for p in self.parameters]
        self._steps = [torch.zeros((), device=p.device) for p in self.parameters]

    def step(self, lr: float) -> None:
        self._update(
            self.parameters,
            [p.grad for p in self.parameters if p.grad is not None],
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=lr,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> dict[str, Any]:
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        for own, name in (
            (self._means, "means"),
            (self._squares, "squares"),
            (self._steps, "steps"),
        ):
            for tensor, saved in zip(own, state[name], strict=True):
                tensor.copy_(saved)


OPTIMIZERS: dict[str, Make] = {"sgd": SGD, "adamw": AdamW}
