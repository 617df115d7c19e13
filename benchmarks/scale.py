"""What a study costs on a cluster, and how many workers one orchestrator serves.

* ``ray``: trivial trials of 20 epochs on a local Ray cluster with two places, against Ray Tune
  with OptunaSearch on the same cluster. Of hpo from the first trial's begin until all of it is in
  the outbox, in Optuna and in MLflow; of Ray Tune the time in ``Tuner.fit``. What counts is what
  more trials take: the difference between two numbers of trials, so that no start is in it.
* ``workers``: an orchestrator on one core with 1,000 workers, each of which reports an epoch a
  second, of trials of 30 epochs. The workers are simulated, all in one process on another core
  (`scale_simulated`): they say what workers say, when workers would, over one pipe. How long a
  report waits for its answer, which says that it is on record; and how long a worker has nothing
  to train between two trials. Trials are in a journal; MLflow, which is fed by a process of its
  own, is left out.
* ``model``: the same under several loads, and from these what 10,000 workers and 1,000,000 trials
  would cost, and which part gives way first (`scale_model`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from load import percentile
from measure import Figure, report, say
from overhead import RAY, Hpo, script
from scale_model import model
from scale_simulated import Load, measured

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def on_ray(
    ours: Sequence[int], theirs: Sequence[int]
) -> tuple[list[tuple[str, str]], list[Figure]]:
    """A trial's time on both sides, from two numbers of trials of each."""
    import ray_cluster

    with ray_cluster.running(num_cpus=2) as cluster:
        hpo = Hpo(f"executor: {{name: ray, address: '{cluster.address}'}}\n")
        source = RAY.replace(
            "ray.init(num_cpus=2, include_dashboard=False", f"ray.init('{cluster.address}'"
        )
        ours_s = slope(ours, lambda trials: trials * hpo(trials))
        tune_s = slope(theirs, lambda trials: trials * script(source, trials))
    rows = [
        ("hpo, {} to {} trials".format(*ours), f"{1 / ours_s:.1f} trials/s"),
        ("Ray Tune + OptunaSearch, {} to {}".format(*theirs), f"{1 / tune_s:.2f} trials/s"),
    ]
    return rows, [Figure("trials a second, against Ray Tune", tune_s / ours_s, 10, at_most=False)]


def slope(counts: Sequence[int], seconds: Callable[[int], float]) -> float:
    """What one more trial takes, in seconds."""
    few, many = counts
    few_s = seconds(few)
    many_s = seconds(many)
    say(f"{few} trials in {few_s:.1f} s, {many} in {many_s:.1f} s")
    return (many_s - few_s) / (many - few)


def of_workers(loads: Sequence[Load]) -> tuple[list[tuple[str, str]], list[Figure]]:
    """How long a report and a free worker wait, under each of the loads."""
    rows, figures = [], []
    for load in loads:
        found = measured(load)
        who = f"{load.workers:,} workers, {load.sampler}"
        answer = [percentile(found.waits_ms, percent) for percent in (50, 99)]
        free = [percentile(found.lags_ms, percent) for percent in (50, 95)]
        rows += [
            (f"{who}: a report's answer, median / p99", "{:.1f} / {:.1f} ms".format(*answer)),
            (f"{who}: between two trials, median / p95", "{:.1f} / {:.1f} ms".format(*free)),
            (
                f"{who}: the orchestrator's core",
                f"{found.cpu:.0%} of it for {found.reports:,.0f} reports and "
                f"{found.assignments:.1f} trials a second",
            ),
        ]
        say("\n".join(f"{name}: {value}" for name, value in rows[-3:]))
        figures += [
            Figure(f"p99 of an answer, {who}", answer[1], 1000, "ms"),
            Figure(f"p95 between two trials, {who}", free[1], 200, "ms"),
        ]
    return rows, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=["ray", "workers", "model"])
    of_each = "two numbers of trials of"
    parser.add_argument("--trials", type=int, nargs=2, default=(30, 150), help=f"{of_each} hpo")
    parser.add_argument("--theirs", type=int, nargs=2, default=(6, 26), help=f"{of_each} Ray Tune")
    parser.add_argument("--workers", type=int, nargs="+", default=[1000])
    parser.add_argument("--samplers", nargs="+", default=["random", "auto"])
    parser.add_argument("--known", type=int, default=1000, help="trials that are over before")
    parser.add_argument("--seconds", type=float, default=40.0, help="for which it is measured")
    parser.add_argument("--flush-ms", type=float, default=0.0, help="more for a flush to the disk")
    told = parser.parse_args()
    if told.part == "ray":
        found = on_ray(told.trials, told.theirs)
    elif told.part == "model":
        found = model(), []
    else:
        found = of_workers(
            [
                Load(workers, 30, sampler, told.known, told.seconds, told.flush_ms)
                for sampler in told.samplers
                for workers in told.workers
            ]
        )
    report(f"scale: {told.part}", *found)


if __name__ == "__main__":
    main()
