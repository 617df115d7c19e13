"""Each loss is PyTorch's, or its paper's formula; lanes have its gradient to the last digits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recording_trial import RecordingTrial, sections
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor, nn
from torch.nn import functional

from trainers.contract import DataError, Epoch
from trainers.data import Dataset, Split, load
from trainers.ensembles.boosting import start
from trainers.ensembles.members import Part
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack
from trainers.lanes.losses import LOSSES as GRADIENTS
from trainers.lanes.losses import Terms, balanced
from trainers.loop import fit_together
from trainers.losses import AUTO, LOSSES, chosen
from trainers.metrics import TABLES, task_of
from trainers.options import Train
from trainers.registry import prepare
from trainers.schedules import made
from trainers.seeds import seed_everything

LANES, OUTPUTS, ROWS = 3, 4, 11
TERMS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": [0.0, 0.1, 0.3]},
    {"focal_gamma": [0.0, 0.5, 3.0]},
    {"huber_delta": [0.3, 1.0, 2.5]},
]


def batch(task: str) -> tuple[Tensor, Tensor]:
    """(k, outputs, B) outputs in float64, and targets of `task` as lanes have them."""
    random = torch.Generator().manual_seed(5)
    outputs = 1 if task == "regression" else OUTPUTS
    output = 2 * torch.randn((LANES, outputs, ROWS), dtype=torch.float64, generator=random)
    if task == "classification":
        return output, torch.randint(OUTPUTS, (LANES, ROWS), generator=random)
    if task == "multilabel":
        return output, torch.rand((LANES, ROWS, OUTPUTS), generator=random) < 0.4
    return output, torch.randn((LANES, ROWS), dtype=torch.float64, generator=random)


def column(values: list[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def test_the_tables_of_losses_and_of_their_gradients_have_the_same_names() -> None:
    assert list(LOSSES) == list(GRADIENTS)
    assert set(AUTO) == set(TABLES)
    assert all(LOSSES[name].task == task for task, name in AUTO.items())


CASES = [
    pytest.param(name, terms, weighted, id="-".join([name, *terms, *["weighted"] * weighted]))
    for name, loss in LOSSES.items()
    for terms in TERMS
    for weighted in (False, True)
    if {*terms, *["class_weights"] * weighted} <= set(loss.settings)
]


@pytest.mark.parametrize(("name", "terms", "weighted"), CASES)
def test_lanes_have_the_gradient_of_the_loss(
    name: str, terms: dict[str, Any], weighted: bool
) -> None:
    loss = LOSSES[name]
    output, target = batch(loss.task)
    weights = torch.rand((LANES, OUTPUTS), dtype=torch.float64) + 0.2 if weighted else None
    output.requires_grad_()
    own = {"label_smoothing": 0.0, "focal_gamma": 0.0, "huber_delta": 1.0}
    total = torch.zeros((), dtype=torch.float64)
    for lane in range(LANES):
        options = own | {key: values[lane] for key, values in terms.items()}
        wanted = target[lane].unsqueeze(1) if loss.task == "regression" else target[lane]
        of_lane = None if weights is None else weights[lane]
        total = total + loss.compute(output[lane].T, wanted, options, of_lane, "mean")
    (expected,) = torch.autograd.grad(total, output)
    deltas = [1.0] * LANES if name == "huber" else None
    found = GRADIENTS[name](
        output.detach(),
        target,
        Terms(
            column(terms.get("label_smoothing")),
            None if weights is None else weights.unsqueeze(2),
            column(terms.get("focal_gamma")),
            column(terms.get("huber_delta", deltas)),
        ),
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "bce"])
@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_weights_of_1_change_no_bit(name: str, smoothing: float | None) -> None:
    """So that a lane without weights is the same beside lanes with some."""
    output, target = batch(LOSSES[name].task)
    output, ones = output.float(), torch.ones((LANES, OUTPUTS, 1))
    own = None if smoothing is None else torch.full((LANES, 1, 1), smoothing)
    gamma = torch.full((LANES, 1, 1), 2.0)
    without = GRADIENTS[name](output.clone(), target, Terms(own, None, gamma))
    assert torch.equal(GRADIENTS[name](output.clone(), target, Terms(own, ones, gamma)), without)


def test_focal_is_the_paper_s_formula_and_cross_entropy_without_gamma() -> None:
    output, target = (tensor[0] for tensor in batch("classification"))
    p = output.T.softmax(1)[torch.arange(ROWS), target]
    options = {"focal_gamma": 2.0}
    found = LOSSES["focal"].compute(output.T, target, options, None, "none")
    torch.testing.assert_close(found, -((1 - p) ** 2) * p.log(), rtol=1e-12, atol=0)
    without = LOSSES["focal"].compute(output.T, target, {"focal_gamma": 0.0}, None, "mean")
    torch.testing.assert_close(without, functional.cross_entropy(output.T, target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_what_is_certain_has_a_finite_slope(gamma: float) -> None:
    output = torch.tensor([[[200.0, -200.0], [0.0, 0.0]]])  # surely right, surely wrong
    target = torch.tensor([[0, 0]])
    gammas = torch.full((1, 1, 1), gamma)
    found = GRADIENTS["focal"](output.clone(), target, Terms(gamma=gammas))
    leaf = output[0].T.clone().requires_grad_()
    LOSSES["focal"].compute(leaf, target[0], {"focal_gamma": gamma}, None, "mean").backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    torch.testing.assert_close(found[0].T, leaf.grad, rtol=1e-5, atol=1e-6)
    assert found[0, 0, 1] < -0.4  # what is surely wrong is learned


@pytest.mark.parametrize("name", LOSSES)
def test_rows_have_the_mean_that_the_loss_is(name: str) -> None:
    output, target = (tensor[1] for tensor in batch(LOSSES[name].task))
    wanted = target.unsqueeze(1) if LOSSES[name].task == "regression" else target
    options = {"label_smoothing": 0.1, "focal_gamma": 2.0, "huber_delta": 0.5}
    rows, mean = (
        LOSSES[name].compute(output.T, wanted, options, None, how) for how in ("none", "mean")
    )
    assert rows.shape == (ROWS,)
    torch.testing.assert_close(rows.mean(), mean)


# -- training


def data(task: str, rows: int = 45) -> Split:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn((rows + 20, 7), generator=random, dtype=torch.float64)
    value = inputs[:, 0] + 0.5 * inputs[:, 1]
    own: dict[str, Any] = {"target_mean": 3.0, "target_std": 2.0}
    if task == "classification":
        target, own = value.mul(2).round().clamp(-1, 2).long() + 1, {}
    elif task == "multilabel":
        target, own = torch.stack([value > c for c in (-1, 0, 0.5, 1)], 1), {}
    else:
        target = 3 + 2 * value
    return Split(inputs, target, torch.arange(rows), torch.arange(rows, rows + 20), **own)


def lane(number: int, split: Split, **train: Any) -> Lane:
    outputs = 1 if split.target.is_floating_point() else OUTPUTS
    seed_everything(number, 0, 0)
    model = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, outputs)).double()
    options = Train(**{"batch_size": 8, "lr": 0.02, **train}).model_dump()
    weighted = options["class_weights"] == "balanced"
    return Lane(
        model,
        split,
        options,
        made(options),
        (number, 0),
        class_weights=balanced(split, outputs) if weighted else None,
    )


SETTINGS: dict[str, list[dict[str, Any]]] = {
    "cross_entropy": [{}, {"label_smoothing": 0.1, "class_weights": "balanced"}],
    "focal": [{}, {"focal_gamma": 0.7, "class_weights": "balanced"}],
    "bce": [{}, {"label_smoothing": 0.1, "class_weights": "balanced"}],
    "mse": [{}, {"lr": 0.1}],
    "mae": [{}, {"lr": 0.1}],
    "huber": [{}, {"huber_delta": 0.2}],
}


@pytest.mark.parametrize("name", LOSSES)
def test_lanes_train_as_in_turn_with_weighted_rows_and_an_offset(name: str) -> None:
    split = data(LOSSES[name].task)
    together, in_turn = (
        [lane(n, split, loss=name, **own) for n, own in enumerate(SETTINGS[name])] for _ in "ab"
    )
    for one in (together[1], in_turn[1]):
        one.row_weights = torch.linspace(0.5, 1.5, len(split.target), dtype=torch.float64)
        outputs = 1 if split.target.is_floating_point() else OUTPUTS
        one.offset = torch.linspace(-1, 1, len(split.target) * outputs).view(-1, outputs).double()
    stack, turn = Stack(together), InTurn(in_turn)
    before = stack.weights(together[1])
    for _ in range(3):
        stack.train()
        turn.train()
    for one, other in zip(together, in_turn, strict=True):
        for key, expected in turn.weights(other).items():
            torch.testing.assert_close(stack.weights(one)[key], expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(before["0.weight"], stack.weights(together[1])["0.weight"])
    (said,) = (s for s in stack.validate() if together[0] in s.lanes)
    (alone,) = (s for s in turn.validate() if in_turn[0] in s.lanes)
    assert type(said.predicted) is type(alone.predicted)
    torch.testing.assert_close(
        said.predicted.lane(0).target, alone.predicted.lane(0).target, rtol=0, atol=0
    )


def test_auto_is_the_loss_of_the_task() -> None:
    for task, name in AUTO.items():
        split = data(task)
        assert task_of(split.target) == task
        assert chosen(Train().model_dump(), task_of(split.target)) == name


def test_labels_are_balanced_so_that_having_one_counts_as_not_having_it() -> None:
    split = data("multilabel")
    split = replace(split, target=split.target & torch.tensor([True, True, True, False]))
    having = split.target[split.train].sum(0)
    found = balanced(split, OUTPUTS)
    torch.testing.assert_close(found[:3] * having[:3], (45 - having[:3]).double())
    assert found[3] == 1  # of a label that no row has


# -- errors


@pytest.mark.parametrize(
    ("trainer", "source", "train", "key", "message"),
    [
        ("tabular", "diabetes", {"loss": "focal"}, "train.loss", "focal is for classes"),
        ("tabular", "wine", {"loss": "huber"}, "train.loss", "huber is for values"),
        ("tabular", "wine", {"loss": "bce"}, "train.loss", "bce is for labels"),
        ("tabular", "diabetes", {"label_smoothing": 0.1}, "train.label_smoothing", "no effect"),
        ("tabular", "diabetes", {"class_weights": "balanced"}, "train.class_weights", "no effect"),
    ],
)
def test_a_loss_or_a_setting_that_does_not_fit_the_target_is_refused(
    run: Any, trainer: str, source: str, train: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        run(trainer, {"source": source}, None, train)
    assert error.value.key == key


# -- in trials


def test_what_is_asked_for_is_reported_of_validation_rows_in_lanes_and_of_ensembles(
    run: Any,
) -> None:
    train = {"epochs": 2, "metrics": ["mcc", "f1", "cost/parameters"], "batch_size": 16}
    train["early_stopping"] = {"metric": "val/brier"}
    alone = run("tabular", {"source": "wine"}, {"hidden": [4]}, train)
    together = run("tabular", {"source": "wine"}, {"hidden": [4]}, train, {"method": "bagging"})
    for trial in (alone, together):
        said = trial.predictions
        right = np.argmax(said.output, 1)
        each = f1_score(said.target, right, average=None)
        found = [trial.last[f"val/f1/{name}"] for name in trial.data.classes]
        assert found == pytest.approx(each)
        assert trial.last["val/mcc"] == pytest.approx(matthews_corrcoef(said.target, right))
        assert {"val/brier", "cost/parameters"} <= trial.last.keys()
        assert not {"train/mcc", "cost/inference_ms", "val/ece"} & trial.last.keys()
    plain = run("tabular", {"source": "wine"}, {"hidden": [4]}, {"epochs": 2, "batch_size": 16})
    assert plain.last == {name: alone.last[name] for name in plain.last}


@pytest.mark.parametrize("loss", ["mae", "huber"])
def test_boosting_begins_with_the_median_where_errors_count_by_their_size(
    run: Any, loss: str
) -> None:
    params = sections("tabular", {"source": "diabetes"}, {}, {"loss": loss}, {})
    part = Part(params, load(params["data"], Path()), 0, 0)
    target = part.split.target[part.split.train]
    assert start(part) == pytest.approx(np.median(target.numpy()))
    boosted = {"method": "boosting", "size": 3, "shrinkage": 1.0}
    train = {"epochs": 12, "loss": loss, "lr": 0.01}
    trial = run("tabular", {"source": "diabetes"}, {"hidden": [8]}, train, boosted)
    assert trial.last["val/mae"] < trial.epochs[1]["val/mae"] < 80


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "own:score gave None, which is not a number"),
        ("return target == output.argmax(1)", "which is not a number"),
        ("return 1 / 0", "own:score raised ZeroDivisionError"),
        ("", "there is no module 'own'"),
    ],
)
def test_an_own_metric_that_cannot_work_is_found_before_there_is_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    params, dataset = with_own(tmp_path, monkeypatch, body)
    with pytest.raises(DataError, match=message) as error:
        prepare("tabular", params, dataset, tmp_path)
    assert error.value.key == "train.metrics"


def test_an_own_metric_is_reported_and_fails_its_own_trial_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first call is that of `prepare`; then the trials take turns.
    body = "calls.append(0); assert len(calls) != 3; return (output[:, 0] > 0.4).sum()"
    params, dataset = with_own(tmp_path, monkeypatch, body)
    prepare("tabular", params, dataset, tmp_path)
    good, bad = RecordingTrial(params, dataset), RecordingTrial(params, dataset, seed=1)
    bad.number = 1
    company = Company([good, bad])
    fit_together(company)
    assert good.predictions is not None
    assert good.last["val/score"] == (good.predictions.output[:, 0] > 0.4).sum()
    assert {number: type(error) for number, error in company.failed.items()} == {1: AssertionError}


class Company:
    """Trials that begin together, and the errors of those that fail."""

    def __init__(self, trials: Sequence[RecordingTrial]) -> None:
        self.failed: dict[int, Exception] = {}
        self._waiting = list(trials)

    def begin(self) -> Sequence[RecordingTrial]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> list[int]:
        for said in epochs:
            said.trial.report(said.epoch, said.metrics, said.predictions)
        return [said.trial.number for said in epochs if said.last]

    def finish(self, trial: Any) -> None:
        raise AssertionError("nothing was resumed")

    def fail(self, trial: Any, error: Exception) -> None:
        self.failed[trial.number] = error


def with_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> tuple[dict[str, Any], Dataset]:
    """A trial whose study's folder has a module `own` with a metric `score`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    if body:
        (folder / "own.py").write_text(f"calls = []\ndef score(target, output):\n    {body}\n")
    train = {"epochs": 5, "lr": 0.1, "metrics": ["own:score"]}
    params = sections("tabular", {"source": "wine"}, {"hidden": [4]}, train, {})
    return params, load(params["data"], folder)
