"""Random generators of a trial: each purpose has its own seed, made of numbers.

So a trial that is resumed after any epoch goes on exactly as if it had not been interrupted.
"""

from __future__ import annotations

import numpy as np
import torch


def mixed(*numbers: int) -> int:
    """A seed in [0, 2**32) made of `numbers`, each at least 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU, seeded with `numbers`."""
    return torch.Generator().manual_seed(mixed(*numbers))


def seed_everything(*numbers: int) -> None:
    """Seed torch's own generators, from which weights, order and dropout are drawn.

    Not by ``torch.manual_seed``: that also prepares for devices that are not in use, at a cost.
    """
    seed = mixed(*numbers)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed)
