"""Real want of memory: a process that may not have more is refused it by the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="limits a process as Linux does"),
]

# The hidden layer puts out 64 MiB of a batch. Both teams are there, and have trained, before the
# limit is set: what is refused then is what a step takes. A stack still has the 64 MiB of the last
# step then, so that it needs only one more; in turn all of it is taken anew.
PROGRAM = """
import resource
import sys
from pathlib import Path

import torch
from torch import nn

from trainers.data import Split
from trainers.in_turn import InTurn
from trainers.lanes import Lane, Stack
from trainers.options import ImageTrain
from trainers.schedules import made

torch.set_num_threads(1)
MIB, HIDDEN = 2**20, 8192
kind, lanes, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random = torch.Generator().manual_seed(0)
inputs = torch.randn((batch + 8, 16), generator=random)
target = torch.randint(3, (batch + 8,), generator=random)
split = Split(inputs, target, torch.arange(batch), torch.arange(batch, batch + 8))


def team():
    options = ImageTrain(epochs=4, batch_size=batch, optimizer="sgd", lr=0.1)
    options = options.model_dump(mode="json")
    every = []
    for number in range(lanes):
        torch.manual_seed(number)
        model = nn.Sequential(nn.Linear(16, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3))
        every.append(Lane(model, split, options, made(options), (number,)))
    return {"in_turn": InTurn, "lanes": Stack}[kind](every)


whole, short = team(), team()
for _ in range(2):
    whole.train()
short.train()
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[4]) * MIB
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
short.train()
exact = True
for ours, theirs in zip(short.lanes, whole.lanes, strict=True):
    theirs = whole.weights(theirs)
    for name, own in short.weights(ours).items():
        exact = exact and torch.equal(own, theirs[name])
        torch.testing.assert_close(own, theirs[name], rtol=1e-5, atol=1e-6)
print(exact, getattr(short, "_most", 0) < lanes, short.notes(short.lanes[0]).get("micro_batch"))
"""


def said(kind: str, lanes: int, batch: int, spare_mib: int) -> str:
    """Whether weights are the same to the last bit as without a limit, whether a stack was
    divided, and what is noted."""
    arguments = [kind, *map(str, (lanes, batch, spare_mib))]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_row_13_a_batch_that_does_not_fit_is_learned_from_in_parts() -> None:
    note = "memory was short: 1024 of the 2048 rows of a batch at once"
    assert said("in_turn", 1, 2048, 150).endswith(note)
    assert said("in_turn", 1, 2048, 1000).endswith("None")  # with more it is not in parts


def test_row_13_a_stack_that_does_not_fit_is_divided_and_stays_the_same() -> None:
    assert said("lanes", 4, 512, 60) == "True True None"
    assert said("lanes", 4, 512, 1000) == "True False None"
