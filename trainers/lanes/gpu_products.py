"""Products of many lanes on a GPU, each the same to the last bit whatever the number of lanes.

cuBLAS chooses its kernel by the number of products, too, and another kernel sums up in another
order (docs/decisions/0032). Here the shape of a lane's product alone decides. The kernel is that
of Triton's tutorial on matrix multiplication, for a batch of matrices.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST, MOST = 16, 64  # rows and columns that a block computes
DEPTH = 32  # of both factors that it reads at a time


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]
    a, b, plus, out, rows, columns, depth,
    a_lane, a_row, a_column, b_lane, b_row, b_column, plus_lane, plus_row,
    ADDS: tl.constexpr, TF32: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * HIGH + tl.arange(0, HIGH)
    column = tl.program_id(2) * WIDE + tl.arange(0, WIDE)
    lane = tl.program_id(0).to(tl.int64)
    found = tl.zeros((HIGH, WIDE), tl.float32)
    for start in range(0, depth, DEEP):
        place = start + tl.arange(0, DEEP)
        left = tl.load(
            a + lane * a_lane + row[:, None] * a_row + place[None, :] * a_column,
            mask=(row[:, None] < rows) & (place[None, :] < depth),
            other=0.0,
        )
        right = tl.load(
            b + lane * b_lane + place[:, None] * b_row + column[None, :] * b_column,
            mask=(place[:, None] < depth) & (column[None, :] < columns),
            other=0.0,
        )
        found = tl.dot(left, right, found, input_precision="tf32" if TF32 else "ieee")
    if ADDS:
        found += tl.load(plus + lane * plus_lane + row * plus_row, mask=row < rows, other=0.0)[
            :, None
        ]
    tl.store(
        out + lane * rows * columns + row[:, None] * columns + column[None, :],
        found,
        mask=(row[:, None] < rows) & (column[None, :] < columns),
    )


def product(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """Of each lane, in float32, or TensorFloat-32 where PyTorch's own products are in it.

    Args:
        a: (k, rows, depth), on a GPU.
        b: (k, depth, columns).
        plus: (k, rows, 1), added; None: nothing.

    Returns:
        (k, rows, columns)
    """
    return _product(a, b, plus, torch.backends.cuda.matmul.allow_tf32)


def summed(numbers: Tensor) -> Tensor:
    """(…, n) float32 numbers on a GPU → (…), in float32."""
    rows = numbers.reshape(-1, 1, numbers.shape[-1])
    ones = rows.new_ones((1, rows.shape[2], 1)).expand(len(rows), -1, -1)
    return _product(rows, ones, None, tf32=False).view(numbers.shape[:-1])


def _product(a: Tensor, b: Tensor, plus: Tensor | None, tf32: bool) -> Tensor:
    (lanes, rows, depth), columns = a.shape, b.shape[2]
    out = a.new_empty((lanes, rows, columns))
    high, wide = (min(MOST, max(LEAST, triton.next_power_of_2(n))) for n in (rows, columns))
    more = a if plus is None else plus
    _kernel[lanes, triton.cdiv(rows, high), triton.cdiv(columns, wide)](
        a, b, more, out, rows, columns, depth,
        *a.stride(), *b.stride(), more.stride(0), more.stride(1),
        plus is not None, tf32, high, wide, DEPTH,
    )  # fmt: skip
    return out
