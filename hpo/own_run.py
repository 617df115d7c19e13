"""The MLflow run that a program keeps by itself (autologging), in a store of files of its own.

MLflow's own classes are not used: they take seconds to import, and a trial may take less. The
layout is that of MLflow's file store: ``EXPERIMENT/RUN/metrics/NAME`` has a line a value,
``milliseconds value step``, ``params/NAME`` and ``tags/NAME`` each have a value, and
``EXPERIMENT/RUN/meta.yaml`` when the run began.
"""

from __future__ import annotations

import itertools
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.request import pathname2url

from hpo.tracking.redact import redact

MOST_FILES = 1000
MOST_BYTES = 2**30
MOST_FACTS = 200  # parameters, and as many tags
MOST_CHARACTERS = 6000  # of one
FOLDER = "run"  # of what is adopted, in a trial's folder and in its run in MLflow

Epoch = tuple[int, dict[str, float]]


class OwnRun:
    """A folder in which a program may keep a run.

    Args:
        folder: Is made by whoever logs there.
        objectives: Metrics; each new step of the first one is an epoch.
    """

    def __init__(self, folder: Path, objectives: Sequence[str]) -> None:
        self._folder = folder
        self._objectives = objectives
        self._told = 0
        self._chosen: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What has MLflow log there."""
        return {
            "MLFLOW_TRACKING_URI": f"file://{pathname2url(str(self._folder))}",
            "MLFLOW_ALLOW_FILE_STORE": "true",
        }

    def epochs(self, is_over: bool) -> list[Epoch]:
        """The epochs that have not been told yet, counted from 1, each with its metrics.

        The last one is kept back until the program is over or has begun another: it may still be
        adding to it.
        """
        run = self._run()
        if run is None:
            return []
        logged = {name: _values(path) for name, path in _files(run / "metrics")}
        steps = sorted({step for step, _ in logged.get(self._objectives[0], [])})
        if not is_over:
            steps = steps[:-1]
        new = list(enumerate(steps, start=1))[self._told :]
        self._told = len(steps)
        return [(epoch, _at(logged, step)) for epoch, step in new]

    def adopt(self, folder: Path) -> dict[str, str]:
        """Move the run's artifacts into a trial's folder: name → file.

        The first `MOST_FILES` of them, and `MOST_BYTES`.
        """
        run = self._run()
        if run is None or not (run / "artifacts").is_dir():
            return {}
        adopted, left = folder / FOLDER, MOST_BYTES
        shutil.rmtree(adopted, ignore_errors=True)
        shutil.move(run / "artifacts", adopted)
        found: dict[str, str] = {}
        for path in sorted(adopted.rglob("*")):
            if path.is_file() and not path.is_symlink() and len(found) < MOST_FILES:
                left -= path.stat().st_size
                if left >= 0:
                    found[path.relative_to(folder).as_posix()] = str(path)
        return found

    def facts(self) -> dict[str, dict[str, str]]:
        """``params`` and ``tags``: name → text, without tags of MLflow's own.

        The first `MOST_FACTS` of each, by name.
        """
        run = self._run()
        if run is None:
            return {}
        found = {kind: _texts(run / kind) for kind in ("params", "tags")}
        return {kind: texts for kind, texts in found.items() if texts}

    def discard(self) -> None:
        """Delete the store."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> Path | None:
        """The run that logs the objective; if several do, the first one, and no other later."""
        if self._chosen is None:
            runs = [path.parent for path in self._folder.glob("*/*/metrics")]
            with_it = [run for run in runs if (run / "metrics" / self._objectives[0]).is_file()]
            self._chosen = min(with_it, key=_began_ms, default=None)
        return self._chosen


def _began_ms(run: Path) -> int:
    found = re.search(r"^start_time: (\d+)", (run / "meta.yaml").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _texts(folder: Path) -> dict[str, str]:
    """The first `MOST_FACTS` names, and what stands there."""
    kept = (named for named in sorted(_files(folder)) if not named[0].startswith("mlflow."))
    found = {}
    for name, path in itertools.islice(kept, MOST_FACTS):
        with open(path, encoding="utf-8", errors="replace") as file:
            found[name] = redact(file.read(MOST_CHARACTERS))
    return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(folder).as_posix(), path


def _values(path: Path) -> list[tuple[int, float]]:
    """Step and value, in the order in which they were logged; of a torn last line nothing."""
    lines = path.read_text().split("\n")[:-1]
    found = []
    for line in lines:
        _, value, step = line.split(" ")[:3]
        found.append((int(step), float(value)))
    return found


def _at(logged: dict[str, list[tuple[int, float]]], step: int) -> dict[str, float]:
    """Of each metric the newest value up to a step."""
    found: dict[str, float] = {}
    for name, values in logged.items():
        newest, value = -math.inf, math.nan
        for at, each in values:
            if newest <= at <= step:
                newest, value = at, each
        if newest > -math.inf:
            found[name] = value
    return found
