"""Ensembles within a trial: how members come about, what they say together, and no leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recording_trial import RecordingTrial, sections
from scipy import stats
from sklearn.ensemble import AdaBoostClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor
from torch.nn import functional

from trainers import ensembles, metrics
from trainers.contract import DataError, Epoch, Trial
from trainers.data import Dataset, Split, load
from trainers.ensembles import bagging, boosting, held_out, judging, snapshot, stacking, stages
from trainers.ensembles.members import Measured, Part
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack
from trainers.loop import fit, fit_together
from trainers.metrics import Estimates, Scores
from trainers.saved import Model, Rows
from trainers.schedules import Cosine
from trainers.seeds import seed_everything
from trainers.team import Grouped

DIGITS = ("image_classifier", {"source": "digits"})
BAGGING = {"method": "bagging", "size": 5}
SNAPSHOT = {"method": "snapshot", "size": 3}
GRADIENT = {"method": "boosting", "size": 3}
SAMME = {"method": "boosting", "boosting": "samme", "size": 3}
STACKING = {"method": "stacking", "size": 2, "inner_folds": 2}
DIFFERING = {**STACKING, "members": [{"hidden": [16]}, {"hidden": [8, 8], "dropout": 0.1}]}
LEARNED = {**STACKING, "non_negative": False}
WEIGHTED = {"combine": "weighted"}
FAST = {"epochs": 6, "optimizer": "sgd", "lr": 0.05}

# Every way to make an ensemble; those of classes only come last.
ALL: list[dict[str, Any]] = [
    *({**BAGGING, "combine": how} for how in ("mean", "logits", "vote", "weighted")),
    *({**SNAPSHOT, "combine": how} for how in ("mean", "logits", "vote", "weighted")),
    {**SNAPSHOT, "average": True},
    {**SNAPSHOT, **WEIGHTED, "average": True},
    GRADIENT,
    {**GRADIENT, "members": [{"hidden": [4]}, {"hidden": [8]}]},
    STACKING,
    DIFFERING,
    LEARNED,
    SAMME,
]


def name_of(ensemble: dict[str, Any]) -> str:
    plain = {key: value for key, value in ensemble.items() if key != "members"}
    members = ["differing"] if "members" in ensemble else []
    return "-".join([*map(str, plain.values()), *members])


every = pytest.mark.parametrize("ensemble", ALL, ids=name_of)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(sections(*DIGITS)["data"], tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return {
        source: load(
            sections("tabular", {"source": source, "folds": 3})["data"],
            tmp_path_factory.mktemp(source),
        )
        for source in ("wine", "diabetes")
    }


def part_of(
    data: Dataset,
    ensemble: dict[str, Any],
    train: dict[str, Any] | None = None,
    trainer: str = "tabular",
) -> Part:
    params = sections(trainer, {"source": "wine"}, {"hidden": [8]}, train, ensemble)
    return Part(params, data, 0, seed=7)


# -- a trial


@pytest.mark.parametrize("ensemble", [BAGGING, STACKING, DIFFERING, GRADIENT], ids=name_of)
def test_an_ensemble_is_better_than_its_members(run: Any, ensemble: dict[str, Any]) -> None:
    last = run(*DIGITS, {"hidden": [16]}, FAST, ensemble).last
    assert last["val/loss"] < last["member/loss"]
    assert last["val/accuracy"] >= last["member/accuracy"] - 0.01
    assert last["gain/loss"] == pytest.approx(
        last["member/best_loss"] - last["val/loss"], abs=1e-6
    )
    assert 0 < last["member/disagreement"] < 0.5


def test_snapshots_are_as_good_as_their_mean(run: Any) -> None:
    last = run(*DIGITS, {"hidden": [16]}, FAST, SNAPSHOT).last
    assert last["val/loss"] < last["member/loss"]


def test_a_trial_without_an_ensemble_says_nothing_of_members(run: Any) -> None:
    trial = run(*DIGITS, {"hidden": [16]}, {"epochs": 1})
    assert list(trial.last) == trial.data.summary["metrics"]


class Recorded(RecordingTrial):
    """One that keeps the models of its last epoch, too."""

    model: Mapping[str, Any]


class Company:
    """Trials that begin together."""

    def __init__(self, trials: Sequence[Recorded]) -> None:
        self._waiting = list(trials)

    def begin(self) -> Sequence[Recorded]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def report(self, epochs: Sequence[Epoch]) -> set[int]:
        for said in epochs:
            assert isinstance(said.trial, Recorded)
            assert said.model is not None
            said.trial.model = said.model()
            said.trial.report(said.epoch, said.metrics, said.predictions)
        return {said.trial.number for said in epochs if said.last}

    def finish(self, trial: Trial) -> None:
        raise AssertionError

    def fail(self, trial: Trial, error: Exception) -> None:
        raise error


def recorded(
    number: int, ensemble: dict[str, Any], data: Dataset, source: str, **train: Any
) -> Recorded:
    own = {"epochs": 4, "lr": 0.01, "batch_size": 16, **train}
    params = sections(
        "tabular", {"source": source, "folds": 3}, {"hidden": [8], "dropout": 0.2}, own, ensemble
    )
    trial = Recorded(params, data, seed=number)
    trial.number = number
    return trial


class ValidationRows:
    """The rows that a split validates on."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.validation)

    def inputs(self, model: Model, fold: Any, some: slice) -> Tensor:
        return self.split.batch(self.split.validation[some])[0]


@pytest.mark.parametrize("source", ["wine", "diabetes"])
@pytest.mark.slow
def test_in_company_every_method_says_what_it_says_alone_and_its_models_say_it_again(
    table: dict[str, Dataset], source: str
) -> None:
    data, ways = table[source], ALL if source == "wine" else ALL[:-1]
    alone = [recorded(number, way, data, source) for number, way in enumerate(ways)]
    for trial in alone:
        fit_together(Company([trial]))
    together = [recorded(number, way, data, source) for number, way in enumerate(ways)]
    fit_together(Company(together))
    for one, same in zip(alone, together, strict=True):
        assert one.epochs == same.epochs
        assert len(one.predictions.ids) == sum(len(s.validation) for s in data.splits)
        assert one.last["val/loss"] < (1.0 if source == "diabetes" else np.log(3))
        model, at = Model.of(one.model), 0
        for split, fold in zip(data.splits, model.folds, strict=True):
            rows: Rows = ValidationRows(split)
            count = len(rows)
            np.testing.assert_allclose(
                model.fold_output(fold, rows),
                one.predictions.output[at : at + count],
                rtol=1e-4,
                atol=1e-5,
            )
            at += count


@every
def test_resumed_it_goes_on_as_if_nothing_had_been(run: Any, ensemble: dict[str, Any]) -> None:
    settings = ("tabular", {"source": "wine", "folds": 2}, {"hidden": [8], "dropout": 0.1}, FAST)
    whole = run(*settings, ensemble)
    for stop in (1, 2, 5):  # within a stage, at its end, in the last one
        first = run(*settings, ensemble, stop_after=stop)
        rest = run(*settings, ensemble, saved=first.saved)
        assert {**first.epochs, **rest.epochs} == whole.epochs


def test_members_of_any_model(run: Any) -> None:
    members = [{"name": "cnn", "channels": [8, 8]}, {"hidden": [16]}]
    for method in (BAGGING, STACKING):
        last = run(*DIGITS, {}, {**FAST, "epochs": 2}, {**method, "members": members}).last
        assert last["val/loss"] < last["member/loss"]


def test_bagging_uses_lanes(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    train = Stack.train

    def counted(self: Stack) -> Any:
        sizes.append(len(self.lanes))
        return train(self)

    monkeypatch.setattr(Stack, "train", counted)
    params = sections(*DIGITS, {"hidden": [8]}, {"epochs": 2}, {**BAGGING, "size": 7})
    fit(RecordingTrial(params, digits))
    assert sizes == [7, 7]


def shuffled(data: Dataset) -> Dataset:
    order = np.random.default_rng(0).permutation(len(data.target))
    target = data.target[torch.from_numpy(order)]
    return replace(data, splits=(replace(data.splits[0], target=target),), _elsewhere={})


@pytest.mark.slow
@every
def test_shuffled_labels_give_chance(digits: Dataset, ensemble: dict[str, Any]) -> None:
    """Whatever the method: nothing is fitted to rows that something is estimated by."""
    data = shuffled(digits)
    params = sections(*DIGITS, {"hidden": [32]}, {**FAST, "epochs": 12}, ensemble)
    trial = RecordingTrial(params, data, seed=1)
    fit(trial)
    for said in trial.epochs.values():
        for name, rows in (("val", len(data.validation)), ("oob", len(data.train))):
            if f"{name}/accuracy" in said:
                right = round(said[f"{name}/accuracy"] * rows)
                assert stats.binomtest(right, rows, 0.1, alternative="greater").pvalue > 0.001
    assert said["train/loss"] < np.log(10)  # of rows that it is fitted to it does learn something


# -- bagging


@pytest.mark.parametrize(("replacement", "fraction"), [(True, 1.0), (True, 0.5), (False, 0.7)])
def test_members_draw_their_own_rows_of_the_training_rows(
    digits: Dataset, replacement: bool, fraction: float
) -> None:
    ensemble = {"bootstrap_fraction": fraction, "replacement": replacement}
    split = digits.splits[0]
    drawn = [bagging.bootstrap(split, ensemble, (7, 0, m)).train for m in range(4)]
    allowed = set(split.train.tolist())
    for rows in drawn:
        assert len(rows) == round(fraction * len(split.train))
        assert set(rows.tolist()) <= allowed
        assert (len(set(rows.tolist())) == len(rows)) != replacement
    assert all(not torch.equal(a, b) for a, b in combinations(drawn, 2))
    again = bagging.bootstrap(split, ensemble, (7, 0, 2)).train
    assert torch.equal(drawn[2], again)
    if replacement and fraction == 1.0:  # 1 - 1/e of the rows, see Breiman
        share = np.mean([len(set(rows.tolist())) / len(allowed) for rows in drawn])
        assert share == pytest.approx(1 - 1 / np.e, abs=0.02)


def test_the_out_of_bag_estimate_is_the_mean_of_those_who_did_not_see_a_row(
    table: dict[str, Dataset],
) -> None:
    part = part_of(table["wine"], {**BAGGING, "size": 4})
    members = bagging.Bagging(part, None)
    together, team = trained(members)
    rows: list[int] = []
    said: Any = []
    for row in part.split.train.tolist():
        blind = [lane for lane in members.lanes if row not in lane.split.train.tolist()]
        if blind:
            rows.append(row)
            said.append(np.mean([asked(team, lane, [row]) for lane in blind], axis=(0, 1)))
    assert 0 < len(rows) < len(part.split.train)
    target = part.split.target[rows].numpy()
    said = np.array(said, np.float64)
    loss, right = (
        log_loss(target, said / said.sum(1, keepdims=True)),
        accuracy_score(target, np.argmax(said, 1)),
    )
    assert together.estimates["oob/loss"] == pytest.approx(loss, rel=1e-4)
    assert together.estimates["oob/accuracy"] == pytest.approx(right)


def test_who_sees_every_row_has_no_out_of_bag_estimate(run: Any) -> None:
    whole = {**BAGGING, "replacement": False}
    last = run("tabular", {"source": "wine"}, {"hidden": [4]}, {"epochs": 1}, whole).last
    assert not [name for name in last if name.startswith("oob/")]


def test_a_member_knows_nothing_of_columns_that_it_does_not_see(
    table: dict[str, Dataset],
) -> None:
    ensemble = {**BAGGING, "feature_fraction": 0.4}
    part = part_of(table["wine"], ensemble, {"weight_decay": 0.1, "lr": 0.05, "l1": 0.01})
    members = bagging.Bagging(part, None)
    _, team = trained(members, epochs=2)
    (count,) = part.data.shape
    seen = []
    for lane in members.lanes:
        assert lane.split.seen is not None
        first = team.weights(lane)["0.weight"]
        assert torch.equal((first != 0).any(0), lane.split.seen == 1)
        seen.append(lane.split.seen)
        assert lane.split.seen.sum() == round(0.4 * count)
    assert len({tuple(columns.tolist()) for columns in seen}) > 1


# -- what is fitted is fitted to rows that nobody trained on


def trained(members: ensembles.Members, epochs: int = 1) -> tuple[ensembles.Together, Grouped]:
    """What members say after some epochs, and who is trained."""
    team = Grouped()
    team.add(members.lanes)
    for epoch in range(1, epochs + 1):
        team.train()
        validated = {
            lane: Measured.of(said.predicted.lane(place))
            for said in team.validate()
            for place, lane in enumerate(said.lanes)
        }
        answers = {
            lane: said.predicted.lane(place)
            for said in team.answer(members.asked(epoch))
            for place, lane in enumerate(said.lanes)
        }
        together = members.together(epoch, validated, answers, team.weights)
    return together, team


def asked(team: Grouped, lane: Lane, rows: Sequence[int]) -> np.ndarray:
    """(n, C) probabilities by the plain module."""
    lane.model.load_state_dict(team.weights(lane))
    with torch.no_grad():
        inputs, _ = lane.split.batch(torch.tensor(rows))
        return np.asarray(lane.model.eval()(inputs).softmax(1))


@every
def test_validation_rows_are_neither_learned_from_nor_asked_for(
    table: dict[str, Dataset], ensemble: dict[str, Any]
) -> None:
    part = part_of(table["wine"], ensemble, {"epochs": 6})
    members = ensembles.begin(part, None)
    validation, train = set(part.split.validation.tolist()), set(part.split.train.tolist())
    for epoch in range(1, 7):
        for rows in members.asked(epoch).values():
            assert set(rows.tolist()) <= train - validation
    for lane in members.lanes:
        assert set(lane.split.train.tolist()) <= train
        assert lane.split.validation.tolist() == part.split.validation.tolist()


@pytest.mark.parametrize("method", [BAGGING, SNAPSHOT], ids=name_of)
def test_weights_are_fitted_to_rows_that_no_member_trained_on(
    table: dict[str, Dataset], method: dict[str, Any]
) -> None:
    part = part_of(table["wine"], {**method, **WEIGHTED}, {"epochs": 3, "lr": 0.02})
    rows = held_out.for_weights(part)
    assert len(rows) == pytest.approx(len(part.split.train) / 5, abs=1)
    members = ensembles.begin(part, None)
    for lane in members.lanes:
        assert not set(rows.tolist()) & set(lane.split.train.tolist())
    together, team = trained(members, epochs=1)
    outputs = np.stack([asked(team, lane, rows.tolist()) for lane in members.lanes])
    wanted = np.eye(3)[part.split.target[rows].numpy()]
    columns = outputs.reshape(len(outputs), -1).T.astype(np.float64)
    penalty = 1e-3 * (columns**2).mean() * len(columns)
    ridge = Ridge(alpha=penalty, positive=True, fit_intercept=False)
    found = ridge.fit(columns, wanted.ravel()).coef_
    assert together.fitted is not None
    np.testing.assert_allclose(together.fitted["weights"], found / found.sum(), atol=1e-4)


@pytest.mark.parametrize("non_negative", [True, False])
def test_the_meta_learner_learns_from_what_bases_say_of_rows_unseen(
    table: dict[str, Dataset], non_negative: bool
) -> None:
    part = part_of(table["wine"], {**DIFFERING, "non_negative": non_negative}, {"lr": 0.03})
    members = stacking.Stacking(part, None)
    together, team = trained(members, epochs=3)
    count = part.ensemble["inner_folds"]
    order, unseen = [], np.zeros((2, len(part.split.target), 3))
    for at, lane in enumerate(members.lanes):
        left_out = sorted(set(part.split.train.tolist()) - set(lane.split.train.tolist()))
        unseen[at // count, left_out] = asked(team, lane, left_out)
        order += left_out if at < count else []
    assert sorted(order) == part.split.train.tolist()
    outputs, target = unseen[:, order], part.split.target[order].numpy()
    rows = part.split.validation.tolist()
    bases = np.stack(
        [
            np.mean([asked(team, lane, rows) for lane in members.lanes[at : at + count]], axis=0)
            for at in (0, count)
        ]
    )
    assert isinstance(together.said.predicted, Scores)
    said = together.said.predicted.probabilities.numpy()
    if non_negative:
        columns = outputs.reshape(2, -1).T
        penalty = 1e-3 * (columns**2).mean() * len(columns)
        ridge = Ridge(alpha=penalty, positive=True, fit_intercept=False)
        weights = ridge.fit(columns, np.eye(3)[target].ravel()).coef_
        expected = np.tensordot(weights / weights.sum(), bases, 1)
        np.testing.assert_allclose(said, expected, atol=1e-4)
        return
    features = np.concatenate(list(np.log(outputs)), axis=1)
    scale = features.std()
    candidates = []  # how strongly it is regularized is chosen within; it must be one of these
    for strength in (1e-3, 1e-2, 0.1, 1.0):
        model = LogisticRegression(C=strength, max_iter=1000).fit(
            (features - features.mean(0)) / scale, target
        )
        new = (np.concatenate(list(np.log(bases)), axis=1) - features.mean(0)) / scale
        candidates.append(np.abs(model.predict_proba(new) - said).max())
    assert min(candidates) < 0.01


def test_inner_folds_are_equal_and_have_the_classes_shares(digits: Dataset) -> None:
    part = part_of(digits, STACKING)
    dealt = held_out.dealt(part, 4)
    assert torch.equal(torch.cat(dealt).sort().values, part.split.train)
    counts = np.stack([np.bincount(digits.target[rows], minlength=10) for rows in dealt])
    assert np.ptp(counts, axis=0).max() <= 1


# -- snapshots


@pytest.mark.parametrize(("size", "epochs"), [(3, 6), (3, 7), (5, 4), (2, 2), (4, 30)])
def test_stages_divide_the_epochs(size: int, epochs: int) -> None:
    count = stages.count({"size": size}, epochs)
    ends = [epoch for epoch in range(1, epochs + 1) if stages.ends(count, epoch, epochs)]
    lengths = [stages.length(count, stage, epochs) for stage in range(count)]
    assert np.cumsum(lengths).tolist() == ends
    assert count == min(size, epochs)
    assert ends[-1] == epochs
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", [2, 5])
def test_cycles_end_with_small_steps(table: dict[str, Dataset], size: int) -> None:
    part = part_of(table["wine"], {**SNAPSHOT, "size": size}, {"epochs": 10})
    (lane,) = snapshot.Snapshot(part, None).lanes
    factors = [lane.schedule(step / 1000) for step in range(1000)]
    assert factors[0] == 1.0
    assert factors[-1] < 0.01
    assert sum(b > a for a, b in zip(factors, factors[1:], strict=False)) == size - 1


@pytest.mark.parametrize(("size", "epochs"), [(8, 20), (8, 15), (22, 22), (3, 10), (12, 20)])
def test_a_snapshot_is_taken_where_the_learning_rate_is_low(size: int, epochs: int) -> None:
    schedule, steps = stages.Repeated(Cosine(), size, epochs), 8
    for epoch in range(1, epochs + 1):
        first, last = ((epoch - 1) * steps, epoch * steps - 1)
        if stages.ends(size, epoch, epochs):
            assert schedule(last / (epochs * steps)) < 0.05
        if epoch == 1 or stages.ends(size, epoch - 1, epochs):
            assert schedule(first / (epochs * steps)) == pytest.approx(1.0)


def test_the_average_of_weights_is_a_member(table: dict[str, Dataset]) -> None:
    part = part_of(table["wine"], {**SNAPSHOT, "average": True}, {"epochs": 3, "lr": 0.02})
    members = snapshot.Snapshot(part, None)
    together, team = trained(members, epochs=3)
    (lane,) = members.lanes
    sources = [each.source for each in together.predictors]
    weights = [team.weights(s) if isinstance(s, Lane) else s for s in sources]
    assert len(weights) == 4  # three cycles and their mean
    for name, mean in weights[-1].items():
        torch.testing.assert_close(mean, sum(each[name] for each in weights[:3]) / 3)
    lane.model.load_state_dict(weights[-1])
    inputs, _ = part.split.batch(part.split.validation)
    said = together.members[-1].predicted
    assert isinstance(said, Scores)
    torch.testing.assert_close(said.logits, lane.model(inputs).detach())


def test_the_average_of_weights_says_labels(run: Any, tmp_path: Path) -> None:
    rows = "".join(f"{n % 7},{n % 3},{n % 3 != 1:d},{n % 3 != 0:d}\n" for n in range(40))
    (tmp_path / "t.csv").write_text(f"a,b,p,q\n{rows}")
    data = {"source": str(tmp_path / "t.csv"), "target": ["p", "q"]}
    own = {"epochs": 2, "batch_size": 8, "metrics": ["hamming_loss"]}
    last = run("tabular", data, {"hidden": [4]}, own, {**SNAPSHOT, "average": True}).last
    assert {"member/loss", "val/hamming_loss"} <= last.keys()


# -- boosting


@pytest.mark.parametrize("team", [Stack, InTurn])
@pytest.mark.parametrize("source", ["wine", "diabetes"])
def test_offsets_and_weights_of_rows_are_those_of_the_plain_loss(
    table: dict[str, Dataset], source: str, team: Any
) -> None:
    """Against PyTorch: of values, training on what the offset leaves of the target."""
    data = table[source]
    part = part_of(data, GRADIENT, {"optimizer": "sgd", "lr": 0.02, "batch_size": 16})
    split, plain = part.split, part.lane(0).model
    torch.manual_seed(0)
    offset, weights = torch.randn(len(split.target), data.outputs), torch.rand(len(split.target))
    lane = part.lane(0)
    lane.offset, lane.row_weights = offset, weights
    other = part.lane(1)  # which has neither
    apart = part.lane(1)
    side_by_side, alone = team([lane, other]), team([apart])
    if team is Stack:
        order = lane.order()
    else:
        seed_everything(*lane.seed, 1)
        order = split.train[torch.randperm(len(split.train))]
        order = order[:-1] if len(order) % 16 == 1 else order
    side_by_side.train()
    alone.train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9)
    for rows in torch.split(order, 16):
        inputs, target = split.batch(rows)
        output = plain(inputs)
        if source == "wine":
            losses = functional.cross_entropy(output + offset[rows], target, reduction="none")
        else:
            residual = (target - split.target_mean) / split.target_std - offset[rows].squeeze(1)
            losses = (output.squeeze(1) - residual).square()
        optimizer.zero_grad()
        (losses * weights[rows]).mean().backward()
        optimizer.step()
    for name, own in side_by_side.weights(lane).items():
        torch.testing.assert_close(own, plain.state_dict()[name], rtol=1e-4, atol=1e-5)
    for name, own in side_by_side.weights(other).items():
        assert torch.equal(own, alone.weights(apart)[name])


def test_the_first_step_of_a_stage_is_along_the_residuals() -> None:
    """Friedman's pseudo-residuals: classes as 0 and 1, less the probabilities so far."""
    before, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    added = torch.zeros(6, 3, requires_grad=True)
    functional.cross_entropy(before + added, target, reduction="sum").backward()
    assert added.grad is not None
    residuals = functional.one_hot(target, 3) - before.softmax(1)
    torch.testing.assert_close(-added.grad, residuals)


@pytest.mark.parametrize("source", ["wine", "diabetes"])
def test_stages_add_up_from_the_best_constant(table: dict[str, Dataset], source: str) -> None:
    part = part_of(table[source], {**GRADIENT, "shrinkage": 0.3}, {"epochs": 6})
    members = boosting.Gradient(part, None)
    (first,) = members.lanes
    split = part.split
    if source == "wine":
        counts = np.bincount(split.target[split.train], minlength=3) + 1
        start = torch.tensor(np.log(counts / counts.sum()))
    else:
        start = torch.zeros(1, dtype=torch.float64)
    assert first.offset is not None
    torch.testing.assert_close(first.offset.double(), start.expand(len(split.target), -1))
    _, team = trained(members, epochs=2)  # its end
    (second,) = members.lanes
    assert second is not first
    assert second.options["epochs"] == 2
    assert second.offset is not None
    first.model.load_state_dict(team.weights(first))
    with torch.no_grad():
        inputs, _ = split.batch(split.train)
        expected = first.offset[split.train] + 0.3 * first.model.eval()(inputs)
    torch.testing.assert_close(second.offset[split.train], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(second.offset[split.validation], first.offset[split.validation])


def test_votes_and_weights_are_those_of_samme(digits: Dataset) -> None:
    """Against scikit-learn's, whose classifiers are asked what they get wrong."""
    inputs = digits.inputs[digits.train].flatten(1).numpy()
    target = digits.target[digits.train].numpy()
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    reference = AdaBoostClassifier(tree, n_estimators=4, random_state=0).fit(inputs, target)
    weights = torch.ones(len(target), dtype=torch.float64)
    votes = []
    for place, classifier in enumerate(reference.estimators_):
        wrong = torch.from_numpy(classifier.predict(inputs) != target)
        error = float(weights[wrong].sum() / weights.sum())
        assert error == pytest.approx(reference.estimator_errors_[place], rel=1e-6)
        votes.append(boosting.alpha(wrong, weights, 10))
        assert votes[-1] == pytest.approx(reference.estimator_weights_[place], rel=1e-6)
        weights = boosting.reweighted(weights, wrong, votes[-1])
        assert float(weights.mean()) == pytest.approx(1)
    rows = digits.inputs[digits.validation].flatten(1).numpy()
    said: list[Any] = []
    for classifier in reference.estimators_:
        logits = torch.from_numpy(classifier.predict_proba(rows))
        said.append(Scores(logits, torch.zeros(len(rows), dtype=torch.int64)))
    together: Any = ensembles.combined(said, "weighted_vote", {"weights": votes})
    assert np.array_equal(together.logits.argmax(1).numpy(), reference.predict(rows))


def test_a_classifier_no_better_than_chance_has_no_vote() -> None:
    weights = torch.ones(100)
    wrong = torch.arange(100) < 90
    assert boosting.alpha(wrong, weights, 10) == pytest.approx(0, abs=1e-6)
    assert boosting.alpha(torch.arange(100) < 95, weights, 10) == 0
    assert np.isfinite(boosting.alpha(torch.zeros(100, dtype=torch.bool), weights, 10))


# -- what members say together, and how they differ


def scores(count: int, seed: int = 0) -> list[Scores]:
    random = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (50,), generator=random)
    return [Scores(torch.randn(50, 3, generator=random), target) for _ in range(count)]


def test_combinations_are_what_they_are_called() -> None:
    said = scores(4)
    shares = torch.stack([one.logits.softmax(1) for one in said])
    together: Any = ensembles.combined(said, "mean")
    torch.testing.assert_close(together.probabilities, shares.mean(0))
    together = ensembles.combined(said, "logits")
    torch.testing.assert_close(together.logits, torch.stack([s.logits for s in said]).mean(0))
    weights = [0.5, 0.3, 0.2, 0.0]
    together = ensembles.combined(said, "weighted", {"weights": weights})
    mean = torch.tensordot(torch.tensor(weights), shares, 1)
    torch.testing.assert_close(together.probabilities, mean)
    together = ensembles.combined(said, "vote")
    named = np.stack([one.logits.argmax(1).numpy() for one in said])
    counts = np.stack([(named == c).sum(0) for c in range(3)], 1)
    expected = torch.from_numpy((counts + 1 / 3) / 5).float()
    torch.testing.assert_close(together.probabilities, expected)
    assert metrics.measure(together)["loss"] < 10
    sure = [Scores(torch.tensor([[500.0, -500.0]]), torch.tensor([1]))] * 2
    assert np.isfinite(metrics.measure(ensembles.combined(sure, "mean"))["loss"])
    values = [Estimates(torch.tensor([v, 1.0]), torch.tensor([1.0, 2.0]), 2.0) for v in (1, 2, 9)]
    for how, expected_value in (("mean", 4.0), ("logits", 4.0), ("vote", 2.0)):
        combined: Any = ensembles.combined(values, how)
        torch.testing.assert_close(combined.output, torch.tensor([expected_value, 1.0]))


def test_the_best_member_is_judged_by_rows_that_it_was_not_chosen_by() -> None:
    # The first is best on even rows, the second on odd ones: each is judged where it is worse.
    losses = torch.tensor([[0.0, 3.0, 0.0, 5.0], [2.0, 1.0, 6.0, 1.0], [9.0] * 4])
    assert judging.best_loss(losses) == pytest.approx((3 + 5 + 2 + 6) / 4)
    said = scores(200)  # that know nothing: the best of many is none the better for it
    loss = judging.best_loss(judging.row_losses(said))
    means = [metrics.measure(one)["loss"] for one in said]
    assert loss > min(means) + 0.1
    rows = judging.row_losses(said[:2]).mean(1).tolist()
    assert rows == pytest.approx(means[:2])


# -- costs


def test_costs_are_those_of_all_members(run: Any) -> None:
    sizes = {"hidden": [64, 64]}
    for ensemble, count in (({}, 1), (BAGGING, 5), ({**STACKING, "size": 3}, 6), (SNAPSHOT, 3)):
        costs = ["cost/inference_ms", "cost/parameters"]
        trial = run(*DIGITS, sizes, {"epochs": 3, "metrics": costs}, ensemble)
        own = 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
        assert trial.last["cost/parameters"] == count * own
        assert 0.01 < trial.last["cost/inference_ms"] / count < 100
    assert trial.epochs[1]["cost/parameters"] == own  # of the first cycle


# -- mistakes


def test_what_cannot_be_is_said_before_there_is_a_study(run: Any) -> None:
    with pytest.raises(DataError, match="samme is for classification"):
        run("tabular", {"source": "diabetes"}, {}, {}, SAMME)
    with pytest.raises(DataError, match="is for tables"):
        run(*DIGITS, {}, {}, {**BAGGING, "feature_fraction": 0.5})
    embedding = {"members": [{"name": "embedding_mlp"}]}
    with pytest.raises(DataError, match="embedding_mlp has no weights of a column"):
        run(
            "tabular",
            {"source": "wine"},
            {},
            {},
            {**BAGGING, **embedding, "feature_fraction": 0.5},
        )
    with pytest.raises(DataError, match="nosuchnet") as raised:
        run(*DIGITS, {}, {}, {**BAGGING, "members": [{"name": "nosuchnet"}]})
    assert raised.value.key == "ensemble.members"
