"""Products and sums of each lane, the same to the last bit whatever the number of lanes."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SUMMED = 256  # numbers of a long row that are added up at a time, on a GPU


def product(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """(k, n, m) × (k, m, p) → (k, n, p), plus (k, n, 1)."""
    if _on_gpu(a):
        from trainers.lanes import gpu_products

        return gpu_products.product(a, b, plus)
    if len(a) == 1 and 1 in (*a.shape[1:], b.shape[2]):
        # Of one lane this would be a product with a vector, which is summed up in another order.
        twice = product(a.expand(2, -1, -1), b.expand(2, -1, -1), plus)
        return twice[:1]
    return torch.bmm(a, b) if plus is None else torch.baddbmm(plus, a, b)


def total(numbers: Tensor) -> Tensor:
    """(k, n, m) → (k, n), the sums over the last dimension."""
    if not _on_gpu(numbers):
        return numbers.sum(2)
    from trainers.lanes import gpu_products

    return gpu_products.summed(numbers)


def lengths(rows: Tensor) -> Tensor:
    """(k, n) → (k,), the Euclidean norm of each lane's row."""
    if not _on_gpu(rows):
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
        return norms
    # In parts: one block of the GPU would add up a lane's row for long.
    squares = functional.pad(rows.square(), (0, -rows.shape[1] % SUMMED))
    parts = total(squares.view(len(rows), -1, SUMMED))
    return total(parts.unsqueeze(1)).squeeze(1).sqrt()


def notes(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """See `trainers.contract.Epoch.notes`."""
    if device.type != "cuda" or dtype != torch.float32 or (why := missing(device)) is None:
        return {}
    return {"products": f"PyTorch's; last digits may differ between stacks. No Triton: {why}"}


@cache
def missing(device: torch.device) -> str | None:
    """Why Triton makes no kernel for `device`; None: it has made one.

    It is tried: Triton may not be installed, and builds what starts its kernels with a C compiler.
    """
    some = torch.ones((2, 64, 64), device=device)
    try:
        from trainers.lanes import gpu_products

        gpu_products.product(some, some)
    except Exception as error:  # whatever is missing; there is no class for all of it
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _on_gpu(numbers: Tensor) -> bool:
    """Whether PyTorch's own may differ (docs/decisions/0032), and there is one that does not."""
    on_gpu = numbers.is_cuda and numbers.dtype == torch.float32
    return on_gpu and missing(numbers.device) is None
