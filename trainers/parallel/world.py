"""The processes that train one model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

How = Literal["ddp", "fsdp", "pipeline"]
HOW: tuple[How, ...] = ("ddp", "fsdp", "pipeline")

# A rank that is gone is noticed by the process that started it; one that is slow is waited for.
PATIENCE = timedelta(days=1)
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """This process's place among those that train a model.

    Attributes:
        rank: From 0; rank 0 speaks for all.
        size: How many there are, at least 2.
        how: See `trainers.parallel.spread`.
    """

    rank: int
    size: int
    how: How

    def agreed(self, value: Value) -> Value:
        """What rank 0 has for `value`: so that all decide alike what depends on it."""
        import torch
        import torch.distributed as dist

        said = [value]
        dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        return said[0]


_world: World | None = None


def world() -> World | None:
    """Of this process; None: it trains by itself."""
    return _world


def join(own: World, meeting: Path, device: str) -> None:
    """Meet the other ranks, all on this machine; waits for them.

    Args:
        meeting: A file that is empty, or not there yet; only this user may write to it.
        device: ``cpu``, or ``cuda`` and this rank's is the GPU with its number.
    """
    import torch
    import torch.distributed as dist

    global _world
    # They are on one machine: nobody else is to reach them, whatever the machine's name means.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK)
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(own.rank)
        backend = "cpu:gloo,cuda:nccl"
    store = dist.FileStore(str(meeting), own.size)  # type: ignore[attr-defined]
    dist.init_process_group(
        backend, store=store, rank=own.rank, world_size=own.size, timeout=PATIENCE
    )
    _world = own


def leave() -> None:
    """Train by itself again."""
    import torch.distributed as dist

    global _world
    _world = None
    if dist.is_initialized():
        dist.destroy_process_group()
