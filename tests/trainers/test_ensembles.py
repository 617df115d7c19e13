"""Ensembles within a trial: bagging and snapshots."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from recording_trial import RecordingTrial, sections
from scipy import stats

from trainers import ensembles, metrics
from trainers.data import Dataset, load
from trainers.lanes import Stack
from trainers.loop import fit
from trainers.metrics import Estimates, Scores

DIGITS = ("image_classifier", {"source": "digits"})
BAGGING = {"method": "bagging", "size": 5}
SNAPSHOT = {"method": "snapshot", "size": 3}
FAST = {"epochs": 6, "optimizer": "sgd", "lr": 0.05}


@pytest.mark.parametrize("ensemble", [BAGGING, SNAPSHOT], ids=lambda e: e["method"])
def test_an_ensemble_is_better_than_its_members(run: Any, ensemble: dict[str, Any]) -> None:
    last = run(*DIGITS, {"hidden": [16]}, FAST, ensemble).last
    assert last["val/loss"] < last["member/loss"]
    assert last["val/accuracy"] >= last["member/accuracy"] - 0.01
    assert 0 < last["member/disagreement"] < 0.5


def test_a_trial_without_an_ensemble_says_nothing_of_members(run: Any) -> None:
    trial = run(*DIGITS, {"hidden": [16]}, {"epochs": 1})
    assert list(trial.last) == trial.data.summary["metrics"]


@pytest.mark.parametrize("combine", ["mean", "logits", "vote"])
@pytest.mark.parametrize("source", ["wine", "diabetes"])
@pytest.mark.parametrize("ensemble", [BAGGING, SNAPSHOT], ids=lambda e: e["method"])
def test_predictions_give_the_metrics(
    run: Any, source: str, combine: str, ensemble: dict[str, Any]
) -> None:
    train = {"epochs": 4, "lr": 0.01, "batch_size": 16}
    data = {"source": source, "folds": 3}
    trial = run("tabular", data, {"hidden": [8]}, train, {**ensemble, "combine": combine})
    said = trial.predictions
    if source == "wine":
        np.testing.assert_allclose(said.output.sum(1), 1, atol=1e-5)
        by_fold = []
        ids = list(said.ids)
        for split in trial.data.splits:
            rows = [ids.index(i) for i in trial.data.ids[split.validation].tolist()]
            by_fold.append((said.output[rows].argmax(1) == said.target[rows]).mean())
        assert trial.last["val/accuracy"] == pytest.approx(np.mean(by_fold), abs=1e-9)
    else:
        assert np.isfinite(said.output).all()
        assert trial.last["val/mse"] < np.var(said.target)


@pytest.mark.parametrize("ensemble", [BAGGING, SNAPSHOT], ids=lambda e: e["method"])
def test_resumed_it_goes_on_as_if_nothing_had_been(run: Any, ensemble: dict[str, Any]) -> None:
    whole = run(*DIGITS, {"hidden": [8], "dropout": 0.1}, FAST, ensemble)
    for stop in (1, 3, 5):
        first = run(*DIGITS, {"hidden": [8], "dropout": 0.1}, FAST, ensemble, stop_after=stop)
        rest = run(*DIGITS, {"hidden": [8], "dropout": 0.1}, FAST, ensemble, saved=first.saved)
        assert {**first.epochs, **rest.epochs} == whole.epochs


def test_an_ensemble_of_models_that_cannot_be_stacked(run: Any) -> None:
    model = {"name": "cnn", "channels": [8, 8]}
    last = run(*DIGITS, model, {**FAST, "epochs": 2}, {**BAGGING, "size": 2}).last
    assert last["val/loss"] < last["member/loss"]


@pytest.mark.parametrize(("replacement", "fraction"), [(True, 1.0), (True, 0.5), (False, 0.7)])
def test_members_draw_their_own_rows_of_the_training_rows(
    digits: Dataset, replacement: bool, fraction: float
) -> None:
    ensemble = {"bootstrap_fraction": fraction, "replacement": replacement}
    split = digits.splits[0]
    drawn = [ensembles.bootstrap(split, ensemble, (7, 0, m)).train for m in range(4)]
    allowed = set(split.train.tolist())
    for rows in drawn:
        assert len(rows) == round(fraction * len(split.train))
        assert set(rows.tolist()) <= allowed
        assert (len(set(rows.tolist())) == len(rows)) != replacement
    assert all(not torch.equal(a, b) for a, b in combinations(drawn, 2))
    again = ensembles.bootstrap(split, ensemble, (7, 0, 2)).train
    assert torch.equal(drawn[2], again)
    if replacement and fraction == 1.0:  # 1 - 1/e of the rows, see Breiman
        share = np.mean([len(set(rows.tolist())) / len(allowed) for rows in drawn])
        assert share == pytest.approx(1 - 1 / np.e, abs=0.02)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load(sections(*DIGITS)["data"], tmp_path_factory.mktemp("cache"))


def test_shuffled_labels_give_chance(digits: Dataset) -> None:
    """Whatever the method: nothing is fitted to the validation rows."""
    random = np.random.default_rng(0)
    shuffled = torch.from_numpy(random.permutation(digits.target.numpy()))
    split = replace(digits.splits[0], target=shuffled)
    data = replace(digits, splits=(split,), _elsewhere={})
    chance = max(np.bincount(shuffled[split.validation].numpy())) / len(split.validation)
    rows = len(split.validation)
    for ensemble in (BAGGING, SNAPSHOT):
        for combine in ("mean", "logits", "vote"):
            params = sections(*DIGITS, {"hidden": [32]}, FAST, {**ensemble, "combine": combine})
            trial = RecordingTrial(params, data, seed=1)
            fit(trial)
            for said in trial.epochs.values():
                right = round(said["val/accuracy"] * rows)
                assert stats.binomtest(right, rows, 0.1, alternative="greater").pvalue > 0.001
            assert said["val/accuracy"] < chance + 0.06


def scores(count: int, seed: int = 0) -> list[Scores]:
    random = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (50,), generator=random)
    return [Scores(torch.randn(50, 3, generator=random), target) for _ in range(count)]


def test_combinations_are_what_they_are_called() -> None:
    said = scores(4)
    mean = torch.stack([one.logits.softmax(1) for one in said]).mean(0)
    together: Any = ensembles.combined(said, "mean")
    torch.testing.assert_close(together.probabilities, mean)
    together = ensembles.combined(said, "logits")
    torch.testing.assert_close(together.logits, torch.stack([s.logits for s in said]).mean(0))
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
        assert combined.output.tolist() == [expected_value, 1.0]


def test_disagreement_is_the_mean_over_pairs() -> None:
    said = scores(6)
    named = [one.logits.argmax(1) for one in said]
    pairs = [float((a != b).double().mean()) for a, b in combinations(named, 2)]
    assert ensembles.disagreement(said) == pytest.approx(np.mean(pairs))
    values = [Estimates(torch.randn(9), torch.zeros(9), 2.0) for _ in range(4)]
    squares = [float((a.output - b.output).square().mean()) for a, b in combinations(values, 2)]
    expected = np.sqrt(np.mean(squares)) / 2
    assert ensembles.disagreement(values) == pytest.approx(expected, rel=1e-5)
    assert ensembles.disagreement(said[:1]) == 0.0


@pytest.mark.parametrize(("size", "epochs"), [(3, 6), (3, 7), (5, 4), (2, 2)])
def test_cycles_end_with_small_steps_and_a_member(size: int, epochs: int) -> None:
    ensemble = {"method": "snapshot", "size": size}
    ends = [e for e in range(1, epochs + 1) if ensembles.ends_a_cycle(ensemble, e, epochs)]
    assert len(ends) == min(size, epochs)
    assert ends[-1] == epochs
    factor = ensembles.schedule(ensemble, {"epochs": epochs, "schedule": "constant"})
    assert factor(0.0) == 1.0
    assert factor(1 - 1e-6) < 0.01
    falls = [factor(step / 1000) for step in range(1000)]
    rises = sum(b > a for a, b in zip(falls, falls[1:], strict=False))
    assert rises == min(size, epochs) - 1


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
