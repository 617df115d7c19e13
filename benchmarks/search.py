"""How many epochs a search takes: hpo's methods beside those that others offer, on known curves.

Nothing is trained: LCBench's learning curves come from a surrogate (`search_curves` says where it
is from and how to fetch it). What counts is new epochs, and of the trials only those that were
trained to their end. The measure is what Optuna's TPE has after 100 whole trials of the same data
set and seed, 5,200 epochs. Regret is (best of 20,000 random - value) / (best - median of these);
it is below 0 where a search found something better.

Methods were tuned on the first half of the data sets (``--part tune``); the other half is there to
report (``--part held-out``).

    python benchmarks/search.py --data yahpo_data/lcbench --part tune --cache /tmp/search
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna
from measure import Figure, report, resampled, say
from numpy.typing import NDArray
from optuna.pruners import HyperbandPruner, MedianPruner
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from rich.console import Console
from rich.table import Table
from search_curves import EPOCHS, Curves
from search_policies import FirstEpochs, Promoting, Space, Stopping, Whole
from search_simulation import Run, simulate

import hpo
from hpo.history import History
from hpo.strategy import Strategy

FULL = 100 * EPOCHS  # what the target costs
REPORTED = (520, 1300, 2080, 2600, 5200)
BESIDE_RANDOM = (520, 1300, 2600, 5200)
RESAMPLED = 10_000


@dataclass(frozen=True)
class Method:
    """One way to search.

    Attributes:
        label: As the table has it.
        make: (search space, seed) → what decides.
        most: Epochs beyond which it is not run: it would take too long to decide.
    """

    label: str
    make: Callable[[Space, int], Strategy]
    most: int = FULL


def _hyperband() -> HyperbandPruner:
    return HyperbandPruner(max_resource=EPOCHS)


def _bohb(search: Space, seed: int) -> Promoting:
    samplers = [TPESampler(seed=seed + rung, multivariate=True) for rung in range(4)]
    return Promoting(search, EPOCHS, seed, samplers=samplers)


def _freeze_thaw(search: Space, seed: int) -> Strategy:
    from hpo.freeze_thaw import FreezeThaw  # which takes a while to import

    class Unhurried(FreezeThaw):
        """As where training takes longer than a fit, which is made beside it."""

        def follow(self, history: History) -> None:
            super().follow(history)
            wait(self._fits.values())

    # A surrogate's trial is worth what it has at its last epoch, as in the published tables.
    return Unhurried(search, lambda _: EPOCHS, maximize=True, seed=seed, counts="last")


METHODS = {
    "tpe": Method("TPE", lambda s, n: Whole(TPESampler(seed=n), s)),
    "random": Method("random", lambda s, n: Whole(RandomSampler(seed=n), s)),
    "gp": Method("GPSampler", lambda s, n: Whole(GPSampler(seed=n), s), most=2080),
    "gp-long": Method("GPSampler, 100 trials", lambda s, n: Whole(GPSampler(seed=n), s)),
    "hyperband": Method(
        "TPE + Hyperband", lambda s, n: Stopping(TPESampler(seed=n), _hyperband(), s, EPOCHS)
    ),
    "median": Method(
        "TPE + median", lambda s, n: Stopping(TPESampler(seed=n), MedianPruner(), s, EPOCHS)
    ),
    "asha": Method("ASHA, from 4 epochs", lambda s, n: Promoting(s, EPOCHS, n)),
    "bohb": Method("ASHA + TPE (as BOHB)", _bohb),
    "first-epoch": Method("1 epoch, 3 of 50 go on", lambda s, n: FirstEpochs(s, n)),
    "freeze-thaw": Method("freeze-thaw", _freeze_thaw),
}
ORDER = [name for name in METHODS if name != "gp-long"]


# -- runs


@dataclass(frozen=True)
class Task:
    """One search on one data set."""

    method: str
    instance: str
    seed: int
    workers: int
    budget: int
    data: Path
    listed: bool
    cache: Path | None


def run(task: Task) -> Run:
    """One search, or what is kept of it."""
    space = "listed" if task.listed else "numbers"
    method = f"{task.method}{_version()}" if task.method == "freeze-thaw" else task.method
    name = f"{method}-{task.instance}-{task.seed}-{task.workers}-{task.budget}-{space}.json"
    kept = task.cache / name if task.cache else None
    if kept and kept.is_file():
        return Run(**json.loads(kept.read_text()))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    curves = Curves(task.data, task.listed)
    done = simulate(
        METHODS[task.method].make(curves.search, task.seed),
        lambda params: curves.curve(task.instance, params),
        EPOCHS,
        task.budget,
        task.workers,
    )
    if kept:
        kept.write_text(json.dumps(asdict(done)))
    return done


def _version() -> str:
    """Of freeze-thaw's source: what an earlier one has found is not its."""
    files = sorted(Path(hpo.__file__).parent.glob("freeze_thaw/*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


Runs = dict[tuple[str, str, int], Run]  # by method, data set, seed


def run_all(tasks: Sequence[Task], jobs: int) -> Runs:
    """All of `tasks`, in so many processes."""
    found: Runs = {}
    with ProcessPoolExecutor(jobs) as pool:
        for task, done in zip(tasks, pool.map(run, tasks), strict=True):
            found[task.method, task.instance, task.seed] = done
            say(f"{task.method} on {task.instance}, seed {task.seed}: {done.begun} trials")
    return found


# -- figures


@dataclass(frozen=True)
class Rating:
    """A method's figures over data sets and seeds.

    Attributes:
        budget: To how many epochs it was run.
        shares: Of `FULL`, until the target was reached within the budget; infinite where it was
            not. (data sets, seeds).
        regrets: Epochs → the regret, one a run; without those that it was not run to.
        worse: Epochs → the data sets on which it was worse than random, mean over seeds.
        decision_ms: Mean and worst.
    """

    budget: int
    shares: NDArray[np.float64]
    regrets: dict[int, list[float]]
    worse: dict[int, set[str]]
    decision_ms: tuple[float, float]

    def share(self, quantile: float) -> float:
        return float(np.quantile(self.shares, quantile, method="higher"))

    @property
    def reach(self) -> float:
        return float(np.mean(np.isfinite(self.shares)))

    def regret(self, budget: int) -> float:
        return statistics.mean(self.regrets[budget]) if budget in self.regrets else float("nan")

    def median_interval(self) -> tuple[float, float]:
        """Where the median lies in 95 of 100 draws of data sets, and of seeds of each."""
        draws = resampled(self.shares, RESAMPLED)
        medians = np.quantile(draws, 0.5, axis=(1, 2), method="higher")
        low, high = np.quantile(medians, (0.025, 0.975), method="nearest")
        return float(low), float(high)


class Ratings:
    """Every method's runs against TPE's and those of random search."""

    def __init__(
        self, runs: Runs, targets: Runs, scales: Mapping[str, tuple[float, float]]
    ) -> None:
        self._runs, self._targets, self._scales = runs, targets, scales

    def of(self, method: str, budget: int) -> Rating:
        mine = {key[1:]: run for key, run in self._runs.items() if key[0] == method}
        instances = dict.fromkeys(instance for instance, _ in mine)
        shares = np.array(
            [
                [
                    run.reaches(self._target(*key), budget) / FULL
                    for key, run in mine.items()
                    if key[0] == instance
                ]
                for instance in instances
            ]
        )
        regrets = {
            spent: [self._regret(key[0], run, spent) for key, run in mine.items()]
            for spent in REPORTED
            if spent <= budget
        }
        decisions = [ms for run in mine.values() for ms in run.decisions_ms]
        return Rating(
            budget,
            shares,
            regrets,
            {spent: self._worse(mine, spent) for spent in BESIDE_RANDOM if spent <= budget},
            (statistics.mean(decisions), max(decisions)),
        )

    def _target(self, instance: str, seed: int) -> float:
        return max(value for _, value in self._targets["tpe", instance, seed].completions)

    def _regret(self, instance: str, run: Run, spent: int) -> float:
        best, median = self._scales[instance]
        value = run.best_at(spent)
        return 1.0 if value is None else (best - value) / (best - median)

    def _worse(self, mine: Mapping[tuple[str, int], Run], spent: int) -> set[str]:
        """The data sets on which the mean regret over seeds is above that of random search."""
        worse = set()
        for instance in dict.fromkeys(instance for instance, _ in mine):
            seeds = [seed for other, seed in mine if other == instance]
            ours, at_random = (
                statistics.mean(self._regret(instance, run, spent) for run in found)
                for found in (
                    [mine[instance, seed] for seed in seeds],
                    [self._targets["random", instance, seed] for seed in seeds],
                )
            )
            if ours > at_random + 1e-9:
                worse.add(instance)
        return worse


def table(ratings: Mapping[str, Rating], workers: int) -> Table:
    shown = Table(
        title=f"epochs to TPE's value after {FULL:,}, as a share of these; {workers} worker(s)",
        box=None,
        title_justify="left",
    )
    headings = ["median", "95 % interval", "p75", "reach"]
    headings += [f"reg@{spent:,}" for spent in REPORTED]
    headings += [f"worse than random @{'/'.join(map(str, BESIDE_RANDOM))}", "decision ms"]
    shown.add_column("method")
    for heading in ["runs", *headings]:
        shown.add_column(heading, justify="right")
    for method, rating in ratings.items():
        low, high = rating.median_interval()
        shorter = "" if rating.budget == FULL else f", to {rating.budget:,} only"
        shown.add_row(
            METHODS[method].label + shorter,
            str(rating.shares.size),
            f"{rating.share(0.5):.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{rating.share(0.75):.3f}",
            f"{rating.reach:.0%}",
            *(f"{rating.regret(spent):.3f}" for spent in REPORTED),
            "/".join(
                str(len(rating.worse[spent])) if spent in rating.worse else "-"
                for spent in BESIDE_RANDOM
            ),
            "{:.1f} / {:.0f}".format(*rating.decision_ms),
        )
    return shown


def goals(ratings: Mapping[str, Rating], workers: int) -> list[Figure]:
    """What freeze-thaw is to reach."""
    ours = ratings.get("freeze-thaw")
    if ours is None:
        return []
    if workers > 1:
        goal = {8: 0.15, 16: 0.20}.get(workers)
        share = ours.share(0.5)
        return [Figure(f"{workers} workers, median share", share, goal, "")] if goal else []
    worse = set().union(*ours.worse.values())  # at any of these epochs
    figures = [
        Figure("median share of TPE's epochs", ours.share(0.5), 0.12, ""),
        Figure("75th percentile", ours.share(0.75), 0.25, ""),
        Figure("runs that reach TPE's value", ours.reach, 0.90, "", at_most=False),
        Figure("regret at 520 epochs", ours.regret(520), 0.10, ""),
        Figure("regret at 1,300 epochs", ours.regret(1300), 0.03, ""),
        Figure("data sets where random is better", float(len(worse)), 0, ""),
        Figure("a decision, mean", ours.decision_ms[0], 10, "ms"),
        Figure("a decision, worst", ours.decision_ms[1], 50, "ms"),
    ]
    if "gp" in ratings:
        figures.append(
            Figure(
                "regret at 2,080, against GPSampler",
                ours.regret(2080),
                ratings["gp"].regret(2080),
                "",
            )
        )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="LCBench's folder")
    parser.add_argument("--part", choices=("tune", "held-out"), default="tune")
    parser.add_argument("--methods", default=",".join(ORDER), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, … so many a data set")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=int, default=FULL, help="epochs")
    parser.add_argument("--instances", type=int, help="only so many data sets of the part")
    parser.add_argument("--listed", action="store_true", help="two of the numbers as lists")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--cache", type=Path, help="keep runs in this folder, and use those in it")
    args = parser.parse_args()
    methods = args.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    if not (args.data / "model.onnx").is_file():
        parser.error(f"{args.data} has no model.onnx; search_curves.py says how to fetch it")
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)

    curves = Curves(args.data)
    half = len(curves.instances) // 2
    part = curves.instances[:half] if args.part == "tune" else curves.instances[half:]
    part = part[: args.instances]

    def tasks(method: str, workers: int, budget: int, listed: bool) -> list[Task]:
        most = min(budget, METHODS[method].most)
        return [
            Task(method, instance, seed, workers, most, args.data, listed, args.cache)
            for seed in range(args.seeds)
            for instance in part
        ]

    measures = [task for name in ("tpe", "random") for task in tasks(name, 1, FULL, False)]
    targets = run_all(measures, args.jobs)
    searches = [
        task for name in methods for task in tasks(name, args.workers, args.budget, args.listed)
    ]
    runs = run_all(searches, args.jobs)
    rated = Ratings(runs, targets, {instance: curves.scale(instance) for instance in part})
    ratings = {name: rated.of(name, min(args.budget, METHODS[name].most)) for name in methods}
    Console(width=200).print(table(ratings, args.workers))
    report(
        "search",
        [("part", args.part), ("data sets × seeds", f"{len(part)} × {args.seeds}")],
        goals(ratings, args.workers),
    )


if __name__ == "__main__":
    main()
