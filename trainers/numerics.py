"""With which numbers a device computes: precision, TensorFloat-32, deterministic algorithms."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from trainers.contract import NonFinite
from trainers.metrics import Estimates

if TYPE_CHECKING:
    from trainers.ensembles import Measured
    from trainers.lanes import Lane

# cuBLAS repeats itself exactly only with a workspace of a fixed size; it is read once, before the
# first product. It is one that cuBLAS takes by itself on most devices.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BY_DEFAULT = {"matmul": False, "cudnn": True}  # where PyTorch uses TensorFloat-32


def set_up(train: Mapping[str, Any], device: str) -> None:
    """Set what PyTorch keeps for a whole process as the next trials want it.

    Args:
        train: Their ``train`` section.
        device: ``cpu`` or ``cuda``.
    """
    if torch.are_deterministic_algorithms_enabled() != train["deterministic"]:
        torch.use_deterministic_algorithms(train["deterministic"])
    if device == "cpu":
        return
    torch.backends.cudnn.deterministic = True  # the same seed gives the same metrics
    tf32 = train["tf32"]
    torch.backends.cuda.matmul.allow_tf32 = BY_DEFAULT["matmul"] if tf32 is None else tf32
    torch.backends.cudnn.allow_tf32 = BY_DEFAULT["cudnn"] if tf32 is None else tf32


class Precision:
    """The numbers that a model is computed with while it learns; its weights are float32.

    As in Micikevicius et al. 2018 (*Mixed Precision Training*): with ``fp16`` the loss is scaled
    up, lest small gradients vanish; a step whose gradients overflow is left out, and the scale
    halved.

    Args:
        name: ``float32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._device, self._half = device.type, HALVES.get(name)
        self._scaler = torch.amp.GradScaler(self._device) if name == "fp16" else None

    def forward(self) -> AbstractContextManager[Any]:
        """In which the model is asked."""
        if self._half is None:
            return nullcontext()
        return torch.autocast(self._device, self._half)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that are there."""
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def step(self, parameters: Sequence[Tensor], step: Callable[[], None]) -> None:
        """Call `step` with the gradients of the loss itself, unless they overflowed."""
        if self._scaler is None:
            step()
            return
        stepping = cast(torch.optim.Optimizer, _Stepping(parameters, step))
        self._scaler.unscale_(stepping)
        self._scaler.step(stepping)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        if self._scaler is not None:
            self._scaler.load_state_dict(dict(state))


class _Stepping:
    """What a scaler takes for an optimizer."""

    def __init__(self, parameters: Sequence[Tensor], step: Callable[[], None]) -> None:
        self.param_groups = [{"params": list(parameters)}]
        self.step = step


def in_float32(output: Tensor) -> Tensor:
    """What a model put out, for the loss: a half has too few digits, float64 stays."""
    return output.float() if output.dtype in HALVES.values() else output


def first_lost(output: Tensor) -> int | None:
    """The first of the (N, …) rows of which something is NaN or infinite; None: there is none."""
    lost = ~output.isfinite().flatten(1).all(1) if output.dim() > 1 else ~output.isfinite()
    return int(lost.int().argmax()) if bool(lost.any()) else None


def diverged(lane: Lane, trained: Measured) -> NonFinite:
    """What is to be said of a lane whose loss in its last epoch is not a number.

    Args:
        trained: Of the rows of the epoch, in the order in which it learned from them.
    """
    loss, said = trained.values["loss"], trained.predicted
    row = first_lost(said.output if isinstance(said, Estimates) else said.logits)
    if row is None:
        return NonFinite(f"loss is {loss} at epoch {lane.done}")
    step = row // lane.batch
    if lane.done == 1 and step == 0:
        return NonFinite(
            f"loss is {loss} at epoch 1, step 1, before anything was learned: look at the data, "
            "and at the weights that it began with"
        )
    return NonFinite(
        f"loss is {loss} at epoch {lane.done}, step {step + 1}, "
        f"learning rate {lane.lr(lane.done, step):.3g}: "
        "try a smaller learning rate, or train.clip_norm"
    )
