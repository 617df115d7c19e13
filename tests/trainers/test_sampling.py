"""Balanced sampling: classes come alike, from training rows only, by the lane's own seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recording_trial import sections

from trainers.contract import DataError
from trainers.data import load
from trainers.ensembles.members import Part
from trainers.in_turn import InTurn
from trainers.lanes import Stack
from trainers.sampling import Balanced
from trainers.seeds import generator


@pytest.fixture
def uneven(tmp_path: Any) -> dict[str, Any]:
    """1,000 rows, 4 % of which are of the second class, and hard to tell from the first."""
    random = np.random.default_rng(0)
    y = (np.arange(1000) % 25 == 0).astype(int)
    frame = pd.DataFrame(random.normal(size=(1000, 4)) + 0.8 * y[:, None])
    frame["y"] = np.where(y, "rare", "usual")
    frame.to_csv(tmp_path / "uneven.csv", index=False)
    return {"source": str(tmp_path / "uneven.csv"), "target": "y"}


def test_classes_come_alike_and_rows_of_a_class_too() -> None:
    target = torch.tensor([0] * 70 + [2] * 20 + [3] * 10)  # there is no row of class 1
    train = torch.arange(0, 100, 2)
    balanced, random = Balanced(train, target), generator(1)
    drawn = torch.cat([balanced.draw(random) for _ in range(400)])
    assert len(drawn) == 400 * 50
    assert set(drawn.tolist()) == set(train.tolist())
    shares = torch.bincount(target[drawn]) / len(drawn)
    assert shares.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.015)
    of_last = torch.bincount(drawn)[90::2].double()
    assert (of_last / of_last.mean()).tolist() == pytest.approx([1] * 5, abs=0.08)


def test_both_engines_draw_alike_by_seed_and_epoch(uneven: dict[str, Any]) -> None:
    params = sections("tabular", uneven, {"hidden": [4]}, {"sampling": "balanced"})
    part = Part(params, load(params["data"], Path()), 0, seed=3)
    seen = [
        [engine.train()[0].predicted.target.flatten() for _ in range(2)]
        for engine in (InTurn([part.lane(0)]), Stack([part.lane(0)]), InTurn([part.lane(1)]))
    ]
    assert all(torch.equal(*both) for both in zip(seen[0], seen[1], strict=True))
    assert not torch.equal(*seen[0])
    assert not torch.equal(seen[0][0], seen[2][0])
    assert seen[0][0].double().mean() == pytest.approx(0.5, abs=0.1)


def test_rare_classes_are_found(run: Any, uneven: dict[str, Any]) -> None:
    model, train = {"hidden": [8]}, {"epochs": 10, "lr": 0.01}
    plain = run("tabular", uneven, model, train).last
    balanced = run("tabular", uneven, model, {**train, "sampling": "balanced"}).last
    assert balanced["val/f1_macro"] > plain["val/f1_macro"] + 0.05


def test_resumed_it_draws_as_if_nothing_had_been(run: Any, uneven: dict[str, Any]) -> None:
    kind = ("tabular", uneven, {"dropout": 0.1}, {"epochs": 4, "sampling": "balanced"})
    whole = run(*kind)
    first = run(*kind, stop_after=2)
    assert {**first.epochs, **run(*kind, saved=first.saved).epochs} == whole.epochs
    assert run(*kind, seed=1).epochs != whole.epochs


def test_values_have_no_classes_to_balance(run: Any) -> None:
    with pytest.raises(DataError, match="this is a regression") as caught:
        run("tabular", {"source": "diabetes"}, {}, {"sampling": "balanced"})
    assert caught.value.key == "train.sampling"
