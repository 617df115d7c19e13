"""What paused trials keep on the disk, within the bounds of the study file; one stays always."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hpo import checkpoints
from hpo.history import History
from hpo.paths import StudyPaths
from hpo.spec import Named
from hpo.spec.methods import STRATEGIES


class Paused:
    """The checkpoints and weights of paused trials.

    Args:
        strategy: The study's, whose options have the bounds.
    """

    def __init__(self, paths: StudyPaths, strategy: Named, history: History) -> None:
        self._paths, self._history = paths, history
        self._limits = STRATEGIES[strategy.name](**strategy.options)
        self._bytes: dict[int, int] = {}  # by trial, when it was last paused

    def add(self, number: int) -> None:
        """Take in that trial `number` is paused, and all that it keeps is on the disk."""
        size = checkpoints.size(self._paths.trial(number))
        model = self._paths.model(number)
        self._bytes[number] = size + (model.stat().st_size if model.is_file() else 0)

    @property
    def are_too_many(self) -> bool:
        """Whether there are more than are to be, or larger ones."""
        return self._too_many(self._kept())

    def beyond(self, hopeless: Sequence[int], but: Collection[int]) -> list[int]:
        """The trials that have to go, so that there are not too many.

        Args:
            hopeless: Paused trials, those that are to go first are the first.
            but: Those that are to go on, and stay.
        """
        kept, found = self._kept(), []
        for number in hopeless:
            if self._too_many(kept) and number not in but:
                del kept[number]
                found.append(number)
        return found

    def _kept(self) -> dict[int, int]:
        return {trial.number: self._bytes[trial.number] for trial in self._history.paused}

    def _too_many(self, kept: Mapping[int, int]) -> bool:
        most, most_bytes = self._limits.max_paused, self._limits.max_paused_gb * 1e9
        return len(kept) > 1 and (len(kept) > most or sum(kept.values()) > most_bytes)
