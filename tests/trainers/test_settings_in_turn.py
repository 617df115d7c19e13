"""What is trained in turn, and what a plateau does, in whole trials."""

from __future__ import annotations

from typing import Any

import pytest

from trainers.contract import DataError

WINE = ("tabular", {"source": "wine"}, {"hidden": [8]})


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "plateau", "gamma": 0.5, "plateau": {"patience": 0}, "lr": 0.3},
        {"swa": 0.4},
        {"batch_growth": {"epochs": [2], "factor": 2}, "schedule": "one_cycle"},
        {"optimizer": "muon", "decay_on": "weights", "weight_decay": 0.1},
        {"optimizer": "lbfgs", "batch_size": 200, "l1": 0.001, "lr": 0.5},
        {"optimizer": "nadam", "warmup": 1.5},
    ],
)
def test_a_resumed_trial_is_one_that_was_not_interrupted(run: Any, settings: Any) -> None:
    train = {"epochs": 5, **settings}
    whole = run(*WINE, train)
    first = run(*WINE, train, stop_after=2)
    resumed = run(*WINE, train, saved=first.saved)
    assert max(resumed.epochs) == 5
    assert resumed.last["val/loss"] == whole.last["val/loss"]


def test_lbfgs_needs_a_batch_of_all_rows(run: Any) -> None:
    with pytest.raises(DataError, match="lbfgs learns from all 106 rows at once") as refused:
        run(*WINE, {"optimizer": "lbfgs"})
    assert refused.value.key == "train.batch_size"


def test_batches_must_not_outgrow_the_rows(run: Any) -> None:
    with pytest.raises(DataError, match="batches grow to 128; at most 106"):
        run(*WINE, {"epochs": 3, "batch_growth": {"epochs": [2], "factor": 4}})


@pytest.mark.parametrize("way", [{}, {"batch_growth": {"epochs": [9]}}], ids=["lane", "in_turn"])
def test_swa_is_what_is_validated(run: Any, way: dict[str, Any]) -> None:
    """From epoch 3 of 4 on; before, and of a single epoch, it is the model itself."""
    plain = run(*WINE, {"epochs": 4, **way})
    averaged = run(*WINE, {"epochs": 4, "swa": 0.5, **way})
    losses = [[said["val/loss"] for said in of.epochs.values()] for of in (plain, averaged)]
    assert losses[0][:3] == losses[1][:3]
    assert losses[0][3] != losses[1][3]


def test_lbfgs_learns_convolutions(run: Any, image_folder: Any) -> None:
    """Their gradients lie with the channels last, and torch's L-BFGS takes them for vectors."""
    train = {"optimizer": "lbfgs", "batch_size": 100, "lr": 1.0, "epochs": 2}
    trial = run("image_classifier", {"source": str(image_folder())}, {"name": "cnn"}, train)
    assert trial.last["train/loss"] < trial.epochs[1]["train/loss"]
