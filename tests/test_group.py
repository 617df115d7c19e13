"""What rank 0 makes of an error, its own or another rank's; whole studies: `test_over_devices`."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, cast

import pytest

from hpo import group
from hpo.group import Failed, Group, Loaded, RankFailed, _Leading
from hpo.messages import Setup
from trainers.contract import DataError, Epoch, Trial

LOST = RuntimeError("Connection closed by peer")
RAISED = Failed("ValueError: as told", "")


class Swallows:
    """The `trainers.contract.Trials` of a worker: an epoch's model that cannot be had is the end
    of its trial, and of nothing else."""

    def __init__(self) -> None:
        self.failed: list[Exception] = []

    def begin(self) -> Sequence[Trial]:
        return []

    def report(self, epochs: Sequence[Epoch]) -> Collection[int]:
        (said,) = epochs
        assert said.model is not None
        try:
            said.model()
        except Exception as error:
            self.fail(said.trial, error)
        return [0]

    def finish(self, trial: Trial) -> None:
        pass

    def fail(self, trial: Trial, error: Exception) -> None:
        self.failed.append(error)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Group, list[Any]]]:
    """A group of three, and the other two's ends of their connections."""
    monkeypatch.setattr(group, "EXPLAIN_S", 0.0)
    one = Group(Setup(0, "", Path(), {}, [], Path(), "cpu", None, 1, 1.0, devices=3))
    with contextlib.ExitStack() as opened:
        pipes = [Pipe() for _ in range(2)]
        for end in (end for pipe in pipes for end in pipe):
            opened.enter_context(end)
        one._others = [(cast(Any, None), ours) for ours, _ in pipes]
        yield one, [theirs for _, theirs in pipes]


def hear(one: Group, *ranks: int) -> None:
    """What these ranks said is read in this order."""
    one._heard.set()  # so that nobody waits for it to be
    for rank in ranks:
        one._watch(rank)


@pytest.mark.parametrize("how", ["model", "fail"])
def test_an_error_that_ends_only_the_trial_still_breaks_the_group(
    others: tuple[Group, list[Any]], how: str
) -> None:
    one, _ = others
    trials, trial = Swallows(), cast(Any, None)

    def model() -> dict[str, Any]:
        raise LOST

    leading = _Leading(trials, one)
    if how == "model":
        leading.report([Epoch(trial, 1, {}, None, model=model)])
    else:
        leading.fail(trial, LOST)
    assert one.is_broken
    assert trials.failed == [LOST]  # nobody said why


def test_the_first_rank_that_said_why_is_believed(others: tuple[Group, list[Any]]) -> None:
    one, (second, third) = others
    second.send(RAISED)
    third.send(Failed(f"RuntimeError: {LOST}", ""))
    hear(one, 1, 2)
    trials, trial = Swallows(), cast(Any, None)
    _Leading(trials, one).fail(trial, LOST)
    (failed,) = trials.failed
    assert isinstance(failed, RankFailed)
    assert str(failed) == "on device 1: ValueError: as told"


def test_what_all_raise_alike_is_nobody_elses(others: tuple[Group, list[Any]]) -> None:
    one, (second, _) = others
    second.send(RAISED)
    hear(one, 1)
    own = ValueError("as told")

    def train(trials: Any) -> None:
        raise own

    with pytest.raises(ValueError, match="^as told$") as raised:
        one.train(train, cast(Any, [None]), Swallows())
    assert raised.value is own
    assert one.is_broken


def test_a_rank_that_cannot_load_names_its_setting(others: tuple[Group, list[Any]]) -> None:
    one, (second, third) = others
    second.send(Loaded())
    third.send(Failed("DataError: no such GPU", "", "device", "device: cpu"))
    with pytest.raises(DataError, match="process 3 of 3: DataError: no such GPU") as refused:
        one.meet()
    assert (refused.value.key, refused.value.hint) == ("device", "device: cpu")
