"""Models that are trained one after another, as PyTorch does it: what lanes have no rule for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainers import fine_tuning
from trainers.augment import Drawn
from trainers.averages import Average
from trainers.compiling import Compiling
from trainers.contract import DataError
from trainers.lanes import Lane, Said
from trainers.losses import LOSSES, chosen
from trainers.memory import Before, Fits, kind
from trainers.metrics import Predicted, predicted, task_of
from trainers.numerics import Precision, first_lost, in_float32
from trainers.optim import OPTIMIZERS, Optimizer, groups
from trainers.parallel import Spread, spread
from trainers.schedules import batch_size
from trainers.seeds import seed_everything

# Rows are gathered and standardized this many numbers at a time (16 MB), not batch by batch: on
# small data the gathering would otherwise cost as much as the training.
CHUNK_NUMBERS = 2**22
# Rows validated at once: bounds what a convolutional network holds in memory.
VALIDATION_NUMBERS = 2**20


@dataclass(frozen=True)
class _Numerics:
    """How a lane's model is computed.

    Attributes:
        channels_last: How its images lie: much faster for convolutions, on CPUs as on GPUs.
    """

    precision: Precision
    learning: Fits
    answering: Fits
    before: Before
    compiling: Compiling
    channels_last: bool

    @classmethod
    def of(cls, lane: Lane, model: nn.Module, channels_last: bool) -> _Numerics:
        """
        Args:
            model: What is computed of it here, on its device.
        """
        name, how = lane.options["precision"], lane.options["compile"]
        shape, size = lane.split.inputs.shape[1:], lane.options["batch_size"]
        return cls(
            Precision(name, lane.split.target.device),
            Fits(model, kind(model, shape, name)),
            Fits(model, kind(model, shape)),
            Before(model),
            Compiling(model, how, kind(model, shape, name, size)),
            channels_last,
        )

    def model(self, rows: int) -> nn.Module:
        return self.compiling.model(rows)

    def forward(self) -> AbstractContextManager[Any]:
        return self.precision.forward()

    def backward(self, loss: Tensor) -> None:
        self.precision.backward(loss)

    def state(self) -> dict[str, Any]:
        fits = [self.learning.rows, self.answering.rows]
        return {"precision": self.precision.state(), "fits": fits}

    def notes(self, batch: int) -> dict[str, str]:
        """See `trainers.contract.Epoch.notes`."""
        compiled = {"compiled": self.compiling.note} if self.compiling.note else {}
        return {**self.learning.notes(batch), **compiled}

    def load(self, state: Mapping[str, Any]) -> None:
        self.precision.load(state["precision"])
        self.learning.rows, self.answering.rows = state["fits"]


class InTurn:
    """A `trainers.team.Team` of ordinary modules."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes: list[Lane] = []
        self._spread: dict[Lane, Spread] = {}
        self._optimizers: dict[Lane, Optimizer] = {}
        self._frozen: dict[Lane, fine_tuning.Frozen] = {}
        self._averages: dict[Lane, Average] = {}
        self._numerics: dict[Lane, _Numerics] = {}
        self.add(lanes)

    def add(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            own = self._spread[lane] = spread(lane.model, lane.split.target.device)
            channels_last = own.any_layout and _convolves(lane)
            if channels_last:
                lane.model.to(memory_format=torch.channels_last)
            make = OPTIMIZERS[lane.options["optimizer"]].make
            every = groups(lane.model, lane.options, fine_tuning.factors(lane.model, lane.options))
            self._optimizers[lane] = make(own.groups(every), lane.options)
            self._frozen[lane] = fine_tuning.Frozen(lane.model, lane.options)
            if lane.options["ema"] is not None or lane.options["swa"] is not None:
                self._averages[lane] = Average(own.own, lane.options["ema"])
            self._numerics[lane] = _Numerics.of(lane, own.own, channels_last)
            self.lanes.append(lane)

    def keep(self, lanes: Sequence[Lane]) -> None:
        self._spread = {lane: self._spread[lane] for lane in lanes}
        self._optimizers = {lane: self._optimizers[lane] for lane in lanes}
        self._frozen = {lane: self._frozen[lane] for lane in lanes}
        self._averages = {lane: own for lane, own in self._averages.items() if lane in lanes}
        self._numerics = {lane: self._numerics[lane] for lane in lanes}
        self.lanes = list(lanes)

    def train(self) -> list[Said]:
        return [self._train(lane) for lane in self.lanes]

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
        return self._spread[lane].state(self._state(lane))

    def load(self, lane: Lane, state: Mapping[str, Any]) -> None:
        state = self._spread[lane].loaded(state, self._state(lane))
        self._spread[lane].own.load_state_dict(state["model"])
        self._optimizers[lane].load_state(state["optimizer"])
        if lane in self._averages:
            self._averages[lane].load(**state["average"])
        self._numerics[lane].load(state["numerics"])

    def weights(self, lane: Lane) -> dict[str, Tensor]:
        average = self._averages.get(lane)
        own = self._spread[lane]
        with average.in_place() if average else contextlib.nullcontext():
            return own.weights(own.own.state_dict())

    def notes(self, lane: Lane) -> dict[str, str]:
        batch = lane.options["batch_size"]
        return {**self._numerics[lane].notes(batch), **self._spread[lane].notes}

    def _state(self, lane: Lane) -> dict[str, Any]:
        """What of it is here."""
        average = self._averages.get(lane)
        return {
            "model": self._spread[lane].own.state_dict(),
            "optimizer": self._optimizers[lane].state(),
            "average": average and average.state(),
            "numerics": self._numerics[lane].state(),
        }

    def _train(self, lane: Lane) -> Said:
        epoch, options = lane.done + 1, lane.options
        seed_everything(*lane.seed, epoch)
        rows = lane.sampled(torch.default_generator)
        size = min(batch_size(options, epoch), len(rows))
        if len(rows) % size == 1 and size > 1:
            rows = rows[:-1]  # batch norm knows no spread of one row
        steps = math.ceil(len(rows) / size)
        done, all_steps = (epoch - 1) * steps, options["epochs"] * steps
        outputs, targets, norms = [], [], []
        batches_rows = torch.split(rows, size)
        drawn, made = lane.drawn([len(own) for own in batches_rows]), 0
        if options["optimizer"] == "lbfgs" and len(batches_rows) > 1:
            raise DataError(
                "train.batch_size",
                f"lbfgs learns from all {len(rows)} rows at once; got batches of {size}",
                f"batch_size: {len(rows)}, or another optimizer",
            )
        lane.model.train()
        numerics, here = self._numerics[lane], self._spread[lane]
        numerics.compiling.begin(numerics.learning.at_once(size), all_steps - done)
        self._frozen[lane].begin(epoch)
        here.begin((*lane.seed, epoch))
        take = partial(here.batches, lane.split, size)
        for inputs, target in self._chunks(lane, rows, size, CHUNK_NUMBERS, take, drawn):
            wanted = torch.split(_standardized(lane, target), size)
            parts = [here.part(len(y)) for y in wanted]
            own_inputs = torch.split(inputs, [part.stop - part.start for part in parts])
            of_chunk = []
            for x, y in zip(own_inputs, wanted, strict=True):
                own, mixed = batches_rows[made].to(y.device), []
                if drawn is not None and drawn.mixes:
                    some = drawn.some(slice(made * size, made * size + len(y)))
                    mixed = [some.partners(y), some.columns["share"].to(x)]
                made += 1
                batch = x, y, own, *mixed
                of_chunk.append(self._gradients(lane, *batch)[0])
                norms += self._step(lane, done / all_steps, batch)
                done += 1
            outputs += of_chunk
            targets.append(target)
            if here.any(first_lost(torch.cat(of_chunk)) is not None):
                break  # nothing is to be learned any more; asked once a chunk, as a GPU waits
        numerics.compiling.end()
        lane.done = epoch
        if lane.averaged:
            self._averages[lane].update()
            self._averages[lane].normalize(self._training_inputs(lane, size))
        norm = torch.stack(norms).nanmean().reshape(1) if norms else None
        output = here.gathered(torch.cat(outputs), [len(own) for own in batches_rows[:made]])
        return Said([lane], _predicted(lane, output, torch.cat(targets)), norm)

    def _training_inputs(self, lane: Lane, size: int) -> Iterator[Tensor]:
        """Of all training rows, as many at once as are learned from; none is augmented."""
        parts, here = self._numerics[lane].learning.parts(size), self._spread[lane]
        take = lane.split.batch
        for inputs, _ in self._chunks(lane, lane.split.train, size, CHUNK_NUMBERS, take):
            for batch in torch.split(inputs, size):
                own = batch[here.part(len(batch))]
                yield from torch.tensor_split(own, max(1, min(parts, len(own))))

    def _gradients(self, lane: Lane, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """What is put out of a batch, and its loss, whose gradients are in the parameters then.

        Args:
            batch: The inputs of the rows that are computed here; and of all its rows the targets
                and the rows; where images are mixed also the targets of what is mixed in, and the
                share that is left to the first.

        Where memory is short it is computed in parts, and the gradients are those of the whole all
        the same; but batch norm sees a part at a time.
        """
        own, here = self._numerics[lane], self._spread[lane]
        (x, *of_rows), size = batch, len(batch[1])

        def compute() -> tuple[Tensor, Tensor]:
            for parameter in self._optimizers[lane].parameters:
                parameter.grad = None
            loss_of = partial(_loss_of, lane, of_rows)
            return here.learn(own, x, loss_of, size, own.learning.parts(size))

        if not here.halves:
            return compute()
        own.before.remember()
        return own.compiling.step(lambda: own.learning.halving(size, compute, own.before.restore))

    def _step(self, lane: Lane, progress: float, batch: Sequence[Tensor]) -> list[Tensor]:
        """Learn from the gradients of a batch; how long they are, where that is asked for."""
        optimizer, options = self._optimizers[lane], lane.options
        norms: list[Tensor] = []
        lr, shift = lane.rate * lane.schedule(progress), lane.schedule.shift(progress)

        def again() -> Tensor:
            # The same units are dropped each time.
            seed_everything(*self._spread[lane].seed((*lane.seed, lane.done + 1)))
            with torch.enable_grad():
                _, loss = self._gradients(lane, *batch)
            with torch.no_grad():
                self._penalize(lane)
                sizes = [p.abs().sum() for p in optimizer.parameters if p.grad is not None]
                return loss + float(options["l1"]) * torch.stack(sizes).sum()

        def step() -> None:
            if options["grad_norm"]:
                norms.append(self._spread[lane].norm(optimizer.parameters))
            self._penalize(lane)
            optimizer.step(lr, shift, again)
            if options["ema"] is not None:
                self._averages[lane].update()

        with torch.no_grad():
            self._numerics[lane].precision.step(optimizer.parameters, step)
        return norms

    def _answer(self, lane: Lane, rows: Tensor) -> Predicted:
        lane.model.eval()
        here, fits = self._spread[lane], self._numerics[lane].answering
        batch, take, outputs = lane.options["batch_size"], lane.split.batch, []

        def answers(inputs: Tensor) -> Tensor:
            parts = torch.tensor_split(inputs, fits.parts(len(inputs)))
            return torch.cat([here.answer(part) for part in parts])

        for inputs, _ in self._chunks(lane, here.asked(rows), batch, VALIDATION_NUMBERS, take):
            if here.halves:
                outputs.append(fits.halving(len(inputs), partial(answers, inputs)))
            else:
                outputs += [here.answer(some) for some in torch.split(inputs, batch)]
        output = here.answered(torch.cat(outputs), len(rows))
        target = lane.split.target.index_select(0, rows.to(output.device))
        return _predicted(lane, output, target)

    def _penalize(self, lane: Lane) -> None:
        """Add the L1 penalty's gradient; then shorten or cut the gradient that is too large."""
        parameters, options = self._optimizers[lane].parameters, lane.options
        if options["l1"]:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.sign(), alpha=options["l1"])
        if options["clip_norm"] is not None:
            norm = self._spread[lane].norm(parameters)
            nn.utils.clip_grads_with_norm_(parameters, options["clip_norm"], norm)
        if options["clip_value"] is not None:
            nn.utils.clip_grad_value_(parameters, options["clip_value"])

    def _chunks(
        self,
        lane: Lane,
        rows: Tensor,
        batch: int,
        numbers: int,
        take: Callable[[Tensor, Drawn | None], tuple[Tensor, Tensor]],
        drawn: Drawn | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of `rows`, some whole batches at a time, on the device, as `take`
        gives them."""
        size = max(1, numbers // (lane.split.row_numbers * batch)) * batch
        for start, some in zip(range(0, len(rows), size), torch.split(rows, size), strict=True):
            here = None if drawn is None else drawn.some(slice(start, start + size))
            inputs, target = take(some, here)
            if self._numerics[lane].channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs, target


def _convolves(lane: Lane) -> bool:
    convolves = any(isinstance(module, nn.Conv2d) for module in lane.model.modules())
    return convolves and lane.split.inputs.dim() == 4


def _loss_of(
    lane: Lane, batch: Sequence[Tensor], output: Tensor, some: slice | Tensor
) -> tuple[Tensor, Tensor]:
    """What some rows of a batch add to its loss.

    Args:
        batch: Of all its rows, as for `InTurn._gradients`.
        output: What the model puts out of those rows.
        some: Which they are.

    Returns:
        What counts as put out; and the rows' share of the loss.
    """
    y, rows, *mixed = batch
    output = in_float32(output)
    if lane.offset is not None:
        output = output + lane.offset[rows[some]]
    loss = _loss(lane, output, y[some], rows[some], *(share[some] for share in mixed[1:]))
    if len(output) < len(y):  # each mean counts as much as what it is the mean of
        loss = loss * (_counted(lane, output, y[some]) / _counted(lane, output, y))
    if mixed:
        others, share = mixed
        own = _loss(lane, output, others[some], rows[some], 1 - share[some])
        of_all = _counted(lane, output, others)
        loss = loss + own * (_counted(lane, output, others[some]) / of_all)
    return output, loss


def _loss(
    lane: Lane, output: Tensor, target: Tensor, rows: Tensor, share: Tensor | None = None
) -> Tensor:
    """The mean over `rows`, weighted by their classes and by the rows' own weights.

    Args:
        share: (B,) how much of each row has this target; None: all.
    """
    weights = share
    if lane.row_weights is not None:
        own = lane.row_weights[rows]
        weights = own if share is None else own * share
    of_classes = None if lane.class_weights is None else lane.class_weights.to(output)
    compute = LOSSES[chosen(lane.options, task_of(target))].compute
    if weights is None:
        return compute(output, target, lane.options, of_classes, "mean")
    of_rows = compute(output, target, lane.options, of_classes, "none")
    return (of_rows * weights).sum() / _counted(lane, output, target)


def _counted(lane: Lane, output: Tensor, target: Tensor) -> Tensor | int:
    """What the mean of the loss over `target` divides by."""
    if lane.class_weights is None or target.dtype != torch.int64:
        return len(target)
    return lane.class_weights.to(output)[target].sum()


def _standardized(lane: Lane, target: Tensor) -> Tensor:
    """What the model is to put out for `target`."""
    if task_of(target) != "regression":
        return target
    return ((target - lane.split.target_mean) / lane.split.target_std).unsqueeze(1)


def _predicted(lane: Lane, output: Tensor, target: Tensor) -> Predicted:
    """With one leading dimension, of this one lane."""
    split = lane.split
    return predicted(output.unsqueeze(0), target.unsqueeze(0), split.target_mean, split.target_std)
