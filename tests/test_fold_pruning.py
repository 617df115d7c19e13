"""Pruning fold against fold: what counts is how a trial does on the same folds as the best one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy.stats import wilcoxon
from workbench import Workbench

from hpo.fold_pruning import FoldWilcoxon, p_value
from hpo.history import History

FOLDS = np.array([0.30, 0.90, 0.10, 0.60, 0.45, 0.75])  # of losses: some folds are hard


def history(*trials: dict[int, Any], maximize: bool = False) -> History:
    """Trials of `epoch → losses of each fold`; all but the last one are complete."""
    sign = -1 if maximize else 1
    made = History(["val/loss"], maximize)
    for number, epochs in enumerate(trials):
        about = {"time_ms": 0, "number": number}
        made.add({"kind": "trial", "params": {}, "attempt": 1, "crashes": 0, **about})
        for epoch, losses in epochs.items():
            metrics = {f"fold/{n}/val/loss": sign * loss for n, loss in enumerate(losses, 1)}
            metrics |= {"val/loss": sign * sum(losses) / 6, "fold/1/val/other": 9.0}
            made.add({"kind": "epoch", "epoch": epoch, "seconds": 1, "metrics": metrics, **about})
        if number < len(trials) - 1:
            best = made.trials[number].best_epoch(maximize)
            assert best is not None
            value = made.trials[number].values[best]
            end = {"state": "complete", "values": list(value), "best_epoch": best}
            made.add({"kind": "end", **end, **about})
    return made


def pruned(of: History, epoch: int, **options: Any) -> bool:
    """Whether the last trial is to end at `epoch`."""
    study = optuna.create_study(direction="maximize" if of.maximize else "minimize")
    trial = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        intermediate_values={e: v[0] for e, v in of.trials[max(of.trials)].values.items()},
    )
    trial.number = max(of.trials)
    assert trial.last_step == epoch
    return FoldWilcoxon(of, **options).prune(study, trial)


@pytest.mark.parametrize("maximize", [False, True])
def test_what_is_worse_on_each_fold_is_pruned_however_much_folds_differ(maximize: bool) -> None:
    """0.01 in the mean is nothing against the 0.28 between folds; in each fold it is."""
    assert pruned(history({1: FOLDS}, {1: FOLDS + 0.01}, maximize=maximize), 1)
    assert not pruned(history({1: FOLDS}, {1: FOLDS}, maximize=maximize), 1)
    assert not pruned(history({1: FOLDS}, {1: FOLDS - 0.01}, maximize=maximize), 1)
    mixed = FOLDS + [0.3, -0.01, -0.02, 0.03, -0.04, -0.05]  # worse in the mean, by one fold
    assert not pruned(history({1: FOLDS}, {1: mixed}, maximize=maximize), 1)


def test_the_threshold_is_that_of_the_p_value() -> None:
    five = FOLDS[:5]
    assert pruned(history({1: five}, {1: five + 0.1}), 1, p_threshold=0.04)
    assert not pruned(history({1: five}, {1: five + 0.1}), 1, p_threshold=0.03)  # p = 1/32
    assert not pruned(history({1: five[:4]}, {1: five[:4] + 0.1}), 1)


def test_epochs_are_compared_with_the_same_of_the_best_trial() -> None:
    best = {1: FOLDS + 1, 2: FOLDS, 3: FOLDS - 0.1}
    slow = {1: FOLDS + 1, 2: FOLDS + 1}
    assert not pruned(history(best, {1: FOLDS + 1}), 1)
    assert pruned(history(best, slow), 2)
    assert not pruned(history(best, slow), 2, n_warmup_steps=2)
    assert pruned(history(best, slow), 2, n_warmup_steps=1)
    # The best is the one with the best value, not the one that was first or last.
    assert pruned(history({1: FOLDS + 2}, best, {1: FOLDS + 3}, {1: FOLDS + 1.1}), 1)
    # Longer than the best one: held against its last epoch.
    assert pruned(history({1: FOLDS}, {n: FOLDS + 0.1 for n in range(1, 6)}), 5)


def test_without_folds_or_a_complete_trial_nothing_is_pruned() -> None:
    assert not pruned(history({1: FOLDS + 9}), 1)
    assert not pruned(history({1: []}, {1: FOLDS}), 1)


def test_folds_of_what_is_over_are_forgotten_but_for_the_best() -> None:
    kept = history({1: FOLDS}, {1: FOLDS - 0.2}, {1: FOLDS}, {1: FOLDS})
    assert [len(trial.folds) for trial in kept.trials.values()] == [0, 1, 0, 1]
    assert kept.trials[1].folds[1]["fold/2"] == pytest.approx(0.7)
    assert len(kept.trials[1].folds[1]) == 6  # of the objective alone


def test_p_values_are_scipy_s() -> None:
    random = np.random.default_rng(0)
    for count in (2, 5, 9, 15):
        for digits in (0, 1, 8):  # with many ties and zeros, with some, with none
            found = random.normal(0.3, 1, count).round(digits)
            expected = wilcoxon(found, zero_method="zsplit", alternative="greater").pvalue
            assert p_value(found) == pytest.approx(expected)


TRAINER = """
def train(trial):
    options = trial.params["train"]
    for epoch in range(1, options["epochs"] + 1):
        quality = epoch / 10 - (options["x"] - 0.3) ** 2
        hard = [0.0, 0.5, 0.2, 0.9, 0.4]
        folds = {f"fold/{n}/quality": quality - each for n, each in enumerate(hard, 1)}
        other = {f"fold/{n}/cost": 1.0 for n in range(1, 6)}
        trial.report(epoch, {"quality": quality - 0.4, "cost": 1.0, **folds, **other})
"""


def test_a_study_prunes_by_folds_and_goes_on_so_after_a_stop(bench: Workbench) -> None:
    (bench.folder / "folds.py").write_text(TRAINER)
    options = {
        "trainer": "folds:train",
        "train__epochs": 6,
        "pruner": "wilcoxon",
        "start_from": [{"train.x": 0.3}, {"train.x": 0.5}, {"train.x": 0.31}, {"train.x": 0.29}],
        "lanes": "off",
    }
    bench.run(**options, budget__trials=1)
    bench.run(**options, budget__trials=4)
    ends = [(end["state"], end["reason"], end["last_epoch"]) for end in bench.records("end")]
    assert ends[0] == ("complete", "", 6)
    # A third of the epochs is waited for.
    assert ends[1:] == [("pruned", "wilcoxon at epoch 3", 3)] * 3
    assert any(said.endswith("pruner wilcoxon") for said in bench.said)
    recorded = bench.records("epoch")[0]["metrics"]
    assert sorted(name for name in recorded if name.startswith("fold/")) == [
        f"fold/{n}/quality" for n in range(1, 6)
    ]


@pytest.mark.slow
def test_breast_cancer_in_folds(tmp_path: Path) -> None:
    """A learning rate that learns next to nothing ends early; one like the best does not."""
    bench = Workbench(tmp_path)
    bench.file.write_text(
        "study: s\n"
        "trainer: tabular\n"
        "data: {source: breast_cancer, folds: 5, fold_repeats: 2}\n"
        "train: {epochs: 9}\n"
        "search: {train.lr: {low: 1e-6, high: 0.1, log: true}}\n"
        "start_from: [{train.lr: 4e-3}, {train.lr: 1e-5}, {train.lr: 5e-3}]\n"
        "pruner: wilcoxon\n"
        "lanes: off\n"
        "workers: 1\n"
        "device: cpu\n"
        "executor: inline\n"
    )
    bench.run(budget__trials=1)
    bench.run(budget__trials=3)
    good, bad, alike = bench.records("end")
    assert (good["state"], good["last_epoch"]) == ("complete", 9)
    assert (bad["state"], bad["reason"]) == ("pruned", "wilcoxon at epoch 4")
    assert alike["state"] == "complete"
    metrics = bench.records("epoch")[0]["metrics"]
    folds = [metrics[f"fold/{n}/val/loss"] for n in range(1, 11)]
    assert metrics["val/loss"] == pytest.approx(np.mean(folds))
    assert metrics["fold_std/loss"] == pytest.approx(np.std(folds, ddof=1))
