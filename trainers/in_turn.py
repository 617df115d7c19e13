"""Models that are trained one after another, as PyTorch does it: what lanes have no rule for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from trainers.averages import Average
from trainers.lanes import Lane, Said
from trainers.metrics import Estimates, Scores
from trainers.optim import OPTIMIZERS, Optimizer
from trainers.seeds import seed_everything

# Rows are gathered and standardized this many numbers at a time (16 MB), not batch by batch: on
# small data the gathering would otherwise cost as much as the training.
CHUNK_NUMBERS = 2**22
# Rows validated at once: bounds what a convolutional network holds in memory.
VALIDATION_NUMBERS = 2**20


class InTurn:
    """A `trainers.team.Team` of ordinary modules."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes: list[Lane] = []
        self._optimizers: dict[Lane, Optimizer] = {}
        self._averages: dict[Lane, Average] = {}
        self._convolves = False
        self.add(lanes)

    def add(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            lane.model.to(lane.split.target.device)
            self._convolves = any(isinstance(m, nn.Conv2d) for m in lane.model.modules())
            if self._convolves:
                lane.model.to(memory_format=torch.channels_last)
            make = OPTIMIZERS[lane.options["optimizer"]]
            self._optimizers[lane] = make(lane.model.parameters(), lane.options)
            if lane.options["ema"] is not None:
                self._averages[lane] = Average(lane.model, lane.options["ema"])
            self.lanes.append(lane)

    def keep(self, lanes: Sequence[Lane]) -> None:
        self._optimizers = {lane: self._optimizers[lane] for lane in lanes}
        self._averages = {lane: own for lane, own in self._averages.items() if lane in lanes}
        self.lanes = list(lanes)

    def train(self) -> list[Said]:
        return [Said([lane], self._train(lane)) for lane in self.lanes]

    def validate(self) -> list[Said]:
        return self.answer({lane: lane.split.validation for lane in self.lanes})

    @torch.no_grad()
    def answer(self, asked: Mapping[Lane, Tensor]) -> list[Said]:
        said = []
        for lane, rows in asked.items():
            average = self._averages.get(lane)
            with average.in_place() if average else contextlib.nullcontext():
                said.append(Said([lane], self._answer(lane, rows)))
        return said

    def state(self, lane: Lane) -> dict[str, Any]:
        """Refers to the live tensors."""
        average = self._averages.get(lane)
        return {
            "model": lane.model.state_dict(),
            "optimizer": self._optimizers[lane].state(),
            "average": average and {"values": average.values, "steps": average.steps},
        }

    def load(self, lane: Lane, state: Mapping[str, Any]) -> None:
        lane.model.load_state_dict(state["model"])
        self._optimizers[lane].load_state(state["optimizer"])
        if lane in self._averages:
            self._averages[lane].load(**state["average"])

    def weights(self, lane: Lane) -> dict[str, Tensor]:
        average = self._averages.get(lane)
        with average.in_place() if average else contextlib.nullcontext():
            own = lane.model.state_dict()
            return {name: tensor.to("cpu", copy=True) for name, tensor in own.items()}

    def _train(self, lane: Lane) -> Scores | Estimates:
        epoch, options = lane.done + 1, lane.options
        seed_everything(*lane.seed, epoch)
        rows = lane.split.train[torch.randperm(len(lane.split.train))]
        size = min(options["batch_size"], len(rows))
        if len(rows) % size == 1 and size > 1:
            rows = rows[:-1]  # batch norm knows no spread of one row
        steps = math.ceil(len(rows) / size)
        optimizer = self._optimizers[lane]
        done, all_steps = (epoch - 1) * steps, options["epochs"] * steps
        outputs, targets = [], []
        batches_rows = iter(torch.split(rows, size))
        lane.model.train()
        for inputs, target in self._chunks(lane, rows, size, CHUNK_NUMBERS):
            wanted = _standardized(lane, target)
            batches = zip(torch.split(inputs, size), torch.split(wanted, size), strict=True)
            for x, y in batches:
                own = next(batches_rows).to(y.device)
                output = lane.model(x)
                if lane.offset is not None:
                    output = output + lane.offset[own]
                for parameter in optimizer.parameters:
                    parameter.grad = None
                loss = _loss(lane, output, y, own)
                loss.backward()  # type: ignore[no-untyped-call]
                with torch.no_grad():
                    _penalize(optimizer.parameters, options)
                    optimizer.step(options["lr"] * lane.schedule(done / all_steps))
                if lane in self._averages:
                    self._averages[lane].update()
                outputs.append(output.detach())
                done += 1
            targets.append(target)
        lane.done = epoch
        return _predicted(lane, torch.cat(outputs), torch.cat(targets))

    def _answer(self, lane: Lane, rows: Tensor) -> Scores | Estimates:
        lane.model.eval()
        batch = lane.options["batch_size"]
        outputs, targets = [], []
        for inputs, target in self._chunks(lane, rows, batch, VALIDATION_NUMBERS):
            outputs.append(lane.model(inputs))
            targets.append(target)
        return _predicted(lane, torch.cat(outputs), torch.cat(targets))

    def _chunks(
        self, lane: Lane, rows: Tensor, batch: int, numbers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of `rows`, some whole batches at a time, on the device."""
        row_numbers = math.prod(lane.split.inputs.shape[1:])
        size = max(1, numbers // (row_numbers * batch)) * batch
        for some in torch.split(rows, size):
            inputs, target = lane.split.batch(some)
            if self._convolves:  # much faster for convolutions, on CPUs as on GPUs
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs, target


def _penalize(parameters: Sequence[Tensor], options: Mapping[str, Any]) -> None:
    """Add the L1 penalty's gradient; then shorten the gradient if it is longer than allowed."""
    if options["l1"]:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.sign(), alpha=options["l1"])
    if options["clip_norm"] is not None:
        nn.utils.clip_grad_norm_(parameters, options["clip_norm"])


def _loss(lane: Lane, output: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """The mean over `rows`, weighted by their classes and by the rows' own weights."""
    of_classes = None if lane.class_weights is None else lane.class_weights.to(output)
    smoothing = lane.options["label_smoothing"]
    how = "mean" if lane.row_weights is None else "none"
    if target.dtype == torch.int64:
        loss = cross_entropy(output, target, of_classes, label_smoothing=smoothing, reduction=how)
    else:
        loss = mse_loss(output, target, reduction=how)
    if lane.row_weights is None:
        return loss
    counted = len(target) if of_classes is None else of_classes[target].sum()
    return (loss.flatten() * lane.row_weights[rows]).sum() / counted


def _standardized(lane: Lane, target: Tensor) -> Tensor:
    """What the model is to put out for `target`."""
    if target.dtype == torch.int64:
        return target
    return ((target - lane.split.target_mean) / lane.split.target_std).unsqueeze(1)


def _predicted(lane: Lane, output: Tensor, target: Tensor) -> Scores | Estimates:
    """With one leading dimension, of this one lane."""
    if target.dtype == torch.int64:
        return Scores(output.unsqueeze(0), target.unsqueeze(0))
    values = output.squeeze(1) * lane.split.target_std + lane.split.target_mean
    unit = torch.tensor([lane.split.target_std], dtype=torch.float64, device=target.device)
    return Estimates(values.unsqueeze(0), target.unsqueeze(0), unit)
