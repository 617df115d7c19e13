"""The products for GPUs, by Triton's interpreter: what they are, not how fast."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("triton")  # PyTorch brings it where it knows GPUs

# In a process of its own: Triton looks at the variable when it is imported.
PROGRAM = """
import torch
from trainers.lanes.exact import missing
from trainers.lanes.gpu_products import product, summed

assert missing(torch.device("cpu")) is None
random = torch.Generator().manual_seed(0)
for rows, depth, columns in ((10, 70, 33), (1, 5, 1), (65, 32, 17)):
    a = torch.randn((3, depth, rows), generator=random).mT
    b = torch.randn((3, columns, depth), generator=random).mT
    plus = torch.randn((3, rows), generator=random).unsqueeze(2)
    torch.testing.assert_close(product(a, b), a @ b)
    torch.testing.assert_close(product(a, b, plus), a @ b + plus)
    assert torch.equal(product(a[1:2], b[1:2]), product(a, b)[1:2])
numbers = torch.randn((3, 4, 500), generator=random)
torch.testing.assert_close(summed(numbers), numbers.sum(2))
"""


def test_products_and_sums_are_pytorch_s_whatever_the_strides() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
