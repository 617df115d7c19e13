"""Random numbers of a lane that depend on what they are for, not on what was drawn before.

A key is made of the lane's seed, the epoch, the step and the layer, and each element's number is
hashed with it. So a lane draws the same whatever else is in its stack, and after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_FIRST, _SECOND = -2048144789, -1028477387  # 0x85ebca6b and 0xc2b2ae35 as int32


def keys(seeds: Sequence[tuple[int, ...]], epochs: Sequence[int], draws: int) -> Tensor:
    """Keys for an epoch of each lane.

    Args:
        seeds: A lane's own numbers, K tuples.
        epochs: The lane's epochs, K numbers.
        draws: How many keys each lane needs in an epoch.

    Returns:
        (draws, K, 2) int32; the first of each pair is odd.
    """
    drawn = [
        np.random.SeedSequence((*seed, epoch, 1)).generate_state(2 * draws).reshape(draws, 2)
        for seed, epoch in zip(seeds, epochs, strict=True)
    ]
    pairs = np.stack(drawn, 1).view(np.int32)
    pairs[..., 0] |= 1
    return torch.from_numpy(pairs)


def uniform(key: Tensor, elements: Tensor) -> Tensor:
    """Uniform int32 numbers, by the finalizer of MurmurHash3 (Appleby).

    Args:
        key: (K, 2) int32, the first of each pair odd.
        elements: (n,) int32, 0 … n-1.

    Returns:
        (K, n) int32 over its whole range.
    """
    hashed = key[:, :1] * elements + key[:, 1:]
    hashed ^= (hashed >> 16) & 0xFFFF  # int32 shifts keep the sign: what it shifts in is cut
    hashed *= _FIRST
    hashed ^= (hashed >> 13) & 0x7FFFF
    hashed *= _SECOND
    hashed ^= (hashed >> 16) & 0xFFFF
    return hashed


def threshold(share: Tensor) -> Tensor:
    """(int32) Below it a `uniform` number lies with probability `share`, in [0, 1)."""
    return ((share.double() * 2**32).floor() - 2**31).to(torch.int32)
