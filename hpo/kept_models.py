"""Which trials of a study keep their weights."""

from __future__ import annotations

from bisect import insort
from typing import Literal

from hpo import checkpoints
from hpo.history import History, TrialHistory
from hpo.paths import StudyPaths


class KeptModels:
    """The best trials by the first objective, `most` of them, complete ones before others, and all
    that an ensemble is made of.

    What falls out of these is deleted.
    """

    def __init__(self, paths: StudyPaths, most: int | Literal["all"], history: History) -> None:
        self._paths, self._most, self._history = paths, most, history
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
                checkpoints.remove(self._paths.model(worst))
