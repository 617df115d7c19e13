"""A stack: the state of K models as one ``(K, P)`` matrix, and an epoch of all of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.averages import warmed
from trainers.data import Split
from trainers.lanes import noise
from trainers.lanes.layers import Layer, Pass, backward, forward, parts, rule
from trainers.lanes.losses import LOSSES
from trainers.lanes.optim import OPTIMIZERS, Rows, penalize
from trainers.memory import is_out_of_memory
from trainers.metrics import Estimates, Scores
from trainers.padding import padded
from trainers.schedules import Schedule
from trainers.seeds import generator

# Rows of several steps are gathered at once, as many numbers (1 MB): a gather has its price, too.
# Of more, the pages would be new ones each time, and out of the cache before they are used.
CHUNK_NUMBERS = 2**18
MOST_PADDED = 2**15  # parameters of a model, up to which some more rows cost little
MOST_ROWS = 256  # of a lane at once, where it does not learn


@dataclass(eq=False)
class Lane:
    """A model's place in a stack.

    Attributes:
        model: The model with its first weights; only they are used.
        split: What it trains and validates on.
        options: Its ``train`` section.
        schedule: Of its learning rate.
        seed: What all its random numbers are made from.
        done: The epochs it has trained.
        offset: (N, outputs) added to what it puts out of each row of the split, before the loss;
            None: nothing.
        row_weights: (N,) how much each row counts in the loss, the mean over the training rows 1;
            None: all alike.
        class_weights: (C,) float64, of each class in the mean of the loss; None: all alike.
    """

    model: nn.Module
    split: Split
    options: Mapping[str, Any]
    schedule: Schedule
    seed: tuple[int, ...]
    done: int = 0
    offset: Tensor | None = None
    row_weights: Tensor | None = None
    class_weights: Tensor | None = None

    @cached_property
    def rows(self) -> int:
        """How many rows it trains on in an epoch: all but one with which batch
        norm would be alone."""
        there, batch = len(self.split.train), self.batch
        return there - (self._normalizes and batch > 1 and there % batch == 1)

    @property
    def batch(self) -> int:
        """Rows of a step; the last one of an epoch may have fewer."""
        return int(self.options["batch_size"])

    @property
    def steps(self) -> int:
        """How many it makes in an epoch."""
        return math.ceil(self.rows / self.batch)

    @cached_property
    def width(self) -> int:
        """With how many rows its steps are computed, whatever is in its stack: those that are not
        of its batch count nothing. Only where they cost little, and where a row is by itself."""
        parameters = sum(p.numel() for p in self.model.parameters())
        together = self._normalizes or self.class_weights is not None
        return self.batch if together or parameters > MOST_PADDED else padded(self.batch)

    @property
    def _normalizes(self) -> bool:
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        return any(isinstance(layer, norms) for layer in self.model.modules())

    def lr(self, epoch: int, step: int) -> float:
        """The learning rate of a step; epochs count from 1, steps from 0 in each."""
        done = (epoch - 1) * self.steps + step
        return float(self.options["lr"]) * self.schedule(done / (self.options["epochs"] * self.steps))

    def order(self) -> Tensor:
        """(rows,) int64: the rows of the epoch after `done`, in the order it takes them."""
        random = generator(*self.seed, self.done + 1)
        order = torch.randperm(len(self.split.train), generator=random)
        return self.split.train.index_select(0, order[: self.rows])


@dataclass(frozen=True)
class Said:
    """What some lanes with equally many rows said, in the lanes' order.

    Attributes:
        grad_norm: (k,) how long the gradients of an epoch were, the means over its steps; None:
            not asked for.
    """

    lanes: Sequence[Lane]
    predicted: Scores | Estimates
    grad_norm: Tensor | None = None


@dataclass(frozen=True)
class _Span:
    """Neighbouring lanes of which a step is computed with equally many rows."""

    first: int
    end: int
    rows: int


@dataclass(frozen=True)
class _Part:
    """Neighbouring lanes of a stack, as a step needs them: views of its state."""

    layers: Sequence[Layer]
    rows: Rows
    dropout: Tensor
    threshold: Tensor
    smoothing: Tensor | None
    class_weights: Tensor | None
    averages: Tensor | None


@dataclass(frozen=True)
class _Step:
    """What neighbouring lanes are given for a step.

    Attributes:
        inputs: (k, B, …).
        target: (k, B).
        numbers: (n, k, 1), of the optimizer.
        shares: (k, 1), that an average of weights moves; None if no lane has one.
        keys: (draws, k, 2) of dropout; None if no lane drops anything.
        offset: (k, outputs, B), added to what is put out; None: nothing to any.
        weight: (k, 1, B), how much rows count; None: all alike.
    """

    inputs: Tensor
    target: Tensor
    numbers: Tensor
    shares: Tensor | None
    keys: Tensor | None
    offset: Tensor | None
    weight: Tensor | None

    def of(self, span: _Span) -> _Step:
        """The same of some of the lanes, and of the rows that these have."""
        some = slice(span.first, span.end)
        return _Step(
            self.inputs[some, : span.rows],
            self.target[some, : span.rows],
            self.numbers[:, some],
            None if self.shares is None else self.shares[some],
            None if self.keys is None else self.keys[:, some],
            None if self.offset is None else self.offset[some, :, : span.rows],
            None if self.weight is None else self.weight[some, :, : span.rows],
        )


class Stack:
    """Models of one shape that are trained as one program.

    Attributes:
        lanes: With most steps first.
        parameters: (K, P), a row a lane.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        """Put lanes together whose shapes, optimizer and width (`Lane.width`) are the same."""
        first = lanes[0]
        self._modules = parts(first.model)
        learns = [next(module.parameters(), None) is not None for _, module in self._modules]
        self._first_learner = learns.index(True)
        self._shapes = {name: p.shape for name, p in first.model.named_parameters()}
        self._width = first.width
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
            name: torch.stack([lane.model.get_buffer(name) for lane in lanes]).to(self._device)
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
        longest = sorted(enumerate(self.lanes), key=lambda own: (-own[1].steps, -own[1].rows))
        self._take([place for place, _ in longest])

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
        counts = groupby((lane.rows, lane.batch) for lane in self.lanes)
        self._counts = [(*own, len(list(group))) for own, group in counts]
        self._gradients = torch.empty_like(self.parameters)
        self._settings = self._columns()
        self._dropout = self._shares_dropped()
        self._decay = self._column([lane.options["ema"] or 0.0 for lane in self.lanes])
        self._class_weights = self._weights_of_classes()
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

    def _shares_dropped(self) -> Tensor:
        """(draws, K, 1), by each of the dropout layers."""
        shares = [
            [layer.p for layer in lane.model.modules() if isinstance(layer, nn.Dropout)]
            for lane in self.lanes
        ]
        table = torch.tensor(shares, dtype=torch.float64).view(len(self.lanes), -1)
        return table.T.unsqueeze(2).to(self._device, self._dtype)

    def _weights_of_classes(self) -> Tensor | None:
        """(K, C, 1), or None if all classes count alike in every lane."""
        own = [lane.class_weights for lane in self.lanes]
        classes = next((len(weights) for weights in own if weights is not None), None)
        if classes is None:
            return None
        alike = torch.ones(classes, dtype=torch.float64)
        columns = torch.stack([alike if weights is None else weights for weights in own])
        return columns.unsqueeze(2).to(self._device, self._dtype)

    def _column(self, values: Sequence[float]) -> Tensor:
        """(K, 1)"""
        column = torch.tensor(values, dtype=torch.float64).unsqueeze(1)
        return column.to(self._device, self._dtype)

    # -- its state, for checkpoints

    def state(self, lane: Lane) -> dict[str, Any]:
        """A lane's model and optimizer, copied."""
        place = self.lanes.index(lane)
        own = self._own(self.parameters, slice(place, place + 1))
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
            for name, view in self._own(self.parameters, slice(place, place + 1)).items():
                view[0].copy_(state["model"][name])
            if self._averages is not None:
                saved = state["average"]
                self._averages[place] = self.parameters[place] if saved is None else saved
            for name, tensor in self._memory.items():
                tensor[place].copy_(state["optimizer"][name])
            self._steps[place] = state["optimizer"]["steps"]

    def weights(self, lane: Lane) -> dict[str, Tensor]:
        """What a lane validates with, as the ``state_dict`` of its module: copied, on the CPU."""
        place = self.lanes.index(lane)
        rows = self.parameters if self._averages is None else self._averages
        # One copy, and views of it: this is done for every lane that has improved.
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = torch.split(rows[place].to("cpu", copy=True), sizes)
        named = zip(self._shapes.items(), parts, strict=True)
        return {
            **{name: part.view(shape) for (name, shape), part in named},
            **{name: own[place].to("cpu", copy=True) for name, own in self._buffers.items()},
        }

    # -- an epoch

    @torch.no_grad()
    def train(self) -> list[Said]:
        """An epoch of each lane; what it said of each batch just before learning from it."""
        lanes, steps = self.lanes, self.lanes[0].steps
        keys, numbers = self._keys(steps), self._numbers(steps)
        shares, counted = self._shares(steps), self._counted(steps)
        rows = torch.zeros((len(lanes), steps, self._width), dtype=torch.int64)
        for place, lane in enumerate(lanes):
            order = functional.pad(lane.order(), (0, -lane.rows % lane.batch))
            rows[place, : lane.steps, : lane.batch] = order.view(-1, lane.batch)
        rows = rows.transpose(0, 1)  # a step's lie together
        outputs, targets = None, []
        for start, inputs, target in self._gathered(rows, lanes):
            wanted = self._standardized(target)
            own = rows[start : start + len(inputs)]
            offsets, weights = self._offsets(own), self._row_weights(own)
            if counted is not None:
                here = counted[start : start + len(inputs)]
                weights = here if weights is None else here * weights
            for step, (x, y) in enumerate(zip(inputs, wanted, strict=True), start):
                given = _Step(
                    x,
                    y,
                    numbers[step],
                    None if shares is None else shares[step],
                    None if keys is None else keys[step],
                    None if offsets is None else offsets[step - start],
                    None if weights is None else weights[step - start],
                )
                for span in self._spans(step):
                    output = self._step(span, given)
                    if outputs is None:
                        shape = (len(lanes), output.shape[1], steps, self._width)
                        outputs = output.new_empty(shape)
                    outputs[span.first : span.end, :, step, : span.rows] = output
            targets.append(target)
        for lane in lanes:
            lane.done += 1
        self._steps += self._column([lane.steps for lane in lanes]).long()
        assert outputs is not None
        target = _in_order(targets).view(len(lanes), steps, self._width)
        return [
            said
            for batch in sorted({lane.batch for lane in lanes})
            for said in self._trained(outputs, target, batch)
        ]

    @torch.no_grad()
    def validate(self) -> list[Said]:
        """What each lane says of its validation rows, in their order."""
        return self.answer({lane: lane.split.validation for lane in self.lanes})

    @torch.no_grad()
    def answer(self, asked: Mapping[Lane, Tensor]) -> list[Said]:
        """What some lanes say of rows of their splits, in the rows' order."""
        by_width: dict[int, list[int]] = {}
        for place, lane in enumerate(self.lanes):
            if lane in asked:
                by_width.setdefault(_width(len(asked[lane])), []).append(place)
        return [said for group in by_width.items() for said in self._answer(asked, *group)]

    def _answer(self, asked: Mapping[Lane, Tensor], columns: int, places: list[int]) -> list[Said]:
        """The same of the lanes at some places, so many rows at once."""
        lanes = [self.lanes[place] for place in places]
        counts = [len(asked[lane]) for lane in lanes]
        rows = torch.zeros((len(lanes), max(counts)), dtype=torch.int64)
        for place, lane in enumerate(lanes):
            rows[place, : counts[place]] = asked[lane]
        short = -rows.shape[1] % columns
        rows = functional.pad(rows, (0, short)).view(len(lanes), -1, columns).transpose(0, 1)
        weights = self.parameters if self._averages is None else self._averages
        everyone = len(places) == len(self.lanes)
        layers = self._layers(weights, slice(None) if everyone else places)
        outputs, targets = [], []
        for _, inputs, target in self._gathered(rows, lanes):
            outputs += [forward(layers, x, Pass(training=False)) for x in inputs]
            targets.append(target)
        return self._said(torch.cat(outputs, 2), _in_order(targets), counts, lanes)

    def _step(self, span: _Span, given: _Step) -> Tensor:
        """A step of the lanes of `span`, of all that is given; what they said, (k, outputs, B)."""
        count = span.end - span.first
        if count > self._most:
            middle = span.first + self._most
            halves = replace(span, end=middle), replace(span, first=middle)
            return torch.cat([self._step(half, given) for half in halves])
        own = [buffer[span.first : span.end] for buffer in self._buffers.values()]
        before = [buffer.clone() for buffer in own]
        try:
            return self._learn(self._part(span.first, span.end), given.of(span))
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if count == 1 or not is_out_of_memory(error):
                raise
        # Only batch norm's statistics have moved. The same step, in halves, and so from here on.
        for buffer, as_it_was in zip(own, before, strict=True):
            buffer.copy_(as_it_was)
        self._most = (count + 1) // 2
        return self._step(span, given)

    def _learn(self, part: _Part, given: _Step) -> Tensor:
        run = Pass(True, part.dropout, part.threshold, given.keys)
        output = forward(part.layers, given.inputs, run)
        if given.offset is not None:
            output = output + given.offset
        gradient = self._loss(output, given.target, part.smoothing, part.class_weights)
        if given.weight is not None:
            gradient.mul_(given.weight)
        backward(part.layers[self._first_learner :], gradient)
        penalize(part.rows)
        self._optimizer.update(part.rows, given.numbers.unbind())
        if part.averages is not None and given.shares is not None:
            part.averages.lerp_(part.rows.parameters, given.shares)
        return output

    # -- parts of the state

    def _part(self, first: int, end: int) -> _Part:
        """What a step of some neighbouring lanes needs; made once."""
        if (first, end) not in self._parts:
            some, smoothing = slice(first, end), self._settings.get("label_smoothing")
            weights = self._class_weights
            self._parts[first, end] = _Part(
                layers=self._layers(self.parameters, some),
                rows=Rows(
                    self.parameters[some],
                    self._gradients[some],
                    {name: tensor[some] for name, tensor in self._memory.items()},
                    {name: column[some] for name, column in self._settings.items()},
                ),
                dropout=self._dropout[:, some],
                threshold=self._threshold[:, some],
                smoothing=None if smoothing is None else smoothing[some].unsqueeze(2),
                class_weights=None if weights is None else weights[some],
                averages=None if self._averages is None else self._averages[some],
            )
        return self._parts[first, end]

    def _layers(self, weights: Tensor, places: slice | list[int]) -> list[Layer]:
        own = self._own(weights, places)
        gradients = dict(zip(self._shapes, self._cut(self._gradients[places]), strict=True))
        return [
            rule(module)(module, _below(name, own), _below(name, gradients))
            for name, module in self._modules
        ]

    def _own(self, weights: Tensor, places: slice | list[int]) -> dict[str, Tensor]:
        """Some lanes' rows of `weights` (K, P), and buffers, by name, (k, …): of a slice views."""
        views = dict(zip(self._shapes, self._cut(weights[places]), strict=True))
        for view in views.values():
            view.requires_grad_()  # for the layers that use autograd
        return views | {name: buffer[places] for name, buffer in self._buffers.items()}

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
        """The lanes that have rows left in `step`, by with how many it is computed."""
        start = 0
        for rows, group in groupby(self._counts, lambda own: self._rows(own[0], own[1], step)):
            count = sum(lanes for _, _, lanes in group)
            if rows > 0:
                yield _Span(start, start + count, rows)
            start += count

    def _rows(self, rows: int, batch: int, step: int) -> int:
        """With how many `step` is computed, of a lane that has so many in an epoch."""
        left = min(batch, rows - step * batch)
        return left if batch == self._width or left <= 0 else self._width

    def _counted(self, steps: int) -> Tensor | None:
        """(steps, K, 1, width) how much each row counts, the mean over a lane's own 1; None: no
        lane's batches are padded."""
        if all(lane.batch == self._width for lane in self.lanes):
            return None
        batch = torch.tensor([lane.batch for lane in self.lanes]).view(-1, 1, 1)
        rows = torch.tensor([lane.rows for lane in self.lanes]).view(-1, 1, 1)
        left = (rows - torch.arange(steps).view(-1, 1, 1, 1) * batch).clamp(min=1)
        left = torch.where(batch == self._width, batch, left.minimum(batch))
        counted = (torch.arange(self._width) < left) * (self._width / left.double())
        return counted.to(self._device, self._dtype)

    def _keys(self, steps: int) -> Tensor | None:
        """(steps, draws, K, 2) int32 of dropout, or None if no lane drops anything."""
        drops = len(self._dropout)
        if not self._dropout.any():
            return None
        seeds, epochs = zip(*((lane.seed, lane.done + 1) for lane in self.lanes), strict=True)
        keys = noise.keys(seeds, epochs, steps * drops).to(self._device)
        return keys.view(steps, drops, len(self.lanes), 2)

    def _numbers(self, steps: int) -> Tensor:
        """(steps, n, K, 1), of the optimizer; those of all steps at once are cheap."""
        rates = self._learning_rates(steps)
        numbers = self._optimizer.numbers(rates, self._settings, self._made(steps))
        return torch.stack(numbers, 1).to(self._dtype)

    def _shares(self, steps: int) -> Tensor | None:
        """(steps, K, 1), that averages of weights move; None if no lane has one."""
        if self._averages is None:
            return None
        return (1 - torch.minimum(self._decay, warmed(self._made(steps)))).to(self._dtype)

    def _made(self, steps: int) -> Tensor:
        """(steps, K, 1) float64: how many steps each lane has made then, with that one."""
        further = torch.arange(1, steps + 1, dtype=torch.float64, device=self._device)
        return self._steps + further.view(-1, 1, 1)

    def _learning_rates(self, steps: int) -> Tensor:
        """(steps, K, 1) float64"""
        factors: dict[tuple[Schedule, int, int, int], list[float]] = {}  # of many lanes the same
        table = []
        for lane in self.lanes:
            own = lane.schedule, lane.done, lane.options["epochs"], lane.steps
            if own not in factors:
                factors[own] = _factors(*own) + [0.0] * (steps - lane.steps)
            table.append(factors[own])
        columns = torch.tensor(table, dtype=torch.float64).T.unsqueeze(2)
        rates = torch.tensor([[lane.options["lr"]] for lane in self.lanes], dtype=torch.float64)
        return (columns * rates).to(self._device)

    def _offsets(self, rows: Tensor) -> Tensor | None:
        """(s, K, outputs, B) what is added to what lanes put out; None: nothing to any.

        Args:
            rows: (s, K, B) int64, of each lane's own split.
        """
        if all(lane.offset is None for lane in self.lanes):
            return None
        rows = rows.to(self._device)
        nothing = next(lane.offset[:1] * 0 for lane in self.lanes if lane.offset is not None)
        of_each = [
            nothing.expand(len(rows), rows.shape[2], -1)
            if lane.offset is None
            else lane.offset[rows[:, place]]
            for place, lane in enumerate(self.lanes)
        ]
        return torch.stack(of_each, 1).mT.to(self._dtype)

    def _row_weights(self, rows: Tensor) -> Tensor | None:
        """(s, K, 1, B) how much rows count in the loss; None: all alike. See `_offsets`."""
        if all(lane.row_weights is None for lane in self.lanes):
            return None
        rows = rows.to(self._device)
        alike = torch.ones((), device=self._device).expand(len(rows), rows.shape[2])
        of_each = [
            alike if lane.row_weights is None else lane.row_weights[rows[:, place]]
            for place, lane in enumerate(self.lanes)
        ]
        return torch.stack(of_each, 1).unsqueeze(2).to(self._dtype)

    def _gathered(
        self, rows: Tensor, lanes: Sequence[Lane]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The first step, inputs (s, K, B, …) and targets (s, K, B) of some steps at a time.

        Args:
            rows: (S, K, B) int64, of each one's own split.
        """
        splits: dict[tuple[int, ...], tuple[Split, list[int]]] = {}
        for place, lane in enumerate(lanes):
            splits.setdefault(_source(lane.split), (lane.split, []))[1].append(place)
        numbers = math.prod(lanes[0].split.inputs.shape[1:]) * math.prod(rows.shape[1:])
        size = max(1, CHUNK_NUMBERS // numbers)
        order = torch.tensor([p for _, places in splits.values() for p in places]).argsort()
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            parts = []
            for split, places in splits.values():
                own = some if len(splits) == 1 else some[:, places]
                inputs, target = split.batch(own.reshape(-1))
                inputs = inputs.view(*own.shape, *inputs.shape[1:])
                inputs = inputs.to(self._dtype) if inputs.is_floating_point() else inputs
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

    def _trained(self, outputs: Tensor, target: Tensor, batch: int) -> list[Said]:
        """What lanes with such batches said, without what they were padded with.

        Args:
            outputs: (K, outputs, steps, width).
            target: (K, steps, width).
        """
        places = [place for place, lane in enumerate(self.lanes) if lane.batch == batch]
        lanes = [self.lanes[place] for place in places]
        own = slice(None) if len(lanes) == len(self.lanes) else places  # all: not copied
        output, wanted = outputs[own, ..., :batch].flatten(2), target[own, :, :batch].flatten(1)
        return self._said(output, wanted, [lane.rows for lane in lanes], lanes)

    def _said(
        self, outputs: Tensor, target: Tensor, counts: Sequence[int], lanes: Sequence[Lane]
    ) -> list[Said]:
        """By how many rows lanes have.

        Args:
            outputs: (K, outputs, n), of which each lane has the first `counts`.
        """
        said = []
        for count in sorted(set(counts), reverse=True):
            places = [place for place, own in enumerate(counts) if own == count]
            some = [lanes[place] for place in places]
            own = slice(None) if len(places) == len(counts) else places  # all: not copied
            output, wanted = outputs[own, :, :count], target[own, :count]
            predicted: Scores | Estimates
            if target.dtype == torch.int64:
                predicted = Scores(output.mT, wanted)
            else:
                mean, std = self._scales(some)
                values = output.squeeze(1) * std + mean
                predicted = Estimates(values, wanted, std.squeeze(1).double())
            said.append(Said(some, predicted))
        return said


def _factors(schedule: Schedule, done: int, epochs: int, steps: int) -> list[float]:
    """Of the learning rate, in each of the `steps` of the epoch after `done`."""
    return [schedule((done * steps + step) / (epochs * steps)) for step in range(steps)]


def _source(split: Split) -> tuple[int, ...]:
    """Equal for splits whose batches of the same rows are the same, such as bootstrap samples."""
    return tuple(map(id, (split.inputs, split.target, split.mean, split.std, split.seen)))


def _width(count: int) -> int:
    """How many rows a lane with so many answers at once.

    By its own count alone: how a product's last digits are rounded depends on its shape.
    """
    return min(MOST_ROWS, max(16, 1 << (count - 1).bit_length()))


def _in_order(targets: Sequence[Tensor]) -> Tensor:
    """(s, K, B) of some steps at a time → (K, all steps · B)."""
    return torch.cat(list(targets)).transpose(0, 1).flatten(1)


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the layer `name`, by their names in it; the empty name is the whole model's."""
    prefix = f"{name}." if name else ""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
