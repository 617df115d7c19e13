"""What lanes use on a GPU, where it cannot be had: CUDA graphs, and kernels by Triton."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from trainers.lanes.captured import AFTER, Graphs
from trainers.lanes.exact import missing, notes


@dataclass(frozen=True)
class Given:
    some: Tensor
    more: Tensor | None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there a step is captured")
def test_after_a_capture_that_failed_steps_go_on_and_nothing_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Graphs, "possible", True)
    given = Given(torch.arange(12.0).view(3, 4)[:, :2], None)
    strides: list[tuple[int, ...]] = []

    def step(own: Given) -> Tensor:
        strides.append(own.some.stride())
        return own.some.sum()

    graphs: Graphs[Given] = Graphs()
    assert [float(graphs.run("a step", given, step)) for _ in range(AFTER + 2)] == [27] * 6
    # At first as it would be captured, so that what it needs is there; then as it is.
    assert strides == [(2, 1)] * AFTER + [(4, 1)] * 2
    assert not Graphs.possible
    other: Graphs[Given] = Graphs()
    other.run("a step", given, step)
    assert strides[-1] == (4, 1)  # no preparing for what is not to come


def test_that_triton_makes_no_kernel_is_found_out_and_said_of_gpus_only() -> None:
    cpu = torch.device("cpu")
    assert missing(cpu) is not None  # for a CPU it makes none, installed or not
    assert notes(cpu, torch.float32) == {}
