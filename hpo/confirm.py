"""Is the winner of a search as good as it looks? Its best trials on fresh seeds, then the test
split, once.

A search looks at the same validation rows hundreds of times, so the best value it found flatters:
part of it is luck. Here the best trials are trained again on seeds that the search has not seen,
and the one with the best mean is the winner. Only then the test split is opened, for the winner
and for one ensemble that was recorded before: what is said of these rows was chosen by nobody.

That holds once. Whoever looks, changes something and looks again chooses by the test split, too:
so what came out is recorded, shown again when asked again, and another look has to be wanted and
is counted.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpo import checkpoints, lease, results
from hpo.anew import Bench, bench, setup_like, study_of
from hpo.ensemble import refuse_if_running
from hpo.errors import HpoError, UserError
from hpo.history import seed_for
from hpo.loaded import on_this_machine
from hpo.messages import Assignment, Report
from hpo.paths import Home, StudyPaths
from hpo.predict import open_predictor
from hpo.predictor import Predictor, read_model, refused
from hpo.results.evaluation import metrics, value
from hpo.results.intervals import Estimate, of_mean
from hpo.results.predicted import Predicted
from hpo.results.scores import metric_or_first
from hpo.results.study_log import StudyLog
from hpo.results.tables import StudyTables
from hpo.spec import StudySpec
from hpo.tables import records
from hpo.tracking.outbox import Outbox
from trainers.contract import DataError
from trainers.registry import TRAINERS, stack_key
from trainers.unseen import Batch

Facts = dict[str, Any]
Say = Callable[[str], None]


@dataclass
class Anew:
    """A trial, trained on fresh seeds.

    Attributes:
        values: The objective's best value, of each seed that did not fail.
        models: Where each one's weights are, if they are kept.
        failures: Why the others failed.
    """

    trial: int
    searched: float
    values: list[float] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def estimate(self) -> Estimate:
        """Mean over seeds and Student's interval; NaN where all failed."""
        return of_mean(self.values)

    def facts(self) -> Facts:
        return {
            "trial": self.trial,
            "searched": self.searched,
            "values": self.values,
            **_plain(self.estimate),
            "failures": self.failures,
        }


def confirm(
    tables: StudyTables,
    home: Home,
    *,
    top: int,
    seeds: int,
    ensemble: int | Literal["newest", "none"] = "newest",
    say: Say = lambda text: None,
) -> Facts:
    """Train the best trials anew, open the test split for the winner, and record what came out.

    Args:
        tables: The study, which lies in `home` and is not being run.
        top: So many of the best complete trials.
        seeds: So many fresh seeds each, at least 2.
        ensemble: Which recorded one is to be judged beside the winner: its number; ``newest``:
            where it can predict; or ``none``.
        say: Told what happens.

    Returns:
        What is recorded: see `hpo.results.confirmation`.

    Raises:
        StudyLocked: Another process runs the study.
        UserError: No trial is complete, there is no such ensemble, it kept no weights, or the data
            is not what it was.
        HpoError: It cannot be trained here, or every seed failed.
    """
    paths = home.study(tables.name)
    refuse_if_running(tables.name, paths)
    beside = _ensemble(tables.name, home, ensemble, say)
    log = StudyLog.read(paths)
    said = study_of(log.study or {})
    # The study's lease is taken only to record: who holds it answers requests and is a study that
    # runs, for everybody who looks.
    with tempfile.TemporaryDirectory() as folder:
        contest = _Contest(tables, log, said, home, Path(folder), say)
        anew = contest.train(top, seeds)
        winner = _winner(anew, tables.maximize)
        opened = None
        if said.trainer in TRAINERS and tables.dataset.get("test"):
            say(f"opening the test split for trial {winner.trial} …")
            data = contest.config(winner.trial)["data"]
            opened = _Test(tables, home, winner, data, say).facts(beside)
    facts = {
        "metric": tables.objective[0]["metric"],
        "goal": tables.objective[0]["goal"],
        "seeds": seeds,
        "trials": [each.facts() for each in anew],
        "winner": winner.trial,
        "test": opened,
    }
    return _recorded(facts, tables.name, paths)


def _recorded(facts: Facts, study: str, paths: StudyPaths) -> Facts:
    """The facts, with ``looks``, once they are in the study's outbox."""
    with lease.hold(paths.lease, study):
        tests = [*(each["test"] for each in StudyLog.read(paths).confirmations), facts["test"]]
        facts = {**facts, "looks": sum(test is not None for test in tests)}
        with Outbox(paths.outbox) as outbox:  # committed as it closes
            now_ms = time.time_ns() // 1_000_000
            outbox.append({"kind": "confirmation", "time_ms": now_ms, **facts})
    return facts


@dataclass
class _Contest:
    """Training on fresh seeds.

    Attributes:
        folder: For what it leaves.
    """

    tables: StudyTables
    log: StudyLog
    said: StudySpec
    home: Home
    folder: Path
    say: Say

    def train(self, top: int, seeds: int) -> list[Anew]:
        """The best trials, each on as many seeds."""
        best = self.tables.complete().head(top)
        if best.empty:
            raise UserError(
                f"study '{self.tables.name}' has no complete trial yet; `hpo run` makes some"
            )
        first = self.config(int(best["number"].iloc[0]))
        assert self.log.study is not None
        setup = setup_like(self.log.study, self.said, first, self.home)
        found = []
        with bench(setup, self.folder, self.say) as worker:
            self._check_data(worker)
            for place, row in enumerate(records(best), 1):
                name = f"trial {row['number']} ({place} of {len(best)})"
                self.say(f"training {name} on {seeds} fresh seeds …")
                found.append(self._train(worker, int(row["number"]), row["value"], seeds))
        return found

    def _train(self, worker: Bench, trial: int, searched: float, seeds: int) -> Anew:
        config, anew = self.config(trial), Anew(trial, searched)
        lanes = 1
        alone = self.said.lanes == "off" or self.said.devices > 1
        if not alone and stack_key(self.said.trainer, config) is not None:
            lanes = worker.lanes_that_pay(config, seeds)
        values: dict[int, list[float]] = {}

        def follow(reports: Sequence[Report]) -> Sequence[int]:
            for report in reports:
                metric = self.tables.objective[0]["metric"]
                values.setdefault(report.number, []).append(report.metrics[metric])
            return ()

        for first in range(0, seeds, lanes):
            some = range(first, min(first + lanes, seeds))
            assignments = [self._assignment(trial, config, each, lanes) for each in some]
            over = {each.number: each for each in worker.train(assignments, follow)}
            for seed in some:
                if over[seed].outcome == "alone":  # it may not be to blame for what went wrong
                    values.pop(seed, None)
                    again = self._assignment(trial, config, seed, lanes=1)
                    (over[seed],) = worker.train([again], follow)
                folder = self._folder(trial, seed)
                checkpoints.clear(folder)
                if over[seed].outcome != "complete":
                    anew.failures.append(over[seed].reason)
                    continue
                anew.values.append((max if self.tables.maximize else min)(values[seed]))
                kept = folder / StudyPaths.MODEL
                anew.models += [kept] if kept.is_file() else []
        return anew

    def _assignment(
        self, trial: int, config: Mapping[str, Mapping[str, Any]], seed: int, lanes: int
    ) -> Assignment:
        return Assignment(
            number=seed,
            params=config,
            seed=seed_for(self.said.seed, trial, f"confirm {seed}"),
            attempt=1,
            recorded=0,
            folder=self._folder(trial, seed),
            metrics=[objective["metric"] for objective in self.tables.objective],
            maximize=self.tables.maximize,
            lanes=lanes,
            keep_model=True,
        )

    def _folder(self, trial: int, seed: int) -> Path:
        return self.folder / f"{trial}-{seed}"

    def config(self, trial: int) -> Mapping[str, Mapping[str, Any]]:
        return self.said.config(self.log.trials[trial].assigned["params"])

    def _check_data(self, worker: Bench) -> None:
        then, now = self.tables.dataset, worker.ready.dataset
        if then and now and then["fingerprint"] != now["fingerprint"]:
            raise UserError(
                f"{then['source']} has changed since the search: rows that it trained on may be "
                "test rows now. Search again on the new data."
            )


def _ensemble(
    study: str, home: Home, which: int | Literal["newest", "none"], say: Say
) -> dict[str, Predictor]:
    """What is to be judged beside the winner, by its name: at most one ensemble."""
    numbers = list(results.ensembles(study, home)["ensemble"])
    if which == "none" or (which == "newest" and not numbers):
        return {}
    number = int(numbers[-1]) if which == "newest" else which
    try:
        return {f"ensemble {number}": open_predictor(f"{study}/ensemble/{number}", home)}
    except HpoError as error:
        if which != "newest":
            raise
        say(f"ensemble {number} is not judged: {error}")
        return {}


def _winner(anew: Sequence[Anew], maximize: bool) -> Anew:
    """The best mean, of those that failed least often: the mean of the survivors flatters."""
    there = [each for each in anew if each.values]
    if not there:
        raise HpoError(f"every seed failed, e.g.: {anew[0].failures[0]}")
    fewest = min(len(each.failures) for each in there)
    there = [each for each in there if len(each.failures) == fewest]
    return (max if maximize else min)(there, key=lambda each: each.estimate.value)


@dataclass
class _Test:
    """The test split: what the winner, and an ensemble, say of it.

    Attributes:
        data: The winner's ``data`` section.
    """

    tables: StudyTables
    home: Home
    winner: Anew
    data: Mapping[str, Any]
    say: Say

    def facts(self, beside: Mapping[str, Predictor]) -> Facts:
        """See `hpo.results.confirmation`."""
        kept, seeds = self._kept(), [_alone(file) for file in self.winner.models]
        judged = {f"trial {self.winner.trial}": kept or seeds[0], **beside}
        rows = self._rows([*judged.values(), *seeds])
        runs = {name: _predicted(predictor, rows) for name, predictor in judged.items()}
        first = next(iter(runs.values()))
        metric = metric_or_first(self.tables.objective[0]["metric"], first)
        values = [value(_predicted(each, rows), metric) for each in seeds]
        return {
            "rows": len(first.ids),
            "metric": metric,
            "judged": "fresh seed" if kept is None else "kept",
            "runs": {name: _measured(predicted, metric) for name, predicted in runs.items()},
            "seeds": {"values": values, **_plain(of_mean(values))},
            "gain": _gain(runs, metric) if len(runs) > 1 else None,
        }

    def _kept(self) -> Predictor | None:
        """What `hpo predict` says of the winner; None where its weights are not there."""
        file = self.home.study(self.tables.name).model(self.winner.trial)
        if not file.is_file():
            return None
        try:
            return _alone(file)
        except HpoError as error:
            self.say(f"{error}; the first fresh seed is judged instead")
            return None

    def _rows(self, judged: Sequence[Predictor]) -> Batch:
        from trainers import test_split

        models = [model for each in judged for model in each.models]
        try:
            with on_this_machine(self.data) as section:
                return test_split.rows(section, models)
        except DataError as error:
            raise refused(error) from None


def _predicted(predictor: Predictor, rows: Batch) -> Predicted:
    assert rows.target is not None
    return Predicted(
        np.asarray(rows.ids, np.int64),
        rows.target,
        predictor.output(rows.rows).astype(np.float32),
        predictor.classes,
    )


def _plain(mean: Estimate) -> Facts:
    return {"mean": mean.value, "low": mean.low, "high": mean.high}


def _alone(path: Path) -> Predictor:
    """One trial's model, by its file."""
    members = [{"trial": 0, "weight": 1.0, "temperature": None}]
    return Predictor.of({"members": members, "stack": None}, lambda _: read_model(path, 0))


def _measured(predicted: Predicted, metric: str) -> dict[str, Facts]:
    """Metric → ``value``, ``low``, ``high``."""
    return {row.pop("metric"): row for row in records(metrics(predicted, [metric]))}


def _gain(runs: Mapping[str, Predicted], metric: str) -> Facts:
    """The ensemble against the trial, on the same rows."""
    from hpo.results.significance import compare

    trial, ensemble = runs
    table = compare(runs, metric, trial).table
    row = records(table[table["run"] == ensemble])[0]
    names = ("difference", "low", "high", "p", "verdict", "test")
    return {name: row[name] for name in names}
