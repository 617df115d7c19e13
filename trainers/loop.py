"""The loop that the built-in trainers share: epochs over resident tensors, checkpoints, reports.

A trial is a function of its parameters, its seed and its data: each epoch draws from a seed made
of the trial's, the fold and the epoch, so that a trial resumed after any epoch goes on exactly as
if it had not been interrupted.

Metrics named ``train/…`` are of the outputs during the epoch, while the weights changed and with
dropout on: they cost no second pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from trainers import metrics
from trainers.contract import Predictions, Trial
from trainers.data import Dataset, Split
from trainers.metrics import Estimates, Scores
from trainers.optim import OPTIMIZERS, Optimizer
from trainers.schedules import SCHEDULES

Loss = Callable[[Tensor, Tensor], Tensor]

# Rows are gathered and standardized this many numbers at a time (16 MB), not batch by batch: on
# small data the gathering would otherwise cost as much as the training.
CHUNK_NUMBERS = 2**22
# Rows validated at once: bounds what a convolutional network holds in memory.
VALIDATION_NUMBERS = 2**20


def fit(trial: Trial, build: Callable[[Dataset], nn.Module]) -> None:
    """Train a model a fold, side by side, and report the mean of their metrics each epoch.

    Args:
        build: Makes a model for the data, drawing its weights from torch's global generator.
    """
    data = trial.data.to(trial.device)
    options = trial.params["train"]
    if trial.device != "cpu":
        torch.backends.cudnn.deterministic = True  # the same seed gives the same metrics
    learners = [
        Learner.begin(build, data, split, options, seed=(trial.seed, fold))
        for fold, split in enumerate(data.splits)
    ]
    stopper = Stopper(**options["early_stopping"]) if options["early_stopping"] else None
    done = 0
    if (state := trial.resume()) is not None:
        done = state["epoch"]
        for learner, saved in zip(learners, state["learners"], strict=True):
            learner.load_state(saved)
        if stopper is not None:
            stopper.best, stopper.waited = state["stopper"]
    for epoch in range(done + 1, options["epochs"] + 1):
        if stopper is not None and stopper.is_over:
            return
        trained = [learner.train(epoch) for learner in learners]
        validated = [learner.validate() for learner in learners]
        measured = {
            **_mean("train", [metrics.measure(predicted) for predicted in trained]),
            **_mean("val", [metrics.measure(predicted) for predicted in validated]),
        }
        if stopper is not None:
            stopper.see(measured)
        trial.save(
            {
                "epoch": epoch,
                "learners": [learner.state() for learner in learners],
                "stopper": None if stopper is None else [stopper.best, stopper.waited],
            }
        )
        trial.report(epoch, measured, _predictions(data, validated))


@dataclass
class Learner:
    """One model and what trains it on one split."""

    model: nn.Module
    optimizer: Optimizer
    split: Split
    loss: Loss
    options: Mapping[str, Any]
    seed: tuple[int, int]
    convolves: bool

    @classmethod
    def begin(
        cls,
        build: Callable[[Dataset], nn.Module],
        data: Dataset,
        split: Split,
        options: Mapping[str, Any],
        seed: tuple[int, int],
    ) -> Learner:
        _seed_everything(*seed, 0)
        model = build(data).to(split.target.device)
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        if convolves:
            model = model.to(memory_format=torch.channels_last)
        optimizer = OPTIMIZERS[options["optimizer"]](model.parameters(), options)
        loss: Loss = cross_entropy if data.task == "classification" else mse_loss
        return cls(model, optimizer, split, loss, options, seed, convolves)

    def train(self, epoch: int) -> Scores | Estimates:
        """One epoch; what the model said of each batch just before learning from it."""
        _seed_everything(*self.seed, epoch)
        rows = self.split.train[torch.randperm(len(self.split.train))]
        size = min(self.options["batch_size"], len(rows))
        if len(rows) % size == 1 and size > 1:
            rows = rows[:-1]  # batch norm knows no spread of one row
        steps = math.ceil(len(rows) / size)
        schedule = SCHEDULES[self.options["schedule"]]
        done, all_steps = (epoch - 1) * steps, self.options["epochs"] * steps
        parameters = self.optimizer.parameters
        outputs, targets = [], []
        self.model.train()
        for inputs, target in self._chunks(rows, size, CHUNK_NUMBERS):
            wanted = self._standardized(target)
            batches = zip(torch.split(inputs, size), torch.split(wanted, size), strict=True)
            for x, y in batches:
                output = self.model(x)
                for parameter in parameters:
                    parameter.grad = None
                self.loss(output, y).backward()  # type: ignore[no-untyped-call]
                with torch.no_grad():
                    self.optimizer.step(self.options["lr"] * schedule(done / all_steps))
                outputs.append(output.detach())
                done += 1
            targets.append(target)
        return self._predicted(torch.cat(outputs), torch.cat(targets))

    @torch.no_grad()
    def validate(self) -> Scores | Estimates:
        """What the model says of the validation rows, in their order."""
        self.model.eval()
        rows = self.split.validation
        outputs, targets = [], []
        for inputs, target in self._chunks(rows, self.options["batch_size"], VALIDATION_NUMBERS):
            outputs.append(self.model(inputs))
            targets.append(target)
        return self._predicted(torch.cat(outputs), torch.cat(targets))

    def state(self) -> dict[str, Any]:
        """For `Trial.save`: refers to the live tensors."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state(state["optimizer"])

    def _chunks(self, rows: Tensor, batch: int, numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of `rows`, some whole batches at a time, on the device."""
        row_numbers = math.prod(self.split.inputs.shape[1:])
        size = max(1, numbers // (row_numbers * batch)) * batch
        for some in torch.split(rows, size):
            inputs, target = self.split.batch(some)
            if self.convolves:  # much faster for convolutions, on CPUs as on GPUs
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield inputs, target

    def _standardized(self, target: Tensor) -> Tensor:
        """What the model is to put out for `target`."""
        if target.dtype == torch.int64:
            return target
        return ((target - self.split.target_mean) / self.split.target_std).unsqueeze(1)

    def _predicted(self, output: Tensor, target: Tensor) -> Scores | Estimates:
        if target.dtype == torch.int64:
            return Scores(output, target)
        values = output.squeeze(1) * self.split.target_std + self.split.target_mean
        return Estimates(values, target, self.split.target_std)


@dataclass
class Stopper:
    """Early stopping: over when `metric` has not improved for `patience` epochs."""

    patience: int
    min_delta: float
    metric: str
    best: float | None = None
    waited: int = 0

    @property
    def is_over(self) -> bool:
        return self.waited >= self.patience

    def see(self, measured: Mapping[str, float]) -> None:
        value = measured[self.metric]
        value = value if metrics.maximize(self.metric) else -value
        if self.best is None or value > self.best + self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1


def _seed_everything(seed: int, fold: int, epoch: int) -> None:
    """Seed torch's own generators, from which weights, order and dropout are drawn.

    Not by ``torch.manual_seed``: that also prepares for devices that are not in use, at a cost.
    """
    mixed = int(np.random.SeedSequence((seed, fold, epoch)).generate_state(1)[0])
    torch.default_generator.manual_seed(mixed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(mixed)


def _mean(split: str, measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over folds, under the names that are reported."""
    return {
        f"{split}/{name}": math.fsum(of_fold[name] for of_fold in measured) / len(measured)
        for name in measured[0]
    }


def _predictions(data: Dataset, validated: Sequence[Scores | Estimates]) -> Predictions:
    """What each validation row was given, by the model that did not train on it."""
    rows = torch.cat([split.validation for split in data.splits])
    outputs = [v.probabilities if isinstance(v, Scores) else v.output for v in validated]
    return Predictions(
        data.ids[rows].numpy(),
        torch.cat([predicted.target for predicted in validated]).cpu().numpy(),
        torch.cat(outputs).cpu().numpy(),
    )
