"""A stack: the state of K models as one ``(K, P)`` matrix, and an epoch of all of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.data import Split
from trainers.lanes import noise
from trainers.lanes.layers import LAYERS, Layer, Pass, backward, forward
from trainers.lanes.losses import LOSSES
from trainers.lanes.optim import OPTIMIZERS, average, penalize
from trainers.metrics import Estimates, Scores
from trainers.schedules import Schedule
from trainers.seeds import generator

# Rows of several steps are gathered at once, as many numbers (4 MB): a gather has its price, too.
CHUNK_NUMBERS = 2**20
VALIDATION_ROWS = 2**14  # of all lanes, at once
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")  # of a CPU, in a RuntimeError


@dataclass(eq=False)
class Lane:
    """A model's place in a stack.

    Attributes:
        model: The model with its first weights; only they are used.
        split: What it trains and validates on.
        options: Its ``train`` section.
        dropout: The share of units it drops, in [0, 1).
        schedule: Of its learning rate.
        seed: What all its random numbers are made from.
        done: The epochs it has trained.
    """

    model: nn.Module
    split: Split
    options: Mapping[str, Any]
    dropout: float
    schedule: Schedule
    seed: tuple[int, ...]
    done: int = 0

    @cached_property
    def rows(self) -> int:
        """How many rows it trains on in an epoch: all but one with which batch
        norm would be alone."""
        there, batch = len(self.split.train), self.options["batch_size"]
        normalizes = any(isinstance(layer, nn.BatchNorm1d) for layer in self.model.modules())
        return there - (normalizes and batch > 1 and there % batch == 1)

    def order(self) -> Tensor:
        """(rows,) int64: the rows of the epoch after `done`, in the order it takes them."""
        random = generator(*self.seed, self.done + 1)
        order = torch.randperm(len(self.split.train), generator=random)
        return self.split.train[order[: self.rows]]


@dataclass(frozen=True)
class Said:
    """What some lanes with equally many rows said, in the lanes' order."""

    lanes: Sequence[Lane]
    predicted: Scores | Estimates


@dataclass(frozen=True)
class _Span:
    """Neighbouring lanes that have equally many rows in a step."""

    first: int
    end: int
    rows: int


@dataclass(frozen=True)
class _Part:
    """Neighbouring lanes of a stack, as a step needs them: views of its state."""

    layers: Sequence[Layer]
    parameters: Tensor
    gradients: Tensor
    memory: Mapping[str, Tensor]
    settings: Mapping[str, Tensor]
    steps: Tensor
    dropout: Tensor
    threshold: Tensor
    smoothing: Tensor | None
    averages: Tensor | None
    decay: Tensor


class Stack:
    """Models of one shape that are trained as one program.

    Attributes:
        lanes: With most rows first.
        parameters: (K, P), a row a lane.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        """Put lanes together whose shapes, optimizer and batch size are the same."""
        first = lanes[0]
        self._modules = list(first.model.named_children())
        learns = [next(module.parameters(), None) is not None for _, module in self._modules]
        self._first_learner = learns.index(True)
        self._shapes = {name: p.shape for name, p in first.model.named_parameters()}
        self._batch = first.options["batch_size"]
        self._optimizer = OPTIMIZERS[first.options["optimizer"]]
        self._device = first.split.target.device
        self._dtype = next(first.model.parameters()).dtype
        classes = first.split.target.dtype == torch.int64
        self._loss = LOSSES["classification" if classes else "regression"]
        self._most = sys.maxsize  # lanes a pass; less once memory was short
        self.lanes: list[Lane] = []
        self.parameters = torch.empty(0)
        self._memory: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        self._averages: Tensor | None = None  # of the parameters; None if no lane wants them
        self._steps = torch.empty(0)
        self.add(lanes)

    # -- who is in it

    def add(self, lanes: Sequence[Lane]) -> None:
        """Let lanes in; each begins with its own model's weights."""
        rows = [
            torch.cat([p.detach().reshape(-1) for p in lane.model.parameters()]) for lane in lanes
        ]
        new = torch.stack(rows).to(self._device)
        buffers = {
            name: torch.stack([dict(lane.model.named_buffers())[name] for lane in lanes])
            for name, _ in lanes[0].model.named_buffers()
        }
        memory = {name: torch.zeros_like(new) for name in self._optimizer.memory}
        steps = torch.zeros((len(lanes), 1), dtype=torch.int64, device=self._device)
        if self.lanes:
            new = torch.cat([self.parameters, new])
            steps = torch.cat([self._steps, steps])
            memory = {name: torch.cat([self._memory[name], own]) for name, own in memory.items()}
            if self._averages is not None:
                self._averages = torch.cat([self._averages, new[len(self.lanes) :]])
            buffers = {name: torch.cat([self._buffers[name], b]) for name, b in buffers.items()}
        self.lanes = [*self.lanes, *lanes]
        self.parameters, self._steps, self._memory, self._buffers = new, steps, memory, buffers
        order = sorted(range(len(self.lanes)), key=lambda place: -self.lanes[place].rows)
        self._take(order)

    def keep(self, lanes: Sequence[Lane]) -> None:
        """Let all others go; what they took is free."""
        wanted = set(map(id, lanes))
        self._take([place for place, lane in enumerate(self.lanes) if id(lane) in wanted])

    def _take(self, places: Sequence[int]) -> None:
        index = torch.tensor(places, dtype=torch.int64, device=self._device)
        self.lanes = [self.lanes[place] for place in places]
        self.parameters = self.parameters[index]
        self._steps = self._steps[index]
        self._memory = {name: tensor[index] for name, tensor in self._memory.items()}
        self._buffers = {name: tensor[index] for name, tensor in self._buffers.items()}
        if self._averages is not None:
            self._averages = self._averages[index]
        elif any(lane.options["ema"] is not None for lane in self.lanes):
            self._averages = self.parameters.clone()  # of the others it is what they are
        self._gradients = torch.empty_like(self.parameters)
        self._settings = self._columns()
        self._dropout = self._column([lane.dropout for lane in self.lanes])
        self._decay = self._column([lane.options["ema"] or 0.0 for lane in self.lanes])
        self._threshold = noise.threshold(self._dropout)
        self._parts: dict[tuple[int, int], _Part] = {}

    def _columns(self) -> dict[str, Tensor]:
        """The settings by name, (K, 1) each; without those that change nothing in any lane."""
        columns = {}
        optional = (*self._optimizer.settings, "l1", "label_smoothing")
        for name, without in [*((name, 0.0) for name in optional), ("clip_norm", math.inf)]:
            own = [lane.options[name] for lane in self.lanes]
            values = [without if value is None else float(value) for value in own]
            if any(value != without for value in values):
                columns[name] = self._column(values)
        for name in self._optimizer.needed:
            columns[name] = self._column([lane.options[name] for lane in self.lanes])
        return columns

    def _column(self, values: Sequence[float]) -> Tensor:
        """(K, 1)"""
        column = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
        return column.to(self._device, self._dtype)

    # -- its state, for checkpoints

    def state(self, lane: Lane) -> dict[str, Any]:
        """A lane's model and optimizer, copied."""
        place = self.lanes.index(lane)
        own = self._own(self.parameters, place, place + 1)
        memory = {name: tensor[place].clone() for name, tensor in self._memory.items()}
        return {
            "model": {name: view[0].detach().clone() for name, view in own.items()},
            "optimizer": {**memory, "steps": int(self._steps[place])},
            "average": None if self._averages is None else self._averages[place].clone(),
        }

    def load(self, lane: Lane, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        place = self.lanes.index(lane)
        with torch.no_grad():
            for name, view in self._own(self.parameters, place, place + 1).items():
                view[0].copy_(state["model"][name])
            if self._averages is not None:
                saved = state["average"]
                self._averages[place] = self.parameters[place] if saved is None else saved
            for name, tensor in self._memory.items():
                tensor[place].copy_(state["optimizer"][name])
            self._steps[place] = state["optimizer"]["steps"]

    # -- an epoch

    @torch.no_grad()
    def train(self) -> list[Said]:
        """An epoch of each lane; what it said of each batch just before learning from it."""
        lanes, batch = self.lanes, self._batch
        steps = math.ceil(lanes[0].rows / batch)
        drops = sum(isinstance(layer, nn.Dropout) for _, layer in self._modules)
        epochs = [lane.done + 1 for lane in lanes]
        keys = None
        if drops and any(lane.dropout for lane in lanes):
            keys = noise.keys([lane.seed for lane in lanes], epochs, steps * drops)
            keys = keys.to(self._device).view(steps, drops, len(lanes), 2)
        rates = self._learning_rates(steps)
        rows = torch.zeros((len(lanes), steps * batch), dtype=torch.int64)
        for place, lane in enumerate(lanes):
            rows[place, : lane.rows] = lane.order()
        rows = rows.view(len(lanes), steps, batch).transpose(0, 1)  # a step's lie together
        outputs, targets = None, []
        for start, inputs, target in self._gathered(rows):
            wanted = self._standardized(target)
            for step, (x, y) in enumerate(zip(inputs, wanted, strict=True), start):
                for span in self._spans(step):
                    some = slice(span.first, span.end)
                    drawn = None if keys is None else keys[step, :, some]
                    output = self._step(
                        span.first,
                        span.end,
                        x[some, : span.rows],
                        y[some, : span.rows],
                        rates[step, some],
                        drawn,
                    )
                    if outputs is None:
                        shape = (steps, len(lanes), output.shape[1], batch)
                        outputs = output.new_empty(shape)
                    outputs[step, some, :, : span.rows] = output
            targets.append(target)
        for lane in lanes:
            lane.done += 1
        assert outputs is not None
        said = outputs.permute(1, 2, 0, 3).flatten(2)
        return self._said(said, _in_order(targets), [lane.rows for lane in lanes])

    @torch.no_grad()
    def validate(self) -> list[Said]:
        """What each lane says of its validation rows, in their order."""
        counts = [len(lane.split.validation) for lane in self.lanes]
        rows = torch.zeros((len(self.lanes), max(counts)), dtype=torch.int64)
        for place, lane in enumerate(self.lanes):
            rows[place, : counts[place]] = lane.split.validation
        columns = max(1, min(max(counts), VALIDATION_ROWS // len(self.lanes)))
        short = -rows.shape[1] % columns
        rows = functional.pad(rows, (0, short)).view(len(self.lanes), -1, columns).transpose(0, 1)
        weights = self.parameters if self._averages is None else self._averages
        layers = self._layers(weights, 0, len(self.lanes))
        outputs, targets = [], []
        for _, inputs, target in self._gathered(rows):
            outputs += [forward(layers, x, Pass(training=False)) for x in inputs]
            targets.append(target)
        return self._said(torch.cat(outputs, 2), _in_order(targets), counts)

    def _step(
        self,
        first: int,
        end: int,
        inputs: Tensor,
        target: Tensor,
        rate: Tensor,
        keys: Tensor | None,
    ) -> Tensor:
        """A step of the lanes `first` … `end`; what they said, (k, outputs, B)."""
        if end - first > self._most:
            near = self._most
            parts = ((first, first + near, slice(0, near)), (first + near, end, slice(near, None)))
            said = [
                self._step(
                    a, b, inputs[i], target[i], rate[i], None if keys is None else keys[:, i]
                )
                for a, b, i in parts
            ]
            return torch.cat(said)
        try:
            return self._learn(self._part(first, end), inputs, target, rate, keys)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if end - first == 1 or not is_out_of_memory(error):
                raise
        # Nothing has been changed yet: the same step, in two halves, and so from here on.
        self._most = (end - first + 1) // 2
        return self._step(first, end, inputs, target, rate, keys)

    def _learn(
        self, part: _Part, inputs: Tensor, target: Tensor, rate: Tensor, keys: Tensor | None
    ) -> Tensor:
        output = forward(part.layers, inputs, Pass(True, part.dropout, part.threshold, keys))
        gradient = self._loss(output, target, part.smoothing)
        backward(part.layers[self._first_learner :], gradient)
        part.steps.add_(1)
        penalize(part.parameters, part.gradients, part.settings)
        self._optimizer.update(
            part.parameters, part.gradients, part.memory, part.settings, rate, part.steps
        )
        if part.averages is not None:
            average(part.averages, part.parameters, part.decay, part.steps)
        return output

    # -- parts of the state

    def _part(self, first: int, end: int) -> _Part:
        """What a step of some neighbouring lanes needs; made once."""
        if (first, end) not in self._parts:
            some, smoothing = slice(first, end), self._settings.get("label_smoothing")
            self._parts[first, end] = _Part(
                layers=self._layers(self.parameters, first, end),
                parameters=self.parameters[some],
                gradients=self._gradients[some],
                memory={name: tensor[some] for name, tensor in self._memory.items()},
                settings={name: column[some] for name, column in self._settings.items()},
                steps=self._steps[some],
                dropout=self._dropout[some].unsqueeze(2),
                threshold=self._threshold[some],
                smoothing=None if smoothing is None else smoothing[some].unsqueeze(2),
                averages=None if self._averages is None else self._averages[some],
                decay=self._decay[some],
            )
        return self._parts[first, end]

    def _layers(self, weights: Tensor, first: int, end: int) -> list[Layer]:
        own = self._own(weights, first, end)
        gradients = dict(zip(self._shapes, self._cut(self._gradients[first:end]), strict=True))
        return [
            LAYERS[type(module)](module, _below(name, own), _below(name, gradients))
            for name, module in self._modules
        ]

    def _own(self, weights: Tensor, first: int, end: int) -> dict[str, Tensor]:
        """Some lanes' rows of `weights` (K, P), and buffers, by name, (k, …): views."""
        views = dict(zip(self._shapes, self._cut(weights[first:end]), strict=True))
        for view in views.values():
            view.requires_grad_()  # for the layers that use autograd
        return views | {name: buffer[first:end] for name, buffer in self._buffers.items()}

    def _cut(self, matrix: Tensor) -> list[Tensor]:
        """(k, P) as a view for each parameter."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        return [
            part.detach().view(len(matrix), *shape)
            for part, shape in zip(
                torch.split(matrix, sizes, 1), self._shapes.values(), strict=True
            )
        ]

    # -- parts of an epoch

    def _spans(self, step: int) -> Iterator[_Span]:
        """The lanes that have rows left in `step`, by how many."""
        start = 0
        left = (min(self._batch, lane.rows - step * self._batch) for lane in self.lanes)
        for rows, group in groupby(left):
            count = len(list(group))
            if rows > 0:
                yield _Span(start, start + count, rows)
            start += count

    def _learning_rates(self, steps: int) -> Tensor:
        """(steps, K, 1)"""
        table = []
        for lane in self.lanes:
            own = math.ceil(lane.rows / self._batch)
            first, total = lane.done * own, lane.options["epochs"] * own
            factors = [lane.schedule((first + step) / total) for step in range(own)]
            rates = [lane.options["lr"] * factor for factor in factors]
            table.append(rates + [0.0] * (steps - own))
        columns = torch.tensor(table, dtype=torch.float64).T.unsqueeze(2)
        return columns.to(self._device, self._dtype)

    def _gathered(self, rows: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The first step, inputs (s, K, B, …) and targets (s, K, B) of some steps at a time.

        Args:
            rows: (S, K, B) int64, of each lane's own split.
        """
        splits: dict[int, tuple[Split, list[int]]] = {}
        for place, lane in enumerate(self.lanes):
            splits.setdefault(id(lane.split), (lane.split, []))[1].append(place)
        numbers = math.prod(self.lanes[0].split.inputs.shape[1:]) * math.prod(rows.shape[1:])
        size = max(1, CHUNK_NUMBERS // numbers)
        order = torch.tensor([p for _, places in splits.values() for p in places]).argsort()
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            parts = []
            for split, places in splits.values():
                own = some if len(splits) == 1 else some[:, places]
                inputs, target = split.batch(own.reshape(-1))
                inputs = inputs.view(*own.shape, *inputs.shape[1:]).to(self._dtype)
                parts.append((inputs, target.view(own.shape)))
            if len(parts) == 1:
                yield start, *parts[0]
            else:
                whole = [torch.cat(of_all, 1) for of_all in zip(*parts, strict=True)]
                inputs, target = (tensor[:, order.to(tensor.device)] for tensor in whole)
                yield start, inputs, target

    def _standardized(self, target: Tensor) -> Tensor:
        """(s, K, B): what the models are to put out for `target`."""
        if target.dtype == torch.int64:
            return target
        mean, std = self._scales(self.lanes)
        return (target - mean) / std

    def _scales(self, lanes: Sequence[Lane]) -> tuple[Tensor, Tensor]:
        """(K, 1) mean and standard deviation of each lane's training targets."""
        mean = torch.tensor([[lane.split.target_mean] for lane in lanes], dtype=self._dtype)
        std = torch.tensor([[lane.split.target_std] for lane in lanes], dtype=self._dtype)
        return mean.to(self._device), std.to(self._device)

    def _said(self, outputs: Tensor, target: Tensor, counts: Sequence[int]) -> list[Said]:
        """By how many rows lanes have.

        Args:
            outputs: (K, outputs, n), of which each lane has the first `counts`.
        """
        said = []
        for count in sorted(set(counts), reverse=True):
            places = [place for place, own in enumerate(counts) if own == count]
            lanes = [self.lanes[place] for place in places]
            output, wanted = outputs[places, :, :count], target[places, :count]
            predicted: Scores | Estimates
            if target.dtype == torch.int64:
                predicted = Scores(output.mT, wanted)
            else:
                mean, std = self._scales(lanes)
                values = output.squeeze(1) * std + mean
                predicted = Estimates(values, wanted, std.squeeze(1).double())
            said.append(Said(lanes, predicted))
        return said


def _in_order(targets: Sequence[Tensor]) -> Tensor:
    """(s, K, B) of some steps at a time → (K, all steps · B)."""
    return torch.cat(list(targets)).transpose(0, 1).flatten(1)


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the layer `name`, by their names in it."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in OUT_OF_MEMORY
    )
