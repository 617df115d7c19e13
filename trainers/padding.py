"""With how many rows a step is computed, so that lanes of several batch sizes share a stack.

Imports no torch: what can be stacked is asked before a model is built.
"""

from __future__ import annotations

FEWEST, MOST = 8, 128


def padded(batch_size: int) -> int:
    """The next power of two, at least 8; above 128 the batch itself, as there each row costs."""
    if batch_size > MOST:
        return batch_size
    return max(FEWEST, 1 << (batch_size - 1).bit_length())
