"""What the benchmarks share: repeat, compare, print. Not part of the installed package."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

HPO = [sys.executable, "-m", "hpo.cli"]


@dataclass(frozen=True)
class Figure:
    """One number with its goal; `at_most` says on which side of the goal it is to be.

    `ours` and `theirs` are what a ratio or a difference was made of, with units.
    """

    name: str
    value: float
    goal: float
    unit: str = "×"
    at_most: bool = True
    ours: str = ""
    theirs: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def interleaved(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """Run the sides in turn, `rounds` times; the median of what each returned."""
    measured: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, values in zip(sides, measured, strict=True):
            values.append(side())
    return [statistics.median(values) for values in measured]


def resampled(values: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """Draws for a bootstrap of runs that are alike by data set: data sets, then seeds of each.

    Args:
        values: (data sets, seeds).

    Returns:
        (draws, data sets, seeds).
    """
    draw = np.random.default_rng(0)
    sets = draw.integers(values.shape[0], size=(draws, values.shape[0], 1))
    seeds = draw.integers(values.shape[1], size=(draws, *values.shape))
    return values[sets, seeds]


def say(text: str) -> None:
    """Progress, to stderr."""
    print(text, file=sys.stderr, flush=True)


def report(benchmark: str, rows: Sequence[tuple[str, str]], figures: Sequence[Figure]) -> None:
    """Print tables for people and, last, one JSON object. Exits 1 if a goal is missed."""
    console = Console()
    measured = Table(title=benchmark, box=None, title_justify="left")
    measured.add_column("measured")
    measured.add_column("", justify="right")
    for name, value in rows:
        measured.add_row(name, value)
    console.print(measured)
    goals = Table(box=None)
    pairs = ("ours", "theirs") if any(figure.ours for figure in figures) else ()
    for column in ("figure", *pairs, "value", "goal", ""):
        goals.add_column(column, justify="left" if column in ("figure", "") else "right")
    for figure in figures:
        sign = "≤" if figure.at_most else "≥"
        goals.add_row(
            figure.name,
            *(getattr(figure, side) for side in pairs),
            f"{figure.value:.3g} {figure.unit}",
            f"{sign} {figure.goal:.3g} {figure.unit}",
            "met" if figure.met else "NOT MET",
        )
    console.print(goals)
    met = all(figure.met for figure in figures)
    print(
        json.dumps(
            {
                "benchmark": benchmark,
                "figures": {
                    f.name: {"value": round(f.value, 5), "goal": f.goal, "met": f.met}
                    for f in figures
                },
                "met": met,
            }
        )
    )
    sys.exit(0 if met else 1)


class PeakMemory(threading.Thread):
    """The peak memory (MB) of a process and of each of its children, by command line.

    Resident memory that is the process's own: pages of shared libraries, which all workers and
    other programs share, come and go with the page cache.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peaks_mb: dict[str, float] = {}
        self._process = psutil.Process(pid)

    def run(self) -> None:
        while self._process.is_running():
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            for process in family:
                try:
                    name = _role(process.cmdline())
                    memory = process.memory_info()
                    peak = (memory.rss - memory.shared) / 1e6
                except psutil.Error:
                    continue
                self.peaks_mb[name] = max(peak, self.peaks_mb.get(name, 0.0))
            time.sleep(0.1)


def _role(command: Sequence[str]) -> str:
    for module in ("hpo.worker", "hpo.tracking.mlflow", "hpo.cli"):
        if module in command:
            return module
    return Path(command[0]).name if command else "?"


def hpo_run(file: Path, home: Path, *options: str, memory: bool = False) -> dict[str, float]:
    """Run a study as a user would.

    Args:
        memory: Look at the memory of its processes, which takes some time from them.

    Returns:
        ``seconds``, and with `memory` the peak of each kind of process, by its module.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        [*HPO, "run", str(file), "--home", str(home), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    peaks = PeakMemory(process.pid)
    if memory:
        peaks.start()
    _, error = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"hpo run failed ({process.returncode}):\n{error.decode()[-2000:]}")
    return {"seconds": time.perf_counter() - began, **peaks.peaks_mb}


def environment() -> dict[str, str]:
    """One thread a process, on both sides of every comparison."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": "",
    }
