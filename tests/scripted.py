"""A strategy that follows a script, for tests of what pauses and resumes trials."""

from __future__ import annotations

from collections.abc import Sequence

from workbench import Workbench

from hpo.history import History, TrialHistory
from hpo.search import Learnt
from hpo.spec import Float, StudySpec
from hpo.strategy import New, Resume


class Scripted:
    """Three trials up to epoch 1; from then on the best paused one goes on, up to epoch 2 and then
    to its end, and now and then there is a new one; all but one are trained to their ends. So what
    a trial is to do next depends on all that is on record.
    """

    def __init__(self, spec: StudySpec) -> None:
        assert spec.budget.trials is not None
        self.trials, self.search = spec.budget.trials or 0, spec.search
        self.sign = 1 if spec.objective[0].maximize else -1

    def decide(self, history: History, pending: Sequence[TrialHistory]) -> New | Resume | None:
        taken = {trial.number for trial in pending}
        paused = [trial for trial in history.paused if trial.number not in taken]
        begun = len(history.trials.keys() | taken)
        if begun < self.trials and (len(paused) < 3 or len(history.decisions) % 4 == 0):
            return New({path: self._at(path, begun + 1) for path in self.search}, 1)
        whole = sum(until is None for _, until in history.decisions)
        if not paused or whole == self.trials - 1:
            return None
        best = self._worst_first(paused)[-1]
        return Resume(best.number, 2 if best.recorded < 2 else None)

    def hopeless(self, history: History) -> list[int]:
        return [trial.number for trial in self._worst_first(history.paused)]

    def follow(self, history: History) -> None: ...

    def _worst_first(self, trials: Sequence[TrialHistory]) -> list[TrialHistory]:
        return sorted(trials, key=lambda trial: self.sign * trial.values[trial.recorded][0])

    def _at(self, path: str, number: int) -> float:
        """One of numbers that are spread over the range."""
        range_, share = self.search[path], 0.37 * number % 1
        assert isinstance(range_, Float)
        return range_.low + share * (range_.high - range_.low)


def make_scripted(spec: StudySpec, _learnt: Sequence[Learnt]) -> Scripted | None:
    """In place of `hpo.strategy.make_strategy`."""
    return None if spec.strategy is None else Scripted(spec)


def paused_study(bench: Workbench) -> Workbench:
    """The bench's study with the strategy, which `Scripted` is to stand for."""
    text = bench.file.read_text().replace("sampler: random", "strategy: freeze-thaw")
    bench.file.write_text(text.replace("{trials: 5}", "{trials: 6, epochs: 20}"))
    return bench
