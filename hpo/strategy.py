"""What an orchestrator that pauses trials and a strategy, which says what comes next, agree on.

A strategy takes the place of the sampler and the pruner. It is asked whenever a place is free, and
whenever a trial has come to the epoch that it was to be trained to, which then waits: to go on at
once, if it is what the strategy resumes, or to be paused, with its checkpoint on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hpo.history import History, TrialHistory
from hpo.spec import Scalar, StudySpec

if TYPE_CHECKING:
    from hpo.search import Learnt


@dataclass(frozen=True)
class New:
    """Begin another trial.

    Attributes:
        params: Searched path → value, of each parameter whose conditions hold.
        until: The epoch after which it pauses; None: it trains to its end.
    """

    params: Mapping[str, Scalar]
    until: int | None


@dataclass(frozen=True)
class Resume:
    """Let a paused trial go on.

    Attributes:
        number: The trial's.
        until: As in `New`.
    """

    number: int
    until: int | None


class Strategy(Protocol):
    """What is to be trained next.

    Its answers are functions of what it is given, with no clock and nothing that a restart would
    lose: so a study with one worker that trains one trial at a time, and was killed and run again,
    decides the same. How many are trained together is measured (`lanes: auto`).
    """

    def decide(self, history: History, pending: Sequence[TrialHistory]) -> New | Resume | None:
        """The next thing to do.

        Args:
            history: What is on record. Its ``study["budget"]`` is the budget of now. A trial that
                is neither over nor paused is in training.
            pending: What was decided but has not begun, in the order of the decisions: new trials,
                which are not in the history yet, and trials that are paused in the history. These
                are copies, whose ``until`` is the one decided and which are not ``paused``.

        Returns:
            What to begin or resume; None: nothing more makes sense, before there is news at least.
            In place of a configuration that was tried before, or is beyond the budget's trials,
            the last of those that are `hopeless`, and fit in the epochs that are left of the
            budget, is trained to its end.
        """

    def hopeless(self, history: History) -> list[int]:
        """The paused trials, those first that are least likely to be resumed."""

    def follow(self, history: History) -> None:
        """Called after the orders of each decision were sent: it may begin a refit in a thread."""


def make_strategy(spec: StudySpec, learnt: Sequence[Learnt]) -> Strategy | None:
    """The strategy that a study file names, or None.

    Args:
        learnt: Whole trials of the earlier studies in `start_from`.
    """
    if spec.strategy is None:
        return None
    from hpo.freeze_thaw import FreezeThaw
    from hpo.freeze_thaw.curves import Earlier

    sign = 1 if spec.objective[0].maximize else -1
    studies = list(dict.fromkeys(trial.study for trial in learnt))
    earlier = [  # of studies that are counted from 1: this one is 0
        Earlier(trial.params, sign * trial.value, 1 + studies.index(trial.study))
        for trial in learnt
    ]

    return FreezeThaw(
        spec.search,
        lambda params: spec.config(params)["train"]["epochs"],
        maximize=spec.objective[0].maximize,
        seed=spec.seed,
        earlier=earlier,
    )
