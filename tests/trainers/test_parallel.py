"""One model over several processes learns what it learns in one, with the same batches."""

from __future__ import annotations

from pathlib import Path

import many_ranks
import numpy as np
import pytest
import torch
from torch import nn

from trainers import loop, team
from trainers.contract import DataError
from trainers.parallel.norms import synchronized
from trainers.parallel.replicated import _places
from trainers.parallel.staged import divided


@pytest.mark.slow
@pytest.mark.parametrize("how", many_ranks.ALIKE)
def test_it_learns_what_it_learns_on_one_device(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "_shape", lambda lane: None)  # in turn, as over several devices
    every = many_ranks.every(how, tmp_path)
    for case, (model, train) in enumerate(many_ranks.ALIKE[how]):
        alone = many_ranks.trial(model, train, str(tmp_path))
        loop.fit(alone)
        assert alone.predictions is not None
        within = 1e-4 if train.get("optimizer") == "lbfgs" else 1e-5  # it adds up what differs
        if train.get("precision") == "bf16":
            within = 1e-2
        for said in every:
            whole, again = said[case]
            for epoch, metrics in alone.epochs.items():
                mine = whole["epochs"][epoch]
                for name in ("train/loss", "val/loss"):
                    assert mine[name] == pytest.approx(metrics[name], rel=within)
                assert mine == pytest.approx(metrics, abs=1e-2)  # some are of the order of rows
            # Every rank measures the same, to the last bit; and goes on as if it never stopped.
            assert whole["epochs"] == every[0][case][0]["epochs"]
            assert again["epochs"] == {e: m for e, m in whole["epochs"].items() if e > 1}
            np.testing.assert_allclose(whole["output"], alone.predictions.output, atol=1e-3)
    lost = {said[-1] for said in every}
    assert len(lost) == 1
    assert "learning rate" in lost.pop()


@pytest.mark.parametrize("batches", [[7, 7, 3], [4, 2], [3, 1]])
def test_each_row_is_learned_by_one_rank(batches: list[int]) -> None:
    places = [_places(batches, rank, 3) for rank in range(3)]
    assert sorted(torch.cat(places).tolist()) == list(range(sum(batches)))
    first = [int((own < batches[0]).sum()) for own in places]
    assert max(first) - min(first) <= 1


def test_a_pipeline_has_stages_of_about_as_many_parameters() -> None:
    layers = [nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 40)]
    model = nn.Sequential(*layers)
    stages = divided(model, 2)
    assert [len(stage) for stage in stages] == [4, 1]
    named = {name for stage in stages for name, _ in stage.named_parameters()}
    assert named == {name for name, _ in model.named_parameters()}
    assert [len(stage) for stage in divided(model, 3)] == [3, 1, 1]


@pytest.mark.parametrize(
    ("model", "key"),
    [(nn.Sequential(nn.Linear(2, 2)), "gpus_per_trial"), (nn.Linear(2, 2), "parallel")],
)
def test_what_cannot_be_divided_is_refused(model: nn.Module, key: str) -> None:
    with pytest.raises(DataError) as refused:
        divided(model, 2)
    assert refused.value.key == key


def test_a_batch_norm_that_does_more_is_refused() -> None:
    class WithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(DataError, match="WithActivation"):
        synchronized(nn.Sequential(WithActivation(2)), torch.device("cpu"))
