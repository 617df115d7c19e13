"""Which trials of a study keep their weights."""

from __future__ import annotations

import contextlib
from bisect import insort
from typing import Literal

from hpo import checkpoints
from hpo.history import History, TrialHistory
from hpo.paths import StudyPaths


class KeptModels:
    """The best trials by the first objective, `most` of them, complete ones before others, and all
    that an ensemble is made of.

    What falls out of these is deleted.

    Attributes:
        deleted: How many trials' weights, by this run of the study.
        freed_bytes: How large they were.
    """

    def __init__(self, paths: StudyPaths, most: int | Literal["all"], history: History) -> None:
        self._paths, self._most, self._history = paths, most, history
        self.deleted = self.freed_bytes = 0
        # Of each: whether it is not complete, its loss and its number.
        self._best: list[tuple[bool, float, int]] = []
        for trial in history.ended:
            self.add(trial)

    def add(self, trial: TrialHistory) -> None:
        """Take in a trial that is over."""
        end = trial.end
        if self._most == "all" or not end or not end["values"]:
            return
        if not self._paths.model(trial.number).is_file():
            return  # it failed, was killed or is another's twin: there is nothing to keep
        value = end["values"][0]
        loss = -value if self._history.maximize else value
        insort(self._best, (end["state"] != "complete", loss, trial.number))
        if len(self._best) > self._most:
            *_, worst = self._best.pop()
            if worst not in self._history.members:
                weights = self._paths.model(worst)
                with contextlib.suppress(FileNotFoundError):  # somebody was quicker
                    self.freed_bytes += weights.stat().st_size
                    self.deleted += 1
                checkpoints.remove(weights)

    def words(self) -> str | None:
        """What was deleted, in a line; None: nothing."""
        if not self.deleted:
            return None
        whose = "1 trial" if self.deleted == 1 else f"{self.deleted:,} trials"
        return (
            f"keep_models: {self._most}: the weights of {whose} were deleted, "
            f"{self.freed_bytes / 1e6:,.1f} MB; their predictions are kept"
        )
