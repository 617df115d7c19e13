"""A stack: the state of K models as one ``(K, P)`` matrix, and an epoch of all of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers import losses
from trainers.augment import Drawn, draw, stacked
from trainers.averages import warmed
from trainers.data import Split
from trainers.lanes import exact, noise
from trainers.lanes.captured import Graphs
from trainers.lanes.exact import lengths
from trainers.lanes.layers import Layer, Pass, backward, below, forward, parts, rule
from trainers.lanes.losses import LOSSES, Terms
from trainers.lanes.optim import OPTIMIZERS, Rows, penalize
from trainers.memory import Fits, is_out_of_memory, kind
from trainers.metrics import Estimates, Labels, Predicted, Scores, task_of
from trainers.optim import decays
from trainers.padding import padded
from trainers.sampling import Balanced
from trainers.schedules import Plateau, Schedule, batch_size
from trainers.seeds import generator

# Rows of several steps are gathered at once, as many numbers: a gather has its price, too. On a
# CPU 1 MB: of more, the pages would be new ones each time, and out of the cache before their use.
CHUNK_NUMBERS = {"cpu": 2**18, "cuda": 2**24}
MOST_PADDED = 2**15  # parameters of a model, up to which some more rows cost little
MOST_ROWS = 256  # of a lane at once, where it does not learn


@dataclass(eq=False)
class Lane:
    """A model's place in a stack.

    Attributes:
        model: The model with its first weights; only they are used.
        split: What it trains and validates on.
        options: Its ``train`` section.
        schedule: Of its learning rate, and of its momentum.
        seed: What all its random numbers are made from.
        done: The epochs it has trained.
        offset: (N, outputs) added to what it puts out of each row of the split, before the loss;
            None: nothing.
        row_weights: (N,) how much each row counts in the loss, the mean over the training rows 1;
            None: all alike.
        class_weights: (C,) float64, of each class in the mean of the loss; None: all alike.
        plateau: Lowers the learning rate by what it has reached; None: nothing does.
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
    plateau: Plateau | None = None

    @cached_property
    def rows(self) -> int:
        """How many rows it trains on in an epoch: all but one with which batch
        norm would be alone."""
        there, batch = len(self.split.train), self.batch
        return there - (self.normalizes and batch > 1 and there % batch == 1)

    @property
    def batch(self) -> int:
        """Rows of a step, in the last epoch; the last one of an epoch may have fewer."""
        return batch_size(self.options, self.done)

    @property
    def steps(self) -> int:
        """How many it makes in an epoch."""
        return math.ceil(self.rows / self.batch)

    @property
    def batches(self) -> list[int]:
        """How many rows it takes in each step of an epoch."""
        return [min(self.batch, self.rows - step * self.batch) for step in range(self.steps)]

    @cached_property
    def width(self) -> int:
        """With how many rows its steps are computed, whatever is in its stack: those that are not
        of its batch count nothing. Only where they cost little, and where a row is by itself."""
        parameters = sum(p.numel() for p in self.model.parameters())
        together = self.normalizes or self.class_weights is not None
        return self.batch if together or parameters > MOST_PADDED else padded(self.batch)

    @property
    def normalizes(self) -> bool:
        """Whether it has batch norm."""
        norm = nn.modules.batchnorm._BatchNorm
        return any(isinstance(layer, norm) for layer in self.model.modules())

    @property
    def averaged(self) -> int:
        """Of how many epochs' ends its weights are the mean (SWA); 0: they are what they are."""
        swa = self.options["swa"]
        return 0 if swa is None else max(0, self.done - math.floor(swa * self.options["epochs"]))

    def lr(self, epoch: int, step: int) -> float:
        """The learning rate of a step; epochs count from 1, steps from 0 in each."""
        done = (epoch - 1) * self.steps + step
        return self.rate * self.schedule(done / (self.options["epochs"] * self.steps))

    @property
    def rate(self) -> float:
        """The learning rate that the schedule has a factor of."""
        lr = float(self.options["lr"])
        return lr if self.plateau is None else lr * self.plateau.factor

    def order(self) -> Tensor:
        """(rows,) int64: the rows of the epoch after `done`, in the order it takes them."""
        return self.sampled(generator(*self.seed, self.done + 1))[: self.rows]

    def sampled(self, random: torch.Generator) -> Tensor:
        """(n,) int64: as many rows as there are to train on, in the order an epoch takes them."""
        if self.options["sampling"] == "balanced":
            return self._balanced.draw(random)
        train = self.split.train
        return train.index_select(0, torch.randperm(len(train), generator=random))

    @cached_property
    def _balanced(self) -> Balanced:
        return Balanced(self.split.train, self.split.target)

    def drawn(self, batches: Sequence[int]) -> Drawn | None:
        """How the rows of the epoch after `done` are augmented; None: they are not.

        Args:
            batches: How many rows each has.
        """
        augment = self.options.get("augment")  # of images only
        if augment is None:
            return None
        return draw(augment, batches, self.split.inputs.shape[1:], self.seed, self.done + 1)


@dataclass(frozen=True)
class Said:
    """What some lanes with equally many rows said, in the lanes' order.

    Attributes:
        grad_norm: (k,) how long the gradients of an epoch were, the means over its steps; None:
            not asked for.
    """

    lanes: Sequence[Lane]
    predicted: Predicted
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
    terms: Terms
    averages: Tensor | None
    norms: Tensor | None


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
        others: (k, B), the targets of rows that are mixed in; None: none are.
        share: (k, 1, B), of `target`, which `others` have the rest of.
    """

    inputs: Tensor
    target: Tensor
    numbers: Tensor
    shares: Tensor | None
    keys: Tensor | None
    offset: Tensor | None
    weight: Tensor | None
    others: Tensor | None
    share: Tensor | None

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
            None if self.others is None else self.others[some, : span.rows],
            None if self.share is None else self.share[some, :, : span.rows],
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
        self._decoupled = first.options["decoupled"] or first.options["optimizer"] == "adamw"
        self._device = first.split.target.device
        self._decays = self._shrunk(first.options["decay_on"])
        self._dtype = next(first.model.parameters()).dtype
        self._task = task_of(first.split.target)
        loss = losses.chosen(first.options, self._task)
        self._loss, settings = LOSSES[loss], losses.LOSSES[loss].settings
        self._of_loss = [name for name in settings if name != "class_weights"]  # the numbers
        self._most = sys.maxsize  # lanes a pass; less once memory was short
        self._graphs: Graphs[_Step] = Graphs()
        shape = first.split.inputs.shape[1:]
        self._fits = Fits(first.model, kind(first.model, shape, "lane", self._device))
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
        elif any(lane.options[name] is not None for lane in self.lanes for name in ("ema", "swa")):
            self._averages = self.parameters.clone()  # of the others it is what they are
        counts = groupby((lane.rows, lane.batch) for lane in self.lanes)
        self._counts = [(*own, len(list(group))) for own, group in counts]
        self._gradients = torch.empty_like(self.parameters)
        watched = self.lanes[0].options["grad_norm"] if self.lanes else False
        # (K,) of the gradients, the sums over the steps of an epoch; None: nobody asks.
        self._norms = self.parameters.new_zeros(len(self.lanes)) if watched else None
        self._settings = self._columns()
        self._dropout = self._shares_dropped()
        self._decay = self._column([lane.options["ema"] or 0.0 for lane in self.lanes])
        self._class_weights = self._weights_of_classes()
        self._threshold = noise.threshold(self._dropout)
        self._parts: dict[tuple[int, int], _Part] = {}
        self._graphs.clear()

    def _columns(self) -> dict[str, Tensor]:
        """The settings by name, (K, 1) each; without those that change nothing in any lane."""
        columns = {}
        optional = [*self._optimizer.settings, "l1", *self._of_loss]
        clipping = [("clip_norm", math.inf), ("clip_value", math.inf)]
        for name, without in [*((name, 0.0) for name in optional), *clipping]:
            own = [lane.options[name] for lane in self.lanes]
            values = [without if value is None else float(value) for value in own]
            if any(value != without for value in values):
                columns[name] = self._column(values)
        for name in self._optimizer.needed:
            columns[name] = self._column([lane.options[name] for lane in self.lanes])
        return columns

    def _shrunk(self, decay_on: str) -> Tensor | None:
        """(1, P) which parameters weight decay shrinks; None: all."""
        if decay_on == "all":
            return None
        each = [
            torch.full((shape.numel(),), decays(shape, decay_on))
            for shape in self._shapes.values()
        ]
        return torch.cat(each).unsqueeze(0).to(self._device)

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
            "fits": self._fits.rows,
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
        if state["fits"] is not None:
            self._fits.rows = state["fits"]

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

    def notes(self, lane: Lane) -> dict[str, str]:
        """See `trainers.contract.Epoch.notes`. That a stack is halved changes nothing."""
        return {**self._fits.notes(lane.batch), **exact.notes(self._device, self._dtype)}

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
        drawn_by = [(lane.drawn(lane.batches), lane.batch) for lane in lanes]
        drawn = stacked(drawn_by, steps, self._width)
        outputs, targets = None, []
        for start, inputs, target in self._gathered(rows, lanes, drawn):
            wanted = self._standardized(target)
            own = rows[start : start + len(inputs)]
            offsets, weights = self._offsets(own), self._row_weights(own)
            if counted is not None:
                here = counted[start : start + len(inputs)]
                weights = here if weights is None else here * weights
            others, own_shares = self._others(target, drawn, start)
            for step, (x, y) in enumerate(zip(inputs, wanted, strict=True), start):
                given = _Step(
                    x,
                    y,
                    numbers[step],
                    None if shares is None else shares[step],
                    None if keys is None else keys[step],
                    None if offsets is None else offsets[step - start],
                    None if weights is None else weights[step - start],
                    None if others is None else others[step - start],
                    None if own_shares is None else own_shares[step - start],
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
        self._average_ends()
        assert outputs is not None
        target = _in_order(targets)
        target = target.view(len(lanes), steps, self._width, *target.shape[2:])
        return self._with_norms(
            [
                said
                for batch in sorted({lane.batch for lane in lanes})
                for said in self._trained(outputs, target, batch)
            ]
        )

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
        return [said for group in by_width.items() for said in self._answers(asked, *group)]

    def _answers(
        self, asked: Mapping[Lane, Tensor], columns: int, places: list[int]
    ) -> list[Said]:
        """The same, of half of the lanes at a time where memory is short."""
        try:
            return self._answer(asked, columns, places)
        except RuntimeError as error:
            if len(places) == 1 or not is_out_of_memory(error):
                raise
        self._parts.clear()  # their layers keep what they were given
        self._graphs.clear()
        torch.cuda.empty_cache()
        middle = len(places) // 2
        halves = places[:middle], places[middle:]
        return [said for half in halves for said in self._answers(asked, columns, half)]

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
            # Copied: the graph of one half may write where that of the other has its output.
            return torch.cat([self._step(half, given).clone() for half in halves])
        moved = [*self._buffers.values(), *([] if self._norms is None else [self._norms])]
        own = [tensor[span.first : span.end] for tensor in moved]
        before = [tensor.clone() for tensor in own]
        try:
            return self._started(span, given.of(span))
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not is_out_of_memory(error) or (count == 1 and not self._fits.halve(span.rows)):
                raise
        # Batch norm's statistics and the norms of gradients have moved; the parameters not yet.
        # The same step, in halves, and so from here on.
        self._parts.clear()  # their layers keep what they were given
        self._graphs.clear()
        torch.cuda.empty_cache()
        for tensor, as_it_was in zip(own, before, strict=True):
            tensor.copy_(as_it_was)
        self._most = (count + 1) // 2
        return self._step(span, given)

    def _started(self, span: _Span, given: _Step) -> Tensor:
        """The step itself, on a GPU as one launch where that is possible."""
        part = self._part(span.first, span.end)
        if self._device.type == "cpu":
            return self._learn(part, given)
        return self._graphs.run(span, given, partial(self._learn, part))

    def _learn(self, part: _Part, given: _Step) -> Tensor:
        rows = given.inputs.shape[1]
        if (parts := self._fits.parts(rows)) == 1:
            output = self._said_of(part, given, slice(0, rows))
            backward(part.layers[self._first_learner :], self._wrong(part, given, output))
        else:
            output = self._in_parts(part, given, parts)
        if part.norms is not None:
            part.norms.add_(lengths(part.rows.gradients))
        penalize(part.rows)
        self._optimizer.update(part.rows, given.numbers.unbind())
        if part.averages is not None and given.shares is not None:
            part.averages.lerp_(part.rows.parameters, given.shares)
        return output

    def _in_parts(self, part: _Part, given: _Step, parts: int) -> Tensor:
        """What is put out of all rows; the gradients are the sum of those of some at a time."""
        output, gradients = None, torch.zeros_like(part.rows.gradients)
        for places in torch.arange(given.inputs.shape[1]).tensor_split(parts):
            some = slice(int(places[0]), int(places[-1]) + 1)
            own = self._said_of(part, given, some)
            if output is None:
                output = own.new_zeros((*own.shape[:2], given.inputs.shape[1]))
            output[..., some] = own
            # Of all rows, as the loss is a mean over them; those of the others are not used.
            wrong = self._wrong(part, given, output)[..., some].contiguous()
            backward(part.layers[self._first_learner :], wrong)
            gradients += part.rows.gradients
        part.rows.gradients.copy_(gradients)
        assert output is not None
        return output

    def _said_of(self, part: _Part, given: _Step, rows: slice) -> Tensor:
        """(k, outputs, b) what is put out of some rows of a batch."""
        keys = given.keys
        if keys is not None and rows.start > 0:  # other units than of the first rows
            keys = keys.clone()
            keys[..., 1] += rows.start
        run = Pass(True, part.dropout, part.threshold, keys)
        output = forward(part.layers, given.inputs[:, rows], run)
        return output if given.offset is None else output + given.offset[..., rows]

    def _wrong(self, part: _Part, given: _Step, output: Tensor) -> Tensor:
        """(k, outputs, B) the gradient of the loss by what is put out."""
        gradient = self._loss(output, given.target, part.terms)
        if given.others is not None and given.share is not None:
            other = self._loss(output, given.others, part.terms)
            gradient.mul_(given.share).add_(other.mul_(1 - given.share))
        if given.weight is not None:
            gradient.mul_(given.weight)
        return gradient

    # -- parts of the state

    def _part(self, first: int, end: int) -> _Part:
        """What a step of some neighbouring lanes needs; made once."""
        if (first, end) not in self._parts:
            some = slice(first, end)
            self._parts[first, end] = _Part(
                layers=self._layers(self.parameters, some),
                rows=Rows(
                    self.parameters[some],
                    self._gradients[some],
                    {name: tensor[some] for name, tensor in self._memory.items()},
                    {name: column[some] for name, column in self._settings.items()},
                    self._decays,
                    self._decoupled,
                ),
                dropout=self._dropout[:, some],
                threshold=self._threshold[:, some],
                terms=self._terms(some),
                averages=None if self._averages is None else self._averages[some],
                norms=None if self._norms is None else self._norms[some],
            )
        return self._parts[first, end]

    def _terms(self, some: slice) -> Terms:
        def of(name: str) -> Tensor | None:
            column = self._settings.get(name)
            return None if column is None else column[some].unsqueeze(2)

        weights = None if self._class_weights is None else self._class_weights[some]
        return Terms(of("label_smoothing"), weights, of("focal_gamma"), of("huber_delta"))

    def _layers(self, weights: Tensor, places: slice | list[int]) -> list[Layer]:
        own = self._own(weights, places)
        gradients = dict(zip(self._shapes, self._cut(self._gradients[places]), strict=True))
        return [
            rule(module)(module, below(name, own), below(name, gradients))
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
        factors, shifts = self._scheduled(steps)
        rates = torch.tensor([[lane.rate] for lane in self.lanes], dtype=torch.float64)
        settings, moved = self._settings, self._optimizer.momentum
        if moved in settings and shifts.any():
            settings = {**settings, moved: (settings[moved].double() + shifts).clamp(min=0)}
        lr = factors * rates.to(self._device)
        numbers = self._optimizer.numbers(lr, settings, self._made(steps))
        return torch.stack(numbers, 1).to(self._dtype)

    def _shares(self, steps: int) -> Tensor | None:
        """(steps, K, 1), that averages of weights move; None if no lane has one."""
        if self._averages is None:
            return None
        shares = (1 - torch.minimum(self._decay, warmed(self._made(steps)))).to(self._dtype)
        waits = torch.tensor([[lane.averaged > 0] for lane in self.lanes], device=self._device)
        return shares.masked_fill_(waits, 0.0)  # for the end of the epoch

    def _average_ends(self) -> None:
        """Take the end of an epoch into the mean of those lanes that have one."""
        counts = [lane.averaged for lane in self.lanes]
        if self._averages is not None and any(counts):
            shares = self._column([1 / count if count else 0.0 for count in counts])
            self._averages.lerp_(self.parameters, shares)

    def _made(self, steps: int) -> Tensor:
        """(steps, K, 1) float64: how many steps each lane has made then, with that one."""
        further = torch.arange(1, steps + 1, dtype=torch.float64, device=self._device)
        return self._steps + further.view(-1, 1, 1)

    def _scheduled(self, steps: int) -> Tensor:
        """(2, steps, K, 1) float64, of each step the factor of the learning rate, and the shift of
        the momentum."""
        known: dict[tuple[Schedule, int, int, int], list[list[float]]] = {}  # of many the same
        table = []
        for lane in self.lanes:
            own = lane.schedule, lane.done, lane.options["epochs"], lane.steps
            if own not in known:
                known[own] = [each + [0.0] * (steps - lane.steps) for each in _scheduled(*own)]
            table.append(known[own])
        both = torch.tensor(table, dtype=torch.float64).permute(1, 2, 0)
        return both.unsqueeze(3).to(self._device)

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

    def _others(
        self, target: Tensor, drawn: Drawn | None, start: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of some steps what is mixed in, (s, K, B), and the share (s, K, 1, B) of the rest; see
        `_Step`."""
        if drawn is None or not drawn.mixes:
            return None, None
        here = drawn.some(slice(start, start + len(target)))
        share = here.columns["share"].unsqueeze(2).to(self._device, self._dtype)
        return here.partners(target), share

    def _gathered(
        self, rows: Tensor, lanes: Sequence[Lane], drawn: Drawn | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The first step, inputs (s, K, B, …) and targets (s, K, B) of some steps at a time.

        Args:
            rows: (S, K, B) int64, of each one's own split.
            drawn: (S, K, B), how they are augmented; None: they are not.
        """
        splits: dict[tuple[int, ...], tuple[Split, list[int]]] = {}
        for place, lane in enumerate(lanes):
            splits.setdefault(_source(lane.split), (lane.split, []))[1].append(place)
        numbers = math.prod(lanes[0].split.inputs.shape[1:]) * math.prod(rows.shape[1:])
        size = max(1, CHUNK_NUMBERS[self._device.type] // numbers)
        order = torch.tensor([p for _, places in splits.values() for p in places]).argsort()
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            parts = []
            for split, places in splits.values():
                own = some if len(splits) == 1 else some[:, places]
                happens = None
                if drawn is not None:
                    happens = drawn.some((slice(start, start + size), places)).flat()
                inputs, target = split.batch(own.reshape(-1), happens)
                inputs = inputs.view(*own.shape, *inputs.shape[1:])
                inputs = inputs.to(self._dtype) if inputs.is_floating_point() else inputs
                parts.append((inputs, target.view(*own.shape, *target.shape[1:])))
            if len(parts) == 1:
                yield start, *parts[0]
            else:
                whole = [torch.cat(of_all, 1) for of_all in zip(*parts, strict=True)]
                inputs, target = (tensor[:, order.to(tensor.device)] for tensor in whole)
                yield start, inputs, target

    def _standardized(self, target: Tensor) -> Tensor:
        """(s, K, B): what the models are to put out for `target`."""
        if self._task != "regression":
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
        output, wanted = outputs[own, ..., :batch].flatten(2), target[own, :, :batch].flatten(1, 2)
        return self._said(output, wanted, [lane.rows for lane in lanes], lanes)

    def _with_norms(self, all_said: list[Said]) -> list[Said]:
        """The same with how long the gradients of the epoch were, if that is asked for."""
        if self._norms is None:
            return all_said
        means = self._norms / torch.tensor([lane.steps for lane in self.lanes]).to(self._norms)
        self._norms.zero_()
        of_each = dict(zip(self.lanes, means, strict=True))
        return [
            replace(said, grad_norm=torch.stack([of_each[lane] for lane in said.lanes]))
            for said in all_said
        ]

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
            predicted: Predicted
            if self._task == "classification":
                predicted = Scores(output.mT, wanted)
            elif self._task == "multilabel":
                predicted = Labels(output.mT, wanted)
            else:
                mean, std = self._scales(some)
                values = output.squeeze(1) * std + mean
                predicted = Estimates(values, wanted, std.squeeze(1).double())
            said.append(Said(some, predicted))
        return said


def _scheduled(schedule: Schedule, done: int, epochs: int, steps: int) -> list[list[float]]:
    """Factors of the learning rate, and shifts of the momentum, in the steps of the epoch after
    `done`."""
    progress = [(done * steps + step) / (epochs * steps) for step in range(steps)]
    return [[schedule(at) for at in progress], [schedule.shift(at) for at in progress]]


def _source(split: Split) -> tuple[int, ...]:
    """Equal for splits whose batches of the same rows are the same, such as bootstrap samples."""
    return tuple(map(id, (split.inputs, split.target, split.mean, split.std, split.seen)))


def _width(count: int) -> int:
    """How many rows a lane with so many answers at once.

    By its own count alone: how a product's last digits are rounded depends on its shape.
    """
    return min(MOST_ROWS, max(16, 1 << (count - 1).bit_length()))


def _in_order(targets: Sequence[Tensor]) -> Tensor:
    """(s, K, B, …) of some steps at a time → (K, all steps · B, …)."""
    return torch.cat(list(targets)).transpose(0, 1).flatten(1, 2)
