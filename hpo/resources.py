"""What a worker uses of its machine, under the names that MLflow's pages show as system metrics.

Of this process alone, but for a GPU's utilization, which is of the whole device. Not covered:
processes that a trainer starts, and of several devices all but the first.
"""

from __future__ import annotations

import contextlib
import time

EVERY_S = 1.0


class Meter:
    """Samples at most once a second, whichever trial is in training."""

    def __init__(self, device: str) -> None:
        """
        Args:
            device: ``"cpu"`` or ``"cuda"``.
        """
        self._device = device
        self._sampled_s = time.monotonic()
        self.begin()

    def begin(self) -> None:
        """A trial begins: its CPU time counts from here."""
        self._since_s, self._cpu_s = time.monotonic(), time.process_time()

    def sample(self) -> dict[str, float]:
        """Name → value; empty if the last sample was less than a second ago."""
        now_s = time.monotonic()
        if now_s - self._sampled_s < EVERY_S:
            return {}
        import psutil

        used_s, passed_s = time.process_time() - self._cpu_s, now_s - self._since_s
        self._sampled_s = now_s
        self.begin()
        found = {"system/process_memory_megabytes": psutil.Process().memory_info().rss / 1e6}
        if passed_s > 0:
            found["system/cpu_utilization_percentage"] = 100 * used_s / passed_s  # 100: one core
        return found | (_gpu() if self._device == "cuda" else {})


def _gpu() -> dict[str, float]:
    """Of the GPU that this process trains on."""
    import torch

    found = {"system/gpu_0_memory_usage_megabytes": torch.cuda.memory_reserved() / 1e6}
    with contextlib.suppress(Exception):  # no NVML, or a part of a GPU: it raises its own errors
        found["system/gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
    return found
