"""Training a trial anew from its record, to see whether the same comes out.

In a temporary folder; nothing is written to the study or to MLflow.

Not covered: the code of one's own trainer where it is in no git repository; a trial that another
trial's state was put into.
"""

from __future__ import annotations

import math
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.anew import Record, bench, setup_like, study_of
from hpo.errors import UserError, WorkerLost
from hpo.messages import Assignment, Finished, Ready, Report, Setup
from hpo.paths import Home, StudyPaths
from hpo.record import flat
from hpo.tracking import outbox, provenance
from trainers.metrics import CLOCKED
from trainers.registry import TRAINERS

TOLERANCE = 1e-6  # relative; what is closer counts as the same
SAY_EVERY_S = 10.0

Change = tuple[Any, Any]  # then, now


@dataclass
class Recorded:
    """What is on record of a trial.

    Attributes:
        study: The ``study`` record of the session that trained it last.
        newest: That of the study's last session.
        assigned: Its newest ``trial`` record.
        epochs: Epoch → metric → value.
    """

    study: Record
    newest: Record
    assigned: Record
    epochs: dict[int, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A metric at an epoch; None where it is missing.

    Attributes:
        relative: |then - now| by the larger of both; infinite where one is missing.
    """

    metric: str
    epoch: int
    then: float | None
    now: float | None
    relative: float


@dataclass(frozen=True)
class Reproduced:
    """What came out.

    Attributes:
        epochs, values: How many were compared.
        largest: The largest difference; None: every number is the same.
        data: The data's fingerprint, where it differs.
        environment: What else differs: name → then and now.
        failure: Why the training ended before the last recorded epoch, or None.
    """

    study: str
    trial: int
    epochs: int
    values: int
    largest: Difference | None
    data: Change | None
    environment: Mapping[str, Change]
    failure: str | None = None

    @property
    def same(self) -> bool:
        """Within `TOLERANCE`."""
        return self.failure is None and (
            self.largest is None or self.largest.relative <= TOLERANCE
        )


def reproduce(study: str, number: int, home: Home, say: Callable[[str], None]) -> Reproduced:
    """Train a trial anew up to its last recorded epoch, and compare every metric of every epoch.

    Args:
        study: Its name; it must be there.
        say: Told what happens.

    Raises:
        UserError: There is no such trial, or nothing of it on record.
        HpoError: It cannot be trained here.
    """
    recorded = _recorded(study, number, home.study(study))
    said = study_of(recorded.study, _source(recorded.newest))
    config = said.config(recorded.assigned["params"])
    setup = setup_like(recorded.study, said, config, home)
    training = _Training(recorded, setup, config, say)
    with tempfile.TemporaryDirectory() as folder:
        epochs, failure = training.run(Path(folder))
    # Of one that broke off, what it got to can still be compared.
    then = {e: recorded.epochs[e] for e in recorded.epochs if failure is None or e in epochs}
    compared = list(_compared(then, epochs))
    different = [found for found in compared if found.relative > 0]
    return Reproduced(
        study,
        number,
        len(then),
        len(compared),
        max(different, key=lambda found: found.relative, default=None),
        training.data,
        {
            **_settings(recorded.assigned["config"], flat(config)),
            **_environment(recorded.study, said.folder, training.device_name),
        },
        failure,
    )


class _Training:
    """One trial by one worker.

    Attributes:
        data: The data's fingerprint then and now, where it differs.
        device_name: Once the worker is ready.
    """

    def __init__(
        self,
        recorded: Recorded,
        setup: Setup,
        config: Mapping[str, Mapping[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self._recorded, self._setup, self._config, self._say = recorded, setup, config, say
        self._last = max(recorded.epochs)
        self._said_s = time.monotonic()
        self._epochs: dict[int, Mapping[str, float]] = {}
        self.data: Change | None = None
        self.device_name = ""

    def run(self, folder: Path) -> tuple[dict[int, Mapping[str, float]], str | None]:
        """The metrics of each epoch, and why there are no more where there should be."""
        try:
            with bench(self._setup, folder, self._say) as worker:
                self._look_at(worker.ready)
                (finished,) = worker.train([self._assignment(folder)], self._take)
        except WorkerLost as lost:
            return self._epochs, str(lost)
        return self._epochs, self._failure(finished)

    def _look_at(self, ready: Ready) -> None:
        then, now = self._recorded.study["dataset"], ready.dataset
        self.device_name = ready.device_name
        if then and now and then["fingerprint"] != now["fingerprint"]:
            self.data = then["fingerprint"], now["fingerprint"]
            self._say(
                f"the data is not the same: {then['source']} has changed since "
                f"({then['rows']} rows then, {now['rows']} now)"
            )
        self._say(f"training trial {self._recorded.assigned['number']} to epoch {self._last} …")

    def _assignment(self, folder: Path) -> Assignment:
        objective, assigned = self._recorded.study["objective"], self._recorded.assigned
        return Assignment(
            number=assigned["number"],
            params=self._config,
            seed=assigned["seed"],
            attempt=1,
            recorded=0,
            folder=folder / "trial",
            metrics=[each["metric"] for each in objective],
            maximize=objective[0]["goal"] == "maximize",
        )

    def _take(self, reports: Sequence[Report]) -> list[int]:
        """Keep an epoch; the trial's number if it is to stop there."""
        self._epochs |= {report.epoch: report.metrics for report in reports}
        if time.monotonic() - self._said_s > SAY_EVERY_S:
            self._said_s = time.monotonic()
            self._say(f"epoch {max(self._epochs)} of {self._last}")
        return [report.number for report in reports if report.epoch >= self._last]

    def _failure(self, finished: Finished) -> str | None:
        if len(self._epochs) >= self._last:
            return None
        if finished.reason:
            return finished.reason
        return f"it ended after epoch {max(self._epochs, default=0)}"


def _recorded(study: str, number: int, paths: StudyPaths) -> Recorded:
    session: Record | None = None
    found: Recorded | None = None
    for record, _ in outbox.read(paths.outbox):
        if record["kind"] == "study":
            session = record
            if found is not None:
                found.newest = record
        elif record.get("number") != number:
            continue
        elif record["kind"] == "trial" and session is not None:
            found = Recorded(session, session, record, found.epochs if found else {})
        elif record["kind"] == "epoch" and found is not None:
            found.epochs[record["epoch"]] = record["metrics"]
        elif "duplicate_of" in record:
            twin = record["duplicate_of"]
            raise UserError(
                f"trial {number} of {study} was not trained: it has the configuration of trial "
                f"{twin}.\nTry `hpo reproduce {study} {twin}`."
            )
    if found is None:
        raise UserError(f"{study} has no trial {number}; `hpo trials {study}` lists them.")
    if not found.epochs:
        raise UserError(f"trial {number} of {study} has no epoch on record to compare with.")
    return found


def _source(study: Record) -> str | None:
    """Where the data of a built-in trainer are; they may be moved between two runs."""
    said = study_of(study)
    return said.data["source"] if said.trainer in TRAINERS else None


def _compared(
    then: Mapping[int, Mapping[str, float]], now: Mapping[int, Mapping[str, float]]
) -> Iterator[Difference]:
    """Every recorded metric of every recorded epoch, and what is new there."""
    for epoch in sorted(then):
        before, after = then[epoch], now.get(epoch, {})
        for metric in {**before, **after}:
            if metric in CLOCKED:  # the time that something took is never the same
                continue
            one, other = before.get(metric), after.get(metric)
            yield Difference(metric, epoch, one, other, _relative(one, other))


def _relative(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return math.inf
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """What another version of hpo makes of the same file."""
    return {
        key: (then.get(key), now.get(key))
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    }


def _environment(study: Record, folder: Path, device_name: str) -> dict[str, Change]:
    """Code, versions and machine, where they differ."""
    then, now = study["provenance"], provenance.collect(folder)
    before, after = then["git"] or {}, now["git"] or {}
    facts: dict[str, Change] = {
        "commit": (before.get("commit"), after.get("commit")),
        "device": (study["device_name"], device_name),
    }
    if before.get("diff", "") != after.get("diff", ""):
        facts["uncommitted changes"] = (_summary(before), _summary(after))
    facts |= {key: (then[key], now[key]) for key in ("python", "platform", "cpu")}
    names = sorted({*then["packages"], *now["packages"]})
    facts |= {name: (then["packages"].get(name), now["packages"].get(name)) for name in names}
    return {name: change for name, change in facts.items() if change[0] != change[1]}


def _summary(git: Mapping[str, Any]) -> str:
    """A diff in short, so that two of them can be told apart."""
    diff = git.get("diff", "")
    return (
        f"{len(diff.splitlines())} lines, crc {zlib.crc32(diff.encode()):08x}" if diff else "none"
    )
