"""Which devices this machine has, and how its workers share them. Imports no torch."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from hpo.errors import Problem
from hpo.spec import StudySpec

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # a container's CPU quota: "QUOTA PERIOD", in µs


@dataclass(frozen=True)
class Gpu:
    """A GPU that may be used.

    Attributes:
        id: What names it in ``CUDA_VISIBLE_DEVICES``.
        memory_mb: None where it shares the machine's memory.
    """

    id: str
    name: str
    memory_mb: int | None


@dataclass(frozen=True)
class Slot:
    """A worker's share of the machine.

    Attributes:
        gpu: What ``CUDA_VISIBLE_DEVICES`` is set to, or None on the CPU.
        memory_share: Of the GPU's memory, in (0, 1].
        threads: Of each process that trains a trial.
    """

    device: Literal["cpu", "cuda"]
    gpu: str | None
    memory_share: float
    threads: int


@cache
def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, by ``nvidia-smi``; none without it."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total"]
    try:
        listed = subprocess.run(
            [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if listed.returncode != 0:
        return ()
    found = {}
    for line in listed.stdout.splitlines():
        index, uuid, name, memory = (part.strip() for part in line.split(","))
        found[index] = Gpu(uuid, name, int(memory) if memory.isdecimal() else None)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(found.values() if visible is None else _named(visible, found))


def _named(visible: str, found: Mapping[str, Gpu]) -> Iterator[Gpu]:
    """As CUDA reads it: by index or the start of an id, up to the first that it does not know."""
    for name in map(str.strip, visible.split(",")):
        by_id = (gpu for gpu in found.values() if name and gpu.id.startswith(name))
        gpu = found.get(name) or next(by_id, None)
        if gpu is None:
            return
        yield gpu


def cores() -> int:
    """CPU cores that this process may use: those it is bound to, and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(OSError, ValueError):
        quota, period = CPU_MAX.read_text().split()
        count = min(count or 1, max(1, int(quota) // int(period)))  # "max" where there is none
    return count or 1


def slots(spec: StudySpec) -> list[Slot] | Problem:
    """A slot a worker, or why there cannot be so many.

    On a CPU one worker a core with one thread each: two single-threaded workers gain more than
    one worker with two threads.
    """
    if spec.executor.name == "inline" and spec.devices > 1:
        hint = "executor: processes"
        return spec.problem("gpus_per_trial", "the inline executor has one process", hint)
    if spec.device == "cuda" or (spec.device == "auto" and gpus()):
        return _gpu_slots(spec)
    count = 1 if spec.executor.name == "inline" else max(1, cores() // spec.devices)
    if spec.workers != "auto":
        count = spec.workers
    if spec.executor.name == "inline" and count > 1:
        return spec.problem("workers", "the inline executor has one worker", "workers: 1")
    # Whatever the budget: metrics depend on it in late digits.
    threads = max(1, cores() // (count * spec.devices))
    if spec.budget.trials is not None:
        count = min(count, spec.budget.trials)
    return [Slot("cpu", None, 1.0, threads)] * count


def _gpu_slots(spec: StudySpec) -> list[Slot] | Problem:
    found = gpus()
    if not found:
        return spec.problem(
            "device", "no NVIDIA GPU is visible here", "device: cpu, or look at `hpo doctor`"
        )
    if len(found) < spec.devices:
        return spec.problem(
            "gpus_per_trial",
            f"a trial takes {spec.devices} GPUs; this machine has {len(found)}",
            f"gpus_per_trial: {len(found)}",
        )
    per_gpu = max(1, math.floor(1 / spec.gpus_per_trial + 1e-9))
    places = [found[i : i + spec.devices] for i in range(0, len(found), spec.devices)]
    if len(places[-1]) < spec.devices:
        places.pop()
    most = 1 if spec.executor.name == "inline" else len(places) * per_gpu
    count = most if spec.workers == "auto" else spec.workers
    if count > most:
        return spec.problem(
            "workers",
            f"{len(found)} GPU(s) with {spec.gpus_per_trial:g} a trial have room for {most}; "
            f"got {count}",
            f"workers: {most}, or a smaller gpus_per_trial",
        )
    if spec.budget.trials is not None:
        count = min(count, spec.budget.trials)
    threads = max(1, cores() // (count * spec.devices))
    # Worker i on GPU i mod n: a few workers spread over all GPUs before they share one.
    taken = [",".join(gpu.id for gpu in places[i % len(places)]) for i in range(count)]
    return [Slot("cuda", gpus, 1 / per_gpu, threads) for gpus in taken]
