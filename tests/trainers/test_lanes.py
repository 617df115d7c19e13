"""A lane is itself: bitwise the same in any stack, and what PyTorch gives for the plain module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recording_trial import RecordingTrial, sections
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import swa_utils

from trainers.contract import Epoch, Trial
from trainers.data import Dataset, Split, load
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack, noise
from trainers.lanes.layers import LAYERS, unsupported
from trainers.lanes.measure import lanes_that_pay
from trainers.loop import fit_together
from trainers.models.modules import ImageBlock, RowBlock
from trainers.optim import STACKED
from trainers.options import Train
from trainers.registry import stack_key
from trainers.schedules import Constant, made
from trainers.seeds import generator, seed_everything
from trainers.team import Grouped
from trainers.together import PER_LANE

FEATURES, CLASSES, BATCH = 7, 3, 8
EPOCHS = 10
TRAIN: dict[str, Any] = {
    **Train().model_dump(mode="json"),
    "batch_size": BATCH,
    "epochs": EPOCHS,
    "optimizer": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "l1": 0.0,
    "clip_norm": None,
    "label_smoothing": 0.0,
    "ema": None,
    "schedule": "constant",
}
SETTINGS: list[dict[str, Any]] = [
    {"momentum": 0.0},
    {},
    {"nesterov": True},
    {"nesterov": True, "momentum": 0.0},
    {"weight_decay": 0.03, "schedule": "cosine"},
    {"nesterov": True, "weight_decay": 0.01, "momentum": 0.5},
    {"optimizer": "adamw", "lr": 0.01},
    {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.2, "schedule": "cosine"},
    {"optimizer": "adamw", "lr": 0.01, "beta1": 0.7, "beta2": 0.95},
    {"l1": 0.002},
    {"clip_norm": 0.3, "weight_decay": 0.01},
    {"label_smoothing": 0.1},
    {"ema": 0.9},
    {"swa": 0.1},
    {"optimizer": "adamw", "l1": 0.001, "clip_norm": 1.0, "label_smoothing": 0.3, "ema": 0.99},
    {"decay_on": "weights", "weight_decay": 0.1},
    {"optimizer": "adamw", "lr": 0.01, "decay_on": "weights", "weight_decay": 0.5},
    {"decoupled": True, "weight_decay": 0.5},
    {"clip_value": 0.02},
    {"optimizer": "rmsprop", "lr": 0.003, "weight_decay": 0.1},
    {"optimizer": "rmsprop", "lr": 0.01, "momentum": 0.0, "alpha": 0.9},
    {"optimizer": "adagrad", "weight_decay": 0.1},
    {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1, "decay_on": "weights"},
    {"optimizer": "nadam", "lr": 0.01, "weight_decay": 0.1},
    {"optimizer": "nadam", "lr": 0.01, "weight_decay": 0.1, "decoupled": True},
    {"optimizer": "radam", "lr": 0.01, "weight_decay": 0.1, "beta2": 0.95},
    {"schedule": "one_cycle", "warmup": 1.5},
    {"optimizer": "adam", "lr": 0.01, "schedule": "one_cycle"},
]


def split(task: str = "classification", rows: int = 45, validation: int = 20) -> Split:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn((rows + validation, FEATURES), generator=random)
    if task == "classification":
        target = (inputs[:, 0] + 0.5 * inputs[:, 1]).mul(2).round().clamp(-1, 1).long() + 1
        return Split(inputs, target, torch.arange(rows), torch.arange(rows, rows + validation))
    target = 3 + inputs[:, 0] * 2 + inputs[:, 1].square()
    train = target[:rows]
    return Split(
        inputs,
        target,
        torch.arange(rows),
        torch.arange(rows, rows + validation),
        target_mean=float(train.mean()),
        target_std=float(train.std()),
    )


def mlp(seed: int, outputs: int = CLASSES, dropout: float = 0.0, *extra: Any) -> nn.Sequential:
    seed_everything(seed, 0, 0)
    layers: list[nn.Module] = [nn.Linear(FEATURES, 16)]
    layers += [make(16) for make in extra]
    layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(12, outputs))


def lane(
    number: int,
    data: Split,
    options: Mapping[str, Any] | None = None,
    dropout: float = 0.0,
    extra: Sequence[Any] = (),
    double: bool = False,
) -> Lane:
    outputs = CLASSES if data.target.dtype == torch.int64 else 1
    model = mlp(number, outputs, dropout, *extra)
    model = model.double() if double else model
    own = {**TRAIN, **(options or {})}
    return Lane(model, data, own, made(own), (number, 0))


def varied(number: int, optimizer: str = "sgd") -> tuple[dict[str, Any], float]:
    """Settings that differ from lane to lane, and a dropout rate."""
    options = {
        "optimizer": optimizer,
        "lr": 0.01 * (1 + number % 5),
        "momentum": (0.0, 0.5, 0.9)[number % 3],
        "nesterov": number % 2 == 0,
        "weight_decay": (0.0, 0.01)[number % 2],
        "beta1": (0.9, 0.8)[number % 2],
        "l1": (0.0, 0.001)[number // 2 % 2],
        "clip_norm": (None, 0.5)[number // 3 % 2],
        "label_smoothing": (0.0, 0.1)[number % 2],
        "ema": (None, 0.9, 0.5)[number % 3],
        "swa": (0.3, None, None)[number % 3],
        "schedule": ("constant", "cosine")[number % 2],
        "epochs": EPOCHS + number % 4,
    }
    return options, (0.0, 0.2, 0.5)[number % 3]


def weights(stack: Stack, one: Lane) -> Tensor:
    state = stack.state(one)["model"]
    return torch.cat([value.reshape(-1).double() for value in state.values()])


# -- what PyTorch gives for the plain module


class Masked(nn.Module):
    """Dropout with the masks that a lane draws."""

    def __init__(self, rate: float, draw: Callable[[], Tensor]) -> None:
        super().__init__()
        self.rate, self.draw = rate, draw

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        rows, features = x.shape
        elements = torch.arange(features * rows, dtype=torch.int32)
        drawn = noise.uniform(self.draw().unsqueeze(0), elements).view(features, rows).T
        kept = drawn >= noise.threshold(torch.tensor(self.rate, dtype=torch.float64))
        return x * kept / (1 - self.rate)


def by_torch(model: nn.Module, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """torch's class with the settings."""
    every, decay = list(model.parameters()), options["weight_decay"]
    if options["decoupled"] and options["optimizer"] == "sgd":
        decay = 0.0  # torch has no such class: see `train_plainly`
    bare = [p for p in every if options["decay_on"] == "weights" and p.ndim < 2]
    groups = [
        {"params": [p for p in every if all(p is not other for other in bare)]},
        {"params": bare, "weight_decay": 0.0},
    ]
    betas = {"betas": (options["beta1"], options["beta2"])}
    apart = {"decoupled_weight_decay": options["decoupled"]}
    momentum = {"momentum": options["momentum"]}
    nesterov = {"nesterov": options["nesterov"] and options["momentum"] > 0}
    kind, own = {
        "sgd": (torch.optim.SGD, momentum | nesterov),
        "rmsprop": (torch.optim.RMSprop, momentum | {"alpha": options["alpha"]}),
        "adagrad": (torch.optim.Adagrad, {}),
        "adam": (torch.optim.Adam, betas),
        "adamw": (torch.optim.AdamW, betas),
        "nadam": (torch.optim.NAdam, betas | apart),
        "radam": (torch.optim.RAdam, betas | apart),
    }[options["optimizer"]]
    made_by: Any = kind
    optimizer: torch.optim.Optimizer = made_by(groups, lr=options["lr"], weight_decay=decay, **own)
    return optimizer


def train_plainly(one: Lane) -> tuple[nn.Module, nn.Module]:
    """With `torch.optim`, by the book: the model, and the average of its weights."""
    options, keys = one.options, list[Tensor]()
    model = nn.Sequential(
        *(
            Masked(layer.p, lambda: keys.pop(0)) if isinstance(layer, nn.Dropout) else layer
            for layer in one.model.children()
        )
    )
    drops = sum(isinstance(layer, Masked) for layer in model)
    optimizer, schedule = by_torch(model, options), made(options)
    averaged = swa_utils.AveragedModel(
        model,
        avg_fn=lambda mean, new, steps: mean.lerp(
            new, 1 - min(options["ema"] or 0, (1 + steps + 1) / (10 + steps + 1))
        ),
    )
    mean_of_ends = swa_utils.AveragedModel(model)
    steps = math.ceil(one.rows / BATCH)
    scale = (one.split.target_mean, one.split.target_std)
    for epoch in range(1, EPOCHS + 1):
        random = generator(*one.seed, epoch)
        order = torch.randperm(len(one.split.train), generator=random)[: one.rows]
        keys[:] = noise.keys([one.seed], [epoch], steps * drops)[:, 0]
        for step in range(steps):
            rows = one.split.train[order[step * BATCH : (step + 1) * BATCH]]
            x, y = one.split.inputs[rows].double(), one.split.target[rows]
            progress = ((epoch - 1) * steps + step) / (options["epochs"] * steps)
            for group in optimizer.param_groups:
                group["lr"] = options["lr"] * schedule(progress)
                if "momentum" in group:
                    group["momentum"] = max(0, options["momentum"] + schedule.shift(progress))
                elif "betas" in group:
                    beta1 = options["beta1"] + schedule.shift(progress)
                    group["betas"] = (beta1, options["beta2"])
            output = model(x)
            if y.dtype == torch.int64:
                smoothing = options["label_smoothing"]
                loss = functional.cross_entropy(output, y, label_smoothing=smoothing)
            else:
                loss = functional.mse_loss(output.squeeze(1), (y.double() - scale[0]) / scale[1])
            loss = loss + options["l1"] * sum(p.abs().sum() for p in model.parameters())
            optimizer.zero_grad()
            loss.backward()
            if options["clip_norm"] is not None:
                nn.utils.clip_grad_norm_(model.parameters(), options["clip_norm"])
            if options["clip_value"] is not None:
                nn.utils.clip_grad_value_(model.parameters(), options["clip_value"])
            if options["decoupled"] and options["optimizer"] == "sgd":
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.mul_(1 - group["lr"] * options["weight_decay"])
            torch.set_default_dtype(torch.float64)  # in which nadam then keeps its product
            optimizer.step()
            torch.set_default_dtype(torch.float32)
            averaged.update_parameters(model)
        if epoch > (options["swa"] or 0) * options["epochs"]:
            mean_of_ends.update_parameters(model)
    return model, averaged.module if options["swa"] is None else mean_of_ends.module


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(map(str, s.values())))
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_lane_equals_torch_optim_on_the_plain_module(
    settings: dict[str, Any], dropout: float
) -> None:
    data = split()
    alone = lane(1, data, settings, dropout, double=True)
    plain, averaged = train_plainly(lane(1, data, settings, dropout, double=True))
    shared = {name: alone.options[name] for name in ("optimizer", "decay_on", "decoupled")}
    others = [lane(n, data, {**varied(n)[0], **shared}, 0.1, double=True) for n in range(2, 5)]
    stack = Stack([others[0], alone, *others[1:]])
    for _ in range(EPOCHS):
        stack.train()
    expected = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    torch.testing.assert_close(weights(stack, alone), expected, rtol=1e-10, atol=1e-12)
    if {"ema", "swa"} & settings.keys():
        wanted = averaged.eval()(data.inputs[data.validation].double())
        (said,) = stack.validate()
        got: Any = said.predicted
        torch.testing.assert_close(got.logits[said.lanes.index(alone)], wanted)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(map(str, s.values())))
def test_trained_in_turn_it_is_the_same(settings: dict[str, Any]) -> None:
    data = split()
    doubled = replace(data, inputs=data.inputs.double())
    stack, in_turn = (
        kind([lane(n, doubled, settings, double=True) for n in (1, 2)]) for kind in (Stack, InTurn)
    )
    for team in (stack, in_turn):
        for _ in range(3):
            team.train()
    (together,) = stack.validate()
    for place, said in enumerate(in_turn.validate()):
        one: Any = said.predicted
        among: Any = together.predicted
        torch.testing.assert_close(one.logits[0], among.logits[place], rtol=1e-10, atol=1e-10)


def batch_norm(features: int) -> nn.Module:
    return nn.BatchNorm1d(features)


def layer_norm(features: int) -> nn.Module:
    return nn.LayerNorm(features)


def gelu(_: int) -> nn.Module:
    return nn.GELU()


@pytest.mark.parametrize("extra", [batch_norm, layer_norm, gelu])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_norms_activations_and_tasks_equal_the_plain_module(extra: Any, task: str) -> None:
    data = split(task, rows=41)  # a last batch of one row, which batch norm cannot use
    # Not adamw: batch norm takes the bias before it away again, and adamw would make steps of the
    # rounding errors that are its gradient.
    alone = lane(1, data, extra=[extra], double=True)
    plain, _ = train_plainly(lane(1, data, extra=[extra], double=True))
    stack = Stack([alone, lane(2, data, extra=[extra], double=True)])
    for _ in range(EPOCHS):
        stack.train()
    state = stack.state(alone)["model"]
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(state[name], expected, rtol=1e-10, atol=1e-12)
    plain.eval()
    wanted = plain(data.inputs[data.validation].double())
    (said,) = stack.validate()
    place = said.lanes.index(alone)
    got: Any = said.predicted
    if task == "classification":
        torch.testing.assert_close(got.logits[place], wanted, rtol=1e-9, atol=1e-9)
    else:
        values = wanted.squeeze(1) * data.target_std + data.target_mean
        torch.testing.assert_close(got.output[place], values, rtol=1e-9, atol=1e-9)


# -- the same in any stack


def trained(lanes: Sequence[Lane], epochs: int = 4) -> Stack:
    stack = Stack(lanes)
    for _ in range(epochs):
        stack.train()
    return stack


def some(count: int, data: Split, optimizer: str = "sgd", extra: Sequence[Any] = ()) -> list[Lane]:
    lanes = []
    for number in range(count):
        options, dropout = varied(number, optimizer)
        lanes.append(lane(number, data, options, dropout, extra))
    return lanes


@pytest.mark.parametrize(
    ("optimizer", "extra", "task"),
    [
        *product(
            ["sgd", "adamw"], [[], [batch_norm], [layer_norm]], ["classification", "regression"]
        ),
        *((name, [], "classification") for name in STACKED if name not in ("sgd", "adamw")),
    ],
)
def test_a_lane_is_bitwise_the_same_in_any_stack(
    optimizer: str, extra: Sequence[Any], task: str
) -> None:
    data = split(task)
    expected: Tensor | None = None
    for size in (1, 2, 16, 64):
        lanes = some(64, data, optimizer, extra)
        chosen = [lanes[5], *(one for one in lanes if one is not lanes[5])][:size]
        chosen = [*chosen[1:], chosen[0]]  # it is the last one
        got = weights(trained(chosen), lanes[5])
        assert expected is None or torch.equal(got, expected)
        expected = got


@pytest.mark.parametrize("optimizer", STACKED)
def test_a_lane_is_the_same_after_others_leave_and_come(optimizer: str) -> None:
    data = split()
    alone = some(6, data, optimizer)[1]
    expected = weights(trained([alone], 6), alone)
    lanes = some(6, data, optimizer)
    stack = Stack(lanes[:4])
    stack.train()
    stack.keep([lanes[1], lanes[3]])
    stack.train()
    stack.add(lanes[4:])
    stack.train()
    stack.train()
    stack.keep([lanes[5], lanes[1]])
    stack.train()
    stack.train()
    assert lanes[1].done == 6
    assert torch.equal(weights(stack, lanes[1]), expected)


def test_a_mean_of_ends_of_epochs_is_the_same_in_any_stack_and_after_others_leave() -> None:
    data = split()
    expected: dict[str, Tensor] | None = None
    for size in (1, 2, 16, 64):
        lanes = some(67, data)
        averaged = lanes[3]
        stack = trained([*lanes[4 : size + 3], averaged], 5)
        if size == 16:
            stack.keep([lanes[4], averaged])
        stack.train()
        got = stack.weights(averaged)
        assert averaged.averaged == 3
        assert not torch.equal(got["0.weight"], stack.state(averaged)["model"]["0.weight"])
        assert expected is None or all(torch.equal(got[name], expected[name]) for name in got)
        expected = got


def test_an_averaged_model_with_batch_norm_is_trained_in_turn() -> None:
    data, team = split(), Grouped()
    plain, normalized = lane(0, data, {"swa": 0.5}), lane(0, data, {"swa": 0.5}, 0.0, [batch_norm])
    team.add([plain, normalized])
    teams = {type(each): each.lanes for each in team._teams.values()}
    assert teams == {Stack: [plain], InTurn: [normalized]}


def test_lanes_on_different_rows_are_each_as_alone() -> None:
    """Folds: one has a row more, and a batch more."""
    whole = split(rows=49)
    splits = [replace(whole, train=torch.arange(n, 49)) for n in (0, 1, 9)]  # 49, 48 and 40 rows
    alone = [lane(n, own, {"optimizer": "adamw"}, 0.2) for n, own in enumerate(splits)]
    expected = [weights(trained([one]), one) for one in alone]
    lanes = [lane(n, own, {"optimizer": "adamw"}, 0.2) for n, own in enumerate(splits)]
    stack = trained(lanes[::-1])
    for one, wanted in zip(lanes, expected, strict=True):
        assert torch.equal(weights(stack, one), wanted)
    counts = {of_some.lanes[0]: of_some.predicted.target.shape for of_some in stack.train()}
    assert [counts[one][1] for one in lanes] == [49, 48, 40]


def test_a_resumed_lane_goes_on_as_if_nothing_had_been() -> None:
    data = split()
    expected = trained(some(3, data, "adamw"), 5)
    before = trained(some(3, data, "adamw"), 2)
    states = [before.state(one) for one in before.lanes]
    again = some(3, data, "adamw")
    stack = Stack(again)
    for one, state in zip(again, states, strict=True):
        stack.load(one, state)
        one.done = 2
    for _ in range(3):
        stack.train()
    assert torch.equal(stack.parameters, expected.parameters)


def test_a_nan_in_one_lane_touches_no_other() -> None:
    data = split()
    expected = [weights(s := trained(some(3, data, "sgd")), s.lanes[n]) for n in (0, 2)]
    lanes = some(3, data, "sgd")
    lanes[1].options = {**lanes[1].options, "lr": 1e30}
    stack = trained(lanes)
    assert not torch.isfinite(weights(stack, lanes[1])).all()
    for number, wanted in zip((0, 2), expected, strict=True):
        assert torch.equal(weights(stack, lanes[number]), wanted)


def test_out_of_memory_halves_the_pass_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = split()
    expected = trained(some(7, data, "adamw")).parameters
    learn, sizes = Stack._learn, list[int]()

    def short_of_memory(self: Stack, part: Any, *rest: Any) -> Tensor:
        sizes.append(len(part.rows.parameters))
        if len(part.rows.parameters) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return learn(self, part, *rest)

    monkeypatch.setattr(Stack, "_learn", short_of_memory)
    assert torch.equal(trained(some(7, data, "adamw")).parameters, expected)
    assert sizes[:2] == [7, 4]  # it is tried once, and not again
    assert max(sizes[3:]) == 2


def test_another_error_is_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Stack, "_learn", broken)
    with pytest.raises(RuntimeError, match="do not match"):
        trained(some(2, split(), "sgd"))


# -- random numbers


def test_noise_is_uniform_and_of_its_own_key() -> None:
    keys = noise.keys([(n, 0) for n in range(8)], [1] * 8, 50)
    drawn = np.stack([noise.uniform(key, torch.arange(512, dtype=torch.int32)) for key in keys])
    shares = (drawn.astype(np.float64) + 2**31) / 2**32
    assert stats.kstest(shares.ravel(), "uniform").pvalue > 0.01
    by_lane = shares.transpose(1, 0, 2).reshape(8, -1)
    correlated = np.corrcoef(by_lane) - np.eye(8)
    assert np.abs(correlated).max() < 4 / math.sqrt(by_lane.shape[1])
    following = np.corrcoef(shares[:, :, :-1].ravel(), shares[:, :, 1:].ravel())[0, 1]
    assert abs(following) < 4 / math.sqrt(shares.size)
    other_epoch = noise.keys([(n, 0) for n in range(8)], [2] * 8, 50)
    assert not (other_epoch == keys).any(dim=-1).all(dim=-1).any()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.97])
def test_dropout_drops_its_share(rate: float) -> None:
    key = noise.keys([(1, 2)], [3], 1)[0]
    drawn = noise.uniform(key, torch.arange(200_000, dtype=torch.int32))
    share = float((drawn < noise.threshold(torch.tensor(rate))).double().mean())
    assert share == pytest.approx(rate, abs=0.004)
    assert rate > 0 or share == 0


# -- through the trainer


class Together:
    """`trainers.contract.Trials` in this process."""

    def __init__(
        self, waves: Sequence[Sequence[RecordingTrial]], leave: Mapping[int, int]
    ) -> None:
        self.waves = [list(wave) for wave in waves]
        self.leave = leave
        self.failed: dict[int, Exception] = {}
        self.sizes: list[int] = []

    def begin(self) -> Sequence[Trial]:
        return self.waves.pop(0) if self.waves else []

    def report(self, epochs: Sequence[Epoch]) -> set[int]:
        self.sizes.append(len(epochs))
        leaving = set()
        for said in epochs:
            trial: Any = said.trial
            assert said.state is not None
            trial.save(said.state())
            trial.report(said.epoch, said.metrics, said.predictions)
            if said.last or self.leave.get(trial.number) == said.epoch:
                leaving.add(trial.number)
        return leaving

    def finish(self, trial: Trial) -> None:
        pass

    def fail(self, trial: Trial, error: Exception) -> None:
        self.failed[trial.number] = error


DIGITS = ("image_classifier", {"source": "digits"})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(sections(*DIGITS)["data"], tmp_path_factory.mktemp("cache"))


def trial(number: int, data: Dataset, model: Any = None, **train: Any) -> RecordingTrial:
    params = sections(*DIGITS, {"hidden": [16], **(model or {})}, {"epochs": 3, **train})
    recording = RecordingTrial(params, data, seed=number)
    recording.number = number
    return recording


def settings_of(number: int) -> dict[str, Any]:
    return {
        "lr": 0.002 * (number + 1),
        "weight_decay": 0.01 * (number % 2),
        "epochs": 3 + number % 3,
        "schedule": ("constant", "cosine")[number % 2],
    }


def test_trials_together_report_what_each_reports_alone(digits: Dataset) -> None:
    """Some come later, one is pruned, one is stopped early, one is broken."""
    alone, together = {}, {}
    for number in range(6):
        model = {"dropout": 0.1 * (number % 3)}
        train = settings_of(number)
        if number == 4:
            train |= {"early_stopping": {"patience": 1, "min_delta": 1.0}}
        alone[number] = trial(number, digits, model, **train)
        fit_together(Together([[alone[number]]], {2: 2}))
        together[number] = trial(number, digits, model, **train)
    broken = trial(9, digits, {"weights": "nowhere.pt"})
    crew = Together(
        [[together[0], broken, together[1], together[2]], [], list(together.values())[3:]], {2: 2}
    )
    fit_together(crew)
    for number in range(6):
        assert together[number].epochs == alone[number].epochs
        for name in ("ids", "target", "output"):
            mine, theirs = (getattr(t[number].predictions, name) for t in (alone, together))
            assert np.array_equal(mine, theirs)
    assert list(alone[2].epochs) == [1, 2]
    assert list(alone[4].epochs) == [1, 2]
    assert max(crew.sizes) == 5
    assert list(crew.failed) == [9]


def test_folds_are_lanes(digits: Dataset, tmp_path: Path) -> None:
    section = {"source": "digits", "folds": 3}
    params = sections("image_classifier", section, {"hidden": [8]}, {"epochs": 2})
    data = load(params["data"], tmp_path)
    folded = RecordingTrial(params, data)
    fit_together(Together([[folded]], {}))
    values = []
    for fold, own in enumerate(data.splits):
        seed_everything(0, fold, 0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.0), nn.Linear(8, 10)
        )
        one = Lane(model, own, params["train"], Constant(), (0, fold))
        stack = trained([one], 2)
        (said,) = stack.validate()
        predicted: Any = said.predicted
        values.append(
            float((predicted.logits[0].argmax(1) == predicted.target[0]).double().mean())
        )
    assert folded.last["val/accuracy"] == pytest.approx(sum(values) / 3, abs=1e-12)
    assert folded.last["fold_std/accuracy"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_what_may_differ_within_a_stack_is_not_in_its_key() -> None:
    one = sections(*DIGITS, {"dropout": 0.1}, {"lr": 0.1, "epochs": 3, "optimizer": "sgd"})
    other = sections(*DIGITS, {"dropout": 0.4}, {"lr": 0.2, "epochs": 9, "optimizer": "sgd"})
    third = sections(*DIGITS, {"hidden": [32]}, {"lr": 0.2, "optimizer": "sgd"})
    assert stack_key("image_classifier", one) == stack_key("image_classifier", other)
    assert stack_key("image_classifier", one) != stack_key("image_classifier", third)
    assert stack_key("image_classifier", sections(*DIGITS, {"name": "resnet18"})) is None
    assert stack_key("mine:train", one) is None
    known = {f"{part}.{key}" for part, values in one.items() for key in values}
    assert known >= PER_LANE


def test_every_layer_of_the_table_has_been_tried() -> None:
    tried: set[type[nn.Module]] = {nn.Flatten, nn.Identity, nn.Linear, nn.ReLU, nn.Dropout}
    tried |= {nn.BatchNorm1d, nn.LayerNorm}
    # in test_lanes_images.py
    tried |= {nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d}
    tried |= {nn.Sequential, RowBlock, ImageBlock}  # in test_lanes_modules.py
    for kind in set(LAYERS) - tried:
        activation = kind()
        x = torch.randn(2, 5, 3)
        layer = LAYERS[kind](activation, {}, {})
        assert torch.equal(layer.forward(x.clone(), _pass(training=False)), activation(x))
    assert unsupported(nn.Sequential(nn.Conv3d(1, 1, 3))) == "there is no rule for Conv3d"
    assert unsupported(nn.ReLU()) == "ReLU is no nn.Sequential"


def _pass(training: bool) -> Any:
    from trainers.lanes.layers import Pass

    return Pass(training)


def test_lanes_that_pay_are_within_what_is_asked(digits: Dataset) -> None:
    params = sections(*DIGITS, {"hidden": [16]}, {"batch_size": 16})
    assert lanes_that_pay(params, digits, "cpu", 1) == 1
    assert 2 <= lanes_that_pay(params, digits, "cpu", 16) <= 16
    assert lanes_that_pay(sections(*DIGITS, {"name": "squeezenet1_1"}), digits, "cpu", 16) == 1
