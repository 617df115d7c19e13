"""Memory that is too short for a batch: the trial goes on, and its record says how."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from workbench import Workbench

from trainers import memory

STUDY = """
study: s
trainer: tabular
data: {source: breast_cancer}
model: {hidden: [8]}
train: {epochs: 2, batch_size: 64, precision: bf16}
search: {train.lr: {low: 0.001, high: 0.01}}
objective: {metric: val/accuracy, goal: maximize}
sampler: random
executor: inline
workers: 1
device: cpu
budget: {trials: 2}
"""


@pytest.fixture
def at_most_20_rows() -> Iterator[None]:
    def short(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.Linear) and module.training and len(inputs[0]) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = nn.modules.module.register_module_forward_pre_hook(short)
    memory._known.clear()
    yield
    hook.remove()
    memory._known.clear()


def test_a_trial_for_which_memory_is_short_goes_on_and_says_so(
    bench: Workbench, at_most_20_rows: None
) -> None:
    bench.file.write_text(STUDY)
    bench.run()
    assert [end["state"] for end in bench.records("end")] == ["complete", "complete"]
    note = "memory was short: 16 of the 64 rows of a batch at once"
    noted = {(r["number"], r["epoch"]): r.get("notes") for r in bench.records("epoch")}
    said = {"micro_batch": note}
    assert noted == {(0, 1): said, (0, 2): None, (1, 1): said, (1, 2): None}
    assert f"trial 0: {note}" in bench.said
